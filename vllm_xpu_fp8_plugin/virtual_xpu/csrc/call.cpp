// SPDX-License-Identifier: Apache-2.0
#include "call.h"

#include <unordered_map>
#include <unordered_set>

#include "alias.h"
#include "generator.h"

namespace virtual_xpu {

using c10::IValue;
using torch::jit::Stack;

// What of an op does not change from call to call.
struct OpFacts {
  std::vector<size_t> generators;  // positions of arguments that are one
  bool mixes_devices = false;  // takes host tensors beside the device's, as on a GPU
  std::vector<size_t> outs;    // positions of results that the caller brings
};

namespace {

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
    bool kernels = schema.name().compare(0, 6, "aten::");
    it->second.mixes_devices = kernels || mixing->count(schema.name());
    for (size_t i = 0; i < schema.arguments().size(); ++i) {
      const auto& argument = schema.arguments()[i];
      bool writes = argument.alias_info() && argument.alias_info()->isWrite();
      if (kernels ? argument.name() == "out" : argument.kwarg_only() && writes)
        it->second.outs.push_back(i);
      auto type = argument.type();
      if (auto optional = type->cast<c10::OptionalType>())
        type = optional->getElementType();
      if (type->kind() == c10::TypeKind::GeneratorType)
        it->second.generators.push_back(i);
    }
  }
  return it->second;
}

bool ours(const at::Tensor& t) { return t.defined() && t.device().type() == c10::kXPU; }

}  // namespace

Call::Call(const c10::OperatorHandle& op, Stack* stack)
    : op_(op), stack_(stack), facts_(facts_of(op)) {
  size_t n = op.schema().arguments().size();
  first_ = stack->size() - n;
  // The device first: others may have to be compared with it.
  for (size_t i = 0; i < n; ++i) find_device(argument(i));
  for (size_t i : facts_.outs) check_out(argument(i));
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

void Call::finish(bool copy) {
  for (auto& [tensor, alias] : seen_) follow(tensor, alias);
  size_t n = op_.schema().returns().size();
  for (size_t i = stack_->size() - n; i < stack_->size(); ++i) {
    auto& value = (*stack_)[i];
    if (value.isTensor()) {
      value = result(value.toTensor(), copy);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& t : value.toTensorList()) list.push_back(result(t, copy));
      value = list;
    }
  }
}

void Call::take_device(const at::Tensor& t) {
  if (!ours(t)) return;
  if (device_ < 0) {
    device_ = t.device().index();
  } else if (t.device().index() != device_ && !facts_.mixes_devices) {
    mismatch(t.device());
  }
}

// Which device a tensor was on cannot be seen behind its alias. A scalar of the host's
// is taken as an input, and a GPU's kernel cannot write one.
void Call::check_out(const IValue& value) const {
  if (!value.isTensor() || device_ < 0) return;
  const auto& out = value.toTensor();
  if (!out.defined() || ours(out) || is_pinned(out.const_data_ptr())) return;
  TORCH_CHECK(false, op_.schema().name(), ": out must be on the device of the input, ",
              c10::Device(c10::kXPU, device_), ", got ", out.device());
}

void Call::mismatch(c10::Device other) const {
  TORCH_CHECK(false,
              "Expected all tensors to be on the same device, but found at least two "
              "devices, ",
              c10::Device(c10::kXPU, device_), " and ", other, "! (when checking ",
              op_.schema().name(), ")");
}

void Call::find_device(const IValue& value) {
  if (value.isTensor()) {
    take_device(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& t : value.toTensorList()) take_device(t);
  } else if (value.isOptionalTensorList()) {
    for (std::optional<at::Tensor> t : value.toOptionalTensorList())
      if (t) take_device(*t);
  } else if (value.isDevice() && value.toDevice().type() == c10::kXPU && device_ < 0) {
    auto index = value.toDevice().index();
    device_ = index < 0 ? current_device() : index;
  }
}

at::Tensor Call::alias(const at::Tensor& t) {
  if (!ours(t)) {
    if (t.defined() && t.dim() > 0 && device_ >= 0 && !facts_.mixes_devices &&
        t.device().type() == c10::kCPU)
      mismatch(t.device());
    return t;
  }
  seen_.emplace_back(t, on_host(t));
  return seen_.back().second;
}

void Call::replace(IValue& value) {
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
c10::Storage Call::resolve(const c10::Storage& host) {
  // An alias may have been set to another's memory, unlike its tensor as yet.
  for (auto& [tensor, alias] : seen_)
    if (host.is_alias_of(alias.storage()) && host.data() == tensor.storage().data())
      return tensor.storage();
  for (auto& storage : storages_)
    if (host.data() == storage.data()) return storage;
  return device_storage(host, device_);
}

// Makes a device tensor what its alias has become: resized, or set to other memory.
void Call::follow(const at::Tensor& tensor, const at::Tensor& alias) {
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

at::Tensor Call::result(const at::Tensor& t, bool copy) {
  if (!t.defined() || t.device().type() != c10::kCPU) return t;
  for (auto& [tensor, alias] : seen_)
    if (alias.is_same(t)) return tensor;
  auto made = copy ? copied(t) : on_device_view(t);
  return made;
}

at::Tensor Call::on_device_view(const at::Tensor& t) {
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

at::Tensor Call::copied(const at::Tensor& t) {
  for (auto& [tensor, alias] : seen_)
    if (t.storage().is_alias_of(alias.storage())) return on_device_view(t);
  InFallback results(true);
  return virtual_xpu::on_device(t.clone(), device_);
}

}  // namespace virtual_xpu
