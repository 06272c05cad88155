// The same sums over bfloat16 by the instructions that multiply pairs of values and add both products to a float
// (AVX-512 BF16): of values times one, and of their squares, without a pilot. A square has 16 bits, so 128 of them that
// are close enough for anything to cancel add up in a float without rounding. What is about the pilot follows in
// double.
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

// Whether values were finite, and sums of their squares.
template <class D>
CAS_HD bool all_finite(D squares) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if constexpr (sizeof(D) == 32) {
    return _mm256_cmp_pd_mask((__m256d)squares, _mm256_set1_pd(kInfinity), _CMP_NLT_UQ) == 0;
  } else {
    return _mm512_cmp_pd_mask((__m512d)squares, _mm512_set1_pd(kInfinity), _CMP_NLT_UQ) == 0;
  }
}

// Sums of values and of squares of kWidth channels of some pixels join those about the pilot, in double. Returns
// whether they did: not where a value is not finite, or its square.
template <int kWidth>
CAS_HD bool join_products(Vec<double, kWidth> sums, Vec<double, kWidth> squares, int64_t pixels, const float* center,
                          double* sum, double* square) {
  using D = Vec<double, kWidth>;
  if (!all_finite(squares)) return false;
  const D n = D{} + static_cast<double>(pixels);
  store(sum, load<D>(sum) + sums);
  store(square, load<D>(square) + moved_square_sum(squares, sums, n, load_wide<kWidth>(center)));
  return true;
}

// As sum_planes. Returns whether it was done, as join_products.
template <int K>
CAS_HD bool sum_plane_products(const c10::BFloat16* s, int64_t stride, int64_t begin, int64_t pixels,
                               const float* center, double* sum, double* square,
                               const NextPlanes<c10::BFloat16>& next) {
  constexpr int64_t kBlock = 8 * kPairValues;  // 128 squares to a float in fold_floats
  using D = Vec<double, K <= kNarrow ? kNarrow : kPad>;
  D sums{}, squares{};
  const int64_t end = begin + pixels;
  for (int64_t x = begin; x < end;) {
    PairSums parts[K];
    for (const int64_t last = std::min(x + kBlock, end); x < last; x += kPairValues) {
      next.template ask<kPairValues, K>(x);
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) parts[k].add(load_pairs(s + k * stride + x, first_bits(last - x)));
    }
    sums += fold_floats<K>([&](int k) { return parts[k].sum; });
    squares += fold_floats<K>([&](int k) { return parts[k].square; });
  }
  return join_products<(K <= kNarrow ? kNarrow : kPad)>(sums, squares, pixels, center, sum, square);
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
