// SPDX-License-Identifier: Apache-2.0
// Every op that has no kernel of its own runs the host's on the same memory.
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>

#include <unordered_map>

#include "alias.h"
#include "call.h"

namespace virtual_xpu {
namespace {

using torch::jit::Stack;

struct OnDevice {
  explicit OnDevice(c10::DeviceIndex device) : before_(current_device()) {
    if (device >= 0) set_device(device);
  }
  ~OnDevice() { set_device(before_); }
  c10::DeviceIndex before_;
};

void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  Call call(op, stack);
  OnDevice device(call.device());
  wait_stream(current_device());
  {
    InFallback results(call.on_device());
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  if (call.on_device()) call.finish(false);
}

// Ops of the kernel package that run in PyTorch: op -> the reference's op.
std::unordered_map<std::string, c10::OperatorHandle>& references() {
  static auto* made = new std::unordered_map<std::string, c10::OperatorHandle>;
  return *made;
}

void reference(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  auto name = op.schema().name();
  const auto& target = references().at(name);
  Call call(op, stack);
  OnDevice device(call.device());
  wait_stream(current_device());
  target.callBoxed(stack);
  if (call.on_device()) call.finish(true);
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device> device,
                 std::optional<bool>, std::optional<at::MemoryFormat> format) {
  OnDevice on(device ? device->index() : -1);
  return at::detail::empty_generic(size, allocator(),
                                   c10::DispatchKeySet(c10::DispatchKey::XPU),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  OnDevice on(device ? device->index() : -1);
  return at::detail::empty_strided_generic(size, stride, allocator(),
                                           c10::DispatchKeySet(c10::DispatchKey::XPU),
                                           c10::dtype_or_default(dtype));
}

void record_stream(at::Tensor& tensor, c10::Stream stream) {
  allocator()->recordStream(tensor.storage().data_ptr(), stream);
}

at::Tensor host_view(const at::Tensor& tensor) {
  wait_stream(tensor.device().index());
  return on_host(tensor);
}

at::Tensor device_view(const at::Tensor& tensor, int64_t device) {
  return on_device(tensor, static_cast<c10::DeviceIndex>(device));
}

std::vector<std::unique_ptr<torch::Library>>& overrides() {
  static auto* made = new std::vector<std::unique_ptr<torch::Library>>;
  return *made;
}

// Gives an op of the kernel package the reference's op for the XPU key, in place of a
// compiled one if it has one.
void use_reference(const std::string& name, const std::string& reference_name) {
  auto& dispatcher = c10::Dispatcher::singleton();
  references().insert_or_assign(
      name, dispatcher.findSchemaOrThrow(reference_name.c_str(), ""));
  // torch warns of a compiled kernel that is replaced, as is meant here.
  struct Silent final : c10::WarningHandler {
    void process(const c10::Warning&) override {}
  } silent;
  c10::WarningUtils::WarningHandlerGuard guard(&silent);
  auto split = name.find("::");
  auto library =
      std::make_unique<torch::Library>(torch::Library::IMPL, name.substr(0, split),
                                       c10::DispatchKey::XPU, __FILE__, __LINE__);
  library->impl(name.substr(split + 2).c_str(),
                torch::CppFunction::makeFromBoxedFunction<&reference>());
  overrides().push_back(std::move(library));
}

TORCH_LIBRARY(virtual_xpu, m) {
  m.def("host(Tensor tensor) -> Tensor");
  m.impl("host", c10::DispatchKey::XPU, &host_view);
  m.def("device(Tensor tensor, int device) -> Tensor");
  m.impl("device", c10::DispatchKey::CPU, &device_view);
  m.def("use_reference(str name, str reference) -> ()", &use_reference);
}

TORCH_LIBRARY_IMPL(_, XPU, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, XPU, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("record_stream", &record_stream);
  // A view is the device's own; no kernel runs.
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  // These have kernels for every device, which would ask for one of the XPU's.
  for (auto* name :
       {"copy_", "_local_scalar_dense", "set_.source_Storage",
        "set_.source_Storage_storage_offset", "convolution", "convolution_backward"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

}  // namespace
}  // namespace virtual_xpu
