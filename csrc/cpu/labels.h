// A tile of labels, whatever their stored type: its runs, or int32 labels. Ignored and invalid pixels become kIgnored.
#pragma once

#include <cstring>
#include <span>

#include "../labels.h"
#include "simd.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// Pixels of a tile, but of planes in the backward: fewer where they have many channels. Planes are summed kPad at a
// time: twice as many, half of which have been asked for ahead, fit an L2 cache of 512 KB. Of interleaved pixels,
// labels asked for ahead stay there.
constexpr int64_t tile_pixels(int64_t channels) { return channels < kPad ? kTile : kTile / 4; }

static_assert(kSoftmaxTile <= kTile);
constexpr int64_t kShortestRun = 8;  // pixels on average: tiles with shorter runs get no list of them
constexpr int64_t kMaxRuns = kTile / kShortestRun;
constexpr int64_t kWord = 64;  // pixels, a bit each

// Labels of a stretch of pixels, and its runs of equal labels.
struct Tile {
  int64_t size;
  int64_t invalid;                 // offset of the first label out of range, or kNoPixel
  int64_t runs;                    // how many there are
  uint64_t begins[kTile / kWord];  // where they begin, a bit for each pixel
  int32_t run_region[kMaxRuns];    // once list_runs has run
  int32_t run_begin[kMaxRuns + 1];
  int32_t label[kTile];  // once fill_labels has run, or those that labels_of was asked for last
  bool filled;
  const LabelArray* stored;
  int64_t first;  // its place in `stored`
};

namespace labels {

// Every label in range and none ignored: they need no check one by one.
template <class label_t>
inline bool all_plain(const label_t* stored, int64_t size, int64_t regions, int64_t ignore_index) {
  constexpr int kLabels = CAS_VECTOR_BYTES / static_cast<int>(sizeof(label_t));
  using V = Vec<label_t, kLabels>;
  V low = V{} + stored[0], high = low;
  int64_t x = 0;
  for (; x + kLabels <= size; x += kLabels) {
    const V label = load<V>(stored + x);
    low = label < low ? label : low;
    high = label > high ? label : high;
  }
  label_t lowest = stored[0], highest = stored[0];
  for (int k = 0; k < kLabels; ++k) {
    lowest = std::min<label_t>(lowest, low[k]);
    highest = std::max<label_t>(highest, high[k]);
  }
  for (; x < size; ++x) {
    lowest = std::min(lowest, stored[x]);
    highest = std::max(highest, stored[x]);
  }
  if (lowest < 0 || static_cast<int64_t>(highest) >= regions) return false;
  return !(static_cast<int64_t>(lowest) <= ignore_index && ignore_index <= static_cast<int64_t>(highest));
}

// Bit k: label[k] != before[k], for k < kWord.
template <class label_t>
inline uint64_t differences(const label_t* label, const label_t* before) {
#if CAS_X86_LEVEL >= 4
  constexpr int kLabels = 64 / sizeof(label_t);
  uint64_t bits = 0;
  for (int k = 0; k < kWord; k += kLabels) {
    const __m512i a = load<__m512i>(label + k), b = load<__m512i>(before + k);
    if constexpr (sizeof(label_t) == 1) bits = _mm512_cmpneq_epi8_mask(a, b);
    if constexpr (sizeof(label_t) == 2) bits |= static_cast<uint64_t>(_mm512_cmpneq_epi16_mask(a, b)) << k;
    if constexpr (sizeof(label_t) == 4) bits |= static_cast<uint64_t>(_mm512_cmpneq_epi32_mask(a, b)) << k;
    if constexpr (sizeof(label_t) == 8) bits |= static_cast<uint64_t>(_mm512_cmpneq_epi64_mask(a, b)) << k;
  }
  return bits;
#elif CAS_X86_LEVEL >= 2
  constexpr int kLabels = 32 / sizeof(label_t);
  uint64_t same = 0;
  for (int k = 0; k < kWord; k += kLabels) {
    const __m256i a = load<__m256i>(label + k), b = load<__m256i>(before + k);
    uint32_t bits;
    if constexpr (sizeof(label_t) == 1) bits = _mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b));
    if constexpr (sizeof(label_t) == 2) {
      const __m256i equal = _mm256_cmpeq_epi16(a, b);
      bits = _mm_movemask_epi8(_mm_packs_epi16(_mm256_castsi256_si128(equal), _mm256_extracti128_si256(equal, 1)));
    }
    if constexpr (sizeof(label_t) == 4) bits = _mm256_movemask_ps((__m256)_mm256_cmpeq_epi32(a, b));
    if constexpr (sizeof(label_t) == 8) bits = _mm256_movemask_pd((__m256d)_mm256_cmpeq_epi64(a, b));
    same |= static_cast<uint64_t>(bits) << k;
  }
  return ~same;
#else
  uint8_t differs[kWord];
  for (int k = 0; k < kWord; ++k) differs[k] = label[k] != before[k];
  uint64_t bits = 0;
  for (int k = 0; k < kWord; k += 8) {  // eight bytes of 0 or 1 become eight bits, the first one the lowest
    bits |= load<uint64_t>(differs + k) * 0x0102040810204080u >> 56 << k;
  }
  return bits;
#endif
}

// Where runs of equal labels begin, a bit for each pixel. Returns how many there are.
template <class label_t>
inline int64_t find_runs(const label_t* label, int64_t size, uint64_t* begins) {
  int64_t runs = 0;
  for (int64_t x = 0; x < size; x += kWord) {
    uint64_t bits;
    if (x > 0 && x + kWord <= size) {
      bits = differences(label + x, label + x - 1);
    } else {  // nothing lies before the first label, nor behind the last
      label_t here[kWord], before[kWord];
      const int64_t n = std::min(kWord, size - x);
      for (int64_t k = 0; k < kWord; ++k) {
        here[k] = label[x + std::min(k, n - 1)];
        before[k] = label[std::max<int64_t>(x + std::min(k, n) - 1, 0)];
      }
      bits = differences(here, before) | static_cast<uint64_t>(x == 0);
    }
    begins[x / kWord] = bits;
    runs += __builtin_popcountll(bits);
  }
  return runs;
}

// With checks. Returns whether a label was out of range; it is kInvalid then.
template <class label_t>
inline bool convert(const label_t* stored, int64_t size, int64_t regions, int64_t ignore_index, int32_t* label) {
  int32_t lowest = 0;
  for (int64_t x = 0; x < size; ++x) {
    label[x] = region_of(stored[x], regions, ignore_index);
    lowest = std::min(lowest, label[x]);
  }
  return lowest == kInvalid;
}

}  // namespace labels

// Reads the labels of pixels [begin, begin + size) of image b.
inline void read_tile(const LabelArray& stored, const Shape& shape, int64_t b, int64_t begin, int64_t size,
                      Tile& tile) {
  tile.size = size;
  tile.invalid = kNoPixel;
  tile.stored = &stored;
  tile.first = b * shape.pixels + begin;
  visit_labels(stored, [&](const auto* all) {
    const auto* label = all + tile.first;
    for (const auto* next = label + size; next < label + 2 * size; next += kLine / sizeof(*label)) {
      __builtin_prefetch(next, 0, 2);  // the next tile, for the L2 cache
    }
    tile.filled = !labels::all_plain(label, size, shape.regions, stored.ignore_index);
    if (tile.filled) {
      const bool invalid = labels::convert(label, size, shape.regions, stored.ignore_index, tile.label);
      for (int64_t x = size - 1; invalid && x >= 0; --x) {
        if (tile.label[x] != kInvalid) continue;
        tile.label[x] = kIgnored;
        tile.invalid = x;
      }
      tile.runs = labels::find_runs(tile.label, size, tile.begins);
    } else {
      tile.runs = labels::find_runs(label, size, tile.begins);
    }
  });
}

// Labels of the pixels [begin, end) of a tile.
inline std::span<const int32_t> labels_of(Tile& tile, int64_t begin, int64_t end) {
  if (tile.filled) return {tile.label + begin, tile.label + end};
  visit_labels(*tile.stored, [&](const auto* all) {
    const auto* label = all + tile.first + begin;
    for (int64_t x = 0; x < end - begin; ++x) tile.label[x] = static_cast<int32_t>(label[x]);
  });
  return {tile.label, tile.label + (end - begin)};
}

inline void fill_labels(Tile& tile) {
  labels_of(tile, 0, tile.size);
  tile.filled = true;
}

// Lists the runs, of kShortestRun pixels on average or more.
inline void list_runs(Tile& tile) {
  const auto list = [&](const auto* label) {
    int32_t runs = 0;
    for (int64_t x = 0; x < tile.size; x += kWord) {
      for (uint64_t bits = tile.begins[x / kWord]; bits != 0; bits &= bits - 1) {
        const int64_t begin = x + __builtin_ctzll(bits);
        tile.run_begin[runs] = static_cast<int32_t>(begin);
        tile.run_region[runs++] = static_cast<int32_t>(label[begin]);
      }
    }
    tile.run_begin[runs] = static_cast<int32_t>(tile.size);
  };
  if (tile.filled) return list(tile.label);
  visit_labels(*tile.stored, [&](const auto* all) { list(all + tile.first); });
}

// Calls body(region, first, length) for every run of equal labels, ignored ones included, once they are listed.
template <class Body>
inline void for_each_run(const Tile& tile, Body body) {
  for (int64_t r = 0; r < tile.runs; ++r) {
    body(tile.run_region[r], tile.run_begin[r], tile.run_begin[r + 1] - tile.run_begin[r]);
  }
}

// The same for the pixels [begin, end) of the tile: runs are cut there. `run`: of the pixel `begin`, then of `end`.
template <class Body>
inline void for_each_run(const Tile& tile, int64_t begin, int64_t end, int64_t& run, Body body) {
  for (int64_t x = begin; x < end;) {
    const int64_t next = tile.run_begin[run + 1], last = std::min(next, end);
    body(tile.run_region[run], x, last - x);
    if (last == next) ++run;
    x = last;
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
