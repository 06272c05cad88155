// accumulate_bfloat16_kernel: bfloat16, N <= kMatrixRegions, kMatrixLeast <= M <= kMatrixChannels, no softmax.
// Grid:   B * splits blocks. A block owns pixels_per_split consecutive pixels of one image and a table (N, M) of its
//         own in global memory. It walks its pixels in intervals that meet kPlainRegions regions at most.
// Block:  a warp for every 8 kLane channels, at most kMatrixWarps; more channels take several passes over an
//         interval's labels. Warps wait for each other only between intervals.
// Warp:   all pixels of 8 kLane channels, in chunks of kPlainChunk; sums of every region of the interval in
//         registers, by tensor cores (matrix.cuh). Blocks of 16 regions that a chunk does not meet are skipped.
// Lane:   (g, t): kLane channels, from kLane g on, of 8 pixels of a chunk, V neighbours at once. The next two
// chunks' values
//         (V = 1: the next one's) are under way meanwhile.
// Bytes:  reads P (M e + l) per image once; per interval and region in it, reads and writes a row of the table (in L2).
// Why:    8 bits need no pilots (docs/maths.md): of 1,024 values that are close enough for anything to cancel, a float
//         holds the sum, and sums of their squares, whose 16 bits are two bfloat16 numbers, keep what rounding loses.
//         So values go from global memory to products as they are, and a mask costs what the blocks of 16 regions cost
//         that chunks meet.
#pragma once

#include "arrival.cuh"
#include "bfloat16_tile.cuh"
#include "chunk_values.cuh"

namespace cas_ext {

// Squares of a pair of values: rounded, and what is left, which is a bfloat16 number too.
__device__ __forceinline__ void square_pair(uint32_t pair, uint32_t& rounded, uint32_t& rest) {
  __nv_bfloat162 s;
  memcpy(&s, &pair, sizeof(s));
  const __nv_bfloat162 square = __hmul2_rn(s, s), left = __hfma2(s, s, __hneg2(square));
  memcpy(&rounded, &square, sizeof(rounded));
  memcpy(&rest, &left, sizeof(rest));
}

// Values of a pair that are not finite, or have no finite square, as bits 15 and 31.
__device__ __forceinline__ uint32_t spoiled_of(uint32_t pair) {
  constexpr uint32_t kExponents = 0x7f807f80u, kSquareOverflows = 0x5f80u;  // 2^64
  return ((pair & kExponents) + (0x8000u - kSquareOverflows) * 0x10001u) & 0x80008000u;
}

// `pass`: the first channel of this pass.
template <int kLane>
__device__ __forceinline__ WarpPlace place_of(const AccumulateParams& p, unsigned thread, unsigned pass) {
  return {thread, pass + thread / kWarpSize * 8 * kLane, static_cast<unsigned>(p.shape.channels)};
}

// Takes out such values: 0 times one is a NaN in the sums of all regions. Notes whose sums they spoil.
template <int kLane>
__device__ __forceinline__ void keep_spoiled_apart(PlainShared& shared, unsigned chunk_begin,
                                                   uint32_t (&pair)[4][kLane]) {
  const WarpPlace own(thread_again(), 0, 0);
  if (own.lane == 0) shared.any_spoiled[own.warp] = true;
#pragma unroll 1
  for (unsigned t = 0; t < 4; ++t) {  // one after the other: they may share a region
#pragma unroll
    for (unsigned j = 0; j < 8; ++j) {
      const unsigned shift = j % 2 * 16;
      const unsigned place = shared.code[chunk_begin + lane_pixel<__nv_bfloat16>(own.t, j)] - kFirstPlace;
#pragma unroll
      for (unsigned h = 0; h < kLane; ++h) {
        if (own.t != t || !(spoiled_of(pair[j / 2][h]) >> shift & 0x8000u)) continue;
        if (place < kPlainRegions) shared.spoiled[own.warp][place][kLane * own.g + h] = true;
        pair[j / 2][h] &= ~(0xffffu << shift);
      }
    }
    __syncwarp();
  }
}

// Adds a warp's sums of an interval to the table.
template <int kProducts, int kLane>
__device__ __forceinline__ void add_interval(const AccumulateParams& p, PlainShared& shared, unsigned pass,
                                             const RegionSums (&sums)[kProducts][kLane],
                                             const RegionSums (&squares)[kProducts][kLane],
                                             const RegionSums (&lost)[kProducts][kLane]) {
  const WarpPlace own = place_of<kLane>(p, thread_again(), pass);
  const bool any_spoiled = shared.any_spoiled[own.warp];
  constexpr double kScale = 1 / kOneHot;
#pragma unroll
  for (int i = 0; i < kProducts; ++i) {
    if (i * kProductRegions >= shared.present) break;
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
      const unsigned place = i * kProductRegions + half * 8 + own.g;
      double square = 0;
      if (place < shared.present) {
        const bool known = shared.known[place];
        double* const row =
            p.partial_mean + (block_again() * p.shape.regions + shared.region[place]) * p.shape.channels + own.channel;
#pragma unroll
        for (unsigned e = 0; e < 2 * kLane; ++e) {  // neighbouring channels
          const unsigned m = 2 * kLane * own.t + e;
          if (m >= own.channels) break;
          double sum = (known ? row[m] : 0) + kScale * sums[i][e % kLane][2 * half + e / kLane];
          square += squares[i][e % kLane][2 * half + e / kLane];
          square -= lost[i][e % kLane][2 * half + e / kLane];
          if (any_spoiled && shared.spoiled[own.warp][place][m]) {
            sum = not_a_number();
            shared.spoiled[own.warp][place][m] = false;
          }
          row[m] = sum;
        }
      }
      square += __shfl_xor_sync(kFullWarp, square, 1);
      square += __shfl_xor_sync(kFullWarp, square, 2);
      if (own.t == 0 && place < shared.present) shared.square[own.warp][place] += kScale * square;
    }
  }
  __syncwarp();
  if (own.lane == 0) shared.any_spoiled[own.warp] = false;
  __syncwarp();
}

// The interval's counts and squares join the table's. All threads have passed a barrier before and after.
__device__ __forceinline__ void end_interval(const AccumulateParams& p, PlainShared& shared) {
  __syncthreads();
  for (unsigned place = thread_again(); place < shared.present; place += blockDim.x) {
    const unsigned region = shared.region[place];
    const int64_t cell = block_again() * p.shape.regions + region;
    const bool known = shared.known[place];
    double square = 0;
#pragma unroll 1
    for (unsigned w = 0; w < blockDim.x / kWarpSize; ++w) {
      square += shared.square[w][place];
      shared.square[w][place] = 0;
    }
    p.partial_scatter[cell] = (known ? p.partial_scatter[cell] : 0) + square;
    p.partial_count[cell] = (known ? p.partial_count[cell] : 0) + shared.pixels[place];
    shared.place[region] = kMetBefore;
  }
  __syncthreads();  // all have read what the interval was
  if (thread_again() == 0) shared.done += shared.length;
  __syncthreads();
}

// Makes moments of the block's sums.
__device__ __forceinline__ void write_moments(const AccumulateParams& p, const PlainShared& shared) {
  const unsigned N = static_cast<unsigned>(p.shape.regions), M = static_cast<unsigned>(p.shape.channels);
  const WarpPlace own(thread_again(), 0, M);
  for (unsigned region = own.warp; region < N; region += blockDim.x / kWarpSize) {
    const int64_t cell = block_again() * p.shape.regions + region;
    const bool met = shared.place[region] == kMetBefore;
    if (!met && own.lane == 0) p.partial_count[cell] = 0;
    if (!met) continue;
    const double n = static_cast<double>(p.partial_count[cell]);
    double* const row = p.partial_mean + cell * M;
    double about_zero = 0;  // what leaves the squares about 0 for those about the mean
    for (unsigned m = own.lane; m < M; m += kWarpSize) {
      const double sum = row[m], mean = sum / n;
      about_zero = square_sum_about(about_zero, sum, mean);
      row[m] = mean;
    }
    about_zero = warp_sum(about_zero);
    if (own.lane == 0) p.partial_scatter[cell] = at_least_zero(p.partial_scatter[cell] + about_zero);
  }
}

constexpr int bfloat16_blocks(int V, int lane, bool few) {
  return kProductsTakeMore && !few ? 2 : bfloat16_warps_held(V, lane, few) / kMatrixWarps;
}

template <int V, bool kInterleaved, int kProducts, int kLane>
__global__ void __launch_bounds__(kMatrixWarps* kWarpSize, bfloat16_blocks(V, kLane, kProducts == kFewProducts))
    accumulate_bfloat16_kernel(AccumulateParams p) {
  const unsigned regions = static_cast<unsigned>(p.shape.regions), M = static_cast<unsigned>(p.shape.channels);
  const int64_t pixel_stride = kInterleaved ? p.input.pixel_stride : 1;
  const int64_t channel_stride = kInterleaved ? 1 : p.input.channel_stride;
  auto& shared = *reinterpret_cast<PlainShared*>(shared_arena());
  const unsigned pass = blockDim.x / kWarpSize * 8 * kLane;

  const auto [b, split] = block_place(p.splits);
  if (threadIdx.x == 0) {
    const int64_t begin = split * p.pixels_per_split, left = p.shape.pixels - begin;
    shared.first_label = b * p.shape.pixels + begin;
    shared.size = static_cast<unsigned>(left < p.pixels_per_split ? left : p.pixels_per_split);  // select.h bounds it
    shared.done = 0;
  }
  clear_arrivals(p, b, split);
  for (unsigned i = threadIdx.x; i < kMatrixRegions; i += blockDim.x) shared.place[i] = kNeverMet;
  for (unsigned i = threadIdx.x; i < sizeof(shared.spoiled) / 4; i += blockDim.x) {
    reinterpret_cast<uint32_t*>(shared.spoiled)[i] = 0;
  }
  for (unsigned i = threadIdx.x; i < kMatrixWarps * kPlainRegions; i += blockDim.x) (&shared.square[0][0])[i] = 0;
  if (threadIdx.x < kMatrixWarps) {
    shared.any_spoiled[threadIdx.x] = false;
    shared.first_invalid[threadIdx.x] = kNoPixel;
  }
  shared.invalid[threadIdx.x] = kNone;
  __syncthreads();

  constexpr unsigned kAhead = V > 1 ? 2 : 1;  // single values take a register each
  ChunkValues<__nv_bfloat16, V, kInterleaved, kLane> ahead[kAhead];
  const __nv_bfloat16* from = nullptr;
  unsigned left = 0, lane_channels = 0;  // pixels of the block from `from` on; channels
  const auto load_next = [&](auto& values) {
    values.load(from, kInterleaved ? pixel_stride : channel_stride, left, lane_channels);
    from += kPlainChunk * pixel_stride;
    left = left > kPlainChunk ? left - kPlainChunk : 0;
  };
  const auto begin_pass = [&](unsigned channel) {
    const WarpPlace own = place_of<kLane>(p, thread_again(), channel);
    const unsigned image = block_again() / static_cast<unsigned>(p.splits), done = shared.done, size = shared.size;
    const unsigned place = lane_pixel<__nv_bfloat16>(own.t, 0), m = kLane * own.g;
    const int64_t pixel = shared.first_label - image * p.shape.pixels + done + place;
    from = static_cast<const __nv_bfloat16*>(p.input.data) + image * p.input.image_stride + pixel * pixel_stride +
           (own.channel + m) * channel_stride;
    left = size - done > place ? size - done - place : 0;
    lane_channels = m < own.channels ? own.channels - m : 0;
#pragma unroll
    for (auto& values : ahead) {
      values.clear();
      load_next(values);
    }
  };
  if (pass >= M) begin_pass(0);

  while (shared.done < shared.size) {
    begin_interval(shared, p.target, regions);
    for (unsigned channel = 0; channel < M; channel += pass) {
      if (pass < M) begin_pass(channel);
      if (place_of<kLane>(p, thread_again(), channel).channels == 0) continue;
      RegionSums sums[kProducts][kLane] = {}, squares[kProducts][kLane] = {}, lost[kProducts][kLane] = {};
      for (unsigned step = 0; step < shared.length; step += kPlainStep) {
#pragma unroll
        for (unsigned c = 0; c < kPlainStep / kPlainChunk; ++c) {
          const unsigned x = step + c * kPlainChunk;
          uint32_t pair[4][kLane], spoiled = 0;  // of pixels 2k and 2k + 1, of channel h
#pragma unroll
          for (unsigned k = 0; k < 4; ++k) {
#pragma unroll
            for (unsigned h = 0; h < kLane; ++h) {
              pair[k][h] = ahead[c % kAhead].pair(k, h);
              spoiled |= spoiled_of(pair[k][h]);
            }
          }
          load_next(ahead[c % kAhead]);
          if (__any_sync(kFullWarp, spoiled != 0)) keep_spoiled_apart(shared, x, pair);
          const unsigned thread = thread_again();
          uint32_t code[4];
          const uint4 codes =
              *reinterpret_cast<const uint4*>(&shared.code[x + lane_pixel<__nv_bfloat16>(thread % 4, 0)]);
          memcpy(code, &codes, sizeof(code));
          const unsigned products = shared.products[x / kPlainChunk];
          uint32_t row = (kFirstPlace + thread % kWarpSize / 4) * 0x10001u;
#pragma unroll
          for (int i = 0; i < kProducts; ++i, row += kProductRegions * 0x10001u) {
            if (!(products >> i & 1)) continue;
            OneHot onehot[2];  // of 16 pixels
#pragma unroll
            for (unsigned k = 0; k < 4; ++k) {
              onehot[k / 2][k % 2 * 2] = equal_codes(code[k], row);
              onehot[k / 2][k % 2 * 2 + 1] = equal_codes(code[k], row + 8 * 0x10001u);
            }
#pragma unroll
            for (unsigned h = 0; h < kLane; ++h) {
              // Tensor cores cut off what they add, so they add up 32 values or 16 squares; these sums are rounded.
              RegionSums found = {0, 0, 0, 0}, of_squares[2] = {};
#pragma unroll
              for (unsigned k = 0; k < 2; ++k) {
                const PartPairs values = {pair[2 * k][h], pair[2 * k + 1][h]};
                PartPairs square, rest;
#pragma unroll
                for (unsigned q = 0; q < 2; ++q) square_pair(values[q], square[q], rest[q]);
                add_product(found, onehot[k], values);
                add_product(of_squares[k], onehot[k], rest);  // small parts first
                add_product(of_squares[k], onehot[k], square);
              }
#pragma unroll
              for (unsigned e = 0; e < 4; ++e) {
                sums[i][h][e] += found[e];
                add_exactly(squares[i][h][e], lost[i][h][e], of_squares[0][e] + of_squares[1][e]);
              }
            }
          }
        }
      }
      add_interval(p, shared, channel, sums, squares, lost);
    }
    end_interval(p, shared);
  }

  write_moments(p, shared);
  const uint32_t first_invalid = shared.invalid[threadIdx.x];
  const long long invalid = block_min<kMatrixWarps>(
      first_invalid == kNone ? kNoPixel : shared.first_label % p.shape.pixels + first_invalid, shared.first_invalid);
  if (threadIdx.x == 0) p.partial_invalid[block_again()] = invalid;
}

}  // namespace cas_ext
