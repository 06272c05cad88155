// A tile's values on their way from global to shared memory, and what a block of accumulate_table keeps there.
#pragma once

#include "tile_groups.cuh"

namespace cas_ext {

// Channels in shared memory at a time: rows of 32 KB in all, so that a block stays below 48 KB.
template <class acc_t>
constexpr int kBlockChannels = 128 / static_cast<int>(sizeof(acc_t));

// What values are kept as: as they came, or probabilities, which are not rounded to a half type.
template <class scalar_t, bool kSoftmax>
using staged_of = std::conditional_t<kSoftmax, acc_of<scalar_t>, scalar_t>;

// A row for each channel, moved in units of 16 bytes. Each row has its units in another order, so that those of one
// place lie in different banks, also those of every fourth channel.
template <class staged_t>
struct StagedRows {
  static constexpr unsigned kUnit = 16 / sizeof(staged_t);  // values
  alignas(16) staged_t value[kBlockChannels<acc_of<staged_t>>][kTilePixels];

  static __device__ __forceinline__ constexpr unsigned swizzle(unsigned c) { return ((c ^ c >> 3) & 7) * kUnit; }

  // Of channel c + more, which have no bit in common: if `more` is a constant, so is its part of the address.
  __device__ __forceinline__ staged_t& at(unsigned c, unsigned place, unsigned more = 0) {
    return value[c + more][place ^ swizzle(c) ^ swizzle(more)];
  }

  // Neighbouring places of a row, the first of which begins a unit or, for less than that, is a multiple of K.
  template <int K>
  __device__ __forceinline__ void put(unsigned c, unsigned more, unsigned place, const Pack<staged_t, K>& pack) {
    constexpr unsigned kStep = K < kUnit ? K : kUnit;
    using Word = typename WordOf<kStep * sizeof(staged_t)>::type;
#pragma unroll
    for (unsigned k = 0; k < K; k += kStep) {
      Word word;
      memcpy(&word, &pack.v[k], sizeof(word));
      *reinterpret_cast<Word*>(&at(c, place + k, more)) = word;
    }
  }

  template <class acc_t>
  static __device__ __forceinline__ void read_unit(const staged_t* unit, acc_t (&value)[kUnit]) {
    const uint4 words = *reinterpret_cast<const uint4*>(unit);
    if constexpr (std::is_same_v<staged_t, __nv_bfloat16>) {  // the upper half of a float: one instruction for each
      const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (unsigned k = 0; k < kUnit; ++k) {
        value[k] = __uint_as_float(k % 2 ? word[k / 2] & 0xffff0000u : word[k / 2] << 16);
      }
    } else {
      Pack<staged_t, kUnit> pack;
      memcpy(&pack, &words, sizeof(words));
#pragma unroll
      for (unsigned k = 0; k < kUnit; ++k) value[k] = to_acc(pack.v[k]);
    }
  }
};

// Sums of regions that wait for those of other segments, by slot and channel.
template <class acc_t>
struct PartialSums {
  using Rows = acc_t[kSlots][kBlockChannels<acc_t>];
  Rows sum, square;
};

template <class staged_t>
struct TableShared {
  using acc_t = acc_of<staged_t>;
  TileGroups tile;
  long long first_invalid[kTileWarps];  // each warp's first pixel with a label out of range
  int64_t image_label, end_label;  // the image's first label, and the one after the block's last: to spare registers
  acc_t inverse[kTilePixels + 1];  // 1 / n
  union {
    GroupScratch scratch;  // while pixels are grouped
    PartialSums<acc_t> part;
  };
  acc_t scatter[kTilePixels];  // grouped: what the run that begins here adds to its region's, if it is one segment
  StagedRows<staged_t> rows;
};

// A thread's share of a tile's values as they are in memory, from the load to the store into shared memory.
template <class scalar_t, int V, bool kInterleaved>
struct TileValues {
  using Word = typename WordOf<sizeof(scalar_t) * V>::type;
  static constexpr unsigned kChannels = kBlockChannels<acc_of<scalar_t>>, kWords = kChannels / V;
  static constexpr unsigned kRun = !kInterleaved ? V : V > 1 ? 4 : 1;  // neighbouring pixels of a row in one store
  // Planar: a warp loads a piece of a row at a time, of every kRowStep-th row.
  static constexpr unsigned kPieces = kTilePixels / (kWarpSize * V), kRowStep = kTileWarps / kPieces;
  static_assert(kPieces * kRowStep == kTileWarps && kRowStep * kWords == kChannels);
  static_assert(!kInterleaved || kWords % kRun == 0);
  static constexpr bool covers_tile() {  // interleaved: kWords of each thread are all of them, whatever M is
    for (unsigned row = 1; row <= kChannels / V; ++row) {
      if (kTilePixels / row * kWords < kTilePixels) return false;
    }
    return true;
  }

  // The thread's first pixel and channel. Interleaved: pixels from one of its runs to the next, of the same channels;
  // threads that would have to change channels stay idle.
  struct Start {
    unsigned x, m, step;
  } start;
  Word word[kWords];

  static __device__ __forceinline__ Start start_of(unsigned channels) {  // planar: whatever `channels`
    const unsigned thread = threadIdx.x, warp = thread / kWarpSize;
    if constexpr (!kInterleaved) return {(warp % kPieces * kWarpSize + thread % kWarpSize) * V, warp / kPieces, 0};
    const unsigned row = channels / V, runs = kTilePixels / row, run = thread / row;
    return {run < runs ? run * kRun : kTilePixels, thread % row * V, runs * kRun};
  }

  // `stride`: from one pixel to the next; planar, from one channel to the next. The thread's first value (interleaved:
  // the tile's) where a tile begins with pixel x of the image.
  static __device__ __forceinline__ const scalar_t* first_of(const scalar_t* image, int64_t x, int64_t stride) {
    if constexpr (kInterleaved) return image + x * stride;
    const Start start = start_of(0);
    return image + x + start.x + start.m * stride;
  }

  // `from`: as first_of has it, in the first of `channels` channels.
  __device__ __forceinline__ void load(const scalar_t* from, int64_t stride, unsigned pixels, unsigned channels) {
    static_assert(covers_tile());
    const auto [x, m, step] = start = start_of(channels);
    if constexpr (kInterleaved) {
      from += x * stride + m;
#pragma unroll
      for (unsigned k = 0; k < kWords; k += kRun, from += step * stride) {
#pragma unroll
        for (unsigned r = 0; r < kRun; ++r) {
          if (x + k / kRun * step + r < pixels) {
            word[k + r] = __ldg(reinterpret_cast<const Word*>(from + r * stride));
          }
        }
      }
    } else {
      if (x >= pixels) return;
#pragma unroll
      for (unsigned k = 0; k < kWords; ++k, from += kRowStep * stride) {
        if (m + k * kRowStep >= channels) break;
        word[k] = __ldg(reinterpret_cast<const Word*>(from));
      }
    }
  }

  template <class staged_t>
  __device__ __forceinline__ staged_t element(unsigned k, unsigned v) const {
    Pack<scalar_t, V> pack;
    memcpy(&pack, &word[k], sizeof(pack));
    if constexpr (std::is_same_v<staged_t, scalar_t>) {
      return pack.v[v];
    } else {
      return to_acc(pack.v[v]);
    }
  }

  // Puts the values where their pixels have their places.
  template <class staged_t>
  __device__ __forceinline__ void store(StagedRows<staged_t>& rows, const uint8_t* place, unsigned pixels,
                                        unsigned channels, bool grouped) const {
    const auto [x, m, step] = kInterleaved ? start : start_of(channels);  // to spare registers
    if (x >= pixels) return;
    // kRun pixels from `at` on, of channel m + row.
    const auto put = [&](unsigned row, unsigned at, auto value) {
      if (grouped) {
#pragma unroll
        for (unsigned r = 0; r < kRun; ++r) rows.at(m, place[at + r], row) = value(r);
      } else {
        Pack<staged_t, kRun> pack;
#pragma unroll
        for (unsigned r = 0; r < kRun; ++r) pack.v[r] = value(r);
        rows.put(m, row, at, pack);
      }
    };
    if constexpr (kInterleaved) {
#pragma unroll
      for (unsigned k = 0; k < kWords; k += kRun) {
        const unsigned at = x + k / kRun * step;
        if (at >= pixels) break;
#pragma unroll
        for (unsigned v = 0; v < V; ++v) {
          put(v, at, [&](unsigned r) { return element<staged_t>(k + r, v); });
        }
      }
    } else {
#pragma unroll
      for (unsigned k = 0; k < kWords; ++k) {
        if (m + k * kRowStep >= channels) break;
        put(k * kRowStep, x, [&](unsigned r) { return element<staged_t>(k, r); });
      }
    }
  }
};

}  // namespace cas_ext
