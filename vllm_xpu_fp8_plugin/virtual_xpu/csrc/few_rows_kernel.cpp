// SPDX-License-Identifier: Apache-2.0
// Compiled for the very processor it runs on. No header of torch: what they define
// inline would be linked into all of the library.
#include <algorithm>
#include <cstring>

#include "few_rows.h"

namespace virtual_xpu {
namespace {

typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef int32_t Counts __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

// A float format of less than 32 bits with subnormals, infinity and NaN as IEEE has
// them; e4m3fn has no infinity, and one NaN.
template <class Code, int kFraction, int kExponentBias, Code kSpecial>
struct Format {
  using Stored = Code;
  // No float32 subnormal occurs, which would cost a hundred cycles.
  static void decode(const Code* from, int64_t n, float* values) {
    constexpr uint32_t kSign = uint32_t{1} << (8 * sizeof(Code) - 1);
    constexpr uint32_t kBias = (127 - kExponentBias) << 23;
    constexpr float kLeast = 1.0f / (uint64_t{1} << (kExponentBias - 1 + kFraction));
    for (int64_t i = 0; i < n; i += kLanes) {
      uint32_t wide[kLanes];
      for (int64_t lane = 0; lane < kLanes; ++lane) wide[lane] = from[i + lane];
      Bits code;
      std::memcpy(&code, wide, sizeof(code));
      Bits magnitude = code & (kSign - 1), moved = magnitude << (23 - kFraction);
      Bits subnormal =
          (Bits)(__builtin_convertvector((Counts)magnitude, Lanes) * kLeast);
      Bits bits = magnitude < (1u << kFraction) ? subnormal : moved + kBias;
      bits = magnitude >= kSpecial ? moved | 0x7f800000u : bits;
      bits |= (code & kSign) << (32 - 8 * sizeof(Code));
      std::memcpy(values + i, &bits, sizeof(bits));
    }
  }
};

using E4M3 = Format<uint8_t, 3, 7, 0x7f>;
using E5M2 = Format<uint8_t, 2, 15, 0x7c>;
using Half = Format<uint16_t, 10, 15, 0x7c00>;

struct BFloat16 {
  using Stored = uint16_t;
  static void decode(const uint16_t* from, int64_t n, float* values) {
    for (int64_t i = 0; i < n; ++i) {
      uint32_t bits = uint32_t{from[i]} << 16;
      std::memcpy(values + i, &bits, sizeof(bits));
    }
  }
};

Lanes load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}

float sum(const Lanes& lanes) {
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Four __attribute__((vector_size(16)));
  Eight halves[2];
  std::memcpy(halves, &lanes, sizeof(halves));
  Eight eight = halves[0] + halves[1];
  Four quarters[2];
  std::memcpy(quarters, &eight, sizeof(quarters));
  Four four = quarters[0] + quarters[1];
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// out[m, n] of `columns` columns that start at `out`.
template <class F>
void multiply(const float* rows, int64_t m, const void* stored, int64_t columns,
              int64_t k, float* decoded, float* out, int64_t n) {
  const auto* weight = static_cast<const typename F::Stored*>(stored);
  // The last tile computes its last column again, and keeps one result of it.
  for (int64_t j = 0; j < kTile; ++j)
    F::decode(weight + std::min(j, columns - 1) * k, k, decoded + j * k);
  for (int64_t start = 0; start < m; start += kTile) {
    Lanes sums[kTile][kTile] = {};
    const float* row[kTile];
    for (int64_t i = 0; i < kTile; ++i) row[i] = rows + std::min(start + i, m - 1) * k;
    for (int64_t x = 0; x < k; x += kLanes)
      for (int64_t j = 0; j < kTile; ++j) {
        Lanes w = load(decoded + j * k + x);
        for (int64_t i = 0; i < kTile; ++i) sums[i][j] += load(row[i] + x) * w;
      }
    for (int64_t i = 0; i < std::min(kTile, m - start); ++i)
      for (int64_t j = 0; j < columns; ++j) {
        out[(start + i) * n + j] = sum(sums[i][j]);
      }
  }
}

}  // namespace

void multiply_few_rows(const float* rows, int64_t m, const void* weight, Type type,
                       int64_t columns, int64_t k, float* decoded, float* out,
                       int64_t n) {
  constexpr decltype(&multiply<Half>) kEach[] = {multiply<E4M3>, multiply<E5M2>,
                                                 multiply<Half>, multiply<BFloat16>};
  kEach[static_cast<int>(type)](rows, m, weight, columns, k, decoded, out, n);
}

}  // namespace virtual_xpu
