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
    for (int v = 0; v < M; ++v) {
      out[v] = V{};
      for (int k = 0; k < L; ++k) out[v][k] = of_channel[(v * L + k) % M];
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

// Pixels [0, length) of one region, or, if kMasked, those with its label, of which there are `pixels`.
template <int M, bool kMasked, class scalar_t>
inline void sum_packed(const scalar_t* s, [[maybe_unused]] const int32_t* label, int64_t length,
                       [[maybe_unused]] int32_t region, int64_t pixels, const AccOf<scalar_t>* center, double* sum,
                       double* square) {
  using acc_t = AccOf<scalar_t>;
  using P = Packed<acc_t, M>;
  using V = typename P::V;
  constexpr int L = P::L;
  V c[M], squares[M] = {}, total{};
  Total<scalar_t> sums[M];
  [[maybe_unused]] Mask<acc_t> pixel[M];
  P::spread(center, c);
  if constexpr (kMasked) P::pixels(pixel);
  const int64_t end = length / L * L;
  for (int64_t x = 0; x < end; x += L) {
    prefetch<M * L>(s + x * M + kAhead / static_cast<int64_t>(sizeof(scalar_t)));
    [[maybe_unused]] Mask<acc_t> member{};
    if constexpr (kMasked) member = members<acc_t>(label + x, region);
    for (int v = 0; v < M; ++v) {
      const scalar_t* at = s + x * M + v * L;
      V d = load_acc<L>(at) - c[v];
      if constexpr (kMasked) {
        const Mask<acc_t> mask = permute(member, pixel[v]);
        d = mask ? d : V{};
        sums[v].add(at, d, mask);
      } else {
        sums[v].add(at, d);
      }
      squares[v] += d * d;
    }
  }
  for (int m = 0; m < M; ++m) sum[m] = 0;
  int64_t tail = 0;
  for (int64_t x = end; x < length; ++x) {
    if (kMasked && label[x] != region) continue;
    ++tail;
    for (int m = 0; m < M; ++m) add_one(s[x * M + m], center[m], sum[m], square[m]);
  }
  for (int v = 0; v < M; ++v) {
    total += squares[v];
    for (int k = 0; k < L; ++k) sum[(v * L + k) % M] += sums[v].lane(k);
  }
  if constexpr (Total<scalar_t>::kWide) {
    for (int m = 0; m < M; ++m) sum[m] -= static_cast<double>(pixels - tail) * center[m];
  }
  add_lanes<acc_t, L>(square, total);
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
