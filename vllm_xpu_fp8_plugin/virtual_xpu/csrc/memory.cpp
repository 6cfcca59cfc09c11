// SPDX-License-Identifier: Apache-2.0
// The device's caching allocator. Freed memory goes to the next who asks, in stream
// order as on a GPU: nobody waits when a tensor dies while a kernel still reads it.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <shared_mutex>

#include "pool.h"

namespace virtual_xpu {
namespace {

using c10::CachingAllocator::StatArray;

constexpr size_t kSmall = 1 << 20;    // from here on a block has a segment of its own
constexpr size_t kSegment = 8 << 20;  // small blocks are cut from these

// Eight classes an octave for small blocks, so that at most an eighth is lost.
size_t size_class(size_t bytes) {
  size_t step = size_t{1} << (60 - __builtin_clzll(bytes));
  step = std::clamp<size_t>(step, 512, 64 << 10);
  return (bytes + step - 1) / step * step;
}

// The segments there are, to tell the device's memory from other.
std::shared_mutex g_segments_mutex;
std::map<const char*, size_t>& segments() {
  static auto* made = new std::map<const char*, size_t>;
  return *made;
}

void count(StatArray& stat, size_t bytes, int64_t amount) {
  // 0 is the sum, 1 small blocks and 2 large ones (c10::CachingAllocator::StatType).
  for (size_t i : {size_t{0}, bytes < kSmall ? size_t{1} : size_t{2}}) {
    if (amount >= 0)
      stat[i].increase(amount);
    else
      stat[i].decrease(-amount);
  }
}

}  // namespace

Pool& pool(c10::DeviceIndex device) {
  static auto* pools = new std::vector<std::unique_ptr<Pool>>([] {
    std::vector<std::unique_ptr<Pool>> made;
    for (int i = 0; i < device_count(); ++i) made.push_back(std::make_unique<Pool>());
    return made;
  }());
  return *pools->at(device);
}

size_t reserved(Pool& p) { return p.stats.reserved_bytes[0].current; }

void trim(Pool& p) {
  for (auto it = p.free.lower_bound(kSmall); it != p.free.end();) {
    for (auto& freed : it->second) {
      {
        std::unique_lock<std::shared_mutex> lock(g_segments_mutex);
        segments().erase(static_cast<char*>(freed.start));
      }
      runtime().release(freed.start);
      count(p.stats.reserved_bytes, it->first, -static_cast<int64_t>(it->first));
      count(p.stats.segment, it->first, -1);
      ++p.stats.num_device_free;
    }
    it = p.free.erase(it);
  }
}

namespace {

void* new_segment(Pool& p, size_t bytes) {
  auto get = [&]() -> void* {
    if (reserved(p) + bytes > total_memory()) return nullptr;
    return bytes > host_available() ? nullptr : runtime().allocate(bytes);
  };
  void* memory = get();
  if (!memory) {
    ++p.stats.num_alloc_retries;
    trim(p);
    memory = get();
  }
  if (memory) {
    {
      std::unique_lock<std::shared_mutex> lock(g_segments_mutex);
      segments()[static_cast<char*>(memory)] = bytes;
    }
    ++p.stats.num_device_alloc;
    count(p.stats.reserved_bytes, bytes, bytes);
    count(p.stats.segment, bytes, 1);
  }
  return memory;
}

void* take_free(Pool& p, c10::DeviceIndex device, c10::StreamId stream, size_t* bytes) {
  // A large block may be an eighth too large, rather than new.
  size_t most = *bytes < kSmall ? *bytes : *bytes + *bytes / 8;
  auto it = p.free.lower_bound(*bytes);
  if (it == p.free.end() || it->first > most) return nullptr;
  auto freed = it->second.back();
  *bytes = it->first;
  it->second.pop_back();
  if (it->second.empty()) p.free.erase(it);
  // Its last kernels may still run, on another stream than the new owner's.
  if (freed.stream != stream && !runtime().idle(device, freed.stream))
    runtime().wait(device, freed.stream);
  return freed.start;
}

void* cut_small(Pool& p, size_t bytes) {
  if (p.left < bytes) {
    auto* segment = static_cast<char*>(new_segment(p, kSegment));
    if (!segment) return nullptr;
    p.cut = segment;
    p.left = kSegment;
  }
  auto* memory = p.cut;
  p.cut += bytes;
  p.left -= bytes;
  return memory;
}

std::string gib(size_t bytes) {
  return c10::str(bytes / (1 << 20) / 1024.0, " GiB (", bytes, " bytes)");
}

void count_client(Pool& p, const Block& block, int64_t sign) {
  count(p.stats.allocation, block.bytes, sign);
  count(p.stats.active, block.bytes, sign);
  for (auto* stat : {&p.stats.allocated_bytes, &p.stats.active_bytes})
    count(*stat, block.bytes, sign * static_cast<int64_t>(block.bytes));
  count(p.stats.requested_bytes, block.bytes,
        sign * static_cast<int64_t>(block.requested));
}

}  // namespace

Block* Block::of(void* memory) {
  auto* block = reinterpret_cast<Block*>(static_cast<char*>(memory) - kHeader);
  if (block->magic != kMagic) {
    std::fprintf(stderr,
                 "virtual XPU: a kernel has written before the memory at %p, "
                 "where it must not.\n",
                 memory);
    std::abort();
  }
  return block;
}

bool is_device_memory(const void* pointer) {
  std::shared_lock<std::shared_mutex> lock(g_segments_mutex);
  auto it = segments().upper_bound(static_cast<const char*>(pointer));
  if (it == segments().begin()) return false;
  --it;
  return static_cast<const char*>(pointer) < it->first + it->second;
}

Block* allocate(size_t requested, c10::DeviceIndex device) {
  auto& p = pool(device);
  auto stream = current_stream(device);
  size_t bytes = size_class(requested + Block::kHeader);
  std::lock_guard<std::mutex> lock(p.mutex);
  void* start = take_free(p, device, stream, &bytes);
  if (!start) start = bytes < kSmall ? cut_small(p, bytes) : new_segment(p, bytes);
  if (!start) {
    ++p.stats.num_ooms;
    TORCH_CHECK_WITH(OutOfMemoryError, false, "XPU out of memory. Tried to allocate ",
                     gib(requested), ". Device ", static_cast<int>(device), " has ",
                     gib(total_memory()), ", of which ",
                     gib(p.stats.allocated_bytes[0].current),
                     " are in use; the host has ", gib(host_available()),
                     " left. It is a virtual one: VLLM_XPU_FP8_VIRTUAL_MEMORY sets its "
                     "size, and the host's memory bounds it.");
  }
  auto* block = new (start) Block;
  block->bytes = bytes;
  block->requested = requested;
  block->device = device;
  block->stream = stream;
  count_client(p, *block, 1);
  return block;
}

void drop(Block* block) {
  if (block->references.fetch_sub(1) > 1) return;
  auto& p = pool(block->device);
  std::lock_guard<std::mutex> lock(p.mutex);
  for (auto stream : block->used_on) runtime().wait(block->device, stream);
  count_client(p, *block, -1);
  p.free[block->bytes].push_back({block, block->stream});
  block->~Block();
}

void delete_device_storage(void* memory) {
  auto* block = Block::of(memory);
  if (auto* host = block->host.exchange(nullptr)) c10::raw::intrusive_ptr::decref(host);
  drop(block);
}

void delete_host_storage(void* memory) { drop(Block::of(memory)); }

}  // namespace virtual_xpu
