// Where a lane of accumulate_matrix stands.
#pragma once

#include "chunk_values.cuh"
#include "matrix_tile.cuh"

namespace cas_ext {

using LaneValues = float[8][2];  // of pixel j and channel 2g + h

struct MatrixPlace : WarpPlace {
  unsigned stride;  // of pilots

  __device__ __forceinline__ MatrixPlace(const AccumulateParams& p, unsigned thread, unsigned first_channel)
      : WarpPlace(thread, first_channel, static_cast<unsigned>(p.shape.channels)),
        stride(static_cast<unsigned>(pilot_stride(p.shape.channels))) {}
};

// The block's sums about a region's pilots, from the warp's first channel on.
__device__ __forceinline__ double* row_of(const AccumulateParams& p, const MatrixPlace& own, unsigned region) {
  return p.partial_mean + (block_again() * p.shape.regions + region) * p.shape.channels + own.channel;
}

__device__ __forceinline__ float2* pilots_of(MatrixShared& shared, const MatrixPlace& own, unsigned region) {
  return reinterpret_cast<float2*>(shared.pilots() + region * own.stride + own.channel) + own.g;
}

}  // namespace cas_ext
