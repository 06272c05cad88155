// A tile of labels, whatever their stored type: its runs, or int32 labels. Ignored and invalid pixels become kIgnored.
#pragma once

#include <cstring>

#include "../labels.h"
#include "simd.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kTile = kMaxTile;  // pixels; their int32 labels take 8 KB, a sixth of an L1 data cache
constexpr int64_t kShortestRun = 8;  // pixels on average: tiles with shorter runs get no list of them
constexpr int64_t kMaxRuns = kTile / kShortestRun;

// Labels of a stretch of pixels, and its runs of equal labels.
struct Tile {
  int64_t size;
  int64_t invalid;  // offset of the first label out of range, or kNoPixel
  int64_t runs;     // how many there are; above kMaxRuns or size / kShortestRun they are not listed
  int32_t run_region[kMaxRuns];
  int32_t run_begin[kMaxRuns + 1];
  int32_t label[kTile];  // once fill_labels has run
  bool filled;
  const LabelArray* stored;
  int64_t first;               // its place in `stored`
  uint8_t changes[kTile + 8];  // whether a run begins here
};

namespace labels {

// Every label in range and none ignored: they need no check one by one. Fills `changes`.
template <class label_t>
inline bool scan(const label_t* stored, int64_t size, int64_t regions, int64_t ignore_index, uint8_t* changes) {
  label_t lowest = stored[0], highest = stored[0];
  for (int64_t x = 0; x < size; ++x) {
    lowest = std::min(lowest, stored[x]);
    highest = std::max(highest, stored[x]);
  }
  if (lowest < 0 || static_cast<int64_t>(highest) >= regions) return false;
  if (static_cast<int64_t>(lowest) <= ignore_index && ignore_index <= static_cast<int64_t>(highest)) return false;
  for (int64_t x = 1; x < size; ++x) changes[x] = stored[x] != stored[x - 1];
  return true;
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

// Lists the runs that begin where `changes` says so.
template <class RegionOf>
inline void list_runs(Tile& tile, RegionOf region_at) {
  int32_t runs = 0;
  tile.changes[0] = 1;
  std::memset(tile.changes + tile.size, 0, 8);
  for (int64_t x = 0; x < tile.size; x += 8) {
    for (uint64_t eight = load<uint64_t>(tile.changes + x); eight != 0; eight &= eight - 1) {
      const int64_t begin = x + __builtin_ctzll(eight) / 8;
      tile.run_begin[runs] = static_cast<int32_t>(begin);
      tile.run_region[runs++] = region_at(begin);
    }
  }
  tile.run_begin[runs] = static_cast<int32_t>(tile.size);
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
    tile.filled = !labels::scan(label, size, shape.regions, stored.ignore_index, tile.changes);
    if (tile.filled) {
      const bool invalid = labels::convert(label, size, shape.regions, stored.ignore_index, tile.label);
      for (int64_t x = size - 1; invalid && x >= 0; --x) {
        if (tile.label[x] != kInvalid) continue;
        tile.label[x] = kIgnored;
        tile.invalid = x;
      }
      for (int64_t x = 1; x < size; ++x) tile.changes[x] = tile.label[x] != tile.label[x - 1];
    }
    int32_t runs = 1;
    for (int64_t x = 1; x < size; ++x) runs += tile.changes[x];
    tile.runs = runs;
    if (tile.runs * kShortestRun > size) return;
    labels::list_runs(tile, [&](int64_t x) { return tile.filled ? tile.label[x] : static_cast<int32_t>(label[x]); });
  });
}

inline void fill_labels(Tile& tile) {
  if (tile.filled) return;
  tile.filled = true;
  visit_labels(*tile.stored, [&](const auto* all) {
    for (int64_t x = 0; x < tile.size; ++x) tile.label[x] = static_cast<int32_t>(all[tile.first + x]);
  });
}

// Calls body(region, first, length) for every run of equal labels, ignored ones included.
template <class Body>
inline void for_each_run(const Tile& tile, Body body) {
  for (int64_t r = 0; r < tile.runs; ++r) {
    body(tile.run_region[r], tile.run_begin[r], tile.run_begin[r + 1] - tile.run_begin[r]);
  }
}

constexpr int kFew = 4;  // as many regions of a tile as are cheaper to mask than to look up

struct FewRegions {
  int32_t region[kFew] = {kIgnored, kIgnored, kIgnored, kIgnored};
  int size = 0;  // kFew + 1: there are more
};

// The regions that may occur in a tile, if they are few.
inline FewRegions few_regions(const Tile& tile, int64_t regions) {
  FewRegions found;
  if (regions <= kFew) {
    for (; found.size < regions; ++found.size) found.region[found.size] = found.size;
    return found;
  }
  using Labels = Vec<int32_t>;
  constexpr int64_t kLabels = kLanes<int32_t>, kBlock = 16 * kLabels;  // labels between two looks at the result
  const auto known = [&](int32_t label) {
    bool same = label == kIgnored;
    for (int32_t region : found.region) same |= label == region;
    return same;
  };
  for (int64_t x = 0; x < tile.size;) {
    Labels strange{};
    const int64_t end = std::min(x + kBlock, tile.size);
    for (int64_t k = x; k + kLabels <= end; k += kLabels) {
      const Labels label = load<Labels>(tile.label + k);
      Labels same = label == kIgnored;
      for (int32_t region : found.region) same |= label == region;
      strange |= ~same;
    }
    int32_t any = end - x < kBlock;
    for (int k = 0; k < kLabels; ++k) any |= strange[k];
    for (; any != 0 && x < end; ++x) {
      if (known(tile.label[x])) continue;
      if (found.size == kFew) return {{}, kFew + 1};
      found.region[found.size++] = tile.label[x];
    }
    x = end;
  }
  return found;
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
