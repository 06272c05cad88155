// apply: input (B,M,P), target (B,P), coefficients -> gradient (B,M,P); 0 at ignored pixels, NaN at labels out of
// range. Grid:   B * tiles blocks of kApplyThreads. Thread: planar: V neighbouring pixels in every channel.
// Interleaved: V neighbouring elements of the block's pixels. Bytes:  reads P (M e + l), writes P M e per image, each
// element once. Why:    coefficients come from shared memory where they fit it, so that only pixels stream through L1.
#pragma once

#include "device.cuh"
#include "select.h"

namespace cas_ext {

constexpr int kApplyThreads = 256;
constexpr int kApplyBlocks = 2;        // that a multiprocessor must be able to hold: 128 registers, no spills
constexpr int kApplyTilePixels = 256;  // interleaved: pixels of a block, one label per thread

// scale (N), center (N, row), offset (N, row) of one image, in shared or global memory.
template <class acc_t>
struct CoefficientTable {
  uint32_t row;  // make_apply bounds M
  acc_t weight;
  const acc_t* scale;
  const acc_t* center;
  const acc_t* offset;

  // Where the channels of a region begin: one 32-bit product.
  __device__ __forceinline__ int64_t begin(int32_t i) const {
    return static_cast<int64_t>(static_cast<uint64_t>(static_cast<uint32_t>(i)) * row);
  }

  __device__ __forceinline__ acc_t gradient(int32_t i, int64_t m, acc_t s) const {
    return gradient_element(weight, scale[i], center[begin(i) + m], offset[begin(i) + m], s);
  }

  template <class scalar_t>
  __device__ __forceinline__ scalar_t element(int32_t i, int64_t m, scalar_t s) const {
    const acc_t g = gradient(i < 0 ? 0 : i, m, to_acc(s));  // of some region, so that nothing branches
    const acc_t elsewhere = i == kIgnored ? acc_t(0) : static_cast<acc_t>(not_a_number());
    return from_acc<scalar_t>(i < 0 ? elsewhere : g);
  }
};

template <class acc_t, bool kSharedTable>
__device__ __forceinline__ CoefficientTable<acc_t> load_table(const ApplyParams& p, int64_t b, acc_t* shared) {
  const int64_t N = p.shape.regions, NM = N * p.shape.channels;
  const acc_t weight = static_cast<acc_t>(p.factor) * static_cast<const acc_t*>(p.weight)[b * p.weight_stride];
  const acc_t* scale = static_cast<const acc_t*>(p.scale) + b * N;
  const acc_t* center = static_cast<const acc_t*>(p.center) + b * NM;
  const acc_t* offset = static_cast<const acc_t*>(p.offset) + b * NM;
  if constexpr (kSharedTable) {
    const unsigned M = static_cast<unsigned>(p.shape.channels), row = static_cast<unsigned>(shared_row(M));
    acc_t* const shared_center = shared + N;
    acc_t* const shared_offset = shared_center + N * row;
    for (int64_t k = threadIdx.x; k < N; k += kApplyThreads) shared[k] = scale[k];
    for (unsigned k = threadIdx.x; k < NM; k += kApplyThreads) {
      const unsigned at = k / M * row + k % M;
      shared_center[at] = center[k];
      shared_offset[at] = offset[k];
    }
    __syncthreads();
    return {row, weight, shared, shared_center, shared_offset};
  } else {
    return {static_cast<uint32_t>(p.shape.channels), weight, scale, center, offset};
  }
}

template <class scalar_t, int V, bool kSharedTable>
__global__ void __launch_bounds__(kApplyThreads, kApplyBlocks) apply_planar_kernel(ApplyParams p) {
  using acc_t = acc_of<scalar_t>;
  const int64_t M = p.shape.channels, P = p.shape.pixels;
  const int64_t tiles = (P + kApplyThreads * V - 1) / (kApplyThreads * V);
  const auto [b, tile] = block_place(tiles);
  const int64_t x = (tile * kApplyThreads + threadIdx.x) * V;
  const auto table = load_table<acc_t, kSharedTable>(p, b, reinterpret_cast<acc_t*>(shared_arena()));
  if (x >= P) return;
  int32_t region[V];
  load_regions<V>(p.target, p.shape.regions, b * P + x, region);
  const scalar_t* __restrict__ input = static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride + x;
  scalar_t* __restrict__ gradient = static_cast<scalar_t*>(p.gradient.data) + b * p.gradient.image_stride + x;
  constexpr int kAhead = V <= 4 ? 4 : kSharedTable ? 2 : 1;  // channels under way: what the registers hold
  for (int64_t m0 = 0; m0 < M; m0 += kAhead) {
    Pack<scalar_t, V> pack[kAhead];  // all loads come first: the compiler keeps their order among the stores
#pragma unroll
    for (int c = 0; c < kAhead; ++c) {
      if (m0 + c < M) pack[c] = load_pack<V>(input + c * p.input.channel_stride);
    }
#pragma unroll
    for (int c = 0; c < kAhead; ++c) {
      if (m0 + c >= M) break;
#pragma unroll
      for (int k = 0; k < V; ++k) pack[c].v[k] = table.element(region[k], m0 + c, pack[c].v[k]);
      store_pack<V>(gradient + c * p.gradient.channel_stride, pack[c]);
    }
    input += kAhead * p.input.channel_stride;
    gradient += kAhead * p.gradient.channel_stride;
  }
}

template <class scalar_t, int V, bool kSharedTable>
__global__ void __launch_bounds__(kApplyThreads) apply_interleaved_kernel(ApplyParams p) {
  using acc_t = acc_of<scalar_t>;
  const unsigned M = static_cast<unsigned>(p.shape.channels);
  const int64_t P = p.shape.pixels, tiles = (P + kApplyTilePixels - 1) / kApplyTilePixels;
  const auto [b, tile] = block_place(tiles);
  const int64_t x0 = tile * kApplyTilePixels;
  const int pixels = static_cast<int>(P - x0 < kApplyTilePixels ? P - x0 : kApplyTilePixels);
  int32_t* region = reinterpret_cast<int32_t*>(shared_arena());
  acc_t* shared_table = reinterpret_cast<acc_t*>(region + kApplyTilePixels);
  if (static_cast<int>(threadIdx.x) < pixels) {
    int32_t own[1];
    load_regions<1>(p.target, p.shape.regions, b * P + x0 + threadIdx.x, own);
    region[threadIdx.x] = own[0];
  }
  const auto table = load_table<acc_t, kSharedTable>(p, b, shared_table);
  if constexpr (!kSharedTable) __syncthreads();
  const scalar_t* __restrict__ input =
      static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride + x0 * p.input.pixel_stride;
  scalar_t* __restrict__ gradient =
      static_cast<scalar_t*>(p.gradient.data) + b * p.gradient.image_stride + x0 * p.gradient.pixel_stride;
  const unsigned elements = static_cast<unsigned>(pixels) * M;  // < 2^31: make_apply bounds M
  const unsigned step = kApplyThreads * V, step_x = step / M, step_m = step % M;
  unsigned x = threadIdx.x * V / M, m = threadIdx.x * V % M;
  for (unsigned e = threadIdx.x * V; e < elements; e += step) {
    auto pack = load_pack<V>(input + x * p.input.pixel_stride + m);
    if (M % V == 0) {  // a pack lies in one pixel
      const int32_t i = region[x];
#pragma unroll
      for (unsigned k = 0; k < V; ++k) pack.v[k] = table.element(i, m + k, pack.v[k]);
    } else {
      unsigned own_x = x, own_m = m;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        pack.v[k] = table.element(region[own_x], own_m, pack.v[k]);
        const bool next = ++own_m == M;
        own_m = next ? 0 : own_m;
        own_x += next;
      }
    }
    store_pack<V>(gradient + x * p.gradient.pixel_stride + m, pack);
    x += step_x;
    m += step_m;
    if (m >= M) {
      m -= M;
      ++x;
    }
  }
}

}  // namespace cas_ext
