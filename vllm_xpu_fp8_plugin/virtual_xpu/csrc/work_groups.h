// SPDX-License-Identifier: Apache-2.0
// Sub-groups of work-groups. A GPU cuts them from a work-group's items in their linear
// order. The CPU device cuts them from its innermost dimension only: of a work-group of
// 1 x 64 items it makes 64 sub-groups.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace virtual_xpu {

// Returns a module of one kernel so that it can be launched with that of its dimensions
// innermost along which its items are counted, and has it launched so.
std::vector<uint32_t> counted_innermost(const std::vector<uint32_t>& words,
                                        const std::string& kernel);

// Has launches pass through here. Raises where that is not possible.
void watch_launches();

}  // namespace virtual_xpu
