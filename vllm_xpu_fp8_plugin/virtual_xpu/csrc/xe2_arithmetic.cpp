// SPDX-License-Identifier: Apache-2.0
// Instructions on registers: moves, arithmetic, comparisons and dpas.
#include <algorithm>
#include <stdexcept>

#include "xe2_registers.h"

namespace virtual_xpu {
namespace {

using visa::Instruction;
using visa::Kind;
using visa::Type;

bool is_float(Type type) {
  return type.kind == Kind::kFloat || type.kind == Kind::kBrainFloat;
}

class Arithmetic {
 public:
  Arithmetic(Builder& b, Registers& registers) : b_(b), registers_(registers) {}
  void run(const Instruction& instruction);

 private:
  [[noreturn]] void unknown(const Instruction& from) const {
    throw std::runtime_error("the instruction '" + from.name + "' with these operands");
  }
  Id bits(op::Code code, Id a, Id b) { return b_.emit(code, b_.integer(32), {a, b}); }
  Id compute(const Instruction& from, const std::vector<Id>& sources);
  Id compute_float(const Instruction& from, const std::vector<Id>& sources);
  Id compare(const Instruction& from, Id channel);
  Id set_bit(const Instruction& from, Id channel);
  Id convert_fp8(Id source, Type from, Type to);
  Id source(const visa::Operand& operand, Id channel, bool as_float);

  Builder& b_;
  Registers& registers_;
};

Id Arithmetic::source(const visa::Operand& operand, Id channel, bool as_float) {
  Id value = registers_.read(operand, channel);
  Type type = registers_.type(operand);
  if (operand.absolute || operand.negative) {
    if (!is_float(type)) throw std::runtime_error("a sign change of an integer");
    uint32_t sign = 1u << (type.bytes * 8 - 1);
    if (operand.absolute) value = bits(op::kBitwiseAnd, value, b_.u32(~sign));
    if (operand.negative) value = bits(op::kBitwiseXor, value, b_.u32(sign));
  }
  if (!as_float) return value;
  if (!is_float(type)) throw std::runtime_error("an integer among floats");
  return to_float(b_, value, type);
}

Id Arithmetic::compute_float(const Instruction& from, const std::vector<Id>& sources) {
  Id f32 = b_.floating(32), f64 = b_.floating(64);
  auto& name = from.name;
  if (name == "mov" && sources.size() == 1) return sources[0];
  if (name == "add" && sources.size() == 2)
    return b_.emit(op::kFAdd, f32, {sources[0], sources[1]});
  if ((name == "mul" && sources.size() == 2) ||
      (name == "mad" && sources.size() == 3)) {
    // Exact in double but for a sum's last bit.
    Id out =
        b_.emit(op::kFMul, f64, {to_double(b_, sources[0]), to_double(b_, sources[1])});
    if (name == "mad") out = b_.emit(op::kFAdd, f64, {out, to_double(b_, sources[2])});
    return b_.emit(op::kFConvert, f32, {out});
  }
  if ((name == "max" || name == "min") && sources.size() == 2) {
    // Of a number and a NaN the number.
    Id a = sources[0], b = sources[1];
    if (name == "min") std::swap(a, b);
    Id greater = b_.emit(op::kFOrdGreaterThanEqual, b_.boolean(), {a, b});
    auto nan = [&](Id x) { return b_.emit(op::kFUnordNotEqual, b_.boolean(), {x, x}); };
    Id chosen = b_.select(f32, greater, sources[0], sources[1]);
    chosen = b_.select(f32, nan(sources[1]), sources[0], chosen);
    return b_.select(f32, nan(sources[0]), sources[1], chosen);
  }
  unknown(from);
}

Id Arithmetic::compute(const Instruction& from, const std::vector<Id>& sources) {
  static const std::map<std::string, op::Code> kTwo{{"add", op::kIAdd},
                                                    {"mul", op::kIMul},
                                                    {"and", op::kBitwiseAnd},
                                                    {"or", op::kBitwiseOr},
                                                    {"xor", op::kBitwiseXor},
                                                    {"shl", op::kShiftLeftLogical},
                                                    {"shr", op::kShiftRightLogical},
                                                    {"asr", op::kShiftRightArithmetic}};
  auto& name = from.name;
  if (name == "mov" && sources.size() == 1) return sources[0];
  auto two = kTwo.find(name);
  if (two != kTwo.end() && sources.size() == 2) {
    Id right = sources[1];
    if (name[0] == 's' || name == "asr")
      right = bits(op::kBitwiseAnd, right, b_.u32(31));
    return bits(two->second, sources[0], right);
  }
  if (name.rfind("bfn.x", 0) == 0 && sources.size() == 3) {
    // Bit s0 + 2 * s1 + 4 * s2 of the number, for each bit of the sources.
    auto table = std::stoul(name.substr(5), nullptr, 16);
    Id out = b_.u32(0);
    for (uint32_t row = 0; row < 8; ++row) {
      if (!(table >> row & 1)) continue;
      Id term = b_.u32(~0u);
      for (uint32_t i = 0; i < 3; ++i) {
        Id part = sources[i];
        if (!(row >> i & 1)) part = b_.emit(op::kNot, b_.integer(32), {part});
        term = bits(op::kBitwiseAnd, term, part);
      }
      out = bits(op::kBitwiseOr, out, term);
    }
    return out;
  }
  unknown(from);
}

Id Arithmetic::compare(const Instruction& from, Id channel) {
  if (from.name != "cmp.ge" || from.operands.size() != 3 ||
      !is_float(registers_.type(from.operands[1])))
    unknown(from);
  return b_.emit(op::kFOrdGreaterThanEqual, b_.boolean(),
                 {source(from.operands[1], channel, true),
                  source(from.operands[2], channel, true)});
}

// A predicate from the bits of a number.
Id Arithmetic::set_bit(const Instruction& from, Id channel) {
  if (from.operands.size() != 2 || !from.operands[1].name.empty()) unknown(from);
  Id shifted =
      bits(op::kShiftRightLogical, registers_.read(from.operands[1], channel), channel);
  return b_.emit(op::kINotEqual, b_.boolean(),
                 {bits(op::kBitwiseAnd, shifted, b_.u32(1)), b_.u32(0)});
}

// FP8 and halves. E5M2 is written UB; E4M3 is B, as sycl-tla has it
// (cute/arch/reorder_xe.hpp), which FCVT.md does not name.
Id Arithmetic::convert_fp8(Id source, Type from, Type to) {
  if (to.bytes == 1) return to_fp8(b_, source, to.kind == Kind::kSigned);
  if (from.kind == Kind::kSigned) return from_float(b_, from_fp8(b_, source, true), to);
  // The upper byte of a half; every bit is kept, those of a NaN too.
  return bits(op::kShiftLeftLogical, source, b_.u32(8));
}

void Arithmetic::run(const Instruction& from) {
  if (from.name.rfind("dpas.", 0) == 0) return write_dpas(b_, registers_, from);
  if (from.operands.size() < 2) unknown(from);
  auto& target = from.operands[0];
  bool choice = from.name == "sel", setting = from.name == "setp";
  bool comparison = setting || from.name.rfind("cmp.", 0) == 0;
  if (choice && (from.predicate.empty() || from.operands.size() != 3)) unknown(from);
  Type to = registers_.type(target);
  bool fcvt = from.name == "fcvt";
  if (fcvt) {
    Type type = registers_.type(from.operands[1]);
    auto half = [](Type t) { return t.kind == Kind::kFloat && t.bytes == 2; };
    if (!(half(to) && type.bytes == 1) && !(half(type) && to.bytes == 1)) unknown(from);
  }
  bool floats = !comparison && !fcvt && !choice && is_float(to);
  if (choice)
    for (int i = 1; i < 3; ++i)
      if (registers_.type(from.operands[i]).kind != to.kind) unknown(from);
  // A copy keeps every bit, those of a NaN too.
  if (from.name == "mov") {
    Type type = registers_.type(from.operands[1]);
    if (is_float(to) != is_float(type)) unknown(from);
    floats = floats && (to.kind != type.kind || to.bytes != type.bytes);
  }
  uint32_t parts = std::max(1u, from.channels / visa::kLanes);
  std::vector<Id> channels, enabled, results;
  for (uint32_t p = 0; p < parts; ++p) {
    Id channel = b_.add(b_.lane(), b_.u32(p * visa::kLanes)), on = 0, chosen = 0;
    if (from.channels < visa::kLanes) {
      on = b_.less(channel, b_.u32(from.channels));
      channel = b_.mod(channel, from.channels);
    }
    if (!from.predicate.empty()) {
      Id set = registers_.read_predicate(from.predicate, channel);
      if (from.inverse) set = b_.emit(op::kLogicalNot, b_.boolean(), {set});
      if (choice)
        chosen = set;
      else
        on = on ? b_.both(on, set) : set;
    }
    channels.push_back(channel);
    enabled.push_back(on);
    if (comparison) {
      results.push_back(setting ? set_bit(from, channel) : compare(from, channel));
      continue;
    }
    std::vector<Id> sources;
    for (size_t i = 1; i < from.operands.size(); ++i)
      sources.push_back(source(from.operands[i], channel, floats));
    if (choice)
      results.push_back(b_.select(b_.integer(32), chosen, sources[0], sources[1]));
    else if (fcvt)
      results.push_back(convert_fp8(sources[0], registers_.type(from.operands[1]), to));
    else
      results.push_back(floats ? from_float(b_, compute_float(from, sources), to)
                               : compute(from, sources));
  }
  // All channels are read before one is written.
  b_.barrier(kScopeSubgroup);
  for (uint32_t p = 0; p < parts; ++p) {
    if (comparison)
      registers_.write_predicate(target, channels[p], results[p], enabled[p]);
    else
      registers_.write(target, channels[p], results[p], enabled[p]);
  }
  b_.barrier(kScopeSubgroup);
}

}  // namespace

Id write_registers(Builder& b, const visa::Program& program,
                   const AsmOperands& operands) {
  Registers registers(b, program, operands);
  Arithmetic arithmetic(b, registers);
  for (auto& instruction : program.instructions) arithmetic.run(instruction);
  auto first = operands.find(0);
  if (first == operands.end()) return 0;
  return registers.result(0);
}

}  // namespace virtual_xpu
