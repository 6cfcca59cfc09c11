// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace virtual_xpu::visa {

// Reads a line piece by piece; what does not fit is an error that quotes the line.
class Line {
 public:
  explicit Line(std::string text) : text_(std::move(text)) {}
  [[noreturn]] void fail() const {
    throw std::runtime_error("the instruction '" + text_ + "'");
  }
  bool done() {
    skip();
    return at_ == text_.size();
  }
  bool take(const std::string& word) {
    skip();
    if (text_.compare(at_, word.size(), word)) return false;
    at_ += word.size();
    return true;
  }
  bool take_before_number(const std::string& word) {
    size_t before = at_;
    if (take(word) && at_number()) return true;
    at_ = before;
    return false;
  }
  void need(const std::string& word) {
    if (!take(word)) fail();
  }
  // Letters, digits, underscores, and those of `more`.
  std::string word(const char* more = "") {
    skip();
    size_t begin = at_;
    while (at_ < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '_' ||
            std::string(more).find(text_[at_]) != std::string::npos))
      ++at_;
    if (at_ == begin) fail();
    return text_.substr(begin, at_ - begin);
  }
  uint64_t number() {
    skip();
    char* end;
    if (!std::isdigit(static_cast<unsigned char>(text_[at_]))) fail();
    uint64_t value = std::strtoull(text_.c_str() + at_, &end, 0);
    at_ = end - text_.c_str();
    return value;
  }
  bool at_number() {
    skip();
    return std::isdigit(static_cast<unsigned char>(text_[at_]));
  }

 private:
  void skip() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])))
      ++at_;
  }
  std::string text_;
  size_t at_ = 0;
};

}  // namespace virtual_xpu::visa
