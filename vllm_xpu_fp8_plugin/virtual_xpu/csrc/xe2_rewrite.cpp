// SPDX-License-Identifier: Apache-2.0
// A module whose inline assembly is calls of functions that are written here.
#include <algorithm>
#include <memory>
#include <stdexcept>

#include "loops.h"
#include "xe2.h"

namespace virtual_xpu {
namespace {

// At one place of a kernel.
constexpr uint32_t kMostPayloads = 256;

// An assembly is of so many lanes, which the compiler for the CPU may not choose.
void check_lanes(const std::vector<uint32_t>& words) {
  uint32_t lanes = 0;
  each_instruction(words, 5, [&](uint32_t code, size_t i, uint32_t) {
    const uint32_t* w = words.data() + i;
    if (code == op::kExecutionMode && w[2] == mode::kSubgroupSize) lanes = w[3];
  });
  if (lanes != visa::kLanes)
    throw std::runtime_error(
        "assembly in sub-groups of " +
        (lanes ? std::to_string(lanes) + " lanes" : std::string("any size")));
}

class Rewriting {
 public:
  explicit Rewriting(Stripped stripped)
      : stripped_(std::move(stripped)), b_(stripped_.words) {}
  std::vector<uint32_t> run();

 private:
  void write_body(size_t begin, size_t end, std::vector<uint32_t>& out);
  void write_call(const uint32_t* call, uint32_t length, std::vector<uint32_t>& out);
  void write_create(const uint32_t* call, uint32_t length, Id index, uint32_t count,
                    std::vector<uint32_t>& variables, std::vector<uint32_t>& out);
  void write_change(const char* name, PayloadField field, bool adds);
  Id initialise();

  Stripped stripped_;
  Builder b_;
  // An assembly and the immediates of a call of it -> the function for both.
  std::map<std::vector<uint32_t>, Id> functions_;
  Id initialise_ = 0, local_ = 0;
};

// Whether assemblies and functions on payloads are all that names one in a function.
bool only_called_with(const std::vector<uint32_t>& words, size_t begin, size_t end,
                      Id payload, const Stripped& stripped) {
  bool only = true;
  each_instruction(words, begin, [&](uint32_t code, size_t i, uint32_t length) {
    const uint32_t* w = words.data() + i;
    if (i >= end || code == kAsmCall) return;
    if (code == op::kFunctionCall)
      for (auto& [name, function] : stripped.built_ins)
        if (function.first == w[3]) return;
    for (uint32_t k = 1; k < length; ++k) only = only && w[k] != payload;
  });
  return only;
}

// Defines a payload in memory of the lane: what it is made of, in the order of its
// call. A GPU has one for all lanes, made of the first one's values.
Id Rewriting::initialise() {
  if (initialise_) return initialise_;
  Id pointer = b_.pointer(kGeneric, b_.integer(8)), u32 = b_.integer(32);
  std::vector<uint32_t> type{b_.global(op::kTypeVoid, {}), pointer, b_.integer(64)};
  type.insert(type.end(), 8, u32);
  initialise_ = b_.fresh();
  auto parameters = b_.begin(initialise_, b_.global(op::kTypeFunction, type));
  Id payload = b_.address(parameters[0]);
  b_.store(b_.integer(64), 8, payload, b_.of_first_lane(b_.integer(64), parameters[1]));
  for (auto [field, number] :
       {std::pair{kWidth, 2}, {kHeight, 3}, {kPitch, 4}, {kBlockX, 5}, {kBlockY, 6}})
    b_.store(u32, 4, b_.at(payload, b_.u32(field)),
             b_.of_first_lane(u32, parameters[number]));
  b_.end(0);
  return initialise_;
}

void Rewriting::write_change(const char* name, PayloadField field, bool adds) {
  auto it = stripped_.built_ins.find(name);
  // Without a type it is declared in another function's module, and not called here.
  if (it == stripped_.built_ins.end() || !it->second.second) return;
  auto parameters = b_.begin(it->second.first, it->second.second);
  Id where = b_.at(b_.address(parameters[0]), b_.u32(field));
  Id u32 = b_.integer(32);
  Id value = b_.of_first_lane(u32, parameters[1]);
  if (adds) value = b_.add(b_.load(u32, 4, where), value);
  b_.store(u32, 4, where, value);
  b_.end(0);
}

// A payload has memory of its own: one of `count` at the place that makes it.
void Rewriting::write_create(const uint32_t* call, uint32_t length, Id index,
                             uint32_t count, std::vector<uint32_t>& variables,
                             std::vector<uint32_t>& out) {
  Id u64 = b_.integer(64);
  Id array = b_.global(op::kTypeArray, {u64, b_.u32(count * kPayloadBytes / 8)});
  Id own = b_.fresh(), generic = b_.fresh();
  put(variables, op::kVariable, {b_.pointer(kPrivate, array), own, kPrivate});
  put(out, op::kPtrCastToGeneric, {b_.pointer(kGeneric, array), generic, own});
  if (index) {
    Id first = b_.fresh(), wide = b_.fresh(), offset = b_.fresh(), at = b_.fresh();
    put(out, op::kConvertPtrToU, {u64, first, generic});
    put(out, op::kUConvert, {u64, wide, index});
    put(out, op::kIMul, {u64, offset, wide, b_.u64(kPayloadBytes)});
    put(out, op::kIAdd, {u64, at, first, offset});
    put(out, op::kConvertUToPtr, {call[1], call[2], at});
  } else {
    put(out, op::kBitcast, {call[1], call[2], generic});
  }
  std::vector<uint32_t> operands{b_.global(op::kTypeVoid, {}), b_.fresh(), initialise(),
                                 call[2]};
  operands.insert(operands.end(), call + 4, call + length);
  put(out, op::kFunctionCall, operands);
}

void Rewriting::write_call(const uint32_t* call, uint32_t length,
                           std::vector<uint32_t>& out) {
  auto& assembly = stripped_.assemblies.at(call[3]);
  std::vector<uint32_t> key{call[3]};
  for (uint32_t i = 4; i < length; ++i)
    if (auto* constant = b_.definition(call[i]);
        constant && (*constant)[0] == op::kConstant)
      key.push_back(call[i]);
  auto [it, added] = functions_.emplace(key, 0);
  if (added) {
    it->second = b_.fresh();
    write_assembly(b_, it->second, assembly, call + 4, local_);
  }
  std::vector<uint32_t> operands(call + 1, call + length);
  operands[2] = it->second;
  put(out, op::kFunctionCall, operands);
}

void Rewriting::write_body(size_t begin, size_t end, std::vector<uint32_t>& out) {
  auto& words = b_.words();
  auto create = stripped_.built_ins.find(kCreatePayload);
  std::vector<uint32_t> variables, body;
  size_t entry = 0;  // where the function's first block begins in `body`
  Id block = 0;
  std::unique_ptr<Loops> loops;
  each_instruction(words, begin, [&](uint32_t code, size_t i, uint32_t length) {
    if (i >= end) return;
    const uint32_t* w = words.data() + i;
    if (code == op::kLabel) block = w[1];
    if (code == kAsmCall) return write_call(w, length, body);
    bool creates = code == op::kFunctionCall && create != stripped_.built_ins.end() &&
                   w[3] == create->second.first;
    if (!creates) {
      body.insert(body.end(), w, w + length);
      if (code == op::kLabel && !entry) entry = body.size();
      return;
    }
    // One payload for each place that makes one, and for each pass of the loops that it
    // is in. Made anew in a loop whose passes are not known, it changes for whoever
    // holds it by another way than its name.
    Id index = 0;
    uint64_t count = 1;
    if (!only_called_with(words, begin, end, w[2], stripped_)) {
      if (!loops) loops = std::make_unique<Loops>(b_, words, begin, end);
      if (loops->in_another(block))
        throw std::runtime_error("a 2D block payload that is made in a loop and kept");
      for (auto* loop : loops->counted(block)) {
        Id before = index;
        index = loop->number;
        if (before) {
          Id scaled = b_.fresh();
          put(body, op::kIMul, {b_.integer(32), scaled, before, b_.u32(loop->passes)});
          index = b_.fresh();
          put(body, op::kIAdd, {b_.integer(32), index, scaled, loop->number});
        }
        count *= loop->passes;
        if (count > kMostPayloads)
          throw std::runtime_error(std::to_string(count) +
                                   " 2D block payloads in loops");
      }
    }
    write_create(w, length, index, static_cast<uint32_t>(count), variables, body);
  });
  body.insert(body.begin() + entry, variables.begin(), variables.end());
  out.insert(out.end(), body.begin(), body.end());
}

std::vector<uint32_t> Rewriting::run() {
  std::vector<uint32_t> out;
  size_t begin = 0;
  each_instruction(b_.words(), 5, [&](uint32_t code, size_t i, uint32_t length) {
    if (code == op::kFunction) {
      if (!begin) out.assign(b_.words().begin(), b_.words().begin() + i);
      begin = i;
    }
    if (code == op::kFunctionEnd) write_body(begin, i + length, out);
  });
  write_change(kSetPayloadX, kBlockX, false);
  write_change(kSetPayloadY, kBlockY, false);
  write_change(kAddPayloadX, kBlockX, true);
  write_change(kAddPayloadY, kBlockY, true);
  b_.set_words(std::move(out));
  return b_.finish();
}

}  // namespace

std::vector<uint32_t> rewrite_xe2(const std::vector<uint32_t>& words,
                                  std::string& missing) {
  try {
    check_lanes(words);
    return Rewriting(strip_xe2(words)).run();
  } catch (const std::exception& e) {
    missing = std::string("it has no meaning for ") + e.what();
    return {};
  }
}

}  // namespace virtual_xpu
