// Vectors whose lanes are added up: in double, and always in the same order.
#pragma once

#include "simd.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// The lower (0) or upper (1) half of a vector.
template <int half, class T, int lanes>
CAS_HD Vec<T, lanes / 2> half_of(Vec<T, lanes> v) {
#if CAS_X86_LEVEL >= 4
  if constexpr (sizeof(v) == 64) return (Vec<T, lanes / 2>)_mm512_extractf64x4_pd((__m512d)v, half);
#endif
#if CAS_X86_LEVEL >= 2
  if constexpr (sizeof(v) == 32) return (Vec<T, lanes / 2>)_mm256_extractf128_pd((__m256d)v, half);
#endif
  return load<Vec<T, lanes / 2>>(reinterpret_cast<const T*>(&v) + half * lanes / 2);
}

// Half as many doubles as a vector has floats; of double, the vector itself.
template <class acc_t>
using Wide = Vec<double, std::is_same_v<acc_t, double> ? kLanes<acc_t> : kLanes<acc_t> / 2>;

// Lane k: v[k] + v[k + lanes / 2] in double; of double, v[k].
template <class acc_t>
CAS_HD Wide<acc_t> add_halves(Vec<acc_t> v) {
  if constexpr (std::is_same_v<acc_t, double>) {
    return v;
  } else {
    constexpr int L = kLanes<acc_t>;
    return widen<L / 2>(half_of<0, acc_t, L>(v)) + widen<L / 2>(half_of<1, acc_t, L>(v));
  }
}

// Adds the lanes to eight doubles.
template <class acc_t, int lanes>
CAS_HD void add_lanes(double* eight, Vec<acc_t, lanes> v) {
  if constexpr (std::is_same_v<acc_t, double>) {
    store(eight, load<Vec<double, lanes>>(eight) + v);
  } else if constexpr (lanes == kLanes<acc_t> && lanes == 2 * kPad) {
    store(eight, load<Wide<acc_t>>(eight) + add_halves<acc_t>(v));
  } else if constexpr (lanes == kLanes<double>) {
    store(eight, load<Vec<double, lanes>>(eight) + widen<lanes>(v));
  } else {
    add_lanes<double, lanes / 2>(eight, widen<lanes / 2>(half_of<0, acc_t, lanes>(v)));
    add_lanes<double, lanes / 2>(eight + lanes / 2, widen<lanes / 2>(half_of<1, acc_t, lanes>(v)));
  }
}

// The sum of eight doubles.
CAS_HD double sum_eight(const double* v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

// The sum of the lanes, in double, in the order of sum_eight.
template <class acc_t, int lanes>
CAS_HD double sum_lanes(Vec<acc_t, lanes> v) {
  if constexpr (std::is_same_v<acc_t, double> && lanes == 1) {
    return v[0];
  } else if constexpr (std::is_same_v<acc_t, double> && lanes == 2) {
    return v[0] + v[1];
  } else {
    const auto low = half_of<0, acc_t, lanes>(v), high = half_of<1, acc_t, lanes>(v);
    return sum_lanes<double, lanes / 2>(widen<lanes / 2>(low) + widen<lanes / 2>(high));
  }
}

// The sum of a few vectors.
template <int K, class V>
CAS_HD V add_all(const V (&v)[K]) {
  V sum = v[0];
  for (int k = 1; k < K; ++k) sum += v[k];
  return sum;
}

// Adds the sum of the lanes of v[k] to sum[k]. Rows of sums are padded, so what follows them there gets zeros.
template <int K, class D>
CAS_HD void fold_planes(const D (&v)[K], double* sum) {
#if CAS_X86_LEVEL >= 2
  constexpr int lanes = sizeof(D) / sizeof(double), kFolded = K <= kNarrow ? kNarrow : kPad;
  D u[kFolded];
#pragma GCC unroll 8
  for (int k = 0; k < kFolded; ++k) u[k] = k < K ? v[k] : D{};
#if CAS_X86_LEVEL >= 4
  if constexpr (lanes == 8) {
    const auto pair = [](const D& a, const D& b) {
      return _mm512_unpacklo_pd((__m512d)a, (__m512d)b) + _mm512_unpackhi_pd((__m512d)a, (__m512d)b);
    };
    const auto halve = [](__m512d a, __m512d b) {
      return _mm512_shuffle_f64x2(a, b, 0x88) + _mm512_shuffle_f64x2(a, b, 0xdd);
    };
    const __m512d low = halve(pair(u[0], u[1]), pair(u[2], u[3]));
    if constexpr (K <= kNarrow) {
      const __m512d total = halve(low, low);  // quarters 0 and 2 of `low` belong to the first two sums
      return store(sum, load<__m256d>(sum) + _mm512_castpd512_pd256(total));
    } else {
      return store(sum, load<__m512d>(sum) + halve(low, halve(pair(u[4], u[5]), pair(u[6], u[7]))));
    }
  }
#endif
  if constexpr (lanes == 4) {
    const auto pair = [](const D& a, const D& b) {
      return _mm256_unpacklo_pd((__m256d)a, (__m256d)b) + _mm256_unpackhi_pd((__m256d)a, (__m256d)b);
    };
#pragma GCC unroll 2
    for (int k = 0; k < kFolded; k += 4) {
      const __m256d low = pair(u[k], u[k + 1]), high = pair(u[k + 2], u[k + 3]);
      const __m256d total = _mm256_permute2f128_pd(low, high, 0x20) + _mm256_permute2f128_pd(low, high, 0x31);
      store(sum + k, load<__m256d>(sum + k) + total);
    }
    return;
  }
#endif
  for (int k = 0; k < K; ++k) sum[k] += sum_lanes<double, sizeof(D) / sizeof(double)>(v[k]);
}

#if CAS_X86_LEVEL >= 4
// Lane k, K <= kPad: the sum of the lanes of part(k), zero beyond K. The first three of four additions are in float.
template <int K, class Part>
CAS_HD auto fold_floats(Part part) {
  const auto at = [&](int k) { return (__m512)(k < K ? part(k) : Vec<float>{}); };
  const auto two = [](__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b); };
  const auto four = [&](int k) {  // lane j of a quarter: of plane k + j
    const __m512 low = two(at(k), at(k + 1)), high = two(at(k + 2), at(k + 3));
    return _mm512_shuffle_ps(low, high, 0x44) + _mm512_shuffle_ps(low, high, 0xee);
  };
  const __m512 low = four(0);
  if constexpr (K <= kNarrow) {
    const auto half = half_of<0, float, 16>((Vec<float>)low) + half_of<1, float, 16>((Vec<float>)low);
    return widen<kNarrow>(half_of<0, float, 8>(half)) + widen<kNarrow>(half_of<1, float, 8>(half));
  } else {
    const __m512 high = four(kNarrow);
    const __m512 all = _mm512_shuffle_f32x4(low, high, 0x88) + _mm512_shuffle_f32x4(low, high, 0xdd);
    return add_halves<float>((Vec<float>)_mm512_shuffle_f32x4(all, all, 0xd8));
  }
}
#endif

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
