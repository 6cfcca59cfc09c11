// SPDX-License-Identifier: Apache-2.0
// The device's memory as torch's allocators.
#include <cstring>

#include "device.h"
#include "pool.h"

namespace virtual_xpu {
namespace {

struct DeviceAllocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto device = current_device();
    c10::Device label(c10::kXPU, device);
    if (!bytes) return {nullptr, nullptr, &delete_nothing, label};
    if (in_mem_pool(device)) return allocate_in_mem_pool(bytes, device);
    auto* block = virtual_xpu::allocate(bytes, device);
    return {block->memory(), block->memory(), &delete_device_storage, label};
  }
  static void delete_nothing(void*) {}
  void copy_data(void* to, const void* from, size_t bytes) const override {
    wait_stream(current_device());
    std::memcpy(to, from, bytes);
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    for (int i = 0; i < device_count(); ++i) {
      synchronize(i);
      auto& p = pool(i);
      std::lock_guard<std::mutex> lock(p.mutex);
      trim(p);
    }
  }
  void recordStream(const c10::DataPtr& data, c10::Stream stream) override {
    if (data.get_deleter() != &delete_device_storage) return;
    auto* block = Block::of(data.get_context());
    if (stream.id() != block->stream) block->used_on.push_back(stream.id());
  }
  Stats getDeviceStats(c10::DeviceIndex device) override {
    auto& p = pool(device);
    std::lock_guard<std::mutex> lock(p.mutex);
    return p.stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex device) override {
    reset(device, [](auto& stat) { stat.reset_accumulated(); });
  }
  void resetPeakStats(c10::DeviceIndex device) override {
    reset(device, [](auto& stat) { stat.reset_peak(); });
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    auto& p = pool(device);
    std::lock_guard<std::mutex> lock(p.mutex);
    return {total_memory() - reserved(p), total_memory()};
  }
  template <class F>
  void reset(c10::DeviceIndex device, F one) {
    auto& p = pool(device);
    std::lock_guard<std::mutex> lock(p.mutex);
    auto& s = p.stats;
    for (auto* stat : {&s.allocation, &s.segment, &s.active, &s.inactive_split,
                       &s.allocated_bytes, &s.reserved_bytes, &s.active_bytes,
                       &s.inactive_split_bytes, &s.requested_bytes})
      for (auto& kind : *stat) one(kind);
  }
};

struct HostAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (!bytes) return {nullptr, c10::kCPU};
    auto* block = virtual_xpu::allocate(bytes, current_device());
    return {block->memory(), block->memory(), &delete_host_storage,
            c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

}  // namespace

c10::DeviceAllocator* allocator() {
  static auto* made = new DeviceAllocator;
  return made;
}

c10::Allocator* host_allocator() {
  static auto* made = new HostAllocator;
  return made;
}

// torch takes the allocator of a device type that has the highest priority.
static const bool kRegistered = [] {
  c10::SetAllocator(c10::kXPU, allocator(), 1);
  return true;
}();

}  // namespace virtual_xpu
