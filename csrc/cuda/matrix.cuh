// Sums over regions as products of matrices: a one-hot matrix of labels, which is exact, times differences from pilots,
// split into parts of 16 bits.
//
// A product takes 16 regions, 16 pixels and 8 channels. Lane (g, t) = (lane / 4, lane % 4) holds four of the pixels, as
// two pairs, and of them one channel, that of g; which channels and pixels those are is for the caller to choose, as
// long as labels and values agree. Of the sums it holds those of regions g and g + 8 for the channels of 2t and 2t + 1.
#pragma once

#include "device.cuh"

namespace cas_ext {

constexpr unsigned kProductRegions = 16;

using OneHot = uint32_t[4];     // regions g and g + 8 of the first pair of pixels, then of the second
using PartPairs = uint32_t[2];  // of channel g
using RegionSums = float[4];    // region g of channels 2t and 2t + 1, then region g + 8

// What parts are: two of float16 hold a difference of float16 numbers, two of bfloat16 one of bfloat16 numbers that are
// not too different, three any float.
template <class scalar_t>
struct Parts {
  using type = __nv_bfloat16;
  static constexpr int kCount = 3;
  static constexpr float kMost = INFINITY;  // magnitude that they hold
};
template <>
struct Parts<__nv_bfloat16> : Parts<float> {
  static constexpr int kCount = 2;
};
template <>
struct Parts<__half> {
  using type = __half;
  static constexpr int kCount = 2;
  static constexpr float kMost = 65504;
};

// sums += onehot * parts, rounded to zero at that. Tensor cores need sm_80: select.h does not choose kernels that call
// this for older ones.
template <class part_t>
__device__ __forceinline__ void add_product(RegionSums& sums, const OneHot& onehot, const PartPairs& parts) {
#if !defined(__CUDACC__)
  simt::add_product<part_t>(sums, onehot, parts);
#elif __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<part_t, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(onehot[0]), "r"(onehot[1]), "r"(onehot[2]), "r"(onehot[3]), "r"(parts[0]), "r"(parts[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(onehot[0]), "r"(onehot[1]), "r"(onehot[2]), "r"(onehot[3]), "r"(parts[0]), "r"(parts[1]));
  }
#else
  __trap();
#endif
}

// threadIdx.x, read again wherever this is called: for what runs seldom, so that nothing that follows from it occupies
// registers in between.
__device__ __forceinline__ unsigned thread_again() {
#ifdef __CUDACC__
  unsigned thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#else
  return threadIdx.x;
#endif
}

template <class T>
__device__ __forceinline__ uint32_t bits_of(T pair) {
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

template <class T>
__device__ __forceinline__ T from_bits(uint32_t bits) {
  T pair;
  memcpy(&pair, &bits, sizeof(pair));
  return pair;
}

// Two numbers in one word.
template <class part_t>
struct Pairs16 {  // bfloat16: the upper half of a float
  static __device__ __forceinline__ uint32_t pack(float a, float b) { return bits_of(__floats2bfloat162_rn(a, b)); }
  static __device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
  static __device__ __forceinline__ float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
  static __device__ __forceinline__ uint32_t equal(uint32_t a, uint32_t b) {  // 1 or 0 for each
    return bits_of(__heq2(from_bits<__nv_bfloat162>(a), from_bits<__nv_bfloat162>(b)));
  }
};
template <>
struct Pairs16<__half> {
  static __device__ __forceinline__ uint32_t pack(float a, float b) { return bits_of(__floats2half2_rn(a, b)); }
  static __device__ __forceinline__ float low(uint32_t pair) { return __low2float(from_bits<__half2>(pair)); }
  static __device__ __forceinline__ float high(uint32_t pair) { return __high2float(from_bits<__half2>(pair)); }
  static __device__ __forceinline__ uint32_t equal(uint32_t a, uint32_t b) {
    return bits_of(__heq2(from_bits<__half2>(a), from_bits<__half2>(b)));
  }
};

// A pair of pixels' values as sums of kParts numbers of 16 bits, the largest first.
template <class part_t, int kParts>
__device__ __forceinline__ void split_pair(float a, float b, PartPairs (&parts)[kParts], unsigned pair) {
#pragma unroll
  for (int k = 0; k < kParts; ++k) {
    parts[k][pair] = Pairs16<part_t>::pack(a, b);
    a -= Pairs16<part_t>::low(parts[k][pair]);
    b -= Pairs16<part_t>::high(parts[k][pair]);
  }
}

}  // namespace cas_ext
