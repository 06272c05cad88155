// What a lane holds of a chunk of 32 pixels and 8 kLane channels, before tensor cores multiply it: lane (g, t) = (lane
// / 4, lane % 4) has channels kLane g and those after it, kLane of them, of 8 pixels.
#pragma once

#include "device.cuh"

namespace cas_ext {

// Where a lane stands. channel: its warp's first one, of `all`; channels: how many there are from there on.
struct WarpPlace {
  unsigned lane, g, t, warp, channel, channels;

  __device__ __forceinline__ WarpPlace(unsigned thread, unsigned first_channel, unsigned all)
      : lane(thread % kWarpSize),
        g(lane / 4),
        t(lane % 4),
        warp(thread / kWarpSize),
        channel(first_channel),
        channels(channel < all ? all - channel : 0) {}
};

// A lane's pixels of a chunk: 8, in runs of 16 bytes of a channel.
template <class scalar_t>
constexpr unsigned kLaneRun = 16 / sizeof(scalar_t);
template <class scalar_t>
__device__ __forceinline__ constexpr unsigned lane_pixel(unsigned t, unsigned j) {
  constexpr unsigned kRun = kLaneRun<scalar_t>;
  return j / kRun * 4 * kRun + t * kRun + j % kRun;
}

// The values of a lane as they are in memory. V neighbours in an access: pixels (planar) or channels.
template <class scalar_t, int V, bool kInterleaved, unsigned kLane>
struct ChunkValues {
  using Word = typename WordOf<sizeof(scalar_t) * V>::type;
  static constexpr unsigned kWords = 8 * kLane / V;
  static_assert(!kInterleaved || kLane % V == 0);
  Word word[kWords];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (Word& each : word) each = Word{};
  }

  // `from`: the lane's first pixel and channel. `stride`: to the next channel (planar) or pixel. `pixels`, `channels`:
  // how many there are from those on. One by one (V = 1), what is of no channel stays as it was: `clear` comes before.
  __device__ __forceinline__ void load(const scalar_t* from, int64_t stride, unsigned pixels, unsigned channels) {
    if constexpr (V > 1) {
#pragma unroll
      for (unsigned k = 0; k < kWords; ++k) word[k] = load_word(k, from, stride, pixels, channels);
    } else if (pixels > lane_pixel<scalar_t>(0, 7)) {
      constexpr unsigned kRows = kInterleaved ? 8 : kLane, kColumns = kInterleaved ? kLane : 8;
#pragma unroll
      for (unsigned row = 0; row < kRows; ++row) {
#pragma unroll
        for (unsigned column = 0; column < kColumns; ++column) {
          const unsigned x = kInterleaved ? 0 : lane_pixel<scalar_t>(0, column), h = kInterleaved ? column : row;
          if (h < channels) word[row * kColumns + column] = ldg(from + (kInterleaved ? h : x));
        }
        const unsigned step = lane_pixel<scalar_t>(0, row + 1) - lane_pixel<scalar_t>(0, row);
        from = settled(from + (kInterleaved ? step : 1) * stride);
      }
    } else {  // at the end of an image's or a block's pixels: small rather than fast
#pragma unroll 1
      for (unsigned k = 0; k < kWords; ++k) {
        const Word one = load_word(k, from, stride, pixels, channels);
#pragma unroll
        for (unsigned i = 0; i < kWords; ++i) word[i] = i == k ? one : word[i];
      }
    }
  }

  // Word k, or 0 where its pixel or channel does not exist.
  __device__ __forceinline__ Word load_word(unsigned k, const scalar_t* from, int64_t stride, unsigned pixels,
                                            unsigned channels) const {
    const unsigned first = k * V, h = kInterleaved ? first % kLane : first / 8;
    const unsigned x = lane_pixel<scalar_t>(0, kInterleaved ? first / kLane : first % 8);
    return x < pixels && h < channels ? ldg(from + (kInterleaved ? x * stride + h : h * stride + x)) : Word{};
  }

  static __device__ __forceinline__ Word ldg(const scalar_t* from) {
    return __ldg(reinterpret_cast<const Word*>(from));
  }

  // Of pixel j and channel kLane g + h.
  __device__ __forceinline__ scalar_t at(unsigned j, unsigned h) const {
    const unsigned i = kInterleaved ? kLane * j + h : 8 * h + j;
    scalar_t value[V];
    memcpy(value, &word[i / V], sizeof(value));
    return value[i % V];
  }

  // 16-bit types: of pixels 2k and 2k + 1 and channel kLane g + h, as they are multiplied.
  __device__ __forceinline__ uint32_t pair(unsigned k, unsigned h) const {
    static_assert(sizeof(scalar_t) == 2);
    if constexpr (!kInterleaved && V == 8) {
      uint32_t pairs[4];
      memcpy(pairs, &word[h], sizeof(pairs));
      return pairs[k];
    } else if constexpr (kInterleaved && V == 2) {
      const uint32_t first = word[2 * k], second = word[2 * k + 1];
      return h == 0 ? (first & 0xffffu) | second << 16 : first >> 16 | (second & 0xffff0000u);
    } else {
      const unsigned i = kInterleaved ? 2 * kLane * k + h : 8 * h + 2 * k;
      return word[i] | uint32_t{word[i + (kInterleaved ? kLane : 1)]} << 16;
    }
  }
};

}  // namespace cas_ext
