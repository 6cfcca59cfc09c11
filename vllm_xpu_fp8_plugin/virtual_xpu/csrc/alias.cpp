// SPDX-License-Identifier: Apache-2.0
#include "alias.h"

#include <ATen/EmptyTensor.h>

namespace virtual_xpu {
namespace {

void delete_owner(void* storage) { delete static_cast<c10::Storage*>(storage); }

// Memory that is not of the device's allocator (a view of pinned memory, say).
c10::Storage foreign(const c10::Storage& storage, c10::Device label,
                     c10::Allocator* allocator) {
  c10::DataPtr data(const_cast<void*>(storage.data()), new c10::Storage(storage),
                    &delete_owner, label);
  return c10::Storage(c10::Storage::use_byte_size_t(), storage.nbytes(),
                      std::move(data), allocator, storage.resizable());
}

at::Tensor relabel(const at::Tensor& tensor, c10::Storage storage,
                   c10::DispatchKey backend) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(backend), tensor.dtype());
  auto* to = made.unsafeGetTensorImpl();
  auto* from = tensor.unsafeGetTensorImpl();
  to->set_sizes_and_strides(from->sizes(), from->strides(), from->storage_offset());
  if (from->is_conj()) to->_set_conj(true);
  if (from->is_neg()) to->_set_neg(true);
  if (from->is_wrapped_number()) to->set_wrapped_number(true);
  // So that whoever keeps something made from a weight sees that it has changed.
  if (!to->is_inference() && !from->is_inference())
    to->set_version_counter(from->version_counter());
  return made;
}

}  // namespace

c10::Storage host_storage(const c10::Storage& device) {
  const auto& data = device.data_ptr();
  if (data.get_deleter() != &delete_device_storage)
    return foreign(device, c10::Device(c10::kCPU), host_allocator());
  auto* block = Block::of(data.get_context());
  auto* known = block->host.load(std::memory_order_acquire);
  if (known && known->nbytes() == device.nbytes())
    return c10::Storage(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(known));
  ++block->references;
  c10::Storage made(c10::Storage::use_byte_size_t(), device.nbytes(),
                    c10::DataPtr(block->memory(), block->memory(), &delete_host_storage,
                                 c10::Device(c10::kCPU)),
                    host_allocator(), true);
  if (known) return made;
  auto* kept = made.unsafeGetStorageImpl();
  c10::raw::intrusive_ptr::incref(kept);
  if (!block->host.compare_exchange_strong(known, kept))
    c10::raw::intrusive_ptr::decref(kept);  // another thread was faster
  return made;
}

at::Tensor on_host(const at::Tensor& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(tensor.layout() == c10::kStrided,
                              "The virtual XPU has no tensors of layout ",
                              tensor.layout(), ".");
  return relabel(tensor, host_storage(tensor.storage()), c10::DispatchKey::CPU);
}

c10::Storage device_storage(const c10::Storage& host, c10::DeviceIndex device) {
  const auto& data = host.data_ptr();
  c10::Device label(c10::kXPU, device);
  if (data.get_deleter() != &delete_host_storage)
    return host.nbytes()
               ? foreign(host, label, allocator())
               : c10::Storage(c10::Storage::use_byte_size_t(), 0, allocator(), true);
  auto* block = Block::of(data.get_context());
  ++block->references;
  c10::Storage made(
      c10::Storage::use_byte_size_t(), host.nbytes(),
      c10::DataPtr(block->memory(), block->memory(), &delete_device_storage, label),
      allocator(), true);
  auto* kept = host.unsafeGetStorageImpl();
  c10::raw::intrusive_ptr::incref(kept);
  if (auto* old = block->host.exchange(kept)) c10::raw::intrusive_ptr::decref(old);
  return made;
}

at::Tensor on_device(const at::Tensor& tensor, c10::DeviceIndex device) {
  return relabel(tensor, device_storage(tensor.storage(), device),
                 c10::DispatchKey::XPU);
}

}  // namespace virtual_xpu
