// merge_kernel: the blocks' partial tables (B, splits, N, M) -> count (B,N), mean (B,N,M), scatter (B,N).
// Grid:  B * N blocks of kMergeThreads; a block owns one region of one image. Warp: one channel at a time; lanes:
// splits. Bytes: reads the partial means twice (from L2), writes the moments once. Why:   mean first, then the scatter
// about it: the same result whatever the number of splits, to double rounding.
#pragma once

#include "device.cuh"

namespace cas_ext {

constexpr int kMergeThreads = 128;
constexpr int kMergeWarps = kMergeThreads / kWarpSize;
constexpr size_t kMergeSharedBytes = kMergeWarps * (sizeof(long long) * 2 + sizeof(double));

__global__ void __launch_bounds__(kMergeThreads, 1) merge_kernel(AccumulateParams p) {
  const int64_t N = p.shape.regions, M = p.shape.channels, splits = p.splits;
  const auto [b, i] = block_place(N);
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  long long* scratch_min = reinterpret_cast<long long*>(shared_arena());
  long long* scratch_count = scratch_min + kMergeWarps;
  double* scratch = reinterpret_cast<double*>(scratch_count + kMergeWarps);

  long long count[1] = {0}, invalid = kNoPixel;
  for (int64_t k = threadIdx.x; k < splits; k += kMergeThreads) {
    count[0] += p.partial_count[(b * splits + k) * N + i];
    const long long other = p.partial_invalid[b * splits + k];
    invalid = other < invalid ? other : invalid;
  }
  block_sum<kMergeWarps>(count, scratch_count);
  invalid = block_min<kMergeWarps>(invalid, scratch_min);
  const double inverse_n = count[0] > 0 ? 1 / static_cast<double>(count[0]) : 0;
  const double poison = invalid == kNoPixel ? 0 : not_a_number();

  double scatter[1] = {0};
  for (int64_t m = warp; m < M; m += kMergeWarps) {
    double mean = 0;
    for (int64_t k = lane; k < splits; k += kWarpSize) {
      const int64_t cell = (b * splits + k) * N + i, part = p.partial_count[cell];
      if (part > 0) mean += static_cast<double>(part) * inverse_n * p.partial_mean[cell * M + m];
    }
    mean = warp_sum(mean);
    for (int64_t k = lane; k < splits && splits > 1; k += kWarpSize) {
      const int64_t cell = (b * splits + k) * N + i, part = p.partial_count[cell];
      if (part > 0) scatter[0] += between_scatter(static_cast<double>(part), p.partial_mean[cell * M + m], mean);
    }
    if (lane == 0) p.mean[(b * N + i) * M + m] = mean + poison;
  }
  for (int64_t k = threadIdx.x; k < splits; k += kMergeThreads) {
    const int64_t cell = (b * splits + k) * N + i;
    if (p.partial_count[cell] > 0) scatter[0] += p.partial_scatter[cell];
  }
  block_sum<kMergeWarps>(scatter, scratch);
  if (threadIdx.x != 0) return;
  p.count[b * N + i] = count[0];
  p.scatter[b * N + i] = scatter[0] + poison;
  if (i == 0) p.first_invalid[b] = invalid;
}

}  // namespace cas_ext
