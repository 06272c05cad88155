// accumulate_small_kernel: N <= kRegions, M <= kChannels (at most 4): every sum lives in registers.
// Grid: B * splits blocks of kSmallThreads. A block owns pixels_per_split consecutive pixels of one image.
// Thread: V neighbouring pixels of each row of the block's tile, kSmallPixels in all.
// Bytes:  reads P (M e + l) per image once; writes one table per block, the result where an image has one block.
// Why:    no shared-memory traffic per pixel, and no atomics: thread, warp and block partials merge in a fixed order.
#pragma once

#include "softmax.cuh"

namespace cas_ext {

constexpr int kSmallThreads = 256;
constexpr int kSmallWarps = kSmallThreads / kWarpSize;
constexpr int kSmallPixels = 64;  // per thread: bounds float sums to 64 terms, and the block's partial table to < 1%

// Blocks that a multiprocessor must be able to hold: as many as the registers allow without spilling. exp() of double
// needs more of them.
template <class scalar_t>
constexpr int small_blocks(int cells, bool softmax) {
  const int few = softmax && std::is_same_v<scalar_t, double> ? 2 : 3;
  return cells <= 4 ? few : cells <= 8 ? 2 : 1;
}

constexpr size_t small_shared_bytes(int regions, int channels) {
  return kSmallWarps * regions * (channels + 1) * sizeof(double) + kSmallWarps * sizeof(long long);
}

// What one thread knows of one region: sums about a pilot value.
template <class acc_t, int kChannels>
struct PilotSums {
  int n;
  acc_t pilot[kChannels], sum[kChannels], square;  // square: over all channels

  __device__ __forceinline__ void add(bool member, const acc_t (&s)[kChannels]) {
    const bool first = member && n == 0;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      pilot[m] = first ? s[m] : pilot[m];
      const acc_t d = member ? s[m] - pilot[m] : acc_t(0);
      sum[m] += d;
      square += d * d;
    }
    n += member;
  }

  // Moves the pilot to the mean so far: an outlier met first must not cost digits for the rest.
  __device__ __forceinline__ void rebase() {
    if (n == 0) return;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      const acc_t moved = pilot[m] + sum[m] / n, shift = moved - pilot[m];
      square -= shift * (2 * sum[m] - n * shift);
      sum[m] -= n * shift;
      pilot[m] = moved;
    }
  }
};

template <class scalar_t, int kRegions, int kChannels, int V, bool kInterleaved, bool kSoftmax>
__global__ void __launch_bounds__(kSmallThreads, small_blocks<scalar_t>(kRegions* kChannels, kSoftmax))
    accumulate_small_kernel(AccumulateParams p) {
  using acc_t = acc_of<scalar_t>;
  const int64_t N = p.shape.regions, M = p.shape.channels, P = p.shape.pixels;
  const auto [b, split] = block_place(p.splits);
  const int64_t begin = split * p.pixels_per_split;
  const int64_t end = begin + p.pixels_per_split < P ? begin + p.pixels_per_split : P;

  PilotSums<acc_t, kChannels> own[kRegions] = {};
  long long invalid = kNoPixel;
  int round = 0, next_rebase = 1;
  for (int64_t x = begin + static_cast<int64_t>(threadIdx.x) * V; x < end; x += kSmallThreads * V) {
    int32_t region[V];
    load_regions<V>(p.target, N, b * P + x, region);
    acc_t s[V][kChannels];
    load_pixels<scalar_t, kInterleaved>(p.input, b, x, M, kSoftmax ? minus_infinity<acc_t>() : acc_t(0), s);
    if constexpr (kSoftmax) {
#pragma unroll
      for (int k = 0; k < V; ++k) softmax(s[k]);
    }
    if (round == next_rebase) {  // after 1, 2, 4, ... rounds
      next_rebase *= 2;
#pragma unroll
      for (int i = 0; i < kRegions; ++i) own[i].rebase();
    }
    ++round;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (region[k] == kInvalid && x + k < invalid) invalid = x + k;
#pragma unroll
      for (int i = 0; i < kRegions; ++i) own[i].add(region[k] == i, s[k]);
    }
  }

  // Threads to block, in double: n and mean first, then the scatter about that mean.
  double* scratch = reinterpret_cast<double*>(shared_arena());
  long long* scratch_min = reinterpret_cast<long long*>(scratch + kSmallWarps * kRegions * (kChannels + 1));
  double total[kRegions * (kChannels + 1)];
#pragma unroll
  for (int i = 0; i < kRegions; ++i) {
    total[i * (kChannels + 1)] = own[i].n;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      total[i * (kChannels + 1) + 1 + m] = own[i].n * static_cast<double>(own[i].pilot[m]) + own[i].sum[m];
    }
  }
  block_sum<kSmallWarps>(total, scratch);
  invalid = block_min<kSmallWarps>(invalid, scratch_min);
  double scatter[kRegions];
#pragma unroll
  for (int i = 0; i < kRegions; ++i) {
    double* region = total + i * (kChannels + 1);  // n, then the sums, which become means
    const double n = own[i].n, inverse_n = n > 0 ? 1 / n : 0, inverse_total = region[0] > 0 ? 1 / region[0] : 0;
    scatter[i] = own[i].square;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      region[1 + m] *= inverse_total;
      scatter[i] = centered_square_sum(scatter[i], own[i].sum[m], inverse_n) +
                   between_scatter(n, own[i].pilot[m] + own[i].sum[m] * inverse_n, region[1 + m]);
    }
  }
  block_sum<kSmallWarps>(scatter, scratch);  // free again: block_min has a barrier
  if (threadIdx.x != 0) return;
  // Complete even for absent regions and bad labels, as merge_kernel would leave it: the only block of an image writes
  // the image's moments.
  const double poison = invalid == kNoPixel ? 0 : not_a_number();
  p.partial_invalid[blockIdx.x] = invalid;
#pragma unroll
  for (int i = 0; i < kRegions; ++i) {
    if (i >= N) break;
    const int64_t cell = blockIdx.x * N + i;
    p.partial_count[cell] = static_cast<int64_t>(total[i * (kChannels + 1)]);
    p.partial_scatter[cell] = at_least_zero(scatter[i]) + poison;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      if (m < M) p.partial_mean[cell * M + m] = total[i * (kChannels + 1) + 1 + m] + poison;
    }
  }
}

}  // namespace cas_ext
