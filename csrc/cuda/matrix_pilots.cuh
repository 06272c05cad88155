// The pilots of accumulate_matrix, which follow the means of their regions, and the table of sums about them. What is
// here runs seldom: for regions that a block has hardly met, and once per interval.
#pragma once

#include "matrix_values.cuh"

namespace cas_ext {

// Gives regions that the block meets for the first time a pilot, a value of theirs, and lets the pilots of young ones
// follow the values of a chunk, to the mean of the pixels so far. It adds the latter to the table's sums, and returns
// which pixels those are: products must not add them again.
template <int kLane>
__device__ __forceinline__ unsigned meet_regions(const AccumulateParams& p, MatrixShared& shared, unsigned channel,
                                                 unsigned chunk_begin, unsigned young, const LaneValues<kLane>& s) {
  const MatrixPlace<kLane> own(p, thread_again(), channel);
  const unsigned regions = static_cast<unsigned>(p.shape.regions);
  const unsigned mine = shared.region[chunk_begin + own.lane];
  const bool leads = (__match_any_sync(kFullWarp, mine) & ((1u << own.lane) - 1)) == 0;
  const bool is_new = mine < regions && leads && shared.total[mine] == 0 && shared.seen[own.warp][mine] == 0;
  const unsigned first = __ballot_sync(kFullWarp, is_new);
#pragma unroll
  for (unsigned j = 0; j < 8; ++j) {
    const unsigned place = lane_pixel<float>(own.t, j);
    if (!(first >> place & 1)) continue;
    const unsigned region = shared.region[chunk_begin + place];
    float* const pilot = pilots_of(shared, own, region);
#pragma unroll
    for (unsigned h = 0; h < kLane; ++h) {
      pilot[h] = s[j][h];
      if (kLane * own.g + h < own.channels) row_of(p, own, region)[kLane * own.g + h] = 0;
    }
  }
  __syncwarp();
  if (is_new && !is_young(0, shared.met[mine])) shared.seen[own.warp][mine] = 1;
  __syncwarp();
  unsigned met = 0;
#pragma unroll 1
  while (young != 0) {
    const unsigned region = __shfl_sync(kFullWarp, mine, __ffs(young) - 1);
    const unsigned members = __ballot_sync(kFullWarp, mine == region), n = __popc(members);
    young &= ~members;
    const unsigned before = shared.seen[own.warp][region];
    if (!is_young(before, shared.met[region])) continue;
    met |= members;
    float* const pilot = pilots_of(shared, own, region);
    float old[kLane], sum[kLane] = {};  // sum: about the old pilot
#pragma unroll
    for (unsigned h = 0; h < kLane; ++h) {
      old[h] = pilot[h];
#pragma unroll
      for (unsigned j = 0; j < 8; ++j) sum[h] += members >> lane_pixel<float>(own.t, j) & 1 ? s[j][h] - old[h] : 0.f;
#pragma unroll
      for (unsigned step = 1; step < 4; step *= 2) sum[h] += __shfl_xor_sync(kFullWarp, sum[h], step);
    }
    __syncwarp();  // all lanes have read
    float square = 0;
#pragma unroll
    for (unsigned h = 0; h < kLane; ++h) {
      const unsigned m = kLane * own.g + h;
      if (own.t != 0 || m >= own.channels) continue;
      double& cell = row_of(p, own, region)[m];
      const double known = cell;
      const float next = old[h] + (static_cast<float>(known) + sum[h]) / (before + n);
      const double shift = isfinite(next) ? static_cast<double>(next) - old[h] : 0.0;
      square += static_cast<float>(moved_square_sum<double>(0, known, before, shift));
      cell = isfinite(next) ? moved_sum<double>(known + sum[h], before + n, shift) : known;
      pilot[h] = next;
    }
    square = warp_sum(square);
    if (own.lane == 0) {
      shared.moved[own.warp][region] += square;
      shared.seen[own.warp][region] = static_cast<uint16_t>(before + n);
    }
    __syncwarp();
  }
  return met;
}

// A difference that is not finite, or has no parts, would spoil the sums of all regions, as 0 times it is a NaN: the
// region's pilot, and so its mean, becomes a NaN instead, for good.
template <int kLane>
__device__ __forceinline__ void keep_nonfinite_apart(const AccumulateParams& p, MatrixShared& shared, unsigned channel,
                                                     unsigned chunk_begin, LaneValues<kLane>& d) {
  const MatrixPlace<kLane> own(p, thread_again(), channel);
  __syncwarp();  // pilots have been read
#pragma unroll 1
  for (unsigned t = 0; t < 4; ++t) {  // one after the other: they may share a region
#pragma unroll
    for (unsigned j = 0; j < 8; ++j) {
      const unsigned region = shared.region[chunk_begin + lane_pixel<float>(own.t, j)];
      float* const pilot = pilots_of(shared, own, region);
#pragma unroll
      for (unsigned h = 0; h < kLane; ++h) {
        if (own.t != t || region >= p.shape.regions || has_parts(d[j][h])) continue;
        pilot[h] = static_cast<float>(not_a_number());
      }
    }
    __syncwarp();
  }
#pragma unroll
  for (auto& of_pixel : d) {
#pragma unroll
    for (float& value : of_pixel) value = has_parts(value) ? value : 0.f;
  }
}

// Adds a warp's run of uniform chunks to the table, if there is one, and begins another.
template <int kLane>
__device__ __forceinline__ void end_run(const AccumulateParams& p, MatrixShared& shared, unsigned channel,
                                        unsigned next_region) {
  const unsigned thread = thread_again();
  const MatrixPlace<kLane> own(p, thread, channel);
  const unsigned region = shared.run_region[own.warp];
  if (region < p.shape.regions) {
    float* const pilot = pilots_of(shared, own, region);
    const float square = warp_sum(shared.run_of(kLane, thread));
    __syncwarp();  // all lanes have read pilots, and which region it is
#pragma unroll
    for (unsigned h = 0; h < kLane; ++h) {
      float sum = shared.run_of(h, thread);
#pragma unroll
      for (unsigned step = 1; step < 4; step *= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
      if (own.t != 0 || kLane * own.g + h >= own.channels) continue;
      if (isfinite(sum)) {
        row_of(p, own, region)[kLane * own.g + h] += sum;
      } else {
        pilot[h] = static_cast<float>(not_a_number());
      }
    }
    if (own.lane == 0) shared.moved[own.warp][region] += square;
  } else {
    __syncwarp();
  }
#pragma unroll
  for (unsigned row = 0; row <= kLane; ++row) shared.run_of(row, thread) = 0;
  if (own.lane == 0) shared.run_region[own.warp] = next_region;
  __syncwarp();
}

// Whether a region's pilot moves to its mean at the end of an interval.
__device__ __forceinline__ bool pilot_moves(const MatrixShared& shared, unsigned region, unsigned after) {
  return after >= 2 * shared.settled[region];
}

// Adds a pass's sums of an interval to the table, and moves pilots.
template <int kProducts, int kLane>
__device__ __forceinline__ void add_to_table(const AccumulateParams& p, MatrixShared& shared, unsigned channel,
                                             const RegionSums (&sums)[kProducts][kLane]) {
  const MatrixPlace<kLane> own(p, thread_again(), channel);
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
        double* const row = row_of(p, own, region) + 2 * kLane * own.t;
        float* const pilot = shared.pilots() + region * own.stride + own.channel + 2 * kLane * own.t;
        const bool moves = pilot_moves(shared, region, after);
        const float inverse = moves ? 1.f / after : 0.f;
#pragma unroll
        for (unsigned e = 0; e < 2 * kLane; ++e) {  // neighbouring channels
          if (2 * kLane * own.t + e >= own.channels) break;
          double sum = row[e] + sums[i][e % kLane][2 * half + e / kLane];
          if (moves) {
            const float old = pilot[e], next = old + static_cast<float>(sum) * inverse;
            const double shift = isfinite(next) ? static_cast<double>(next) - old : 0.0;
            square += static_cast<float>(moved_square_sum<double>(0, sum, after, shift));
            sum = moved_sum<double>(sum, after, shift);
            pilot[e] = next;
          }
          row[e] = sum;
        }
      }
      square += __shfl_xor_sync(kFullWarp, square, 1);
      square += __shfl_xor_sync(kFullWarp, square, 2);
      if (n > 0 && own.t == 0) shared.moved[own.warp][region] += square;
    }
  }
}

// Ends an interval: what it has found of each region joins what was known, and the next one begins. All threads pass
// barriers before and after.
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
  if (thread_again() == 0) {
    shared.done += shared.length;
    shared.length = interval_length(shared.size, shared.done);
  }
  __syncthreads();
}

// Makes moments of the block's sums.
template <int kLane>
__device__ __forceinline__ void write_table(const AccumulateParams& p, MatrixShared& shared) {
  const int64_t N = p.shape.regions, M = p.shape.channels;
  const MatrixPlace<kLane> own(p, thread_again(), 0);
  for (unsigned region = own.warp; region < N; region += blockDim.x / kWarpSize) {
    const int64_t cell = block_again() * N + region;
    const unsigned n = shared.total[region];
    if (own.lane == 0) p.partial_count[cell] = n;
    if (n == 0) continue;
    const double inverse_n = 1.0 / n;
    double* const row = p.partial_mean + cell * M;
    double between = 0;
    for (unsigned m = own.lane; m < M; m += kWarpSize) {
      const double sum = row[m];
      between = centered_square_sum(between, sum, inverse_n);
      row[m] = shared.pilots()[region * own.stride + m] + sum * inverse_n;
    }
    between = warp_sum(between);
    if (own.lane == 0) p.partial_scatter[cell] = at_least_zero(shared.scatter[region] + between);
  }
}

}  // namespace cas_ext
