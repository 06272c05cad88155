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

// Sums of some pixels about a pilot; squares are over all channels.
template <int kChannels>
struct StripSums {
  float sum[kChannels], square;
  unsigned n;

  __device__ __forceinline__ void move(const float (&shift)[kChannels]) {
    const float count_of = static_cast<float>(n);
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      square = moved_square_sum(square, sum[m], count_of, shift[m]);
      sum[m] = moved_sum(sum[m], count_of, shift[m]);
    }
  }

  // The first of `peers` gets the sums of all of them, in pairs, pairs of pairs and so on.
  __device__ __forceinline__ void add_peers(unsigned peers) {
    const unsigned lane = threadIdx.x;
    unsigned rank = __popc(peers & ((1u << lane) - 1));
#pragma unroll 1
    for (;;) {
      const int next = __ffs(peers & ~1u << lane);
      if (!__any_sync(kFullWarp, next != 0)) return;
      const int from = next != 0 ? next - 1 : static_cast<int>(lane);
#pragma unroll
      for (float& each : sum) add_of(each, from, next != 0);
      add_of(square, from, next != 0);
      add_of(n, from, next != 0);
      peers &= ~__ballot_sync(kFullWarp, rank & 1);
      rank /= 2;
    }
  }

 private:
  template <class T>
  static __device__ __forceinline__ void add_of(T& value, int from, bool adds) {
    const T other = __shfl_sync(kFullWarp, value, from);
    value += adds ? other : T(0);
  }
};

// What the block has seen of a region: sums about its pilot, and what rounding has added to them.
template <int kChannels>
struct StripRegion {
  StripSums<kChannels> sums;  // n is 0: the others hold nothing
  float sum_lost[kChannels], square_lost, pilot[kChannels];
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

// Adds runs to the table: a lane for each of 32, the first of a region's for all of its lanes.
template <int kChannels>
__device__ __forceinline__ void add_records(StripRecords<kChannels>& shared, unsigned count) {
  const unsigned lane = threadIdx.x;
  __syncwarp();  // all runs are there
#pragma unroll 1
  for (unsigned first = 0; first < count; first += kWarpSize) {
    const unsigned at = first + lane;
    const bool holds = at < count;
    const unsigned run = holds ? shared.run[at] : 0, region = run % 256;
    const auto pilot = holds ? shared.pilot[at] : StripValues<kChannels>{};
    const auto sum = holds ? shared.sum[at] : StripValues<kChannels>{};
    const unsigned peers = __match_any_sync(kFullWarp, holds ? region : ~0u);
    const int leader = __ffs(peers) - 1;
    const bool leads = holds && lane == static_cast<unsigned>(leader);
    StripRegion<kChannels>& known = shared.table[region];
    const unsigned before = known.sums.n;
    float about[kChannels];
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      const float leaders = __shfl_sync(kFullWarp, pilot.of[m], leader);
      about[m] = before > 0 ? known.pilot[m] : leaders;
    }

    StripSums<kChannels> all;
    const auto add_up = [&] {  // the leader's get those of its peers, about `about`
      float shift[kChannels];
#pragma unroll
      for (int m = 0; m < kChannels; ++m) {
        all.sum[m] = sum.of[m];
        shift[m] = about[m] - pilot.of[m];
      }
      all.square = holds ? shared.square[at] : 0;
      all.n = run / 256;
      all.move(shift);
      all.add_peers(peers);
    };
    add_up();
    // Where a region reaches 1, 2, 4, ... pixels, its pilot moves to the mean, before these are added: then a run that
    // is larger than all before, or an outlier met first, costs no digits.
    const unsigned after = before + all.n;
    const bool moves = leads && (before ^ after) > before;
    StripSums<kChannels> sums = {};
    if (leads && before > 0) sums = known.sums;
    if (__any_sync(kFullWarp, moves)) {
      float shift[kChannels];
#pragma unroll
      for (int m = 0; m < kChannels; ++m) {
        const float next = about[m] + __fdividef(sums.sum[m] + all.sum[m], static_cast<float>(after));
        shift[m] = moves ? next - about[m] : 0;
        about[m] = __shfl_sync(kFullWarp, moves ? next : about[m], leader);
      }
      if (moves) sums.move(shift);
      add_up();
    }
    __syncwarp();  // all have read
    if (leads) {
#pragma unroll
      for (int m = 0; m < kChannels; ++m) {
        float lost = before > 0 ? known.sum_lost[m] : 0;
        add_exactly(sums.sum[m], lost, all.sum[m]);
        known.sum_lost[m] = lost;
        known.pilot[m] = about[m];
      }
      float lost = before > 0 ? known.square_lost : 0;
      add_exactly(sums.square, lost, all.square);
      known.square_lost = lost;
      sums.n = after;
      known.sums = sums;
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
    p.partial_count[cell] = found.sums.n;
    if (found.sums.n == 0) continue;
    const double inverse_n = 1 / static_cast<double>(found.sums.n);
    double scatter = static_cast<double>(found.sums.square) - found.square_lost;
#pragma unroll
    for (unsigned m = 0; m < kChannels; ++m) {
      if (m >= M) break;
      const double sum = static_cast<double>(found.sums.sum[m]) - found.sum_lost[m];
      scatter = centered_square_sum(scatter, sum, inverse_n);
      p.partial_mean[cell * M + m] = found.pilot[m] + sum * inverse_n;
    }
    p.partial_scatter[cell] = at_least_zero(scatter);
  }
}

}  // namespace cas_ext
