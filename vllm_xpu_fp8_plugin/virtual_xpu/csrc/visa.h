// SPDX-License-Identifier: Apache-2.0
// Inline assembly of an Intel GPU (vISA), taken apart. Its meaning is that of
// documentation/visa in intel/intel-graphics-compiler.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace virtual_xpu::visa {

constexpr uint32_t kLanes = 16;     // of the sub-groups that use these instructions
constexpr uint32_t kRegister = 64;  // bytes of one register, from PVC on

enum class Kind { kUnsigned, kSigned, kFloat, kBrainFloat };
struct Type {
  Kind kind = Kind::kUnsigned;
  uint32_t bytes = 0;
};

// `.decl`: a variable of registers or of predicates.
struct Variable {
  Type type;  // of no bytes for a predicate
  uint32_t elements = 0;
  std::string alias;  // a variable whose registers it shares
  uint32_t alias_offset = 0;
};

struct Operand {
  std::string name;          // of a variable; empty for an immediate
  uint32_t row = 0, at = 0;  // its register, and its element within it
  // Channel c is at element `vertical * (c / width) + horizontal * (c % width)`.
  uint32_t vertical = 0, width = 1, horizontal = 0;
  bool region = false, absolute = false, negative = false;
  Type type;               // of an immediate
  uint64_t immediate = 0;  // bits
};

struct Instruction {
  std::string name;       // with what follows after dots
  std::string predicate;  // a variable, or empty
  bool inverse = false;   // of the predicate
  uint32_t channels = 0;
  std::vector<Operand> operands;  // the destination first
};

// lsc_load_block2d and lsc_store_block2d.
struct Block2d {
  bool store = false, prefetch = false, transposed = false, vnni = false;
  uint32_t data = 0, payload = 0;  // operand numbers
  uint32_t bits = 0, blocks = 1, width = 0, height = 0;
};

// lsc_load.slm and lsc_store.slm of one 32-bit value a lane.
struct LocalAccess {
  bool store = false;
  uint32_t data = 0, address = 0;
};

struct Program {
  std::map<std::string, Variable> variables;
  std::vector<Instruction> instructions;
  std::vector<Block2d> blocks;
  std::vector<LocalAccess> local;
  bool fence = false, barrier = false;
};

// Raises std::runtime_error that names what is not known. `constants` has the values of
// operands that are immediates: "$3" in the text stands for that of operand 3.
Program parse(const std::string& text, const std::map<uint32_t, uint64_t>& constants);

}  // namespace virtual_xpu::visa
