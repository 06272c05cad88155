// Sums of d = s - center and of d^2 over one plane of a segment (table.h). Pixels are read once from memory; a tile
// that is read again is in the L1 cache.
#pragma once

#include "totals.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int kGroup = 4;  // planes that are summed together

// K channels of a planar segment: writes their sums, adds their squares to eight doubles. The segment lies in a tile of
// at least kLanes pixels, `left` of which are left from s on.
template <int K, class scalar_t>
inline void sum_planes(const scalar_t* s, int64_t stride, int64_t pixels, int64_t left, const AccOf<scalar_t>* center,
                       double* sum, double* square) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kLanes<acc_t>;
  using V = Vec<acc_t>;
  V c[K], squares[K] = {};
  Total<scalar_t> sums[K];
  for (int k = 0; k < K; ++k) c[k] = splat(center[k]);
  int64_t x = 0;
  for (; x + L <= pixels; x += L) {
    for (int k = 0; k < K; ++k) {
      const scalar_t* at = s + k * stride + x;
      prefetch_next_tile<L>(at);
      const V d = load_acc<L>(at) - c[k];
      sums[k].add(at, d);
      squares[k] += d * d;
    }
  }
  if (x < pixels) {  // a vector that ends in the tile; what does not belong to it is dropped
    const int64_t first = std::min(x, left - L);
    const Mask<acc_t> fresh = lanes_from<acc_t>(x - first) & ~lanes_from<acc_t>(pixels - first);
    for (int k = 0; k < K; ++k) {
      const scalar_t* at = s + k * stride + first;
      prefetch_next_tile<L>(at);
      const V d = fresh ? load_acc<L>(at) - c[k] : V{};
      sums[k].add(at, d, fresh);
      squares[k] += d * d;
    }
  }
  for (int k = 1; k < K; ++k) squares[0] += squares[k];
  add_lanes<acc_t, L>(square, squares[0]);
  for (int k = 0; k < K; ++k) sum[k] = sums[k].about(center[k], pixels);
}

constexpr int64_t kPieceAhead = 512;  // pixels

// Of many planes, and to L2: in L1 what lies at the same place of each competes for the same few lines.
template <class scalar_t>
CAS_HD void ask_for_piece(const scalar_t* s) {
  __builtin_prefetch(s + kPieceAhead, 0, 2);
}

// The same of K <= kPad channels of a short segment, added to sums of the values themselves (to those of d for double)
// and to kPad squares in acc_t.
template <int K, class scalar_t>
inline void sum_piece(const scalar_t* s, int64_t stride, int64_t pixels, int64_t left, const AccOf<scalar_t>* center,
                      double* sum, AccOf<scalar_t>* square) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kLanes<acc_t>;
  using V = Vec<acc_t>;
  V squares[2] = {};
  Wide<acc_t> sums[K] = {};
  int64_t x = 0;
  for (; x + L <= pixels; x += L) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const scalar_t* at = s + k * stride + x;
      ask_for_piece(at);
      const V value = load_acc<L>(at), d = value - center[k];
      sums[k] += add_halves<acc_t>(std::is_same_v<acc_t, double> ? d : value);
      squares[k % 2] += d * d;
    }
  }
  if (x < pixels) {  // a vector that ends in the tile; what does not belong to the segment is dropped
    const int64_t first = std::min(x, left - L);
    const Mask<acc_t> fresh = lanes_from<acc_t>(x - first) & ~lanes_from<acc_t>(pixels - first);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const scalar_t* at = s + k * stride + first;
      ask_for_piece(at);
      const V value = fresh ? load_acc<L>(at) : V{}, d = fresh ? value - center[k] : V{};
      sums[k] += add_halves<acc_t>(std::is_same_v<acc_t, double> ? d : value);
      squares[k % 2] += d * d;
    }
  }
  fold_planes<K>(sums, sum);
  add_to_eight<acc_t>(square, squares[0] + squares[1]);
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
