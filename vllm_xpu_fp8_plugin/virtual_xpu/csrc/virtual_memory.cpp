// SPDX-License-Identifier: Apache-2.0
// SYCL's virtual memory, which the CPU device has not, over the host's:
// xpumem_allocator of the kernel package keeps addresses while a model sleeps, and
// gives up their memory.
#include <sys/mman.h>

#include <cerrno>
#include <sycl/ext/oneapi/virtual_mem/physical_mem.hpp>
#include <sycl/ext/oneapi/virtual_mem/virtual_mem.hpp>
#include <sycl/sycl.hpp>
#include <system_error>

namespace {

void check(bool done, const char* what) {
  if (!done)
    throw sycl::exception(std::error_code(errno, std::generic_category()), what);
}

}  // namespace

namespace sycl {
inline namespace _V1 {
namespace ext::oneapi::experimental {

uintptr_t reserve_virtual_mem(uintptr_t start, size_t bytes, const context&) {
  void* memory = mmap(reinterpret_cast<void*>(start), bytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  check(memory != MAP_FAILED, "no addresses are left");
  return reinterpret_cast<uintptr_t>(memory);
}

void free_virtual_mem(uintptr_t start, size_t bytes, const context&) {
  check(!munmap(reinterpret_cast<void*>(start), bytes), "not reserved");
}

// The host gives memory as it is touched.
physical_mem::physical_mem(const device&, const context&, size_t) {}

void* physical_mem::map(uintptr_t start, size_t bytes, address_access_mode mode,
                        size_t) const {
  int protection = mode == address_access_mode::none   ? PROT_NONE
                   : mode == address_access_mode::read ? PROT_READ
                                                       : PROT_READ | PROT_WRITE;
  auto* memory = reinterpret_cast<void*>(start);
  check(!mprotect(memory, bytes, protection), "not reserved");
  return memory;
}

void unmap(const void* start, size_t bytes, const context&) {
  auto* memory = const_cast<void*>(start);
  check(!madvise(memory, bytes, MADV_DONTNEED) && !mprotect(memory, bytes, PROT_NONE),
        "not mapped");
}

}  // namespace ext::oneapi::experimental
}  // namespace _V1
}  // namespace sycl
