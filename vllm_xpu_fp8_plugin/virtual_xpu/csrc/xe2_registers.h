// SPDX-License-Identifier: Apache-2.0
// The registers of one assembly, as memory that the lanes of a sub-group share.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "xe2.h"

namespace virtual_xpu {

class Registers {
 public:
  // Gives each variable and operand its place, and the operands their values.
  Registers(Builder& b, const visa::Program& program, const AsmOperands& operands);

  visa::Type type(const visa::Operand& operand) const;
  // Address of a variable's register and element, of no lane.
  Id start(const visa::Operand& operand);
  // Bits of channel `channel` of an operand, extended to 32.
  Id read(const visa::Operand& operand, Id channel);
  // Writes them, cut to size; not where `enabled` is false (0: always).
  void write(const visa::Operand& operand, Id channel, Id bits, Id enabled);
  Id read_predicate(const std::string& name, Id channel);
  void write_predicate(const visa::Operand& operand, Id channel, Id value, Id enabled);
  // What the lanes hold of an operand.
  Id result(uint32_t number);

 private:
  struct Place {
    uint32_t offset;
    visa::Type type;
    uint32_t bytes;
  };
  const Place& place(const std::string& name) const;
  Id address(const visa::Operand& operand, Id channel);
  void put_operand(const AsmOperand& operand, uint32_t offset);

  Builder& b_;
  const AsmOperands& operands_;
  std::map<std::string, Place> places_;
  Id base_ = 0, nowhere_ = 0;
};

// Bits of a value, extended to 32, as a float, and back, rounded to nearest, ties to
// even.
Id to_float(Builder& b, Id bits, visa::Type from);
Id from_float(Builder& b, Id value, visa::Type to);
// The lowest 8 bits of a value as a float: e4m3 (whose only other value is NaN) or
// e5m2.
Id from_fp8(Builder& b, Id bits, bool e4m3);
// The code of a half, rounded to nearest, ties to even. What is beyond the largest
// number of e4m3 is NaN: the specification does not say.
Id to_fp8(Builder& b, Id half, bool e4m3);
// A float with its subnormals, which a CPU may be set to take for zero.
Id to_double(Builder& b, Id value);

void write_dpas(Builder& b, Registers& registers, const visa::Instruction& from);

}  // namespace virtual_xpu
