// SPDX-License-Identifier: Apache-2.0
// The product of two small matrices, DPAS.md of the specification.
#include <sstream>
#include <stdexcept>

#include "xe2_registers.h"

namespace virtual_xpu {

void write_dpas(Builder& b, Registers& registers, const visa::Instruction& from) {
  auto unknown = [&] {
    throw std::runtime_error("the instruction '" + from.name + "' with these operands");
  };
  // dpas.W.A.DEPTH.ROWS, DPAS.md: D[r][n] = C[r][n] + sum over k of A[r][k] * B[k][n],
  // A from the last operand. A 32-bit word holds 4 values of 8 bits or 2 of 16.
  std::istringstream parts(from.name.substr(5));
  std::string w, a, depth, repeat;
  std::getline(parts, w, '.');
  std::getline(parts, a, '.');
  std::getline(parts, depth, '.');
  std::getline(parts, repeat, '.');
  uint32_t rows = static_cast<uint32_t>(std::atoi(repeat.c_str()));
  bool wide = w == "tf32", eight = w == "bf8" || w == "hf8";
  if (from.operands.size() != 4 || w != a || depth != "8" || !rows || rows > 8 ||
      (w != "bf" && w != "hf" && !eight && !wide) || from.channels != visa::kLanes ||
      !from.predicate.empty())
    unknown();
  bool from_zero = from.operands[1].name == "%null";
  for (int i = 0; i < 2 - from_zero; ++i)
    if (auto type = registers.type(from.operands[i]);
        type.kind != visa::Kind::kFloat || type.bytes != 4)
      unknown();
  visa::Type element{w == "bf" ? visa::Kind::kBrainFloat : visa::Kind::kFloat,
                     wide ? 4u : 2u};
  auto values = [&](Id word) -> std::vector<Id> {
    if (wide)  // 10 bits of mantissa
      return {to_float(
          b, b.emit(op::kBitwiseAnd, b.integer(32), {word, b.u32(~0x1fffu)}), element)};
    if (eight) {
      std::vector<Id> out;
      for (uint32_t shift = 0; shift < 32; shift += 8) {
        Id code = b.emit(op::kShiftRightLogical, b.integer(32), {word, b.u32(shift)});
        out.push_back(from_fp8(b, code, w == "hf8"));
      }
      return out;
    }
    return {
        to_float(b, b.emit(op::kBitwiseAnd, b.integer(32), {word, b.u32(0xffff)}),
                 element),
        to_float(b, b.emit(op::kShiftRightLogical, b.integer(32), {word, b.u32(16)}),
                 element)};
  };
  Id u32 = b.integer(32), f32 = b.floating(32);
  Id own = b.mul(b.lane(), 4);
  auto at = [&](const visa::Operand& operand, uint32_t offset) {
    return b.at(b.at(registers.start(operand), own), b.u32(offset));
  };
  std::vector<Id> sums;
  for (uint32_t r = 0; r < rows; ++r)
    sums.push_back(from_zero
                       ? b.number(f32, 0)
                       : b.load(f32, 4, at(from.operands[1], r * visa::kRegister)));
  for (uint32_t d = 0; d < 8; ++d) {
    auto right = values(b.load(u32, 4, at(from.operands[2], d * visa::kRegister)));
    for (uint32_t r = 0; r < rows; ++r) {
      Id place = b.at(registers.start(from.operands[3]), b.u32(r * 32 + d * 4));
      auto left = values(b.load(u32, 4, place));
      for (size_t i = 0; i < left.size(); ++i)
        sums[r] = b.emit(op::kFAdd, f32,
                         {sums[r], b.emit(op::kFMul, f32, {left[i], right[i]})});
    }
  }
  b.barrier(kScopeSubgroup);
  for (uint32_t r = 0; r < rows; ++r)
    b.store(f32, 4, at(from.operands[0], r * visa::kRegister), sums[r]);
  b.barrier(kScopeSubgroup);
}

}  // namespace virtual_xpu
