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

// Where sums wait for others of their region: a slot for each of few segments; grouped, two for each kSegmentPixels
// places, for the segment that goes on from the left and for one that begins here and goes on to the right.
constexpr int kSlots = kFewSegments;
static_assert(2 * kTileWarps <= kSlots && kFewSegments <= kWarpSize);

using TileBits = uint32_t[kTileWarps];  // one bit for each pixel or place of a tile

// A region whose sums lie in slots, one bit each (none: there is no such region).
struct Waiting {
  uint32_t slots, about;  // about: its key and pilots, as in Segment
};

// What the tile knows of a region stands at its key: the index of its first segment or, grouped, where its run begins.
struct TileGroups {
  double fraction[kTilePixels];  // merge_weights of a region
  int32_t region[kTilePixels];   // of a key
  uint32_t segment[kTilePixels];
  uint16_t length[kTilePixels];  // pixels of a region
  int16_t run[kTilePixels];      // grouped: where the run of each place begins, or kIgnored
  uint8_t place[kTilePixels];    // grouped: of each pixel
  Waiting waiting[kSlots];       // grouped: of the run that begins in each warp's places and leaves them, if any
  uint32_t in_slot[kSlots];      // which segment
  uint32_t regions;              // entries of `waiting`
  uint32_t grouped;              // whether the tile is
  TileBits members;              // which pixels belong to a region
  uint32_t any[kTileWarps];      // bits that some label of each warp has
  uint32_t missing[kTileWarps];  // bits that some label of each warp lacks
  int32_t total[kTileWarps];     // pixels whose runs begin in each warp's pixels
  alignas(8) uint8_t segments[kTileWarps];  // that lie in each warp's places
};

// What only group_pixels needs.
struct GroupScratch {
  TileBits bits[kLabelBits];
  uint16_t begin[kTilePixels];  // first place of the run whose first pixel this is
};

// The pilot of a region's sums is the mean of the values at two places, none of them at an end if there is a choice.
struct Segment {
  unsigned begin, length;
  bool whole;               // all of its region that the tile has, in a grouped tile
  unsigned pilot0, pilot1;  // those places: the same for all segments of a region

  __device__ __forceinline__ uint32_t packed() const {
    return begin | length << 8 | unsigned{whole} << 15 | pilot0 << 16 | pilot1 << 24;
  }
};

__device__ __forceinline__ Segment unpack(uint32_t packed) {
  return {packed & 255, packed >> 8 & 127, (packed & 1u << 15) != 0, packed >> 16 & 255, packed >> 24};
}

// The segment at `begin`; n pixels from `first` on are of its region.
__device__ __forceinline__ Segment make_segment(unsigned begin, unsigned length, bool whole, unsigned first,
                                                unsigned n) {
  return {begin, length, whole, first + n / 4, first + 3 * n / 4};
}

__device__ __forceinline__ unsigned slot_of(unsigned begin) {
  return 2 * (begin / kSegmentPixels) + (begin % kSegmentPixels != 0);
}

// What a thread knows of its place.
struct PlaceInfo {
  bool starts;      // a segment
  unsigned index;   // of that segment
  unsigned length;  // of that segment
  unsigned total;   // segments of the tile
};

__device__ __forceinline__ unsigned byte_sum(uint32_t bytes) { return bytes * 0x01010101u >> 24; }  // below 256

// Thread: a place of this region. All threads pass a barrier.
__device__ __forceinline__ PlaceInfo find_segments(int32_t region, TileGroups& tile) {
  const unsigned lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int32_t left = __shfl_up_sync(kFullWarp, region, 1);
  const bool differs = lane == 0 || left != region, starts = differs && region >= 0;
  const unsigned later = __ballot_sync(kFullWarp, differs) >> lane >> 1, votes = __ballot_sync(kFullWarp, starts);
  if (lane == 0) tile.segments[warp] = static_cast<uint8_t>(__popc(votes));
  __syncthreads();
  const uint2 counts = *reinterpret_cast<const uint2*>(tile.segments);  // a byte for each warp
  const uint64_t earlier = (uint64_t{1} << 8 * warp) - 1;
  const unsigned before =
      byte_sum(counts.x & static_cast<uint32_t>(earlier)) + byte_sum(counts.y & static_cast<uint32_t>(earlier >> 32));
  return {starts, before + __popc(votes & ((1u << lane) - 1)),
          later ? static_cast<unsigned>(__ffs(later)) : kWarpSize - lane, byte_sum(counts.x) + byte_sum(counts.y)};
}

// Thread: a pixel of this region, in a tile of few segments. Lists them; all threads pass a barrier.
__device__ __forceinline__ void list_segments(int32_t region, const PlaceInfo& own, TileGroups& tile) {
  if (own.starts) {
    tile.segment[own.index] = Segment{threadIdx.x, own.length, false, 0, 0}.packed();  // pilots: match_segments
    tile.region[own.index] = region;
  }
  __syncthreads();
}

// Warp, after list_segments: tells which segments belong to one region, and adds their pixels to `count`. The next
// barrier shows it to all threads.
__device__ __forceinline__ void match_segments(unsigned segments, TileGroups& tile, int64_t* count) {
  const unsigned lane = threadIdx.x % kWarpSize;
  const bool exists = lane < segments;
  const int32_t region = exists ? tile.region[lane] : kIgnored;
  const Segment own = unpack(exists ? tile.segment[lane] : 0);
  const unsigned peers = __match_any_sync(kFullWarp, region);
  const bool leads = exists && (peers & ((1u << lane) - 1)) == 0;
  const unsigned leaders = __ballot_sync(kFullWarp, leads), leader = __ffs(peers) - 1;
  const unsigned begin = __shfl_sync(kFullWarp, own.begin, leader);
  const unsigned length = __shfl_sync(kFullWarp, own.length, leader);
  const Segment segment = make_segment(own.begin, own.length, false, begin, length);
  unsigned n = 0;
  for (unsigned rest = leads ? peers : 0; rest != 0; rest &= rest - 1) {
    n += unpack(tile.segment[__ffs(rest) - 1]).length;
  }
  __syncwarp();
  if (lane == 0) {
    tile.regions = __popc(leaders);
    tile.grouped = false;
  }
  if (exists) tile.segment[lane] = tile.in_slot[lane] = segment.packed();
  if (!leads) return;
  tile.waiting[__popc(leaders & ((1u << lane) - 1))] = {
      peers, Segment{lane, 0, false, segment.pilot0, segment.pilot1}.packed()};
  const int64_t before = count[region];
  count[region] = before + n;
  tile.fraction[lane] = merge_weights(static_cast<double>(before), n).fraction;
  tile.length[lane] = static_cast<uint16_t>(n);
}

// Thread: a pixel of this region (or kIgnored). Fills tile.place, tile.run, and by run tile.region and tile.length, for
// all threads, and returns the pixel's place. All threads have passed a barrier when it returns.
__device__ __forceinline__ unsigned group_pixels(int32_t region, TileGroups& tile, GroupScratch& scratch) {
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
    tile.region[begin] = region;
  }
  __syncthreads();
  if (member) begin = scratch.begin[first];
  const int place = member ? begin + rank : members_total + x - members_before;
  tile.place[x] = static_cast<uint8_t>(place);
  tile.run[place] = static_cast<int16_t>(member ? begin : kIgnored);
  __syncthreads();
  return place;
}

// Thread: a place, after group_pixels. Lists the segments, which the next barrier shows to all threads, and adds the
// runs' pixels to `count`. Returns how many segments there are.
__device__ __forceinline__ unsigned list_runs(TileGroups& tile, int64_t* count) {
  const unsigned place = threadIdx.x, lane = place % kWarpSize, warp = place / kWarpSize;
  const int run = tile.run[place];
  const PlaceInfo own = find_segments(run, tile);
  const unsigned n = own.starts ? tile.length[run] : 0;
  const bool begins = own.starts && run == static_cast<int>(place), leaves = begins && own.length < n;
  if (own.starts) {
    const bool whole = own.length == n;
    const Segment segment = make_segment(place, own.length, whole, run, n);
    tile.segment[own.index] = segment.packed();
    if (!whole) tile.in_slot[slot_of(place)] = segment.packed();
    if (leaves) {  // the slots of the warps up to the run's last place
      const unsigned later = 0x5555u & ((4u << 2 * ((place + n - 1) / kWarpSize)) - (4u << 2 * warp));
      tile.waiting[warp] = {1u << slot_of(place) | later, segment.packed()};
    }
  }
  if (__ballot_sync(kFullWarp, leaves) == 0 && lane == 0) tile.waiting[warp] = {0, 0};
  if (place == 0) {
    tile.regions = kTileWarps;
    tile.grouped = true;
  }
  if (begins) {
    const int32_t region = tile.region[place];
    const int64_t before = count[region];
    count[region] = before + n;
    tile.fraction[place] = merge_weights(static_cast<double>(before), n).fraction;
  }
  return own.total;
}

// Whether a run that is one segment begins at the thread's place, for which the tile has to be grouped.
__device__ __forceinline__ bool begins_whole_run(const TileGroups& tile) {
  const unsigned place = threadIdx.x;
  return tile.grouped && tile.run[place] == static_cast<int>(place) &&
         place % kSegmentPixels + tile.length[place] <= kSegmentPixels;
}

}  // namespace cas_ext
