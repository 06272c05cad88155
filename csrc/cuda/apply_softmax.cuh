// apply behind a softmax: logits (B,M,P), target (B,P), coefficients -> gradient of the logits (B,M,P); 0 at ignored
// pixels, NaN at labels out of range. Coefficients are read through L1.
#pragma once

#include "apply.cuh"
#include "softmax.cuh"

namespace cas_ext {

// What is written for a pixel of this region, where `gradient` has been computed as for a region in range.
template <class scalar_t>
__device__ __forceinline__ scalar_t gradient_of(int32_t region, acc_of<scalar_t> gradient) {
  const auto without = region == kIgnored ? acc_of<scalar_t>(0) : static_cast<acc_of<scalar_t>>(not_a_number());
  return from_acc<scalar_t>(region < 0 ? without : gradient);
}

// Stores V neighbouring pixels, laid out as PixelPacks reads them.
template <class scalar_t, bool kInterleaved, int V, int kChannels>
__device__ __forceinline__ void store_gradient(const PixelArray& to, int64_t b, int64_t x, int64_t M,
                                               const int32_t (&region)[V],
                                               const acc_of<scalar_t> (&value)[V][kChannels]) {
  scalar_t* image = static_cast<scalar_t*>(to.data) + b * to.image_stride;
  if constexpr (kInterleaved && V > 1) {
    Pack<scalar_t, V * kChannels> pack;
#pragma unroll
    for (int k = 0; k < V * kChannels; ++k) {
      pack.v[k] = gradient_of<scalar_t>(region[k / kChannels], value[k / kChannels][k % kChannels]);
    }
    store_pack<V * kChannels>(image + x * kChannels, pack);
  } else {
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      if (m >= M) break;
      Pack<scalar_t, V> pack;
#pragma unroll
      for (int k = 0; k < V; ++k) pack.v[k] = gradient_of<scalar_t>(region[k], value[k][m]);
      store_pack<V>(image + m * to.channel_stride + x * to.pixel_stride, pack);
    }
  }
}

// apply_softmax_small_kernel: M <= kChannels (at most 4).
// Grid:   B * tiles blocks of kApplyThreads. Thread: every channel of V neighbouring pixels, in registers.
// Bytes:  reads P (M e + l), writes P M e per image, each element once.
template <class scalar_t, int V, int kChannels, bool kInterleaved>
__global__ void __launch_bounds__(kApplyThreads, kApplyBlocks) apply_softmax_small_kernel(ApplyParams p) {
  using acc_t = acc_of<scalar_t>;
  const int64_t M = p.shape.channels, P = p.shape.pixels;
  const auto [b, tile] = block_place((P + kApplyThreads * V - 1) / (kApplyThreads * V));
  const int64_t x = (tile * kApplyThreads + threadIdx.x) * V;
  if (x >= P) return;
  const auto table = load_table<acc_t, false>(p, b, nullptr);
  PixelPacks<scalar_t, kInterleaved, V, kChannels, true> packs;
  packs.clear();
  packs.load(static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride + x * p.input.pixel_stride,
             p.input.channel_stride, M);
  int32_t region[V];
  load_regions<V>(p.target, p.shape.regions, b * P + x, region);
  acc_t s[V][kChannels];
  packs.unpack(s);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const int32_t i = region[k] < 0 ? 0 : region[k];
    const int top = softmax(s[k]);
    acc_t g[kChannels], g_top = 0, dot = 0;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      g[m] = m < M ? table.gradient(i, m, s[k][m]) : acc_t(0);
      if (m == top) g_top = g[m];
    }
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      g[m] = m == top ? acc_t(0) : g[m] - g_top;  // exactly, though the compiler may fuse what made g into this
      dot += s[k][m] * g[m];
    }
#pragma unroll
    for (int m = 0; m < kChannels; ++m) s[k][m] = softmax_gradient(s[k][m], g[m], dot);
  }
  store_gradient<scalar_t, kInterleaved>(p.gradient, b, x, M, region, s);
}

constexpr int kTeamChannels = 16;  // that each thread holds at a time
constexpr int kLoneChannels = 8;   // the same of a thread alone, where they are enough, and of double in sweeps
constexpr int kTeamLimit = 8;      // threads of a team: a warp of 32 pixels each, or 4 pixels of a warp
constexpr int64_t kHeldChannels = kTeamLimit * kTeamChannels;

// Blocks that a multiprocessor must be able to hold: 80 registers, or 128 for double and for sweeps, and no spills.
template <class scalar_t, bool kHeld>
constexpr int kTeamBlocks = kHeld && !std::is_same_v<scalar_t, double> ? 3 : 2;

// Threads that share a pixel of M channels.
CAS_HD int team_size(int64_t M) {
  int size = 1;
  while (size < kTeamLimit && size * kTeamChannels < M) size *= 2;
  return size;
}

template <class acc_t>
struct TeamShared {  // one entry for each thread, but for `region`: one for each pixel
  acc_t highest[kApplyThreads], sum[kApplyThreads], dot[kApplyThreads];
  int32_t top[kApplyThreads], region[kApplyThreads];
};

// apply_softmax_team_kernel: kSize is team_size(M); kChannels is kTeamChannels or kLoneChannels; kHeld is M <=
//         kHeldChannels.
// Grid:   B * tiles blocks of kApplyThreads. Team: kSize threads that share a pixel and talk through shared memory, one
//         lane of neighbouring warps (planar) or neighbouring lanes (interleaved): lanes read neighbours.
// Thread: every kSize-th channel of its pixel, kChannels at a time.
// Bytes:  writes each element once. Reads each once if kHeld, else three times: for the largest logit and the sum of
//         exponentials, for the dot product, for the result. The last two are meant to find the tile in L1 or L2: a
//         multiprocessor works on 64 pixels at a time.
template <class scalar_t, int kSize, int kChannels, bool kHeld>
__global__ void __launch_bounds__(kApplyThreads, kTeamBlocks<scalar_t, kHeld>)
    apply_softmax_team_kernel(ApplyParams p) {
  using acc_t = acc_of<scalar_t>;
  constexpr int kPixels = kApplyThreads / kSize;
  const int64_t P = p.shape.pixels;
  const int M = static_cast<int>(p.shape.channels);  // 32-bit: make_apply bounds M
  const auto [b, tile] = block_place((P + kPixels - 1) / kPixels);
  const int64_t x0 = tile * kPixels;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize;
  const bool lanes = p.input.interleaved;  // a team is neighbouring lanes, else the same lane of neighbouring warps
  const int step = lanes ? 1 : kWarpSize;  // from one thread of a team to the next
  const int rank = (lanes ? thread : warp) % kSize;
  const int first = thread - rank * step;
  const int pixel = lanes ? thread / kSize : warp / kSize * kWarpSize + thread % kWarpSize;
  const bool inside = x0 + pixel < P;
  const scalar_t* input =
      static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride + (x0 + pixel) * p.input.pixel_stride;
  scalar_t* gradient =
      static_cast<scalar_t*>(p.gradient.data) + b * p.gradient.image_stride + (x0 + pixel) * p.gradient.pixel_stride;
  const auto table = load_table<acc_t, false>(p, b, nullptr);
  auto& shared = *reinterpret_cast<TeamShared<acc_t>*>(shared_arena());

  acc_t z[kChannels];  // logits of channels m0, m0 + kSize, ...; -inf where there are none
  const auto load = [&](int m0) {
    const scalar_t* from = input + m0 * p.input.channel_stride;
    const int64_t jump = kSize * p.input.channel_stride;
#pragma unroll
    for (int c = 0; c < kChannels; ++c, from += jump) {
      const bool exists = inside && m0 + c * kSize < M;
      z[c] = exists ? acc_t(to_acc(load_pack<1>(from).v[0])) : minus_infinity<acc_t>();
    }
  };
  // Calls body(m0) for each kChannels channels of the thread, their logits loaded where they are not held.
  const auto sweep = [&](auto body) {
    if constexpr (kHeld) {
      body(rank);
    } else {
      for (int m0 = rank; m0 < M; m0 += kSize * kChannels) {
        load(m0);
        body(m0);
      }
    }
  };

  if (static_cast<int>(threadIdx.x) < kPixels) {
    int32_t own[1] = {kIgnored};
    if (x0 + threadIdx.x < P) load_regions<1>(p.target, p.shape.regions, b * P + x0 + threadIdx.x, own);
    shared.region[threadIdx.x] = own[0];
  }
  if constexpr (kHeld) load(rank);
  SoftmaxSums<acc_t> own;
  int32_t top = rank;
  sweep([&](int m0) {
    const int c = own.add(z);
    if (c >= 0) top = m0 + c * kSize;
  });
  shared.highest[threadIdx.x] = own.highest;
  shared.top[threadIdx.x] = top;
  __syncthreads();
  acc_t highest = shared.highest[first];
  int owner = first;
#pragma unroll
  for (int j = 1; j < kSize; ++j) {
    const acc_t other = shared.highest[first + j * step];
    if (other > highest) {
      highest = other;
      owner = first + j * step;
    }
  }
  top = shared.top[owner];
  const auto team_sum = [&](acc_t(&values)[kApplyThreads], acc_t value) {
    values[threadIdx.x] = value;
    __syncthreads();
    acc_t sum = 0;
#pragma unroll
    for (int j = 0; j < kSize; ++j) sum += values[first + j * step];
    return sum;
  };
  const acc_t about = exponential(own.highest - highest);
  const Softmax<acc_t> softmax{highest, 1 / team_sum(shared.sum, own.sum * about)};
  const acc_t factor = about * softmax.inverse;  // held logits are exponentials about own.highest now
  const auto probability = [&](acc_t held_or_logit) { return kHeld ? held_or_logit * factor : softmax(held_or_logit); };

  const int32_t region = shared.region[pixel], i = region < 0 ? 0 : region;
  const acc_t scale = table.scale[i];
  const acc_t *const center = table.center + table.begin(i), *const offset = table.offset + table.begin(i);
  const acc_t g_top = gradient_element(table.weight, scale, center[top], offset[top], softmax.inverse);
  // Of channels m0, m0 + kSize, ..., relative to g_top. The channel itself is named, so that it is 0 even if the
  // compiler rounds it in two ways.
  const auto relative = [&](int m0, int c, acc_t s) {
    const int m = m0 + c * kSize;
    const bool exists = m < M;
    const acc_t *const its_center = center + m0, *const its_offset = offset + m0;  // constant steps from there on
    const acc_t value = gradient_element(table.weight, scale, exists ? its_center[c * kSize] : acc_t(0),
                                         exists ? its_offset[c * kSize] : acc_t(0), s);
    return (m == top ? g_top : value) - g_top;
  };
  acc_t own_dot = 0;
  acc_t g[kHeld ? kChannels : 1];
  sweep([&](int m0) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const acc_t s = probability(z[c]), value = relative(m0, c, s);
      own_dot += s * value;  // 0 of a channel that does not exist
      if constexpr (kHeld) z[c] = s, g[c] = value;
    }
  });
  const acc_t dot = team_sum(shared.dot, own_dot);
  if (!inside) return;
  sweep([&](int m0) {
    scalar_t* to = gradient + m0 * p.gradient.channel_stride;
    const int64_t jump = kSize * p.gradient.channel_stride;
#pragma unroll
    for (int c = 0; c < kChannels; ++c, to += jump) {
      const int m = m0 + c * kSize;
      if (m >= M) break;
      const acc_t s = kHeld ? z[c] : softmax(z[c]), value = kHeld ? g[kHeld ? c : 0] : relative(m0, c, s);
      const Pack<scalar_t, 1> result{gradient_of<scalar_t>(region, softmax_gradient(s, value, dot))};
      store_pack<1>(to, result);
    }
  });
}

}  // namespace cas_ext
