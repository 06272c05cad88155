// Device arithmetic. Every operation is IEEE round-to-nearest; approximate ones are exact here.
#pragma once

#include <cmath>
#include <cstring>

#include "types.h"

namespace simt {
template <class To, class From>
SIMT_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
}  // namespace simt

#define SIMT_CAST(name, To, From) \
  SIMT_INLINE To name(From from) { return simt::bit_cast<To>(from); }
SIMT_CAST(__float_as_uint, unsigned, float)
SIMT_CAST(__float_as_int, int, float)
SIMT_CAST(__uint_as_float, float, unsigned)
SIMT_CAST(__int_as_float, float, int)
SIMT_CAST(__double_as_longlong, long long, double)
SIMT_CAST(__longlong_as_double, double, long long)
#undef SIMT_CAST

#define SIMT_ARITHMETIC(T, add, sub, mul, div, fma_, sqrt_, rcp)  \
  SIMT_INLINE T add(T a, T b) { return a + b; }                   \
  SIMT_INLINE T sub(T a, T b) { return a - b; }                   \
  SIMT_INLINE T mul(T a, T b) { return a * b; }                   \
  SIMT_INLINE T div(T a, T b) { return a / b; }                   \
  SIMT_INLINE T fma_(T a, T b, T c) { return std::fma(a, b, c); } \
  SIMT_INLINE T sqrt_(T a) { return std::sqrt(a); }               \
  SIMT_INLINE T rcp(T a) { return 1 / a; }
SIMT_ARITHMETIC(float, __fadd_rn, __fsub_rn, __fmul_rn, __fdiv_rn, __fmaf_rn, __fsqrt_rn, __frcp_rn)
SIMT_ARITHMETIC(double, __dadd_rn, __dsub_rn, __dmul_rn, __ddiv_rn, __fma_rn, __dsqrt_rn, __drcp_rn)
#undef SIMT_ARITHMETIC

SIMT_INLINE float rsqrtf(float a) { return static_cast<float>(1 / std::sqrt(static_cast<double>(a))); }
SIMT_INLINE double rsqrt(double a) { return 1 / std::sqrt(a); }
SIMT_INLINE float __frsqrt_rn(float a) { return rsqrtf(a); }
SIMT_INLINE float __expf(float a) { return std::exp(a); }
// As far off as hardware may be: two units in the last place.
SIMT_INLINE float __fdividef(float a, float b) { return std::fabs(b) > 0x1p126f ? 0 * a : a / b * (1 + 0x1p-22f); }
SIMT_INLINE float __logf(float a) { return std::log(a); }
SIMT_INLINE float __log2f(float a) { return std::log2(a); }
SIMT_INLINE float __powf(float a, float b) { return std::pow(a, b); }
SIMT_INLINE float __saturatef(float a) { return a > 0 ? (a < 1 ? a : 1) : 0; }

SIMT_INLINE int __float2int_rn(float a) { return static_cast<int>(std::nearbyint(a)); }
SIMT_INLINE int __float2int_rd(float a) { return static_cast<int>(std::floor(a)); }
SIMT_INLINE int __float2int_ru(float a) { return static_cast<int>(std::ceil(a)); }
SIMT_INLINE int __float2int_rz(float a) { return static_cast<int>(a); }
SIMT_INLINE float __int2float_rn(int a) { return static_cast<float>(a); }
SIMT_INLINE float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
SIMT_INLINE float __ll2float_rn(long long a) { return static_cast<float>(a); }
SIMT_INLINE double __ll2double_rn(long long a) { return static_cast<double>(a); }
SIMT_INLINE float __double2float_rn(double a) { return static_cast<float>(a); }

SIMT_INLINE int __popc(unsigned a) { return __builtin_popcount(a); }
SIMT_INLINE int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
SIMT_INLINE int __ffs(int a) { return __builtin_ffs(a); }
SIMT_INLINE int __ffsll(long long a) { return __builtin_ffsll(a); }
SIMT_INLINE int __clz(int a) { return a ? __builtin_clz(static_cast<unsigned>(a)) : 32; }
SIMT_INLINE int __clzll(long long a) { return a ? __builtin_clzll(static_cast<unsigned long long>(a)) : 64; }
SIMT_INLINE unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
SIMT_INLINE unsigned __brev(unsigned a) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= ((a >> bit) & 1u) << (31 - bit);
  return reversed;
}
SIMT_INLINE unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  unsigned long long bytes = (static_cast<unsigned long long>(b) << 32) | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    unsigned choice = (selector >> (4 * i)) & 0xf;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (choice & 7))) & 0xff;
    // The top bit of a selector asks for the byte's sign, replicated.
    if (choice & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

#define SIMT_MIN_MAX(T)                                 \
  SIMT_INLINE T min(T a, T b) { return b < a ? b : a; } \
  SIMT_INLINE T max(T a, T b) { return a < b ? b : a; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX
#define SIMT_MIXED_MIN_MAX(Wide, A, B)                                                       \
  SIMT_INLINE Wide min(A a, B b) { return min(static_cast<Wide>(a), static_cast<Wide>(b)); } \
  SIMT_INLINE Wide max(A a, B b) { return max(static_cast<Wide>(a), static_cast<Wide>(b)); }
SIMT_INLINE float min(float a, float b) { return std::fmin(a, b); }
SIMT_INLINE float max(float a, float b) { return std::fmax(a, b); }
SIMT_INLINE double min(double a, double b) { return std::fmin(a, b); }
SIMT_INLINE double max(double a, double b) { return std::fmax(a, b); }
SIMT_MIXED_MIN_MAX(unsigned, int, unsigned)
SIMT_MIXED_MIN_MAX(unsigned, unsigned, int)
SIMT_MIXED_MIN_MAX(unsigned long, long, unsigned long)
SIMT_MIXED_MIN_MAX(unsigned long, unsigned long, long)
SIMT_MIXED_MIN_MAX(unsigned long long, long long, unsigned long long)
SIMT_MIXED_MIN_MAX(unsigned long long, unsigned long long, long long)
SIMT_MIXED_MIN_MAX(double, float, double)
SIMT_MIXED_MIN_MAX(double, double, float)
#undef SIMT_MIXED_MIN_MAX
