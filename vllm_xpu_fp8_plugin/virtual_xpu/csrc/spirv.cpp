// SPDX-License-Identifier: Apache-2.0
#include "spirv.h"

#include <elf.h>

#include <cstdlib>
#include <cstring>

#include "spirv_builder.h"

namespace virtual_xpu {
namespace {

// Capabilities of extensions that only an Intel GPU has.
const char* gpu_only(uint32_t capability) {
  switch (capability) {
    case 5606:
      return "inline assembly of an Intel GPU (SPV_INTEL_inline_assembly)";
    case 5617:
      return "vector compute (SPV_INTEL_vector_compute)";
    case 6141:
      return "split barriers (SPV_INTEL_split_barrier)";
    case 6228:
      return "2D block loads (SPV_INTEL_2d_block_io)";
    case 6236:
      return "matrix multiply-accumulate (SPV_INTEL_subgroup_matrix_multiply"
             "_accumulate)";
    default:
      return nullptr;
  }
}

// Those of which xe2_rewrite.cpp knows the meaning.
bool has_meaning(uint32_t capability) {
  return capability == 5606 || capability == 6141;
}

// Whether an instruction within a function defines an id. Types and constants stand
// before the first function.
bool has_result(uint32_t code) {
  switch (code) {
    case 0:
    case 8:
    case 62:
    case 63:
    case 64:
    case 99:
    case 220:
    case 221:
    case 224:
    case 225:
    case 228:
    case 246:
    case 247:
    case 249:
    case 250:
    case 251:
    case 252:
    case 253:
    case 254:
    case 255:
    case 256:
    case 257:
    case 260:
    case 317:
    case 319:
    case 5576:
    case 5580:
    case 5630:
    case 6142:
    case 6143:
      return false;
    default:
      return true;
  }
}

template <class F>
void each(const uint32_t* words, size_t begin, size_t end, F visit) {
  for (size_t i = begin; i < end;) {
    uint32_t length = words[i] >> 16;
    if (!length) return;
    visit(words[i] & 0xffff, i, length);
    i += length;
  }
}

bool is_annotation(uint32_t code) {
  return code == op::kName || code == op::kMemberName || code == op::kDecorate ||
         code == op::kMemberDecorate || code == op::kDecorateId;
}

}  // namespace

Words find_spirv(const unsigned char* begin, const unsigned char* end) {
  // Intel's offline compiler writes an ar archive with a binary for each GPU and one
  // member for any other, an ELF file with the SPIR-V in a section of its own.
  constexpr uint32_t kSpirvSection = 0xff000009;
  constexpr char kArchive[] = "!<arch>\n";
  if (end - begin < 8 || std::memcmp(begin, kArchive, 8)) return {};
  for (auto* p = begin + 8; p + 60 <= end;) {
    size_t size = std::strtoul(reinterpret_cast<const char*>(p) + 48, nullptr, 10);
    auto* file = p + 60;
    if (size > static_cast<size_t>(end - file)) return {};
    Elf64_Ehdr elf;
    if (!std::strncmp(reinterpret_cast<const char*>(p), "generic_ir", 10) &&
        size > sizeof elf && !std::memcmp(file, ELFMAG, SELFMAG)) {
      std::memcpy(&elf, file, sizeof elf);
      for (int i = 0; i < elf.e_shnum; ++i) {
        Elf64_Shdr section;
        size_t at = elf.e_shoff + i * sizeof section;
        if (at + sizeof section > size) return {};
        std::memcpy(&section, file + at, sizeof section);
        if (section.sh_type != kSpirvSection ||
            section.sh_offset + section.sh_size > size)
          continue;
        auto* words = reinterpret_cast<const uint32_t*>(file + section.sh_offset);
        if (section.sh_size > 20 && words[0] == 0x07230203)
          return {words, section.sh_size / 4};
      }
    }
    p = file + size + size % 2;
  }
  return {};
}

Module::Module(Words words) : words_(words) {
  auto* w = words.begin;
  functions_begin_ = words.count;
  each(w, 5, words.count, [&](uint32_t code, size_t i, uint32_t) {
    if (code == op::kCapability && missing_.empty())
      if (auto* name = gpu_only(w[i + 1])) missing_ = name;
    if (code == op::kCapability && gpu_only(w[i + 1]))
      rewritable_ = rewritable_ && has_meaning(w[i + 1]);
    if (code == op::kEntryPoint)
      kernels_[reinterpret_cast<const char*>(w + i + 3)] = w[i + 2];
    if (code == op::kFunction) {
      functions_begin_ = std::min(functions_begin_, i);
      function_of_[w[i + 2]] = functions_.size();
      functions_.push_back({i, i, {}});
    }
    if (functions_.empty()) return;
    auto& function = functions_.back();
    if (code == op::kFunctionEnd) function.end = i + 1;
    if (code == op::kFunctionCall) function.calls.push_back(w[i + 3]);
    if (has_result(code) && code != op::kFunctionEnd)
      defined_in_[w[code == op::kLabel ? i + 1 : i + 2]] = functions_.size() - 1;
  });
  // An id that is defined before the functions is none of theirs.
  each(w, 5, functions_begin_, [&](uint32_t code, size_t i, uint32_t length) {
    if (is_annotation(code) || code == op::kEntryPoint || code == op::kExecutionMode ||
        code == op::kExecutionModeId)
      return;
    for (uint32_t k = 1; k < length && k < 3; ++k) defined_in_.erase(w[i + k]);
  });
}

std::vector<uint32_t> Module::only(const std::string& kernel) const {
  auto* w = words_.begin;
  auto entry = kernels_.find(kernel);
  if (entry == kernels_.end()) return {w, w + words_.count};
  std::vector<bool> kept(functions_.size());
  std::vector<size_t> todo{function_of_.at(entry->second)};
  while (!todo.empty()) {
    size_t at = todo.back();
    todo.pop_back();
    if (kept[at]) continue;
    kept[at] = true;
    for (auto id : functions_[at].calls)
      if (auto it = function_of_.find(id); it != function_of_.end())
        todo.push_back(it->second);
  }
  auto gone = [&](uint32_t id) {
    auto it = defined_in_.find(id);
    return it != defined_in_.end() && !kept[it->second];
  };
  std::vector<uint32_t> out(w, w + 5);
  each(w, 5, functions_begin_, [&](uint32_t code, size_t i, uint32_t length) {
    if (code == op::kEntryPoint && w[i + 2] != entry->second) return;
    bool other = code == op::kExecutionMode || code == op::kExecutionModeId;
    if (other && w[i + 1] != entry->second) return;
    if (is_annotation(code) && gone(w[i + 1])) return;
    out.insert(out.end(), w + i, w + i + length);
  });
  for (size_t i = 0; i < functions_.size(); ++i)
    if (kept[i]) out.insert(out.end(), w + functions_[i].begin, w + functions_[i].end);
  return out;
}

}  // namespace virtual_xpu
