// Stands in for CUDA's header of this name: bfloat16 as storage, conversions, and products of pairs.
// No operators: PyTorch compiles extensions with them switched off (__CUDA_NO_HALF_OPERATORS__ and its kin).
#pragma once

#include <cmath>

#include "simt/rounding.h"
#include "simt/types.h"

struct alignas(2) __nv_bfloat16_raw {
  unsigned short x;
};

struct alignas(4) __nv_bfloat162_raw {
  unsigned short x, y;
};

struct alignas(2) __nv_bfloat16 {
  __nv_bfloat16() = default;
  __nv_bfloat16(__nv_bfloat16_raw raw) : bits(raw.x) {}
  operator __nv_bfloat16_raw() const { return {bits}; }

 protected:
  unsigned short bits;
};

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
  __nv_bfloat162() = default;
  __nv_bfloat162(__nv_bfloat16 x_, __nv_bfloat16 y_) : x(x_), y(y_) {}
  __nv_bfloat162(__nv_bfloat162_raw raw) : x(__nv_bfloat16_raw{raw.x}), y(__nv_bfloat16_raw{raw.y}) {}
  operator __nv_bfloat162_raw() const { return {__nv_bfloat16_raw(x).x, __nv_bfloat16_raw(y).x}; }
};
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

SIMT_INLINE unsigned short __bfloat16_as_ushort(__nv_bfloat16 a) { return __nv_bfloat16_raw(a).x; }
SIMT_INLINE short __bfloat16_as_short(__nv_bfloat16 a) { return static_cast<short>(__nv_bfloat16_raw(a).x); }
SIMT_INLINE __nv_bfloat16 __ushort_as_bfloat16(unsigned short a) { return __nv_bfloat16_raw{a}; }
SIMT_INLINE __nv_bfloat16 __short_as_bfloat16(short a) { return __nv_bfloat16_raw{static_cast<unsigned short>(a)}; }

SIMT_INLINE float __bfloat162float(__nv_bfloat16 a) { return simt::bfloat16_bits_to_float(__nv_bfloat16_raw(a).x); }
SIMT_INLINE __nv_bfloat16 __float2bfloat16(float a) { return __nv_bfloat16_raw{simt::round_to_16_bits<7>(a)}; }
SIMT_INLINE __nv_bfloat16 __float2bfloat16_rn(float a) { return __float2bfloat16(a); }
SIMT_INLINE __nv_bfloat16 __double2bfloat16(double a) { return __nv_bfloat16_raw{simt::round_to_16_bits<7>(a)}; }

SIMT_INLINE __nv_bfloat16 __low2bfloat16(__nv_bfloat162 a) { return a.x; }
SIMT_INLINE __nv_bfloat16 __high2bfloat16(__nv_bfloat162 a) { return a.y; }
SIMT_INLINE float __low2float(__nv_bfloat162 a) { return __bfloat162float(a.x); }
SIMT_INLINE float __high2float(__nv_bfloat162 a) { return __bfloat162float(a.y); }
SIMT_INLINE __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
SIMT_INLINE float2 __bfloat1622float2(__nv_bfloat162 a) { return make_float2(__low2float(a), __high2float(a)); }
SIMT_INLINE __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
  return {__float2bfloat16(low), __float2bfloat16(high)};
}
SIMT_INLINE __nv_bfloat16 simt_fma(__nv_bfloat16 a, __nv_bfloat16 b, double c) {
  return __double2bfloat16(std::fma(static_cast<double>(__bfloat162float(a)), __bfloat162float(b), c));
}
SIMT_INLINE __nv_bfloat162 __hmul2_rn(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {simt_fma(a.x, b.x, -0.0), simt_fma(a.y, b.y, -0.0)};
}
SIMT_INLINE __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  return {simt_fma(a.x, b.x, __low2float(c)), simt_fma(a.y, b.y, __high2float(c))};
}
SIMT_INLINE __nv_bfloat162 __hneg2(__nv_bfloat162 a) {
  return {__ushort_as_bfloat16(static_cast<unsigned short>(__bfloat16_as_ushort(a.x) ^ 0x8000)),
          __ushort_as_bfloat16(static_cast<unsigned short>(__bfloat16_as_ushort(a.y) ^ 0x8000))};
}
SIMT_INLINE __nv_bfloat162 __float22bfloat162_rn(float2 a) { return __floats2bfloat162_rn(a.x, a.y); }
SIMT_INLINE __nv_bfloat162 __float2bfloat162_rn(float a) { return __floats2bfloat162_rn(a, a); }
