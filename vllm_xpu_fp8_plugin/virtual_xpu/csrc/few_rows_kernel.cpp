// SPDX-License-Identifier: Apache-2.0
// Compiled for the very processor it runs on. No header of torch: what they define
// inline would be linked into all of the library.
#include <algorithm>
#include <cstring>

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "few_rows.h"

namespace virtual_xpu {
namespace {

// Of a tile of the result: its sums, and what these are made of, fill the registers. A
// sum that is kept in memory costs more than all of the product.
constexpr int64_t kRows = 4;
#ifdef __AVX512F__
constexpr int64_t kWidth = 16, kColumns = 4;
#else
constexpr int64_t kWidth = 8, kColumns = 3;
#endif
static_assert(kTile % kColumns == 0 && kColumns <= kDecoded && kLanes % kWidth == 0);

typedef uint16_t Codes __attribute__((vector_size(kLanes * sizeof(uint16_t))));
typedef float Lanes __attribute__((vector_size(kWidth * sizeof(float))));
typedef float Four __attribute__((vector_size(4 * sizeof(float))));

template <class Vector>
Vector load(const void* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

// Writes kLanes fp16 numbers, times a power of two, as float32.
#ifdef __F16C__
void from_half(const Codes& half, float unit, float* values) {
  for (int64_t i = 0; i < kLanes; i += 8) {
    auto eight = load<__m128i>(reinterpret_cast<const uint16_t*>(&half) + i);
    auto found = _mm256_cvtph_ps(eight) * unit;
    std::memcpy(values + i, &found, sizeof(found));
  }
}
#else
void from_half(const Codes& half, float unit, float* values) {
  typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(uint32_t))));
  typedef int32_t Counts __attribute__((vector_size(kLanes * sizeof(int32_t))));
  typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
  Bits code = __builtin_convertvector(half, Bits);
  Bits magnitude = code & 0x7fff, moved = magnitude << 13;
  // No float32 subnormal occurs, which would cost a hundred cycles.
  Floats subnormal = __builtin_convertvector((Counts)magnitude, Floats) * 0x1p-24f;
  Bits bits = magnitude < 0x400 ? (Bits)subnormal : moved + (112u << 23);
  bits = magnitude >= 0x7c00 ? moved | 0x7f800000u : bits;
  bits |= (code & 0x8000) << 16;
  Floats found = (Floats)bits * unit;
  std::memcpy(values, &found, sizeof(found));
}
#endif

// FP8 has no more bits of exponent and fraction than fp16: its codes, moved, are fp16
// numbers, some of them subnormal.
struct E4M3 {
  using Stored = uint8_t;
  static constexpr float kUnit = 256;  // 2^(15 - 7), by the exponents' biases
  static Codes half(Codes code) {
    Codes magnitude = code & 0x7f;
    // It has no infinity, and one NaN.
    Codes nan = (Codes)(magnitude == 0x7f) & 0x7c00;
    return (code & 0x80) << 8 | magnitude << 7 | nan;
  }
};

struct E5M2 {
  using Stored = uint8_t;
  static constexpr float kUnit = 1;
  static Codes half(Codes code) { return code << 8; }
};

struct Half {
  using Stored = uint16_t;
  static constexpr float kUnit = 1;
  static Codes half(Codes code) { return code; }
};

struct BFloat16 {
  using Stored = uint16_t;
};

template <class F>
void decode(const typename F::Stored* from, int64_t n, float* values) {
  typedef typename F::Stored Stored
      __attribute__((vector_size(kLanes * sizeof(typename F::Stored))));
  for (int64_t i = 0; i < n; i += kLanes) {
    auto codes = __builtin_convertvector(load<Stored>(from + i), Codes);
    from_half(F::half(codes), F::kUnit, values + i);
  }
}

template <>
void decode<BFloat16>(const uint16_t* from, int64_t n, float* values) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits = uint32_t{from[i]} << 16;
    std::memcpy(values + i, &bits, sizeof(bits));
  }
}

float sum(const Lanes& lanes) {
  Four four = {};
  for (int64_t i = 0; i < kWidth; i += 4)
    four += load<Four>(reinterpret_cast<const float*>(&lanes) + i);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// `columns` is kColumns or less. What a tile has too much is its last row or column
// again, of which nothing is kept.
template <class F>
void multiply(const float* rows, int64_t m, const typename F::Stored* weight,
              int64_t columns, int64_t k, float* decoded, float* out, int64_t n) {
  const float* column[kColumns];
  for (int64_t j = 0; j < kColumns; ++j)
    column[j] = decoded + std::min(j, columns - 1) * k;
  for (int64_t j = 0; j < columns; ++j) decode<F>(weight + j * k, k, decoded + j * k);
  for (int64_t start = 0; start < m; start += kRows) {
    Lanes sums[kRows][kColumns] = {};
    const float* row[kRows];
    for (int64_t i = 0; i < kRows; ++i) row[i] = rows + std::min(start + i, m - 1) * k;
    for (int64_t x = 0; x < k; x += kWidth) {
      Lanes weights[kColumns];
      for (int64_t j = 0; j < kColumns; ++j) weights[j] = load<Lanes>(column[j] + x);
      for (int64_t i = 0; i < kRows; ++i) {
        auto values = load<Lanes>(row[i] + x);
        for (int64_t j = 0; j < kColumns; ++j) sums[i][j] += values * weights[j];
      }
    }
    for (int64_t i = 0; i < std::min(kRows, m - start); ++i)
      for (int64_t j = 0; j < columns; ++j) out[(start + i) * n + j] = sum(sums[i][j]);
  }
}

template <class F>
void multiply_tile(const float* rows, int64_t m, const void* weight, int64_t columns,
                   int64_t k, float* decoded, float* out, int64_t n) {
  const auto* codes = static_cast<const typename F::Stored*>(weight);
  for (int64_t j = 0; j < columns; j += kColumns)
    multiply<F>(rows, m, codes + j * k, std::min(kColumns, columns - j), k, decoded,
                out + j, n);
}

}  // namespace

void multiply_few_rows(const float* rows, int64_t m, const void* weight, Type type,
                       int64_t columns, int64_t k, float* decoded, float* out,
                       int64_t n) {
  constexpr decltype(&multiply_tile<Half>) kEach[] = {
      multiply_tile<E4M3>, multiply_tile<E5M2>, multiply_tile<Half>,
      multiply_tile<BFloat16>};
  kEach[static_cast<int>(type)](rows, m, weight, columns, k, decoded, out, n);
}

}  // namespace virtual_xpu
