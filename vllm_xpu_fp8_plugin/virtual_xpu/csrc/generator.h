// SPDX-License-Identifier: Apache-2.0
// A device's random generator: a seed and an offset, as Philox has them.
#pragma once

#include <ATen/core/Generator.h>

namespace virtual_xpu {

const at::Generator& default_generator(c10::DeviceIndex device);
at::Generator new_generator(c10::DeviceIndex device);
// The host's generator for the next op that draws from `generator`, whose offset it
// moves on.
at::Generator draw_from(const at::Generator& generator);

}  // namespace virtual_xpu
