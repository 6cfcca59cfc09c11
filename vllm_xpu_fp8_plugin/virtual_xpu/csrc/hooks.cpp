// SPDX-License-Identifier: Apache-2.0
// What torch asks of an accelerator of the name XPU.
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/XPUHooksInterface.h>

#include <new>
#include <utility>

#include "device.h"
#include "generator.h"

namespace virtual_xpu {
namespace {
thread_local bool t_next_generator_is_default = false;
}  // namespace

struct Hooks final : at::XPUHooksInterface {
  Hooks(at::XPUHooksArgs = {}) {}  // releases of torch differ in passing them
  void init() const override {}
  bool hasXPU() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  std::string showConfig() const override { return "virtual XPU"; }
  int32_t getGlobalIdxFromDevice(const c10::Device& d) const override {
    return d.index() < 0 ? virtual_xpu::current_device() : d.index();
  }
  c10::DeviceIndex getNumGPUs() const override { return device_count(); }
  c10::DeviceIndex deviceCount() const override { return device_count(); }
  c10::DeviceIndex current_device() const override {
    return virtual_xpu::current_device();
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return virtual_xpu::current_device();
  }
  void setCurrentDevice(c10::DeviceIndex d) const override { set_device(d); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex d) const override {
    auto old = virtual_xpu::current_device();
    if (d >= 0) set_device(d);
    return old;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex d) const override {
    return exchangeDevice(d);
  }
  void deviceSynchronize(c10::DeviceIndex d) const override { synchronize(d); }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return pinned_allocator();
  }
  bool isPinnedPtr(const void* pointer) const override { return is_pinned(pointer); }
  c10::Device getDeviceFromPtr(void*) const override {
    return {c10::kXPU, virtual_xpu::current_device()};
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex d) const override {
    return default_generator(d < 0 ? virtual_xpu::current_device() : d);
  }
  at::Generator getNewGenerator(c10::DeviceIndex d) const override {
    if (d < 0) d = virtual_xpu::current_device();
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
// torch's Python has no other way to a generator that exists.
VIRTUAL_XPU_API void virtual_xpu_next_generator_is_default() {
  virtual_xpu::t_next_generator_is_default = true;
}
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
