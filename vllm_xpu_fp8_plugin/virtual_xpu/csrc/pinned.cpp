// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/CachingHostAllocator.h>

#include <map>
#include <mutex>

#include "device.h"

namespace virtual_xpu {
namespace {

// Host memory that kernels may read asynchronously: freed once they are done.
struct Pinned final : at::HostAllocator {
  std::mutex mutex;
  std::map<const char*, size_t> ranges;

  c10::DataPtr allocate(size_t bytes) override {
    if (!bytes) return {nullptr, c10::kCPU};
    auto* memory = runtime().allocate(bytes);
    TORCH_CHECK_WITH(OutOfMemoryError, memory, "No pinned memory: ", bytes,
                     " bytes were asked for.");
    std::lock_guard<std::mutex> lock(mutex);
    ranges[static_cast<char*>(memory)] = bytes;
    return {memory, memory, &free_pinned, c10::Device(c10::kCPU)};
  }
  bool has(const void* pointer) {
    std::lock_guard<std::mutex> lock(mutex);
    auto it = ranges.upper_bound(static_cast<const char*>(pointer));
    if (it == ranges.begin()) return false;
    --it;
    return static_cast<const char*>(pointer) < it->first + it->second;
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  // Nothing is cached, and freeing waits for kernels.
  bool record_event(void*, void*, c10::Stream) override { return true; }
  void empty_cache() override {}
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
  static void free_pinned(void* memory);
};

Pinned& pinned() {
  static auto* made = new Pinned;
  return *made;
}

void Pinned::free_pinned(void* memory) {
  for (int i = 0; i < device_count(); ++i) synchronize(i);
  std::lock_guard<std::mutex> lock(pinned().mutex);
  pinned().ranges.erase(static_cast<char*>(memory));
  runtime().release(memory);
}

const bool kPinnedRegistered = [] {
  at::setHostAllocator(c10::kXPU, &pinned());
  return true;
}();

}  // namespace

c10::Allocator* pinned_allocator() { return &pinned(); }
bool is_pinned(const void* pointer) { return pinned().has(pointer); }

}  // namespace virtual_xpu
