// A tile of labels as int32, whatever their stored type: ignored and invalid pixels become kIgnored.
#pragma once

#include <cstring>

#include "../labels.h"
#include "simd.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kTile = 2048;  // pixels; their int32 labels take 8 KB, a sixth of an L1 data cache

struct Tile {
  int32_t label[kTile];
  uint8_t changes[kTile + 8];  // whether a run of equal labels begins here; 8 bytes beyond `size` say so too
  int64_t size;
  int64_t runs;     // how many there are
  int64_t invalid;  // offset of the first label out of range, or kNoPixel
};

// Reads the labels of pixels [begin, begin + size) of image b.
inline void read_tile(const LabelArray& labels, const Shape& shape, int64_t b, int64_t begin, int64_t size,
                      Tile& tile) {
  const int64_t first = b * shape.pixels + begin, regions = shape.regions, ignore_index = labels.ignore_index;
  int32_t lowest = 0;
  visit_labels(labels, [&](const auto* stored) {
    stored += first;
    if constexpr (sizeof(*stored) == 8) {
      for (int64_t x = 0; x < size; ++x) {
        tile.label[x] = region_of(stored[x], regions, ignore_index);
        lowest = tile.label[x] < lowest ? tile.label[x] : lowest;
      }
    } else {  // 32-bit arithmetic: an ignore_index that no label can have becomes one that is out of range anyway
      const int32_t bound = static_cast<int32_t>(regions);  // at most 2^31 - 1
      const bool possible = ignore_index >= INT32_MIN && ignore_index <= INT32_MAX;
      const int32_t ignored = static_cast<int32_t>(possible ? ignore_index : 0);
      const int32_t if_ignored = possible ? kIgnored : 0;
      for (int64_t x = 0; x < size; ++x) {
        const int32_t value = stored[x];
        const int32_t inside = static_cast<uint32_t>(value) < static_cast<uint32_t>(bound) ? value : kInvalid;
        tile.label[x] = value == ignored && if_ignored == kIgnored ? kIgnored : inside;
        lowest = tile.label[x] < lowest ? tile.label[x] : lowest;
      }
    }
  });
  tile.size = size;
  tile.invalid = kNoPixel;
  for (int64_t x = size - 1; lowest == kInvalid && x >= 0; --x) {
    if (tile.label[x] != kInvalid) continue;
    tile.label[x] = kIgnored;
    tile.invalid = x;
  }
  int32_t runs = size > 0;
  for (int64_t x = 1; x < size; ++x) {
    const int32_t change = tile.label[x] != tile.label[x - 1];
    tile.changes[x] = static_cast<uint8_t>(change);
    runs += change;
  }
  std::memset(tile.changes + size, 1, 8);
  tile.runs = runs;
}

// Calls body(label, first, length) for every run of equal labels, ignored ones included.
template <class Body>
inline void for_each_run(const Tile& tile, Body body) {
  for (int64_t first = 0; first < tile.size;) {
    int64_t end = first + 1;
    for (uint64_t eight; std::memcpy(&eight, tile.changes + end, 8), eight == 0;) end += 8;
    while (tile.changes[end] == 0) ++end;
    body(tile.label[first], first, end - first);
    first = end;
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
