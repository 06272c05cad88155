// The same sums over bfloat16 by the instructions that multiply pairs of values and add both products to a float
// (AVX-512 BF16): of values times one, and of their squares, without a pilot. A square has 16 bits, so 128 of them that
// are close enough for anything to cancel add up in a float without rounding. What is about the pilot follows in double.
#pragma once

#include "../region_math.h"
#include "sums.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

#if CAS_X86_LEVEL >= 5
template <class scalar_t>
constexpr bool kProducts = std::is_same_v<scalar_t, c10::BFloat16>;

constexpr int kPairLanes = 16, kPairValues = 2 * kPairLanes;  // of a vector of pairs

// Sums of values and of their squares; each lane is of one channel.
struct PairSums {
  Vec<float> sum{}, square{};

  CAS_HD void add(__m512i pairs) {
    const __m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80), v = (__m512bh)pairs;
    sum = (Vec<float>)_mm512_dpbf16_ps((__m512)sum, v, one);
    square = (Vec<float>)_mm512_dpbf16_ps((__m512)square, v, v);
  }
};

// The values at s whose bit is set, zero in place of the others, which are not read.
CAS_HD __m512i load_pairs(const c10::BFloat16* s, uint32_t bits) { return _mm512_maskz_loadu_epi16(bits, s); }

// The lowest n bits, n >= 0.
CAS_HD uint32_t first_bits(int64_t n) { return _bzhi_u32(~0u, static_cast<uint32_t>(std::min<int64_t>(n, 32))); }

// Whether values were finite and no square has overflowed.
CAS_HD bool all_finite(Vec<double> squares) {
  const __m512d infinity = _mm512_set1_pd(std::numeric_limits<double>::infinity());
  return _mm512_cmp_pd_mask((__m512d)squares, infinity, _CMP_NLT_UQ) == 0;
}

// Adds what n values of a few channels add to sums and to squares about the pilots. `squares`: of the values.
template <class D>
CAS_HD void merge_products(D sums, D squares, int64_t n, const float* center, double* sum, double* square) {
  constexpr int kWidth = sizeof(D) / sizeof(double);
  store(sum, load<D>(sum) + sums);
  const auto c = load_wide<kWidth>(center);
  store(square, load<D>(square) + moved_square_sum(squares, sums, D{} + static_cast<double>(n), c));
}

// Of K planes; a lane or more for each.
template <int K>
struct Folded {
  static constexpr int kWidth = K <= kNarrow ? kNarrow : kPad;

  // Lane j of the result: lanes of part(k), where k = j % kNarrow, or, in every other quarter, kNarrow + j % kNarrow.
  template <class Part>
  CAS_HD static __m512 fold(Part part) {
    const auto at = [&](int k) { return (__m512)(k < K ? part(k) : Vec<float>{}); };
    const auto two = [](__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b); };
    const auto four = [&](int k) {
      const __m512 low = two(at(k), at(k + 1)), high = two(at(k + 2), at(k + 3));
      return _mm512_shuffle_ps(low, high, 0x44) + _mm512_shuffle_ps(low, high, 0xee);
    };
    const __m512 low = four(0);
    if constexpr (K <= kNarrow) return low;
    const __m512 high = four(kNarrow);
    return _mm512_shuffle_f32x4(low, high, 0x88) + _mm512_shuffle_f32x4(low, high, 0xdd);
  }

  // Lane k: the sum of part(k).
  template <class Part>
  CAS_HD static Vec<double, kWidth> sums(Part part) {
    const __m512 folded = fold(part);
    if constexpr (K <= kNarrow) {
      const auto halves = half_sum<16>((Vec<float>)folded);
      return widen<kWidth>(half_sum<8>(halves));
    } else {
      return widen<kWidth>(half_sum<16>((Vec<float>)_mm512_shuffle_f32x4(folded, folded, 0xd8)));
    }
  }

 private:
  template <int lanes>
  CAS_HD static Vec<float, lanes / 2> half_sum(Vec<float, lanes> v) {
    return half_of<0, float, lanes>(v) + half_of<1, float, lanes>(v);
  }
};

// As sum_planes.
template <int K>
CAS_HD bool sum_plane_products(const c10::BFloat16* s, int64_t stride, int64_t begin, int64_t pixels,
                               const float* center, double* sum, double* square,
                               const NextPlanes<c10::BFloat16>& next) {
  using F = Folded<K>;
  constexpr int64_t kBlock = 8 * kPairValues;  // lanes of which fold to sums of 128 squares
  using D = Vec<double, F::kWidth>;
  D sums{};
  Vec<double> squares{};
  const int64_t end = begin + pixels;
  for (int64_t x = begin; x < end;) {
    PairSums parts[K];
    for (const int64_t last = std::min(x + kBlock, end); x < last; x += kPairValues) {
      next.template ask<kPairValues, K>(x);
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) parts[k].add(load_pairs(s + k * stride + x, first_bits(last - x)));
    }
    sums += F::sums([&](int k) { return parts[k].sum; });
    squares += add_halves<float>((Vec<float>)F::fold([&](int k) { return parts[k].square; }));
  }
  if (!all_finite(squares)) return false;
  store(square, load<Vec<double>>(square) + squares);
  merge_products(sums, D{}, pixels, center, sum, square);
  return true;
}

// As sum_masked.
template <int K, int R>
CAS_HD bool sum_masked_products(const c10::BFloat16* s, int64_t stride, const MemberBits& members, const int* which,
                                int64_t begin, int64_t end, const int64_t* pixels, const float* const* center,
                                double (*sum)[K], double* const* square, bool first) {
  Vec<double> sums[R][K], squares[R][K];
#pragma GCC unroll 4
  for (int k = 0; k < R * K; ++k) sums[k / K][k % K] = squares[k / K][k % K] = Vec<double>{};
  for (int64_t x = begin; x < end;) {
    PairSums parts[R][K];
    for (const int64_t last = std::min<int64_t>(x + kAdditions * kPairValues, end); x < last; x += kPairValues) {
      uint32_t bits[R];
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) bits[r] = static_cast<uint32_t>(members.word(which[r], x)) & first_bits(last - x);
#pragma GCC unroll 2
      for (int k = 0; k < K; ++k) {
        const c10::BFloat16* at = s + k * stride + x;
        if (first) prefetch_ahead<kPairValues>(at);
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) parts[r][k].add(load_pairs(at, bits[r]));
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < R * K; ++k) {
      sums[k / K][k % K] += add_halves<float>(parts[k / K][k % K].sum);
      squares[k / K][k % K] += add_halves<float>(parts[k / K][k % K].square);
    }
  }
  Vec<double> all{};
#pragma GCC unroll 4
  for (int k = 0; k < R * K; ++k) all += squares[k / K][k % K];
  if (!all_finite(all)) return false;
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int k = 0; k < K; ++k) {
      const double total = sum_lanes<double, 8>(sums[r][k]), n = static_cast<double>(pixels[r]), c = center[r][k];
      sum[r][k] = moved_sum(total, n, c);
      square[r][k] += moved_square_sum(sum_lanes<double, 8>(squares[r][k]), total, n, c);
    }
  }
  return true;
}
#else
template <class scalar_t>
constexpr bool kProducts = false;
#endif

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
