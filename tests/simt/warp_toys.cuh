// One warp, one operation per launch: what tests compare with a model in Python. Conversions too.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "cuda/matrix.cuh"

namespace cas_ext {
namespace toys {

enum class WarpOperation : int {
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kAny,
  kAll,
  kMatchAny,
  kMatchAll,
  kAdd,
  kMin,
  kMax,
  kAnd,
  kOr,
  kXor
};

struct WarpParams {
  WarpOperation operation;
  unsigned mask;
  int width;
  bool is_unsigned;     // of the reductions
  const double* input;  // (32), integers but for the shuffles
  const int* argument;  // (32)
  double* output;       // (32), 0 for lanes outside of the mask
};

template <class T>
__device__ inline double shuffle(WarpOperation operation, unsigned mask, double value, int argument, int width) {
  const T typed = static_cast<T>(value);
  switch (operation) {
    case WarpOperation::kShuffle:
      return static_cast<double>(__shfl_sync(mask, typed, argument, width));
    case WarpOperation::kShuffleUp:
      return static_cast<double>(__shfl_up_sync(mask, typed, static_cast<unsigned>(argument), width));
    case WarpOperation::kShuffleDown:
      return static_cast<double>(__shfl_down_sync(mask, typed, static_cast<unsigned>(argument), width));
    default:
      return static_cast<double>(__shfl_xor_sync(mask, typed, argument, width));
  }
}

template <class T>
__device__ inline double reduce(WarpOperation operation, unsigned mask, T value) {
  switch (operation) {
    case WarpOperation::kAdd:
      return __reduce_add_sync(mask, value);
    case WarpOperation::kMin:
      return __reduce_min_sync(mask, value);
    case WarpOperation::kMax:
      return __reduce_max_sync(mask, value);
    case WarpOperation::kAnd:
      return __reduce_and_sync(mask, static_cast<unsigned>(value));
    case WarpOperation::kOr:
      return __reduce_or_sync(mask, static_cast<unsigned>(value));
    default:
      return __reduce_xor_sync(mask, static_cast<unsigned>(value));
  }
}

template <class T>
__global__ void warp_kernel(WarpParams params) {
  const unsigned lane = threadIdx.x, mask = params.mask;
  params.output[lane] = 0;
  if (!(mask >> lane & 1)) return;
  const double value = params.input[lane];
  const int integer = static_cast<int>(value);
  double result = 0;
  int all_equal = 0;
  switch (params.operation) {
    case WarpOperation::kBallot:
      result = __ballot_sync(mask, integer > 0);
      break;
    case WarpOperation::kAny:
      result = __any_sync(mask, integer > 0);
      break;
    case WarpOperation::kAll:
      result = __all_sync(mask, integer > 0);
      break;
    case WarpOperation::kMatchAny:
      result = __match_any_sync(mask, integer);
      break;
    case WarpOperation::kMatchAll:
      result = __match_all_sync(mask, integer, &all_equal);
      if (all_equal != (result != 0)) result = -1;
      break;
    default:
      if (params.operation <= WarpOperation::kShuffleXor)
        result = shuffle<T>(params.operation, mask, value, params.argument[lane], params.width);
      else if (params.is_unsigned)
        result = reduce(params.operation, mask, static_cast<unsigned>(integer));
      else
        result = reduce(params.operation, mask, integer);
  }
  params.output[lane] = result;
}

// Every thread applies each atomic to its counter once; the results do not depend on the order.
struct AtomicParams {
  const int* input;  // (threads)
  int* integers;     // add, min, max, and, or, xor, exchange, compare-and-swap
  double* sums;      // float and double sums of `input`
  float* single;
};

__global__ void atomics_kernel(AtomicParams params) {
  const int value = params.input[blockIdx.x * blockDim.x + threadIdx.x];
  atomicAdd(params.integers + 0, value);
  atomicMin(params.integers + 1, value);
  atomicMax(params.integers + 2, value);
  atomicAnd(params.integers + 3, value);
  atomicOr(params.integers + 4, value);
  atomicXor(params.integers + 5, value);
  atomicExch(params.integers + 6, 7);
  int expected = 0, old;
  // A counter by compare-and-swap.
  while ((old = atomicCAS(params.integers + 7, expected, expected + 1)) != expected) expected = old;
  atomicAdd(params.sums, value);
  atomicAdd(params.single, static_cast<float>(value));
}

// A product as csrc/cuda/matrix.cuh describes it: lane (g, t) holds pixels 4t to 4t + 3, channel g of them.
struct ProductParams {
  const uint16_t* onehot;  // (16 regions, 16 pixels) bits of bfloat16 numbers, any
  const uint16_t* parts;   // (8 channels, 16 pixels)
  const float* before;     // (16 regions, 8 channels)
  float* sums;             // the same
};

__global__ inline void product_kernel(ProductParams p) {
  const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
  const auto pair = [&](const uint16_t* row, unsigned first) { return row[first] | uint32_t{row[first + 1]} << 16; };
  OneHot onehot;
  PartPairs parts;
  RegionSums sums;
  for (unsigned k = 0; k < 2; ++k) {
    for (unsigned half = 0; half < 2; ++half) {
      onehot[2 * k + half] = pair(p.onehot + 16 * (g + 8 * half), 4 * t + 2 * k);
    }
    parts[k] = pair(p.parts + 16 * g, 4 * t + 2 * k);
  }
  for (unsigned e = 0; e < 4; ++e) sums[e] = p.before[8 * (g + e / 2 * 8) + 2 * t + e % 2];
  add_product(sums, onehot, parts);
  for (unsigned e = 0; e < 4; ++e) p.sums[8 * (g + e / 2 * 8) + 2 * t + e % 2] = sums[e];
}

}  // namespace toys
}  // namespace cas_ext
