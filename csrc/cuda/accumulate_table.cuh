// accumulate_table_kernel: any N and M.
// Grid:   B * splits blocks of kTableThreads. A block owns pixels_per_split consecutive pixels of one image and a table
//         (N, M) of its own in global memory. It walks its pixels in tiles of kTilePixels.
// Block:  lists a tile's segments (tile_groups.cuh) and lays kBlockChannels channels at a time in shared memory, a row
//         for each. While it sums them, the loads of what comes next are under way.
// Thread: one channel of one segment, at most kSegmentPixels pixels of a region; lanes: neighbouring channels.
//         Then one channel of a region: adds up the region's segments and adds them to the table (grouped: at once,
//         where the segment is all of its region). Each cell of the table has one owner at a time, so no atomics.
// Bytes:  reads P (M e + l) per image once; per tile and region in it, reads and writes a row of the table (in L2).
//         With a softmax in front and M > kBlockChannels, logits are read twice, first for each pixel's largest and sum
//         of exponentials, then from L1 or L2.
// Why:    the work per element does not depend on how labels lie, only that per region of a tile. Sums are about a
//         pilot of the same 32 pixels, so nothing cancels; segments and tiles merge by Chan's rule.
#pragma once

#include "softmax.cuh"
#include "tile_values.cuh"

namespace cas_ext {

constexpr int kTableThreads = kTilePixels;

// Blocks that a multiprocessor must be able to hold: as many as the registers allow without spilling. exp(), double and
// loads of single elements need more of them.
template <class scalar_t>
constexpr int table_blocks(int V, bool softmax) {
  constexpr bool kDouble = std::is_same_v<scalar_t, double>;
  if (softmax) return kDouble ? 1 : 2;
  return kDouble || V == 1 ? 2 : 3;
}

// What a group of values amounts to. mean = pilot + offset, which keeps digits that one number would lose.
template <class acc_t>
struct CenteredSums {
  acc_t pilot, offset, scatter;
};

// Of n values; pass(pilot, sum, square) adds their differences from the pilot, a value among them, and the squares.
template <class acc_t, class Pass>
__device__ __forceinline__ CenteredSums<acc_t> centered_sums(acc_t pilot, acc_t inverse_n, Pass pass) {
  constexpr int kFar = 8;  // times the scatter: subtracting that much costs 3 bits
  for (bool again = false;; again = true) {
    acc_t sum = 0, square = 0;
    pass(pilot, sum, square);
    const acc_t offset = sum * inverse_n, scatter = square - sum * offset;  // centered_square_sum in acc_t
    // An outlier for a pilot would cost digits: then once more, about the mean.
    if (again || !(sum * offset > kFar * scatter)) return {pilot, offset, scatter < 0 ? acc_t(0) : scatter};
    pilot += offset;
  }
}

// A channel of the table, of the region that begins at this place of the tile: loaded before the tile's sums are known.
struct TableCell {
  double* mean;
  double before, fraction, cross;

  __device__ __forceinline__ TableCell(const TileGroups& tile, unsigned begin, double* row_mean)
      : mean(row_mean), fraction(tile.fraction[begin]), cross(merge_cross(tile.length[begin], fraction)) {
    before = fraction < 1 ? *mean : 0;  // not read before it was written
  }

  // Returns what the tile adds to the scatter.
  template <class acc_t>
  __device__ __forceinline__ acc_t add(const CenteredSums<acc_t>& sums) const {
    const double delta = sums.pilot + static_cast<double>(sums.offset) - before;
    *mean = before + delta * fraction;
    return sums.scatter + static_cast<acc_t>(delta * delta * cross);
  }
};

// A segment's or region's share of the lanes is 2^lane_bits: one for each of the channels, and some that stay idle.
__device__ __forceinline__ unsigned lane_bits(unsigned channels) { return kWarpSize - __clz(channels - 1); }

// Lanes: the channels of as many segments as a warp has room for.
template <class acc_t>
__device__ __forceinline__ void add_segments(TableShared<acc_t>& shared, unsigned segments, unsigned channels,
                                             unsigned M, double* table_mean) {
  const unsigned bits = lane_bits(channels), c = threadIdx.x & ((1u << bits) - 1);
  if (c >= channels) return;
  for (unsigned s = threadIdx.x >> bits; s < segments; s += kTableThreads >> bits) {
    const Segment segment = unpack(shared.tile.segment[s]);
    acc_t* value = &shared.value[c][padded(segment.begin)];
    acc_t first = value[0];
    if (segment.length >= 4) first += ((value[1] - first) + (value[2] - first) + (value[3] - first)) / 4;
    const auto sums = centered_sums(first, shared.inverse[segment.length], [&](acc_t pilot, acc_t& sum, acc_t& square) {
      unsigned k = 0;
#pragma unroll 1
      for (; k + 4 <= segment.length; k += 4) {  // pairs first: fewer additions to a sum that has grown
        acc_t d[4];
#pragma unroll
        for (unsigned j = 0; j < 4; ++j) {
          d[j] = value[k + j] - pilot;
          square += d[j] * d[j];
        }
        sum += (d[0] + d[1]) + (d[2] + d[3]);
      }
#pragma unroll 1
      for (; k < segment.length; ++k) {
        const acc_t d = value[k] - pilot;
        sum += d;
        square += d * d;
      }
    });
    if (segment.slot == kWholeRun) {
      const int64_t i = shared.tile.region[segment.begin];
      value[0] = TableCell(shared.tile, segment.begin, table_mean + i * M + c).add(sums);
    } else {
      shared.part.pilot[segment.slot][c] = sums.pilot;
      shared.part.offset[segment.slot][c] = sums.offset;
      shared.part.scatter[segment.slot][c] = sums.scatter;
    }
  }
}

// Adds up the segments of a region, n pixels in all: visit(body) calls body(slot, length) for each, the first `slot`.
template <class acc_t, class Visit>
__device__ __forceinline__ CenteredSums<acc_t> sum_segments(const PartialSums<acc_t>& part, unsigned slot, unsigned c,
                                                            int n, Visit visit) {
  const acc_t about = part.pilot[slot][c] + part.offset[slot][c];
  return centered_sums(about, acc_t(1) / n, [&](acc_t pilot, acc_t& sum, acc_t& square) {
    visit([&](unsigned from, int length) {
      const acc_t d = (part.pilot[from][c] - pilot) + part.offset[from][c];
      sum += length * d;
      square += length * d * d + part.scatter[from][c];
    });
  });
}

// Lanes: the channels, as in add_segments, of as many regions of a tile of few segments. `first`: of the tile's
// channels.
template <class acc_t>
__device__ __forceinline__ void add_regions(const TableShared<acc_t>& shared, unsigned channels, bool first, unsigned M,
                                            double* table_mean, double* table_scatter) {
  const TileGroups& tile = shared.tile;
  const unsigned bits = lane_bits(channels), c = threadIdx.x & ((1u << bits) - 1), lane = threadIdx.x % kWarpSize;
  for (unsigned of_warp = (threadIdx.x - lane) >> bits; of_warp < tile.regions; of_warp += kTableThreads >> bits) {
    const unsigned r = of_warp + (lane >> bits);
    const bool exists = r < tile.regions && c < channels;
    const unsigned slot = exists ? tile.leader[r] : 0, begin = unpack(tile.segment[slot]).begin;
    const int64_t i = tile.region[begin];
    acc_t added = 0;
    if (exists) {
      const TableCell cell(tile, begin, table_mean + i * M + c);
      const auto sums = sum_segments(shared.part, slot, c, tile.length[begin], [&](auto body) {
        for (unsigned peers = tile.peers[slot]; peers != 0; peers &= peers - 1) {
          const unsigned from = __ffs(peers) - 1;
          body(from, unpack(tile.segment[from]).length);
        }
      });
      added = cell.add(sums);
    }
#pragma unroll
    for (unsigned k = 0; k < 5; ++k) {
      const acc_t other = __shfl_xor_sync(kFullWarp, added, 1 << k);
      added += k < bits ? other : acc_t(0);
    }
    if (exists && c == 0) table_scatter[i] = first && tile.fraction[begin] == 1 ? added : table_scatter[i] + added;
  }
}

// Warp: the run of a grouped tile that begins in its places and leaves them, if any. Lane: a channel.
template <class acc_t>
__device__ __forceinline__ void add_long_run(TableShared<acc_t>& shared, unsigned channels, unsigned M,
                                             double* table_mean) {
  const unsigned c = threadIdx.x % kWarpSize;
  const int begin = shared.tile.long_run[threadIdx.x / kWarpSize];
  if (begin < 0 || c >= channels) return;
  const int end = begin + shared.tile.length[begin];
  const int64_t i = shared.tile.region[begin];
  const TableCell cell(shared.tile, begin, table_mean + i * M + c);
  const auto sums = sum_segments(shared.part, slot_of(begin, true), c, end - begin, [&](auto body) {
    for (int from = begin, next; from < end; from = next) {
      next = (from / kSegmentPixels + 1) * kSegmentPixels;
      body(slot_of(from, from == begin), (next < end ? next : end) - from);
    }
  });
  shared.value[c][padded(begin)] = cell.add(sums);
}

template <class scalar_t, int V, bool kInterleaved, bool kSoftmax>
__global__ void __launch_bounds__(kTableThreads, table_blocks<scalar_t>(V, kSoftmax))
    accumulate_table_kernel(AccumulateParams p) {
  using acc_t = acc_of<scalar_t>;
  constexpr unsigned kChannels = kBlockChannels<acc_t>;
  static_assert(kChannels <= kWarpSize);
  const int64_t N = p.shape.regions, P = p.shape.pixels;
  const unsigned M = static_cast<unsigned>(p.shape.channels);  // make_accumulate bounds M
  const auto [b, split] = block_place(p.splits);
  const scalar_t* input = static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride;
  const int64_t begin = split * p.pixels_per_split;
  const int64_t end = begin + p.pixels_per_split < P ? begin + p.pixels_per_split : P;
  int64_t* table_count = p.partial_count + blockIdx.x * N;
  double* table_mean = p.partial_mean + blockIdx.x * N * M;
  double* table_scatter = p.partial_scatter + blockIdx.x * N;
  auto& shared = *reinterpret_cast<TableShared<acc_t>*>(shared_arena());
  TileGroups& tile = shared.tile;

  clear_arrivals(p, b, split);
  for (int64_t i = threadIdx.x; i < N; i += kTableThreads) table_count[i] = 0;
  if (threadIdx.x <= kSegmentPixels) shared.inverse[threadIdx.x] = threadIdx.x ? acc_t(1) / threadIdx.x : acc_t(0);
  long long invalid = kNoPixel;
  TileValues<scalar_t, V, kInterleaved> values;
  const auto channels_from = [&](unsigned m0) { return M - m0 < kChannels ? M - m0 : kChannels; };
  const auto pixels_from = [&](int64_t x0) {
    return static_cast<unsigned>(end - x0 < kTilePixels ? end - x0 : kTilePixels);
  };
  const auto load = [&](int64_t x0, unsigned m0) {
    values.load(input + x0 * p.input.pixel_stride + m0 * p.input.channel_stride, p.input, pixels_from(x0),
                channels_from(m0));
  };
  if (begin < end) load(begin, 0);
  for (int64_t x0 = begin; x0 < end; x0 += kTilePixels) {
    const bool inside = x0 + threadIdx.x < end;
    int32_t region[1] = {kIgnored};
    if (inside) load_regions<1>(p.target, N, b * P + x0 + threadIdx.x, region);
    if (region[0] == kInvalid && x0 + threadIdx.x < invalid) invalid = x0 + threadIdx.x;
    const PlaceInfo own = find_segments(region[0], tile);
    const bool grouped = own.total > kFewSegments;
    int place = padded(threadIdx.x);  // of the thread's pixel
    RunInfo run{kIgnored, own.total};
    if (grouped) {
      place = group_pixels(region[0], tile, shared.scratch);
      run = list_runs(tile, table_count);
    } else {
      list_segments(region[0], own, tile);
    }

    // Lays the values that were loaded into shared memory and loads those that are needed next.
    const auto stage = [&](unsigned m0, bool first, bool last) {
      if (!first) __syncthreads();  // the values before have been used
      values.store(shared, pixels_from(x0), channels_from(m0), grouped);
      __syncthreads();
      const bool more = m0 + kChannels < M;
      const int64_t next = more || !last ? x0 : x0 + kTilePixels;
      if (next < end) load(next, more ? m0 + kChannels : 0);
    };
    Softmax<acc_t> softmax{};
    const auto add_logits = [&](SoftmaxSums<acc_t>& sums, unsigned channels) {
      if (inside) sums.add_all(channels, [&](int64_t m) { return shared.value[m][place]; });
    };
    const bool swept = kSoftmax && M > kChannels;
    if (swept) {
      SoftmaxSums<acc_t> sums;
      for (unsigned m0 = 0; m0 < M; m0 += kChannels) {
        stage(m0, m0 == 0, false);
        add_logits(sums, channels_from(m0));
      }
      softmax = sums.result();
    }
    double scatter = 0;  // that the run adds to its region's
    for (unsigned m0 = 0; m0 < M; m0 += kChannels) {
      const unsigned channels = channels_from(m0);
      stage(m0, m0 == 0 && !swept, true);
      if constexpr (kSoftmax) {
        if (!swept) {
          SoftmaxSums<acc_t> sums;
          add_logits(sums, channels);
          softmax = sums.result();
        }
        for (unsigned m = 0; inside && m < channels; ++m) shared.value[m][place] = softmax(shared.value[m][place]);
        __syncthreads();
      }
      if (!grouped && m0 == 0 && threadIdx.x < kWarpSize) match_segments(run.segments, tile, table_count);
      add_segments(shared, run.segments, channels, M, table_mean + m0);
      __syncthreads();
      if (!grouped) {
        add_regions(shared, channels, m0 == 0, M, table_mean + m0, table_scatter);
        continue;
      }
      add_long_run(shared, channels, M, table_mean + m0);
      __syncthreads();
      acc_t added = 0;
      for (unsigned c = 0; run.region >= 0 && c < channels; ++c) added += shared.value[c][padded(threadIdx.x)];
      scatter += added;
    }
    if (run.region >= 0) {
      double& total = table_scatter[run.region];
      total = tile.fraction[threadIdx.x] == 1 ? scatter : total + scatter;
    }
  }
  invalid = block_min<kTileWarps>(invalid, shared.scratch_min);
  if (threadIdx.x == 0) p.partial_invalid[blockIdx.x] = invalid;
}

}  // namespace cas_ext
