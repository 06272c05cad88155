// activation="softmax" on the CPU. A tile of logits becomes planes of probabilities that stay in the L2 cache, and the
// kernels without an activation run on those; apply then turns their gradient into that of the logits. So the logits
// are read once per pass and their gradient is written once.
#pragma once

#include "apply.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// e^x for x <= 0, to a rounding or two; 0 below the smallest normal number, NaN for NaN.
template <int lanes>
CAS_HD Vec<float, lanes> exp_of_negative(Vec<float, lanes> x) {
  using V = Vec<float, lanes>;
  using I = Vec<int32_t, lanes>;
  constexpr float kLowest = -87.3365f, kLog2E = 1.44269504f;
  constexpr float kShift = 12582912.0f;                          // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;  // ln 2 in two parts, the first exact in a product
  const V inside = x < kLowest ? V{} + kLowest : x;
  const V shifted = inside * kLog2E + kShift, n = shifted - kShift;
  const V r = (inside - n * kHigh) - n * kLow;
  V p = V{} + 1.9875691500e-4f;  // (e^r - 1 - r) / r^2, the minimax polynomial of Cephes' expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const V y = p * (r * r) + r + 1.0f;
  const V power = (V)(((I)shifted - (I)(V{} + kShift) + 127) << 23);  // 2^n
  return x < kLowest ? V{} : y * power;
}

template <int lanes>
CAS_HD Vec<double, lanes> exp_of_negative(Vec<double, lanes> x) {
  Vec<double, lanes> y{};
  for (int k = 0; k < lanes; ++k) y[k] = std::exp(x[k]);
  return y;
}

// Planes of one tile: (channels, stride) with pixels along the stride, which has room for whole vectors.
template <class acc_t>
struct Planes {
  acc_t* data;
  int64_t stride;
};

// The sum of term(m) over channels, in parts: one long float sum over hundreds of channels would lose digits.
template <class V, class Term>
CAS_HD V sum_channels(int64_t channels, Term term) {
  constexpr int64_t kPart = 16;
  V sum{};
  for (int64_t first = 0; first < channels; first += kPart) {
    V part{};
    for (int64_t m = first; m < std::min(first + kPart, channels); ++m) part += term(m);
    sum += part;
  }
  return sum;
}

// kLanes pixels: probabilities from logits. `from` and `to` may be the same.
template <class scalar_t>
inline void softmax_column(const scalar_t* from, int64_t from_stride, int64_t channels, AccOf<scalar_t>* to,
                           int64_t to_stride) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kLanes<acc_t>;
  using V = Vec<acc_t>;
  V highest = load_acc<L>(from);
  for (int64_t m = 1; m < channels; ++m) {
    const V z = load_acc<L>(from + m * from_stride);
    highest = z > highest ? z : highest;
  }
  const V sum = sum_channels<V>(channels, [&](int64_t m) {
    const V e = exp_of_negative<L>(load_acc<L>(from + m * from_stride) - highest);
    store(to + m * to_stride, e);
    return e;
  });
  const V inverse = 1 / sum;
  for (int64_t m = 0; m < channels; ++m) store(to + m * to_stride, load<V>(to + m * to_stride) * inverse);
}

template <class scalar_t>
inline void softmax_tile(const scalar_t* z, const Strides& strides, int64_t pixels, int64_t channels,
                         const Planes<AccOf<scalar_t>>& to) {
  constexpr int L = kLanes<AccOf<scalar_t>>;
  int64_t x = 0;
  if (strides.interleaved) {
    transpose(z, strides.pixel, pixels, channels, to.data, to.stride);
  } else {
    for (; x + L <= pixels; x += L) softmax_column(z + x, strides.channel, channels, to.data + x, to.stride);
    for (int64_t m = 0; m < channels; ++m) {
      for (int64_t k = x; k < pixels; ++k) to.data[m * to.stride + k] = to_acc(z[m * strides.channel + k]);
    }
  }
  for (; x < pixels; x += L) {
    if (x + L > pixels) {  // lanes beyond the last pixel: any finite value
      for (int64_t m = 0; m < channels; ++m)
        std::fill(&to.data[m * to.stride + pixels], &to.data[m * to.stride + x + L], 0);
    }
    softmax_column(to.data + x, to.stride, channels, to.data + x, to.stride);
  }
}

// From the probabilities and their gradient to the gradient of the logits, in place; 0 at ignored pixels.
template <class acc_t>
inline void logit_gradient(const Tile& tile, int64_t channels, const Planes<acc_t>& probability,
                           const Planes<acc_t>& gradient) {
  constexpr int L = kLanes<acc_t>;
  using V = Vec<acc_t>;
  for (int64_t x = 0; x < tile.size; x += L) {
    const acc_t* s = probability.data + x;
    acc_t* g = gradient.data + x;
    V highest = load<V>(s), reference = load<V>(g);
    for (int64_t m = 1; m < channels; ++m) {
      const V p = load<V>(s + m * probability.stride);
      reference = p > highest ? load<V>(g + m * gradient.stride) : reference;
      highest = p > highest ? p : highest;
    }
    const V dot = sum_channels<V>(channels, [&](int64_t m) {
      return load<V>(s + m * probability.stride) * (load<V>(g + m * gradient.stride) - reference);
    });
    const Mask<acc_t> ignored = members<acc_t>(tile.label + x, kIgnored);
    for (int64_t m = 0; m < channels; ++m) {
      const V value =
          softmax_gradient(load<V>(s + m * probability.stride), load<V>(g + m * gradient.stride) - reference, dot);
      store(g + m * gradient.stride, ignored ? V{} : value);
    }
  }
}

// Planes of a tile back to where the gradient of the input lies.
template <class scalar_t>
inline void store_tile(const Planes<AccOf<scalar_t>>& from, int64_t pixels, int64_t channels, scalar_t* to,
                       const Strides& strides) {
  constexpr int L = kLanes<AccOf<scalar_t>>;
  if (strides.interleaved) return transpose(from.data, from.stride, channels, pixels, to, strides.pixel);
  for (int64_t m = 0; m < channels; ++m, to += strides.channel) {
    const AccOf<scalar_t>* plane = from.data + m * from.stride;
    int64_t x = 0;
    for (; x + L <= pixels; x += L) store_acc<L>(to + x, load_acc<L>(plane + x));
    for (; x < pixels; ++x) to[x] = static_cast<scalar_t>(plane[x]);
  }
}

template <class scalar_t>
int64_t accumulate_softmax(const AccumulateParams& p, int64_t b, int64_t begin, int64_t end, const ChunkTable& table) {
  using acc_t = AccOf<scalar_t>;
  const PixelArray& input = p.input;
  const scalar_t* image = static_cast<const scalar_t*>(input.data) + b * input.image_stride;
  const int64_t M = p.shape.channels, length = softmax_tile_pixels(M);
  const Planes<acc_t> probability{static_cast<acc_t*>(table.softmax), length};
  Chunk<acc_t> chunk(p.shape, {length, 1, false}, table.scratch);
  int64_t invalid = kNoPixel;
  Tile tile;
  for (int64_t x = begin; x < end; x += length) {
    const int64_t pixels = std::min(length, end - x);
    read_tile(p.target, p.shape, b, x, pixels, tile);
    if (tile.invalid != kNoPixel && invalid == kNoPixel) invalid = x + tile.invalid;
    softmax_tile(image + x * input.pixel_stride, {input.channel_stride, input.pixel_stride, input.interleaved}, pixels,
                 M, probability);
    chunk.add(tile, probability.data, probability.data);
  }
  chunk.finish(table);
  return invalid;
}

// `scratch`: softmax_bytes(p.shape) twice.
template <class scalar_t>
void apply_softmax(const ApplyParams& p, int64_t b, int64_t begin, int64_t end, void* scratch) {
  using acc_t = AccOf<scalar_t>;
  const PixelArray &input = p.input, &gradient = p.gradient;
  const scalar_t* image = static_cast<const scalar_t*>(input.data) + b * input.image_stride;
  scalar_t* result = static_cast<scalar_t*>(gradient.data) + b * gradient.image_stride;
  const int64_t M = p.shape.channels, length = softmax_tile_pixels(M);
  const Planes<acc_t> probability{static_cast<acc_t*>(scratch), length};
  const Planes<acc_t> of_probability{probability.data + M * length, length};
  const Coefficients<acc_t> coefficients(p, b);
  const Gradient<acc_t> writer(coefficients, {length, 1, false}, {length, 1, false});
  Tile tile;
  for (int64_t x = begin; x < end; x += length) {
    const int64_t pixels = std::min(length, end - x);
    read_tile(p.target, p.shape, b, x, pixels, tile);
    fill_labels(tile);
    softmax_tile(image + x * input.pixel_stride, {input.channel_stride, input.pixel_stride, input.interleaved}, pixels,
                 M, probability);
    writer.write(tile, probability.data, of_probability.data);
    logit_gradient(tile, M, probability, of_probability);
    store_tile(of_probability, pixels, M, result + x * gradient.pixel_stride,
               {gradient.channel_stride, gradient.pixel_stride, gradient.interleaved});
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
