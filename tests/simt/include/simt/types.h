// CUDA's keywords, built-in variables and vector types for a host compiler.
#pragma once

#include <cstddef>
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__
#define __restrict__ __restrict
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__  // the standard library spells an attribute this way, so it can only vanish
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

// Inlined always, so that a report names the kernel's line and not this header's.
#define SIMT_INLINE inline __attribute__((always_inline))

// Vectors of 2 and 4 are aligned to their size, up to 16 bytes; vectors of 1 and 3 to their element.
#define SIMT_VECTORS(T, Name)                                                        \
  struct Name##1 { T x; };                                                           \
  struct alignas(2 * sizeof(T)) Name##2 { T x, y; };                                 \
  struct Name##3 { T x, y, z; };                                                     \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Name##4 { T x, y, z, w; }; \
  SIMT_INLINE Name##1 make_##Name##1(T x) { return {x}; }                            \
  SIMT_INLINE Name##2 make_##Name##2(T x, T y) { return {x, y}; }                    \
  SIMT_INLINE Name##3 make_##Name##3(T x, T y, T z) { return {x, y, z}; }            \
  SIMT_INLINE Name##4 make_##Name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

SIMT_VECTORS(signed char, char)
SIMT_VECTORS(unsigned char, uchar)
SIMT_VECTORS(short, short)
SIMT_VECTORS(unsigned short, ushort)
SIMT_VECTORS(int, int)
SIMT_VECTORS(unsigned int, uint)
SIMT_VECTORS(long, long)
SIMT_VECTORS(unsigned long, ulong)
SIMT_VECTORS(long long, longlong)
SIMT_VECTORS(unsigned long long, ulonglong)
SIMT_VECTORS(float, float)
SIMT_VECTORS(double, double)
#undef SIMT_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace simt {
// Constant for as long as a CUDA thread lives, hence the attribute.
uint3 thread_index() __attribute__((const));
uint3 block_index() __attribute__((const));
dim3 block_dim() __attribute__((const));
dim3 grid_dim() __attribute__((const));
}  // namespace simt

#define threadIdx (::simt::thread_index())
#define blockIdx (::simt::block_index())
#define blockDim (::simt::block_dim())
#define gridDim (::simt::grid_dim())
constexpr int warpSize = 32;

using cudaStream_t = struct SimtStream*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
