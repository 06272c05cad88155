// Sums over regions as products of matrices: a one-hot matrix of labels, which is exact, times differences from pilots,
// split into parts of 8 bits.
//
// A product takes 16 regions, 16 pixels and 8 channels. Lane (g, t) = (lane / 4, lane % 4) holds four of the pixels, as
// two pairs, and of them one channel, that of g; which channels and pixels those are is for the caller to choose, as
// long as labels and values agree. Of the sums it holds those of regions g and g + 8 for the channels of 2t and 2t + 1.
#pragma once

#include "device.cuh"
#include "select.h"

namespace cas_ext {

constexpr unsigned kProductRegions = 16;
// Kernels have registers for the sums of that many blocks of regions, or of all that there may be.
constexpr int kFewProducts = kFewRegions / kProductRegions;

// From sm_100 on, the compiler keeps some forty registers more around products.
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 1000
constexpr bool kProductsTakeMore = true;
#else
constexpr bool kProductsTakeMore = false;
#endif
constexpr int kParts = 3;  // of a float: 24 bits, as bfloat16 numbers, which have its exponents

using OneHot = uint32_t[4];     // regions g and g + 8 of the first pair of pixels, then of the second
using PartPairs = uint32_t[2];  // of channel g
using RegionSums = float[4];    // region g of channels 2t and 2t + 1, then region g + 8

// sums += onehot * parts, rounded to zero at that. Tensor cores need sm_80: select.h does not choose kernels that call
// this for older ones.
__device__ __forceinline__ void add_product(RegionSums& sums, const OneHot& onehot, const PartPairs& parts) {
#if !defined(__CUDACC__)
  simt::add_product(sums, onehot, parts);
#elif __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(onehot[0]), "r"(onehot[1]), "r"(onehot[2]), "r"(onehot[3]), "r"(parts[0]), "r"(parts[1]));
#else
  __trap();
#endif
}

// The lanes' bits together: one instruction on what has these tensor cores.
__device__ __forceinline__ unsigned or_of_warp(unsigned value) {
#if !defined(__CUDACC__) || __CUDA_ARCH__ >= 800
  return __reduce_or_sync(kFullWarp, value);
#else
  __trap();
  return value;
#endif
}

// kOneHot where codes are equal, else 0, for two pixels at once. They are compared as float16 numbers, none of them
// subnormal or a NaN, because every GPU does that by one instruction; its 1 is 2^-7 if it is read as a bfloat16 number.
constexpr float kOneHot = 0.0078125f;
__device__ __forceinline__ uint32_t equal_codes(uint32_t pixels, uint32_t region) {
  __half2 a, b;
  memcpy(&a, &pixels, sizeof(a));
  memcpy(&b, &region, sizeof(b));
  const __half2 equal = __heq2(a, b);
  uint32_t bits;
  memcpy(&bits, &equal, sizeof(bits));
  return bits;
}

// Whether the parts of a value are finite: those of one that rounds up to 2^128 are not.
__device__ __forceinline__ bool has_parts(float value) { return fabsf(value) < 0x1.ffp127f; }

// One pair of pixels' values as sums of kParts numbers each, the largest first.
__device__ __forceinline__ void split_pair(float a, float b, PartPairs (&parts)[kParts], unsigned pair) {
#pragma unroll
  for (int k = 0; k < kParts; ++k) {
    const __nv_bfloat162 rounded = __floats2bfloat162_rn(a, b);
    uint32_t bits;
    memcpy(&bits, &rounded, sizeof(bits));
    parts[k][pair] = bits;
    a -= __uint_as_float(bits << 16);
    b -= __uint_as_float(bits & 0xffff0000u);
  }
}

}  // namespace cas_ext
