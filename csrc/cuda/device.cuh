// What every kernel uses: conversions, wide loads and stores, sums over a warp and over a block in a fixed order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <math.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../labels.h"
#include "../params.h"
#include "../region_math.h"

namespace cas_ext {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

// Type of pixel arithmetic.
template <class scalar_t>
using acc_of = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

__device__ __forceinline__ float to_acc(__half s) { return __half2float(s); }
__device__ __forceinline__ float to_acc(__nv_bfloat16 s) { return __bfloat162float(s); }
__device__ __forceinline__ float to_acc(float s) { return s; }
__device__ __forceinline__ double to_acc(double s) { return s; }

template <class scalar_t>
__device__ __forceinline__ scalar_t from_acc(acc_of<scalar_t> s) {
  if constexpr (std::is_same_v<scalar_t, __half>) {
    return __float2half_rn(s);
  } else if constexpr (std::is_same_v<scalar_t, __nv_bfloat16>) {
    return __float2bfloat16_rn(s);
  } else {
    return s;
  }
}

template <class acc_t>
__device__ __forceinline__ acc_t minus_infinity() {
  return -static_cast<acc_t>(INFINITY);
}

// The block's shared memory; every kernel carves its own arrays from it.
__device__ __forceinline__ unsigned char* shared_arena() {
  extern __shared__ __align__(16) unsigned char arena[];
  return arena;
}

// V consecutive elements, moved in accesses of at most 16 bytes. Pointers are aligned to min(16, V sizeof(T)). Loads
// are of memory that the kernel does not write; stores are streaming. Intrinsics, because the compiler takes plain wide
// accesses apart around branches.
template <class T, int V>
struct Pack {
  T v[V];
};

template <int bytes>
struct WordOf;
template <>
struct WordOf<1> {
  using type = uint8_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

template <int V, class T>
__device__ __forceinline__ Pack<T, V> load_pack(const T* from) {
  constexpr int kBytes = sizeof(T) * V, kStep = kBytes < 16 ? kBytes : 16;
  using Word = typename WordOf<kStep>::type;
  Pack<T, V> pack;
#pragma unroll
  for (int k = 0; k < kBytes / kStep; ++k) {
    const Word word = __ldg(reinterpret_cast<const Word*>(from) + k);
    memcpy(reinterpret_cast<unsigned char*>(&pack) + k * kStep, &word, kStep);
  }
  return pack;
}

template <int V, class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, V>& pack) {
  constexpr int kBytes = sizeof(T) * V, kStep = kBytes < 16 ? kBytes : 16;
  using Word = typename WordOf<kStep>::type;
#pragma unroll
  for (int k = 0; k < kBytes / kStep; ++k) {
    Word word;
    memcpy(&word, reinterpret_cast<const unsigned char*>(&pack) + k * kStep, kStep);
    __stcs(reinterpret_cast<Word*>(to) + k, word);
  }
}

// The region (or kIgnored, kInvalid) of a label, in the arithmetic of its size.
template <class label_t>
__device__ __forceinline__ int32_t stored_region(label_t label, int64_t regions, int64_t ignore_index) {
  if constexpr (sizeof(label_t) <= 2) {
    return narrow_region_of(label, regions, ignore_index);
  } else {
    return region_of(label, regions, ignore_index);
  }
}

// The same of V consecutive pixels; `first` indexes the (B, P) labels.
template <int V>
__device__ __forceinline__ void load_regions(const LabelArray& labels, int64_t regions, int64_t first,
                                             int32_t (&region)[V]) {
  visit_labels(labels, [&](const auto* stored) {
    const auto pack = load_pack<V>(stored + first);
#pragma unroll
    for (int k = 0; k < V; ++k) region[k] = stored_region(pack.v[k], regions, labels.ignore_index);
  });
}

// Every channel of V neighbouring pixels as they are in memory: loads that are under way while the pixels' regions are
// looked up. Channels beyond M become 0, or logits of -inf. With V > 1, interleaved pixels touch and
// M == kChannels: they are one stretch of memory.
template <class scalar_t, bool kInterleaved, int V, int kChannels, bool kLogits>
struct PixelPacks {
  using acc_t = acc_of<scalar_t>;
  static constexpr bool kStretch = kInterleaved && V > 1;
  static constexpr int kRows = kStretch ? 1 : kChannels;  // that are loaded
  Pack<scalar_t, kStretch ? V * kChannels : V> pack[kRows];

  // Once, where channels beyond M are never loaded.
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < kRows; ++m) clear_row(m);
  }

  __device__ __forceinline__ void clear_row(int m) {
    const acc_t absent = kLogits ? minus_infinity<acc_t>() : acc_t(0);
#pragma unroll
    for (auto& value : pack[m].v) value = from_acc<scalar_t>(absent);
  }

  // `pixel`: the first channel of the first of them.
  __device__ __forceinline__ void load(const scalar_t* pixel, int64_t channel_stride, int64_t M) {
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      if (kStretch || m < M) load_row(m, pixel + m * channel_stride);
    }
  }

  __device__ __forceinline__ void load_row(int m, const scalar_t* from) {
    pack[m] = load_pack<kStretch ? V * kChannels : V>(from);
  }

  // As they are stored, or for arithmetic.
  template <class value_t>
  __device__ __forceinline__ void unpack(value_t (&s)[V][kChannels]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) {
#pragma unroll
      for (int m = 0; m < kChannels; ++m) {
        const scalar_t value = kStretch ? pack[0].v[k * kChannels + m] : pack[kStretch ? 0 : m].v[k];
        if constexpr (std::is_same_v<value_t, scalar_t>) {
          s[k][m] = value;
        } else {
          s[k][m] = to_acc(value);
        }
      }
    }
  }
};

// An address, once and for all: else the compiler derives each that follows anew, by products of 64 bits.
template <class T>
__device__ __forceinline__ const T* settled(const T* address) {
#ifdef __CUDACC__
  asm("" : "+l"(address));
#endif
  return address;
}

// threadIdx.x and blockIdx.x, read again wherever these are called: for what runs seldom, so that nothing that follows
// from them occupies registers in between.
__device__ __forceinline__ unsigned thread_again() {
#ifdef __CUDACC__
  unsigned thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#else
  return threadIdx.x;
#endif
}

__device__ __forceinline__ unsigned block_again() {
#ifdef __CUDACC__
  unsigned block;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
  return block;
#else
  return blockIdx.x;
#endif
}

// Which image and which of its `per_image` blocks this block is. 32-bit: a 64-bit division is a subroutine of 70
// instructions.
struct BlockPlace {
  int64_t image, block;
};
__device__ __forceinline__ BlockPlace block_place(int64_t per_image) {
  const unsigned count = static_cast<unsigned>(per_image);
  return {blockIdx.x / count, blockIdx.x % count};
}

// Sum over the warp, the same bits in every lane: a butterfly adds the same pairs everywhere.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
  return value;
}

__device__ __forceinline__ unsigned warp_or(unsigned value) {  // __reduce_or_sync needs sm_80
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) value |= __shfl_xor_sync(kFullWarp, value, step);
  return value;
}

__device__ __forceinline__ long long warp_min(long long value) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const long long other = __shfl_xor_sync(kFullWarp, value, step);
    value = other < value ? other : value;
  }
  return value;
}

// Sums of K values over the block, warps added in order; every thread gets the results.
// `scratch` holds kWarps * K values of shared memory, free for use again after the next __syncthreads().
template <int kWarps, int K, class T>
__device__ __forceinline__ void block_sum(T (&value)[K], T* scratch) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    value[k] = warp_sum(value[k]);
    if (lane == 0) scratch[warp * K + k] = value[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < K; ++k) {
    value[k] = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) value[k] += scratch[w * K + k];
  }
}

template <int kWarps>
__device__ __forceinline__ long long block_min(long long value, long long* scratch) {
  value = warp_min(value);
  if (threadIdx.x % kWarpSize == 0) scratch[threadIdx.x / kWarpSize] = value;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; ++w) value = scratch[w] < value ? scratch[w] : value;
  return value;
}

// Column sums of (rows, columns) values, one for each thread, which get theirs back; 0 from threads beyond.
__device__ __forceinline__ double column_sum(double value, unsigned rows, unsigned columns, double* scratch) {
  const unsigned thread = threadIdx.x, row = thread / columns;
  __syncthreads();  // the sums before have been read
  scratch[thread] = value;
  __syncthreads();
  for (unsigned left = rows; left > 1;) {
    const unsigned half = (left + 1) / 2;
    if (row + half < left) scratch[thread] += scratch[thread + half * columns];
    left = half;
    __syncthreads();
  }
  return scratch[thread % columns];
}

// sum += value, of which `lost` keeps what rounding adds (Kahan).
__device__ __forceinline__ void add_exactly(float& sum, float& lost, float value) {
  const float due = value - lost, next = sum + due;
  lost = (next - sum) - due;
  sum = next;
}

__device__ __forceinline__ double not_a_number() { return __longlong_as_double(0x7ff8000000000000LL); }

}  // namespace cas_ext
