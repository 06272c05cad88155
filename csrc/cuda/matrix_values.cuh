// Where a lane of accumulate_matrix stands.
#pragma once

#include "chunk_values.cuh"
#include "matrix_tile.cuh"

namespace cas_ext {

template <int kLane>
using LaneValues = float[8][kLane];  // of pixel j and channel kLane g + h

template <int kLane>
struct MatrixPlace : WarpPlace {
  unsigned stride;  // of pilots

  __device__ __forceinline__ MatrixPlace(const AccumulateParams& p, unsigned thread, unsigned first_channel)
      : WarpPlace(thread, first_channel, static_cast<unsigned>(p.shape.channels)),
        stride(static_cast<unsigned>(pilot_stride(p.shape.channels, kLane))) {}
};

// The block's sums about a region's pilots, from the warp's first channel on.
template <int kLane>
__device__ __forceinline__ double* row_of(const AccumulateParams& p, const MatrixPlace<kLane>& own, unsigned region) {
  return p.partial_mean + (block_again() * p.shape.regions + region) * p.shape.channels + own.channel;
}

// The lane's.
template <int kLane>
__device__ __forceinline__ float* pilots_of(MatrixShared& shared, const MatrixPlace<kLane>& own, unsigned region) {
  return shared.pilots() + region * own.stride + own.channel + kLane * own.g;
}

template <int kLane>
__device__ __forceinline__ void load_pilots(const float* from, float (&pilot)[kLane]) {
  if constexpr (kLane == 2) {
    const float2 two = *reinterpret_cast<const float2*>(from);
    pilot[0] = two.x, pilot[1] = two.y;
  } else {
#pragma unroll
    for (int h = 0; h < kLane; ++h) pilot[h] = from[h];
  }
}

}  // namespace cas_ext
