// SPDX-License-Identifier: Apache-2.0
// Device images on their way to the SYCL runtime. The kernel package's libraries hold
// code for Intel GPUs; each image also carries the SPIR-V that it was made from, which
// the CPU's compiler takes. Nothing is changed on disk.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "device.h"
#include "spirv.h"
#include "work_groups.h"
#include "xe2.h"

namespace virtual_xpu {
namespace {

// The structures of sycl/source/detail/compiler.hpp (intel/llvm), image version 3.
struct Property {
  char* name;
  void* value;
  uint32_t type;
  uint64_t size;
};
struct PropertySet {
  char* name;
  Property *begin, *end;
};
// An offload entry is of one of two layouts.
struct Entry {
  uint64_t reserved;
  uint16_t version, kind;
  uint32_t flags;
  void* address;
  char* name;
  uint64_t size, data;
  void* auxiliary;
};
struct OldEntry {
  void* address;
  char* name;
  size_t size;
  int32_t flags, reserved;
};
struct Image {
  uint16_t version;
  uint8_t kind, format;
  const char *target, *compile_options, *link_options;
  const unsigned char *begin, *end;
  char *entries_begin, *entries_end;
  PropertySet *properties_begin, *properties_end;
};
struct Descriptor {
  uint16_t version, count;
  Image* images;
  void *host_entries_begin, *host_entries_end;
};
constexpr uint16_t kImageVersion = 3;
constexpr uint8_t kSpirvFormat = 2;

// Kernels of the libraries loaded so far, and those of them in a form that is known.
size_t g_kernels = 0, g_known = 0;
std::mutex g_mutex;
// Whether kernels with an Intel GPU's instructions are rewritten.
bool g_rewrite = false;
template <class F>
void each_entry(const Image& image, F visit) {
  for (auto* p = image.entries_begin; p < image.entries_end;) {
    auto* entry = reinterpret_cast<Entry*>(p);
    bool is_new = entry->reserved == 0 && entry->version == 1;
    auto* next = p + (is_new ? sizeof(Entry) : sizeof(OldEntry));
    visit(is_new ? entry->name : reinterpret_cast<OldEntry*>(p)->name, p, next);
    p = next;
  }
}

// The properties of an image with one of its kernels. The runtime keeps the memory.
std::vector<PropertySet>* properties_of(const Image& image, const char* kernel) {
  auto* sets = new std::vector<PropertySet>;
  for (auto* set = image.properties_begin; set < image.properties_end; ++set) {
    std::string name = set->name;
    // The list of fallback functions to link; the CPU's compiler has its own.
    if (name == "SYCL/devicelib req mask") continue;
    bool by_kernel =
        name == "SYCL/implicit local arg" || name == "SYCL/kernel param opt";
    // What a GPU's compiler is asked for.
    auto for_gpu = [](const char* property) {
      return !std::strcmp(property, "compile_target") ||
             !std::strcmp(property, "sycl-grf-size") ||
             !std::strcmp(property, "sycl-register-alloc-mode");
    };
    auto* kept = new std::vector<Property>;
    for (auto* property = set->begin; property < set->end; ++property)
      if (by_kernel ? !std::strcmp(property->name, kernel) : !for_gpu(property->name))
        kept->push_back(*property);
    if (!kept->empty())
      sets->push_back({set->name, kept->data(), kept->data() + kept->size()});
  }
  return sets;
}

// A kernel's code for the CPU, or none and why in `missing`.
std::vector<uint32_t> code_for_cpu(const Module& module, const char* kernel,
                                   std::string& missing) {
  if (!module.missing().empty() && !(g_rewrite && module.rewritable())) {
    missing = module.missing();
    return {};
  }
  auto code = counted_innermost(module.only(kernel), kernel);
  return module.missing().empty() ? code : rewrite_xe2(code, missing);
}

// Why kernels were not rewritten, and how many.
using Unknown = std::map<std::string, size_t>;

void add(const Image& image, std::vector<Image>& out, Unknown& unknown) {
  auto words = find_spirv(image.begin, image.end);
  std::unique_ptr<Module> module;
  if (words.begin) module = std::make_unique<Module>(words);
  each_entry(image, [&](char* name, char* begin, char* end) {
    std::string missing = module ? "" : "an image without SPIR-V";
    std::vector<uint32_t> code;
    if (module) code = code_for_cpu(*module, name, missing);
    if (module && !missing.empty() && g_rewrite && module->rewritable())
      ++unknown[missing];
    ++g_kernels;
    g_known += module != nullptr;
    Image one = image;
    one.entries_begin = begin;
    one.entries_end = end;
    auto* properties = properties_of(image, name);
    one.properties_begin = properties->data();
    one.properties_end = properties->data() + properties->size();
    // Else left as it is, for a GPU: launching it raises. A kernel that is not
    // registered at all would crash the runtime.
    if (missing.empty()) {
      auto* kept = new std::vector<uint32_t>(std::move(code));
      one.target = "spir64";
      one.format = kSpirvFormat;
      one.compile_options = one.link_options = "";
      one.begin = reinterpret_cast<unsigned char*>(kept->data());
      one.end = one.begin + kept->size() * 4;
    }
    out.push_back(one);
  });
}

}  // namespace
}  // namespace virtual_xpu

extern "C" {

// Called by each library of the kernel package as it is loaded, and found here before
// the one in libsycl.so, which gets what comes out.
VIRTUAL_XPU_API void __sycl_register_lib(virtual_xpu::Descriptor* descriptor) {
  using namespace virtual_xpu;
  using Register = void (*)(Descriptor*);
  static auto real = [] {
    auto* library = dlopen("libsycl.so.9", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Register>(dlsym(library, "__sycl_register_lib"))
                   : nullptr;
  }();
  std::lock_guard<std::mutex> lock(g_mutex);
  auto* images = new std::vector<Image>;
  Unknown unknown;
  for (int i = 0; i < descriptor->count; ++i) {
    const Image& image = descriptor->images[i];
    if (image.version == kImageVersion)
      add(image, *images, unknown);
    else
      ++g_kernels;
  }
  for (auto& [why, count] : unknown)
    std::fprintf(stderr,
                 "The virtual XPU cannot run %zu of a library's %zu kernels: %s. "
                 "Launching one raises.\n",
                 count, images->size(), why.c_str());
  if (!real || images->empty()) return;
  // The count is of 16 bits.
  for (size_t i = 0; i < images->size(); i += 0x8000) {
    auto* part = new Descriptor(*descriptor);
    part->images = images->data() + i;
    part->count = static_cast<uint16_t>(std::min<size_t>(images->size() - i, 0x8000));
    real(part);
  }
}

// At exit. The images stay, since those of the descriptor were never registered.
VIRTUAL_XPU_API void __sycl_unregister_lib(virtual_xpu::Descriptor*) {}

VIRTUAL_XPU_API void virtual_xpu_rewrite(bool on) { virtual_xpu::g_rewrite = on; }

VIRTUAL_XPU_API void virtual_xpu_kernels(size_t* all, size_t* known) {
  using namespace virtual_xpu;
  std::lock_guard<std::mutex> lock(g_mutex);
  *all = g_kernels;
  *known = g_known;
}

// For tests: rewrites a module of `count` words, whose kernel is "main", and returns
// how many words that makes, of which it writes those that there is room for. 0: `why`
// is what is not known.
VIRTUAL_XPU_API size_t virtual_xpu_rewritten(const uint32_t* words, size_t count,
                                             uint32_t* out, size_t room, char* why,
                                             size_t why_room) {
  std::string missing;
  auto counted = virtual_xpu::counted_innermost({words, words + count}, "main");
  auto made = virtual_xpu::rewrite_xe2(counted, missing);
  std::copy_n(made.begin(), std::min(room, made.size()), out);
  std::snprintf(why, why_room, "%s", missing.c_str());
  return made.size();
}
}
