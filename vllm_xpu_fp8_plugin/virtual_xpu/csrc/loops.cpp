// SPDX-License-Identifier: Apache-2.0
#include "loops.h"

#include <utility>

namespace virtual_xpu {
namespace {

using Instruction = std::vector<uint32_t>;  // code, then its operands
using Edges = std::map<Id, std::set<Id>>;

// What is looked at of a function.
struct Function {
  Edges next, before;
  std::map<Id, std::vector<Instruction>> phis;  // of a block
  std::map<Id, Instruction> branches;           // those of two ways, by block
  std::map<Id, Instruction> definitions;        // additions and comparisons
};

Function look_at(const std::vector<uint32_t>& words, size_t begin, size_t end) {
  Function out;
  Id block = 0;
  auto follows = [&](Id id) {
    out.next[block].insert(id);
    out.before[id].insert(block);
  };
  each_instruction(words, begin, [&](uint32_t code, size_t i, uint32_t length) {
    if (i >= end) return;
    const uint32_t* w = words.data() + i;
    Instruction whole(w, w + length);
    whole[0] = code;
    if (code == op::kLabel) block = w[1];
    if (code == op::kPhi) out.phis[block].push_back(whole);
    if (code == op::kIAdd || code == op::kULessThan || code == op::kSLessThan)
      out.definitions[w[2]] = whole;
    if (code == op::kBranch) follows(w[1]);
    if (code == op::kBranchConditional) {
      out.branches[block] = whole;
      follows(w[2]);
      follows(w[3]);
    }
    if (code == op::kSwitch)
      for (uint32_t k = 2; k < length; k += 2) follows(w[k]);
  });
  return out;
}

// The blocks that are reached from one, which itself is among them if it is in a loop.
std::set<Id> reached(const Edges& edges, Id from, Id without = 0) {
  std::set<Id> seen;
  std::vector<Id> todo{from};
  while (!todo.empty()) {
    auto it = edges.find(todo.back());
    todo.pop_back();
    if (it == edges.end()) continue;
    for (Id id : it->second)
      if (id != without && seen.insert(id).second) todo.push_back(id);
  }
  return seen;
}

bool is_constant(const Builder& b, Id id, uint32_t& value) {
  auto* definition = b.definition(id);
  if (!definition || definition->size() != 3 || (*definition)[0] != op::kConstant)
    return false;
  value = (*definition)[2];
  return true;
}

bool is_32_bits(const Builder& b, Id type) {
  auto* definition = b.definition(type);
  return definition && (*definition)[0] == op::kTypeInt && (*definition)[1] == 32;
}

// The blocks at whose end a number is one more than before. None if it is not counted
// so from 0 on.
std::set<Id> counting(const Builder& b, const Function& function,
                      const Instruction& phi) {
  std::set<Id> out;
  uint32_t value;
  for (size_t k = 3; k + 1 < phi.size(); k += 2) {
    auto added = function.definitions.find(phi[k]);
    bool counts = added != function.definitions.end() &&
                  added->second[0] == op::kIAdd && added->second[3] == phi[2] &&
                  is_constant(b, added->second[4], value) && value == 1;
    if (counts)
      out.insert(phi[k + 1]);
    else if (!is_constant(b, phi[k], value) || value)
      return {};
  }
  return out;
}

}  // namespace

Loops::Loops(const Builder& b, const std::vector<uint32_t>& words, size_t begin,
             size_t end) {
  auto function = look_at(words, begin, end);
  // The last block of a counted loop is followed by what follows the loop.
  unrolled_ = function.next;
  for (auto& [head, branch] : function.branches) {
    auto found = function.definitions.find(branch[1]);
    CountedLoop loop;
    if (found == function.definitions.end() || found->second[0] == op::kIAdd ||
        !is_constant(b, found->second[4], loop.passes))
      continue;
    std::set<Id> last;
    for (auto& phi : function.phis[head]) {
      if (phi[2] != found->second[3] || !is_32_bits(b, phi[1])) continue;
      loop.number = phi[2];
      last = counting(b, function, phi);
    }
    auto inside = reached(function.next, branch[2], head);
    inside.insert(branch[2]);
    for (Id id : last) {
      auto before = reached(function.before, id, head);
      before.insert(id);
      for (Id block : before)
        if (inside.count(block)) loop.blocks.insert(block);
    }
    if (loop.blocks.empty()) continue;
    counted_.push_back(std::move(loop));
    for (Id id : last) {
      unrolled_[id].erase(head);
      unrolled_[id].insert(branch[3]);
    }
  }
}

std::vector<const CountedLoop*> Loops::counted(Id block) const {
  std::vector<const CountedLoop*> out;
  for (auto& loop : counted_)
    if (loop.blocks.count(block)) out.push_back(&loop);
  return out;
}

bool Loops::in_another(Id block) const {
  return reached(unrolled_, block).count(block) != 0;
}

}  // namespace virtual_xpu
