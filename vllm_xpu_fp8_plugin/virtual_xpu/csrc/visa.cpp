// SPDX-License-Identifier: Apache-2.0
#include "visa.h"

#include <cctype>
#include <sstream>

#include "visa_line.h"

namespace virtual_xpu::visa {
namespace {

Type type_of(std::string name, const Line& line) {
  for (auto& c : name) c = static_cast<char>(std::tolower(c));
  static const std::map<std::string, Type> kTypes{
      {"ub", {Kind::kUnsigned, 1}},  {"b", {Kind::kSigned, 1}},
      {"uw", {Kind::kUnsigned, 2}},  {"w", {Kind::kSigned, 2}},
      {"ud", {Kind::kUnsigned, 4}},  {"d", {Kind::kSigned, 4}},
      {"hf", {Kind::kFloat, 2}},     {"f", {Kind::kFloat, 4}},
      {"bf", {Kind::kBrainFloat, 2}}};
  auto it = kTypes.find(name);
  if (it == kTypes.end()) line.fail();
  return it->second;
}

uint32_t execution_size(Line& line) {
  line.need("(");
  auto mask = line.word();
  // All lanes are on where these kernels use them, so M1 and M1_NM (no mask) are one.
  if (mask != "M1" && mask != "M1_NM") line.fail();
  line.need(",");
  auto size = static_cast<uint32_t>(line.number());
  line.need(")");
  return size;
}

// .decl NAME v_type=G type=F num_elts=16 [align=...] [alias=<OTHER,0>]
void declare(Line& line, Program& program) {
  auto name = line.word();
  Variable variable;
  std::string kind;
  while (!line.done()) {
    auto key = line.word();
    line.need("=");
    if (key == "v_type") {
      kind = line.word();
    } else if (key == "type") {
      variable.type = type_of(line.word(), line);
    } else if (key == "num_elts") {
      variable.elements = static_cast<uint32_t>(line.number());
    } else if (key == "alias") {
      line.need("<");
      variable.alias = line.word("$");
      line.need(",");
      variable.alias_offset = static_cast<uint32_t>(line.number());
      line.need(">");
    } else if (key == "align") {
      line.word();
    } else {
      line.fail();
    }
  }
  bool typed = variable.type.bytes != 0;
  if (!variable.elements || !(kind == "G" ? typed : kind == "P" && !typed)) line.fail();
  program.variables[name] = variable;
}

Operand operand(Line& line) {
  Operand out;
  if (line.at_number()) {
    out.immediate = line.number();
    line.need(":");
    out.type = type_of(line.word(), line);
    return out;
  }
  if (line.take("(abs)")) out.absolute = true;
  if (line.take("-") || line.take("(neg)")) out.negative = true;
  out.name = line.word("$%");
  if (line.take(".")) {
    // A raw operand, by a byte.
    if (line.number()) line.fail();
    return out;
  }
  // What may follow a predicate is the sign of the next operand: "(abs)".
  if (!line.take_before_number("(")) return out;
  out.row = static_cast<uint32_t>(line.number());
  line.need(",");
  out.at = static_cast<uint32_t>(line.number());
  line.need(")");
  if (!line.take("<")) return out;
  out.region = true;
  auto first = static_cast<uint32_t>(line.number());
  if (line.take(";")) {
    out.vertical = first;
    out.width = static_cast<uint32_t>(line.number());
    line.need(",");
    out.horizontal = static_cast<uint32_t>(line.number());
  } else {
    out.vertical = out.horizontal = first;
  }
  line.need(">");
  if (!out.width) line.fail();
  return out;
}

uint32_t operand_number(Line& line) {
  line.need("$");
  return static_cast<uint32_t>(line.number());
}

// Where caches keep data means nothing here.
void skip_caching(Line& line) {
  while (line.take(".")) line.word();
}

// flat[$1+(0,0)] and $0:d16.2x16x16nt, in this order for a store.
Block2d block2d(Line& line, bool store) {
  Block2d out;
  out.store = store;
  skip_caching(line);
  if (execution_size(line) != 1) line.fail();
  auto address = [&] {
    line.need("flat");
    line.need("[");
    out.payload = operand_number(line);
    line.need("+(0,0)]");
  };
  if (store) address();
  if (!store && line.take("%null"))
    out.prefetch = true;
  else
    out.data = operand_number(line);
  line.need(":d");
  out.bits = static_cast<uint32_t>(line.number());
  line.need(".");
  std::vector<uint32_t> sizes;
  do sizes.push_back(static_cast<uint32_t>(line.number()));
  while (line.take("x"));
  if (sizes.size() < 2 || sizes.size() > 3) line.fail();
  out.blocks = sizes.size() == 3 ? sizes[0] : 1;
  out.width = sizes[sizes.size() - 2];
  out.height = sizes.back();
  auto order = line.word();
  if (order != "nn" && order != "tn" && order != "nt") line.fail();
  out.transposed = order[0] == 't';
  out.vnni = order[1] == 't';
  if (!store) address();
  return out;
}

LocalAccess local_access(Line& line, bool store) {
  LocalAccess out;
  out.store = store;
  if (execution_size(line) != kLanes) line.fail();
  auto address = [&] {
    line.need("flat[");
    out.address = operand_number(line);
    line.need("]:a32");
  };
  if (store) address();
  out.data = operand_number(line);
  line.need(":d32");
  if (!store) address();
  return out;
}

void statement(const std::string& text, Program& program) {
  Line line(text);
  if (line.take(".decl")) return declare(line, program);
  Instruction instruction;
  if (line.take("(")) {
    instruction.inverse = line.take("!");
    instruction.predicate = line.word();
    line.need(")");
  }
  auto name = line.word();
  if (name == "lsc_load_block2d" || name == "lsc_store_block2d") {
    line.need(".ugm");
    program.blocks.push_back(block2d(line, name == "lsc_store_block2d"));
  } else if (name == "lsc_load" || name == "lsc_store") {
    line.need(".slm");
    program.local.push_back(local_access(line, name == "lsc_store"));
  } else if (name == "lsc_fence") {
    line.need(".ugm.none.group");
    program.fence = true;
  } else if (name == "barrier") {
    program.barrier = true;
  } else {
    instruction.name = name;
    while (line.take(".")) instruction.name += "." + line.word();
    instruction.channels = execution_size(line);
    while (!line.done()) instruction.operands.push_back(operand(line));
    program.instructions.push_back(instruction);
    return;
  }
  if (!line.done() || !instruction.predicate.empty()) line.fail();
}

}  // namespace

Program parse(const std::string& text, const std::map<uint32_t, uint64_t>& constants) {
  std::string filled;
  for (size_t i = 0; i < text.size(); ++i) {
    filled += text[i];
    if (text[i] != '$' || i + 1 == text.size() || !std::isdigit(text[i + 1])) continue;
    size_t length = 0;
    auto number = std::stoul(text.substr(i + 1), &length);
    auto it = constants.find(static_cast<uint32_t>(number));
    if (it == constants.end()) continue;
    filled.pop_back();
    filled += std::to_string(it->second);
    i += length;
  }
  Program program;
  std::istringstream lines(filled);
  for (std::string line; std::getline(lines, line);) {
    size_t begin = line.find_first_not_of(" \t\r{}");
    if (begin == std::string::npos) continue;
    statement(line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin), program);
  }
  return program;
}

}  // namespace virtual_xpu::visa
