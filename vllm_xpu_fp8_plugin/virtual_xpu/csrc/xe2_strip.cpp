// SPDX-License-Identifier: Apache-2.0
// A module without what the CPU's compiler has not.
#include <cstring>
#include <set>

#include "xe2.h"

namespace virtual_xpu {
namespace {

// SPV_INTEL_inline_assembly, SPV_INTEL_split_barrier and others.
enum Code : uint32_t {
  kExtension = 10,
  kLinkageAttributes = 41,
  kAsmTarget = 5609,
  kAsm = 5610,
  kBarrierArrive = 6142,
  kBarrierWait = 6143,
};

// What the new functions use; the module may not say so yet.
constexpr uint32_t kUsed[] = {
    4,   // Addresses
    5,   // Linkage
    6,   // Kernel
    8,   // Float16Buffer
    9,   // Float16
    10,  // Float64
    11,  // Int64
    18,  // Groups
    22,  // Int16
    38,  // GenericPointer
    39,  // Int8
};

bool dropped(uint32_t code, const uint32_t* w) {
  // Inline assembly, vectors of any length (which the compiler takes), split barriers.
  if (code == op::kCapability) return w[1] == 5606 || w[1] == 5619 || w[1] == 6141;
  if (code != kExtension) return code == kAsm || code == kAsmTarget;
  for (auto* name : {"SPV_INTEL_inline_assembly", "SPV_INTEL_vector_compute",
                     "SPV_INTEL_split_barrier"})
    if (!std::strcmp(reinterpret_cast<const char*>(w + 1), name)) return true;
  return false;
}

}  // namespace

Stripped strip_xe2(const std::vector<uint32_t>& words) {
  Stripped out;
  std::set<Id> gone;
  auto text = [](const uint32_t* w) { return reinterpret_cast<const char*>(w); };
  each_instruction(words, 5, [&](uint32_t code, size_t i, uint32_t length) {
    const uint32_t* w = words.data() + i;
    if (code == kAsm) {
      Assembly assembly{w[3], text(w + 5), ""};
      assembly.constraints = text(w + 6 + assembly.text.size() / 4);
      out.assemblies[w[2]] = assembly;
      gone.insert(w[2]);
    }
    if (code == op::kDecorate && w[2] == kLinkageAttributes && w[length - 1] == 1)
      for (auto* name :
           {kCreatePayload, kSetPayloadX, kSetPayloadY, kAddPayloadX, kAddPayloadY})
        if (!std::strcmp(text(w + 3), name)) {
          out.built_ins[name].first = w[1];
          gone.insert(w[1]);
        }
    if (code == op::kFunction)
      for (auto& [name, function] : out.built_ins)
        if (function.first == w[2]) function.second = w[4];
  });
  out.words.assign(words.begin(), words.begin() + 5);
  for (auto capability : kUsed) put(out.words, op::kCapability, {capability});
  bool skipping = false;
  each_instruction(words, 5, [&](uint32_t code, size_t i, uint32_t length) {
    const uint32_t* w = words.data() + i;
    if (code == op::kFunction && gone.count(w[2])) skipping = true;
    bool drop = skipping || dropped(code, w) || code == kBarrierArrive ||
                ((code == op::kDecorate || code == op::kName) && gone.count(w[1]));
    if (code == op::kFunctionEnd) skipping = false;
    if (drop) return;
    out.words.insert(out.words.end(), w, w + length);
    // Loops are left to the compiler: unrolled as asked, they take twice as long to
    // compile.
    if (code == op::kLoopMerge) out.words[out.words.size() - length + 3] = 0;
    // To arrive and to wait become one barrier, where the waiting is.
    if (code == kBarrierWait)
      out.words[out.words.size() - length] = length << 16 | op::kControlBarrier;
  });
  return out;
}

}  // namespace virtual_xpu
