// What a block of accumulate_matrix keeps in shared memory: the labels of an interval of pixels and what they say of
// the regions, pilots, and the squares on their way from channels to regions.
#pragma once

#include "matrix.cuh"
#include "select.h"

namespace cas_ext {

constexpr unsigned kChunkPixels = 32;       // that a warp takes at a time: 8 for each lane
constexpr unsigned kStepPixels = 64;        // between two barriers
constexpr unsigned kIntervalPixels = 1024;  // between two additions to the table, at most: sums in float stay short
constexpr unsigned kFirstInterval = 128;    // the first pilots are of few pixels, so they are soon replaced

// Marks a chunk of pixels that are all of one region, which is not young: sums of it need no products.
constexpr unsigned kUniform = 0x80;
static_assert(kMatrixRegions <= 7 * kProductRegions);

// A pixel's code says where the pilots of its region are, in units of two floats, and read as a float16 number it is no
// subnormal one and no NaN. Pixels of no region have the code, and pilots of 0, of the region after the last.
constexpr unsigned kFirstCode = 0x400;
static_assert(kFirstCode + kMatrixRegions * ((kMatrixChannels + 8) / 2) < 0x7c00);

__device__ __forceinline__ unsigned code_of(unsigned region, unsigned stride) {
  return kFirstCode + region * (stride / 2);
}

__device__ __forceinline__ unsigned whole_steps(unsigned pixels) {
  return (pixels + kStepPixels - 1) / kStepPixels * kStepPixels;
}

// Of the interval that begins after `done` pixels of a block.
__device__ __forceinline__ unsigned interval_length(unsigned size, unsigned done) {
  const unsigned longest = done < kFirstInterval ? kFirstInterval : done < kIntervalPixels ? done : kIntervalPixels;
  return size - done < longest ? size - done : longest;
}

constexpr unsigned kSquareStride = kStepPixels + 4;  // in different banks
constexpr unsigned kRunRows = kPairLane + 1;
static_assert((kTripleLane + 1) * kTripleWarps <= kRunRows * kMatrixWarps);

struct alignas(16) MatrixShared {
  double scatter[kMatrixRegions];         // about the pilots, of all intervals so far
  long long first_invalid[kMatrixWarps];  // each warp's first pixel with a label out of range
  // Here to spare registers: the block's first label, among all, and pixels of the block, of the intervals before, and
  // of this interval.
  int64_t first_label;
  uint32_t size, done, length;
  uint32_t total[kMatrixRegions];             // pixels of the intervals before
  uint32_t settled[kMatrixRegions];           // of them, those before the pilot was moved last
  float added[2][kMatrixRegions];             // squares of the interval
  float moved[kMatrixWarps][kMatrixRegions];  // what moving pilots adds to the scatter
  // Of uniform chunks in a row, for each thread: its sums of each channel, then of squares (run_of).
  float run[kRunRows * kMatrixWarps * kWarpSize];
  uint32_t run_region[kMatrixWarps];  // whose they are, or N: of none
  // Where each warp's loads are: pixels of the intervals before, of this one, and the pass's first channel.
  uint32_t next_done[kMatrixWarps], next_length[kMatrixWarps], next_channel[kMatrixWarps];
  uint32_t any_young;                              // whether any region is
  uint32_t young[kIntervalPixels / kChunkPixels];  // pixels of each chunk whose regions are new or young
  alignas(16) uint16_t code[kIntervalPixels];
  union {
    uint16_t count[kMatrixWarps][kMatrixRegions];  // pixels of the interval whose labels each warp has read
    uint16_t seen[kMatrixWarps][kMatrixRegions];   // then: pixels that each warp's pilots of a region know
  };
  uint16_t met[kMatrixRegions];                      // pixels of the interval
  uint8_t region[kIntervalPixels];                   // N: none
  uint8_t products[kIntervalPixels / kChunkPixels];  // which 16 regions each chunk meets, or kUniform

  __device__ __forceinline__ float& run_of(unsigned row, unsigned thread) { return run[row * blockDim.x + thread]; }

  // After it in memory: squares of a step's pixels, over a lane's channels, a row for each warp and g; then pilots (N +
  // 1, pilot_stride).
  __device__ __forceinline__ float* squares() { return reinterpret_cast<float*>(this + 1); }
  __device__ __forceinline__ float* pilots() { return squares() + blockDim.x / 4 * kSquareStride; }
};
static_assert(sizeof(MatrixShared) % 16 == 0 && kMatrixRegions <= 255);

CAS_HD int64_t matrix_shared_bytes(const Shape& s, int lane) {
  const int64_t cells = (s.regions + 1) * pilot_stride(s.channels, lane) + matrix_warps(s, lane) * 8 * kSquareStride;
  return static_cast<int64_t>(sizeof(MatrixShared)) + cells * static_cast<int64_t>(sizeof(float));
}
static_assert(sizeof(MatrixShared) + (kPilotCells + kMatrixWarps * 8 * kSquareStride) * sizeof(float) <=
              kSharedTableBytes);

// Whether a pilot of `known` pixels has to follow the values of `n` more. If one of the known is an outlier, it is D /
// known that the pilot is from the others, D for the outlier: about it, n squares sum to n D^2 / known^2, no more than
// the D^2 that the outlier adds to the scatter, so that nothing cancels. Of a few, 3 bits do.
constexpr unsigned kFewFollowers = 8;
__device__ __forceinline__ bool is_young(unsigned known, unsigned n) {
  const unsigned enough = 0xffff;  // whose square still fits
  known = known < enough ? known : enough;
  return n > kFewFollowers && known * known < n;
}

// Labels of an interval's pixels, and none up to the end of a step. All threads have passed a barrier when it returns.
__device__ __forceinline__ void read_labels(MatrixShared& shared, const LabelArray& target, unsigned regions,
                                            unsigned stride) {
  const unsigned thread = thread_again(), lane = thread % kWarpSize, warp = thread / kWarpSize;
  const unsigned done = shared.done, length = shared.length, end = whole_steps(length);
  for (unsigned i = lane; i < regions; i += kWarpSize) shared.count[warp][i] = 0;
  __syncwarp();
  for (unsigned x = thread; x < end; x += blockDim.x) {
    int32_t label[1] = {kIgnored};
    if (x < length) load_regions<1>(target, regions, shared.first_label + done + x, label);
    const unsigned invalid = __ballot_sync(kFullWarp, label[0] == kInvalid);
    if (invalid != 0 && lane == 0 && shared.first_invalid[warp] == kNoPixel) {
      shared.first_invalid[warp] = done + x + __ffs(invalid) - 1;
    }
    const unsigned region = label[0] >= 0 ? static_cast<unsigned>(label[0]) : regions;
    shared.region[x] = static_cast<uint8_t>(region);
    shared.code[x] = static_cast<uint16_t>(code_of(region, stride));
    const unsigned peers = __match_any_sync(kFullWarp, region);
    const bool leads = region < regions && (peers & ((1u << lane) - 1)) == 0;
    if (leads) shared.count[warp][region] = static_cast<uint16_t>(shared.count[warp][region] + __popc(peers));
    const unsigned product = region < regions ? 1u << region / kProductRegions : 0u;
    const unsigned products = warp_or(peers == kFullWarp && product != 0 ? kUniform : product);
    if (lane == 0) shared.products[x / kChunkPixels] = static_cast<uint8_t>(products);
    __syncwarp();
  }
  __syncthreads();
  bool young = false;
  for (unsigned i = thread; i < regions; i += blockDim.x) {
    unsigned n = 0;
#pragma unroll 1
    for (unsigned w = 0; w < blockDim.x / kWarpSize; ++w) n += shared.count[w][i];
    shared.met[i] = static_cast<uint16_t>(n);
    young = young || (n > 0 && shared.total[i] == 0) || is_young(shared.total[i], n);
  }
  const bool any = __syncthreads_or(young);
  if (thread == 0) shared.any_young = any;
  for (unsigned x = thread; any && x < end; x += blockDim.x) {
    const unsigned region = shared.region[x];
    const unsigned total = region < regions ? shared.total[region] : 0;
    const bool follows = region < regions && (total == 0 || is_young(total, shared.met[region]));
    const unsigned votes = __ballot_sync(kFullWarp, follows);
    if (lane != 0) continue;
    shared.young[x / kChunkPixels] = votes;
    uint8_t& products = shared.products[x / kChunkPixels];
    if (votes != 0 && products == kUniform) products = static_cast<uint8_t>(1u << region / kProductRegions);
  }
  __syncthreads();
}

// Adds the squares of a step's pixels to their regions. Warps 0 and 1 take a chunk each; a warp alone takes both.
// `rows`: of `squares`, a multiple of 8. Lane: 4 pixels of every fourth row, then one pixel.
__device__ __forceinline__ void add_squares(MatrixShared& shared, const float* squares, unsigned step, unsigned rows,
                                            unsigned regions) {
  const unsigned lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, part = lane % 4;
  const unsigned below = (1u << lane) - 1;
  for (unsigned chunk = warp; chunk < kStepPixels / kChunkPixels; chunk += blockDim.x / kWarpSize) {
    if (shared.products[step / kChunkPixels + chunk] == kUniform) continue;  // they did not come this way
    float sum[4] = {0, 0, 0, 0};
#pragma unroll 2
    for (unsigned row = part; row < rows; row += 4) {
      const float* const from = squares + row * kSquareStride + chunk * kChunkPixels + lane / 4 * 4;
      const float4 four = *reinterpret_cast<const float4*>(from);
      sum[0] += four.x, sum[1] += four.y, sum[2] += four.z, sum[3] += four.w;
    }
    const bool upper = part & 2, odd = part & 1;
    const float first = (upper ? sum[2] : sum[0]) + __shfl_xor_sync(kFullWarp, upper ? sum[0] : sum[2], 2);
    const float second = (upper ? sum[3] : sum[1]) + __shfl_xor_sync(kFullWarp, upper ? sum[1] : sum[3], 2);
    const float square = (odd ? second : first) + __shfl_xor_sync(kFullWarp, odd ? first : second, 1);

    const unsigned region = shared.region[step + chunk * kChunkPixels + lane];
    const unsigned peers = __match_any_sync(kFullWarp, region);
    const bool leads = region < regions && (peers & below) == 0;
    unsigned leaders = __ballot_sync(kFullWarp, leads);
    constexpr int kFew = 4;  // regions, for each of which the warp adds up its pixels' squares
    float total = square;
    if (__popc(leaders) <= kFew) {
#pragma unroll 1
      for (; leaders != 0; leaders &= leaders - 1) {
        const unsigned leader = __ffs(leaders) - 1;
        const float all = warp_sum(peers >> leader & 1 ? square : 0.f);
        if (lane == leader) total = all;
      }
    } else {  // every leader takes its peers' squares, one after the other
      unsigned rest = leads ? peers & ~below & ~(1u << lane) : 0u;
#pragma unroll 1
      while (__any_sync(kFullWarp, rest != 0)) {
        const float other = __shfl_sync(kFullWarp, square, rest != 0 ? __ffs(rest) - 1 : 0);
        if (rest != 0) total += other;
        rest &= rest - 1;
      }
    }
    if (leads) shared.added[chunk][region] += total;
    __syncwarp();
  }
}

}  // namespace cas_ext
