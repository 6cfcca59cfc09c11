// SPDX-License-Identifier: Apache-2.0
// The loops of a function of a module.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "spirv_builder.h"

namespace virtual_xpu {

// A loop whose head compares a number, which starts at 0 and goes up by one, with a
// constant: what comes in its body has one number a pass, below `passes`.
struct CountedLoop {
  Id number = 0;
  uint32_t passes = 0;
  std::set<Id> blocks;
};

class Loops {
 public:
  // Of the function at [begin, end) of `words`, whose types and constants `b` has.
  Loops(const Builder& b, const std::vector<uint32_t>& words, size_t begin, size_t end);

  // The counted loops that a block lies in.
  std::vector<const CountedLoop*> counted(Id block) const;
  // Whether it lies in another one.
  bool in_another(Id block) const;

 private:
  std::vector<CountedLoop> counted_;
  // What follows each block, with each counted loop unrolled.
  std::map<Id, std::set<Id>> unrolled_;
};

}  // namespace virtual_xpu
