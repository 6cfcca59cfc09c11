// SPDX-License-Identifier: Apache-2.0
// Values of registers as floats of 32 and 64 bits, and back.
#include "xe2_registers.h"

namespace virtual_xpu {
namespace {

Id bits(Builder& b, op::Code code, Id left, Id right) {
  return b.emit(code, b.integer(32), {left, right});
}

// A value without its lowest bits, rounded to nearest, ties to even.
Id without(Builder& b, Id value, uint32_t lowest) {
  Id odd = bits(b, op::kBitwiseAnd,
                bits(b, op::kShiftRightLogical, value, b.u32(lowest)), b.u32(1));
  Id sum = b.add(value, b.add(b.u32((1u << (lowest - 1)) - 1), odd));
  return bits(b, op::kShiftRightLogical, sum, b.u32(lowest));
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
  Id magnitude = bits(b, op::kBitwiseAnd, word, b.u32(0x7fffffff));
  Id nan = b.emit(op::kUGreaterThan, b.boolean(), {magnitude, b.u32(0x7f800000)});
  return b.select(u32, nan, bits(b, op::kBitwiseOr, high, b.u32(0x40)),
                  without(b, word, 16));
}

Id from_fp8(Builder& b, Id code, bool e4m3) {
  // Either is the upper half of a half; e4m3's exponent has one bit less, and half the
  // bias: the number is 2^8 times smaller there.
  Id sign = bits(b, op::kShiftLeftLogical, bits(b, op::kBitwiseAnd, code, b.u32(0x80)),
                 b.u32(8));
  Id magnitude = bits(b, op::kBitwiseAnd, code, b.u32(0x7f));
  Id half = bits(b, op::kShiftLeftLogical, magnitude, b.u32(e4m3 ? 7 : 8));
  half = bits(b, op::kBitwiseOr, half, sign);
  Id value = to_float(b, half, {visa::Kind::kFloat, 2});
  if (!e4m3) return value;
  Id f32 = b.floating(32);
  Id nan = b.emit(op::kIEqual, b.boolean(), {magnitude, b.u32(0x7f)});
  value = b.emit(op::kFMul, f32, {value, b.number(f32, 0x43800000)});  // 256
  return b.select(f32, nan, b.number(f32, 0x7fc00000), value);
}

Id to_fp8(Builder& b, Id half, bool e4m3) {
  Id u32 = b.integer(32), magnitude = bits(b, op::kBitwiseAnd, half, b.u32(0x7fff));
  Id sign = bits(b, op::kShiftRightLogical,
                 bits(b, op::kBitwiseAnd, half, b.u32(0x8000)), b.u32(8));
  Id code;
  if (e4m3) {
    Id f32 = b.floating(32);
    Id value = to_float(b, magnitude, {visa::Kind::kFloat, 2});
    Id word = b.emit(op::kBitcast, u32, {value});
    code = b.emit(op::kISub, u32, {without(b, word, 20), b.u32((127 - 7) << 3)});
    // Of a subnormal, how many times 2^-9 it is, the last place of 2^14.
    Id small = b.emit(op::kFAdd, f32, {value, b.number(f32, 0x46800000)});
    small =
        b.emit(op::kISub, u32, {b.emit(op::kBitcast, u32, {small}), b.u32(0x46800000)});
    code = b.select(u32, b.less(word, b.u32((127 - 6) << 23)), small, code);
    code = b.select(u32, b.less(b.u32(0x7e), code), b.u32(0x7f), code);
  } else {
    Id nan = b.less(b.u32(0x7c00), magnitude);
    code = b.select(u32, nan, b.u32(0x7f), without(b, magnitude, 8));
  }
  return bits(b, op::kBitwiseOr, code, sign);
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
