// SPDX-License-Identifier: Apache-2.0
// What the host has left. Linux promises more memory than it has and ends a process
// that takes it at its word; a device refuses.
#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "pool.h"

namespace virtual_xpu {
namespace {

constexpr size_t kUnknown = std::numeric_limits<size_t>::max();

// The number behind a word of a file of words and numbers.
size_t entry(const char* path, const std::string& wanted) {
  std::ifstream file(path);
  std::string name, rest;
  size_t value;
  while (file >> name >> value) {
    if (name == wanted) return value;
    std::getline(file, rest);
  }
  return kUnknown;
}

size_t number(const char* path) {
  std::ifstream file(path);
  size_t value;
  return file >> value ? value : kUnknown;
}

size_t machine_available() {
  size_t kib = entry("/proc/meminfo", "MemAvailable:");
  return kib == kUnknown ? kUnknown : kib << 10;
}

// Control groups, version 2: memory.max is "max" where there is no limit, and what
// is used counts files that are given up for those who ask.
size_t container_available() {
  size_t most = number("/sys/fs/cgroup/memory.max");
  size_t used = number("/sys/fs/cgroup/memory.current");
  size_t files = entry("/sys/fs/cgroup/memory.stat", "inactive_file");
  if (most == kUnknown || used == kUnknown) return kUnknown;
  used -= files == kUnknown ? 0 : std::min(files, used);
  return most > used ? most - used : 0;
}

}  // namespace

size_t host_available() { return std::min(machine_available(), container_available()); }

}  // namespace virtual_xpu
