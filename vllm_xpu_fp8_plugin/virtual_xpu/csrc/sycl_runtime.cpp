// SPDX-License-Identifier: Apache-2.0
// libc10_xpu.so: torch's XPU streams and devices for the kernel package's libraries, on
// the CPU device of Intel's SYCL runtime. Each symbol has its caller beside it.
#include <c10/xpu/XPUCachingAllocator.h>
#include <c10/xpu/XPUFunctions.h>
#include <c10/xpu/XPUStream.h>
#include <pthread.h>

#include <memory>
#include <mutex>
#include <sycl/sycl.hpp>

#include "device.h"
#include "work_groups.h"

namespace {

namespace vx = virtual_xpu;

std::atomic<bool> g_forked{false};

// The runtime has threads, which a forked process has not.
void check_not_forked() {
  if (g_forked)
    throw std::runtime_error(
        "Cannot re-initialize XPU in forked subprocess. To use XPU with "
        "multiprocessing, you must use the 'spawn' start method");
}

struct Sycl {
  sycl::device device{sycl::cpu_selector_v};
  sycl::context context{device};
};

Sycl& sycl_state() {
  check_not_forked();
  static auto* made = [] {
    auto* state = new Sycl;
    vx::watch_launches();
    pthread_atfork(nullptr, nullptr, [] { g_forked = true; });
    return state;
  }();
  return *made;
}

std::atomic<sycl::queue*> g_queues[64][vx::kStreams];

// In order, as torch's queues are.
sycl::queue& queue(c10::DeviceIndex device, c10::StreamId stream) {
  auto& slot = g_queues[device][stream];
  if (auto* made = slot.load(std::memory_order_acquire)) {
    if (g_forked) check_not_forked();
    return *made;
  }
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  if (!slot) {
    auto& state = sycl_state();
    slot = new sycl::queue(
        state.context, state.device,
        [](sycl::exception_list errors) {
          for (auto& error : errors) std::rethrow_exception(error);
        },
        sycl::property_list{sycl::property::queue::in_order()});
  }
  return *slot;
}

struct SyclRuntime final : vx::Runtime {
  void* allocate(size_t bytes) override {
    auto& state = sycl_state();
    return sycl::aligned_alloc_shared(512, bytes, state.device, state.context);
  }
  void release(void* memory) override {
    if (!g_forked) sycl::free(memory, sycl_state().context);
  }
  bool idle(c10::DeviceIndex device, c10::StreamId stream) override {
    auto* made = g_queues[device][stream].load(std::memory_order_acquire);
    return !made || g_forked || made->ext_oneapi_empty();
  }
  void wait(c10::DeviceIndex device, c10::StreamId stream) override {
    ::queue(device, stream).wait_and_throw();
  }
  void* queue(c10::DeviceIndex device, c10::StreamId stream) override {
    return &::queue(device, stream);
  }
  bool forked() override { return g_forked; }
};

}  // namespace

namespace c10::xpu {

DeviceIndex device_count() { return vx::device_count(); }
DeviceIndex device_count_ensure_non_zero() { return vx::device_count(); }
DeviceIndex current_device() { return vx::current_device(); }
void set_device(DeviceIndex device) { vx::set_device(device); }
DeviceIndex exchange_device(DeviceIndex device) {
  auto before = vx::current_device();
  if (device >= 0) vx::set_device(device);
  return before;
}
DeviceIndex maybe_exchange_device(DeviceIndex device) {
  return exchange_device(device);
}
sycl::device& get_raw_device(DeviceIndex) { return sycl_state().device; }
sycl::context& get_device_context() { return sycl_state().context; }

XPUStream getCurrentXPUStream(DeviceIndex device) {
  if (device < 0) device = vx::current_device();
  return XPUStream(XPUStream::UNCHECKED,
                   Stream(Stream::UNSAFE, Device(DeviceType::XPU, device),
                          vx::current_stream(device)));
}
XPUStream getStreamFromPool(const int, DeviceIndex device) {
  if (device < 0) device = vx::current_device();
  return XPUStream(
      XPUStream::UNCHECKED,
      Stream(Stream::UNSAFE, Device(DeviceType::XPU, device), vx::next_stream(device)));
}
XPUStream getStreamFromPool(const bool, DeviceIndex device) {
  return getStreamFromPool(0, device);
}
void setCurrentXPUStream(XPUStream stream) {
  vx::set_stream(stream.device_index(), stream.id());
}
void syncStreamsOnDevice(DeviceIndex device) {  // xpumem_allocator
  vx::synchronize(device < 0 ? vx::current_device() : device);
}
int XPUStream::priority() const { return 0; }  // _xpu_C: its queue cache
sycl::queue& XPUStream::queue() const { return ::queue(device_index(), id()); }

namespace XPUCachingAllocator {
namespace {

// _C allocates scratch memory through it, from 0.1.15 on.
struct Forward final : XPUAllocator {
  DeviceAllocator* to = vx::allocator();
  void init(DeviceIndex) override {}
  DataPtr allocate(size_t bytes) override { return to->allocate(bytes); }
  void* raw_alloc(size_t bytes) override {
    return bytes ? vx::allocate(bytes, vx::current_device())->memory() : nullptr;
  }
  void raw_delete(void* memory) override {
    if (memory) vx::drop(vx::Block::of(memory));
  }
  void copy_data(void* target, const void* from, size_t bytes) const override {
    to->copy_data(target, from, bytes);
  }
  bool initialized() override { return true; }
  void emptyCache(MempoolId_t pool) override { to->emptyCache(pool); }
  void recordStream(const DataPtr& data, Stream stream) override {
    to->recordStream(data, stream);
  }
  CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex device) override {
    return to->getDeviceStats(device);
  }
  void resetAccumulatedStats(DeviceIndex device) override {
    to->resetAccumulatedStats(device);
  }
  void resetPeakStats(DeviceIndex device) override { to->resetPeakStats(device); }
};

}  // namespace
C10_XPU_API std::atomic<XPUAllocator*> allocator{new Forward};
}  // namespace XPUCachingAllocator
}  // namespace c10::xpu

extern "C" {
VIRTUAL_XPU_API void virtual_xpu_use_sycl() { vx::set_runtime(new SyclRuntime); }
}
