// accumulate_table_kernel: any N and M.
// Grid:   B * splits blocks of kTableThreads. A block owns pixels_per_split consecutive pixels of one image and a table
//         (N, M) of its own in global memory. It walks its pixels in tiles of kTilePixels.
// Block:  lists a tile's segments (tile_groups.cuh) and lays kBlockChannels channels at a time in shared memory, a row
//         for each (tile_values.cuh). While it sums them, the loads of what comes next are under way.
// Thread: one channel of one segment, at most kSegmentPixels pixels of a region (tile_sums.cuh), about a pilot that the
//         region's segments share; lanes: neighbouring channels. Then one channel of a region: adds up the region's
//         segments and adds them to the table (grouped: at once, where the segment is all of its region). Each cell of
//         the table has one owner at a time, so no atomics.
// Bytes:  reads P (M e + l) per image once; per tile and region in it, reads and writes a row of the table (in L2).
//         With a softmax in front and M > kBlockChannels, logits are read twice, first for each pixel's largest and sum
//         of exponentials, then from L1 or L2.
// Why:    the work per element does not depend on how labels lie, only that per region of a tile. Sums are about a
//         pilot of the same 256 pixels, so nothing cancels; tiles merge by Chan's rule.
#pragma once

#include "arrival.cuh"
#include "softmax.cuh"
#include "tile_sums.cuh"

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

// The block's partial table.
struct Table {
  int64_t* count;   // (N)
  double* mean;     // (N, M)
  double* scatter;  // (N)
  unsigned M;
};

// What the table holds of a region and a thread's channels, loaded before the tile's sums are known. key: of the region
// in the tile.
template <int K>
struct TableCells {
  double *row, before[K], fraction;
  unsigned n;

  __device__ __forceinline__ TableCells(const TileGroups& tile, unsigned key, const Table& table, unsigned m0,
                                        const Channels<K>& own)
      : fraction(tile.fraction[key]), n(tile.length[key]) {
    row = table.mean + static_cast<uint64_t>(static_cast<unsigned>(tile.region[key])) * table.M + m0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      before[k] = fraction < 1 ? row[own.c[k]] : 0;  // not read before it was written
    }
  }

  // Returns what the tile adds to the scatter.
  template <class acc_t>
  __device__ __forceinline__ acc_t add(const Sums<acc_t, K>& sums, acc_t inverse_n, const Channels<K>& own) const {
    const double cross = merge_cross(n, fraction);
    acc_t added = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (!own.has(k)) break;
      const acc_t offset = sums[k].sum * inverse_n, scatter = sums[k].square - sums[k].sum * offset;
      const double delta = sums[k].pilot + static_cast<double>(offset) - before[k];
      row[own.c[k]] = before[k] + delta * fraction;
      added += (scatter < 0 ? acc_t(0) : scatter) + static_cast<acc_t>(delta * delta * cross);
    }
    return added;
  }
};

// `first`: of the tile's channels.
__device__ __forceinline__ void add_scatter(const TileGroups& tile, unsigned key, const Table& table, bool first,
                                            double added) {
  double& total = table.scatter[tile.region[key]];
  total = first && tile.fraction[key] == 1 ? added : total + added;
}

// A region's share of the lanes is 2^lane_bits: one for each of the threads that it takes, and some that stay idle.
__device__ __forceinline__ unsigned lane_bits(unsigned threads) { return kWarpSize - __clz(threads - 1); }

// Sum over the 2^bits lanes of a region.
template <class acc_t>
__device__ __forceinline__ acc_t lane_sum(acc_t value, unsigned bits) {
#pragma unroll
  for (unsigned k = 0; k < 5; ++k) {
    const acc_t other = __shfl_xor_sync(kFullWarp, value, 1 << k);
    if (k < bits) value += other;
  }
  return value;
}

template <class acc_t, int K>
__device__ __forceinline__ void put_sums(PartialSums<acc_t>& part, unsigned slot, const Channels<K>& own,
                                         const Sums<acc_t, K>& sums) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
    part.sum[slot][own.c[k]] = sums[k].sum;
    part.square[slot][own.c[k]] = sums[k].square;
  }
}

// Few segments. Threads: the channels, without gaps, of as many segments as there is room for.
template <class staged_t>
__device__ __forceinline__ void add_segments(TableShared<staged_t>& shared, unsigned segments, unsigned channels) {
  using acc_t = acc_of<staged_t>;
  constexpr int K = kThreadChannels<staged_t>;
  const unsigned share = (channels + K - 1) / K;
  const acc_t inverse = shared.inverse[share];
  const auto divided = [&](unsigned n) { return static_cast<unsigned>((n + acc_t(0.5)) * inverse); };  // n < 257: exact
  const unsigned at_once = divided(kTableThreads), first = divided(threadIdx.x);
  if (first >= at_once) return;
  const Channels<K> own(threadIdx.x - first * share, share, channels);
  for (unsigned s = first; s < segments; s += at_once) {
    const Segment segment = unpack(shared.tile.segment[s]);
    Sums<acc_t, K> sums;
    set_pilots(shared.rows, own, segment, sums);
    add_values(shared.rows, own, segment, sums);
    put_sums(shared.part, s, own, sums);
  }
}

// A grouped tile. Lanes: the channels, m0 and so on, of as many segments as a warp has room for. One that is
// not all of its region leaves its sums in a slot, the others what they add to the scatter at their places.
template <class staged_t>
__device__ __forceinline__ void add_runs(TableShared<staged_t>& shared, unsigned segments, unsigned channels,
                                         const Table& table, unsigned m0) {
  using acc_t = acc_of<staged_t>;
  const unsigned bits = lane_bits(channels), lane = threadIdx.x % kWarpSize;
  const unsigned c = threadIdx.x & ((1u << bits) - 1);
  const Channels<1> own(c, channels, channels);
  for (unsigned of_warp = (threadIdx.x - lane) >> bits; of_warp < segments; of_warp += kTableThreads >> bits) {
    const unsigned s = of_warp + (lane >> bits);
    const bool exists = s < segments && c < channels;
    const Segment segment = exists ? unpack(shared.tile.segment[s]) : Segment{};
    acc_t added = 0;
    if (exists) {
      Sums<acc_t, 1> sums;
      set_pilots(shared.rows, own, segment, sums);
      if (segment.whole) {
        const TableCells<1> cells(shared.tile, segment.begin, table, m0, own);
        add_values(shared.rows, own, segment, sums);
        added = cells.add(sums, shared.inverse[segment.length], own);
      } else {
        add_values(shared.rows, own, segment, sums);
        put_sums(shared.part, slot_of(segment.begin), own, sums);
      }
    }
    added = lane_sum(added, bits);
    if (segment.whole && c == 0) {
      acc_t& scatter = shared.scatter[segment.begin];
      scatter = m0 == 0 ? added : scatter + added;
    }
  }
}

// Lanes: the channels of as many regions whose sums wait in slots as a warp has room for.
template <class staged_t>
__device__ __forceinline__ void add_regions(TableShared<staged_t>& shared, unsigned channels, const Table& table,
                                            unsigned m0) {
  using acc_t = acc_of<staged_t>;
  const TileGroups& tile = shared.tile;
  constexpr int K = kThreadChannels<staged_t>;
  const unsigned share = (channels + K - 1) / K, bits = lane_bits(share), lane = threadIdx.x % kWarpSize;
  const unsigned c = threadIdx.x & ((1u << bits) - 1);
  const Channels<K> own(c, share, channels);
  for (unsigned of_warp = (threadIdx.x - lane) >> bits; of_warp < tile.regions; of_warp += kTableThreads >> bits) {
    const unsigned r = of_warp + (lane >> bits);
    const Waiting region = r < tile.regions && c < share ? tile.waiting[r] : Waiting{0, 0};
    if (!__any_sync(kFullWarp, region.slots != 0)) continue;
    const Segment about = unpack(region.about);
    acc_t added = 0;
    if (region.slots != 0) {
      const TableCells<K> cells(tile, about.begin, table, m0, own);
      const acc_t inverse_n = shared.inverse[cells.n];
      Sums<acc_t, K> sums;
      set_pilots(shared.rows, own, about, sums);
      const auto add_slots = [&] {
        for (unsigned slots = region.slots; slots != 0; slots &= slots - 1) {
          const unsigned slot = __ffs(slots) - 1;
#pragma unroll
          for (int k = 0; k < K; ++k) sums[k].add(shared.part.sum[slot][own.c[k]], shared.part.square[slot][own.c[k]]);
        }
      };
      add_slots();
      bool cancels = false;
#pragma unroll
      for (const auto& each : sums) cancels = cancels || each.cancels(inverse_n);
      if (cancels) {  // once more, about the means
#pragma unroll
        for (int k = 0; k < K; ++k) sums[k] = {sums[k].pilot + sums[k].sum * inverse_n};
#pragma unroll 1
        for (unsigned slots = region.slots; slots != 0; slots &= slots - 1) {
          const unsigned slot = __ffs(slots) - 1;
          add_values(shared.rows, own, unpack(tile.in_slot[slot]), sums);
          put_sums(shared.part, slot, own, sums);
#pragma unroll
          for (int k = 0; k < K; ++k) sums[k] = {sums[k].pilot};
        }
        add_slots();
      }
      added = cells.add(sums, inverse_n, own);
    }
    added = lane_sum(added, bits);
    if (region.slots != 0 && c == 0) add_scatter(tile, about.begin, table, m0 == 0, added);
  }
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
  const Table table{p.partial_count + blockIdx.x * N, p.partial_mean + blockIdx.x * N * M,
                    p.partial_scatter + blockIdx.x * N, M};
  auto& shared = *reinterpret_cast<TableShared<staged_of<scalar_t, kSoftmax>>*>(shared_arena());
  TileGroups& tile = shared.tile;

  clear_arrivals(p, b, split);
  for (int64_t i = threadIdx.x; i < N; i += kTableThreads) table.count[i] = 0;
  shared.inverse[threadIdx.x + 1] = acc_t(1) / (threadIdx.x + 1);
  const unsigned lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  if (lane == 0) shared.first_invalid[warp] = kNoPixel;
  if (threadIdx.x == 0) {
    shared.image_label = b * P;
    shared.end_label = b * P + end;
  }
  __syncthreads();
  TileValues<scalar_t, V, kInterleaved> values;
  const auto channels_from = [&](unsigned m0) { return M - m0 < kChannels ? M - m0 : kChannels; };
  // The block's pixels that are left, and of each tile the thread's first value.
  int64_t left = end - begin;
  const auto at_most_a_tile = [](int64_t n) { return static_cast<unsigned>(n < kTilePixels ? n : kTilePixels); };
  const int64_t stride = kInterleaved ? p.input.pixel_stride : p.input.channel_stride;
  const scalar_t* from = values.first_of(input, begin, stride);
  if (left > 0) values.load(from, stride, at_most_a_tile(left), channels_from(0));
  for (; left > 0; left -= kTilePixels) {
    const unsigned pixels = at_most_a_tile(left);
    const bool inside = threadIdx.x < pixels;
    int32_t region[1] = {kIgnored};
    const int64_t label = shared.end_label - left + threadIdx.x;  // of the thread's pixel
    if (inside) load_regions<1>(p.target, N, label, region);
    const unsigned invalid = __ballot_sync(kFullWarp, region[0] == kInvalid);
    if (invalid != 0 && lane == 0 && shared.first_invalid[warp] == kNoPixel) {
      shared.first_invalid[warp] = label - shared.image_label + __ffs(invalid) - 1;
    }
    const PlaceInfo own = find_segments(region[0], tile);
    const bool grouped = own.total > kFewSegments;
    unsigned place = threadIdx.x, segments = own.total;  // place: of the thread's pixel
    if (grouped) {
      place = group_pixels(region[0], tile, shared.scratch);
      segments = list_runs(tile, table.count);
    } else {
      list_segments(region[0], own, tile);
      if (threadIdx.x < kWarpSize) match_segments(segments, tile, table.count);
    }

    // Lays the values that were loaded into shared memory and loads those that are needed next.
    const auto stage = [&](unsigned m0, bool first, bool last) {
      if (!first) __syncthreads();  // the values before have been used
      values.store(shared.rows, tile.place, pixels, channels_from(m0), grouped);
      __syncthreads();
      const unsigned m1 = m0 + kChannels < M ? m0 + kChannels : 0;
      if (m1 == 0 && last) from += kTilePixels * (kInterleaved ? stride : 1);
      const int64_t rest = m1 == 0 && last ? left - kTilePixels : left;
      if (rest > 0)
        values.load(from + m1 * (kInterleaved ? 1 : stride), stride, at_most_a_tile(rest), channels_from(m1));
    };
    Softmax<acc_t> softmax{};
    const auto add_logits = [&](SoftmaxSums<acc_t>& sums, unsigned channels) {
      if (inside) sums.add_all(channels, [&](int64_t m) { return to_acc(shared.rows.at(m, place)); });
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
    for (unsigned m0 = 0; m0 < M; m0 += kChannels) {
      const unsigned channels = channels_from(m0);
      stage(m0, m0 == 0 && !swept, true);
      if constexpr (kSoftmax) {
        if (!swept) {
          SoftmaxSums<acc_t> sums;
          add_logits(sums, channels);
          softmax = sums.result();
        }
        for (unsigned m = 0; inside && m < channels; ++m) shared.rows.at(m, place) = softmax(shared.rows.at(m, place));
        __syncthreads();
      }
      if (grouped) {
        add_runs(shared, segments, channels, table, m0);
      } else {
        add_segments(shared, segments, channels);
      }
      __syncthreads();
      add_regions(shared, channels, table, m0);
    }
    if (begins_whole_run(tile)) add_scatter(tile, threadIdx.x, table, true, shared.scatter[threadIdx.x]);
  }
  const long long invalid =
      block_min<kTileWarps>(lane == 0 ? shared.first_invalid[warp] : kNoPixel, shared.first_invalid);
  if (threadIdx.x == 0) p.partial_invalid[blockIdx.x] = invalid;
}

}  // namespace cas_ext
