// merge_kernel: the blocks' partial tables (B, splits, N, M) -> count (B,N), mean (B,N,M), scatter (B,N). The last
// block of an image goes on to its loss. Grid:   B * N blocks of kMergeThreads; a block owns one region of one image.
// Thread: one channel, of up to 32 at a time, of every rows-th split; lanes: neighbouring channels.
// Bytes:  reads the partial means twice (from L2, then L1), where a block met the region; writes the moments once.
// Why:    mean first, then the scatter about it: the same result whatever the number of splits, to double rounding.
//         Sums over splits are trees, so that two regions of 4096 splits take no longer than a thousand of 98.
#pragma once

#include "finalise.cuh"

namespace cas_ext {

constexpr int kMergeThreads = 256;
constexpr int kMergeWarps = kMergeThreads / kWarpSize;

struct MergeShared {
  long long invalid[kMergeWarps], count[kMergeWarps];
  double scatter[kMergeWarps], sum[kMergeThreads];
  int last;
  FinaliseShared finalise;
};

__global__ void __launch_bounds__(kMergeThreads, 2) merge_kernel(AccumulateParams p) {
  const int64_t N = p.shape.regions, M = p.shape.channels, splits = p.splits;
  const auto [b, i] = block_place(N);
  auto& shared = *reinterpret_cast<MergeShared*>(shared_arena());
  const auto cell = [&](int64_t k) { return (b * splits + k) * N + i; };

  long long count[1] = {0}, invalid = kNoPixel;
  for (int64_t k = threadIdx.x; k < splits; k += kMergeThreads) {
    count[0] += p.partial_count[cell(k)];
    const long long other = p.partial_invalid[b * splits + k];
    invalid = other < invalid ? other : invalid;
  }
  block_sum<kMergeWarps>(count, shared.count);
  invalid = block_min<kMergeWarps>(invalid, shared.invalid);
  const double inverse_n = count[0] > 0 ? 1 / static_cast<double>(count[0]) : 0;
  const double poison = invalid == kNoPixel ? 0 : not_a_number();

  const unsigned columns = static_cast<unsigned>(M < kWarpSize ? M : kWarpSize), rows = kMergeThreads / columns;
  const unsigned row = threadIdx.x / columns;
  double scatter[1] = {0};
  for (int64_t m0 = 0; m0 < M; m0 += columns) {
    const int64_t m = m0 + threadIdx.x % columns, end = row < rows && m < M ? splits : 0;
    double mean = 0;
#pragma unroll 4
    for (int64_t k = row; k < end; k += rows) {
      const int64_t part = p.partial_count[cell(k)];
      if (part > 0) mean += static_cast<double>(part) * inverse_n * p.partial_mean[cell(k) * M + m];
    }
    mean = column_sum(mean, rows, columns, shared.sum);
    if (row == 0 && m < M) p.mean[(b * N + i) * M + m] = mean + poison;
#pragma unroll 4
    for (int64_t k = row; k < end; k += rows) {
      const int64_t part = p.partial_count[cell(k)];
      if (part > 0) scatter[0] += between_scatter(static_cast<double>(part), p.partial_mean[cell(k) * M + m], mean);
    }
  }
  for (int64_t k = threadIdx.x; k < splits; k += kMergeThreads) {
    if (p.partial_count[cell(k)] > 0) scatter[0] += p.partial_scatter[cell(k)];
  }
  block_sum<kMergeWarps>(scatter, shared.scatter);
  if (threadIdx.x == 0) {
    p.count[b * N + i] = count[0];
    p.scatter[b * N + i] = scatter[0] + poison;
    if (i == 0) p.first_invalid[b] = invalid;
  }
  if (!p.with_loss || !last_to_arrive(p.arrivals + b, p.launch, N, &shared.last)) return;
  p.finalise.wide ? finish_image<double, kManyRegions>(p, b, shared.finalise)
                  : finish_image<float, kManyRegions>(p, b, shared.finalise);
}

}  // namespace cas_ext
