// Vectors of eight values, written with the compiler's vector types: the same code becomes SSE2, AVX2 or AVX-512, or
// NEON.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../host_device.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int kLanes = 8;

typedef float Float8 __attribute__((vector_size(32)));
typedef double Double8 __attribute__((vector_size(64)));
typedef int32_t Int8 __attribute__((vector_size(32)));
typedef int64_t Long8 __attribute__((vector_size(64)));
typedef uint16_t Short8 __attribute__((vector_size(16)));
typedef uint32_t Word8 __attribute__((vector_size(32)));

template <class V>
CAS_HD V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof(V));
  return v;
}

template <class V>
CAS_HD void store(void* to, V v) {
  std::memcpy(to, &v, sizeof(V));
}

CAS_HD Double8 broadcast(double s) { return Double8{} + s; }
CAS_HD Float8 broadcast(float s) { return Float8{} + s; }

// Eight stored values as the type of pixel arithmetic.
CAS_HD Double8 load_acc(const double* s) { return load<Double8>(s); }
CAS_HD Float8 load_acc(const float* s) { return load<Float8>(s); }
CAS_HD Float8 load_acc(const c10::BFloat16* s) {
  return (Float8)(__builtin_convertvector(load<Short8>(s), Word8) << 16);
}
CAS_HD Float8 load_acc(const c10::Half* s) {
#if defined(__F16C__)
  return (Float8)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(s)));
#else
  Float8 v;
  for (int k = 0; k < kLanes; ++k) v[k] = static_cast<float>(s[k]);
  return v;
#endif
}

CAS_HD void store_acc(double* to, Double8 v) { store(to, v); }
CAS_HD void store_acc(float* to, Float8 v) { store(to, v); }
CAS_HD void store_acc(c10::BFloat16* to, Float8 v) {  // round to nearest even; NaN stays NaN
  const Word8 bits = (Word8)v, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Word8 is_nan = (Word8)(v != v);
  store(to, __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7fc0u), Short8));
}
CAS_HD void store_acc(c10::Half* to, Float8 v) {
#if defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int k = 0; k < kLanes; ++k) to[k] = static_cast<c10::Half>(v[k]);
#endif
}

// Eight stored values as doubles.
template <class scalar_t>
CAS_HD Double8 load_wide(const scalar_t* s) {
  if constexpr (std::is_same_v<scalar_t, double>) {
    return load_acc(s);
  } else {
    return __builtin_convertvector(load_acc(s), Double8);
  }
}

template <class scalar_t>
CAS_HD double widen(scalar_t s) {
  if constexpr (std::is_same_v<scalar_t, double>) {
    return s;
  } else {
    return static_cast<double>(static_cast<float>(s));
  }
}

// The lanes in pairs, always in the same order.
CAS_HD double sum_lanes(Double8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

CAS_HD Double8 keep(Double8 v, Long8 mask) { return (Double8)((Long8)v & mask); }

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
