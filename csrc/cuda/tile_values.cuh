// A tile's values on their way from global to shared memory, and what a block of accumulate_table keeps there.
#pragma once

#include "tile_groups.cuh"

namespace cas_ext {

// Channels in shared memory at a time: rows of 34 KB in all, so that a block stays below 48 KB.
template <class acc_t>
constexpr int kBlockChannels = 128 / static_cast<int>(sizeof(acc_t));

// The sums of segments that wait for others of their region, by slot and channel.
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
    GroupScratch scratch;  // while pixels are grouped
    PartialSums<acc_t> part;
  };
  acc_t value[kBlockChannels<acc_t>][kRowPlaces];  // grouped: later, where a run begins, what it adds to the scatter
};

// A thread's share of a tile's values as they are in memory, from the load to the store into shared memory.
template <class scalar_t, int V, bool kInterleaved>
struct TileValues {
  using acc_t = acc_of<scalar_t>;
  static constexpr unsigned kChannels = kBlockChannels<acc_t>, kPacks = kChannels / V;
  static constexpr unsigned kRows = kChannels / kTileWarps;  // planar: channels of a warp
  static constexpr unsigned kPiece = kWarpSize * V;          // planar: pixels of one load of a warp
  static constexpr unsigned kPieces = kTilePixels / kPiece;
  static_assert(kPacks == kRows * kPieces);
  static constexpr bool covers_tile() {  // interleaved: kPacks of each thread are all packs, whatever M is
    for (unsigned row = 1; row <= kPacks; ++row) {
      if (kTilePixels / row * kPacks < kTilePixels) return false;
    }
    return true;
  }

  // The first pixel and channel. Interleaved: pixels from one pack to the next, of the same channels; threads that
  // would have to change channels stay idle.
  struct Start {
    unsigned x, m, step;
  } start;
  Pack<scalar_t, V> pack[kPacks];

  static __device__ __forceinline__ Start start_of(unsigned channels) {
    const unsigned thread = threadIdx.x;
    if constexpr (!kInterleaved) return {thread % kWarpSize * V, thread / kWarpSize * kRows, 0};
    const unsigned row = channels / V, step = kTilePixels / row, x = thread / row;
    return {x < step ? x : kTilePixels, thread % row * V, step};
  }

  // `from`: the tile's first pixel in the first of `channels` channels.
  __device__ __forceinline__ void load(const scalar_t* from, const PixelArray& input, unsigned pixels,
                                       unsigned channels) {
    static_assert(covers_tile());
    const auto [x, m, step] = start = start_of(channels);
    from += x * input.pixel_stride + m * input.channel_stride;
    if constexpr (kInterleaved) {
#pragma unroll
      for (unsigned k = 0; k < kPacks; ++k, from += step * input.pixel_stride) {
        if (x + k * step < pixels) pack[k] = load_pack<V>(from);
      }
    } else {
#pragma unroll
      for (unsigned row = 0; row < kRows; ++row, from += input.channel_stride) {
        if (m + row >= channels) break;
#pragma unroll
        for (unsigned j = 0; j < kPieces; ++j) {
          if (x + j * kPiece < pixels) pack[row * kPieces + j] = load_pack<V>(from + j * kPiece);
        }
      }
    }
  }

  // Puts the values where their pixels have their places.
  __device__ __forceinline__ void store(TableShared<acc_t>& shared, unsigned pixels, unsigned channels,
                                        bool grouped) const {
    if constexpr (kInterleaved) {
      const auto [x, m, step] = start;
#pragma unroll
      for (unsigned k = 0; k < kPacks; ++k) {
        if (x + k * step >= pixels) break;
        const unsigned place = grouped ? shared.tile.place[x + k * step] : padded(x + k * step);
#pragma unroll
        for (unsigned v = 0; v < V; ++v) shared.value[m + v][place] = to_acc(pack[k].v[v]);
      }
    } else {
      const auto [x, m, step] = start_of(channels);  // to spare registers
#pragma unroll
      for (unsigned j = 0; j < kPieces; ++j) {
        if (x + j * kPiece >= pixels) break;
        unsigned place[V];  // the same in each channel
#pragma unroll
        for (unsigned v = 0; v < V; ++v) place[v] = padded(x) + j * padded(kPiece) + v;
        if (grouped) {
#pragma unroll
          for (unsigned v = 0; v < V; ++v) place[v] = shared.tile.place[x + j * kPiece + v];
        }
#pragma unroll
        for (unsigned row = 0; row < kRows; ++row) {
          if (m + row >= channels) break;
#pragma unroll
          for (unsigned v = 0; v < V; ++v) shared.value[m + row][place[v]] = to_acc(pack[row * kPieces + j].v[v]);
        }
      }
    }
  }
};

}  // namespace cas_ext
