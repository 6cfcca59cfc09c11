// SPDX-License-Identifier: Apache-2.0
#include "xe2_registers.h"

#include <algorithm>
#include <stdexcept>

namespace virtual_xpu {
namespace {

uint32_t whole_registers(uint32_t bytes) {
  return (bytes + visa::kRegister - 1) / visa::kRegister * visa::kRegister;
}

}  // namespace

Registers::Registers(Builder& b, const visa::Program& program,
                     const AsmOperands& operands)
    : b_(b), operands_(operands) {
  uint32_t size = 0;
  auto room = [&](const std::string& name, visa::Type type, uint32_t bytes) {
    places_[name] = {size, type, bytes};
    size += whole_registers(bytes);
  };
  for (auto& [number, operand] : operands) {
    if (operand.immediate) continue;
    uint32_t copies = operand.uniform ? 1 : visa::kLanes;
    room("$" + std::to_string(number), operand.element,
         operand.count * operand.element.bytes * copies);
  }
  for (auto& [name, variable] : program.variables)
    if (variable.alias.empty())
      room(name, variable.type, variable.elements * std::max(1u, variable.type.bytes));
  for (auto& [name, variable] : program.variables) {
    if (variable.alias.empty()) continue;
    auto& from = place(variable.alias);
    uint32_t bytes = variable.elements * variable.type.bytes;
    if (variable.alias_offset + bytes > from.bytes)
      throw std::runtime_error("the variable '" + name + "', larger than its alias");
    places_[name] = {from.offset + variable.alias_offset, variable.type, bytes};
  }
  // Lane 0's memory serves all. What is not to be written goes to its end.
  Id bytes = b.global(op::kTypeArray, {b.integer(8), b.u32(size + visa::kRegister)});
  Id own = b.address(b.variable(bytes, 64));
  base_ = b.of_first_lane(b.integer(64), own);
  nowhere_ = b.at(base_, b.add(b.u32(size), b.mul(b.lane(), 4)));
  for (auto& [number, operand] : operands)
    if (operand.value && !operand.immediate)
      put_operand(operand, place("$" + std::to_string(number)).offset);
  b.barrier(kScopeSubgroup);
}

const Registers::Place& Registers::place(const std::string& name) const {
  auto it = places_.find(name);
  if (it == places_.end()) throw std::runtime_error("the variable '" + name + "'");
  return it->second;
}

visa::Type Registers::type(const visa::Operand& operand) const {
  return operand.name.empty() ? operand.type : place(operand.name).type;
}

void Registers::put_operand(const AsmOperand& operand, uint32_t offset) {
  uint32_t bytes = operand.element.bytes;
  Id piece = b_.integer(bytes * 8);
  Id part = operand.element.kind == visa::Kind::kFloat ? b_.floating(bytes * 8) : piece;
  for (uint32_t i = 0; i < operand.count; ++i) {
    Id value = operand.value;
    if (operand.vector) value = b_.emit(op::kCompositeExtract, part, {value, i});
    if (part != piece) value = b_.emit(op::kBitcast, piece, {value});
    Id at = operand.uniform ? b_.u32(offset + i * bytes)
                            : b_.add(b_.u32(offset + i * bytes * visa::kLanes),
                                     b_.mul(b_.lane(), bytes));
    b_.store(piece, bytes, b_.at(base_, at), value);
  }
}

Id Registers::result(uint32_t number) {
  auto& operand = operands_.at(number);
  uint32_t bytes = operand.element.bytes;
  Id piece = b_.integer(bytes * 8);
  Id part = operand.element.kind == visa::Kind::kFloat ? b_.floating(bytes * 8) : piece;
  uint32_t offset = place("$" + std::to_string(number)).offset;
  Id result = operand.vector ? b_.global(op::kConstantNull, {operand.type}) : 0;
  for (uint32_t i = 0; i < operand.count; ++i) {
    Id at = b_.add(b_.u32(offset + i * bytes * visa::kLanes), b_.mul(b_.lane(), bytes));
    Id value = b_.load(piece, bytes, b_.at(base_, at));
    if (part != piece) value = b_.emit(op::kBitcast, part, {value});
    if (!operand.vector) return value;
    result = b_.emit(op::kCompositeInsert, operand.type, {value, result, i});
  }
  return result;
}

Id Registers::start(const visa::Operand& operand) {
  auto& from = place(operand.name);
  uint32_t at = operand.row * visa::kRegister + operand.at * from.type.bytes;
  return b_.at(base_, b_.u32(from.offset + at));
}

Id Registers::address(const visa::Operand& operand, Id channel) {
  auto& from = place(operand.name);
  if (!operand.region)
    throw std::runtime_error("the operand '" + operand.name + "' without a region");
  Id element = b_.add(b_.mul(b_.div(channel, operand.width), operand.vertical),
                      b_.mul(b_.mod(channel, operand.width), operand.horizontal));
  return b_.at(start(operand), b_.mul(element, from.type.bytes));
}

Id Registers::read(const visa::Operand& operand, Id channel) {
  auto from = type(operand);
  if (operand.name.empty()) {
    uint64_t bits = operand.immediate;
    if (from.kind == visa::Kind::kSigned && from.bytes < 4)
      bits = static_cast<uint32_t>(
          static_cast<int32_t>(bits << (32 - from.bytes * 8)) >> (32 - from.bytes * 8));
    return b_.u32(static_cast<uint32_t>(bits));
  }
  Id bits = b_.load(b_.integer(from.bytes * 8), from.bytes, address(operand, channel));
  if (from.bytes == 4) return bits;
  auto extend = from.kind == visa::Kind::kSigned ? op::kSConvert : op::kUConvert;
  return b_.emit(extend, b_.integer(32), {bits});
}

void Registers::write(const visa::Operand& operand, Id channel, Id bits, Id enabled) {
  auto to = type(operand);
  if (to.bytes < 4) bits = b_.emit(op::kUConvert, b_.integer(to.bytes * 8), {bits});
  Id where = address(operand, channel);
  if (enabled) where = b_.select(b_.integer(64), enabled, where, nowhere_);
  b_.store(b_.integer(to.bytes * 8), to.bytes, where, bits);
}

Id Registers::read_predicate(const std::string& name, Id channel) {
  Id where = b_.at(base_, b_.add(b_.u32(place(name).offset), channel));
  Id byte = b_.load(b_.integer(8), 1, where);
  return b_.emit(op::kINotEqual, b_.boolean(), {byte, b_.number(b_.integer(8), 0)});
}

void Registers::write_predicate(const visa::Operand& operand, Id channel, Id value,
                                Id enabled) {
  auto& to = place(operand.name);
  if (to.type.bytes) throw std::runtime_error("the predicate '" + operand.name + "'");
  Id type = b_.integer(8);
  Id byte = b_.select(type, value, b_.number(type, 1), b_.number(type, 0));
  Id where = b_.at(base_, b_.add(b_.u32(to.offset), channel));
  if (enabled) where = b_.select(b_.integer(64), enabled, where, nowhere_);
  b_.store(type, 1, where, byte);
}

}  // namespace virtual_xpu
