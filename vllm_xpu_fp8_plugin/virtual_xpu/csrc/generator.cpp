// SPDX-License-Identifier: Apache-2.0
#include "generator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>

#include "device.h"

namespace virtual_xpu {
namespace {

// An op on a GPU takes a range of a counter's numbers and moves the counter on, so that
// the whole state is two numbers (vLLM reads and writes them:
// vllm/v1/sample/ops/topk_topp_sampler.py). The numbers themselves are the host's.
struct Generator final : c10::GeneratorImpl {
  uint64_t seed_ = c10::default_rng_seed_val;
  uint64_t offset_ = 0;

  explicit Generator(c10::DeviceIndex device)
      : c10::GeneratorImpl(c10::Device(c10::kXPU, device),
                           c10::DispatchKeySet(c10::DispatchKey::XPU)) {}
  static c10::DeviceType device_type() { return c10::kXPU; }
  void set_current_seed(uint64_t seed) override {
    seed_ = seed;
    offset_ = 0;
  }
  void set_offset(uint64_t offset) override { offset_ = offset; }
  uint64_t get_offset() const override { return offset_; }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom(true));
    return seed_;
  }
  void set_state(const c10::TensorImpl& state) override {
    TORCH_CHECK(
        state.numel() == 16 && state.dtype() == caffe2::TypeMeta::Make<uint8_t>(),
        "An XPU generator's state has 16 bytes (seed, offset), got ", state.numel(),
        " values of ", state.dtype().name());
    auto* words = static_cast<const uint64_t*>(state.data());
    seed_ = words[0];
    offset_ = words[1];
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    auto state = at::empty({16}, at::TensorOptions().dtype(at::kByte).device(at::kCPU));
    auto* words = static_cast<uint64_t*>(state.mutable_data_ptr());
    words[0] = seed_;
    words[1] = offset_;
    return state.getIntrusivePtr();
  }
  void graphsafe_set_state(
      const c10::intrusive_ptr<c10::GeneratorImpl>& other) override {
    auto* state = static_cast<Generator*>(other.get());
    seed_ = state->seed_;
    offset_ = state->offset_;
  }
  Generator* clone_impl() const override {
    auto* copy = new Generator(device().index());
    copy->seed_ = seed_;
    copy->offset_ = offset_;
    return copy;
  }
};

}  // namespace

const at::Generator& default_generator(c10::DeviceIndex device) {
  static auto* made = [] {
    auto* all = new std::vector<at::Generator>;
    for (int i = 0; i < device_count(); ++i)
      all->push_back(at::make_generator<Generator>(i));
    return all;
  }();
  return made->at(device);
}

at::Generator new_generator(c10::DeviceIndex device) {
  return at::make_generator<Generator>(device);
}

at::Generator draw_from(const at::Generator& generator) {
  auto* state = static_cast<Generator*>(generator.unsafeGetGeneratorImpl());
  std::lock_guard<std::mutex> lock(state->mutex_);
  // SplitMix64's finisher: neighbouring counters give unrelated seeds.
  uint64_t z = state->seed_ + (state->offset_ + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  state->offset_ += 4;
  return at::detail::createCPUGenerator(z ^ (z >> 31));
}

}  // namespace virtual_xpu
