// The same sums over interleaved pixels of few channels, and how such pixels lie in vectors.
#pragma once

#include "few.h"
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

  // M vectors of kLanes pixels as planes, and back.
  CAS_HD static void to_planes(const V (&v)[M], V (&plane)[M]) { collect(v, kLane.of_plane, kLane.vector, plane); }
  CAS_HD static void from_planes(const V (&plane)[M], V (&v)[M]) { collect(plane, kLane.pixel, kLane.channel, v); }

 private:
  // Lane k of to[j] is lane lane[j * L + k] of from[source[j * L + k]].
  CAS_HD static void collect(const V (&from)[M], const Bits<acc_t>* lane, const Bits<acc_t>* source, V (&to)[M]) {
#pragma GCC unroll 8
    for (int j = 0; j < M; ++j) {
      const auto its_lane = load<Mask<acc_t>>(lane + j * L), its_source = load<Mask<acc_t>>(source + j * L);
      to[j] = permute(from[0], its_lane);
#pragma GCC unroll 8
      for (int m = 1; m < M; ++m) to[j] = its_source == m ? permute(from[m], its_lane) : to[j];
    }
  }

  struct Lanes {
    constexpr Lanes() {
      for (int k = 0; k < M * L; ++k) {
        channel[k] = k % M, pixel[k] = k / M;
        of_plane[k] = (k % L * M + k / L) % L, vector[k] = (k % L * M + k / L) / L;
      }
    }
    Bits<acc_t> channel[M * L] = {}, pixel[M * L] = {};
    Bits<acc_t> of_plane[M * L] = {}, vector[M * L] = {};  // where lane k % L of plane k / L lies
  };
  alignas(64) static constexpr Lanes kLane{};
};

// The same pixels, as many as one vector holds.
template <class acc_t, int M>
struct Pack {
  static constexpr int L = M <= kLanes<acc_t> ? kLanes<acc_t> : kPad, kPixels = L / M, kUsed = kPixels * M;
  using V = Vec<acc_t, L>;

  // A value per channel, repeated along the lanes.
  static V spread(const acc_t* of_channel) {
    return permute(load_first<L>(of_channel, M), load<Mask<acc_t, L>>(kLane.channel));
  }

  // The pixels that `bits` has, from the first one of the vector on.
  static Keep<acc_t, L> keep(uint64_t bits) { return Keep<acc_t, L>(bits, load<Mask<acc_t, L>>(kLane.pixel_bit)); }

 private:
  struct Lanes {
    constexpr Lanes() {
      for (int k = 0; k < L; ++k) channel[k] = k % M, pixel_bit[k] = k < kUsed ? Bits<acc_t>(1) << k / M : 0;
    }
    Bits<acc_t> channel[L] = {}, pixel_bit[L] = {};
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

// Adds the lanes, which have settled, to sums by channel (M).
template <int M, class scalar_t, int L>
inline void fold_packed(const Total<scalar_t, L>& total, double* sum) {
  if constexpr (L / 2 % M == 0) {  // lane k of either half is channel k % M
    store(sum, load<Vec<double, M>>(sum) + fold_lanes<M, L / 2>(total.halves()));
  } else if constexpr (L == M) {
    total.add_to(sum);
  } else {
#pragma GCC unroll 16
    for (int k = 0; k < L / M * M; ++k) sum[k % M] += total.lane(k);
  }
}

// Pixels of one region, `left` of which may be read from s on: adds their sums (double: of d, else of values) to those
// by channel (M), their squares to eight doubles.
template <int M, class scalar_t>
inline void sum_packed(const scalar_t* s, int64_t pixels, int64_t left, const AccOf<scalar_t>* center, double* sum,
                       double* square) {
  using acc_t = AccOf<scalar_t>;
  using P = Pack<acc_t, M>;
  using V = typename P::V;
  const V about = P::spread(center);
  const Keep<acc_t, P::L> used = P::keep(~uint64_t(0));
  Total<scalar_t, P::L> total;
  V squares{};
  const auto add = [&](const scalar_t* at, auto keep) {
    const V d = keep(load_acc<P::L>(at) - about);
    total.add(at, d, keep);
    squares = keep.add_square(squares, d);
  };
  const auto end_block = [&] {
    total.settle();
    add_lanes<acc_t, P::L>(square, squares);
  };
  int64_t x = 0;
  const int64_t end = std::min(pixels - P::kPixels, left - (P::L + M - 1) / M);  // of the places of whole vectors
  for (int64_t block = kAdditions * P::kPixels; x <= end; block += kAdditions * P::kPixels) {
    for (; x <= end && x < block; x += P::kPixels) {
      prefetch_ahead<P::kUsed>(s + x * M);
      if constexpr (P::kUsed == P::L) {
        add(s + x * M, KeepAll());
      } else {
        add(s + x * M, used);
      }
    }
    if (x > end) break;
    end_block();
    squares = V{};
  }
  for (; x < pixels; x += P::kPixels) {  // what is left of them; at the end of a tile from a copy
    const int64_t rest = std::min<int64_t>(pixels - x, P::kPixels);
    const Keep<acc_t, P::L> keep = P::keep((uint64_t(1) << rest) - 1);
    if ((left - x) * M >= P::L) {
      add(s + x * M, keep);
    } else {
      scalar_t copy[P::L] = {};
      std::copy_n(s + x * M, rest * M, copy);
      add(copy, keep);
    }
  }
  end_block();
  fold_packed<M>(total, sum);
  if constexpr (!std::is_same_v<scalar_t, float> && std::is_same_v<acc_t, float>) add_centers<M>(center, pixels, sum);
}

// Those of the pixels [begin, end) of a tile that belong to R <= 2 of its regions, which[r]. pixels[r], center[r]: of
// each. `left`: as above, from s on. Writes sums of s - center (R, kPad), adds squares to eight doubles.
template <int M, int R, class scalar_t>
inline void sum_packed_masked(const scalar_t* s, const MemberBits& members, const int* which, int64_t begin,
                              int64_t end, int64_t left, const int64_t* pixels, const AccOf<scalar_t>* const* center,
                              double (*sum)[kPad], double* const* square) {
  using acc_t = AccOf<scalar_t>;
  using P = Pack<acc_t, M>;
  using V = typename P::V;
  V about[R], squares[R];
  Total<scalar_t, P::L> total[R];
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) about[r] = P::spread(center[r]);
  const int64_t last = std::min(end - P::kPixels, left - (P::L + M - 1) / M);
  int64_t x = begin;
  while (x <= last) {
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) squares[r] = V{};
    constexpr int kOfWord = std::min<int>(kWord / P::kPixels, kAdditions);  // vectors whose pixels a word has
    for (const int64_t block = x + kAdditions * P::kPixels; x <= last && x < block;) {
      uint64_t bits[R];
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) bits[r] = members.word(which[r], x);
      for (int v = 0; v < kOfWord && x <= last && x < block; ++v, x += P::kPixels) {
        const scalar_t* at = s + x * M;
        prefetch_ahead<P::kUsed>(at);
        Keep<acc_t, P::L> keep[R];
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
          keep[r] = P::keep(bits[r]);
          bits[r] >>= P::kPixels;
        }
        const V d = load_acc<P::L>(at) - (R == 1 ? about[0] : keep[0].choose(about[0], about[R - 1]));
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
          total[r].add(at, d, keep[r]);
          squares[r] = keep[r].add_square(squares[r], d);
        }
      }
    }
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      total[r].settle();
      add_lanes<acc_t, P::L>(square[r], squares[r]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int m = 0; m < kPad; ++m) sum[r][m] = 0;
    fold_packed<M>(total[r], sum[r]);
    if constexpr (std::is_same_v<scalar_t, float>) {
      const int64_t added = pixels[r] - (x < end ? members.count(which[r], x, end) : 0);
      for (int m = 0; m < M; ++m) sum[r][m] -= static_cast<double>(added) * center[r][m];
    }
    for (int64_t k = x; k < end; ++k) {
      if (!(members.word(which[r], k) & 1)) continue;
      for (int m = 0; m < M; ++m) add_one(s[k * M + m], center[r][m], sum[r][m], square[r][m]);
    }
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
