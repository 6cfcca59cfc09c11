// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace virtual_xpu {

constexpr int64_t kLanes = 16;  // values of a weight that are decoded at once
// Columns of the result in one call: a multiple of each number that a processor
// multiplies at once, of which kDecoded is the largest.
constexpr int64_t kTile = 12;
constexpr int64_t kDecoded = 4;

enum class Type { kE4M3, kE5M2, kHalf, kBFloat16 };

// out[i * n + j] = rows[i] . weight[j] for `m` rows and up to kTile columns, each of
// `k` values, a multiple of kLanes. `decoded` has room for kDecoded * k.
void multiply_few_rows(const float* rows, int64_t m, const void* weight, Type type,
                       int64_t columns, int64_t k, float* decoded, float* out,
                       int64_t n);

}  // namespace virtual_xpu
