// Exponentials of vectors, for the softmax.
#pragma once

#include <cmath>

#include "simd.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// The largest whole number that is not above v; |v| < 2^22.
template <int lanes>
CAS_HD Vec<float, lanes> floor_of(Vec<float, lanes> v) {
  using V = Vec<float, lanes>;
#if CAS_X86_LEVEL >= 4
  if constexpr (lanes == 16) {
    return (V)_mm512_roundscale_ps((__m512)v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  }
#endif
#if CAS_X86_LEVEL >= 2
  if constexpr (lanes == 8) return (V)_mm256_floor_ps((__m256)v);
#endif
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const V nearest = (v + kShift) - kShift;
  return nearest - (nearest > v ? V{} + 1.0f : V{});
}

// 2^f for f in [0, 1], to 2e-9 of itself before rounding; 1 for 0. The coefficients minimise the largest relative
// error.
template <class V>
CAS_HD V exp2_of_fraction(V f) {
  V p = f * 2.1612916e-4f + 1.2467846e-3f;
  p = p * f + 9.6754516e-3f;
  p = p * f + 5.5485282e-2f;
  p = p * f + 2.4022931e-1f;
  p = p * f + 6.9314706e-1f;
  return p * f + 1.0f;
}

// 2^v for v <= 0, to a rounding or two; 0 below the smallest normal number, NaN for NaN.
template <int lanes>
CAS_HD Vec<float, lanes> exp2_of_negative(Vec<float, lanes> v) {
  using V = Vec<float, lanes>;
  using I = Vec<int32_t, lanes>;
  const V whole = floor_of<lanes>(v);
  const I exponent = __builtin_convertvector(whole, I) << 23;
  const V power = (V)((I)exp2_of_fraction(v - whole) + exponent);
  return v < -126.0f ? V{} : power;
}

template <int lanes>
CAS_HD Vec<double, lanes> exp2_of_negative(Vec<double, lanes> v) {
  Vec<double, lanes> power{};
  for (int k = 0; k < lanes; ++k) power[k] = std::exp2(v[k]);
  return power;
}

// e^v for v <= 0. The product is rounded to a part of |v|, like the difference of logits that v is.
template <class acc_t, int lanes>
CAS_HD Vec<acc_t, lanes> exp_of_negative(Vec<acc_t, lanes> v) {
  constexpr acc_t kLog2E = static_cast<acc_t>(1.4426950408889634);
  return exp2_of_negative<lanes>(v * kLog2E);
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
