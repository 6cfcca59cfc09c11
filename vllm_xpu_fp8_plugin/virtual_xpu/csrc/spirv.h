// SPDX-License-Identifier: Apache-2.0
// SPIR-V modules: found in device images, and reduced to one kernel.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace virtual_xpu {

struct Words {
  const uint32_t* begin = nullptr;
  size_t count = 0;
};

// The module that an ahead-of-time image was made from and still carries; none if the
// image is of another form.
Words find_spirv(const unsigned char* begin, const unsigned char* end);

// A module, taken apart once for all of its kernels.
class Module {
 public:
  explicit Module(Words words);
  // What the CPU's compiler has not, and that this module needs: instructions of an
  // Intel GPU. Empty if there is none.
  const std::string& missing() const { return missing_; }
  // Whether all that is missing can be written in other instructions.
  bool rewritable() const { return rewritable_; }
  // The same module with one kernel and what it calls. A module of a hundred kernels
  // takes minutes to compile, a kernel a fraction of a second.
  std::vector<uint32_t> only(const std::string& kernel) const;

 private:
  struct Function {
    size_t begin, end;
    std::vector<uint32_t> calls;
  };
  Words words_;
  size_t functions_begin_ = 0;
  std::string missing_;
  bool rewritable_ = true;
  std::vector<Function> functions_;
  std::unordered_map<uint32_t, size_t> function_of_;  // its id -> index
  std::unordered_map<uint32_t, size_t> defined_in_;   // a local id -> function's index
  std::unordered_map<std::string, uint32_t> kernels_;
};

}  // namespace virtual_xpu
