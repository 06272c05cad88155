// finalise_kernel: moments -> loss, uniformer, discriminator (B) and scale (B,N), center, offset (B,N,M); finish_image:
// the same within the kernel that wrote an image's moments.
// Grid:   B blocks of kFinaliseThreads; a block owns one image.
// Thread: one channel, of up to 32 at a time, of every rows-th region; lanes: neighbouring channels.
// Bytes:  the tables only; the means are read twice, from L1 or L2.
// Why:    the centred form of the pairwise distances is O(N M).
#pragma once

#include "arrival.cuh"

namespace cas_ext {

constexpr int kFinaliseThreads = 256;
constexpr int kFinaliseWarps = kFinaliseThreads / kWarpSize;
constexpr int kManyRegions = 4;  // loads under way, for tables that one block takes long to read

struct FinaliseShared {
  double sum[kFinaliseWarps * 3], column[kFinaliseThreads];
  int last;
};

// Loss, uniformer and discriminator, to element `at` of each.
template <class acc_t>
__device__ __forceinline__ void put_terms(const FinaliseParams& p, int64_t at, const double (&terms)[3]) {
  static_cast<acc_t*>(p.loss)[at] = static_cast<acc_t>(terms[0]);
  static_cast<acc_t*>(p.uniformer)[at] = static_cast<acc_t>(terms[1]);
  static_cast<acc_t*>(p.discriminator)[at] = static_cast<acc_t>(terms[2]);
}

// One image, by the whole block. kUnroll: regions that a thread loads at a time; accumulate_small has few regions and
// no registers to spare.
template <class acc_t, int kUnroll>
__device__ __forceinline__ void finalise_image(const FinaliseParams& p, int64_t b, FinaliseShared& shared) {
  const int64_t N = p.shape.regions, M = p.shape.channels;
  const int64_t* count = p.count + b * N;
  const double* mean = p.mean + b * N * M;
  acc_t* scale = static_cast<acc_t*>(p.scale) + b * N;
  acc_t* center = static_cast<acc_t*>(p.center) + b * N * M;
  acc_t* offset = static_cast<acc_t*>(p.offset) + b * N * M;

  double sums[2] = {0, 0};  // regions present, uniformer
#pragma unroll kUnroll
  for (int64_t i = threadIdx.x; i < N; i += kFinaliseThreads) {
    const double n = static_cast<double>(count[i]);
    sums[0] += n > 0;
    sums[1] += uniformer_term(p.scatter[b * N + i], n);
    scale[i] = static_cast<acc_t>(n > 0 ? gradient_scale(p.alpha, 1 / n) : 0);
  }
  block_sum<kFinaliseWarps>(sums, shared.sum);
  const double regions = sums[0], uniformer = sums[1], push = gradient_push(p.alpha, p.pairs, regions);
  const double share = regions > 0 ? 1 / regions : 0;

  const unsigned columns = static_cast<unsigned>(M < kWarpSize ? M : kWarpSize), most = kFinaliseThreads / columns;
  const unsigned rows = N < most ? static_cast<unsigned>(N) : most;
  const unsigned row = threadIdx.x / columns;
  double mean_scatter[1] = {0};
#pragma unroll 1
  for (int64_t m0 = 0; m0 < M; m0 += columns) {
    const int64_t m = m0 + threadIdx.x % columns, end = row < rows && m < M ? N : 0;
    double mean_of_means = 0;
#pragma unroll kUnroll
    for (int64_t i = row; i < end; i += rows) mean_of_means += count[i] > 0 ? mean[i * M + m] : 0;
    mean_of_means = column_sum(mean_of_means, rows, columns, shared.column) * share;
#pragma unroll kUnroll
    for (int64_t i = row; i < end; i += rows) {
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
  __syncthreads();  // the sums before have been read
  block_sum<kFinaliseWarps>(mean_scatter, shared.sum);
  if (threadIdx.x != 0) return;
  const double separation = discriminator(mean_scatter[0], regions, p.pairs);
  const double terms[3] = {cas_loss(p.alpha, uniformer, separation), uniformer, separation};
  if (p.reduction == Reduction::kNone) return put_terms<acc_t>(p, b, terms);
  for (int k = 0; k < 3; ++k) p.terms[k * p.shape.images + b] = terms[k];
}

// Over images, whose terms are in memory.
template <class acc_t>
__device__ __forceinline__ void reduce_images(const FinaliseParams& p, FinaliseShared& shared) {
  const int64_t B = p.shape.images;
  double sums[3] = {0, 0, 0};
#pragma unroll 1
  for (int64_t b = threadIdx.x; b < B; b += kFinaliseThreads) {
#pragma unroll
    for (int k = 0; k < 3; ++k) sums[k] += p.terms[k * B + b];
  }
  block_sum<kFinaliseWarps>(sums, shared.sum);
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int k = 0; k < 3; ++k) sums[k] = reduced(p.reduction, sums[k], static_cast<double>(B));
  put_terms<acc_t>(p, 0, sums);
}

// The loss of image b, whose moments this block has written or seen complete; then of all images, if it is the last.
template <class acc_t, int kUnroll>
__device__ __forceinline__ void finish_image(const AccumulateParams& p, int64_t b, FinaliseShared& shared) {
  __syncthreads();  // the moments are written
  finalise_image<acc_t, kUnroll>(p.finalise, b, shared);
  if (p.finalise.reduction == Reduction::kNone || !reduces_last(p.shape)) return;
  if (last_to_arrive(p.arrivals + p.shape.images, p.launch, p.shape.images, &shared.last)) {
    reduce_images<acc_t>(p.finalise, shared);
  }
}

template <class acc_t>
__global__ void __launch_bounds__(kFinaliseThreads, 1) finalise_kernel(FinaliseParams p) {
  finalise_image<acc_t, kManyRegions>(p, blockIdx.x, *reinterpret_cast<FinaliseShared*>(shared_arena()));
}

template <class acc_t>
__global__ void __launch_bounds__(kFinaliseThreads, 1) reduce_kernel(FinaliseParams p) {
  reduce_images<acc_t>(p, *reinterpret_cast<FinaliseShared*>(shared_arena()));
}

}  // namespace cas_ext
