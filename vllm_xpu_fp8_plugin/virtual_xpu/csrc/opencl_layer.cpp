// SPDX-License-Identifier: Apache-2.0
// libvirtual_xpu_layer.so: a layer of OpenCL's loader (OPENCL_LAYERS), which sees each
// launch of a kernel. It does nothing until it is told what to do with one.
#include "opencl_layer.h"

#include <CL/cl_layer.h>

#include <algorithm>
#include <atomic>
#include <string>

namespace {

const cl_icd_dispatch* g_below = nullptr;
std::atomic<virtual_xpu::OnLaunch> g_on_launch{nullptr};

std::string name_of(cl_kernel kernel) {
  size_t size = 0;
  if (g_below->clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, 0, nullptr, &size))
    return "";
  std::string name(size, '\0');
  g_below->clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, size, name.data(), nullptr);
  name.resize(size ? size - 1 : 0);
  return name;
}

cl_int CL_API_CALL launch(cl_command_queue queue, cl_kernel kernel, cl_uint dimensions,
                          const size_t* offset, const size_t* global,
                          const size_t* local, cl_uint waits, const cl_event* wait_for,
                          cl_event* event) {
  virtual_xpu::Launch asked{{0, 0, 0}, {1, 1, 1}, {1, 1, 1}};
  auto* on_launch = g_on_launch.load();
  // One dimension has no other that sub-groups could be cut along.
  if (on_launch && local && (dimensions == 2 || dimensions == 3)) {
    for (cl_uint i = 0; i < dimensions; ++i) {
      asked.offset[i] = offset ? offset[i] : 0;
      asked.global[i] = global[i];
      asked.local[i] = local[i];
    }
    if (!on_launch(name_of(kernel).c_str(), asked)) return CL_INVALID_WORK_GROUP_SIZE;
    if (asked.changed) {
      dimensions = 3;
      offset = asked.offset;
      global = asked.global;
      local = asked.local;
    }
  }
  return g_below->clEnqueueNDRangeKernel(queue, kernel, dimensions, offset, global,
                                         local, waits, wait_for, event);
}

}  // namespace

extern "C" {

VIRTUAL_XPU_API cl_int CL_API_CALL clGetLayerInfo(cl_layer_info what, size_t room,
                                                  void* out, size_t* size) {
  if (what != CL_LAYER_API_VERSION) return CL_INVALID_VALUE;
  cl_layer_api_version version = CL_LAYER_API_VERSION_100;
  if (out && room >= sizeof version) *static_cast<cl_layer_api_version*>(out) = version;
  if (size) *size = sizeof version;
  return CL_SUCCESS;
}

VIRTUAL_XPU_API cl_int CL_API_CALL clInitLayer(cl_uint entries,
                                               const cl_icd_dispatch* below,
                                               cl_uint* own_entries,
                                               const cl_icd_dispatch** own) {
  static cl_icd_dispatch table{};
  auto* from = reinterpret_cast<void* const*>(below);
  std::copy_n(from, std::min<size_t>(entries, sizeof table / sizeof(void*)),
              reinterpret_cast<void**>(&table));
  table.clEnqueueNDRangeKernel = launch;
  g_below = below;
  *own_entries = sizeof table / sizeof(void*);
  *own = &table;
  return CL_SUCCESS;
}

// A newer loader asks for these two.
VIRTUAL_XPU_API cl_int CL_API_CALL clInitLayerWithProperties(
    cl_uint entries, const cl_icd_dispatch* below, cl_uint* own_entries,
    const cl_icd_dispatch** own, const cl_layer_properties*) {
  return clInitLayer(entries, below, own_entries, own);
}
VIRTUAL_XPU_API cl_int CL_API_CALL clDeinitLayer() { return CL_SUCCESS; }

VIRTUAL_XPU_API bool virtual_xpu_on_launch(virtual_xpu::OnLaunch call) {
  g_on_launch = call;
  return g_below;
}
}
