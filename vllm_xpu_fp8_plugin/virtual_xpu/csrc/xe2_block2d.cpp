// SPDX-License-Identifier: Apache-2.0
// 2D block loads and stores: lsc_load_block2d in LSC_UNTYPED.md of the specification.
#include <algorithm>
#include <bit>
#include <stdexcept>

#include "xe2.h"

namespace virtual_xpu {
namespace {

struct Place {
  Id x, y;    // within the block
  Id inside;  // whether the register's element is one of the block
};

// How a block lies in registers, in elements.
struct Layout {
  visa::Block2d block;
  uint32_t bytes, per_dword, row_pitch, block_pitch;

  explicit Layout(const visa::Block2d& from) : block(from), bytes(from.bits / 8) {
    per_dword = bytes < 4 ? 4 / bytes : 1;
    uint32_t row = block.transposed ? block.height : block.width;
    uint32_t rows = block.transposed ? block.width : block.height;
    row_pitch = std::bit_ceil(row);
    if (block.vnni) rows = (rows + per_dword - 1) / per_dword * per_dword;
    uint32_t whole = visa::kRegister / bytes;
    block_pitch = (row_pitch * rows + whole - 1) / whole * whole;
  }

  // Where in the block its element `at` of the registers comes from.
  Place place(Builder& b, Id at) const {
    Id row = b.div(at, row_pitch), column = b.mod(at, row_pitch);
    if (block.transposed) std::swap(row, column);
    if (block.vnni) {
      Id group = b.div(at, row_pitch * per_dword);
      Id rest = b.mod(at, row_pitch * per_dword);
      row = b.add(b.mul(group, per_dword), b.mod(rest, per_dword));
      column = b.div(rest, per_dword);
    }
    return {
        column, row,
        b.both(b.less(column, b.u32(block.width)), b.less(row, b.u32(block.height)))};
  }
};

void check(const visa::Block2d& block, const AsmOperand& data) {
  std::string what = "a 2D block of " + std::to_string(block.blocks) + "x" +
                     std::to_string(block.width) + "x" + std::to_string(block.height) +
                     " elements of " + std::to_string(block.bits) + " bits";
  bool known =
      block.width && block.height && block.blocks &&
      (block.bits == 8 || block.bits == 16 || block.bits == 32 || block.bits == 64) &&
      !(block.vnni && block.bits > 16) && !(block.transposed && block.bits < 32) &&
      !(block.store && (block.vnni || block.transposed || block.blocks > 1));
  if (!known) throw std::runtime_error(what);
  Layout layout(block);
  uint32_t held = data.count * visa::kLanes * data.element.bytes;
  if (layout.block_pitch * block.blocks * layout.bytes > held)
    throw std::runtime_error(what + " in registers of " + std::to_string(held) +
                             " bytes");
}

}  // namespace

Id write_block2d(Builder& b, const visa::Block2d& block, const AsmOperands& operands) {
  if (block.prefetch) return 0;
  auto& data = operands.at(block.data);
  check(block, data);
  Layout layout(block);
  Id u32 = b.integer(32), u64 = b.integer(64), lane = b.lane();
  Id payload = b.address(operands.at(block.payload).value);
  auto field = [&](uint32_t offset) {
    return b.load(u32, 4, b.at(payload, b.u32(offset)));
  };
  Id base = b.load(u64, 8, payload), one = b.u32(1);
  Id width = b.add(field(kWidth), one), height = b.add(field(kHeight), one);
  Id pitch = b.emit(op::kUConvert, u64, {b.add(field(kPitch), one)});
  Id block_x = field(kBlockX), block_y = field(kBlockY);

  // Registers and memory are walked in pieces that are whole in both.
  uint32_t unit = std::min(layout.bytes, data.element.bytes);
  uint32_t pieces = data.element.bytes / unit;
  Id piece = b.integer(unit * 8);
  Id own = b.variable(data.type, 64), nowhere = b.variable(u64, 8);
  Id own_address = b.address(own), nowhere_address = b.address(nowhere);
  if (block.store) b.act(op::kStore, {own, data.value});
  b.loop(data.count * pieces, [&](Id index) {
    // Element e of lane l stands at 16 * e + l in the registers.
    Id element = b.div(index, pieces);
    Id offset = b.mul(b.add(b.mul(element, visa::kLanes), lane), data.element.bytes);
    offset = b.add(offset, b.mul(b.mod(index, pieces), unit));
    Id at = b.div(offset, layout.bytes);
    Id number = b.div(at, layout.block_pitch);
    auto place = layout.place(b, b.mod(at, layout.block_pitch));
    Id x = b.add(b.add(block_x, b.mul(number, block.width)), place.x);
    Id y = b.add(block_y, place.y);
    // In bytes, of 64 bits: what is left of or above the surface is out of it too.
    Id wide_x = b.emit(op::kSConvert, u64, {x}),
       wide_y = b.emit(op::kSConvert, u64, {y});
    Id byte_x = b.emit(op::kIMul, u64, {wide_x, b.u64(layout.bytes)});
    auto less = [&](Id a, Id limit) {
      Id wide = b.emit(op::kUConvert, u64, {limit});
      return b.emit(op::kULessThan, b.boolean(), {a, wide});
    };
    Id inside = b.both(less(byte_x, width), less(wide_y, height));
    inside = b.both(inside, b.both(place.inside, b.less(number, b.u32(block.blocks))));
    Id row = b.emit(op::kIMul, u64, {wide_y, pitch});
    Id memory = b.emit(op::kIAdd, u64, {b.emit(op::kIAdd, u64, {base, row}), byte_x});
    memory = b.at(memory, b.mod(offset, layout.bytes));
    memory = b.select(u64, inside, memory, nowhere_address);
    Id mine = b.at(own_address, b.mul(index, unit));
    if (block.store) {
      b.store(piece, unit, memory, b.load(piece, unit, mine));
    } else {
      Id value = b.load(piece, unit, memory);
      b.store(piece, unit, mine, b.select(piece, inside, value, b.number(piece, 0)));
    }
  });
  return block.store ? 0 : b.emit(op::kLoad, data.type, {own});
}

}  // namespace virtual_xpu
