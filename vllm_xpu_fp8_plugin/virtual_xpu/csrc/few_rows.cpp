// SPDX-License-Identifier: Apache-2.0
// The product of a few float32 rows with a weight of 8 or 16 bits. A decode step is
// bound by the memory that its weights take, and reads them here as they are.
#include "few_rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace virtual_xpu {
namespace {

Type type_of(const at::Tensor& weight) {
  switch (weight.scalar_type()) {
    case at::kFloat8_e4m3fn:
      return Type::kE4M3;
    case at::kFloat8_e5m2:
      return Type::kE5M2;
    case at::kHalf:
      return Type::kHalf;
    case at::kBFloat16:
      return Type::kBFloat16;
    default:
      TORCH_CHECK(false, "few_rows: takes FP8, fp16 and bf16 weights, got ",
                  weight.scalar_type());
  }
}

// rows [M, K] float32, weight [N, K], K a multiple of 16, scale float32 of one value or
// [N]; all contiguous. Returns rows @ weight.T * scale.
at::Tensor few_rows(const at::Tensor& rows, const at::Tensor& weight,
                    const std::optional<at::Tensor>& scale) {
  auto type = type_of(weight);
  TORCH_CHECK(rows.dim() == 2 && weight.dim() == 2 && rows.is_contiguous() &&
                  weight.is_contiguous() && rows.scalar_type() == at::kFloat &&
                  rows.size(1) == weight.size(1) && rows.size(1) % kLanes == 0,
              "few_rows: takes float32 [M, K] and [N, K], contiguous, K a multiple of ",
              kLanes, "; got ", rows.scalar_type(), " ", rows.sizes(), " and ",
              weight.sizes());
  auto m = rows.size(0), k = rows.size(1), n = weight.size(0);
  TORCH_CHECK(!scale || (scale->scalar_type() == at::kFloat && scale->is_contiguous() &&
                         (scale->numel() == 1 || scale->numel() == n)),
              "few_rows: scale must be float32 of 1 or ", n, " values");
  auto out = at::empty({m, n}, rows.options());
  if (!m) return out;
  const auto* a = rows.const_data_ptr<float>();
  const auto* from_weight = static_cast<const char*>(weight.const_data_ptr());
  auto row_bytes = k * static_cast<int64_t>(weight.element_size());
  const float* scales = scale ? scale->const_data_ptr<float>() : nullptr;
  int64_t step = scale && scale->numel() > 1;
  auto* result = out.mutable_data_ptr<float>();
  at::parallel_for(0, (n + kTile - 1) / kTile, 3, [&](int64_t from, int64_t to) {
    auto decoded = std::make_unique_for_overwrite<float[]>(kDecoded * k);
    for (int64_t j = from * kTile; j < std::min(to * kTile, n); j += kTile) {
      auto columns = std::min(kTile, n - j);
      multiply_few_rows(a, m, from_weight + j * row_bytes, type, columns, k,
                        decoded.get(), result + j, n);
      if (!scales) continue;
      for (int64_t i = 0; i < m; ++i)
        for (int64_t x = j; x < j + columns; ++x) result[i * n + x] *= scales[x * step];
    }
  });
  return out;
}

TORCH_LIBRARY_FRAGMENT(virtual_xpu, m) {
  m.def("few_rows(Tensor rows, Tensor weight, Tensor? scale) -> Tensor");
  m.impl("few_rows", c10::DispatchKey::CPU, &few_rows);
}

}  // namespace
}  // namespace virtual_xpu
