// SPDX-License-Identifier: Apache-2.0
// Every op that has no kernel of its own runs the host's on the same memory.
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <torch/library.h>

#include <unordered_map>
#include <unordered_set>

#include "alias.h"
#include "generator.h"

namespace virtual_xpu {
namespace {

using c10::IValue;
using torch::jit::Stack;

thread_local int t_in_fallback = 0;

// Results of the host's kernels are to be device memory, where the device's ops run.
struct ResultAllocator final : c10::Allocator {
  c10::Allocator* host = c10::GetCPUAllocator();
  c10::DataPtr allocate(size_t bytes) override {
    return t_in_fallback ? host_allocator()->allocate(bytes) : host->allocate(bytes);
  }
  // oneDNN takes raw memory in one call and gives it back in another.
  c10::DeleterFnPtr raw_deleter() const override { return &delete_raw; }
  static void delete_raw(void* memory) {
    if (is_device_memory(memory))
      delete_host_storage(memory);
    else
      c10::GetDefaultCPUAllocator()->raw_deleter()(memory);
  }
  bool is_simple_data_ptr(const c10::DataPtr& data) const override {
    return host->is_simple_data_ptr(data);
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    host->copy_data(to, from, bytes);
  }
};

struct InFallback {
  explicit InFallback(bool on) : on_(on) { t_in_fallback += on_; }
  ~InFallback() { t_in_fallback -= on_; }
  bool on_;
};

// What of an op does not change from call to call.
struct OpFacts {
  std::vector<size_t> generators;  // positions of arguments that are one
  bool mixes_devices = false;  // takes host tensors beside the device's, as on a GPU
};

const OpFacts& facts_of(const c10::OperatorHandle& op) {
  // Indices may lie on the host, and so may what is copied from or to it.
  static const auto* mixing = new std::unordered_set<std::string>{
      "aten::copy_",         "aten::_copy_from",    "aten::_copy_from_and_resize",
      "aten::index",         "aten::index_put_",    "aten::_index_put_impl_",
      "aten::index_put",     "aten::_unsafe_index", "aten::_unsafe_index_put",
      "aten::set_",          "aten::_to_copy",      "aten::repeat_interleave",
      "aten::_foreach_copy_"};
  thread_local std::unordered_map<const c10::FunctionSchema*, OpFacts> known;
  auto [it, made] = known.try_emplace(&op.schema());
  if (made) {
    const auto& schema = op.schema();
    // The kernel package's ops check what they take.
    it->second.mixes_devices =
        mixing->count(schema.name()) || schema.name().compare(0, 6, "aten::");
    for (size_t i = 0; i < schema.arguments().size(); ++i) {
      auto type = schema.arguments()[i].type();
      if (auto optional = type->cast<c10::OptionalType>())
        type = optional->getElementType();
      if (type->kind() == c10::TypeKind::GeneratorType)
        it->second.generators.push_back(i);
    }
  }
  return it->second;
}

// One call: its device tensors beside their aliases.
class Call {
 public:
  Call(const c10::OperatorHandle& op, Stack* stack)
      : op_(op), stack_(stack), facts_(facts_of(op)) {
    size_t n = op.schema().arguments().size();
    first_ = stack->size() - n;
    // The device first: others may have to be compared with it.
    for (size_t i = 0; i < n; ++i) find_device(argument(i));
    for (size_t i = 0; i < n; ++i) replace(argument(i));
    for (size_t i : facts_.generators) {
      auto& value = argument(i);
      if (device_ < 0) continue;
      if (value.isNone())
        value = draw_from(default_generator(device_));
      else if (value.toGenerator().device().type() == c10::kXPU)
        value = draw_from(value.toGenerator());
    }
  }

  bool on_device() const { return device_ >= 0; }
  c10::DeviceIndex device() const { return device_; }

  // `copy`: results are in the host's own memory and have to move.
  void finish(bool copy) {
    for (auto& [tensor, alias] : seen_) follow(tensor, alias);
    size_t n = op_.schema().returns().size();
    for (size_t i = stack_->size() - n; i < stack_->size(); ++i) {
      auto& value = (*stack_)[i];
      if (value.isTensor()) {
        value = result(value.toTensor(), copy);
      } else if (value.isTensorList()) {
        c10::List<at::Tensor> list;
        for (const at::Tensor& t : value.toTensorList())
          list.push_back(result(t, copy));
        value = list;
      }
    }
  }

 private:
  IValue& argument(size_t i) { return (*stack_)[first_ + i]; }

  static bool ours(const at::Tensor& t) {
    return t.defined() && t.device().type() == c10::kXPU;
  }

  void take_device(const at::Tensor& t) {
    if (!ours(t)) return;
    if (device_ < 0) {
      device_ = t.device().index();
    } else if (t.device().index() != device_ && !facts_.mixes_devices) {
      mismatch(t.device());
    }
  }

  void mismatch(c10::Device other) const {
    TORCH_CHECK(false,
                "Expected all tensors to be on the same device, but found at least two "
                "devices, ",
                c10::Device(c10::kXPU, device_), " and ", other, "! (when checking ",
                op_.schema().name(), ")");
  }

  void find_device(const IValue& value) {
    if (value.isTensor()) {
      take_device(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& t : value.toTensorList()) take_device(t);
    } else if (value.isOptionalTensorList()) {
      for (std::optional<at::Tensor> t : value.toOptionalTensorList())
        if (t) take_device(*t);
    } else if (value.isDevice() && value.toDevice().type() == c10::kXPU &&
               device_ < 0) {
      auto index = value.toDevice().index();
      device_ = index < 0 ? current_device() : index;
    }
  }

  at::Tensor alias(const at::Tensor& t) {
    if (!ours(t)) {
      if (t.defined() && t.dim() > 0 && device_ >= 0 && !facts_.mixes_devices &&
          t.device().type() == c10::kCPU)
        mismatch(t.device());
      return t;
    }
    seen_.emplace_back(t, on_host(t));
    return seen_.back().second;
  }

  void replace(IValue& value) {
    if (value.isTensor()) {
      value = alias(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& t : value.toTensorList()) list.push_back(alias(t));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (std::optional<at::Tensor> t : value.toOptionalTensorList())
        list.push_back(t ? std::optional<at::Tensor>(alias(*t)) : std::nullopt);
      value = list;
    } else if (value.isStorage() && value.toStorage().device().type() == c10::kXPU) {
      storages_.push_back(value.toStorage());
      value = host_storage(value.toStorage());
    } else if (value.isDevice() && value.toDevice().type() == c10::kXPU) {
      value = c10::Device(c10::kCPU);
    }
  }

  // The device's storage for a host's storage that a kernel has left.
  c10::Storage resolve(const c10::Storage& host) {
    // An alias may have been set to another's memory, unlike its tensor as yet.
    for (auto& [tensor, alias] : seen_)
      if (host.is_alias_of(alias.storage()) && host.data() == tensor.storage().data())
        return tensor.storage();
    for (auto& storage : storages_)
      if (host.data() == storage.data()) return storage;
    return device_storage(host, device_);
  }

  // Makes a device tensor what its alias has become: resized, or set to other memory.
  void follow(const at::Tensor& tensor, const at::Tensor& alias) {
    auto* to = tensor.unsafeGetTensorImpl();
    auto* from = alias.unsafeGetTensorImpl();
    auto* mine = to->unsafe_storage().unsafeGetStorageImpl();
    auto* host = from->unsafe_storage().unsafeGetStorageImpl();
    if (host->data() != mine->data() || host->nbytes() != mine->nbytes()) {
      bool foreign = host->data_ptr().get_deleter() != &delete_host_storage;
      bool another = storages_.size() || op_.schema().name() == "aten::set_";
      if (another || foreign) {
        to->set_storage_keep_dtype(resolve(alias.storage()));
      } else {
        // Resized in place: every view of the storage has to see it.
        auto renewed = device_storage(alias.storage(), device_);
        auto* fresh = renewed.unsafeGetStorageImpl();
        mine->set_data_ptr_noswap(std::move(fresh->_mutable_data_ptr_no_checks()));
        mine->set_nbytes(fresh->nbytes());
      }
    }
    if (to->sizes() != from->sizes() || to->strides() != from->strides() ||
        to->storage_offset() != from->storage_offset())
      to->set_sizes_and_strides(from->sizes(), from->strides(), from->storage_offset());
  }

  at::Tensor result(const at::Tensor& t, bool copy) {
    if (!t.defined() || t.device().type() != c10::kCPU) return t;
    for (auto& [tensor, alias] : seen_)
      if (alias.is_same(t)) return tensor;
    auto made = copy ? copied(t) : on_device_view(t);
    return made;
  }

  at::Tensor on_device_view(const at::Tensor& t) {
    for (auto& [tensor, alias] : seen_)
      if (t.storage().is_alias_of(alias.storage())) {
        auto made = at::detail::make_tensor<c10::TensorImpl>(
            c10::Storage(tensor.storage()), c10::DispatchKeySet(c10::DispatchKey::XPU),
            t.dtype());
        made.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(),
                                                          t.storage_offset());
        return made;
      }
    return virtual_xpu::on_device(t, device_);
  }

  at::Tensor copied(const at::Tensor& t) {
    for (auto& [tensor, alias] : seen_)
      if (t.storage().is_alias_of(alias.storage())) return on_device_view(t);
    InFallback results(true);
    return virtual_xpu::on_device(t.clone(), device_);
  }

  const c10::OperatorHandle& op_;
  Stack* stack_;
  const OpFacts& facts_;
  size_t first_;
  c10::DeviceIndex device_ = -1;
  std::vector<std::pair<at::Tensor, at::Tensor>> seen_;
  std::vector<c10::Storage> storages_;
};

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

const bool kInstalled = [] {
  c10::SetCPUAllocator(new ResultAllocator, 255);
  return true;
}();

}  // namespace
}  // namespace virtual_xpu
