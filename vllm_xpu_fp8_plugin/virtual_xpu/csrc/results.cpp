// SPDX-License-Identifier: Apache-2.0
#include <c10/core/CPUAllocator.h>

#include "call.h"

namespace virtual_xpu {
namespace {

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

const bool kInstalled = [] {
  c10::SetCPUAllocator(new ResultAllocator, 255);
  return true;
}();

}  // namespace

InFallback::InFallback(bool on) : on_(on) { t_in_fallback += on_; }
InFallback::~InFallback() { t_in_fallback -= on_; }

}  // namespace virtual_xpu
