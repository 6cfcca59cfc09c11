// SPDX-License-Identifier: Apache-2.0
// Devices and streams, and torch's guard of them.
#include "device.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <chrono>
#include <cstdlib>

namespace virtual_xpu {

void* Runtime::allocate(size_t bytes) {
  void* memory = nullptr;
  return posix_memalign(&memory, 512, bytes) ? nullptr : memory;
}
void Runtime::release(void* memory) { std::free(memory); }
bool Runtime::idle(c10::DeviceIndex, c10::StreamId) { return true; }
void Runtime::wait(c10::DeviceIndex, c10::StreamId) {}

namespace {
Runtime* g_runtime = nullptr;
c10::DeviceIndex g_count = 1;
size_t g_memory = size_t{12} << 30;
std::atomic<c10::StreamId> g_next_stream{0};
thread_local c10::DeviceIndex t_device = 0;
thread_local c10::StreamId t_streams[64] = {};
}  // namespace

Runtime& runtime() {
  static Runtime host;
  return g_runtime ? *g_runtime : host;
}
void set_runtime(Runtime* runtime) { g_runtime = runtime; }
c10::DeviceIndex device_count() { return g_count; }
size_t total_memory() { return g_memory; }
c10::DeviceIndex current_device() { return t_device; }
void set_device(c10::DeviceIndex device) {
  TORCH_CHECK(device >= 0 && device < g_count,
              "The device index is out of range. It must be in [0, ",
              static_cast<int>(g_count), "), but got ", static_cast<int>(device), ".");
  t_device = device;
}
c10::StreamId current_stream(c10::DeviceIndex device) { return t_streams[device]; }
void set_stream(c10::DeviceIndex device, c10::StreamId stream) {
  TORCH_CHECK(stream >= 0 && stream < kStreams, "No stream ", stream, " on an XPU.");
  t_streams[device] = stream;
}
c10::StreamId next_stream(c10::DeviceIndex) {
  return 1 + g_next_stream++ % (kStreams - 1);
}
void synchronize(c10::DeviceIndex device) {
  for (c10::StreamId stream = 0; stream < kStreams; ++stream)
    if (!runtime().idle(device, stream)) runtime().wait(device, stream);
}

namespace {

// An event is recorded once the work before it is done, so it is always complete.
using Clock = std::chrono::steady_clock;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static c10::Device label(c10::DeviceIndex i) { return {c10::kXPU, i}; }
  static c10::DeviceIndex index(c10::Device d) {
    return d.index() < 0 ? t_device : d.index();
  }
  static c10::Stream stream(c10::Device d, c10::StreamId id) {
    return c10::Stream(c10::Stream::UNSAFE, label(index(d)), id);
  }
  c10::DeviceType type() const override { return c10::kXPU; }
  c10::Device exchangeDevice(c10::Device d) const override {
    auto old = label(t_device);
    set_device(index(d));
    return old;
  }
  c10::Device getDevice() const override { return label(t_device); }
  void setDevice(c10::Device d) const override { set_device(index(d)); }
  void uncheckedSetDevice(c10::Device d) const noexcept override {
    t_device = index(d);
  }
  c10::Stream getStream(c10::Device d) const override {
    return stream(d, current_stream(index(d)));
  }
  c10::Stream getDefaultStream(c10::Device d) const override { return stream(d, 0); }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool) const override {
    return stream(d, next_stream(index(d)));
  }
  c10::Stream getNewStream(c10::Device d, int) const override {
    return stream(d, next_stream(index(d)));
  }
  c10::Stream exchangeStream(c10::Stream s) const override {
    auto old = getStream(s.device());
    set_stream(s.device_index(), s.id());
    return old;
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<Clock::time_point*>(event);
  }
  void record(void** event, const c10::Stream& s, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    synchronizeStream(s);
    if (!*event) *event = new Clock::time_point;
    *static_cast<Clock::time_point*>(*event) = Clock::now();
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
    TORCH_CHECK(from && to,
                "Both events must be recorded before calculating elapsed "
                "time.");
    auto passed =
        *static_cast<Clock::time_point*>(to) - *static_cast<Clock::time_point*>(from);
    return std::chrono::duration<double, std::milli>(passed).count();
  }
  c10::DeviceIndex deviceCount() const noexcept override { return g_count; }
  c10::DeviceCapability getDeviceCapability(c10::Device) const override { return {}; }
  bool queryStream(const c10::Stream& s) const override {
    return runtime().idle(s.device_index(), s.id());
  }
  void synchronizeStream(const c10::Stream& s) const override {
    if (!queryStream(s)) runtime().wait(s.device_index(), s.id());
  }
  void synchronizeDevice(const c10::DeviceIndex device) const override {
    synchronize(device);
  }
  void recordDataPtrOnStream(const c10::DataPtr& data,
                             const c10::Stream& s) const override {
    allocator()->recordStream(data, s);
  }
};
C10_REGISTER_GUARD_IMPL(XPU, Guard)

}  // namespace
}  // namespace virtual_xpu

extern "C" {
// Sets what devices there are. Before any of them is used.
VIRTUAL_XPU_API void virtual_xpu_configure(int devices, size_t memory) {
  virtual_xpu::g_count = static_cast<c10::DeviceIndex>(devices);
  virtual_xpu::g_memory = memory;
}
VIRTUAL_XPU_API int virtual_xpu_count() { return virtual_xpu::g_count; }
// Whether this process was forked from one in which kernels ran.
VIRTUAL_XPU_API int virtual_xpu_forked() { return virtual_xpu::runtime().forked(); }
}
