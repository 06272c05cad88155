// Sums of d = s - center and of d^2 over one plane of a segment (table.h). Pixels are read once from memory; a tile
// that is read again is in the L1 cache.
#pragma once

#include "totals.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// One channel of a planar segment: returns the sum, adds the squares to eight doubles.
template <class scalar_t>
inline double sum_plane(const scalar_t* s, int64_t pixels, AccOf<scalar_t> center, double* square) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kLanes<acc_t>;
  using V = Vec<acc_t>;
  const V c = splat(center);
  double tail = 0;
  if (pixels < L) {
    for (int64_t x = 0; x < pixels; ++x) add_one(s[x], center, tail, square[x % kPad]);
    return tail;
  }
  Total<scalar_t> sum[kChains];
  V squares[kChains] = {};
  int64_t x = 0;
  for (; x + kChains * L <= pixels; x += kChains * L) {
    prefetch_next_tile<kChains * L>(s + x);
    for (int k = 0; k < kChains; ++k) {
      const V d = load_acc<L>(s + x + k * L) - c;
      sum[k].add(s + x + k * L, d);
      squares[k] += d * d;
    }
  }
  for (; x + L <= pixels; x += L) {
    const V d = load_acc<L>(s + x) - c;
    sum[0].add(s + x, d);
    squares[0] += d * d;
  }
  if (x < pixels) {  // the last L pixels; those already added are dropped
    const Mask<acc_t> fresh = lanes_from<acc_t>(L - (pixels - x));
    const V d = fresh ? load_acc<L>(s + pixels - L) - c : V{};
    sum[1].add(s + pixels - L, d, fresh);
    squares[1] += d * d;
  }
  add_lanes<acc_t, L>(square, (squares[0] + squares[1]) + (squares[2] + squares[3]));
  for (int k = 1; k < kChains; ++k) sum[0].add(sum[k]);
  return sum[0].about(center, pixels);
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
    if (first) prefetch_next_tile<kUnroll * L>(s + x);
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
