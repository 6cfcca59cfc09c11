// SPDX-License-Identifier: Apache-2.0
// What a device's memory is kept in.
#pragma once
#include <map>
#include <mutex>

#include "device.h"

namespace virtual_xpu {

using Stats = c10::CachingDeviceAllocator::DeviceStats;

struct Freed {
  void* start;
  c10::StreamId stream;
};

struct Pool {
  std::mutex mutex;
  std::map<size_t, std::vector<Freed>> free;  // by size class
  char* cut = nullptr;                        // rest of the newest segment
  size_t left = 0;
  Stats stats;
};

Pool& pool(c10::DeviceIndex device);
// Bytes that the host has given.
size_t reserved(Pool& p);
// Bytes that the host, or the container that it is, can still give.
size_t host_available();
// Gives large free blocks back to the host. Small ones share segments and stay.
void trim(Pool& p);

// Whether this thread's tensors on a device come from a MemPool's allocator.
bool in_mem_pool(c10::DeviceIndex device);
c10::DataPtr allocate_in_mem_pool(size_t bytes, c10::DeviceIndex device);

}  // namespace virtual_xpu
