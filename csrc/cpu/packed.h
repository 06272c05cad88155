// The same sums over interleaved pixels of few channels, and how such pixels lie in vectors.
#pragma once

#include "totals.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// Touching interleaved pixels of M < kPad channels: M vectors hold kLanes pixels, and lane k of vector v is channel
// (v * kLanes + k) % M of pixel (v * kLanes + k) / M.
template <class acc_t, int M>
struct Packed {
  static constexpr int L = kLanes<acc_t>;
  using V = Vec<acc_t>;

  // A value per channel, repeated along the lanes.
  static void spread(const acc_t* of_channel, V (&out)[M]) {
    V row{};
    if constexpr (M <= L) std::memcpy(&row, of_channel, M * sizeof(acc_t));
    for (int v = 0; v < M; ++v) {
      Mask<acc_t> channel{};
      for (int k = 0; k < L; ++k) channel[k] = (v * L + k) % M;
      if constexpr (M <= L) {
        out[v] = permute(row, channel);
      } else {
        for (int k = 0; k < L; ++k) out[v][k] = of_channel[channel[k]];
      }
    }
  }

  // The pixel of each lane, for permute.
  static void pixels(Mask<acc_t> (&out)[M]) {
    for (int v = 0; v < M; ++v) {
      out[v] = Mask<acc_t>{};
      for (int k = 0; k < L; ++k) out[v][k] = (v * L + k) / M;
    }
  }
};

// The lanes of sums[v] and squares[v]: writes sums by channel (M), adds squares to eight doubles.
template <int M, class scalar_t, class V>
inline void fold_packed(Total<scalar_t> (&sums)[M], V (&squares)[M], int64_t pixels, const AccOf<scalar_t>* center,
                        double* sum, double* square) {
  constexpr int L = Total<scalar_t>::L;
  for (int v = 1; v < M; ++v) squares[0] += squares[v];
  add_lanes<AccOf<scalar_t>, L>(square, squares[0]);
  for (int m = 0; m < M; ++m) sum[m] = 0;
  if constexpr (kPad % M == 0 && L % M == 0) {  // lane k of every vector is channel k % M
    for (int v = 1; v < M; ++v) sums[0].add(sums[v]);
    double eight[kPad] = {};
    sums[0].add_to(eight);
    for (int k = 0; k < kPad; ++k) sum[k % M] += eight[k];
  } else {
    for (int v = 0; v < M; ++v) {
      for (int k = 0; k < L; ++k) sum[(v * L + k) % M] += sums[v].lane(k);
    }
  }
  if constexpr (Total<scalar_t>::kWide) {
    for (int m = 0; m < M; ++m) sum[m] -= static_cast<double>(pixels) * center[m];
  }
}

template <int M, class scalar_t>
CAS_HD void prefetch_packed(const scalar_t* s) {
  prefetch<M * kLanes<AccOf<scalar_t>>>(s + kAhead / static_cast<int64_t>(sizeof(scalar_t)));
}

// Pixels of one region: writes sums (M), adds squares to eight doubles. The segment lies in a tile of at least kLanes
// pixels, `left` of which are left from s on.
template <int M, class scalar_t>
inline void sum_packed(const scalar_t* s, int64_t pixels, int64_t left, const AccOf<scalar_t>* center, double* sum,
                       double* square) {
  using acc_t = AccOf<scalar_t>;
  using P = Packed<acc_t, M>;
  using V = typename P::V;
  constexpr int L = P::L;
  V c[M], squares[M] = {};
  Total<scalar_t> sums[M];
  P::spread(center, c);
  int64_t x = 0;
  for (; x + L <= pixels; x += L) {
    prefetch_packed<M>(s + x * M);
    for (int v = 0; v < M; ++v) {
      const scalar_t* at = s + x * M + v * L;
      const V d = load_acc<L>(at) - c[v];
      sums[v].add(at, d);
      squares[v] += d * d;
    }
  }
  if (x < pixels) {  // L pixels that end in the tile; what does not belong to the segment is dropped
    const int64_t first = std::min(x, left - L), begin = (x - first) * M, end = (pixels - first) * M;
    prefetch_packed<M>(s + first * M);
    for (int v = 0; v < M && v * L < end; ++v) {
      const scalar_t* at = s + first * M + v * L;
      const Mask<acc_t> fresh = lanes_from<acc_t>(begin - v * L) & ~lanes_from<acc_t>(end - v * L);
      const V d = fresh ? load_acc<L>(at) - c[v] : V{};
      sums[v].add(at, d, fresh);
      squares[v] += d * d;
    }
  }
  fold_packed<M>(sums, squares, pixels, center, sum, square);
}

// Those of `length` pixels that have the label of a region, `pixels` of them.
template <int M, class scalar_t>
inline void sum_packed_masked(const scalar_t* s, const int32_t* label, int64_t length, int32_t region, int64_t pixels,
                              const AccOf<scalar_t>* center, double* sum, double* square) {
  using acc_t = AccOf<scalar_t>;
  using P = Packed<acc_t, M>;
  using V = typename P::V;
  constexpr int L = P::L;
  V c[M], squares[M] = {};
  Total<scalar_t> sums[M];
  Mask<acc_t> pixel[M];
  P::spread(center, c);
  P::pixels(pixel);
  const int64_t end = length / L * L;
  for (int64_t x = 0; x < end; x += L) {
    prefetch_packed<M>(s + x * M);
    const Mask<acc_t> member = members<acc_t>(label + x, region);
    for (int v = 0; v < M; ++v) {
      const scalar_t* at = s + x * M + v * L;
      const Mask<acc_t> mask = permute(member, pixel[v]);
      const V d = mask ? load_acc<L>(at) - c[v] : V{};
      sums[v].add(at, d, mask);
      squares[v] += d * d;
    }
  }
  int64_t tail = 0;
  for (int64_t x = end; x < length; ++x) tail += label[x] == region;
  fold_packed<M>(sums, squares, pixels - tail, center, sum, square);
  for (int64_t x = end; x < length; ++x) {
    if (label[x] != region) continue;
    for (int m = 0; m < M; ++m) add_one(s[x * M + m], center[m], sum[m], square[m]);
  }
}

// Calls body(std::integral_constant<int, n>()) for n in 1..most; what lies beyond is taken for the nearer end.
template <int most, class Body>
inline void visit_count(int64_t n, Body body) {
  if constexpr (most > 1) {
    if (n < most) return visit_count<most - 1>(n, body);
  }
  body(std::integral_constant<int, most>());
}

// For channel counts below kPad.
template <class Body>
inline void visit_few(int64_t M, Body body) {
  visit_count<kPad - 1>(M, body);
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
