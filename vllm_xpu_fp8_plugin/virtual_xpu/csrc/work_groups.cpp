// SPDX-License-Identifier: Apache-2.0
#include "work_groups.h"

#include <cstdio>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <utility>

#include "opencl_layer.h"
#include "spirv_builder.h"
#include "xe2.h"

namespace virtual_xpu {
namespace {

// Built-in variables of three dimensions, SPIR-V 1.4, section 3.21, and others.
enum BuiltIn : uint32_t {
  kNumWorkgroups = 24,
  kWorkgroupSize = 25,
  kWorkgroupId = 26,
  kLocalInvocationId = 27,
  kGlobalInvocationId = 28,
  kLocalInvocationIndex = 29,
  kGlobalSize = 31,
  kEnqueuedWorkgroupSize = 32,
  kGlobalOffset = 33,
  kGlobalLinearId = 34,
  kSubgroupSize = 36,
  kSubgroupLocalInvocationId = 41,
};
enum Code : uint32_t {
  kVectorShuffle = 79,
  kGroupAll = 261,
  kGroupSMax = 271,
  kGroupNonUniformElect = 333,
  kGroupNonUniformLogicalXor = 364,
  kSubgroupShuffle = 5571,
  kSubgroupImageBlockWrite = 5578,
};

// What a kernel reads of the shape that it is launched with.
struct Reads {
  std::map<Id, uint32_t> variables;  // -> BuiltIn
  std::set<uint32_t> built_ins;
  std::set<uint32_t> local;  // dimensions of the local id
  bool other = false;        // the local id or a variable in another way
  bool fixed = false;        // the shape is the kernel's own
  bool sub_groups = false;
  uint32_t sub_group = 0;  // items of one, 0: any number
};

// Instructions that pass a variable or a vector on, whose numbers are all ids or
// happen to be one at worst: calls, stores, pointers into it, parts, copies, casts,
// phi.
const std::set<uint32_t> kPassesOn{57, 62, 65, 66,  67,  70,  77,
                                   79, 82, 83, 121, 124, 169, 245};

bool of_three(uint32_t built_in) {
  return built_in >= kNumWorkgroups && built_in <= kGlobalOffset && built_in != 30 &&
         built_in != kLocalInvocationIndex;
}

Reads reads(const std::vector<uint32_t>& words) {
  Reads out;
  std::set<Id> local_ids;
  bool in_function = false;
  each_instruction(words, 5, [&](uint32_t code, size_t i, uint32_t length) {
    const uint32_t* w = words.data() + i;
    if (code == op::kDecorate && w[2] == 11) out.variables[w[1]] = w[3];
    if (code == op::kExecutionMode && w[2] == mode::kLocalSize) out.fixed = true;
    if (code == op::kExecutionMode && w[2] == mode::kSubgroupSize) out.sub_group = w[3];
    in_function = in_function || code == op::kFunction;
    if (!in_function) return;
    out.sub_groups =
        out.sub_groups || code == kAsmCall ||
        (code >= kGroupAll && code <= kGroupSMax) ||
        (code >= kGroupNonUniformElect && code <= kGroupNonUniformLogicalXor) ||
        (code >= kSubgroupShuffle && code <= kSubgroupImageBlockWrite);
    if (code == op::kLoad && out.variables.count(w[3])) {
      uint32_t built_in = out.variables[w[3]];
      out.built_ins.insert(built_in);
      if (built_in == kLocalInvocationId) local_ids.insert(w[2]);
      if (built_in >= kSubgroupSize && built_in <= kSubgroupLocalInvocationId)
        out.sub_groups = true;
      return;
    }
    if (code == op::kCompositeExtract && local_ids.count(w[3])) {
      out.local.insert(w[4]);
      return;
    }
    if (!kPassesOn.count(code)) return;
    if (code == op::kStore) length = 3;  // then come numbers
    for (uint32_t k = 1; k < length; ++k)
      out.other = out.other || out.variables.count(w[k]) || local_ids.count(w[k]);
  });
  return out;
}

// The one dimension along which items are told apart, else 0.
uint32_t counted(const Reads& reads) {
  if (reads.other || reads.fixed || reads.local.size() != 1) return 0;
  for (uint32_t number : {kGlobalInvocationId, kLocalInvocationIndex, kGlobalLinearId})
    if (reads.built_ins.count(number)) return 0;
  return *reads.local.begin() % 3;
}

struct Kernel {
  uint32_t dimension, sub_group;
};
std::mutex g_mutex;
std::map<std::string, Kernel>& kernels() {
  static auto* made = new std::map<std::string, Kernel>;
  return *made;
}

bool on_launch(const char* name, Launch& launch) {
  Kernel kernel{};
  {
    std::lock_guard<std::mutex> lock(g_mutex);
    auto it = kernels().find(name);
    if (it == kernels().end()) return true;
    kernel = it->second;
  }
  if (auto d = kernel.dimension) {
    std::swap(launch.offset[0], launch.offset[d]);
    std::swap(launch.global[0], launch.global[d]);
    std::swap(launch.local[0], launch.local[d]);
    launch.changed = true;
  }
  auto& local = launch.local;
  if (!kernel.sub_group || local[0] % kernel.sub_group == 0 || local[1] * local[2] == 1)
    return true;
  // A GPU's sub-group holds whole rows, and who counts along rows and columns exchanges
  // within a row (rms_norm_multi_row_kernel).
  if (kernel.sub_group % local[0] == 0) return true;
  std::fprintf(
      stderr,
      "The virtual XPU cannot run %s: a work-group of %zu x %zu x %zu items is "
      "not of sub-groups of %u along its last dimension.\n",
      name, local[2], local[1], local[0], kernel.sub_group);
  return false;
}

}  // namespace

std::vector<uint32_t> counted_innermost(const std::vector<uint32_t>& words,
                                        const std::string& kernel) {
  auto found = reads(words);
  uint32_t dimension = counted(found);
  {
    std::lock_guard<std::mutex> lock(g_mutex);
    if (dimension || found.sub_groups)
      kernels()[kernel] = {dimension, found.sub_groups ? found.sub_group : 0};
  }
  bool unused_size = found.sub_group && !found.sub_groups;
  if (!dimension && !unused_size) return words;
  std::vector<uint32_t> out(words.begin(), words.begin() + 5);
  each_instruction(words, 5, [&](uint32_t code, size_t i, uint32_t length) {
    const uint32_t* w = words.data() + i;
    size_t at = out.size();
    if (code == op::kExecutionMode && w[2] == mode::kSubgroupSize && unused_size)
      return;
    out.insert(out.end(), w, w + length);
    if (code != op::kLoad || !dimension) return;
    auto variable = found.variables.find(w[3]);
    if (variable == found.variables.end() || !of_three(variable->second)) return;
    Id read = out[at + 2] = out[3]++;
    uint32_t order[] = {0, 1, 2};
    std::swap(order[0], order[dimension]);
    put(out, kVectorShuffle, {w[1], w[2], read, read, order[0], order[1], order[2]});
  });
  return out;
}

void watch_launches() {
  if (virtual_xpu_on_launch(on_launch)) return;
  throw std::runtime_error(
      "OpenCL was in use in this process before the virtual XPU. Call "
      "virtual_xpu.enable() earlier.");
}

}  // namespace virtual_xpu
