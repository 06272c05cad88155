// accumulate_table_kernel: any N and M.
// Grid:   B * splits blocks of kTileThreads. A block owns pixels_per_split consecutive pixels of one image and the
// partial
//         table (N, M) of its own in global memory. It walks its pixels in tiles of kTilePixels.
// Block:  groups a tile's pixels by region (tile_groups.cuh) and lays kBlockChannels channels at a time in shared
// memory
//         in that order, each row one channel.
// Thread: one channel of one segment, at most kSegmentPixels pixels of a region; lanes: neighbouring channels. Adds the
//         region to the table if the segment is all of it, else one lane adds the region's segments up: each cell of
//         the table has one owner at a time, so no atomics.
// Bytes:  reads P (M e + l) per image once; per tile and region in it, reads and writes a row of the table (in L2).
//         With a softmax in front and M > kBlockChannels, logits are read twice, first for each pixel's largest and
//         sum of exponentials, then from L1 or L2.
// Why:    the work per element does not depend on how labels lie, only that per region of a tile. Sums are about a
// pilot
//         of the same 32 pixels, so nothing cancels; segments and tiles merge by Chan's rule.
#pragma once

#include "softmax.cuh"
#include "tile_groups.cuh"

namespace cas_ext {

constexpr int kTableThreads = kTilePixels;

// Blocks that a multiprocessor must be able to hold: as many as the registers allow without spilling. exp() needs more
// of them, and so does double.
template <class scalar_t>
constexpr int table_blocks(bool softmax) {
  return (std::is_same_v<scalar_t, double> ? 2 : 3) - softmax;
}

// Channels in shared memory at a time: rows of 34 KB in all, so that a block stays below 48 KB.
template <class acc_t>
constexpr int kBlockChannels = 128 / static_cast<int>(sizeof(acc_t));

// Of segments that are not all of their run, by slot and channel: mean = pilot + offset.
template <class acc_t>
struct PartialSums {
  using Rows = acc_t[kSlots][kBlockChannels<acc_t>];
  Rows pilot, offset, scatter;
};

template <class acc_t>
struct TableShared {
  TileGroups tile;
  long long scratch_min[kTileWarps];
  acc_t inverse[kSegmentPixels + 1];  // 1 / n
  union {
    TileBits bits[kLabelBits];  // while pixels are grouped
    PartialSums<acc_t> part;
  };
  acc_t value[kBlockChannels<acc_t>][kRowPlaces];  // later, where a run begins, what the run adds to the scatter
};

// A thread's share of a tile's values as they are in memory, from the load to the store into shared memory: the loads
// are under way while the pixels are grouped.
template <class scalar_t, int V, bool kInterleaved>
struct TileValues {
  using acc_t = acc_of<scalar_t>;
  static constexpr int kChannels = kBlockChannels<acc_t>, kPacks = kChannels / V;
  static constexpr int kPieces = kTilePixels / (kWarpSize * V);  // planar: loads of a warp for each channel

  Pack<scalar_t, V> pack[kPacks];

  // Calls body(k, x, m) for the thread's k-th pack: V pixels from x on of channel m (planar), or V channels from m on
  // of pixel x (interleaved).
  template <class Body>
  static __device__ __forceinline__ void visit(int pixels, int channels, Body body) {
    if constexpr (kInterleaved) {  // along memory
      const int row = channels / V, thread = threadIdx.x;
      int x = thread / row, m = thread % row;
      const int jump = kTableThreads / row, rest = kTableThreads % row;
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        if (x < pixels) body(k, x, m * V);
        x += jump;
        m += rest;
        if (m >= row) {
          m -= row;
          ++x;
        }
      }
    } else {  // a warp's channels, one row of the tile after the other
      const int lane = threadIdx.x % kWarpSize, m = threadIdx.x / kWarpSize * (kChannels / kTileWarps);
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        const int x = (k % kPieces * kWarpSize + lane) * V;
        if (x < pixels && m + k / kPieces < channels) body(k, x, m + k / kPieces);
      }
    }
  }

  // `from`: the tile's first pixel in the first of `channels` channels.
  __device__ __forceinline__ void load(const scalar_t* from, const PixelArray& input, int pixels, int channels) {
    visit(pixels, channels, [&](int k, int x, int m) {
      pack[k] = load_pack<V>(from + x * input.pixel_stride + m * input.channel_stride);
    });
  }

  __device__ __forceinline__ void store(TableShared<acc_t>& shared, int pixels, int channels) const {
    if constexpr (kInterleaved) {
      visit(pixels, channels, [&](int k, int x, int m) {
        const int place = shared.tile.place[x];
#pragma unroll
        for (int v = 0; v < V; ++v) shared.value[m + v][place] = to_acc(pack[k].v[v]);
      });
    } else {
      int place[kPieces * V];  // of the thread's pixels, the same in each channel
#pragma unroll
      for (int k = 0; k < kPieces * V; ++k) {
        place[k] = shared.tile.place[(k / V * kWarpSize + threadIdx.x % kWarpSize) * V + k % V];
      }
      visit(pixels, channels, [&](int k, int, int m) {
#pragma unroll
        for (int v = 0; v < V; ++v) shared.value[m][place[k % kPieces * V + v]] = to_acc(pack[k].v[v]);
      });
    }
  }
};

// Adds the run of a region that begins at this place, in channel c, to the table; leaves behind what it adds to the
// scatter.
template <class acc_t>
__device__ __forceinline__ void add_run(TableShared<acc_t>& shared, int begin, int c, double run_mean,
                                        acc_t run_scatter, double& mean) {
  const MergeWeights merge = shared.tile.merge[begin];
  const double before = merge.cross > 0 ? mean : 0, delta = run_mean - before;
  mean = before + delta * merge.fraction;
  shared.value[c][padded(begin)] = run_scatter + static_cast<acc_t>(delta * delta * merge.cross);
}

// Thread: every kTableThreads-th pair of segment and channel, channels first.
template <class acc_t>
__device__ __forceinline__ void add_segments(TableShared<acc_t>& shared, int segments, int channels, int64_t M,
                                             double* table_mean) {
  int s = static_cast<int>(threadIdx.x) / channels, c = static_cast<int>(threadIdx.x) % channels;
  const int jump = kTableThreads / channels, rest = kTableThreads % channels;
  while (s < segments) {
    const Segment segment = unpack(shared.tile.segment[s]);
    const acc_t* value = &shared.value[c][padded(segment.begin)];
    const acc_t pilot = value[0];
    acc_t sum = pilot - pilot, square = 0;  // 0, or NaN for an infinite pilot
#pragma unroll 4
    for (int k = 1; k < segment.length; ++k) {
      const acc_t d = value[k] - pilot;
      sum += d;
      square += d * d;
    }
    const acc_t offset = sum * shared.inverse[segment.length];
    acc_t scatter = square - sum * offset;  // centered_square_sum; a segment of 32 needs no double
    scatter = scatter < 0 ? acc_t(0) : scatter;
    if (segment.slot == kWholeRun) {
      const int64_t i = shared.tile.region[segment.begin];
      add_run(shared, segment.begin, c, pilot + static_cast<double>(offset), scatter, table_mean[i * M + c]);
    } else {
      shared.part.pilot[segment.slot][c] = pilot;
      shared.part.offset[segment.slot][c] = offset;
      shared.part.scatter[segment.slot][c] = scatter;
    }
    s += jump;
    c += rest;
    if (c >= channels) {
      c -= channels;
      ++s;
    }
  }
}

// Warp: the run that begins in its places and leaves them, if any. Lane: a channel.
template <class acc_t>
__device__ __forceinline__ void add_long_run(TableShared<acc_t>& shared, int channels, int64_t M, double* table_mean) {
  const int c = threadIdx.x % kWarpSize, begin = shared.tile.long_run[threadIdx.x / kWarpSize];
  if (begin < 0 || c >= channels) return;
  const int n = shared.tile.length[begin], end = begin + n;
  const acc_t pilot = shared.part.pilot[slot_of(begin, true)][c];
  acc_t sum = 0, square = 0;  // about the pilot, of the segments' means
  for (int from = begin; from < end;) {
    const int slot = slot_of(from, from == begin), next = (from / kSegmentPixels + 1) * kSegmentPixels;
    const acc_t length = static_cast<acc_t>((next < end ? next : end) - from);
    const acc_t d = (shared.part.pilot[slot][c] - pilot) + shared.part.offset[slot][c];
    sum += length * d;
    square += length * d * d + shared.part.scatter[slot][c];
    from = next;
  }
  const acc_t offset = sum / n;
  acc_t scatter = square - sum * offset;  // cancels by no more than the number of segments
  scatter = scatter < 0 ? acc_t(0) : scatter;
  const int64_t i = shared.tile.region[begin];
  add_run(shared, begin, c, pilot + static_cast<double>(offset), scatter, table_mean[i * M + c]);
}

template <class scalar_t, int V, bool kInterleaved, bool kSoftmax>
__global__ void __launch_bounds__(kTableThreads, table_blocks<scalar_t>(kSoftmax))
    accumulate_table_kernel(AccumulateParams p) {
  using acc_t = acc_of<scalar_t>;
  constexpr int64_t kChannels = kBlockChannels<acc_t>;
  const int64_t N = p.shape.regions, M = p.shape.channels, P = p.shape.pixels;
  const auto [b, split] = block_place(p.splits);
  const scalar_t* input = static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride;
  const int64_t begin = split * p.pixels_per_split;
  const int64_t end = begin + p.pixels_per_split < P ? begin + p.pixels_per_split : P;
  int64_t* table_count = p.partial_count + blockIdx.x * N;
  double* table_mean = p.partial_mean + blockIdx.x * N * M;
  double* table_scatter = p.partial_scatter + blockIdx.x * N;
  auto& shared = *reinterpret_cast<TableShared<acc_t>*>(shared_arena());

  for (int64_t i = threadIdx.x; i < N; i += kTableThreads) table_count[i] = 0;
  if (threadIdx.x <= kSegmentPixels) shared.inverse[threadIdx.x] = threadIdx.x ? acc_t(1) / threadIdx.x : acc_t(0);
  long long invalid = kNoPixel;
  for (int64_t x0 = begin; x0 < end; x0 += kTilePixels) {
    const int pixels = static_cast<int>(end - x0 < kTilePixels ? end - x0 : kTilePixels);
    const bool inside = static_cast<int>(threadIdx.x) < pixels;
    int32_t region[1] = {kIgnored};
    if (inside) load_regions<1>(p.target, N, b * P + x0 + threadIdx.x, region);
    if (region[0] == kInvalid && x0 + threadIdx.x < invalid) invalid = x0 + threadIdx.x;

    TileValues<scalar_t, V, kInterleaved> values;
    const auto channels_from = [&](int64_t m0) { return static_cast<int>(M - m0 < kChannels ? M - m0 : kChannels); };
    const auto load = [&](int64_t m0) {
      values.load(input + x0 * p.input.pixel_stride + m0 * p.input.channel_stride, p.input, pixels, channels_from(m0));
    };
    load(0);
    const int place = group_pixels(region[0], shared.tile, shared.bits);  // of the thread's pixel
    const PlaceInfo run = list_segments(shared.tile);                     // that begins at the thread's place
    if (run.region >= 0) {
      const int64_t before = table_count[run.region];
      table_count[run.region] = before + run.length;
      shared.tile.merge[threadIdx.x] = merge_weights(static_cast<double>(before), run.length);
    }

    Softmax<acc_t> softmax{};
    const auto add_logits = [&](SoftmaxSums<acc_t>& sums, int channels) {
      if (inside) sums.add_all(channels, [&](int64_t m) { return shared.value[m][place]; });
    };
    const bool swept = kSoftmax && M > kChannels;
    if (swept) {
      SoftmaxSums<acc_t> sums;
      for (int64_t m0 = 0; m0 < M; m0 += kChannels) {
        if (m0 > 0) load(m0);
        if (m0 > 0) __syncthreads();  // the last channels have been added
        values.store(shared, pixels, channels_from(m0));
        __syncthreads();
        add_logits(sums, channels_from(m0));
      }
      softmax = sums.result();
    }
    double scatter = 0;  // that the run adds to its region's
    for (int64_t m0 = 0; m0 < M; m0 += kChannels) {
      const int channels = channels_from(m0);
      if (m0 > 0 || swept) load(m0);
      if (m0 > 0 || swept) __syncthreads();  // the last channels have been added
      values.store(shared, pixels, channels);
      __syncthreads();
      if constexpr (kSoftmax) {
        if (!swept) {
          SoftmaxSums<acc_t> sums;
          add_logits(sums, channels);
          softmax = sums.result();
        }
        for (int m = 0; inside && m < channels; ++m) shared.value[m][place] = softmax(shared.value[m][place]);
        __syncthreads();
      }
      add_segments(shared, run.segments, channels, M, table_mean + m0);
      __syncthreads();
      add_long_run(shared, channels, M, table_mean + m0);
      __syncthreads();
      if (run.region >= 0) {
        acc_t added = 0;
        for (int c = 0; c < channels; ++c) added += shared.value[c][padded(threadIdx.x)];
        scatter += added;
      }
    }
    if (run.region >= 0) {
      double& total = table_scatter[run.region];
      total = shared.tile.merge[threadIdx.x].cross > 0 ? total + scatter : scatter;
    }
  }
  invalid = block_min<kTileWarps>(invalid, shared.scratch_min);
  if (threadIdx.x == 0) p.partial_invalid[blockIdx.x] = invalid;
}

}  // namespace cas_ext
