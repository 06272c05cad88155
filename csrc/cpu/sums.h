// Sums of s - pilot and (s - pilot)^2 over pixels that share a region, or over pixels with a region each.
// All sums are in double, in eight lanes. Pixels are read once; a tile that is read again is in the L1 cache.
#pragma once

#include "labels.h"
#include "simd.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// Asks for what `elements` values from s on will be in the next tile of this plane: the processor's own prefetcher
// starts afresh with every tile and plane.
template <int elements, class scalar_t>
CAS_HD void prefetch_next_tile(const scalar_t* s) {
  constexpr int kLine = 64;  // bytes
  for (int byte = 0; byte < elements * static_cast<int>(sizeof(scalar_t)); byte += kLine) {
    __builtin_prefetch(reinterpret_cast<const char*>(s + kTile) + byte);
  }
}

// One channel of a planar run.
template <class scalar_t>
inline void sum_plane(const scalar_t* s, int64_t length, double pilot, double& sum, double* square) {
  const Double8 c = broadcast(pilot);
  Double8 sum0{}, sum1{}, square0{}, square1{};
  int64_t x = 0;
  for (; x + 2 * kLanes <= length; x += 2 * kLanes) {
    prefetch_next_tile<2 * kLanes>(s + x);
    const Double8 d0 = load_wide(s + x) - c, d1 = load_wide(s + x + kLanes) - c;
    sum0 += d0;
    square0 += d0 * d0;
    sum1 += d1;
    square1 += d1 * d1;
  }
  if (x + kLanes <= length) {
    const Double8 d = load_wide(s + x) - c;
    sum0 += d;
    square0 += d * d;
    x += kLanes;
  }
  double tail = 0, tail_square = 0;
  for (; x < length; ++x) {
    const double d = widen(s[x]) - pilot;
    tail += d;
    tail_square += d * d;
  }
  sum += sum_lanes(sum0 + sum1) + tail;
  store(square, load<Double8>(square) + (square0 + square1));
  square[0] += tail_square;
}

// One channel of a planar tile whose labels change often, for R regions from `first` on: each lane keeps or drops a
// value.
template <int R, class scalar_t>
inline void sum_masked(const Tile& tile, const scalar_t* s, int32_t first, int64_t M, const double* pilot, double* sum,
                       double* square) {
  Double8 c[R], sums[R] = {}, squares[R] = {};
  for (int r = 0; r < R; ++r) c[r] = broadcast(pilot[r * M]);
  int64_t x = 0;
  for (; x + kLanes <= tile.size; x += kLanes) {
    if (first == 0) prefetch_next_tile<kLanes>(s + x);
    const Double8 value = load_wide(s + x);
    const Int8 label = load<Int8>(tile.label + x);
    for (int r = 0; r < R; ++r) {
      const Double8 d = keep(value - c[r], __builtin_convertvector(label == first + r, Long8));
      sums[r] += d;
      squares[r] += d * d;
    }
  }
  for (int r = 0; r < R; ++r) {
    sum[r * M] += sum_lanes(sums[r]);
    store(square + r * kLanes, load<Double8>(square + r * kLanes) + squares[r]);
  }
  for (; x < tile.size; ++x) {
    const int32_t r = tile.label[x] - first;
    if (r < 0 || r >= R) continue;
    const double d = widen(s[x]) - pilot[r * M];
    sum[r * M] += d;
    square[r * kLanes] += d * d;
  }
}

// The M values of one pixel, added to a row of the table: lanes are channels. M >= kLanes.
template <class scalar_t>
inline void sum_row(const scalar_t* s, int64_t M, const double* pilot, double* sum, double* square) {
  Double8 squares = load<Double8>(square);
  int64_t m = 0;
  for (; m + kLanes <= M; m += kLanes) {
    const Double8 d = load_wide(s + m) - load<Double8>(pilot + m);
    store(sum + m, load<Double8>(sum + m) + d);
    squares += d * d;
  }
  if (m < M) {  // the last eight channels; those already added are dropped
    const Long8 lane = {0, 1, 2, 3, 4, 5, 6, 7};
    const int64_t last = M - kLanes;
    const Double8 d = keep(load_wide(s + last) - load<Double8>(pilot + last), lane >= m - last);
    store(sum + last, load<Double8>(sum + last) + d);
    squares += d * d;
  }
  store(square, squares);
}

// The same for few channels.
template <class scalar_t>
inline void sum_short_row(const scalar_t* s, int64_t stride, int64_t M, const double* pilot, double* sum,
                          double* square) {
  for (int64_t m = 0; m < M; ++m) {
    const double d = widen(s[m * stride]) - pilot[m];
    sum[m] += d;
    square[m] += d * d;
  }
}

// An interleaved run of `length` pixels, `stride` apart, eight channels at a time. M >= kLanes.
template <class scalar_t>
inline void sum_pixels(const scalar_t* s, int64_t length, int64_t stride, int64_t M, const double* pilot, double* sum,
                       double* square) {
  const Long8 lane = {0, 1, 2, 3, 4, 5, 6, 7};
  Double8 squares = load<Double8>(square);
  for (int64_t next = 0; next < M; next += kLanes) {
    const int64_t m = next + kLanes <= M ? next : M - kLanes;
    const Double8 c = load<Double8>(pilot + m);
    Double8 sum0{}, sum1{}, square0{}, square1{};
    int64_t x = 0;
    for (; x + 2 <= length; x += 2) {
      const Double8 d0 = load_wide(s + x * stride + m) - c, d1 = load_wide(s + (x + 1) * stride + m) - c;
      sum0 += d0;
      square0 += d0 * d0;
      sum1 += d1;
      square1 += d1 * d1;
    }
    if (x < length) {
      const Double8 d = load_wide(s + x * stride + m) - c;
      sum0 += d;
      square0 += d * d;
    }
    const Long8 fresh = lane >= next - m;  // all lanes but in the last, overlapping group
    store(sum + m, load<Double8>(sum + m) + keep(sum0 + sum1, fresh));
    squares += keep(square0 + square1, fresh);
  }
  store(square, squares);
}

// An interleaved run of touching pixels with M < kLanes channels: M vectors hold eight pixels.
template <int M, class scalar_t>
inline void sum_packed(const scalar_t* s, int64_t length, const double* pilot, double* sum, double* square) {
  Double8 c[M], sums[M] = {}, squares{};
  for (int v = 0; v < M; ++v) {
    for (int k = 0; k < kLanes; ++k) c[v][k] = pilot[(v * kLanes + k) % M];
  }
  int64_t x = 0;
  for (; x + kLanes <= length; x += kLanes) {
    for (int v = 0; v < M; ++v) {
      const Double8 d = load_wide(s + x * M + v * kLanes) - c[v];
      sums[v] += d;
      squares += d * d;
    }
  }
  for (int v = 0; v < M && x > 0; ++v) {
    for (int k = 0; k < kLanes; ++k) sum[(v * kLanes + k) % M] += sums[v][k];
  }
  store(square, load<Double8>(square) + squares);
  for (; x < length; ++x) sum_short_row(s + x * M, 1, M, pilot, sum, square);
}

// An interleaved tile of touching pixels with M < kLanes channels whose labels change often, for one region.
template <int M, class scalar_t>
inline void sum_packed_masked(const Tile& tile, const scalar_t* s, int32_t region, const double* pilot, double* sum,
                              double* square) {
  Double8 c[M], sums[M] = {}, squares{};
  for (int v = 0; v < M; ++v) {
    for (int k = 0; k < kLanes; ++k) c[v][k] = pilot[(v * kLanes + k) % M];
  }
  int64_t x = 0;
  for (; x + kLanes <= tile.size; x += kLanes) {
    const Long8 member = __builtin_convertvector(load<Int8>(tile.label + x) == region, Long8);
    for (int v = 0; v < M; ++v) {
      Long8 mask;
      for (int k = 0; k < kLanes; ++k) mask[k] = member[(v * kLanes + k) / M];
      const Double8 d = keep(load_wide(s + x * M + v * kLanes) - c[v], mask);
      sums[v] += d;
      squares += d * d;
    }
  }
  for (int v = 0; v < M; ++v) {
    for (int k = 0; k < kLanes; ++k) sum[(v * kLanes + k) % M] += sums[v][k];
  }
  store(square, load<Double8>(square) + squares);
  for (; x < tile.size; ++x) {
    if (tile.label[x] == region) sum_short_row(s + x * M, 1, M, pilot, sum, square);
  }
}

// Calls body(std::integral_constant<int, M>()) for M in 1..7.
template <class Body>
inline void visit_few(int64_t M, Body body) {
  switch (M) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    case 4:
      return body(std::integral_constant<int, 4>());
    case 5:
      return body(std::integral_constant<int, 5>());
    case 6:
      return body(std::integral_constant<int, 6>());
    case 7:
      return body(std::integral_constant<int, 7>());
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
