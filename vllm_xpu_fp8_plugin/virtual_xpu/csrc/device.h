// SPDX-License-Identifier: Apache-2.0
// What the device's own parts share: memory, streams and the runtime below.
#pragma once

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Device.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/Stream.h>

#include <atomic>
#include <vector>

#define VIRTUAL_XPU_API __attribute__((visibility("default")))

namespace virtual_xpu {

// What runs kernels. This one has none: memory is the host's and every stream is idle
// at all times. libc10_xpu.so sets the one that is Intel's SYCL runtime.
struct VIRTUAL_XPU_API Runtime {
  virtual ~Runtime() = default;
  // Null where there is no memory.
  virtual void* allocate(size_t bytes);
  virtual void release(void* memory);
  virtual bool idle(c10::DeviceIndex device, c10::StreamId stream);
  // Throws what a kernel on the stream has thrown.
  virtual void wait(c10::DeviceIndex device, c10::StreamId stream);
  // A stream's SYCL queue, null without SYCL.
  virtual void* queue(c10::DeviceIndex, c10::StreamId) { return nullptr; }
  // Whether this process was forked from one in which the runtime ran.
  virtual bool forked() { return false; }
};
VIRTUAL_XPU_API Runtime& runtime();
VIRTUAL_XPU_API void set_runtime(Runtime* runtime);

// Stream 0 is a device's default stream; these are for those who ask for one.
constexpr c10::StreamId kStreams = 33;

VIRTUAL_XPU_API c10::DeviceIndex device_count();
VIRTUAL_XPU_API c10::DeviceIndex current_device();
// Raises for an index that is out of range.
VIRTUAL_XPU_API void set_device(c10::DeviceIndex device);
VIRTUAL_XPU_API c10::StreamId current_stream(c10::DeviceIndex device);
VIRTUAL_XPU_API void set_stream(c10::DeviceIndex device, c10::StreamId stream);
VIRTUAL_XPU_API c10::StreamId next_stream(c10::DeviceIndex device);
VIRTUAL_XPU_API void synchronize(c10::DeviceIndex device);
// Bytes that a device says it has.
VIRTUAL_XPU_API size_t total_memory();

// Waits for the current stream, so that the host may touch what its kernels write.
inline void wait_stream(c10::DeviceIndex device) {
  auto stream = current_stream(device);
  if (!runtime().idle(device, stream)) runtime().wait(device, stream);
}

// A piece of device memory, and what is known of it: this stands before the memory.
// Storages share it: the device's, and the host's view of it. Their context is the
// memory's address, as torch's raw allocations have it.
struct Block {
  static constexpr uint64_t kMagic = 0x7669727475616c21;
  uint64_t magic = kMagic;
  size_t bytes;      // with this header, rounded up to a size class
  size_t requested;  // what the client asked for
  c10::DeviceIndex device;
  c10::StreamId stream;                // the one it was allocated on
  std::vector<c10::StreamId> used_on;  // further ones, by record_stream
  std::atomic<int> references{1};
  // The host's storage over it, made when an op first needs it.
  std::atomic<c10::StorageImpl*> host{nullptr};

  void* memory() { return reinterpret_cast<char*>(this) + kHeader; }
  // Raises where a kernel has written before the memory.
  VIRTUAL_XPU_API static Block* of(void* memory);
  // A GPU's allocations are aligned to as much.
  static constexpr size_t kHeader = 512;
};
static_assert(sizeof(Block) <= Block::kHeader);

// Memory for a device tensor, as the caching allocator gives it.
VIRTUAL_XPU_API c10::DeviceAllocator* allocator();
// The same memory, labelled as the host's: for results of the host's kernels.
c10::Allocator* host_allocator();
VIRTUAL_XPU_API Block* allocate(size_t bytes, c10::DeviceIndex device);
VIRTUAL_XPU_API void drop(Block* block);
// Deleters of storages over a block, by which one is told from foreign memory.
void delete_device_storage(void* memory);
void delete_host_storage(void* memory);
// Whether an address lies in the device's memory.
bool is_device_memory(const void* pointer);
VIRTUAL_XPU_API c10::Allocator* pinned_allocator();
VIRTUAL_XPU_API bool is_pinned(const void* pointer);

}  // namespace virtual_xpu
