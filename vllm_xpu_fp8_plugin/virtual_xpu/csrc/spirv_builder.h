// SPDX-License-Identifier: Apache-2.0
// Adds functions to a SPIR-V module.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

namespace virtual_xpu {

using Id = uint32_t;

// Opcodes of SPIR-V 1.4, section 3.49, that are written or looked for here.
namespace op {
enum Code : uint32_t {
  kName = 5,
  kMemberName = 6,
  kEntryPoint = 15,
  kExecutionMode = 16,
  kCapability = 17,
  kTypeVoid = 19,
  kTypeBool = 20,
  kTypeInt = 21,
  kTypeFloat = 22,
  kTypeVector = 23,
  kTypeArray = 28,
  kTypePointer = 32,
  kTypeFunction = 33,
  kConstant = 43,
  kConstantNull = 46,
  kFunction = 54,
  kFunctionParameter = 55,
  kFunctionEnd = 56,
  kFunctionCall = 57,
  kVariable = 59,
  kLoad = 61,
  kStore = 62,
  kDecorate = 71,
  kMemberDecorate = 72,
  kCompositeExtract = 81,
  kCompositeInsert = 82,
  kConvertFToU = 109,
  kConvertUToF = 112,
  kUConvert = 113,
  kSConvert = 114,
  kFConvert = 115,
  kConvertPtrToU = 117,
  kConvertUToPtr = 120,
  kPtrCastToGeneric = 121,
  kBitcast = 124,
  kIAdd = 128,
  kFAdd = 129,
  kISub = 130,
  kIMul = 132,
  kFMul = 133,
  kUDiv = 134,
  kUMod = 137,
  kFNegate = 127,
  kLogicalAnd = 167,
  kLogicalOr = 166,
  kLogicalNot = 168,
  kSelect = 169,
  kIEqual = 170,
  kINotEqual = 171,
  kUGreaterThan = 172,
  kULessThan = 176,
  kSLessThan = 177,
  kFOrdGreaterThanEqual = 190,
  kFUnordNotEqual = 183,
  kShiftRightLogical = 194,
  kShiftRightArithmetic = 195,
  kShiftLeftLogical = 196,
  kBitwiseOr = 197,
  kBitwiseXor = 198,
  kBitwiseAnd = 199,
  kNot = 200,
  kControlBarrier = 224,
  kMemoryBarrier = 225,
  kPhi = 245,
  kLoopMerge = 246,
  kLabel = 248,
  kBranch = 249,
  kBranchConditional = 250,
  kSwitch = 251,
  kReturn = 253,
  kReturnValue = 254,
  kGroupBroadcast = 263,
  kExecutionModeId = 331,
  kDecorateId = 332,
};
}  // namespace op

// Execution modes, section 3.6.
namespace mode {
enum Mode : uint32_t { kLocalSize = 17, kSubgroupSize = 35 };
}

// Storage classes, and what `barrier` takes.
enum Storage : uint32_t {
  kInput = 1,
  kWorkgroup = 4,
  kCrossWorkgroup = 5,
  kPrivate = 7,
  kGeneric = 8
};
constexpr uint32_t kAlignedMask = 2;  // a memory operand: an alignment follows
enum Scope : uint32_t { kScopeWorkgroup = 2, kScopeSubgroup = 3 };

class Builder {
 public:
  // `words` is a module whose functions are complete.
  explicit Builder(std::vector<uint32_t> words);
  // The module with what was added.
  std::vector<uint32_t> finish();

  Id fresh() { return bound_++; }
  const std::vector<uint32_t>& words() const { return words_; }
  void set_words(std::vector<uint32_t> words) { words_ = std::move(words); }
  // A type or constant, the module's own where it has it.
  Id global(op::Code code, std::vector<uint32_t> operands);
  Id integer(uint32_t bits) { return global(op::kTypeInt, {bits, 0}); }
  Id floating(uint32_t bits) { return global(op::kTypeFloat, {bits}); }
  Id boolean() { return global(op::kTypeBool, {}); }
  Id pointer(Storage storage, Id to) { return global(op::kTypePointer, {storage, to}); }
  Id number(Id type, uint64_t bits);
  Id u32(uint32_t value) { return number(integer(32), value); }
  Id u64(uint64_t value) { return number(integer(64), value); }
  // What defines a type or constant, or null: code and operands without the result.
  const std::vector<uint32_t>* definition(Id id) const;

  // Writes a function, between `begin` and `end`, of a type and id that exist.
  std::vector<Id> begin(Id function, Id type);
  void end(Id result);  // 0 for none
  Id variable(Id type, uint32_t alignment);
  Id emit(op::Code code, Id type, std::vector<uint32_t> operands);
  void act(op::Code code, std::vector<uint32_t> operands);
  // Runs `body` for 0 .. count - 1.
  void loop(uint32_t count, const std::function<void(Id)>& body);

  Id add(Id a, Id b) { return emit(op::kIAdd, integer(32), {a, b}); }
  Id mul(Id a, uint32_t b) { return emit(op::kIMul, integer(32), {a, u32(b)}); }
  Id div(Id a, uint32_t b) { return emit(op::kUDiv, integer(32), {a, u32(b)}); }
  Id mod(Id a, uint32_t b) { return emit(op::kUMod, integer(32), {a, u32(b)}); }
  Id less(Id a, Id b) { return emit(op::kULessThan, boolean(), {a, b}); }
  Id both(Id a, Id b) { return emit(op::kLogicalAnd, boolean(), {a, b}); }
  Id select(Id type, Id condition, Id a, Id b) {
    return emit(op::kSelect, type, {condition, a, b});
  }
  // Memory by address, a 64-bit integer.
  Id address(Id pointer) { return emit(op::kConvertPtrToU, integer(64), {pointer}); }
  Id at(Id base, Id offset);  // base + offset, which is of 32 bits
  Id load(Id type, uint32_t bytes, Id address);
  void store(Id type, uint32_t bytes, Id address, Id value);
  // The lane's number. Called first before any loop.
  Id lane();
  Id of_first_lane(Id type, Id value) {
    return emit(op::kGroupBroadcast, type, {u32(kScopeSubgroup), value, u32(0)});
  }
  void barrier(Scope scope);
  void fence();
  // A variable of the module, outside of functions.
  Id shared_variable(Storage storage, Id type);

 private:
  std::vector<uint32_t> words_;
  std::vector<uint32_t> annotations_, globals_, functions_;
  std::vector<uint32_t> head_, variables_, body_;  // of the function being written
  std::map<std::vector<uint32_t>, Id> ids_;
  std::map<Id, std::vector<uint32_t>> definitions_;
  Id bound_;
  Id lane_variable_ = 0, lane_ = 0, block_ = 0;
};

// Appends an instruction.
void put(std::vector<uint32_t>& out, uint32_t code,
         const std::vector<uint32_t>& operands);

template <class F>
void each_instruction(const std::vector<uint32_t>& words, size_t begin, F visit) {
  for (size_t i = begin; i < words.size() && words[i] >> 16; i += words[i] >> 16)
    visit(words[i] & 0xffff, i, words[i] >> 16);
}

}  // namespace virtual_xpu
