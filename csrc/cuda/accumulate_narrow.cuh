// accumulate_narrow_kernel: M <= kChannels (at most 8) and so few regions that each warp has a table of them in shared
// memory.
// Grid:   B * splits blocks of kNarrowThreads. A block owns pixels_per_split consecutive pixels of one image.
// Warp:   V neighbouring pixels a lane at a time, in registers. Of few runs of labels, one region after the other is
//         summed over the warp; of scattered labels, lanes of one label meet in the first of them.
// Bytes:  reads P (M e + l) per image once; writes one table per block, which merge_kernel reads.
// Why:    accumulate_table spends as much on a pixel's place in its tile for 4 channels as for 64.
#pragma once

#include "arrival.cuh"
#include "select.h"

namespace cas_ext {

// Blocks that a multiprocessor must be able to hold: as many as the registers of `words` 32-bit values a thread allow.
constexpr int narrow_blocks(int values, int bytes) {
  const int words = values * bytes / 4;
  return words <= 16 ? 6 : words <= 32 ? 5 : words <= 64 ? 4 : 3;
}

constexpr int kNarrowWarps = static_cast<int>(kNarrowThreads) / kWarpSize;
constexpr int kFewChanges = 7;  // of label between neighbouring pixels of a warp: one region after the other

// Of all pixels that a warp has seen: count (N); base (N, M), near the first pixels of each region; sum (N, M) of s -
// base and square (N, M) of its squares. In double, about a value as far off as the region's own pixels at most.
template <class acc_t>
struct NarrowTable {
  double *sum, *square;
  acc_t* base;
  int32_t* count;
  int64_t N, M;

  __device__ __forceinline__ NarrowTable(const Shape& s, int warp) : N(s.regions), M(s.channels) {
    const int64_t cells = N * M;
    double* doubles = reinterpret_cast<double*>(shared_arena());
    sum = doubles + warp * cells;
    square = doubles + (kNarrowWarps + warp) * cells;
    acc_t* bases = reinterpret_cast<acc_t*>(doubles + 2 * kNarrowWarps * cells);
    base = bases + warp * cells;
    count = reinterpret_cast<int32_t*>(bases + kNarrowWarps * cells) + warp * N;
  }

  // Adds to channel m of region i, whose base is `first` if it has none yet. sums(base, d, d2) says what.
  template <class Sums>
  __device__ __forceinline__ void add(int32_t i, int64_t m, acc_t first, Sums sums) {
    const int64_t cell = i * M + m;
    const bool fresh = count[i] == 0;
    const acc_t about = fresh ? first : base[cell];
    double d = 0, d2 = 0;
    sums(about, d, d2);
    if (fresh) base[cell] = about;
    sum[cell] = fresh ? d : sum[cell] + d;
    square[cell] = fresh ? d2 : square[cell] + d2;
  }
};

// One region after the other, summed over the warp: about its first pixel for a mean, then about that mean, rounded.
template <int kChannels, int V, class acc_t>
__device__ __forceinline__ void add_runs(NarrowTable<acc_t>& table, const int32_t (&region)[V],
                                         const acc_t (&s)[V][kChannels]) {
  const int lane = threadIdx.x % kWarpSize;
  unsigned pending = 0;  // of the lane's pixels
#pragma unroll
  for (int k = 0; k < V; ++k) pending |= static_cast<unsigned>(region[k] >= 0) << k;
  for (unsigned lanes; (lanes = __ballot_sync(kFullWarp, pending != 0)) != 0;) {
    const int first = __ffs(lanes) - 1;
    int32_t i = kIgnored;
#pragma unroll
    for (int k = V - 1; k >= 0; --k) i = (pending >> k & 1) != 0 ? region[k] : i;
    i = __shfl_sync(kFullWarp, i, first);
    int n = 0;
    unsigned mine = 0;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      n += __popc(__ballot_sync(kFullWarp, region[k] == i));
      mine |= static_cast<unsigned>(region[k] == i) << k;
    }
    pending &= ~mine;

    const double inverse = 1.0 / n;
    acc_t square = 0, own_center = 0, own_rest = 0;  // `own`: of channel `lane`
    double about_mean = 0;                           // what makes of the squares about `center` those about the mean
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      acc_t pilot = s[0][m];
#pragma unroll
      for (int k = V - 1; k >= 0; --k) pilot = (mine >> k & 1) != 0 ? s[k][m] : pilot;
      pilot = __shfl_sync(kFullWarp, pilot, first);
      acc_t shift = 0, rest = 0;
#pragma unroll
      for (int k = 0; k < V; ++k) shift += (mine >> k & 1) != 0 ? s[k][m] - pilot : acc_t(0);
      const acc_t center = pilot + warp_sum(shift) * static_cast<acc_t>(inverse);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const acc_t d = (mine >> k & 1) != 0 ? s[k][m] - center : acc_t(0);
        rest += d;
        square += d * d;
      }
      rest = warp_sum(rest);
      about_mean = centered_square_sum(about_mean, rest, inverse);
      own_center = lane == m ? center : own_center;
      own_rest = lane == m ? rest : own_rest;
    }
    const double scatter = warp_sum(square) + about_mean;
    if (lane < table.M) {
      table.add(i, lane, own_center, [&](acc_t base, double& d, double& d2) {
        const double mean = static_cast<double>(own_center) - base + own_rest * inverse;
        d = n * mean;
        d2 = d * mean + (lane == 0 ? scatter : 0);
      });
    }
    __syncwarp();
    if (lane == 0) table.count[i] += n;
    __syncwarp();
  }
}

// Lanes whose pixels have one label bring them to the first of them, which owns the region's row for the time being.
template <int kChannels, int V, class acc_t>
__device__ __forceinline__ void add_scattered(NarrowTable<acc_t>& table, const int32_t (&region)[V],
                                              const acc_t (&s)[V][kChannels]) {
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll 1
  for (int k = 0; k < V; ++k) {
    int32_t i = region[0];
    acc_t own[kChannels];
#pragma unroll
    for (int m = 0; m < kChannels; ++m) own[m] = s[0][m];
#pragma unroll
    for (int j = 1; j < V; ++j) {  // registers have no index
      i = j == k ? region[j] : i;
#pragma unroll
      for (int m = 0; m < kChannels; ++m) own[m] = j == k ? s[j][m] : own[m];
    }
    const unsigned peers = __match_any_sync(kFullWarp, i);
    const bool leads = i >= 0 && lane == __ffs(peers) - 1;
    const bool fresh = leads && table.count[i] == 0;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      if (m >= table.M) break;
      const acc_t about = leads && !fresh ? table.base[i * table.M + m] : own[m];
      double sum = 0, square = 0;
      for (unsigned waiting = leads ? peers : 0; __any_sync(kFullWarp, waiting != 0); waiting &= waiting - 1) {
        const acc_t value = __shfl_sync(kFullWarp, own[m], waiting != 0 ? __ffs(waiting) - 1 : lane);
        const double d = waiting != 0 ? static_cast<double>(value) - about : 0;
        sum += d;
        square += d * d;
      }
      if (leads) {
        table.add(i, m, own[m], [&](acc_t, double& d, double& d2) {
          d = sum;
          d2 = square;
        });
      }
    }
    if (leads) table.count[i] += __popc(peers);
    __syncwarp();
  }
}

template <class scalar_t, int kChannels, int V, bool kInterleaved>
__global__ void __launch_bounds__(kNarrowThreads,
                                  narrow_blocks(kChannels* V, static_cast<int>(sizeof(acc_of<scalar_t>))))
    accumulate_narrow_kernel(AccumulateParams p) {
  using acc_t = acc_of<scalar_t>;
  const int64_t N = p.shape.regions, M = p.shape.channels, P = p.shape.pixels;
  const auto [b, split] = block_place(p.splits);
  const int64_t begin = split * p.pixels_per_split;
  const int64_t end = begin + p.pixels_per_split < P ? begin + p.pixels_per_split : P;
  const scalar_t* image = static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  clear_arrivals(p, b, split);
  NarrowTable<acc_t> table(p.shape, warp);
  for (int64_t i = lane; i < N; i += kWarpSize) table.count[i] = 0;
  __syncwarp();

  long long invalid = kNoPixel;
  for (int64_t x0 = begin + static_cast<int64_t>(warp) * kWarpSize * V; x0 < end; x0 += kNarrowThreads * V) {
    const int64_t x = x0 + lane * V;
    int32_t region[V];
#pragma unroll
    for (int k = 0; k < V; ++k) region[k] = kIgnored;
    PixelPacks<scalar_t, kInterleaved, V, kChannels> packs(acc_t(0));
    if (x < end) {
      packs.load(image + (kInterleaved ? x * p.input.pixel_stride : x), p.input.channel_stride, M);
      load_regions<V>(p.target, N, b * P + x, region);
    }
    acc_t s[V][kChannels];
    packs.unpack(s);
    int changes = 0;
    const int32_t before = __shfl_up_sync(kFullWarp, region[V - 1], 1);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const bool changed = k > 0 ? region[k] != region[k - 1] : lane > 0 && region[0] != before;
      changes += __popc(__ballot_sync(kFullWarp, changed));
    }
    if (changes <= kFewChanges) {
      add_runs(table, region, s);
    } else {
      add_scattered(table, region, s);
    }
#pragma unroll
    for (int k = V - 1; k >= 0; --k) invalid = region[k] == kInvalid && x + k < invalid ? x + k : invalid;
  }

  // What the warps have, in their order.
  __syncthreads();
  for (int64_t i = threadIdx.x; i < N; i += kNarrowThreads) {
    int64_t count = 0;
    double scatter = 0;
#pragma unroll
    for (int w = 0; w < kNarrowWarps; ++w) count += NarrowTable<acc_t>(p.shape, w).count[i];
    const int64_t row = blockIdx.x * N + i;
    p.partial_count[row] = count;
    if (count == 0) continue;
    const double inverse_n = 1 / static_cast<double>(count);
    for (int64_t m = 0; m < M; ++m) {
      const int64_t cell = i * M + m;
      double mean = 0;
#pragma unroll
      for (int w = 0; w < kNarrowWarps; ++w) {
        const NarrowTable<acc_t> other(p.shape, w);
        if (other.count[i] > 0)
          mean += (other.count[i] * static_cast<double>(other.base[cell]) + other.sum[cell]) * inverse_n;
      }
#pragma unroll
      for (int w = 0; w < kNarrowWarps; ++w) {
        const NarrowTable<acc_t> other(p.shape, w);
        if (other.count[i] == 0) continue;
        const double n = other.count[i], own = other.base[cell] + other.sum[cell] / n;
        scatter += centered_square_sum(other.square[cell], other.sum[cell], 1 / n) + between_scatter(n, own, mean);
      }
      p.partial_mean[row * M + m] = mean;
    }
    p.partial_scatter[row] = at_least_zero(scatter);
  }
  __syncthreads();
  auto* scratch = reinterpret_cast<long long*>(shared_arena());  // the tables have been read
  invalid = block_min<kNarrowWarps>(invalid, scratch);
  if (threadIdx.x == 0) p.partial_invalid[blockIdx.x] = invalid;
}

}  // namespace cas_ext
