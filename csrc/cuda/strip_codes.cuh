// Labels as bytes: what a lane of accumulate_strips compares. A code below kStripRegions is a region, any other is
// none.
#pragma once

#include "device.cuh"
#include "select.h"

namespace cas_ext {

constexpr unsigned kNoRegion = 0xff;
static_assert(kStripRegions < 128);

// Labels of 8 bits, four at a time, as they lie in a word. Bit 7 of a byte is the answer for it.
template <class label_t>
struct ByteLabels {
  static constexpr uint32_t kOnes = 0x01010101u, kLow = 0x7f * kOnes, kHigh = 0x80 * kOnes;
  static constexpr int64_t kLeast = std::is_signed_v<label_t> ? -128 : 0;
  uint32_t to_high, ignored, ignores;

  __device__ __forceinline__ ByteLabels(int64_t regions, int64_t ignore_index)
      : to_high((128 - static_cast<uint32_t>(regions)) * kOnes),
        ignored((static_cast<uint32_t>(ignore_index) & 0xff) * kOnes),
        ignores(kLeast <= ignore_index && ignore_index <= kLeast + 0xff ? kHigh : 0) {}

  // Turns labels into codes; returns which are out of range.
  __device__ __forceinline__ uint32_t look_up(uint32_t& labels) const {
    const uint32_t beyond = (((labels & kLow) + to_high) | labels) & kHigh, differs = labels ^ ignored;
    const uint32_t equal = ~(((differs & kLow) + kLow) | differs) & ignores;
    labels |= beyond | equal;
    return beyond & ~equal;
  }
};

template <class label_t>
struct LabelCodes {
  int64_t regions, ignore_index;
  ByteLabels<label_t> bytes{regions, ignore_index};

  // Turns V labels into codes; returns whether any is out of range.
  template <int V>
  __device__ __forceinline__ bool look_up(const Pack<label_t, V>& labels, Pack<uint8_t, V>& codes) const {
    if constexpr (sizeof(label_t) == 1 && V % 4 == 0) {
      uint32_t word[V / 4], invalid = 0;
      memcpy(word, &labels, sizeof(word));
#pragma unroll
      for (auto& four : word) invalid |= bytes.look_up(four);
      memcpy(&codes, word, sizeof(word));
      return invalid != 0;
    } else {
      bool invalid = false;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const int32_t region = stored_region(labels.v[k], regions, ignore_index);
        invalid = invalid || region == kInvalid;
        codes.v[k] = static_cast<uint8_t>(region);
      }
      return invalid;
    }
  }
};

// The first of `pixels` pixels whose label is out of range, counted from `first`, or kNoPixel; asked where there is
// one.
__device__ inline long long first_invalid_of(const LabelArray& labels, int64_t regions, int64_t first,
                                             unsigned pixels) {
  long long found = kNoPixel;
  for (unsigned x = threadIdx.x; x < pixels && found == kNoPixel; x += kWarpSize) {
    int32_t region[1];
    load_regions<1>(labels, regions, first + x, region);
    if (region[0] == kInvalid) found = x;
  }
  return warp_min(found);
}

}  // namespace cas_ext
