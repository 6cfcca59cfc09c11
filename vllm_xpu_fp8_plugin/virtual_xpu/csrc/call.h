// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <vector>

#include "device.h"

namespace virtual_xpu {

struct OpFacts;

// While one lives, results of the host's kernels are device memory.
struct InFallback {
  explicit InFallback(bool on);
  ~InFallback();
  bool on_;
};

// One call: its device tensors beside their aliases.
class Call {
 public:
  Call(const c10::OperatorHandle& op, torch::jit::Stack* stack);
  bool on_device() const { return device_ >= 0; }
  c10::DeviceIndex device() const { return device_; }
  // `copy`: results are in the host's own memory and have to move.
  void finish(bool copy);

 private:
  c10::IValue& argument(size_t i) { return (*stack_)[first_ + i]; }
  void take_device(const at::Tensor& t);
  void check_out(const c10::IValue& value) const;
  void mismatch(c10::Device other) const;
  void find_device(const c10::IValue& value);
  at::Tensor alias(const at::Tensor& t);
  void replace(c10::IValue& value);
  c10::Storage resolve(const c10::Storage& host);
  void follow(const at::Tensor& tensor, const at::Tensor& alias);
  at::Tensor result(const at::Tensor& t, bool copy);
  at::Tensor on_device_view(const at::Tensor& t);
  at::Tensor copied(const at::Tensor& t);

  const c10::OperatorHandle& op_;
  torch::jit::Stack* stack_;
  const OpFacts& facts_;
  size_t first_;
  c10::DeviceIndex device_ = -1;
  std::vector<std::pair<at::Tensor, at::Tensor>> seen_;
  std::vector<c10::Storage> storages_;
};

}  // namespace virtual_xpu
