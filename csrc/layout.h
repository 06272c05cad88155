// What follows from sizes and strides alone: how an array is read, and where in it a pixel lies. No PyTorch.
#pragma once

#include <string>

#include "params.h"

namespace cas_ext {

// Collapses the spatial dimensions of an array (B, M, *spatial) into one. False where kernels need a contiguous copy.
inline bool collapse(int64_t dims, const int64_t* sizes, const int64_t* strides, PixelArray& out) {
  int64_t pixels = 1, pixel_stride = 1;
  for (int64_t d = dims - 1; d >= 2; --d) {
    if (sizes[d] == 1) continue;
    if (pixels == 1) {
      pixel_stride = strides[d];
    } else if (strides[d] != pixel_stride * pixels) {
      return false;
    }
    pixels *= sizes[d];
  }
  out = {nullptr, strides[0], sizes[1] == 1 ? 1 : strides[1], pixel_stride, false};
  if (pixels == 1 || pixel_stride == 1) {
    out.pixel_stride = 1;
    return true;
  }
  // Pixels must not overlap, as those of an expanded array do: vectors go beyond the channels of a pixel, to the next.
  out.interleaved = out.channel_stride == 1 && pixel_stride >= sizes[1];
  return out.interleaved;
}

constexpr int64_t kIgnoredByDefault = -100;  // what cas_ext.compact_regions writes for ignored pixels

// The message for a label out of range at pixel x of image b of a target (B, *spatial). No operator knows which public
// function called it, so it names the package.
inline std::string invalid_label_message(int64_t dims, const int64_t* sizes, int64_t b, int64_t x, int64_t label,
                                         int64_t regions, int64_t ignore_index) {
  std::string place;
  for (int64_t d = dims - 1; d >= 1; --d) {
    place = ", " + std::to_string(x % sizes[d]) + place;
    x /= sizes[d];
  }
  const bool compacted = label == kIgnoredByDefault && ignore_index != kIgnoredByDefault;
  return "cas_ext: target must lie in [0, num_regions) = [0, " + std::to_string(regions) +
         ") or be ignore_index = " + std::to_string(ignore_index) + ", got " + std::to_string(label) + " at index (" +
         std::to_string(b) + (dims == 1 ? "," : place) + "); cas_ext.compact_regions renumbers arbitrary ids" +
         (compacted ? " and writes -100, the default ignore_index, for ignored pixels" : "");
}

}  // namespace cas_ext
