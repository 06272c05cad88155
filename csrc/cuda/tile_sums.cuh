// Sums over the segments of a tile.
#pragma once

#include "tile_values.cuh"

namespace cas_ext {

// Sums over values of one channel: of their differences from a pilot, and of the squares.
template <class acc_t>
struct Deviations {
  acc_t pilot, sum = 0, square = 0;

  template <int K>
  __device__ __forceinline__ void add(const acc_t (&value)[K]) {
    acc_t d[K], squares = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      d[k] = value[k] - pilot;
      squares += d[k] * d[k];
    }
    square += squares;
#pragma unroll
    for (int half = K / 2; half > 0; half /= 2) {  // these first: fewer additions to a sum that has grown
#pragma unroll
      for (int k = 0; k < half; ++k) d[k] += d[k + half];
    }
    sum += d[0];
  }

  __device__ __forceinline__ void add(acc_t other_sum, acc_t other_square) {  // of other values, about the same pilot
    sum += other_sum;
    square += other_square;
  }

  // Whether the scatter about the mean of n values would lose more than 3 bits: the pilot was an outlier.
  __device__ __forceinline__ bool cancels(acc_t inverse_n) const {
    constexpr int kFar = 8;  // n (mean - pilot)^2, in units of the scatter
    return (kFar + 1) * sum * (sum * inverse_n) > kFar * square;
  }
};

// Channels of a segment or region that a thread sums: what it takes to find their values serves all of them. Half
// types, whose values leave registers for it, take two.
template <class staged_t>
constexpr int kThreadChannels = sizeof(staged_t) == 2 ? 2 : 1;

// Those of one thread: first, first + step and so on; beyond `channels`, the first once more.
template <int K>
struct Channels {
  unsigned c[K];

  __device__ __forceinline__ Channels(unsigned first, unsigned step, unsigned channels) {
#pragma unroll
    for (int k = 0; k < K; ++k) c[k] = first + k * step < channels ? first + k * step : first;
  }

  __device__ __forceinline__ bool has(int k) const { return k == 0 || c[k] != c[0]; }
};

template <class acc_t, int K>
using Sums = Deviations<acc_t>[K];

// About the pilots of a region, of which this is a segment.
template <class staged_t, class acc_t, int K>
__device__ __forceinline__ void set_pilots(StagedRows<staged_t>& rows, const Channels<K>& channels,
                                           const Segment& segment, Sums<acc_t, K>& sums) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
    sums[k] = {to_acc(rows.at(channels.c[k], segment.pilot0)) / 2 + to_acc(rows.at(channels.c[k], segment.pilot1)) / 2};
  }
}

// Adds the values of a segment: those of whole units together, those before and after one by one.
template <class staged_t, class acc_t, int K>
__device__ __forceinline__ void add_values(StagedRows<staged_t>& rows, const Channels<K>& channels,
                                           const Segment& segment, Sums<acc_t, K>& sums) {
  constexpr unsigned kUnit = StagedRows<staged_t>::kUnit;
  const auto add_one = [&](unsigned place) {
#pragma unroll
    for (int k = 0; k < K; ++k) sums[k].add({to_acc(rows.at(channels.c[k], place))});
  };
  const unsigned end = segment.begin + segment.length, up = (segment.begin + kUnit - 1) / kUnit * kUnit;
  unsigned place = segment.begin;
#pragma unroll 1
  for (const unsigned first = up < end ? up : end; place < first; ++place) add_one(place);
#pragma unroll 1
  for (const unsigned last = end / kUnit * kUnit; place < last; place += kUnit) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      acc_t value[kUnit];
      rows.read_unit(&rows.at(channels.c[k], place), value);
      sums[k].add(value);
    }
  }
#pragma unroll 1
  for (; place < end; ++place) add_one(place);
}

}  // namespace cas_ext
