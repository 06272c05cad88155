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
    const V row = load_first<L>(of_channel, std::min(M, L));
    for (int v = 0; v < M; ++v) {
      if constexpr (M <= L) {
        out[v] = permute(row, load<Mask<acc_t>>(kLane.channel + v * L));
      } else {
        for (int k = 0; k < L; ++k) out[v][k] = of_channel[kLane.channel[v * L + k]];
      }
    }
  }

  // The pixel of each lane, for permute.
  static void pixels(Mask<acc_t> (&out)[M]) {
    for (int v = 0; v < M; ++v) out[v] = load<Mask<acc_t>>(kLane.pixel + v * L);
  }

 private:
  struct Lanes {
    constexpr Lanes() {
      for (int k = 0; k < M * L; ++k) channel[k] = k % M, pixel[k] = k / M;
    }
    Bits<acc_t> channel[M * L] = {}, pixel[M * L] = {};
  };
  alignas(64) static constexpr Lanes kLane{};
};

// The sum of every M-th lane, for M a power of two.
template <int M, int lanes>
CAS_HD Vec<double, M> fold_lanes(Vec<double, lanes> v) {
  if constexpr (lanes == M) {
    return v;
  } else if constexpr (lanes == 2) {
    return Vec<double, 1>{v[0] + v[1]};
  } else {
    return fold_lanes<M, lanes / 2>(half_of<0, double, lanes>(v) + half_of<1, double, lanes>(v));
  }
}

// Writes the lanes of sums[v], which have settled, by channel (M).
template <int M, class scalar_t>
inline void fold_packed(Total<scalar_t> (&sums)[M], int64_t pixels, const AccOf<scalar_t>* center, double* sum) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = Total<scalar_t>::L;
  const double n = Total<scalar_t>::kValues ? static_cast<double>(pixels) : 0;
  if constexpr (L / 2 % M == 0) {  // lane k of every half of a vector is channel k % M
    for (int v = 1; v < M; ++v) sums[0].add(sums[v]);
    const auto total = fold_lanes<M, L / 2>(sums[0].halves());
    return store(sum, total - n * widen<M>(load<Vec<acc_t, M>>(center)));
  }
  for (int m = 0; m < M; ++m) sum[m] = -n * center[m];
  for (int v = 0; v < M; ++v) {
    for (int k = 0; k < L; ++k) sum[(v * L + k) % M] += sums[v].lane(k);
  }
}

template <int M, class scalar_t>
CAS_HD void prefetch_packed(const scalar_t* s) {
  prefetch_ahead<M * kLanes<AccOf<scalar_t>>>(s);
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
  V c[M];
  Total<scalar_t> sums[M];
  P::spread(center, c);
  int64_t x = 0;
  for (int64_t end; x + L <= pixels; x = end) {
    V squares[M] = {};
    end = std::min(x + kAdditions * L, x + (pixels - x) / L * L);
    for (; x < end; x += L) {
      prefetch_packed<M>(s + x * M);
      for (int v = 0; v < M; ++v) {
        const scalar_t* at = s + x * M + v * L;
        const V d = load_acc<L>(at) - c[v];
        sums[v].add(at, d);
        squares[v] += d * d;
      }
    }
    for (int v = 0; v < M; ++v) sums[v].settle();
    add_lanes<acc_t, L>(square, add_all(squares));
  }
  if (x < pixels) {  // L pixels that end in the tile; what does not belong to the segment is dropped
    const int64_t first = std::min(x, left - L), begin = (x - first) * M, end = (pixels - first) * M;
    prefetch_packed<M>(s + first * M);
    V squares{};
    for (int v = 0; v < M; ++v) {
      const scalar_t* at = s + first * M + v * L;
      const Mask<acc_t> fresh = lanes_from<acc_t>(begin - v * L) & ~lanes_from<acc_t>(end - v * L);
      const V d = fresh ? load_acc<L>(at) - c[v] : V{};
      sums[v].add(at, d, fresh);
      sums[v].settle();
      squares += d * d;
    }
    add_lanes<acc_t, L>(square, squares);
  }
  fold_packed<M>(sums, pixels, center, sum);
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
  for (int v = 0; v < M; ++v) sums[v].settle();
  add_lanes<acc_t, L>(square, add_all(squares));
  fold_packed<M>(sums, pixels - tail, center, sum);
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
