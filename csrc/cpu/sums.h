// Sums of d = s - center and of d^2 over planes: of a piece of a run (table.h), or of the pixels of a few regions under
// masks.
#pragma once

#include "few.h"
#include "totals.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

template <class scalar_t>
constexpr int64_t kGroupPixels = kGroup<scalar_t> * kLanes<AccOf<scalar_t>>;

// K <= kPad planes of a piece of a run (table.h): adds the sums of their values (double: of d) to `sum`, their squares
// to eight doubles. s: the first pixel of its tile, which has at least kGroupPixels. Meanwhile asks for `next`. Always
// inlined, so that the addresses of planes are computed once for all pieces.
template <int K, class scalar_t>
CAS_HD void sum_planes(const scalar_t* s, int64_t stride, int64_t begin, int64_t pixels, int64_t size,
                       const AccOf<scalar_t>* center, double* sum, double* square, const NextPlanes<scalar_t>& next) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kLanes<acc_t>, G = kGroup<scalar_t>;
  using V = Vec<acc_t>;
  constexpr bool kValues = std::is_same_v<scalar_t, float>;   // summed in double; else d is, as in Total
  constexpr int kTogether = G == 1 && K <= kPad / 2 ? 2 : 1;  // groups of a plane
  constexpr int kSquares = std::min(4, kTogether * K * G);    // chains of additions
  constexpr int kSteps = std::min(kAdditions * kSquares / (K * G), kValues ? 4 * kAdditions : kAdditions / G);
  constexpr int64_t kStep = G * L, kBlock = kSteps * kStep;
  Wide<acc_t> sums[K];
  V squares[kSquares], parts[K];
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) sums[k] = Wide<acc_t>{};
  const auto begin_block = [&] {
#pragma GCC unroll 4
    for (int k = 0; k < kSquares; ++k) squares[k] = V{};
#pragma GCC unroll 8
    for (int k = 0; !kValues && k < K; ++k) parts[k] = V{};
  };
  const auto end_block = [&] {
#pragma GCC unroll 8
    for (int k = 0; !kValues && k < K; ++k) sums[k] += add_halves<acc_t>(parts[k]);
    add_lanes<acc_t, L>(square, add_all(squares));
  };
  // A group of every plane; `keep`: drops what does not belong to the piece.
  const auto add = [&](int64_t at_x, const auto(&keep)[G], auto chain) {
    if (chain == 0) next.template ask<kTogether * kStep, K>(at_x);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const scalar_t* at = s + k * stride + at_x;
      V value[G];
      load_group(at, value);
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) {
        const V d = keep[g](value[g] - center[k]);
        if constexpr (!kValues) {
          parts[k] += d;
        } else if constexpr (keep[g].kAll) {
          sums[k] += load_wide<L / 2>(at) + load_wide<L / 2>(at + L / 2);
        } else {
          sums[k] += keep[g].halves(at, value[g]);
        }
        squares[((chain * K + k) * G + g) % kSquares] += d * d;
      }
    }
  };
  const KeepAll all[G] = {};
  constexpr std::integral_constant<int, 0> kFirst;
  constexpr std::integral_constant<int, kTogether - 1> kSecond;
  const int64_t end = begin + pixels;
  int64_t x = begin;
  begin_block();
  for (;;) {
    const int64_t last = std::min(x + kBlock, end);
    for (; x + kTogether * kStep <= last; x += kTogether * kStep) {
      add(x, all, kFirst);
      if constexpr (kTogether > 1) add(x + kStep, all, kSecond);
    }
    if (kTogether > 1 && x + kStep <= last) {
      add(x, all, kFirst);
      x += kStep;
    }
    if (x + kStep > end) break;
    end_block();
    begin_block();
  }
  if (x < end) {  // a group that ends in the tile
    const int64_t first = std::min(x, size - kStep);
    Keep<acc_t> some[G];
    const auto below = [](int64_t k) { return (uint64_t(1) << k) - 1; };
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
      some[g] = Keep<acc_t>(below((end - first + G - 1 - g) / G) & ~below((x - first + G - 1 - g) / G));
    }
    add(first, some, kFirst);
  }
  end_block();
  fold_planes<K>(sums, sum);
  if constexpr (!kValues && std::is_same_v<acc_t, float>) add_centers<K>(center, pixels, sum);
}

constexpr int64_t kMostShort = 256;  // pixels of a piece in sum_short_planes

#if CAS_X86_LEVEL >= 4
// As sum_planes, for pieces of few vectors, in memory to the end of the last one: they are all masked, so that little
// depends on how many there are. Of float too, d is summed, in float: for values themselves the instructions double.
template <int K, class scalar_t>
CAS_HD void sum_short_planes(const scalar_t* s, int64_t stride, int64_t begin, int64_t pixels, const float* center,
                             double* sum, double* square, const NextPlanes<scalar_t>& next) {
  constexpr int L = kLanes<float>, kSquares = std::min(4, K);  // chains of additions
  static_assert(kMostShort <= kAdditions * kSquares / K * L);
  Vec<float> sums[K], squares[kSquares];
  const int64_t end = begin + pixels;
  const auto add = [&](int64_t x, auto first) __attribute__((always_inline)) {
    const Keep<float> keep((uint64_t(1) << std::min<int64_t>(end - x, L)) - 1);
    next.template ask<L, K>(x);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const Vec<float> d = keep(load_acc<L>(s + k * stride + x) - center[k]);
      sums[k] = first.value ? d : sums[k] + d;
      squares[k % kSquares] = first.value && k < kSquares ? d * d : squares[k % kSquares] + d * d;
    }
  };
  add(begin, std::true_type());
  for (int64_t x = begin + L; x < end; x += L) add(x, std::false_type());
  add_lanes<float, L>(square, add_all(squares));
  const auto total = fold_floats<K>([&](int k) { return sums[k]; });
  store(sum, load<std::remove_const_t<decltype(total)>>(sum) + total);
  add_centers<K>(center, pixels, sum);
}
#endif

// K planes of the pixels [begin, end) of a tile for R <= 2 of its regions, which[r]: each lane keeps or drops a
// value. begin: a multiple of kLanes. pixels[r]: those of a region, center[r]: its pilot. Writes sums (R, K), adds
// squares to eight doubles. `first`: the planes have not been read yet.
template <int K, int R, class scalar_t>
inline void sum_masked(const scalar_t* s, int64_t stride, const MemberBits& members, const int* which, int64_t begin,
                       int64_t end, const int64_t* pixels, const AccOf<scalar_t>* const* center, double (*sum)[K],
                       double* const* square, bool first) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kLanes<acc_t>;
  using V = Vec<acc_t>;
  Total<scalar_t> sums[R][K];
  V about[R][K];
#pragma GCC unroll 4
  for (int k = 0; k < R * K; ++k) about[k / K][k % K] = splat(center[k / K][k % K]);
  const int64_t last = begin + (end - begin) / L * L;
  for (int64_t x = begin; x < last;) {
    V squares[R][K];
#pragma GCC unroll 4
    for (int k = 0; k < R * K; ++k) squares[k / K][k % K] = V{};
    for (const int64_t block = std::min(last, x + kAdditions * L); x < block; x += L) {
      Keep<acc_t> keep[R];
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) keep[r] = Keep<acc_t>(members.upto_word(which[r], x));
#pragma GCC unroll 2
      for (int k = 0; k < K; ++k) {
        const scalar_t* at = s + k * stride + x;
        if (first) prefetch_ahead<L>(at);
        const V d = load_acc<L>(at) - (R == 1 ? about[0][k] : keep[0].choose(about[0][k], about[R - 1][k]));
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
          sums[r][k].add(at, d, keep[r]);
          squares[r][k] = keep[r].add_square(squares[r][k], d);
        }
      }
    }
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int k = 0; k < K; ++k) sums[r][k].settle();
      add_lanes<acc_t, L>(square[r], add_all(squares[r]));
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
    int64_t tail = 0;
    double rest[K] = {};
    for (int64_t x = last; x < end; ++x) {
      if (!(members.upto_word(which[r], x) & 1)) continue;
      ++tail;
      for (int k = 0; k < K; ++k) add_one(s[k * stride + x], center[r][k], rest[k], square[r][0]);
    }
#pragma GCC unroll 2
    for (int k = 0; k < K; ++k) sum[r][k] = rest[k] + sums[r][k].about(center[r][k], pixels[r] - tail);
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
