// The pilots of accumulate_matrix, which follow the means of their regions, and the table of sums about them. What is
// here runs seldom: for regions that a block has hardly met, and once per interval.
#pragma once

#include "matrix_values.cuh"

namespace cas_ext {

// A pilot with so few bits, relative to values as large as `largest`, that the differences of half types from it have
// no more than kParts hold. Floats have three parts, which hold any difference.
template <class scalar_t>
__device__ __forceinline__ float coarse_pilot(float mean, float largest) {
  if constexpr (sizeof(scalar_t) > 2) return mean;
  const float power = __uint_as_float(__float_as_uint(fmaxf(largest, fabsf(mean))) & 0x7f800000u);
  const float magic = power * (3 << 14);  // its last bit is 2^-8 of `power`
  const float coarse = (mean + magic) - magic;
  return isfinite(coarse) ? coarse : mean;
}

// Lets the pilots of young regions follow the values of a chunk: a pilot becomes the mean of the pixels so far, about
// which they sum to nothing; only the last one, which stays, may be another.
template <class scalar_t, class Pixels>
__device__ __forceinline__ void meet_regions(const AccumulateParams& p, MatrixShared& shared, const MatrixPlace& own, unsigned chunk_begin,
                                             unsigned young, const LaneValues& s) {
  const unsigned mine = shared.region[chunk_begin + own.lane];
  float largest[2] = {0, 0};  // of each channel's values, whatever their region
#pragma unroll
  for (unsigned h = 0; h < 2; ++h) {
    if constexpr (sizeof(scalar_t) == 2) {
#pragma unroll
      for (unsigned j = 0; j < 8; ++j) largest[h] = fmaxf(largest[h], fabsf(s[j][h]));
#pragma unroll
      for (unsigned step = 1; step < 4; step *= 2) {
        largest[h] = fmaxf(largest[h], __shfl_xor_sync(kFullWarp, largest[h], step));
      }
    }
  }
#pragma unroll 1
  while (young != 0) {
    const unsigned region = __shfl_sync(kFullWarp, mine, __ffs(young) - 1);
    const unsigned members = __ballot_sync(kFullWarp, mine == region), n = __popc(members);
    young &= ~members;
    const unsigned before = shared.seen[own.warp][region], met = shared.met[region];
    if (!is_young(before, met)) continue;
    float2* const pilot = pilots_of(shared, own, region);
    const float old[2] = {before > 0 ? pilot->x : 0.f, before > 0 ? pilot->y : 0.f};
    float sum[2] = {0, 0};
#pragma unroll
    for (unsigned j = 0; j < 8; ++j) {
      const bool member = members >> Pixels::place(own.t, j) & 1;
#pragma unroll
      for (unsigned h = 0; h < 2; ++h) sum[h] += member ? s[j][h] - old[h] : 0.f;
    }
    float next[2], square = 0;
    double shift[2];
#pragma unroll
    for (unsigned h = 0; h < 2; ++h) {
#pragma unroll
      for (unsigned step = 1; step < 4; step *= 2) sum[h] += __shfl_xor_sync(kFullWarp, sum[h], step);
      const float mean = old[h] + sum[h] / (before + n);
      next[h] = is_young(before + n, met) ? mean : coarse_pilot<scalar_t>(mean, largest[h]);
      shift[h] = before > 0 && isfinite(next[h]) ? static_cast<double>(next[h]) - old[h] : 0.0;
      square += moved_square_sum<float>(0, 0, before, static_cast<float>(shift[h]));
    }
#pragma unroll
    for (unsigned step = 4; step < kWarpSize; step *= 2) square += __shfl_xor_sync(kFullWarp, square, step);
    __syncwarp();  // the old pilots have been read
    if (own.t == 0) {
      *pilot = make_float2(next[0], next[1]);
#pragma unroll
      for (unsigned h = 0; h < 2; ++h) {
        const unsigned m = 2 * own.g + h;
        if (m >= own.channels) break;
        double& cell = row_of(p, own, region)[m];
        cell = before > 0 ? moved_sum<double>(cell, before, shift[h]) : 0;
      }
    }
    if (own.lane == 0) {
      shared.moved[own.warp][region] += square;
      shared.seen[own.warp][region] = static_cast<uint16_t>(before + n);
    }
    __syncwarp();
  }
}

// A difference that is not finite would spoil the sums of all regions, as 0 times it is a NaN: the region's pilot, and so
// its mean, becomes a NaN instead, for good.
template <class Pixels>
__device__ __forceinline__ void keep_nonfinite_apart(MatrixShared& shared, const MatrixPlace& own, unsigned chunk_begin,
                                                     unsigned regions, LaneValues& d) {
#pragma unroll 1
  for (unsigned t = 0; t < 4; ++t) {  // one after the other: they may share a region
#pragma unroll
    for (unsigned j = 0; j < 8; ++j) {
      const unsigned region = shared.region[chunk_begin + Pixels::place(own.t, j)];
      float* const pilot = reinterpret_cast<float*>(pilots_of(shared, own, region));
#pragma unroll
      for (unsigned h = 0; h < 2; ++h) {
        if (own.t == t && region < regions && !isfinite(d[j][h])) pilot[h] = static_cast<float>(not_a_number());
      }
    }
    __syncwarp();
  }
#pragma unroll
  for (auto& of_pixel : d) {
#pragma unroll
    for (float& value : of_pixel) value = isfinite(value) ? value : 0.f;
  }
}

// Regions that are young again, in a long interval after few pixels: moves their pilots to their means.
__device__ __forceinline__ void center_pilots(const AccumulateParams& p, MatrixShared& shared, unsigned channel) {
  const MatrixPlace own(p, thread_again(), channel);
  const unsigned regions = static_cast<unsigned>(p.shape.regions);
#pragma unroll 1
  for (unsigned first = 0; first < regions; first += kWarpSize) {
    const unsigned of_lane = first + own.lane;
    unsigned votes = __ballot_sync(kFullWarp, of_lane < regions && shared.total[of_lane] > 0 &&
                                                  is_young(shared.total[of_lane], shared.met[of_lane]));
#pragma unroll 1
    for (; votes != 0; votes &= votes - 1) {
      const unsigned region = first + __ffs(votes) - 1, n = shared.total[region];
      float square = 0;
      if (own.lane < kWarpChannels && own.lane < own.channels) {
        double& cell = row_of(p, own, region)[own.lane];
        float& pilot = shared.pilot[region * own.stride + own.channel + own.lane];
        const float mean = pilot + static_cast<float>(cell / n);
        if (isfinite(mean)) {
          const double shift = static_cast<double>(mean) - pilot;
          square = static_cast<float>(moved_square_sum<double>(0, cell, n, shift));
          cell = moved_sum<double>(cell, n, shift);
          pilot = mean;
        }
      }
      square = warp_sum(square);
      if (own.lane == 0) shared.moved[own.warp][region] += square;
    }
  }
}

// Whether a region's pilot moves to its mean at the end of an interval.
__device__ __forceinline__ bool pilot_moves(const MatrixShared& shared, unsigned region, unsigned after) {
  return after >= 2 * shared.settled[region];
}

// Adds a pass's sums of an interval to the table, and moves pilots.
template <class scalar_t, int kProducts>
__device__ __forceinline__ void add_to_table(const AccumulateParams& p, MatrixShared& shared, unsigned channel,
                                             const RegionSums (&sums)[kProducts][2]) {
  const MatrixPlace own(p, thread_again(), channel);
  const unsigned regions = static_cast<unsigned>(p.shape.regions);
#pragma unroll
  for (int i = 0; i < kProducts; ++i) {
    if (i * kProductRegions >= regions) break;
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
      const unsigned region = i * kProductRegions + half * 8 + own.g;
      const unsigned n = region < regions ? shared.met[region] : 0;
      float square = 0;
      if (n > 0) {
        const unsigned after = shared.total[region] + n;
        double* const row = row_of(p, own, region) + 4 * own.t;
        double sum[4];  // of neighbouring channels
#pragma unroll
        for (unsigned e = 0; e < 4; ++e) {
          if (4 * own.t + e < own.channels) sum[e] = row[e] + sums[i][e % 2][2 * half + e / 2];
        }
        if (pilot_moves(shared, region, after)) {
          const float inverse = 1.f / after, spread = sqrtf(static_cast<float>(shared.scatter[region]) * inverse / p.shape.channels);
          float* const pilot = shared.pilot + region * own.stride + own.channel + 4 * own.t;
#pragma unroll
          for (unsigned e = 0; e < 4; ++e) {
            if (4 * own.t + e >= own.channels) break;
            const float old = pilot[e], mean = old + static_cast<float>(sum[e]) * inverse;
            const float next = coarse_pilot<scalar_t>(mean, spread);
            if (!isfinite(next)) continue;
            const double shift = static_cast<double>(next) - old;
            square += static_cast<float>(moved_square_sum<double>(0, sum[e], after, shift));
            sum[e] = moved_sum<double>(sum[e], after, shift);
            pilot[e] = next;
          }
        }
#pragma unroll
        for (unsigned e = 0; e < 4; ++e) {
          if (4 * own.t + e < own.channels) row[e] = sum[e];
        }
      }
      square += __shfl_xor_sync(kFullWarp, square, 1);
      square += __shfl_xor_sync(kFullWarp, square, 2);
      if (n > 0 && own.t == 0) shared.moved[own.warp][region] += square;
    }
  }
}

// Ends an interval: what it has found of each region joins what was known. All threads pass barriers before and after.
__device__ __forceinline__ void close_interval(MatrixShared& shared, unsigned regions) {
  __syncthreads();
  for (unsigned region = thread_again(); region < regions; region += blockDim.x) {
    const unsigned n = shared.met[region], after = shared.total[region] + n;
    if (n == 0) continue;
    double scatter = shared.scatter[region];
#pragma unroll
    for (unsigned chunk = 0; chunk < 2; ++chunk) {
      scatter += shared.added[chunk][region];
      shared.added[chunk][region] = 0;
    }
#pragma unroll 1
    for (unsigned w = 0; w < blockDim.x / kWarpSize; ++w) {
      scatter += shared.moved[w][region];
      shared.moved[w][region] = 0;
    }
    shared.scatter[region] = scatter;
    shared.total[region] = after;
    if (pilot_moves(shared, region, after)) shared.settled[region] = after;
  }
  __syncthreads();
}

// Makes moments of the block's sums.
__device__ __forceinline__ void write_table(const AccumulateParams& p, MatrixShared& shared) {
  const int64_t N = p.shape.regions, M = p.shape.channels;
  const MatrixPlace own(p, thread_again(), 0);
  for (unsigned region = own.warp; region < N; region += blockDim.x / kWarpSize) {
    const int64_t cell = blockIdx.x * N + region;
    const unsigned n = shared.total[region];
    if (own.lane == 0) p.partial_count[cell] = n;
    if (n == 0) continue;
    const double inverse_n = 1.0 / n;
    double* const row = p.partial_mean + cell * M;
    double between = 0;
    for (unsigned m = own.lane; m < M; m += kWarpSize) {
      const double sum = row[m];
      between = centered_square_sum(between, sum, inverse_n);
      row[m] = shared.pilot[region * own.stride + m] + sum * inverse_n;
    }
    between = warp_sum(between);
    if (own.lane == 0) p.partial_scatter[cell] = at_least_zero(shared.scatter[region] + between);
  }
}

}  // namespace cas_ext
