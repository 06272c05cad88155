// What a tile's segments are: neighbouring places of one region, at most kSegmentPixels of them, each channel of which
// one thread sums. Pixels stay where they are while that makes few segments, as in coherent masks. Otherwise they are
// brought together by region, at a cost that hardly depends on how the labels lie: the places of a region's pixels
// become neighbours (a run) and keep the pixels' order, so that sums over a run have one order. Runs are in the order
// of their first pixels; pixels of no region come last.
//
// Two pixels have the same label if all bits of their labels agree, so ballots find the pixels of a label: one for each
// bit in which labels of the tile differ.
#pragma once

#include "device.cuh"

namespace cas_ext {

constexpr int kTilePixels = 256;  // one thread each
constexpr int kTileWarps = kTilePixels / kWarpSize;
constexpr int kSegmentPixels = kWarpSize;  // aligned places, so that a warp finds its segments alone
constexpr int kFewSegments = 24;           // runs of 25 pixels make 18; what their sums take still fits shared memory
constexpr int kLabelBits = 31;
constexpr unsigned kWholeRun = 255;  // in place of a slot

using TileBits = uint32_t[kTileWarps];  // one bit for each pixel or place of a tile

struct TileGroups {
  double fraction[kTilePixels];  // merge_weights of the region that begins at this place
  int32_t region[kTilePixels];   // of the segment that begins at this place; grouped: at each place, kIgnored for none
  uint32_t segment[kTilePixels];
  uint16_t length[kTilePixels];   // pixels of the region that begins at this place
  uint16_t place[kTilePixels];    // grouped: of each pixel, as padded() has it
  uint32_t peers[kFewSegments];   // not grouped: the segments of this segment's region
  uint32_t leader[kFewSegments];  // not grouped: each region's first segment
  uint32_t regions;               // not grouped: of the tile
  TileBits members;               // which pixels belong to a region
  uint32_t any[kTileWarps];       // bits that some label of each warp has
  uint32_t missing[kTileWarps];   // bits that some label of each warp lacks
  int32_t total[kTileWarps];      // pixels whose runs begin in each warp's pixels
  uint32_t segments[kTileWarps];  // that lie in each warp's places
  int32_t long_run[kTileWarps];   // begin of the run that leaves the warp's places, or -1; at most one does
};

// What only group_pixels needs.
struct GroupScratch {
  TileBits bits[kLabelBits];
  uint16_t begin[kTilePixels];  // first place of the run whose first pixel this is
};

// Rows of staged values have a gap after every 32 places: no bank conflicts where lanes hold neighbouring pixels.
__device__ __forceinline__ constexpr unsigned padded(unsigned place) { return place + place / kWarpSize; }
constexpr int kRowPlaces = kTilePixels + kTileWarps + 1;  // odd: no conflicts either where lanes hold channels

// slot: where its sums go, or kWholeRun if it is all of its region that the tile has.
struct Segment {
  unsigned begin, length, slot;

  __device__ __forceinline__ uint32_t packed() const { return begin | length << 8 | slot << 16; }
};
__device__ __forceinline__ Segment unpack(uint32_t packed) { return {packed & 255, packed >> 8 & 255, packed >> 16}; }

// Grouped, two slots for each kSegmentPixels places: for the segment that goes on from the left, and for one that
// begins here and goes on to the right.
constexpr int kSlots = kFewSegments;
static_assert(2 * kTileWarps <= kSlots && kFewSegments <= kWarpSize);
__device__ __forceinline__ unsigned slot_of(unsigned place, bool begins) {
  return 2 * (place / kSegmentPixels) + begins;
}

// What a thread knows of its place.
struct PlaceInfo {
  bool starts;      // a segment
  unsigned index;   // of that segment
  unsigned length;  // of that segment
  unsigned total;   // segments of the tile
};

// Thread: a place of this region. All threads pass a barrier.
__device__ __forceinline__ PlaceInfo find_segments(int32_t region, TileGroups& tile) {
  const unsigned lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int32_t left = __shfl_up_sync(kFullWarp, region, 1);
  const bool differs = lane == 0 || left != region, starts = differs && region >= 0;
  const unsigned later = __ballot_sync(kFullWarp, differs) >> lane >> 1, votes = __ballot_sync(kFullWarp, starts);
  if (lane == 0) tile.segments[warp] = __popc(votes);
  __syncthreads();
  unsigned index = __popc(votes & ((1u << lane) - 1)), total = 0;
#pragma unroll
  for (unsigned w = 0; w < kTileWarps; ++w) {
    index += w < warp ? tile.segments[w] : 0;
    total += tile.segments[w];
  }
  return {starts, index, later ? static_cast<unsigned>(__ffs(later)) : kWarpSize - lane, total};
}

// Thread: a pixel of this region, in a tile of few segments. Fills tile.segment, which the next barrier shows to all.
__device__ __forceinline__ void list_segments(int32_t region, const PlaceInfo& own, TileGroups& tile) {
  if (!own.starts) return;
  const unsigned place = threadIdx.x;
  tile.segment[own.index] = Segment{place, own.length, own.index}.packed();
  tile.region[place] = region;
}

// Warp, after list_segments and a barrier: tells which segments belong to one region, and adds their pixels to `count`.
__device__ __forceinline__ void match_segments(unsigned segments, TileGroups& tile, int64_t* count) {
  const unsigned lane = threadIdx.x % kWarpSize;
  const bool exists = lane < segments;
  const Segment segment = exists ? unpack(tile.segment[lane]) : Segment{0, 0, 0};
  const int32_t region = exists ? tile.region[segment.begin] : kIgnored;
  const unsigned peers = __match_any_sync(kFullWarp, region);
  const bool leads = exists && (peers & ((1u << lane) - 1)) == 0;
  const unsigned leaders = __ballot_sync(kFullWarp, leads);
  if (lane == 0) tile.regions = __popc(leaders);
  if (!leads) return;
  tile.leader[__popc(leaders & ((1u << lane) - 1))] = lane;
  unsigned n = 0;
  for (unsigned rest = peers; rest != 0; rest &= rest - 1) n += unpack(tile.segment[__ffs(rest) - 1]).length;
  const int64_t before = count[region];
  count[region] = before + n;
  tile.fraction[segment.begin] = merge_weights(static_cast<double>(before), n).fraction;
  tile.length[segment.begin] = static_cast<uint16_t>(n);
  tile.peers[lane] = peers;
}

// Thread: a pixel of this region (or kIgnored). Fills tile.place, tile.region, tile.length for all threads and returns
// the pixel's padded place. All threads have passed a barrier when it returns.
__device__ __forceinline__ int group_pixels(int32_t region, TileGroups& tile, GroupScratch& scratch) {
  const int x = threadIdx.x, lane = x % kWarpSize, warp = x / kWarpSize;
  const unsigned below = (1u << lane) - 1;
  const bool member = region >= 0;
  const unsigned members = __ballot_sync(kFullWarp, member);
  const unsigned any = warp_or(member ? static_cast<unsigned>(region) : 0u);
  const unsigned missing = warp_or(member ? ~static_cast<unsigned>(region) : 0u);
  if (lane == 0) {
    tile.members[warp] = members;
    tile.any[warp] = any;
    tile.missing[warp] = missing;
  }
  __syncthreads();
  unsigned same[kTileWarps], in_any = 0, missing_any = 0;  // same: bits of the pixels of this region
  int members_before = __popc(members & below), members_total = 0;
#pragma unroll
  for (int w = 0; w < kTileWarps; ++w) {
    same[w] = tile.members[w];
    in_any |= tile.any[w];
    missing_any |= tile.missing[w];
    members_before += w < warp ? __popc(same[w]) : 0;
    members_total += __popc(same[w]);
  }
  const unsigned varying = in_any & missing_any;
  int row = 0;
  for (unsigned rest = varying; rest != 0; rest &= rest - 1, ++row) {
    const unsigned votes = __ballot_sync(kFullWarp, region >> (__ffs(rest) - 1) & 1);
    if (lane == 0) scratch.bits[row][warp] = votes;
  }
  __syncthreads();
  row = 0;
  for (unsigned rest = varying; rest != 0; rest &= rest - 1, ++row) {
    const unsigned flip = region >> (__ffs(rest) - 1) & 1 ? 0u : ~0u;
#pragma unroll
    for (int w = 0; w < kTileWarps; ++w) same[w] &= scratch.bits[row][w] ^ flip;
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
    scratch.begin[x] = static_cast<uint16_t>(begin);
    tile.length[begin] = static_cast<uint16_t>(n);
  }
  __syncthreads();
  const int place = member ? scratch.begin[first] + rank : members_total + x - members_before;
  tile.place[x] = static_cast<uint16_t>(padded(place));
  tile.region[place] = member ? region : kIgnored;
  __syncthreads();
  return padded(place);
}

// What a thread knows of its place in a grouped tile.
struct RunInfo {
  int32_t region;     // whose run begins here, or kIgnored
  unsigned segments;  // of the tile
};

// Thread: a place, after group_pixels. Fills tile.segment, which the next barrier shows to all threads, and
// tile.long_run; adds the runs' pixels to `count`.
__device__ __forceinline__ RunInfo list_runs(TileGroups& tile, int64_t* count) {
  const unsigned place = threadIdx.x;
  const int32_t region = tile.region[place];
  const PlaceInfo own = find_segments(region, tile);
  const bool begins = own.starts && (place == 0 || tile.region[place - 1] != region);
  const unsigned n = begins ? tile.length[place] : 0;
  const bool whole = own.length == n;
  const unsigned leaves = __ballot_sync(kFullWarp, begins && !whole);
  if (place % kWarpSize == 0)
    tile.long_run[place / kWarpSize] = leaves ? static_cast<int>(place) + __ffs(leaves) - 1 : -1;
  if (own.starts) {
    tile.segment[own.index] = Segment{place, own.length, whole ? kWholeRun : slot_of(place, begins)}.packed();
  }
  if (begins) {
    const int64_t before = count[region];
    count[region] = before + n;
    tile.fraction[place] = merge_weights(static_cast<double>(before), n).fraction;
  }
  return {begins ? region : kIgnored, own.total};
}

}  // namespace cas_ext
