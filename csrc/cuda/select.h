// Which kernel runs for which shape, dtype, layout and alignment, with how many blocks: plain host code, no CUDA. The
// table, and why, is in docs/performance.md; tests/simt/test_selector.py holds the two together.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../host_device.h"
#include "../params.h"

namespace cas_ext {

constexpr int64_t kSmallLimit = 4;         // regions and channels of the small kernel
constexpr int64_t kSmallLeastPixels = 16;  // of a thread of it: fewer would cost more to add up than to read
// 3 blocks for each of 132 multiprocessors. A constant, so that results are the same on any GPU.
constexpr int64_t kWaveBlocks = 396;
constexpr int64_t kWaves = 3;  // of blocks, while the partial tables stay below a kSmallShare-th of the input
constexpr int64_t kSmallShare = 64;
constexpr int64_t kLargeShare = 4;  // one wave, or as many blocks as leave the tables below this share of the input
constexpr int64_t kMostPixels = int64_t{1} << 30;  // of a block: counted in 32 bits
constexpr int64_t kSharedTableBytes = 49152;       // what a block may use without asking for more

// accumulate_strips: see strips_table.cuh.
constexpr int64_t kStripRegions = 112;     // at most: a warp has a table of its own in shared memory
constexpr int64_t kStripChunk = 512;       // pixels of float that a warp takes at a time
constexpr int64_t kWaveStrips = 12 * 132;  // warps that 132 multiprocessors hold, with N = 64

// The kernels that use tensor cores, float's and bfloat16's: see matrix_tile.cuh.
constexpr int64_t kMatrixRegions = 112;   // at most: their sums are in registers
constexpr int64_t kMatrixLeast = 9;       // channels: fewer would leave most of a warp idle
constexpr int64_t kMatrixChannels = 480;  // at most, so that codes of that many regions stay numbers
constexpr int64_t kPilotCells = 7296;     // floats, so that a block stays below kSharedTableBytes
constexpr int64_t kMatrixWarps = 4;       // of a block, at most
constexpr int64_t kFewRegions = 32;       // up to which there are kernels with fewer sums in registers
constexpr int kPairLane = 2;              // channels of a lane: a warp of 8 such sums 16
constexpr int kTripleLane = 3;            // or 24, where those fit better,
constexpr int kTripleWarps = 3;           // in this many warps at most: of 4, 16 channels fit as well

enum class AccumulateKernel : int32_t { kSmall, kStrips, kMatrix, kBFloat16, kTable };
enum class ApplyKernel : int32_t { kPlanar, kInterleaved, kSoftmaxSmall, kSoftmaxTeam };

// How an image's moments come from what its blocks saw: there is one block; the last block to finish merges; a second
// kernel does.
enum class Merge : int32_t { kNone, kLastBlock, kKernel };

// V: neighbours that one thread loads at once, pixels of a channel or (where kernels own no pixels) channels of a
// pixel; 16 bytes of them (kMatrix and kBFloat16: 2 channels), or 1 where addresses do not allow that.
struct AccumulatePlan {
  AccumulateKernel kernel;
  int64_t V;
  int64_t splits;  // blocks per image
  int64_t pixels_per_split;
  Merge merge;
};

struct ApplyPlan {
  ApplyKernel kernel;
  int64_t V;
  bool shared_table;  // coefficients in shared memory
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

inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Whether accesses of V neighbours are aligned everywhere, with rows that are `stride` elements apart.
inline bool rows_aligned(const PixelArray& a, int64_t images, int64_t rows, int64_t stride, int64_t V) {
  return aligned(a.data) && (images <= 1 || a.image_stride % V == 0) && (rows <= 1 || stride % V == 0);
}

// V pixels of a channel (planar), or all channels of V pixels that touch (interleaved): PixelPacks of device.cuh.
inline bool pixels_aligned(const PixelArray& a, const Shape& s, int64_t V) {
  if (s.pixels % V != 0) return false;
  if (!a.interleaved) return rows_aligned(a, s.images, s.channels, a.channel_stride, V);
  return a.pixel_stride == s.channels && (s.channels == 2 || s.channels == 4) && rows_aligned(a, s.images, 1, 0, V);
}

// V channels of a pixel.
inline bool channels_aligned(const PixelArray& a, const Shape& s, int64_t V) {
  return s.channels % V == 0 && rows_aligned(a, s.images, s.pixels, a.pixel_stride, V);
}

// V elements of an image whose pixels touch.
inline bool elements_aligned(const PixelArray& a, const Shape& s, int64_t V) {
  return a.pixel_stride == s.channels && s.pixels * s.channels % V == 0 && rows_aligned(a, s.images, 1, 0, V);
}

// What the kernels of accumulate work on at a time.
struct AccumulateTiles {
  int64_t small_threads;  // of a block of the small kernel
  int64_t small_pixels;   // of a thread, at most
  int64_t table_pixels;   // of a tile of the table kernel
};

// Blocks per image that make at most `blocks` in all, with tables of no more than a share-th of the input.
inline int64_t splits_within(const Shape& s, int64_t image_bytes, int64_t blocks, int64_t share) {
  const int64_t table_bytes = s.regions * (s.channels + 2) * static_cast<int64_t>(sizeof(double));
  return std::min(blocks / std::max<int64_t>(s.images, 1), image_bytes / (share * table_bytes));
}

// What `channels` take in warps of 8 lanes of `lane` channels each.
CAS_HD int64_t warp_channels(int64_t channels, int lane) { return (channels + 8 * lane - 1) / (8 * lane) * (8 * lane); }

// Three channels a lane where that leaves fewer lanes idle in one pass of a block (17 to 24 channels, and 65 to 72),
// unless channels are loaded in pairs, or sums of more regions take the registers.
inline int lane_channels(const Shape& s, bool interleaved) {
  const int64_t triple = warp_channels(s.channels, kTripleLane);
  const bool pairs = interleaved && s.channels % 2 == 0;
  const bool fits = triple <= kTripleWarps * 8 * kTripleLane && triple < warp_channels(s.channels, kPairLane);
  return fits && !pairs && s.regions <= kFewRegions ? kTripleLane : kPairLane;
}

// Floats from one region's pilots to the next: rows of neighbouring regions begin in different banks.
CAS_HD int64_t pilot_stride(int64_t channels, int lane) {
  const int64_t whole = warp_channels(channels, lane);
  return whole % 16 == 0 ? whole + 8 : whole;
}

CAS_HD int64_t matrix_warps(const Shape& s, int lane) {
  const int64_t warps = warp_channels(s.channels, lane) / (8 * lane);
  return warps < kMatrixWarps ? warps : kMatrixWarps;
}

// Warps of these kernels that a multiprocessor must be able to hold, by the registers that they need not to spill, or
// by shared memory.
constexpr int matrix_warps_held(int lane, bool few) { return few && lane == kPairLane ? 16 : 12; }
constexpr int bfloat16_warps_held(int64_t V, int lane, bool few) {
  if (lane == kTripleLane) return 10;
  return V == 8 || (few && V > 1) ? 12 : 8;
}

// Blocks of them that 132 multiprocessors hold at a time.
inline int64_t wave_of_products(const Shape& s, Scalar scalar, int64_t V, int lane) {
  const bool few = s.regions <= kFewRegions;
  const int warps = scalar == Scalar::kFloat ? matrix_warps_held(lane, few) : bfloat16_warps_held(V, lane, few);
  return warps / matrix_warps(s, lane) * 132;
}

// kMatrix or kBFloat16 where tensor cores do it, else kTable.
inline AccumulateKernel select_products(const AccumulateParams& p) {
  const Shape& s = p.shape;
  const bool fits = p.activation == Activation::kNone && s.regions <= kMatrixRegions && kMatrixLeast <= s.channels &&
                    s.channels <= kMatrixChannels;
  if (fits && p.scalar == Scalar::kBFloat16) return AccumulateKernel::kBFloat16;
  const bool pilots_fit =
      (s.regions + 1) * pilot_stride(s.channels, lane_channels(s, p.input.interleaved)) <= kPilotCells;
  return fits && pilots_fit && p.scalar == Scalar::kFloat ? AccumulateKernel::kMatrix : AccumulateKernel::kTable;
}

// `tensor_cores`: whether the device has those of sm_80 and later, and runs code that was compiled for them.
inline AccumulatePlan select_accumulate(const AccumulateParams& p, const AccumulateTiles& tiles, bool tensor_cores) {
  const Shape& s = p.shape;
  const int64_t size = bytes_of(p.scalar), wide = 16 / size;
  AccumulatePlan plan{};
  int64_t tile = tiles.table_pixels;  // blocks own whole tiles
  if (s.regions <= kSmallLimit && s.channels <= kSmallLimit) {
    plan.kernel = AccumulateKernel::kSmall;
    plan.V = pixels_aligned(p.input, s, wide) && aligned(p.target.data) ? wide : 1;
    tile = tiles.small_threads * kSmallLeastPixels;
    const int64_t wave = divide_up(s.images * s.pixels, kWaveBlocks), most = tiles.small_threads * tiles.small_pixels;
    plan.splits = divide_up(s.pixels, std::min(divide_up(std::max<int64_t>(wave, 1), tile) * tile, most));
  } else {
    int64_t wave = kWaveBlocks;
    if (s.regions <= kStripRegions && s.channels <= kSmallLimit && p.scalar != Scalar::kDouble) {
      plan.kernel = AccumulateKernel::kStrips;
      plan.V = pixels_aligned(p.input, s, wide) && aligned(p.target.data) ? wide : 1;
      tile = kStripChunk;
      wave = kWaveStrips;
    } else {
      plan.kernel = tensor_cores ? select_products(p) : AccumulateKernel::kTable;
      const bool matrix = plan.kernel != AccumulateKernel::kTable;
      const int64_t neighbours = matrix && p.input.interleaved ? 2 : wide;
      const bool together =
          p.input.interleaved ? channels_aligned(p.input, s, neighbours) : pixels_aligned(p.input, s, neighbours);
      plan.V = together ? neighbours : 1;
      if (matrix) wave = wave_of_products(s, p.scalar, plan.V, lane_channels(s, p.input.interleaved));
    }
    const int64_t bytes = s.pixels * s.channels * size;
    plan.splits = std::max({splits_within(s, bytes, kWaves * wave, kSmallShare),
                            splits_within(s, bytes, wave, kLargeShare), divide_up(s.pixels, kMostPixels)});
  }
  const int64_t pixels = std::max<int64_t>(s.pixels, 1);  // a block for an image without pixels, too
  plan.pixels_per_split = divide_up(divide_up(pixels, std::max<int64_t>(plan.splits, 1)), tile) * tile;
  plan.splits = divide_up(pixels, plan.pixels_per_split);
  plan.merge = plan.kernel != AccumulateKernel::kSmall ? Merge::kKernel
               : plan.splits == 1                      ? Merge::kNone
               : plan.splits <= tiles.small_threads    ? Merge::kLastBlock  // a thread reads the table of a block
                                                       : Merge::kKernel;
  return plan;
}

// Channels of a region's coefficients in shared memory: odd, so that those of different regions lie in different banks.
CAS_HD int64_t shared_row(int64_t channels) { return channels | 1; }

inline ApplyPlan select_apply(const ApplyParams& p, int64_t threads) {
  const Shape& s = p.shape;
  const int64_t size = bytes_of(p.scalar), wide = 16 / size;
  const bool by_pixels =
      aligned(p.target.data) && pixels_aligned(p.input, s, wide) && pixels_aligned(p.gradient, s, wide);
  if (p.activation == Activation::kSoftmax) {
    if (s.channels > kSmallLimit) return {ApplyKernel::kSoftmaxTeam, 1, false};
    return {ApplyKernel::kSoftmaxSmall, by_pixels ? wide : 1, false};
  }
  ApplyPlan plan{};
  plan.kernel = p.input.interleaved ? ApplyKernel::kInterleaved : ApplyKernel::kPlanar;
  const bool by_elements = elements_aligned(p.input, s, wide) && elements_aligned(p.gradient, s, wide);
  plan.V = (p.input.interleaved ? by_elements : by_pixels) ? wide : 1;
  const int64_t acc_size = p.scalar == Scalar::kDouble ? 8 : 4;
  const int64_t table = s.regions * (1 + 2 * shared_row(s.channels)) * acc_size;
  const int64_t tile_pixels = threads * (p.input.interleaved ? 1 : plan.V);
  const int64_t labels = p.input.interleaved ? tile_pixels * 4 : 0;
  plan.shared_table = table + labels <= kSharedTableBytes && 4 * table <= tile_pixels * s.channels * size;
  return plan;
}

}  // namespace cas_ext
