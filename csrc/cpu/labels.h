// A tile of labels as int32, whatever their stored type: ignored and invalid pixels become kIgnored.
#pragma once

#include "../labels.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kTile = 2048;  // pixels; their int32 labels take 8 KB, a sixth of an L1 data cache

struct Tile {
  int32_t label[kTile];
  int64_t size;
  int64_t runs;     // maximal stretches of equal labels
  int64_t invalid;  // offset of the first label out of range, or kNoPixel
};

// Reads the labels of pixels [begin, begin + size) of image b.
inline void read_tile(const LabelArray& labels, const Shape& shape, int64_t b, int64_t begin, int64_t size,
                      Tile& tile) {
  const int64_t first = b * shape.pixels + begin, regions = shape.regions, ignore_index = labels.ignore_index;
  int32_t lowest = 0;
  visit_labels(labels, [&](const auto* stored) {
    for (int64_t x = 0; x < size; ++x) {
      tile.label[x] = region_of(static_cast<int64_t>(stored[first + x]), regions, ignore_index);
      lowest = tile.label[x] < lowest ? tile.label[x] : lowest;
    }
  });
  tile.size = size;
  tile.invalid = kNoPixel;
  for (int64_t x = size - 1; lowest == kInvalid && x >= 0; --x) {
    if (tile.label[x] != kInvalid) continue;
    tile.label[x] = kIgnored;
    tile.invalid = x;
  }
  tile.runs = size > 0;
  for (int64_t x = 1; x < size; ++x) tile.runs += tile.label[x] != tile.label[x - 1];
}

// Calls body(label, first, length) for every run of equal labels, ignored ones included.
template <class Body>
void for_each_run(const Tile& tile, Body body) {
  for (int64_t first = 0; first < tile.size;) {
    const int32_t label = tile.label[first];
    int64_t end = first + 1;
    while (end < tile.size && tile.label[end] == label) ++end;
    body(label, first, end - first);
    first = end;
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
