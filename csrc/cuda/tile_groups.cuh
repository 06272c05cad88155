// Brings the pixels of a tile together by region, at a cost that hardly depends on how the labels lie. Every pixel gets
// a place; the places of a region's pixels are neighbours (a run) and keep the pixels' order, so that sums over a run
// have one order. Runs are in the order of their first pixels; pixels of no region come last.
//
// Two pixels have the same label if all bits of their labels agree, so ballots find the pixels of a label: one for each
// bit in which labels of the tile differ, none where the tile lies in one region.
#pragma once

#include "device.cuh"

namespace cas_ext {

constexpr int kTilePixels = 256;  // one thread each
constexpr int kTileWarps = kTilePixels / kWarpSize;
constexpr int kSegmentPixels =
    kWarpSize;  // places whose sums one thread takes, so that a warp finds its segments alone
constexpr int kLabelBits = 31;
constexpr int kWholeRun = 255;  // in place of a slot

using TileBits = uint32_t[kTileWarps];  // one bit for each pixel or place of a tile

struct TileGroups {
  MergeWeights merge[kTilePixels];  // of the run that begins at this place
  int32_t region[kTilePixels];      // at each place, kIgnored for none
  uint16_t place[kTilePixels];      // of each pixel, as padded() has it
  uint16_t begin[kTilePixels];      // first place of the run whose first pixel this is
  uint16_t length[kTilePixels];     // of the run that begins at this place
  uint32_t segment[kTilePixels + kTileWarps];
  TileBits members;          // which pixels belong to a region
  uint32_t any[kTileWarps];  // or and and of each warp's labels
  uint32_t all[kTileWarps];
  int32_t total[kTileWarps];     // pixels whose runs begin in each warp's pixels
  int32_t segments[kTileWarps];  // that lie in each warp's places
  int32_t long_run[kTileWarps];  // begin of the run that leaves the warp's places, or -1; at most one does
};

// Rows of staged values have a gap after every 32 places: no bank conflicts where lanes hold neighbouring pixels.
__device__ __forceinline__ int padded(int place) { return place + place / kWarpSize; }
constexpr int kRowPlaces = kTilePixels + kTileWarps + 1;  // odd: no conflicts either where lanes hold channels

// Part of a run within kSegmentPixels aligned places. slot: where its sums go, or kWholeRun if it is the whole run.
struct Segment {
  int begin, length, slot;

  __device__ __forceinline__ uint32_t packed() const { return begin | length << 8 | slot << 16; }
};
__device__ __forceinline__ Segment unpack(uint32_t packed) {
  return {static_cast<int>(packed & 255), static_cast<int>(packed >> 8 & 255), static_cast<int>(packed >> 16)};
}

// Two slots for each kSegmentPixels places: for the segment that goes on from the left, and for one that begins here
// and goes on to the right.
constexpr int kSlots = 2 * kTileWarps;
__device__ __forceinline__ int slot_of(int place, bool begins) { return 2 * (place / kSegmentPixels) + begins; }

// Thread: a pixel of this region (or kIgnored). Fills tile.place, tile.region, tile.length for all threads and returns
// the pixel's padded place. `bits` holds kLabelBits rows. All threads have passed a barrier when it returns.
__device__ __forceinline__ int group_pixels(int32_t region, TileGroups& tile, TileBits* bits) {
  const int x = threadIdx.x, lane = x % kWarpSize, warp = x / kWarpSize;
  const unsigned below = (1u << lane) - 1;
  const bool member = region >= 0;
  const unsigned members = __ballot_sync(kFullWarp, member);
  const unsigned any = __reduce_or_sync(kFullWarp, member ? static_cast<unsigned>(region) : 0u);
  const unsigned all = __reduce_and_sync(kFullWarp, member ? static_cast<unsigned>(region) : ~0u);
  if (lane == 0) {
    tile.members[warp] = members;
    tile.any[warp] = any;
    tile.all[warp] = all;
  }
  __syncthreads();
  unsigned same[kTileWarps], in_any = 0, in_all = ~0u;  // same: bits of the pixels of this region
  int members_before = __popc(members & below), members_total = 0;
#pragma unroll
  for (int w = 0; w < kTileWarps; ++w) {
    same[w] = tile.members[w];
    in_any |= tile.any[w];
    in_all &= tile.all[w];
    members_before += w < warp ? __popc(same[w]) : 0;
    members_total += __popc(same[w]);
  }
  const auto put = [&](int place_of_member) {
    const int place = member ? place_of_member : members_total + x - members_before;
    tile.place[x] = static_cast<uint16_t>(padded(place));
    tile.region[place] = member ? region : kIgnored;
    __syncthreads();
    return padded(place);
  };
  const unsigned varying = in_any & ~in_all;
  if (varying == 0) {  // one region
    if (member && members_before == 0) tile.length[0] = static_cast<uint16_t>(members_total);
    return put(members_before);
  }
  int row = 0;
  for (unsigned rest = varying; rest != 0; rest &= rest - 1, ++row) {
    const unsigned votes = __ballot_sync(kFullWarp, region >> (__ffs(rest) - 1) & 1);
    if (lane == 0) bits[row][warp] = votes;
  }
  __syncthreads();
  row = 0;
  for (unsigned rest = varying; rest != 0; rest &= rest - 1, ++row) {
    const unsigned flip = region >> (__ffs(rest) - 1) & 1 ? 0u : ~0u;
#pragma unroll
    for (int w = 0; w < kTileWarps; ++w) same[w] &= bits[row][w] ^ flip;
  }
  int n = 0, rank = 0, first = 0;
#pragma unroll
  for (int w = kTileWarps - 1; w >= 0; --w) {
    n += __popc(same[w]);
    rank += __popc(w < warp ? same[w] : w == warp ? same[w] & below : 0u);
    first = same[w] ? w * kWarpSize + __ffs(same[w]) - 1 : first;
  }
  // The runs before this one: a scan of the lengths over the runs' first pixels.
  const int own = member && rank == 0 ? n : 0;
  int sum = own;
#pragma unroll
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int other = __shfl_up_sync(kFullWarp, sum, step);
    sum += lane >= step ? other : 0;
  }
  if (lane == kWarpSize - 1) tile.total[warp] = sum;
  __syncthreads();
  int begin = sum - own;
#pragma unroll
  for (int w = 0; w < kTileWarps; ++w) begin += w < warp ? tile.total[w] : 0;
  if (own > 0) {
    tile.begin[x] = static_cast<uint16_t>(begin);
    tile.length[begin] = static_cast<uint16_t>(n);
  }
  __syncthreads();
  return put(member ? tile.begin[first] + rank : 0);
}

// What a thread knows of its place, after group_pixels.
struct PlaceInfo {
  int32_t region;  // whose run begins here, or kIgnored
  int length;      // of that run
  int segments;    // of the tile
};

// Thread: a place. Fills tile.segment, which the next barrier shows to all threads, and tile.long_run.
__device__ __forceinline__ PlaceInfo list_segments(TileGroups& tile) {
  const int place = threadIdx.x, lane = place % kWarpSize, warp = place / kWarpSize;
  const int32_t region = tile.region[place];
  const bool differs = place == 0 || tile.region[place - 1] != region;
  const bool begins = region >= 0 && differs, starts_segment = region >= 0 && (differs || lane == 0);
  const unsigned later = __ballot_sync(kFullWarp, differs) >> lane >> 1;
  const int length = later ? __ffs(later) : kWarpSize - lane, run_length = begins ? tile.length[place] : 0;
  const bool whole = begins && length == run_length;
  const unsigned votes = __ballot_sync(kFullWarp, starts_segment);
  const unsigned leaves = __ballot_sync(kFullWarp, begins && !whole);
  if (lane == 0) {
    tile.segments[warp] = __popc(votes);
    tile.long_run[warp] = leaves ? place + __ffs(leaves) - 1 : -1;
  }
  __syncthreads();
  int index = __popc(votes & ((1u << lane) - 1)), total = 0;
#pragma unroll
  for (int w = 0; w < kTileWarps; ++w) {
    index += w < warp ? tile.segments[w] : 0;
    total += tile.segments[w];
  }
  if (starts_segment) {
    tile.segment[index] = Segment{place, length, whole ? kWholeRun : slot_of(place, begins)}.packed();
  }
  return {begins ? region : kIgnored, run_length, total};
}

}  // namespace cas_ext
