// Vectors, written with the compiler's vector types: the same code becomes SSE2, AVX2 or AVX-512, or NEON. The file
// that includes this says how wide they are (CAS_VECTOR_BYTES) and which instructions there are (CAS_X86_LEVEL: 0 none
// that can be named, 2 AVX2 + FMA + F16C, 4 AVX-512, 5 its BF16 too). Intrinsics stand only where the compiler does
// badly without.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../host_device.h"
#include "kernels.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

template <class T, int lanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(lanes * sizeof(T))));
};

template <class acc_t>
constexpr int kLanes = CAS_VECTOR_BYTES / static_cast<int>(sizeof(acc_t));  // of a vector along pixels

template <class acc_t, int most = kPad>
constexpr int kRowLanes = kLanes<acc_t> < most ? kLanes<acc_t> : most;  // of a vector along channels

template <class T, int lanes = kLanes<T>>
using Vec = typename VectorOf<T, lanes>::type;

template <class acc_t>
using Bits = std::conditional_t<std::is_same_v<acc_t, double>, int64_t, int32_t>;
template <class acc_t, int lanes = kLanes<acc_t>>
using Mask = Vec<Bits<acc_t>, lanes>;

// The type of pixel arithmetic for a stored type.
template <class scalar_t>
using AccOf = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

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

template <class acc_t, int lanes = kLanes<acc_t>>
CAS_HD Vec<acc_t, lanes> splat(acc_t s) {
  return s - Vec<acc_t, lanes>{};  // keeps the sign of a zero, which + does not
}

// A stored value as the type of pixel arithmetic, and back.
template <class scalar_t>
CAS_HD AccOf<scalar_t> to_acc(scalar_t s) {
#if CAS_X86_LEVEL >= 2
  if constexpr (std::is_same_v<scalar_t, c10::Half>) return _cvtsh_ss(s.x);
#endif
  return static_cast<AccOf<scalar_t>>(s);
}

template <class scalar_t>
CAS_HD scalar_t to_stored(AccOf<scalar_t> v) {
#if CAS_X86_LEVEL >= 2
  if constexpr (std::is_same_v<scalar_t, c10::Half>) {
    return c10::Half(_cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT), c10::Half::from_bits());
  }
#endif
  return static_cast<scalar_t>(v);
}

// v[index] in each lane.
template <class V, class Index>
CAS_HD V permute(V v, Index index) {
#ifdef __clang__
  V result{};
  for (size_t k = 0; k < sizeof(V) / sizeof(v[0]); ++k) result[k] = v[index[k]];
  return result;
#else
  return __builtin_shuffle(v, index);
#endif
}

// `lanes` stored values as the type of pixel arithmetic.
template <int lanes, class scalar_t>
CAS_HD Vec<AccOf<scalar_t>, lanes> load_acc(const scalar_t* s) {
  using V = Vec<AccOf<scalar_t>, lanes>;
  if constexpr (std::is_same_v<scalar_t, AccOf<scalar_t>>) {
    return load<V>(s);
  } else if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {
#if CAS_X86_LEVEL >= 4
    if constexpr (lanes == 16) {
      alignas(64) static constexpr uint16_t kWord[32] = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                                                         0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
      return (V)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, load<__m512i>(kWord),
                                               _mm512_castsi256_si512(load<__m256i>(s)));
    }
#endif
#if CAS_X86_LEVEL >= 2
    if constexpr (lanes == 8) return (V)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(s)), 16);
#endif
    return (V)(__builtin_convertvector(load<Vec<uint16_t, lanes>>(s), Vec<uint32_t, lanes>) << 16);
  } else {
#if CAS_X86_LEVEL >= 4
    if constexpr (lanes == 16) return (V)_mm512_cvtph_ps(load<__m256i>(s));
#endif
#if CAS_X86_LEVEL >= 2
    if constexpr (lanes == 8) return (V)_mm256_cvtph_ps(load<__m128i>(s));
    if constexpr (lanes == 4) return (V)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(s)));
#endif
    V v;
    for (int k = 0; k < lanes; ++k) v[k] = to_acc(s[k]);
    return v;
  }
}

// Vectors that hold a group of pixels of a plane: pixel k is lane k / kGroup of vector k % kGroup. Of bfloat16, two
// pixels to a word, one shift and one mask make a vector each.
template <class scalar_t>
constexpr int kGroup = std::is_same_v<scalar_t, c10::BFloat16> ? 2 : 1;

template <class scalar_t>
CAS_HD void load_group(const scalar_t* s, Vec<AccOf<scalar_t>> (&v)[kGroup<scalar_t>]) {
  if constexpr (kGroup<scalar_t> == 2) {
    using V = Vec<float>;
    const auto word = load<Vec<uint32_t>>(s);
    constexpr int kLow = std::endian::native == std::endian::little ? 0 : 1;
    v[kLow] = (V)(word << 16), v[1 - kLow] = (V)(word & 0xffff0000u);
  } else {
    v[0] = load_acc<kLanes<AccOf<scalar_t>>>(s);
  }
}

template <int lanes, class scalar_t>
CAS_HD void store_acc(scalar_t* to, Vec<AccOf<scalar_t>, lanes> v) {
  if constexpr (std::is_same_v<scalar_t, AccOf<scalar_t>>) {
    store(to, v);
  } else if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {  // round to nearest even; NaN stays NaN
#if CAS_X86_LEVEL >= 5
    if constexpr (lanes == 16) return store(to, _mm512_cvtneps_pbh((__m512)v));
    if constexpr (lanes == 8) return store(to, _mm256_cvtneps_pbh((__m256)v));
#endif
    using Word = Vec<uint32_t, lanes>;
    const Word bits = (Word)v, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Word word = v != v ? Word{} + 0x7fc0u : rounded;
#if CAS_X86_LEVEL >= 4
    if constexpr (lanes == 16) return store(to, _mm512_cvtepi32_epi16((__m512i)word));
    if constexpr (lanes == 8) return store(to, _mm256_cvtepi32_epi16((__m256i)word));
#elif CAS_X86_LEVEL >= 2
    if constexpr (lanes == 8) {
      const __m256i halves = _mm256_packus_epi32((__m256i)word, (__m256i)word);
      return store(to, _mm256_castsi256_si128(_mm256_permute4x64_epi64(halves, 0x08)));
    }
#endif
    store(to, __builtin_convertvector(word, Vec<uint16_t, lanes>));
  } else {
#if CAS_X86_LEVEL >= 4
    if constexpr (lanes == 16) return store(to, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#endif
#if CAS_X86_LEVEL >= 2
    if constexpr (lanes == 8) return store(to, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
    if constexpr (lanes == 4) {
      return _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_cvtps_ph((__m128)v, _MM_FROUND_TO_NEAREST_INT));
    }
#endif
    for (int k = 0; k < lanes; ++k) to[k] = to_stored<scalar_t>(v[k]);
  }
}

// The first n <= lanes values at s, zero in the other lanes; reads nothing beyond them.
template <int lanes, class acc_t>
CAS_HD Vec<acc_t, lanes> load_first(const acc_t* s, int64_t n) {
#if CAS_X86_LEVEL >= 4
  if constexpr (lanes == 8 && sizeof(acc_t) == 8) {
    return (Vec<acc_t, lanes>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1 << n) - 1), s);
  }
  if constexpr (lanes == 16 && sizeof(acc_t) == 4) {
    return (Vec<acc_t, lanes>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << n) - 1), s);
  }
#endif
#if CAS_X86_LEVEL >= 2
  if constexpr (lanes == 8 && sizeof(acc_t) == 4) {
    const Vec<int32_t, 8> lane = {0, 1, 2, 3, 4, 5, 6, 7};
    return (Vec<acc_t, lanes>)_mm256_maskload_ps(s, (__m256i)(lane < static_cast<int32_t>(n)));
  }
#endif
#if CAS_X86_LEVEL >= 2
  if constexpr (lanes == 4 && sizeof(acc_t) == 4) {
    const Vec<int32_t, 4> lane = {0, 1, 2, 3};
    return (Vec<acc_t, lanes>)_mm_maskload_ps(s, (__m128i)(lane < static_cast<int32_t>(n)));
  }
#endif
  Vec<acc_t, lanes> v{};
  for (int k = 0; k < lanes; ++k) v[k] = k < n ? s[k] : 0;
  return v;
}

template <int lanes>
CAS_HD Vec<double, lanes> widen(Vec<double, lanes> v) {
  return v;
}

template <int lanes>
CAS_HD Vec<double, lanes> widen(Vec<float, lanes> v) {
#if CAS_X86_LEVEL >= 4
  if constexpr (lanes == 8) return (Vec<double, lanes>)_mm512_cvtps_pd((__m256)v);
#endif
#if CAS_X86_LEVEL >= 2
  if constexpr (lanes == 4) return (Vec<double, lanes>)_mm256_cvtps_pd((__m128)v);
#endif
  return __builtin_convertvector(v, Vec<double, lanes>);
}

// `lanes` floats as doubles.
template <int lanes>
CAS_HD Vec<double, lanes> load_wide(const float* s) {
#if CAS_X86_LEVEL >= 4
  if constexpr (lanes == 8) return (Vec<double, lanes>)_mm512_cvtps_pd(_mm256_loadu_ps(s));
#endif
#if CAS_X86_LEVEL >= 2
  if constexpr (lanes == 4) return (Vec<double, lanes>)_mm256_cvtps_pd(_mm_loadu_ps(s));
#endif
  return __builtin_convertvector(load<Vec<float, lanes>>(s), Vec<double, lanes>);
}

// Which of `kLanes` pixels, from label[0] on, belong to a region.
template <class acc_t>
CAS_HD Mask<acc_t> members(const int32_t* label, int32_t region) {
  const auto same = load<Vec<int32_t, kLanes<acc_t>>>(label) == region;
  if constexpr (std::is_same_v<acc_t, double>) {
    return __builtin_convertvector(same, Mask<acc_t>);
  } else {
    return same;
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
