// What a block of accumulate_bfloat16 keeps in shared memory: the labels of an interval of pixels, as numbers of the
// regions that the interval meets, and what its warps found.
#pragma once

#include "matrix.cuh"
#include "select.h"

namespace cas_ext {

constexpr unsigned kPlainChunk = 32;       // pixels that a warp takes at a time: 8 for each lane
constexpr unsigned kPlainStep = 64;        // pixels between two places where an interval may end
constexpr unsigned kPlainInterval = 1024;  // pixels between two additions to the table, at most
constexpr unsigned kPlainRegions = 64;     // that an interval may meet: those of any step
static_assert(kPlainStep <= kPlainRegions && kPlainRegions % kProductRegions == 0);

// What a region's place says while no interval has it: whether the block has met it before.
constexpr uint8_t kNeverMet = 0xff, kMetBefore = 0xfe;
static_assert(kPlainRegions <= kMetBefore);

// A pixel's code is a float16 number, no subnormal one and no NaN: its region's place, or kPlainRegions, after it.
constexpr unsigned kFirstPlace = 0x400;

constexpr uint32_t kNone = ~0u;

struct alignas(16) PlainShared {
  double square[kMatrixWarps][kPlainRegions];  // of the interval's values, over a warp's channels
  long long first_invalid[kMatrixWarps];       // for block_min
  // Here to spare registers: the block's first label, among all, and its pixels; those of the intervals before.
  int64_t first_label;
  uint32_t size, done;
  uint32_t invalid[kMatrixWarps * kWarpSize];  // each thread's first pixel with a label out of range, or kNone
  uint32_t length, present;                    // pixels of the interval, and regions that it meets
  uint32_t pixels[kPlainRegions];              // of each
  uint8_t region[kPlainRegions];
  bool known[kPlainRegions];                                   // whether the block had met the region before
  bool any_spoiled[kMatrixWarps];                              // whether there are any in what follows
  bool spoiled[kMatrixWarps][kPlainRegions][8 * kTripleLane];  // a value was not finite
  uint8_t place[kMatrixRegions];                               // of every region: its number in the interval
  uint8_t products[kPlainInterval / kPlainChunk];              // which 16 regions each chunk meets
  alignas(16) uint16_t code[kPlainInterval];                   // first: regions, N for none
};
static_assert(sizeof(PlainShared) <= kSharedTableBytes && kMatrixRegions < kNeverMet);

// Reads the regions of the pixels that follow those done, as many as an interval may have, and none up to the end of a
// step.
__device__ __forceinline__ void read_regions(PlainShared& shared, const LabelArray& target, unsigned regions,
                                             unsigned longest, unsigned end) {
  constexpr int kTogether = 4;
  const unsigned done = shared.done;
  const int64_t first_label = shared.first_label + done;
  const bool together = reinterpret_cast<uintptr_t>(target.data) % 16 == 0 && first_label % kTogether == 0;
  for (unsigned first = threadIdx.x * kTogether; first < end; first += blockDim.x * kTogether) {
    int32_t label[kTogether];
    if (together && first + kTogether <= longest) {
      load_regions(target, regions, first_label + first, label);
    } else {
#pragma unroll 1
      for (unsigned k = 0; k < kTogether; ++k) {
        int32_t one[1] = {kIgnored};
        if (first + k < longest) load_regions(target, regions, first_label + first + k, one);
#pragma unroll
        for (unsigned j = 0; j < kTogether; ++j) label[j] = j == k ? one[0] : label[j];
      }
    }
    uint16_t region[kTogether];
#pragma unroll
    for (unsigned k = 0; k < kTogether; ++k) {
      if (label[k] == kInvalid && shared.invalid[threadIdx.x] == kNone) shared.invalid[threadIdx.x] = done + first + k;
      region[k] = static_cast<uint16_t>(label[k] >= 0 ? static_cast<unsigned>(label[k]) : regions);
    }
    using Word = typename WordOf<sizeof(region)>::type;
    Word word;
    memcpy(&word, region, sizeof(word));
    *reinterpret_cast<Word*>(&shared.code[first]) = word;
  }
}

// A warp, for the pixels of a step: gives the regions that no place is known of one each, from `present` on, and
// returns how many they are. Those beyond the last place get none.
__device__ __forceinline__ unsigned give_places(PlainShared& shared, const unsigned (&region)[2], unsigned regions,
                                                unsigned present) {
  const unsigned lane = threadIdx.x % kWarpSize, below = (1u << lane) - 1;
  unsigned more = 0;
#pragma unroll 1
  for (unsigned c = 0; c < 2; ++c) {
    const unsigned own = c == 0 ? region[0] : region[1];
    const bool is_new = own < regions && shared.place[own] >= kMetBefore;
    const unsigned peers = __match_any_sync(kFullWarp, own);
    const bool leads = is_new && (peers & below) == 0;
    const unsigned leaders = __ballot_sync(kFullWarp, leads), place = present + more + __popc(leaders & below);
    more += __popc(leaders);
    __syncwarp();  // all lanes have read
    if (leads && place < kPlainRegions) {
      shared.region[place] = static_cast<uint8_t>(own);
      shared.known[place] = shared.place[own] == kMetBefore;
      shared.pixels[place] = 0;
      shared.place[own] = static_cast<uint8_t>(place);
    }
    __syncwarp();
  }
  return more;
}

// Reads the labels of the pixels that follow those done and finds the interval: its length, its regions and their
// places, and its pixels' codes up to the end of a step. All threads have passed a barrier when it returns.
__device__ __forceinline__ void begin_interval(PlainShared& shared, const LabelArray& target, unsigned regions) {
  const unsigned left = shared.size - shared.done, longest = left < kPlainInterval ? left : kPlainInterval;
  const unsigned end = (longest + kPlainStep - 1) / kPlainStep * kPlainStep;
  read_regions(shared, target, regions, longest, end);
  __syncthreads();
  if (threadIdx.x < kWarpSize) {
    const unsigned lane = threadIdx.x, below = (1u << lane) - 1;
    unsigned present = 0, step = 0;
    for (; step < end; step += kPlainStep) {
      unsigned region[2], place[2];
      const auto look_up = [&] {
        bool is_new = false;
#pragma unroll
        for (unsigned c = 0; c < 2; ++c) {
          place[c] = region[c] < regions ? shared.place[region[c]] : kPlainRegions;
          is_new = is_new || place[c] >= kMetBefore;
        }
        return is_new;
      };
#pragma unroll
      for (unsigned c = 0; c < 2; ++c) region[c] = shared.code[step + c * kPlainChunk + lane];
      if (__any_sync(kFullWarp, look_up())) {
        const unsigned more = give_places(shared, region, regions, present);
        if (present + more > kPlainRegions) break;
        present += more;
        look_up();
      }
#pragma unroll
      for (unsigned c = 0; c < 2; ++c) {
        const bool counts = place[c] < kPlainRegions;
        const unsigned peers = __match_any_sync(kFullWarp, place[c]);
        if (counts && (peers & below) == 0) shared.pixels[place[c]] += __popc(peers);
        __syncwarp();
        const unsigned products = or_of_warp(counts ? 1u << place[c] / kProductRegions : 0u);
        if (lane == 0) shared.products[step / kPlainChunk + c] = static_cast<uint8_t>(products);
        shared.code[step + c * kPlainChunk + lane] = static_cast<uint16_t>(kFirstPlace + place[c]);
      }
    }
    // Where a step did not fit, what it had found already is taken back.
    const unsigned found = step < end ? kPlainRegions : present;
    for (unsigned i = present + lane; i < found; i += kWarpSize) {
      shared.place[shared.region[i]] = shared.known[i] ? kMetBefore : kNeverMet;
    }
    if (lane == 0) {
      shared.present = present;
      shared.length = step < longest ? step : longest;
    }
  }
  __syncthreads();
}

}  // namespace cas_ext
