// SPDX-License-Identifier: Apache-2.0
// The function that stands in for one inline assembly.
#include <sstream>
#include <stdexcept>

#include "xe2.h"

namespace virtual_xpu {
namespace {

AsmOperand describe(Builder& b, Id type, const std::string& constraint) {
  AsmOperand out;
  out.type = type;
  out.uniform = constraint == "rw.u";
  out.immediate = constraint == "P";
  auto* what = b.definition(type);
  if (what && (*what)[0] == op::kTypeVector) {
    out.vector = true;
    out.count = (*what)[2];
    what = b.definition((*what)[1]);
  }
  if (what && (*what)[0] == op::kTypeInt)
    out.element = {visa::Kind::kUnsigned, (*what)[1] / 8};
  else if (what && (*what)[0] == op::kTypeFloat)
    out.element = {visa::Kind::kFloat, (*what)[1] / 8};
  else if (what && (*what)[0] == op::kTypePointer)
    out.element = {visa::Kind::kUnsigned, 8};
  else
    throw std::runtime_error("an operand of another type");
  return out;
}

Id access_local(Builder& b, const visa::LocalAccess& access,
                const AsmOperands& operands, Id& local) {
  // A GPU's local addresses are of 32 bits, the lower half of these. All memory of a
  // work-group is near any variable of it.
  Id u32 = b.integer(32), u64 = b.integer(64);
  if (!local) local = b.shared_variable(kWorkgroup, u32);
  auto& data = operands.at(access.data);
  if (data.element.bytes != 4 || data.count != 1)
    throw std::runtime_error("local memory of other than 32 bits a lane");
  Id base = b.address(local);
  Id distance =
      b.emit(op::kISub, u32,
             {operands.at(access.address).value, b.emit(op::kUConvert, u32, {base})});
  Id where = b.emit(op::kIAdd, u64, {base, b.emit(op::kSConvert, u64, {distance})});
  Id scalar = data.element.kind == visa::Kind::kFloat ? b.floating(32) : u32;
  if (access.store) {
    Id value = data.value;
    if (data.vector) value = b.emit(op::kCompositeExtract, scalar, {value, 0});
    b.store(scalar, 4, where, value);
    return 0;
  }
  Id value = b.load(scalar, 4, where);
  if (!data.vector) return value;
  return b.emit(op::kCompositeInsert, data.type,
                {value, b.global(op::kConstantNull, {data.type}), 0});
}

}  // namespace

void write_assembly(Builder& b, Id function, const Assembly& assembly,
                    const uint32_t* arguments, Id& local) {
  auto signature = *b.definition(assembly.type);
  std::vector<std::string> constraints;
  std::istringstream text(assembly.constraints);
  for (std::string part; std::getline(text, part, ',');) constraints.push_back(part);
  bool output = !constraints.empty() && constraints[0][0] == '=';
  if (constraints.size() != signature.size() - 2 + output)
    throw std::runtime_error("an assembly with operands '" + assembly.constraints +
                             "'");
  AsmOperands operands;
  if (output) operands[0] = describe(b, signature[1], constraints[0]);
  auto parameters = b.begin(function, assembly.type);
  std::map<uint32_t, uint64_t> immediates;
  for (uint32_t i = 0; i < parameters.size(); ++i) {
    uint32_t number = i + output;
    auto& constraint = constraints[number];
    if (constraint == "0" && output) {
      operands[0].value = parameters[i];
      continue;
    }
    if (constraint != "rw" && constraint != "rw.u" && constraint != "P")
      throw std::runtime_error("an operand that is '" + constraint + "'");
    operands[number] = describe(b, signature[i + 2], constraint);
    operands[number].value = parameters[i];
    if (constraint != "P") continue;
    auto* constant = b.definition(arguments[i]);
    if (!constant || (*constant)[0] != op::kConstant)
      throw std::runtime_error("an immediate operand that is none");
    immediates[number] = (*constant)[2];
  }
  b.lane();
  auto program = visa::parse(assembly.text, immediates);
  size_t parts = program.blocks.size() + program.local.size() + program.fence +
                 program.barrier + !program.instructions.empty();
  if (parts > 1) throw std::runtime_error("an assembly of several kinds");
  Id result = 0;
  if (!program.blocks.empty())
    result = write_block2d(b, program.blocks[0], operands);
  else if (!program.local.empty())
    result = access_local(b, program.local[0], operands, local);
  else if (program.barrier)
    b.barrier(kScopeWorkgroup);
  else if (program.fence)
    b.fence();
  else if (program.instructions.empty())  // a value that is not set yet
    result = output ? b.global(op::kConstantNull, {signature[1]}) : 0;
  else
    result = write_registers(b, program, operands);
  b.end(output ? result : 0);
}

}  // namespace virtual_xpu
