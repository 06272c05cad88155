// Stands in for CUDA's header of this name: half precision as storage and conversions.
// No operators: PyTorch compiles extensions with them switched off (__CUDA_NO_HALF_OPERATORS__ and its kin).
#pragma once

#include "simt/rounding.h"
#include "simt/types.h"

struct alignas(2) __half_raw {
  unsigned short x;
};

struct alignas(4) __half2_raw {
  unsigned short x, y;
};

struct alignas(2) __half {
  __half() = default;
  __half(__half_raw raw) : bits(raw.x) {}
  operator __half_raw() const { return {bits}; }

 protected:
  unsigned short bits;
};

struct alignas(4) __half2 {
  __half x, y;
  __half2() = default;
  __half2(__half x_, __half y_) : x(x_), y(y_) {}
  __half2(__half2_raw raw) : x(__half_raw{raw.x}), y(__half_raw{raw.y}) {}
  operator __half2_raw() const { return {__half_raw(x).x, __half_raw(y).x}; }
};
using half = __half;
using half2 = __half2;

SIMT_INLINE unsigned short __half_as_ushort(__half a) { return __half_raw(a).x; }
SIMT_INLINE short __half_as_short(__half a) { return static_cast<short>(__half_raw(a).x); }
SIMT_INLINE __half __ushort_as_half(unsigned short a) { return __half_raw{a}; }
SIMT_INLINE __half __short_as_half(short a) { return __half_raw{static_cast<unsigned short>(a)}; }

SIMT_INLINE float __half2float(__half a) { return simt::half_bits_to_float(__half_raw(a).x); }
SIMT_INLINE __half __float2half(float a) { return __half_raw{simt::round_to_16_bits<10>(a)}; }
SIMT_INLINE __half __float2half_rn(float a) { return __float2half(a); }
SIMT_INLINE __half __double2half(double a) { return __half_raw{simt::round_to_16_bits<10>(a)}; }

SIMT_INLINE __half2 __heq2(__half2 a, __half2 b) {
  const auto one_if = [](bool equal) { return __ushort_as_half(equal ? 0x3c00 : 0); };
  return {one_if(__half2float(a.x) == __half2float(b.x)), one_if(__half2float(a.y) == __half2float(b.y))};
}

SIMT_INLINE __half __low2half(__half2 a) { return a.x; }
SIMT_INLINE __half __high2half(__half2 a) { return a.y; }
SIMT_INLINE float __low2float(__half2 a) { return __half2float(a.x); }
SIMT_INLINE float __high2float(__half2 a) { return __half2float(a.y); }
SIMT_INLINE __half2 __halves2half2(__half low, __half high) { return {low, high}; }
SIMT_INLINE float2 __half22float2(__half2 a) { return make_float2(__low2float(a), __high2float(a)); }
SIMT_INLINE __half2 __floats2half2_rn(float low, float high) { return {__float2half(low), __float2half(high)}; }
SIMT_INLINE __half2 __float22half2_rn(float2 a) { return __floats2half2_rn(a.x, a.y); }
SIMT_INLINE __half2 __float2half2_rn(float a) { return __floats2half2_rn(a, a); }
