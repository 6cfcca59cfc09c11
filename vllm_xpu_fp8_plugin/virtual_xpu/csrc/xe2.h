// SPDX-License-Identifier: Apache-2.0
// The instructions of an Intel GPU that attention and its like use, as functions over
// the 16 lanes of a sub-group.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "spirv_builder.h"
#include "visa.h"

namespace virtual_xpu {

// An operand of an inline assembly: a value of a lane, or the result to be.
struct AsmOperand {
  Id value = 0;  // 0 for a result that starts undefined
  Id type = 0;   // of SPIR-V
  visa::Type element;
  uint32_t count = 1;      // of the vector that it is
  bool vector = false;     // or a scalar
  bool uniform = false;    // one value for all lanes, kept once
  bool immediate = false;  // a constant, already in the text
};
using AsmOperands = std::map<uint32_t, AsmOperand>;

// A 2D block address payload, in memory of the lane: base address, then 32-bit width,
// height and pitch less one, all but the height in bytes, and the block's x and y.
constexpr uint32_t kPayloadBytes = 32;
enum PayloadField : uint32_t {
  kWidth = 8,
  kHeight = 12,
  kPitch = 16,
  kBlockX = 20,
  kBlockY = 24
};

// Each writes what one assembly does into the function being written and returns its
// result, 0 for none. They raise std::runtime_error with what is not known.
Id write_block2d(Builder& b, const visa::Block2d& block, const AsmOperands& operands);
Id write_registers(Builder& b, const visa::Program& program,
                   const AsmOperands& operands);

// An inline assembly of a module: the type of its function, its text and what it says
// of its operands.
struct Assembly {
  Id type;
  std::string text, constraints;
};

// A module of which inline assembly was taken out, and what is left to be defined.
struct Stripped {
  std::vector<uint32_t> words;
  std::map<Id, Assembly> assemblies;
  std::map<std::string, std::pair<Id, Id>> built_ins;  // name -> function, its type
};
Stripped strip_xe2(const std::vector<uint32_t>& words);

// Names of functions on payloads that the CPU's compiler has not.
constexpr char kCreatePayload[] = "__builtin_IB_subgroup_createBlock2DAddressPayload";
constexpr char kSetPayloadX[] = "__builtin_IB_subgroup_setBlock2DAddressPayloadBlockX";
constexpr char kSetPayloadY[] = "__builtin_IB_subgroup_setBlock2DAddressPayloadBlockY";
constexpr char kAddPayloadX[] = "__builtin_IB_subgroup_addBlock2DAddressPayloadBlockX";
constexpr char kAddPayloadY[] = "__builtin_IB_subgroup_addBlock2DAddressPayloadBlockY";
constexpr uint32_t kAsmCall = 5611;  // OpAsmCallINTEL

// Writes the function for an assembly whose call has these arguments. `local` is a
// variable in local memory, made when first needed.
void write_assembly(Builder& b, Id function, const Assembly& assembly,
                    const uint32_t* arguments, Id& local);

// The module with each assembly replaced; `missing` is set to what is not known.
std::vector<uint32_t> rewrite_xe2(const std::vector<uint32_t>& words,
                                  std::string& missing);

}  // namespace virtual_xpu
