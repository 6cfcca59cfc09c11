// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#define VIRTUAL_XPU_API __attribute__((visibility("default")))

namespace virtual_xpu {

// The shape of a launch with work-groups, innermost dimension first.
struct Launch {
  size_t offset[3], global[3], local[3];
  bool changed = false;
};

// May change the launch; false refuses it.
using OnLaunch = bool (*)(const char* kernel, Launch& launch);

}  // namespace virtual_xpu

extern "C" {
// Has each launch pass through `call` from now on. Returns whether OpenCL's loader has
// taken the layer.
bool virtual_xpu_on_launch(virtual_xpu::OnLaunch call);
}
