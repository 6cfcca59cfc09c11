// SPDX-License-Identifier: Apache-2.0
// torch.xpu.MemPool with an allocator of one's own, as vLLM's sleep mode has it. Each
// tensor is a call of that allocator: nothing is kept in between.
#include <vector>

#include "device.h"
#include "pool.h"

namespace virtual_xpu {
namespace {

// XPUPluggableAllocator's functions, with a stream's SYCL queue at the end.
using Allocate = void* (*)(size_t, int, void*);
using Free = void (*)(void*, size_t, int, void*);

struct Active {
  c10::DeviceIndex device = -1;
  Allocate allocate = nullptr;
  Free free = nullptr;
};
// The innermost one is last; without functions it is the device's own memory.
thread_local std::vector<Active> t_active;

const Active* innermost(c10::DeviceIndex device) {
  for (auto active = t_active.rbegin(); active != t_active.rend(); ++active)
    if (active->device == device) return active->allocate ? &*active : nullptr;
  return nullptr;
}

struct Owned {
  void* memory;
  size_t bytes;
  c10::DeviceIndex device;
  c10::StreamId stream;
  Free free;
};

void give_back(void* context) {
  std::unique_ptr<Owned> owned(static_cast<Owned*>(context));
  if (!runtime().idle(owned->device, owned->stream))
    runtime().wait(owned->device, owned->stream);
  owned->free(owned->memory, owned->bytes, owned->device,
              runtime().queue(owned->device, owned->stream));
}

}  // namespace

bool in_mem_pool(c10::DeviceIndex device) { return innermost(device); }

c10::DataPtr allocate_in_mem_pool(size_t bytes, c10::DeviceIndex device) {
  auto active = *innermost(device);
  auto stream = current_stream(device);
  void* memory = active.allocate(bytes, device, runtime().queue(device, stream));
  TORCH_CHECK_WITH(OutOfMemoryError, memory, "XPU out of memory. The memory pool's ",
                   "allocator has no ", bytes, " bytes for device ",
                   static_cast<int>(device), ".");
  return {memory, new Owned{memory, bytes, device, stream, active.free}, &give_back,
          c10::Device(c10::kXPU, device)};
}

}  // namespace virtual_xpu

extern "C" {
// This thread's tensors on a device, until the end of it. Both null: the device's own.
VIRTUAL_XPU_API void virtual_xpu_begin_mem_pool(int device, void* allocate,
                                                void* free) {
  using namespace virtual_xpu;
  t_active.push_back({static_cast<c10::DeviceIndex>(device),
                      reinterpret_cast<Allocate>(allocate),
                      reinterpret_cast<Free>(free)});
}

VIRTUAL_XPU_API void virtual_xpu_end_mem_pool(int device) {
  using namespace virtual_xpu;
  for (auto active = t_active.size(); active-- > 0;) {
    if (t_active[active].device != device) continue;
    t_active.erase(t_active.begin() + active);
    return;
  }
}
}
