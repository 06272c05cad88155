// The CPU's pixel loops, compiled once per instruction set (isa_*.cpp) and chosen at run time (dispatch.cpp).
#pragma once

#include "../params.h"

// The wider kernels are switched on by "#pragma GCC target", which clang does not follow: with clang there is the
// baseline alone.
#if defined(__x86_64__) && !defined(__clang__)
#define CAS_X86
#endif

namespace cas_ext::cpu {

// What one chunk of pixels of one image saw.
struct ChunkTable {
  int64_t* count;   // (N)
  double* mean;     // (N, M); unwritten where count is 0
  double* scatter;  // (N); unwritten where count is 0
  void* scratch;    // scratch_bytes(shape)
  void* softmax;    // softmax_bytes(shape), if there is a softmax
};

// Rows of channels are padded: to a multiple of kPad, or to kNarrow if that is enough.
constexpr int64_t kPad = 8, kNarrow = 4;

inline int64_t padded_row(int64_t channels) {
  return channels <= kNarrow ? kNarrow : (channels + kPad - 1) / kPad * kPad;
}

constexpr int64_t kLine = 64;  // bytes

// What table.h keeps of a region, with pixel arithmetic of so many bytes: an odd number of cache lines.
inline int64_t region_bytes(int64_t channels, int64_t size) {
  const int64_t doubles = static_cast<int64_t>(sizeof(double));
  const int64_t row = padded_row(channels), pilots = row < kPad ? kPad : row;
  const int64_t bytes = row * doubles + pilots * size + kPad * (doubles + size) + 3 * doubles;
  return ((bytes + kLine - 1) / kLine | 1) * kLine;
}

// Pixels of a tile at most: what happens once a tile is rare, and what is read or written of a plane is long.
constexpr int64_t kTile = 32768;

// What becomes of a tile's pixels: pieces (pilots.h), and where they are sorted, rows of kPad channels, so many bytes
// at a time (blocks.h).
constexpr int64_t kPieceBytes = 24, kSortedBytes = 1 << 18;

// A run of n pixels has no more than 27/16 + n/16 pieces (1, then from 5, 21, 101, ... pixels on one more), and of
// kMostShort pixels at most. There is no more than one run to 6 pixels: 0.35 pieces a pixel, and a few.
inline int64_t piece_bytes(const Shape& s) {
  const int64_t bytes = ((s.pixels < kTile ? s.pixels : kTile) * 3 / 8 + 4) * kPieceBytes;
  return (bytes + kLine - 1) / kLine * kLine;
}

inline int64_t sorted_bytes(const Shape& s) {
  constexpr int64_t kRow = kPad * static_cast<int64_t>(sizeof(double));
  constexpr int64_t kLeast = 512;  // 32 pixels of bfloat16, which become rows together
  return s.pixels > kSortedBytes / kRow ? kSortedBytes : s.pixels * kRow > kLeast ? s.pixels * kRow : kLeast;
}

constexpr int64_t kNarrowBytes = 2 * kLine;  // of a region, and of what is ignored, in narrow.h

// For pixels with any labels.
inline int64_t scattered_bytes(const Shape& s) {
  return s.channels <= kNarrow ? (s.regions + 1) * kNarrowBytes : sorted_bytes(s);
}

// What a chunk is computed in: table.h, counts.h and accumulate.h lay it out. It begins at a cache line, so that rows
// do not cross one.
inline int64_t scratch_bytes(const Shape& s) {
  const int64_t doubles = static_cast<int64_t>(sizeof(double)), counts = 3 * s.regions + 4;
  return s.regions * region_bytes(s.channels, doubles) + doubles * (padded_row(s.channels) + counts) + kLine +
         piece_bytes(s) + scattered_bytes(s);
}

// A tile of softmax.h: planes of probabilities, and two more for every kPad of them.
constexpr int64_t kSoftmaxTile = 4096,
                  kSoftmaxBytes = 131072;  // pixels at most; apply has two such, and an L2 cache holds them

// Pixels of such a tile: whole vectors.
inline int64_t softmax_tile_pixels(int64_t channels) {
  constexpr int64_t kVector = 64;
  const int64_t fitting = kSoftmaxBytes / static_cast<int64_t>(sizeof(float)) / (channels > 0 ? channels : 1);
  return fitting < kVector ? kVector : fitting > kSoftmaxTile ? kSoftmaxTile : fitting / kVector * kVector;
}

// Elements from plane to plane: no power of two, so that a column of planes does not share one set of a cache.
inline int64_t softmax_stride(int64_t channels) { return softmax_tile_pixels(channels) + 16; }

inline int64_t softmax_planes(int64_t channels) { return channels + 2 * ((channels + kPad - 1) / kPad); }

// Large memory begins where a page does, nearly. Logits and probabilities would lie at the same place of their pages,
// where a load waits for a store before it that only looks as if it went to the same address.
constexpr int64_t kHalfPage = 2048;

inline int64_t softmax_bytes(const Shape& s) {
  return kHalfPage + softmax_planes(s.channels) * softmax_stride(s.channels) * static_cast<int64_t>(sizeof(double));
}

struct Kernels {
  const char* name;
  int index;  // into INSTRUCTION_SETS of cas_ext/ops.py
  // Moments of the pixels [begin, end) of image b; returns the first label out of range or kNoPixel.
  int64_t (*accumulate)(const AccumulateParams&, int64_t b, int64_t begin, int64_t end, const ChunkTable&);
  // Gradient of the pixels [begin, end) of image b.
  // With a softmax, `scratch` holds softmax_bytes(shape) twice.
  void (*apply)(const ApplyParams&, int64_t b, int64_t begin, int64_t end, void* scratch);
};

extern const Kernels kBaseline;
#ifdef CAS_X86
extern const Kernels kAvx2;
extern const Kernels kAvx512;
extern const Kernels kAvx512Bf16;
#endif

// How memory is read and written, and when pixels are sorted, by trial, for the processor at hand.
struct Tuning {
  const char* name;
  int64_t ahead;  // bytes: how far ahead few planes, and few interleaved channels, are asked for
  bool always;    // asks also where some processors need not be told: long runs of many interleaved channels, the
                  // backward of float32
  bool streams;   // writes large gradients past the caches
  bool forwards;  // loads at once what has just been stored, so that sorting pixels pays less
};

extern const Tuning kTuning;

// The fastest kernels this processor runs, or those that CAS_EXT_CPU_ISA asks for.
const Kernels& kernels();

}  // namespace cas_ext::cpu
