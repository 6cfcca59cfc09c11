// SPDX-License-Identifier: Apache-2.0
// libtorch_xpu.so: what the kernel package's libraries ask of torch's XPU library.
#include <ATen/xpu/XPUContext.h>

#include <cstring>
#include <string>

#include "device.h"

namespace {
at::xpu::DeviceProp* properties() {
  static auto* made = new at::xpu::DeviceProp();
  return made;
}
}  // namespace

namespace at::xpu {
// _xpu_C: whether the device is a BMG, and its oneDNN engine.
VIRTUAL_XPU_API DeviceProp* getDeviceProperties(DeviceIndex) { return properties(); }
VIRTUAL_XPU_API DeviceProp* getCurrentDeviceProperties() { return properties(); }
}  // namespace at::xpu

extern "C" VIRTUAL_XPU_API void virtual_xpu_set_properties(const char* name,
                                                           unsigned compute_units,
                                                           size_t memory,
                                                           size_t local_memory,
                                                           unsigned work_group_size) {
  auto* p = properties();
  p->name = name;
  p->device_type = sycl::info::device_type::gpu;
  p->vendor = "Intel(R) Corporation";
  p->is_available = true;
  p->max_compute_units = compute_units;
  p->gpu_eu_count = compute_units;
  p->max_work_group_size = work_group_size;
  p->max_num_sub_groups = work_group_size / 16;
  p->sub_group_sizes = {16, 32};
  p->global_mem_size = memory;
  p->local_mem_size = local_memory;
}
