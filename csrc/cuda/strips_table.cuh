// What a block of accumulate_strips, one warp, keeps in shared memory: the pixels of a chunk, the runs that its lanes
// have found in them, and a table of all regions.
#pragma once

#include "device.cuh"
#include "select.h"

namespace cas_ext {

constexpr unsigned kFullRecords = kWarpSize;  // as many runs, or more, are added to the table together
constexpr unsigned kMostRecords = kFullRecords - 1 + kWarpSize;

// What a lane walks of a chunk: of 16-bit values twice as many pixels as of floats, in as many bytes.
template <class value_t>
struct StripOf {
  static constexpr unsigned kPixels = kStripChunk / kWarpSize * sizeof(float) / sizeof(value_t);
  static constexpr unsigned kPlaces = kPixels + 1;  // strips begin in different banks
  static constexpr unsigned kChunk = kWarpSize * kPixels;
};

// One value for each channel.
template <int kChannels, class value_t = float>
struct alignas(kChannels * sizeof(value_t)) StripValues {
  value_t of[kChannels];
};

template <int kChannels, class value_t>
__device__ __forceinline__ StripValues<kChannels> load_values(const StripValues<kChannels, value_t>* from) {
  value_t stored[kChannels];
  const auto word = *reinterpret_cast<const typename WordOf<sizeof(stored)>::type*>(from);
  memcpy(stored, &word, sizeof(stored));
  StripValues<kChannels> values;
#pragma unroll
  for (int m = 0; m < kChannels; ++m) values.of[m] = to_acc(stored[m]);
  return values;
}

// Sums about the pilot, with what rounding has added to them.
struct alignas(16) StripSums {
  float sum, sum_lost, square, square_lost;
};

// What the block has seen of a region. Squares over all channels are in the first; the others have what moving them to
// this pilot added.
template <int kChannels>
struct StripRegion {
  StripSums channel[kChannels];
  float pilot[kChannels];
  unsigned n;  // 0: the others hold nothing
};

// Runs' records and the table, whatever the type of pixels.
template <int kChannels>
struct StripRecords {
  // Runs: pixels of a strip that touch and have one region. Sums about a pilot; `square` over all channels.
  StripValues<kChannels> pilot[kMostRecords], sum[kMostRecords];
  float square[kMostRecords];
  uint32_t run[kMostRecords];  // the region, and 256 times the pixels
  StripRegion<kChannels> table[kStripRegions];
};

template <int kChannels, class value_t>
struct StripsShared {
  StripValues<kChannels, value_t> pixel[kWarpSize * StripOf<value_t>::kPlaces];
  alignas(16) uint8_t code[StripOf<value_t>::kChunk];  // the low bits of regions, kIgnored and kInvalid
  StripRecords<kChannels> records;                     // at the end, since only the table's first rows are there
};

template <int kChannels, class value_t>
constexpr size_t strips_shared_bytes(int64_t regions) {
  return sizeof(StripsShared<kChannels, value_t>) - (kStripRegions - regions) * sizeof(StripRegion<kChannels>);
}

// Adds runs to the table: a lane for each channel of 32 / kChannels of them, the first lane of a region and channel for
// all of their lanes.
template <int kChannels>
__device__ __forceinline__ void add_records(StripRecords<kChannels>& shared, unsigned count) {
  const unsigned lane = threadIdx.x, m = lane % kChannels;
  __syncwarp();  // all runs are there
#pragma unroll 1
  for (unsigned first = 0; first < count; first += kWarpSize / kChannels) {
    const unsigned at = first + lane / kChannels;
    const bool holds = at < count;
    const unsigned run = holds ? shared.run[at] : 0, region = run % 256, n = run / 256;
    const float pilot = holds ? shared.pilot[at].of[m] : 0, sum = holds ? shared.sum[at].of[m] : 0;
    const float square = holds && m == 0 ? shared.square[at] : 0;
    const unsigned peers = __match_any_sync(kFullWarp, holds ? region * kChannels + m : ~0u);
    const int leader = __ffs(peers) - 1;
    const bool leads = holds && lane == static_cast<unsigned>(leader);
    StripRegion<kChannels>& known = shared.table[region];
    const unsigned before = known.n;
    const float leaders = __shfl_sync(kFullWarp, pilot, leader);
    float about = before > 0 ? known.pilot[m] : leaders;

    float all_sum, all_square;
    unsigned all_n;
    const auto add_peers = [&] {  // the leader's get the sums of its peers about `about`
      const float shift = about - pilot, count_of = static_cast<float>(n);
      const float moved = moved_sum(sum, count_of, shift), squares = moved_square_sum(square, sum, count_of, shift);
      all_sum = moved, all_square = squares, all_n = n;
#pragma unroll 1
      for (unsigned left = leads ? peers & (peers - 1) : 0; __any_sync(kFullWarp, left != 0); left &= left - 1) {
        const int from = left != 0 ? __ffs(left) - 1 : static_cast<int>(lane);
        const float other = __shfl_sync(kFullWarp, moved, from), its_squares = __shfl_sync(kFullWarp, squares, from);
        const unsigned its_n = __shfl_sync(kFullWarp, n, from);
        all_sum += left != 0 ? other : 0;
        all_square += left != 0 ? its_squares : 0;
        all_n += left != 0 ? its_n : 0;
      }
    };
    add_peers();
    StripSums sums = {0, 0, 0, 0};
    if (leads && before > 0) sums = known.channel[m];
    // Where a region reaches 1, 2, 4, ... pixels, its pilot moves to the mean, before these are added: then a run that
    // is larger than all before, or an outlier met first, costs no digits.
    const unsigned after = before + all_n;
    const bool moves = leads && (before ^ after) > before;
    if (__any_sync(kFullWarp, moves)) {
      if (moves) {
        const float next = about + __fdividef(sums.sum + all_sum, static_cast<float>(after)), shift = next - about;
        const float count_of = static_cast<float>(before);
        sums.square = moved_square_sum(sums.square, sums.sum, count_of, shift);
        sums.sum = moved_sum(sums.sum, count_of, shift);
        about = next;
      }
      about = __shfl_sync(kFullWarp, about, leader);
      add_peers();
    }
    __syncwarp();  // all have read
    if (leads) {
      add_exactly(sums.sum, sums.sum_lost, all_sum);
      add_exactly(sums.square, sums.square_lost, all_square);
      known.channel[m] = sums;
      known.pilot[m] = about;
      if (m == 0) known.n = after;
    }
    __syncwarp();
  }
}

// Makes moments of the table.
template <int kChannels>
__device__ __forceinline__ void write_moments(const AccumulateParams& p, const StripRecords<kChannels>& shared) {
  const unsigned M = static_cast<unsigned>(p.shape.channels);
  for (unsigned region = threadIdx.x; region < p.shape.regions; region += kWarpSize) {
    const StripRegion<kChannels>& found = shared.table[region];
    const int64_t cell = blockIdx.x * p.shape.regions + region;
    p.partial_count[cell] = found.n;
    if (found.n == 0) continue;
    const double inverse_n = 1 / static_cast<double>(found.n);
    double scatter = 0;
#pragma unroll
    for (unsigned m = 0; m < kChannels; ++m) {
      if (m >= M) break;
      const StripSums& of = found.channel[m];
      const double sum = static_cast<double>(of.sum) - of.sum_lost;
      scatter += centered_square_sum(static_cast<double>(of.square) - of.square_lost, sum, inverse_n);
      p.partial_mean[cell * M + m] = found.pilot[m] + sum * inverse_n;
    }
    p.partial_scatter[cell] = at_least_zero(scatter);
  }
}

}  // namespace cas_ext
