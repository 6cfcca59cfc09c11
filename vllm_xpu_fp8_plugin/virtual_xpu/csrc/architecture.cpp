// SPDX-License-Identifier: Apache-2.0
// What the kernel package's host code asks SYCL about the GPU, answered by the profile:
// it picks kernels by these, and refuses to run any on a CPU.
#include <cstdint>

#include "device.h"

namespace {
uint64_t g_architecture;
uint32_t g_slices, g_cores_per_slice;
}  // namespace

extern "C" {
VIRTUAL_XPU_API void virtual_xpu_set_architecture(uint64_t architecture,
                                                  uint32_t slices,
                                                  uint32_t cores_per_slice) {
  g_architecture = architecture;
  g_slices = slices;
  g_cores_per_slice = cores_per_slice;
}

// sycl::device::get_info_impl<ext::oneapi::experimental::info::device::architecture>()
VIRTUAL_XPU_API uint64_t architecture(const void* device) asm(
    "_ZNK4sycl3_V16device13get_info_implINS0_3ext6oneapi12experimental4info6device"
    "12architectureEEENS0_6detail11ABINeutralTINS9_19is_device_info_descIT_E11return_"
    "typeEE4typeEv");
uint64_t architecture(const void*) { return g_architecture; }

// ... ext::intel::info::device::gpu_slices, gpu_subslices_per_slice
VIRTUAL_XPU_API uint32_t slices(const void* device) asm(
    "_ZNK4sycl3_V16device13get_info_implINS0_3ext5intel4info6device10gpu_slicesEEENS0_"
    "6detail11ABINeutralTINS8_19is_device_info_descIT_E11return_typeEE4typeEv");
uint32_t slices(const void*) { return g_slices; }

VIRTUAL_XPU_API uint32_t cores_per_slice(const void* device) asm(
    "_ZNK4sycl3_V16device13get_info_implINS0_3ext5intel4info6device23gpu_subslices_per_"
    "sliceEEENS0_6detail11ABINeutralTINS8_19is_device_info_descIT_E11return_typeEE"
    "4typeEv");
uint32_t cores_per_slice(const void*) { return g_cores_per_slice; }
}
