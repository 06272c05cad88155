// Which kernel runs for which shape, dtype, layout and alignment, with how many blocks: plain host code, no CUDA.
//
// accumulate                                              apply
//   N <= 4 and M <= 4   small   sums in registers           planar       one kernel per layout; the coefficients lie
//   everything else     table   one table per block         interleaved  in shared memory while that pays
//
// With a softmax in front accumulate chooses the same, apply another kernel:
//   M <= 4              small   a pixel's channels in the registers of one thread
//   everything else     team    spread over the registers of a few threads; read three times where they do not fit
//
// V is the number of pixels (planar) or elements (interleaved) of one 16-byte access, or 1 where addresses do not allow
// it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../params.h"

namespace cas_ext {

constexpr int64_t kSmallLimit = 4;  // regions and channels of the small kernel
constexpr int64_t kTargetBlocks =
    1056;  // 8 for each of 132 multiprocessors; a constant, so results are the same on any GPU
constexpr int64_t kWorkspaceShare = 64;       // the input is at least this many times larger than the partial tables
constexpr int64_t kSharedTableBytes = 49152;  // what a block may use without asking for more

struct AccumulatePlan {
  bool small;
  bool wide;       // V > 1
  int64_t splits;  // blocks per image
  int64_t pixels_per_split;
};

struct ApplyPlan {
  bool small;  // with a softmax in front only
  bool wide;
  bool shared_table;  // without one only
};

inline int64_t bytes_of(Scalar scalar) {
  switch (scalar) {
    case Scalar::kHalf:
    case Scalar::kBFloat16:
      return 2;
    case Scalar::kFloat:
      return 4;
    default:
      return 8;
  }
}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool aligned(const void* pointer, int64_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

// Whether accesses of V elements are aligned everywhere: `stride` elements from one row of pixels to the next.
inline bool rows_aligned(const PixelArray& a, int64_t images, int64_t rows, int64_t stride, int64_t V, int64_t size) {
  return aligned(a.data, V * size < 16 ? V * size : 16) && (images <= 1 || a.image_stride % V == 0) &&
         (rows <= 1 || stride % V == 0);
}

// Whether threads can load all channels of V neighbouring pixels in accesses of 16 bytes: load_pixels of device.cuh.
inline bool pixels_aligned(const PixelArray& a, const Shape& s, int64_t V, int64_t size) {
  if (s.pixels % V != 0) return false;
  if (!a.interleaved) return rows_aligned(a, s.images, s.channels, a.channel_stride, V, size);
  return a.pixel_stride == s.channels && (s.channels == 2 || s.channels == 4) &&
         rows_aligned(a, s.images, 1, 0, V, size);
}

inline AccumulatePlan select_accumulate(const AccumulateParams& p, int64_t small_tile, int64_t table_tile) {
  const Shape& s = p.shape;
  const int64_t size = bytes_of(p.scalar);
  AccumulatePlan plan{};
  plan.small = s.regions <= kSmallLimit && s.channels <= kSmallLimit;
  if (plan.small) {
    const int64_t V = 16 / size;
    plan.wide = pixels_aligned(p.input, s, V, size) && aligned(p.target.data, 16);
    plan.pixels_per_split = small_tile;
    plan.splits = std::max<int64_t>(1, divide_up(s.pixels, small_tile));
    return plan;
  }
  constexpr int64_t V = 4;
  plan.wide = !p.input.interleaved && pixels_aligned(p.input, s, V, size);
  const int64_t table_bytes = s.regions * (s.channels + 2) * static_cast<int64_t>(sizeof(double));
  const int64_t by_memory = s.pixels * s.channels * size / (kWorkspaceShare * table_bytes);
  const int64_t by_work = divide_up(s.pixels, table_tile);
  const int64_t by_blocks = divide_up(kTargetBlocks, std::max<int64_t>(s.images, 1));
  plan.splits = std::max<int64_t>(1, std::min({by_memory, by_work, by_blocks}));
  plan.pixels_per_split = divide_up(divide_up(s.pixels, plan.splits), table_tile) * table_tile;
  plan.splits = std::max<int64_t>(1, divide_up(s.pixels, std::max<int64_t>(plan.pixels_per_split, 1)));
  return plan;
}

inline ApplyPlan select_apply(const ApplyParams& p, int64_t threads) {
  const Shape& s = p.shape;
  const int64_t size = bytes_of(p.scalar), V = 16 / size;
  ApplyPlan plan{};
  plan.small = s.channels <= kSmallLimit;
  const bool pixelwise = p.activation == Activation::kSoftmax;  // threads own pixels, whatever the layout
  if (p.input.interleaved && !pixelwise) {
    plan.wide = p.input.pixel_stride == s.channels && p.gradient.pixel_stride == s.channels &&
                s.pixels * s.channels % V == 0 && rows_aligned(p.input, s.images, 1, 0, V, size) &&
                rows_aligned(p.gradient, s.images, 1, 0, V, size);
  } else {
    plan.wide =
        aligned(p.target.data, 16) && pixels_aligned(p.input, s, V, size) && pixels_aligned(p.gradient, s, V, size);
  }
  const int64_t acc_size = p.scalar == Scalar::kDouble ? 8 : 4;
  const int64_t table = s.regions * (1 + 2 * s.channels) * acc_size;
  const int64_t tile_pixels = threads * (plan.wide && !p.input.interleaved ? V : 1);
  const int64_t labels = p.input.interleaved ? tile_pixels * 4 : 0;
  plan.shared_table = table + labels <= kSharedTableBytes && 4 * table <= tile_pixels * s.channels * size;
  return plan;
}

}  // namespace cas_ext
