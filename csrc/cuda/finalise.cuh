// finalise_kernel: moments -> loss, uniformer, discriminator (B) and scale (B,N), center, offset (B,N,M).
// Grid:  B blocks of kFinaliseThreads; a block owns one image. Warp: one channel at a time; lanes: regions.
// Bytes: the tables only; the means are read three times, from L1 or L2.
// Why:   the centred form of the pairwise distances is O(N M), and a warp needs no shared memory for its channel.
#pragma once

#include "device.cuh"

namespace cas_ext {

constexpr int kFinaliseThreads = 256;
constexpr int kFinaliseWarps = kFinaliseThreads / kWarpSize;
constexpr size_t kFinaliseSharedBytes = kFinaliseWarps * 2 * sizeof(double);

template <class acc_t>
__global__ void __launch_bounds__(kFinaliseThreads, 1) finalise_kernel(FinaliseParams p) {
  const int64_t N = p.shape.regions, M = p.shape.channels, b = blockIdx.x;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int64_t* count = p.count + b * N;
  const double* mean = p.mean + b * N * M;
  acc_t* scale = static_cast<acc_t*>(p.scale) + b * N;
  acc_t* center = static_cast<acc_t*>(p.center) + b * N * M;
  acc_t* offset = static_cast<acc_t*>(p.offset) + b * N * M;
  double* scratch = reinterpret_cast<double*>(shared_arena());

  double sums[2] = {0, 0};  // regions present, uniformer
  for (int64_t i = threadIdx.x; i < N; i += kFinaliseThreads) {
    const double n = static_cast<double>(count[i]);
    sums[0] += n > 0;
    sums[1] += uniformer_term(p.scatter[b * N + i], n);
    scale[i] = static_cast<acc_t>(n > 0 ? gradient_scale(p.alpha, 1 / n) : 0);
  }
  block_sum<kFinaliseWarps>(sums, scratch);
  const double regions = sums[0], uniformer = sums[1], push = gradient_push(p.alpha, p.pairs, regions);
  const double share = regions > 0 ? 1 / regions : 0;

  double mean_scatter[1] = {0};
  for (int64_t m = warp; m < M; m += kFinaliseWarps) {
    double mean_of_means = 0;
    for (int64_t i = lane; i < N; i += kWarpSize) mean_of_means += count[i] > 0 ? mean[i * M + m] : 0;
    mean_of_means = warp_sum(mean_of_means) * share;
    for (int64_t i = lane; i < N; i += kWarpSize) {
      const double n = static_cast<double>(count[i]), own = mean[i * M + m];
      acc_t rounded = 0, rest = 0;
      if (n > 0) {
        const double inverse_n = 1 / n;
        mean_scatter[0] += between_scatter(1, own, mean_of_means);
        rounded = static_cast<acc_t>(own);
        const double shift = gradient_shift(push, own, mean_of_means, inverse_n);
        const double region_scale = static_cast<acc_t>(gradient_scale(p.alpha, inverse_n));
        rest = static_cast<acc_t>(centered_offset(region_scale, shift, rounded, own));
      }
      center[i * M + m] = rounded;
      offset[i * M + m] = rest;
    }
  }
  __syncthreads();  // block_sum above has read all of scratch
  block_sum<kFinaliseWarps>(mean_scatter, scratch);
  if (threadIdx.x != 0) return;
  const double separation = discriminator(mean_scatter[0], regions, p.pairs);
  static_cast<acc_t*>(p.uniformer)[b] = static_cast<acc_t>(uniformer);
  static_cast<acc_t*>(p.discriminator)[b] = static_cast<acc_t>(separation);
  static_cast<acc_t*>(p.loss)[b] = static_cast<acc_t>(cas_loss(p.alpha, uniformer, separation));
}

}  // namespace cas_ext
