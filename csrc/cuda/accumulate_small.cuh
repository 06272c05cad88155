// accumulate_small_kernel: N <= kRegions, M <= kChannels (at most 4): every sum lives in registers.
// Grid:   B * splits blocks of kSmallThreads. A block owns pixels_per_split consecutive pixels of one image.
// Thread: V neighbouring pixels of each row of the block's share, at most kSmallPixels in all.
// Bytes:  reads P (M e + l) per image once; writes one table per block, the result where an image has one block. Of a
//         few blocks, the last one to finish reads the tables and writes the result. So it does with the loss.
// Why:    no shared memory per pixel, and no atomics on what is summed: threads, warps, blocks merge in a fixed order.
#pragma once

#include "finalise.cuh"
#include "select.h"
#include "softmax.cuh"

namespace cas_ext {

constexpr int kSmallThreads = 256;
constexpr int kSmallWarps = kSmallThreads / kWarpSize;
constexpr int kSmallPixels = 256;  // per thread: float sums of no more terms, about pilots that follow the mean

// Blocks that a multiprocessor must be able to hold: as many as the registers allow without spilling. exp() of double
// needs more of them.
template <class scalar_t>
constexpr int small_blocks(int cells, bool softmax) {
  const bool wide = std::is_same_v<scalar_t, double>;
  const int few = wide && softmax ? 2 : 3, some = wide ? 1 : 2;
  return cells <= 4 ? few : cells <= 8 ? some : 1;
}

struct SmallShared {
  double sum[kSmallWarps * kSmallLimit * (kSmallLimit + 1)];
  long long invalid[kSmallWarps];
  int last;
  FinaliseShared finalise;
};

// Moments of some pixels, those of a thread, of a block or of an image.
template <int kRegions, int kChannels>
struct SmallMoments {
  double n[kRegions], mean[kRegions][kChannels], scatter[kRegions];
  long long invalid;  // the first pixel whose label is out of range

  // What the threads of the block have together, for every thread: mean first, then the scatter about it.
  __device__ __forceinline__ void merge_over_block(SmallShared& shared) {
    double total[kRegions * (kChannels + 1)];
#pragma unroll
    for (int i = 0; i < kRegions; ++i) {
      total[i * (kChannels + 1)] = n[i];
#pragma unroll
      for (int m = 0; m < kChannels; ++m) total[i * (kChannels + 1) + 1 + m] = n[i] * mean[i][m];
    }
    block_sum<kSmallWarps>(total, shared.sum);
    invalid = block_min<kSmallWarps>(invalid, shared.invalid);
#pragma unroll
    for (int i = 0; i < kRegions; ++i) {
      const double all = total[i * (kChannels + 1)], inverse = all > 0 ? 1 / all : 0;
#pragma unroll
      for (int m = 0; m < kChannels; ++m) {
        const double merged = total[i * (kChannels + 1) + 1 + m] * inverse;
        scatter[i] += between_scatter(n[i], mean[i][m], merged);
        mean[i][m] = merged;
      }
      n[i] = all;
    }
    block_sum<kSmallWarps>(scatter, shared.sum);  // free again: block_min has a barrier
  }
};

// What one thread knows of one region: sums about a pilot value.
template <class acc_t, int kChannels>
struct PilotSums {
  int n;
  acc_t pilot[kChannels], sum[kChannels], square;  // square: over all channels

  // The first pixel of region i is its first pilot.
  template <int V>
  __device__ __forceinline__ void meet(int i, const int32_t (&region)[V], const acc_t (&s)[V][kChannels]) {
    if (n > 0) return;
    bool found = false;
#pragma unroll
    for (int k = 0; k < V; ++k) found = found || region[k] == i;
    if (!found) return;
#pragma unroll
    for (int k = V - 1; k >= 0; --k) {
#pragma unroll
      for (int m = 0; m < kChannels; ++m) pilot[m] = region[k] == i ? s[k][m] : pilot[m];
    }
  }

  // Moves the pilot to the mean so far: an outlier met first must not cost digits for the rest.
  __device__ __forceinline__ void rebase() {
    if (n == 0) return;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      const acc_t moved = pilot[m] + sum[m] / n, shift = moved - pilot[m];
      square = moved_square_sum<acc_t>(square, sum[m], n, shift);
      sum[m] = moved_sum<acc_t>(sum[m], n, shift);
      pilot[m] = moved;
    }
  }
};

// Adds a pixel to its region, all of which have met it.
template <class acc_t, int kRegions, int kChannels>
__device__ __forceinline__ void add_pixel(PilotSums<acc_t, kChannels> (&regions)[kRegions], int32_t region,
                                          const acc_t (&s)[kChannels]) {
  acc_t d[kChannels], square = 0;  // from the pilot of its region
#pragma unroll
  for (int m = 0; m < kChannels; ++m) {
    acc_t pilot = regions[0].pilot[m];
#pragma unroll
    for (int i = 1; i < kRegions; ++i) pilot = region == i ? regions[i].pilot[m] : pilot;
    d[m] = s[m] - pilot;
    square += d[m] * d[m];
  }
#pragma unroll
  for (int i = 0; i < kRegions; ++i) {
    if (region != i) continue;
    ++regions[i].n;
    regions[i].square += square;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) regions[i].sum[m] += d[m];
  }
}

template <class scalar_t, int kRegions, int kChannels, int V, bool kInterleaved, bool kSoftmax>
__global__ void __launch_bounds__(kSmallThreads, small_blocks<scalar_t>(kRegions* kChannels, kSoftmax))
    accumulate_small_kernel(AccumulateParams p) {
  using acc_t = acc_of<scalar_t>;
  const int64_t N = p.shape.regions, M = p.shape.channels, P = p.shape.pixels;
  const auto [b, split] = block_place(p.splits);
  const int64_t begin = split * p.pixels_per_split;
  const int64_t end = begin + p.pixels_per_split < P ? begin + p.pixels_per_split : P;

  const scalar_t* image = static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride;
  constexpr bool kClaimsLate = !kSoftmax;  // while the first loads are under way, if registers allow
  if (!kClaimsLate) begin_arrivals(p, b, split);
  PixelPacks<scalar_t, kInterleaved, V, kChannels, kSoftmax> packs;
  packs.clear();
  PilotSums<acc_t, kChannels> own[kRegions] = {};
  long long invalid = kNoPixel;
  int round = 0, next_rebase = 1;
  for (int64_t x = begin + static_cast<int64_t>(threadIdx.x) * V; x < end; x += kSmallThreads * V) {
    packs.load(image + (kInterleaved ? x * p.input.pixel_stride : x), p.input.channel_stride, M);
    int32_t region[V];
    load_regions<V>(p.target, N, b * P + x, region);
    if (kClaimsLate && round == 0) begin_arrivals(p, b, split);
    acc_t s[V][kChannels];
    packs.unpack(s);
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
    for (int i = 0; i < kRegions; ++i) own[i].meet(i, region, s);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      add_pixel(own, region[k], s[k]);
    }
    bool valid = true;
#pragma unroll
    for (int k = 0; k < V; ++k) valid = valid && region[k] != kInvalid;
    if (!valid && invalid == kNoPixel) {
#pragma unroll
      for (int k = V - 1; k >= 0; --k) invalid = region[k] == kInvalid ? x + k : invalid;
    }
  }

  if (kClaimsLate && begin >= end) begin_arrivals(p, b, split);

  SmallMoments<kRegions, kChannels> found;
  found.invalid = invalid;
#pragma unroll
  for (int i = 0; i < kRegions; ++i) {
    const double n = own[i].n, inverse_n = n > 0 ? 1 / n : 0;
    found.n[i] = n;
    found.scatter[i] = own[i].square;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      found.scatter[i] = centered_square_sum(found.scatter[i], static_cast<double>(own[i].sum[m]), inverse_n);
      found.mean[i][m] = own[i].pilot[m] + own[i].sum[m] * inverse_n;
    }
  }
  auto& shared = *reinterpret_cast<SmallShared*>(shared_arena());
  for (bool whole = p.splits == 1;; whole = true) {  // the block's pixels, then those of the image
    found.merge_over_block(shared);
    const int64_t table = whole ? b : blockIdx.x;
    if (threadIdx.x == 0) {
      // Complete even for absent regions, and poisoned by labels out of range, where it is the result.
      const double poison = whole && found.invalid != kNoPixel ? not_a_number() : 0;
      (whole ? p.first_invalid : p.partial_invalid)[table] = found.invalid;
#pragma unroll
      for (int i = 0; i < kRegions; ++i) {
        if (i >= N) break;
        const int64_t cell = table * N + i;
        (whole ? p.count : p.partial_count)[cell] = static_cast<int64_t>(found.n[i]);
        (whole ? p.scatter : p.partial_scatter)[cell] = at_least_zero(found.scatter[i]) + poison;
#pragma unroll
        for (int m = 0; m < kChannels; ++m) {
          if (m < M) (whole ? p.mean : p.partial_mean)[cell * M + m] = found.mean[i][m] + poison;
        }
      }
    }
    if (whole) break;
    if (p.launch == 0) return;  // merge_kernel follows
    if (!last_to_arrive(p.arrivals + b, p.launch, p.splits, &shared.last)) return;
    found = {};  // of the thread's split
    found.invalid = kNoPixel;
    if (threadIdx.x >= p.splits) continue;
    const int64_t part = b * p.splits + threadIdx.x;
    found.invalid = p.partial_invalid[part];
#pragma unroll
    for (int i = 0; i < kRegions; ++i) {
      if (i >= N) break;
      found.n[i] = static_cast<double>(p.partial_count[part * N + i]);
      found.scatter[i] = p.partial_scatter[part * N + i];
#pragma unroll
      for (int m = 0; m < kChannels; ++m) {
        if (m < M) found.mean[i][m] = p.partial_mean[(part * N + i) * M + m];
      }
    }
  }
  if (p.with_loss) finish_image<acc_t, 1>(p, b, shared.finalise);
}

}  // namespace cas_ext
