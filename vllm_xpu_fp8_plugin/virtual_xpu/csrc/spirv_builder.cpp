// SPDX-License-Identifier: Apache-2.0
#include "spirv_builder.h"

#include <cstring>

namespace virtual_xpu {
namespace {

constexpr uint32_t kLaneBuiltIn = 41;  // SubgroupLocalInvocationId
enum Decoration : uint32_t {
  kBuiltIn = 11,
  kConstantData = 22,
  kLinkage = 41,
  kAlignment = 44
};

bool is_shared(uint32_t code) {
  return (code >= op::kTypeVoid && code <= op::kTypeVector) || code == op::kTypeArray ||
         code == op::kTypePointer || code == op::kTypeFunction;
}

}  // namespace

void put(std::vector<uint32_t>& out, uint32_t code,
         const std::vector<uint32_t>& operands) {
  out.push_back(static_cast<uint32_t>(operands.size() + 1) << 16 | code);
  out.insert(out.end(), operands.begin(), operands.end());
}

Builder::Builder(std::vector<uint32_t> words)
    : words_(std::move(words)), bound_(words_[3]) {
  std::map<Id, uint32_t> built_ins;
  each_instruction(words_, 5, [&](uint32_t code, size_t i, uint32_t length) {
    const uint32_t* w = words_.data() + i;
    if (code == op::kDecorate && w[2] == kBuiltIn && w[3] == kLaneBuiltIn)
      built_ins[w[1]] = w[3];
    if (code == op::kVariable && built_ins.count(w[2])) lane_variable_ = w[2];
    std::vector<uint32_t> key{code};
    if (is_shared(code)) {
      key.insert(key.end(), w + 2, w + length);
      ids_.emplace(key, w[1]);
      definitions_[w[1]] = key;
    } else if (code == op::kConstant) {
      key.push_back(w[1]);
      key.insert(key.end(), w + 3, w + length);
      ids_.emplace(key, w[2]);
      definitions_[w[2]] = key;
    }
  });
}

const std::vector<uint32_t>* Builder::definition(Id id) const {
  auto it = definitions_.find(id);
  return it == definitions_.end() ? nullptr : &it->second;
}

Id Builder::global(op::Code code, std::vector<uint32_t> operands) {
  operands.insert(operands.begin(), code);
  auto it = ids_.find(operands);
  if (it != ids_.end()) return it->second;
  Id id = fresh();
  ids_[operands] = id;
  definitions_[id] = operands;
  operands.erase(operands.begin());
  // A constant's type stands before its id.
  operands.insert(operands.begin() + (code >= op::kConstant), id);
  put(globals_, code, operands);
  return id;
}

Id Builder::number(Id type, uint64_t bits) {
  std::vector<uint32_t> operands{type, static_cast<uint32_t>(bits)};
  auto* what = definition(type);
  if ((*what)[1] == 64) operands.push_back(static_cast<uint32_t>(bits >> 32));
  return global(op::kConstant, operands);
}

std::vector<Id> Builder::begin(Id function, Id type) {
  auto signature = *definition(type);
  head_.clear();
  variables_.clear();
  body_.clear();
  lane_ = 0;
  // Not inlined: that takes seven times as long to compile and runs no faster.
  constexpr uint32_t kDontInline = 2;
  put(head_, op::kFunction, {signature[1], function, kDontInline, type});
  std::vector<Id> parameters;
  for (size_t i = 2; i < signature.size(); ++i) {
    parameters.push_back(fresh());
    put(head_, op::kFunctionParameter, {signature[i], parameters.back()});
  }
  block_ = fresh();
  put(head_, op::kLabel, {block_});
  return parameters;
}

void Builder::end(Id result) {
  result ? put(body_, op::kReturnValue, {result}) : put(body_, op::kReturn, {});
  put(body_, op::kFunctionEnd, {});
  for (auto* part : {&head_, &variables_, &body_})
    functions_.insert(functions_.end(), part->begin(), part->end());
}

Id Builder::variable(Id type, uint32_t alignment) {
  Id id = fresh();
  put(variables_, op::kVariable, {pointer(kPrivate, type), id, kPrivate});
  put(annotations_, op::kDecorate, {id, kAlignment, alignment});
  return id;
}

Id Builder::emit(op::Code code, Id type, std::vector<uint32_t> operands) {
  Id id = fresh();
  operands.insert(operands.begin(), {type, id});
  put(body_, code, operands);
  return id;
}

void Builder::act(op::Code code, std::vector<uint32_t> operands) {
  put(body_, code, operands);
}

void Builder::loop(uint32_t count, const std::function<void(Id)>& body) {
  Id before = block_, header = fresh(), inside = fresh(), after = fresh();
  Id index = fresh(), next = fresh();
  act(op::kBranch, {header});
  act(op::kLabel, {header});
  Id end_of_body = fresh();
  put(body_, op::kPhi, {integer(32), index, u32(0), before, next, end_of_body});
  Id more = less(index, u32(count));
  act(op::kLoopMerge, {after, end_of_body, 0});
  act(op::kBranchConditional, {more, inside, after});
  act(op::kLabel, {inside});
  block_ = inside;
  body(index);
  act(op::kBranch, {end_of_body});
  act(op::kLabel, {end_of_body});
  put(body_, op::kIAdd, {integer(32), next, index, u32(1)});
  act(op::kBranch, {header});
  act(op::kLabel, {after});
  block_ = after;
}

Id Builder::at(Id base, Id offset) {
  Id wide = emit(op::kUConvert, integer(64), {offset});
  return emit(op::kIAdd, integer(64), {base, wide});
}

Id Builder::load(Id type, uint32_t bytes, Id address) {
  Id from = emit(op::kConvertUToPtr, pointer(kCrossWorkgroup, type), {address});
  return emit(op::kLoad, type, {from, kAlignedMask, bytes});
}

void Builder::store(Id type, uint32_t bytes, Id address, Id value) {
  Id to = emit(op::kConvertUToPtr, pointer(kCrossWorkgroup, type), {address});
  act(op::kStore, {to, value, kAlignedMask, bytes});
}

Id Builder::lane() {
  if (lane_) return lane_;
  if (!lane_variable_) {
    lane_variable_ = shared_variable(kInput, integer(32));
    put(annotations_, op::kDecorate, {lane_variable_, kBuiltIn, kLaneBuiltIn});
    put(annotations_, op::kDecorate, {lane_variable_, kConstantData});
    const char kName[] = "__spirv_BuiltInSubgroupLocalInvocationId";
    std::vector<uint32_t> linkage{lane_variable_, kLinkage};
    linkage.resize(2 + (sizeof kName + 3) / 4);
    std::memcpy(linkage.data() + 2, kName, sizeof kName);
    linkage.push_back(1);  // import
    put(annotations_, op::kDecorate, linkage);
  }
  return lane_ = emit(op::kLoad, integer(32), {lane_variable_, kAlignedMask, 4});
}

Id Builder::shared_variable(Storage storage, Id type) {
  Id of = pointer(storage, type), id = fresh();
  put(globals_, op::kVariable, {of, id, storage});
  return id;
}

// Acquire and release, of memory of sub-groups, work-groups and all.
constexpr uint32_t kSemantics = 0x8 | 0x80 | 0x100 | 0x200;

void Builder::barrier(Scope scope) {
  act(op::kControlBarrier, {u32(scope), u32(scope), u32(kSemantics)});
}

void Builder::fence() {
  act(op::kMemoryBarrier, {u32(kScopeWorkgroup), u32(kSemantics)});
}

std::vector<uint32_t> Builder::finish() {
  std::vector<uint32_t> out;
  bool annotated = false, declared = false;
  size_t end = words_.size();
  out.insert(out.end(), words_.begin(), words_.begin() + 5);
  out[3] = bound_;
  each_instruction(words_, 5, [&](uint32_t code, size_t i, uint32_t length) {
    if (!annotated && code >= op::kTypeVoid && code <= 39) {
      out.insert(out.end(), annotations_.begin(), annotations_.end());
      annotated = true;
    }
    if (!declared && code == op::kFunction) {
      out.insert(out.end(), globals_.begin(), globals_.end());
      declared = true;
    }
    if (i + length <= end)
      out.insert(out.end(), words_.begin() + i, words_.begin() + i + length);
  });
  out.insert(out.end(), functions_.begin(), functions_.end());
  return out;
}

}  // namespace virtual_xpu
