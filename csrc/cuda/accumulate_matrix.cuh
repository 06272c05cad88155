// accumulate_matrix_kernel: floats, N <= kMatrixRegions, kMatrixLeast <= M, no softmax: any mask costs about the same.
// Grid:   B * splits blocks. A block owns pixels_per_split consecutive pixels of one image and a table (N, M) of its
//         own in global memory. It walks its pixels in intervals, and those in steps of kStepPixels.
// Block:  a warp for every 8 kLane channels, at most kMatrixWarps; more channels take several passes over an
//         interval's labels.
// Warp:   all pixels of 8 kLane channels, in chunks of kChunkPixels; sums of every region in registers, by tensor
//         cores (matrix.cuh), which multiply blocks of 16 regions that a chunk does not meet by nothing: it skips them.
// Lane:   (g, t): channels kLane g to kLane g + kLane - 1 of 8 pixels of a chunk, V neighbours at once. The next
// chunk's values are
//         under way meanwhile.
// Bytes:  reads P (M e + l) per image once; per interval and region in it, reads and writes a row of the table (in L2).
// Why:    values go from global memory to products without passing through shared memory. Sums are about pilots that
//         follow the regions' means, so nothing cancels.
#pragma once

#include "arrival.cuh"
#include "matrix_pilots.cuh"

namespace cas_ext {

template <int V, bool kInterleaved, int kProducts, int kLane>
__global__ void __launch_bounds__(kMatrixWarps* kWarpSize,
                                  matrix_warps_held(kLane, kProducts == kFewProducts) / kMatrixWarps)
    accumulate_matrix_kernel(AccumulateParams p) {
  const int64_t N = p.shape.regions, P = p.shape.pixels;
  const unsigned regions = static_cast<unsigned>(N), M = static_cast<unsigned>(p.shape.channels);
  const auto [b, split] = block_place(p.splits);
  const int64_t begin = split * p.pixels_per_split;
  const unsigned size =  // select.h bounds it
      static_cast<unsigned>(begin + p.pixels_per_split < P ? p.pixels_per_split : P - begin);
  const int64_t pixel_stride = kInterleaved ? p.input.pixel_stride : 1;
  const int64_t channel_stride = kInterleaved ? 1 : p.input.channel_stride;
  const float* const input = static_cast<const float*>(p.input.data) + b * p.input.image_stride + begin * pixel_stride;
  auto& shared = *reinterpret_cast<MatrixShared*>(shared_arena());

  constexpr unsigned kChannels = 8 * kLane;
  const unsigned warps = blockDim.x / kWarpSize, pass = warps * kChannels;
  MatrixPlace<kLane> own(p, threadIdx.x, threadIdx.x / kWarpSize * kChannels);

  clear_arrivals(p, b, split);
  for (unsigned i = threadIdx.x; i < regions; i += blockDim.x) {
    shared.scatter[i] = 0;
    shared.total[i] = shared.settled[i] = 0;
    shared.added[0][i] = shared.added[1][i] = 0;
    for (unsigned w = 0; w < warps; ++w) shared.moved[w][i] = 0;
  }
  for (unsigned i = threadIdx.x; i < own.stride; i += blockDim.x) shared.pilots()[regions * own.stride + i] = 0;
  if (threadIdx.x < kMatrixWarps) shared.first_invalid[threadIdx.x] = kNoPixel;
  if (threadIdx.x == 0) {
    shared.first_label = b * P + begin;
    shared.size = size;
    shared.done = 0;
    shared.length = interval_length(size, 0);
  }
  __syncthreads();

  // Chunks in the order of their use: loads run ahead of sums. What changes from pass to pass is in shared memory.
  struct {
    const float* from;
    unsigned left, beyond;  // pixels of this pass, of which the last ones are not the lane's, but others' or none
    unsigned channels;      // from the lane's on
  } next;
  const auto begin_pass = [&](unsigned done, unsigned length, unsigned channel) {
    const MatrixPlace<kLane> here(p, thread_again(), channel + thread_again() / kWarpSize * kChannels);
    const unsigned place = lane_pixel<float>(here.t, 0), m = kLane * here.g;
    next.from = input + (done + place) * pixel_stride + (here.channel + m) * channel_stride;
    next.left = whole_steps(length);
    next.beyond = next.left - length + place;
    next.channels = m < here.channels ? here.channels - m : 0;
    __syncwarp();  // all lanes have read
    if (here.lane == 0) {
      shared.next_done[here.warp] = done;
      shared.next_length[here.warp] = length;
      shared.next_channel[here.warp] = channel;
    }
    __syncwarp();
  };
  begin_pass(0, shared.length, 0);
  ChunkValues<float, V, kInterleaved, kLane> values;
  values.clear();
  const auto load_next = [&] {
    if (next.left == 0) return;
    if (V == 1 && pass < M) values.clear();  // other channels were in it
    values.load(next.from, kInterleaved ? pixel_stride : channel_stride,
                next.left > next.beyond ? next.left - next.beyond : 0, next.channels);
    next.from += kChunkPixels * pixel_stride;
    next.left -= kChunkPixels;
    if (next.left != 0) return;
    unsigned done = shared.next_done[own.warp], length = shared.next_length[own.warp];
    unsigned channel = shared.next_channel[own.warp] + pass;
    if (channel >= M) {
      channel = 0;
      done += length;
      length = interval_length(shared.size, done);
    }
    begin_pass(done, length, channel);
  };
  load_next();

  RegionSums sums[kProducts][kLane];
  while (shared.done < shared.size) {
    read_labels(shared, p.target, regions, own.stride);
    for (own.channel = own.warp * kChannels; own.channel < M + own.warp * kChannels; own.channel += pass) {
      own.channels = own.channel < M ? M - own.channel : 0;
      if (own.lane == 0) shared.run_region[own.warp] = regions;
#pragma unroll
      for (unsigned row = 0; row <= kLane; ++row) shared.run_of(row, threadIdx.x) = 0;
      for (unsigned i = own.lane; i < regions; i += kWarpSize) {
        shared.seen[own.warp][i] = static_cast<uint16_t>(shared.total[i] < 0xffff ? shared.total[i] : 0xffff);
      }
#pragma unroll
      for (auto& of_product : sums) {
#pragma unroll
        for (auto& of_channels : of_product) {
#pragma unroll
          for (float& sum : of_channels) sum = 0;
        }
      }
      __syncwarp();
      const float* const pilots = pilots_of(shared, own, 0) - 2 * kFirstCode;
      for (unsigned step = 0; step < shared.length; step += kStepPixels) {
#pragma unroll
        for (unsigned c = 0; c < kStepPixels / kChunkPixels; ++c) {
          const unsigned x = step + c * kChunkPixels;
          LaneValues<kLane> s;
#pragma unroll
          for (unsigned j = 0; j < 8; ++j) {
#pragma unroll
            for (unsigned h = 0; h < kLane; ++h) s[j][h] = values.at(j, h);
          }
          load_next();
          if (own.channels == 0) continue;
          const unsigned thread = thread_again();
          const unsigned products = shared.products[x / kChunkPixels];
          if (products == kUniform) {
            const unsigned region = shared.region[x];
            if (region != shared.run_region[own.warp]) end_run<kLane>(p, shared, own.channel, region);
            float pilot[kLane], sum[kLane][4], square[4] = {};  // of pairs of pixels
            load_pilots(pilots_of(shared, own, region), pilot);
#pragma unroll
            for (unsigned k = 0; k < 4; ++k) {
#pragma unroll
              for (unsigned h = 0; h < kLane; ++h) {
                const float a = s[2 * k][h] - pilot[h], b = s[2 * k + 1][h] - pilot[h];
                sum[h][k] = a + b;
                square[k] += a * a + b * b;
              }
            }
#pragma unroll
            for (unsigned h = 0; h < kLane; ++h) {
              shared.run_of(h, thread) += (sum[h][0] + sum[h][1]) + (sum[h][2] + sum[h][3]);
            }
            shared.run_of(kLane, thread) += (square[0] + square[1]) + (square[2] + square[3]);
            continue;
          }
          uint32_t code[4];  // of pairs of pixels
#pragma unroll
          for (unsigned j = 0; j < 8; j += kLaneRun<float>) {
            using Word = typename WordOf<2 * kLaneRun<float>>::type;
            const Word word = *reinterpret_cast<const Word*>(&shared.code[x + lane_pixel<float>(own.t, j)]);
            memcpy(&code[j / 2], &word, sizeof(word));
          }
          unsigned met = 0;  // pixels that are in the table by now
          if (const unsigned young = shared.any_young ? shared.young[x / kChunkPixels] : 0; young != 0) {
            met = meet_regions(p, shared, own.channel, x, young, s);
          }
          LaneValues<kLane> d;
          float square[8] = {};
#pragma unroll
          for (unsigned j = 0; j < 8; ++j) {
            float pilot[kLane];
            load_pilots(pilots + 2 * (j % 2 ? code[j / 2] >> 16 : code[j / 2] & 0xffff), pilot);
#pragma unroll
            for (unsigned h = 0; h < kLane; ++h) {
              d[j][h] = s[j][h] - pilot[h];
              square[j] += d[j][h] * d[j][h];
            }
          }
          const float all =
              ((square[0] + square[1]) + (square[2] + square[3])) + ((square[4] + square[5]) + (square[6] + square[7]));
          const bool apart = __any_sync(kFullWarp, !isfinite(all));
          if (apart || met != 0) {
#pragma unroll
            for (unsigned j = 0; j < 8; ++j) {
              const bool known = met >> lane_pixel<float>(own.t, j) & 1;
#pragma unroll
              for (unsigned h = 0; h < kLane; ++h) d[j][h] = known && has_parts(d[j][h]) ? 0.f : d[j][h];
            }
            if (apart) keep_nonfinite_apart(p, shared, own.channel, x, d);
          }
#pragma unroll
          for (unsigned j = 0; j < 8; j += 4) {
            float* const to =
                shared.squares() + thread / 4 * kSquareStride + c * kChunkPixels + lane_pixel<float>(thread % 4, j);
            *reinterpret_cast<float4*>(to) = make_float4(square[j], square[j + 1], square[j + 2], square[j + 3]);
          }
          PartPairs part[2][kLane][kParts];  // of 16 pixels, of channel h
#pragma unroll
          for (unsigned j = 0; j < 8; j += 2) {
#pragma unroll
            for (unsigned h = 0; h < kLane; ++h) split_pair(d[j][h], d[j + 1][h], part[j / 4][h], j / 2 % 2);
          }
          // Region g's code twice, of each product: from `thread`, else those of all products would wait in registers.
          const uint32_t eight = 8 * (own.stride / 2) * 0x10001u;
          uint32_t row = code_of(thread % kWarpSize / 4, own.stride) * 0x10001u;
#pragma unroll
          for (int i = 0; i < kProducts; ++i, row += 2 * eight) {
            if (!(products >> i & 1)) continue;
            const uint32_t other = row + eight;
            OneHot onehot[2];  // of 16 pixels
#pragma unroll
            for (unsigned k = 0; k < 4; ++k) {
              onehot[k / 2][k % 2 * 2] = equal_codes(code[k], row);
              onehot[k / 2][k % 2 * 2 + 1] = equal_codes(code[k], other);
            }
#pragma unroll
            for (unsigned h = 0; h < kLane; ++h) {
              RegionSums found = {0, 0, 0, 0};  // by tensor cores, which cut off what they add; the rest is rounded
#pragma unroll
              for (int q = kParts - 1; q >= 0; --q) {  // small parts first
#pragma unroll
                for (unsigned k = 0; k < 2; ++k) add_product(found, onehot[k], part[k][h][q]);
              }
#pragma unroll
              for (unsigned e = 0; e < 4; ++e) sums[i][h][e] += found[e] / kOneHot;
            }
          }
        }
        __syncthreads();
        const unsigned left = M + own.warp * kChannels - own.channel;  // channels from this pass on
        const unsigned rows = left < pass ? 8 * ((left + kChannels - 1) / kChannels) : 8 * warps;
        add_squares(shared, shared.squares(), step, rows, regions);
        __syncthreads();
      }
      if (own.channels > 0) {
        end_run<kLane>(p, shared, own.channel, regions);
        add_to_table(p, shared, own.channel, sums);
      }
      __syncwarp();  // sums and pilots of the next pass: of other channels
    }
    close_interval(shared, regions);
  }

  write_table<kLane>(p, shared);
  const long long invalid =
      block_min<kMatrixWarps>(own.lane == 0 ? shared.first_invalid[own.warp] : kNoPixel, shared.first_invalid);
  if (threadIdx.x == 0)
    p.partial_invalid[blockIdx.x] = invalid == kNoPixel ? kNoPixel : shared.first_label % P + invalid;
}

}  // namespace cas_ext
