// Sums of d = s - center and of d^2 over one plane of a segment (table.h). Pixels are read once from memory; a tile
// that is read again is in the L1 cache.
#pragma once

#include "totals.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// K <= kPad planes of a piece of a run (table.h): adds the sums of their values (double: of d) to `sum`, their squares
// to eight doubles. The piece lies in a tile of at least kLanes pixels, `left` of which are left from s on.
template <int K, class scalar_t>
inline void sum_planes(const scalar_t* s, int64_t stride, int64_t pixels, int64_t left, const AccOf<scalar_t>* center,
                       double* sum, double* square) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kLanes<acc_t>;
  using V = Vec<acc_t>;
  constexpr bool kValues = std::is_same_v<scalar_t, float>;                 // summed in double; else d is, as in Total
  constexpr int kVectors = K <= kPad / 2 ? 2 : 1, kSquares = 2 * kVectors;  // enough chains for any K
  constexpr int64_t kBlock = kAdditions * kSquares / K * L;
  Wide<acc_t> sums[K] = {};
  int64_t x = 0;
  for (int64_t end; x + L <= pixels; x = end) {
    end = std::min(x + kBlock, x + (pixels - x) / L * L);
    V squares[kSquares] = {}, parts[kValues ? 1 : kVectors][K] = {};
    const auto add = [&](int64_t at_x, int v) {
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
        const scalar_t* at = s + k * stride + at_x;
        if (v == 0) prefetch_ahead<kVectors * L>(at);
        const V d = load_acc<L>(at) - center[k];
        if constexpr (kValues) {
          sums[k] += load_wide<L / 2>(at) + load_wide<L / 2>(at + L / 2);
        } else {
          parts[v][k] += d;
        }
        squares[(v * K + k) % kSquares] += d * d;
      }
    };
    for (; x + kVectors * L <= end; x += kVectors * L) {
      for (int v = 0; v < kVectors; ++v) add(x + v * L, v);
    }
    if (kVectors > 1 && x < end) add(x, 0);
    if constexpr (!kValues) {
      for (int k = 0; k < K; ++k)
        sums[k] += add_halves<acc_t>(kVectors > 1 ? parts[0][k] + parts[kVectors - 1][k] : parts[0][k]);
    }
    add_lanes<acc_t, L>(square, add_all(squares));
  }
  if (x < pixels) {  // a vector that ends in the tile; what does not belong to the piece is dropped
    const int64_t first = std::min(x, left - L);
    const Mask<acc_t> fresh = lanes_from<acc_t>(x - first) & ~lanes_from<acc_t>(pixels - first);
    V squares[2] = {};
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const scalar_t* at = s + k * stride + first;
      prefetch_ahead<L>(at);
      const V value = load_acc<L>(at), d = fresh ? value - center[k] : V{};
      sums[k] += add_halves<acc_t>(kValues ? (fresh ? value : V{}) : d);
      squares[k % 2] += d * d;
    }
    add_lanes<acc_t, L>(square, add_all(squares));
  }
  fold_planes<K>(sums, sum);
  if constexpr (!kValues && std::is_same_v<acc_t, float>) {
    for (int k = 0; k < K; ++k) sum[k] += static_cast<double>(pixels) * center[k];
  }
}

constexpr int kUnroll = 2;  // chains of sum_masked

// One channel of a planar segment for R regions: each lane keeps or drops a value. pixels[r]: those of region r.
template <int R, class scalar_t>
inline void sum_masked(const scalar_t* s, const int32_t* label, int64_t length, const int32_t* region,
                       const int64_t* pixels, const AccOf<scalar_t>* center, double* sum, double* const* square,
                       bool first) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kLanes<acc_t>;
  using V = Vec<acc_t>;
  Total<scalar_t> sums[R][kUnroll];
  V squares[R][kUnroll] = {};
  const int64_t end = length / (kUnroll * L) * (kUnroll * L);
  for (int64_t x = 0; x < end; x += kUnroll * L) {
    if (first) prefetch_ahead<kUnroll * L>(s + x);
    for (int k = 0; k < kUnroll; ++k) {
      const scalar_t* at = s + x + k * L;
      const V value = load_acc<L>(at);
      for (int r = 0; r < R; ++r) {
        const Mask<acc_t> mask = members<acc_t>(label + x + k * L, region[r]);
        const V d = mask ? value - center[r] : V{};
        sums[r][k].add(at, d, mask);
        squares[r][k] += d * d;
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    sums[r][0].add(sums[r][1]);
    sums[r][0].settle();
    add_lanes<acc_t, L>(square[r], squares[r][0] + squares[r][1]);
    int64_t tail = 0;
    double rest = 0;
    for (int64_t x = end; x < length; ++x) {
      if (label[x] != region[r]) continue;
      ++tail;
      add_one(s[x], center[r], rest, square[r][0]);
    }
    sum[r] = rest + sums[r][0].about(center[r], pixels[r] - tail);
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
