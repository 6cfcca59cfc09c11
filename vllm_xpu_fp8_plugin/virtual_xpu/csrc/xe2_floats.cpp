// SPDX-License-Identifier: Apache-2.0
// Values of registers as floats of 32 and 64 bits, and back.
#include "xe2_registers.h"

namespace virtual_xpu {
namespace {

Id bits(Builder& b, op::Code code, Id left, Id right) {
  return b.emit(code, b.integer(32), {left, right});
}

}  // namespace

Id to_float(Builder& b, Id value, visa::Type from) {
  Id f32 = b.floating(32);
  if (from.kind == visa::Kind::kBrainFloat)
    value = bits(b, op::kShiftLeftLogical, value, b.u32(16));
  if (from.kind == visa::Kind::kFloat && from.bytes == 2) {
    Id low = b.emit(op::kUConvert, b.integer(16), {value});
    return b.emit(op::kFConvert, f32, {b.emit(op::kBitcast, b.floating(16), {low})});
  }
  return b.emit(op::kBitcast, f32, {value});
}

Id from_float(Builder& b, Id value, visa::Type to) {
  Id u32 = b.integer(32);
  if (to.kind == visa::Kind::kFloat && to.bytes == 2) {
    Id half = b.emit(op::kFConvert, b.floating(16), {value});
    return b.emit(op::kUConvert, u32, {b.emit(op::kBitcast, b.integer(16), {half})});
  }
  Id word = b.emit(op::kBitcast, u32, {value});
  if (to.kind == visa::Kind::kFloat) return word;
  Id high = bits(b, op::kShiftRightLogical, word, b.u32(16));
  Id odd = bits(b, op::kBitwiseAnd, high, b.u32(1));
  Id rounded = b.add(word, b.add(b.u32(0x7fff), odd));
  rounded = bits(b, op::kShiftRightLogical, rounded, b.u32(16));
  Id magnitude = bits(b, op::kBitwiseAnd, word, b.u32(0x7fffffff));
  Id nan = b.emit(op::kUGreaterThan, b.boolean(), {magnitude, b.u32(0x7f800000)});
  return b.select(u32, nan, bits(b, op::kBitwiseOr, high, b.u32(0x40)), rounded);
}

Id to_double(Builder& b, Id value) {
  Id f64 = b.floating(64), u32 = b.integer(32);
  Id word = b.emit(op::kBitcast, u32, {value});
  Id magnitude = bits(b, op::kBitwiseAnd, word, b.u32(0x7fffffff));
  Id small = b.less(magnitude, b.u32(0x00800000));
  Id scaled = b.emit(op::kConvertUToF, f64, {magnitude});
  Id unit = b.number(f64, uint64_t{1023 - 149} << 52);
  scaled = b.emit(op::kFMul, f64, {scaled, unit});
  Id negative = b.emit(op::kSLessThan, b.boolean(), {word, b.u32(0)});
  Id minus = b.emit(op::kFNegate, f64, {scaled});
  scaled = b.select(f64, negative, minus, scaled);
  return b.select(f64, small, scaled, b.emit(op::kFConvert, f64, {value}));
}

}  // namespace virtual_xpu
