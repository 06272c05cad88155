// accumulate_table_kernel: any N and M.
// Grid:  B * splits blocks of kTableThreads. A block owns pixels_per_split consecutive pixels of one image and the
// partial
//        table (N, M) of its own in global memory. It walks its pixels in tiles of kTablePixels.
// Warp:  kWarpChannels channels of the tile, held in registers; it loops over the tile's distinct labels (1 to 3 where
// masks
//        are coherent). Lane c adds channel c to the table: each cell has one owner, so no atomics.
// Bytes: reads P (M e + l) per image once; per tile and distinct label, reads and writes a row of the table (in L2).
//        With a softmax in front, the tile's logits are read twice, first for each pixel's largest and sum of
//        exponentials, then from L1 or L2; once if interleaved and M <= kBlockChannels, as they are staged then.
// Why:   a tile's scatter is taken about the tile's own mean, in registers, so nothing cancels; tiles merge by Chan's
// rule.
#pragma once

#include "softmax.cuh"

namespace cas_ext {

constexpr int kTableThreads = 128;
constexpr int kTableBlocks = 3;  // that a multiprocessor must be able to hold: 170 registers, no spills
constexpr int kTableWarps = kTableThreads / kWarpSize;
constexpr int kTablePixels = kTableThreads;                  // one label per thread
constexpr int kLanePixels = kTablePixels / kWarpSize;        // pixels of the tile in each lane's registers
constexpr int kWarpChannels = 8;                             // 8 x 4 registers of values
constexpr int kBlockChannels = kWarpChannels * kTableWarps;  // channels that the warps cover at a time
constexpr int kPaddedPixels = kTablePixels + 1;              // a row of staged values: no bank conflicts

struct TableShared {
  double scatter[kTablePixels][kTableWarps];  // of the j-th distinct label, from each warp
  long long scratch_min[kTableWarps];
  int32_t region[kTablePixels];
  int32_t label[kTablePixels];  // the j-th distinct label and its pixels
  int32_t count[kTablePixels];
  int32_t labels;  // how many distinct labels
};

template <class scalar_t>
constexpr size_t table_shared_bytes(bool interleaved, bool softmax) {
  return sizeof(TableShared) + (softmax ? kTablePixels * sizeof(Softmax<acc_of<scalar_t>>) : 0) +
         (interleaved ? kBlockChannels * kPaddedPixels * sizeof(acc_of<scalar_t>) : 0);
}

// Copies a tile of interleaved values to shared memory, value[channel][pixel], along memory; 0 beyond the end.
template <class scalar_t, class acc_t>
__device__ __forceinline__ void stage_values(const scalar_t* tile, int64_t pixel_stride, int pixels, int channels,
                                             acc_t* value) {
  for (int e = threadIdx.x; e < kTablePixels * channels; e += kTableThreads) {
    const int x = e / channels, m = e % channels;
    value[m * kPaddedPixels + x] = x < pixels ? acc_t(to_acc(tile[x * pixel_stride + m])) : acc_t(0);
  }
}

template <class scalar_t, int V, bool kInterleaved, bool kSoftmax>
__global__ void __launch_bounds__(kTableThreads, kTableBlocks) accumulate_table_kernel(AccumulateParams p) {
  using acc_t = acc_of<scalar_t>;
  static_assert(V == 1 || V == kLanePixels);
  const int64_t N = p.shape.regions, M = p.shape.channels, P = p.shape.pixels;
  const auto [b, split] = block_place(p.splits);
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const scalar_t* input = static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride;
  const int64_t begin = split * p.pixels_per_split;
  const int64_t end = begin + p.pixels_per_split < P ? begin + p.pixels_per_split : P;
  int64_t* table_count = p.partial_count + blockIdx.x * N;
  double* table_mean = p.partial_mean + blockIdx.x * N * M;
  double* table_scatter = p.partial_scatter + blockIdx.x * N;
  TableShared& shared = *reinterpret_cast<TableShared*>(shared_arena());
  auto* softmax = reinterpret_cast<Softmax<acc_t>*>(shared_arena() + sizeof(TableShared));  // of each pixel of the tile
  acc_t* staged = reinterpret_cast<acc_t*>(softmax + (kSoftmax ? kTablePixels : 0));
  const int busy_warps = M < kBlockChannels ? static_cast<int>((M + kWarpChannels - 1) / kWarpChannels) : kTableWarps;
  // Where in the tile the lane's k-th pixel lies: neighbours for wide loads, else a warp's width apart.
  const auto place = [&](int k) { return V > 1 ? lane * kLanePixels + k : k * kWarpSize + lane; };

  for (int64_t i = threadIdx.x; i < N; i += kTableThreads) table_count[i] = 0;
  long long invalid = kNoPixel;
  for (int64_t x0 = begin; x0 < end; x0 += kTablePixels) {
    const int pixels = static_cast<int>(end - x0 < kTablePixels ? end - x0 : kTablePixels);
    int32_t region[1] = {kIgnored};
    if (static_cast<int>(threadIdx.x) < pixels) load_regions<1>(p.target, N, b * P + x0 + threadIdx.x, region);
    if (region[0] == kInvalid && x0 + static_cast<int>(threadIdx.x) < invalid) invalid = x0 + threadIdx.x;
    shared.region[threadIdx.x] = region[0] < 0 ? kIgnored : region[0];

    const auto stage = [&](int64_t m0) {  // the channels from m0 on; returns how many
      const int channels = static_cast<int>(M - m0 < kBlockChannels ? M - m0 : kBlockChannels);
      stage_values(input + x0 * p.input.pixel_stride + m0, p.input.pixel_stride, pixels, channels, staged);
      return channels;
    };
    if constexpr (kSoftmax) {  // thread: one pixel
      SoftmaxSums<acc_t> own;
      if constexpr (kInterleaved) {
        for (int64_t m0 = 0; m0 < M; m0 += kBlockChannels) {
          const int channels = stage(m0);
          __syncthreads();
          own.add_all(channels, [&](int64_t m) { return staged[m * kPaddedPixels + threadIdx.x]; });
          if (M > kBlockChannels) __syncthreads();
        }
      } else if (static_cast<int>(threadIdx.x) < pixels) {
        own.add_all(M, [&](int64_t m) {
          return to_acc(load_pack<1>(input + m * p.input.channel_stride + x0 + threadIdx.x).v[0]);
        });
      }
      softmax[threadIdx.x] = own.result();
    }

    for (int64_t m0 = 0; m0 < M; m0 += kBlockChannels) {
      const int64_t left = M - m0 - warp * kWarpChannels;
      const int channels = static_cast<int>(left < 0 ? 0 : left < kWarpChannels ? left : kWarpChannels);
      if constexpr (kInterleaved) {
        if (m0 > 0) __syncthreads();  // the warps have taken the last channels into registers
        if (!kSoftmax || M > kBlockChannels) stage(m0);
      }
      if (kInterleaved || m0 == 0) __syncthreads();  // also: the last tile's lists have been used, its counts written
      if (channels == 0) continue;

      acc_t value[kWarpChannels][kLanePixels];
#pragma unroll
      for (int c = 0; c < kWarpChannels; ++c) {
        if constexpr (!kInterleaved && V > 1) {
          Pack<scalar_t, V> pack = {};
          if (c < channels && place(0) < pixels) {
            pack = load_pack<V>(input + (m0 + warp * kWarpChannels + c) * p.input.channel_stride + x0 + place(0));
          }
#pragma unroll
          for (int k = 0; k < kLanePixels; ++k) value[c][k] = to_acc(pack.v[k]);
        } else {
#pragma unroll
          for (int k = 0; k < kLanePixels; ++k) {
            value[c][k] = 0;
            if (c >= channels || place(k) >= pixels) continue;
            if constexpr (kInterleaved) {
              value[c][k] = staged[(warp * kWarpChannels + c) * kPaddedPixels + place(k)];
            } else {
              value[c][k] = to_acc(input[(m0 + warp * kWarpChannels + c) * p.input.channel_stride + x0 + place(k)]);
            }
          }
        }
      }
      if constexpr (kSoftmax) {
#pragma unroll
        for (int k = 0; k < kLanePixels; ++k) {
          const Softmax<acc_t> probability = softmax[place(k)];
#pragma unroll
          for (int c = 0; c < kWarpChannels; ++c) {
            if (c < channels) value[c][k] = probability(value[c][k]);
          }
        }
      }
      int32_t own[kLanePixels];
      unsigned todo = 0;  // bit k: the lane's k-th pixel has not been summed yet
#pragma unroll
      for (int k = 0; k < kLanePixels; ++k) {
        own[k] = shared.region[place(k)];
        todo |= (own[k] != kIgnored ? 1u : 0u) << k;
      }
      int entry = 0;
      for (unsigned votes; (votes = __ballot_sync(kFullWarp, todo != 0)) != 0; ++entry) {
        const int32_t first = todo ? shared.region[place(__ffs(todo) - 1)] : kIgnored;
        const int32_t i = __shfl_sync(kFullWarp, first, __ffs(votes) - 1);
        unsigned match = 0;
#pragma unroll
        for (int k = 0; k < kLanePixels; ++k) match |= (own[k] == i ? 1u : 0u) << k;
        todo &= ~match;
        const int n = warp_sum(__popc(match));
        const MergeWeights merge = merge_weights(static_cast<double>(table_count[i]), n);
        const acc_t inverse_n = acc_t(1) / n;
        double tile_mean = 0, tile_scatter = 0;  // of the lane's channel
#pragma unroll
        for (int c = 0; c < kWarpChannels; ++c) {
          if (c >= channels) break;
          acc_t sum = 0, residual = 0, square = 0;
#pragma unroll
          for (int k = 0; k < kLanePixels; ++k) sum += match >> k & 1 ? value[c][k] : acc_t(0);
          const acc_t about = warp_sum(sum) * inverse_n;
#pragma unroll
          for (int k = 0; k < kLanePixels; ++k) {
            const acc_t d = match >> k & 1 ? value[c][k] - about : acc_t(0);
            residual += d;
            square += d * d;
          }
          residual = warp_sum(residual);
          square = warp_sum(square);
          if (lane == c) {
            tile_mean = about + static_cast<double>(residual) * inverse_n;
            tile_scatter = at_least_zero(centered_square_sum(square, residual, inverse_n));
          }
        }
        double added = 0;
        if (lane < channels) {
          double& mean = table_mean[i * M + m0 + warp * kWarpChannels + lane];
          const double before = merge.cross > 0 ? mean : 0, delta = tile_mean - before;
          mean = before + delta * merge.fraction;
          added = tile_scatter + delta * delta * merge.cross;
        }
        added = warp_sum(added);
        if (lane == 0) {
          shared.scatter[entry][warp] = m0 == 0 ? added : shared.scatter[entry][warp] + added;
          if (warp == 0) {
            shared.label[entry] = i;
            shared.count[entry] = n;
          }
        }
      }
      if (warp == 0 && lane == 0) shared.labels = entry;
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < shared.labels) {
      const int32_t i = shared.label[threadIdx.x];
      double added = 0;
      for (int w = 0; w < busy_warps; ++w) added += shared.scatter[threadIdx.x][w];
      const int64_t before = table_count[i];
      table_scatter[i] = before > 0 ? table_scatter[i] + added : added;
      table_count[i] = before + shared.count[threadIdx.x];
    }
  }
  invalid = block_min<kTableWarps>(invalid, shared.scratch_min);
  if (threadIdx.x == 0) p.partial_invalid[blockIdx.x] = invalid;
}

}  // namespace cas_ext
