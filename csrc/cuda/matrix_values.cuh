// What a lane of accumulate_matrix holds of a chunk of pixels.
#pragma once

#include "matrix_tile.cuh"

namespace cas_ext {

// A lane's pixels of a chunk: 8, in runs of 16 bytes of a channel.
constexpr unsigned kLaneRun = 4;
__device__ __forceinline__ constexpr unsigned lane_pixel(unsigned t, unsigned j) {
  return j / kLaneRun * 4 * kLaneRun + t * kLaneRun + j % kLaneRun;
}

// The values of a lane as they are in memory. V neighbours in an access: pixels (planar) or channels.
template <int V, bool kInterleaved>
struct ChunkValues {
  using Word = typename WordOf<sizeof(float) * V>::type;
  static constexpr unsigned kWords = 16 / V;
  Word word[kWords];

  // `from`: the lane's first pixel and channel. `stride`: to the next channel (planar) or pixel. `pixels`, `channels`:
  // how many there are from those on.
  __device__ __forceinline__ void load(const float* from, int64_t stride, unsigned pixels, unsigned channels) {
#pragma unroll
    for (unsigned k = 0; k < kWords; ++k) {
      const unsigned first = k * V, h = kInterleaved ? first % 2 : first / 8, j = kInterleaved ? first / 2 : first % 8;
      const unsigned x = lane_pixel(0, j);
      word[k] = Word{};
      if (x < pixels && h < channels) {
        word[k] = __ldg(reinterpret_cast<const Word*>(from + (kInterleaved ? x * stride + h : h * stride + x)));
      }
    }
  }

  // Of pixel j and channel 2g + h.
  __device__ __forceinline__ float at(unsigned j, unsigned h) const {
    const unsigned i = kInterleaved ? 2 * j + h : 8 * h + j;
    float value[V];
    memcpy(value, &word[i / V], sizeof(value));
    return value[i % V];
  }
};

using LaneValues = float[8][2];  // of pixel j and channel 2g + h

// Where a lane stands.
struct MatrixPlace {
  unsigned lane, g, t, warp;
  unsigned stride;    // of pilots
  unsigned channel;   // the warp's first, of this pass
  unsigned channels;  // from there on

  __device__ __forceinline__ MatrixPlace(const AccumulateParams& p, unsigned thread, unsigned first_channel)
      : lane(thread % kWarpSize),
        g(lane / 4),
        t(lane % 4),
        warp(thread / kWarpSize),
        stride(static_cast<unsigned>(pilot_stride(p.shape.channels))),
        channel(first_channel) {
    const unsigned M = static_cast<unsigned>(p.shape.channels);
    channels = channel < M ? M - channel : 0;
  }
};

// The block's sums about a region's pilots, from the warp's first channel on.
__device__ __forceinline__ double* row_of(const AccumulateParams& p, const MatrixPlace& own, unsigned region) {
  return p.partial_mean + (block_again() * p.shape.regions + region) * p.shape.channels + own.channel;
}

__device__ __forceinline__ float2* pilots_of(MatrixShared& shared, const MatrixPlace& own, unsigned region) {
  return reinterpret_cast<float2*>(shared.pilots() + region * own.stride + own.channel) + own.g;
}

}  // namespace cas_ext
