// SPDX-License-Identifier: Apache-2.0
// Devices and streams, and what torch asks of an accelerator: its guard, its hooks,
// pinned memory and random generators.
#include "device.h"

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/XPUHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>

#include "generator.h"

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
thread_local bool t_next_generator_is_default = false;
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
  for (int i = 0; i < g_count; ++i) synchronize(i);
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

struct Hooks final : at::XPUHooksInterface {
  Hooks(at::XPUHooksArgs = {}) {}  // releases of torch differ in passing them
  void init() const override {}
  bool hasXPU() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  std::string showConfig() const override { return "virtual XPU"; }
  int32_t getGlobalIdxFromDevice(const c10::Device& d) const override {
    return Guard::index(d);
  }
  c10::DeviceIndex getNumGPUs() const override { return g_count; }
  c10::DeviceIndex deviceCount() const override { return g_count; }
  c10::DeviceIndex current_device() const override { return t_device; }
  c10::DeviceIndex getCurrentDevice() const override { return t_device; }
  void setCurrentDevice(c10::DeviceIndex d) const override { set_device(d); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex d) const override {
    auto old = t_device;
    if (d >= 0) set_device(d);
    return old;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex d) const override {
    return exchangeDevice(d);
  }
  void deviceSynchronize(c10::DeviceIndex d) const override { synchronize(d); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned(); }
  bool isPinnedPtr(const void* pointer) const override { return is_pinned(pointer); }
  c10::Device getDeviceFromPtr(void*) const override { return Guard::label(t_device); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex d) const override {
    return default_generator(d < 0 ? t_device : d);
  }
  at::Generator getNewGenerator(c10::DeviceIndex d) const override {
    if (d < 0) d = t_device;
    if (std::exchange(t_next_generator_is_default, false)) return default_generator(d);
    return new_generator(d);
  }
};

}  // namespace virtual_xpu

namespace at {
// torch asks its registry for this name.
using XPUHooks = virtual_xpu::Hooks;
REGISTER_XPU_HOOKS(XPUHooks)
}  // namespace at

extern "C" {
// Sets what devices there are. Before any of them is used.
VIRTUAL_XPU_API void virtual_xpu_configure(int devices, size_t memory) {
  virtual_xpu::g_count = static_cast<c10::DeviceIndex>(devices);
  virtual_xpu::g_memory = memory;
}
VIRTUAL_XPU_API int virtual_xpu_count() { return virtual_xpu::g_count; }
// torch's Python has no other way to a generator that exists.
VIRTUAL_XPU_API void virtual_xpu_next_generator_is_default() {
  virtual_xpu::t_next_generator_is_default = true;
}
// Whether this process was forked from one in which kernels ran.
VIRTUAL_XPU_API int virtual_xpu_forked() { return virtual_xpu::runtime().forked(); }
// Whether torch has the hooks. It asks for them once a process, and where that was
// before these were there it keeps an object of the base class. That object has no
// members, so giving it the class of these is all it takes.
VIRTUAL_XPU_API int virtual_xpu_hooked() {
  static_assert(sizeof(virtual_xpu::Hooks) == sizeof(void*));
  auto& taken = at::detail::getXPUHooks();
  if (!taken.hasXPU())
    new (const_cast<at::XPUHooksInterface*>(&taken)) virtual_xpu::Hooks;
  return std::launder(&taken)->hasXPU() ? 1 : 0;
}
// Has a torch that is built for CUDA, as PyPI's is, say that it is not: it refuses to
// have two kinds of accelerator. Its hooks have no members either.
VIRTUAL_XPU_API void virtual_xpu_instead_of_cuda() {
  auto& cuda = at::detail::getCUDAHooks();
  if (cuda.isBuilt())
    new (const_cast<at::CUDAHooksInterface*>(&cuda)) at::CUDAHooksInterface;
}
}
