// activation="softmax" on the CPU. A tile of logits becomes planes of probabilities that stay in the L2 cache, and the
// kernels without an activation run on those; apply then turns their gradient into that of the logits. So the logits
// are read once per pass and their gradient is written once.
#pragma once

#include "apply.h"
#include "exponential.h"
#include "pixels.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// Planes of one tile: (channels, stride) with pixels along the stride, which has room for whole vectors.
template <class acc_t>
struct Planes {
  acc_t* data;
  int64_t stride;

  // In softmax_bytes.
  Planes(void* scratch, int64_t channels)
      : data(reinterpret_cast<acc_t*>(static_cast<char*>(scratch) + kHalfPage)), stride(softmax_stride(channels)) {}
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

template <class V>
CAS_HD V greater_of(V v, V than) {
  return v > than ? v : than;
}

// K channels of logits of kLanes pixels become exponentials of their differences from the highest of them; returns the
// sum.
template <int K, class acc_t>
CAS_HD Vec<acc_t> exponentials(Vec<acc_t> (&z)[K], Vec<acc_t>& highest) {
  using V = Vec<acc_t>;
  highest = V{} + std::numeric_limits<acc_t>::lowest();  // a logit of minus infinity is infinitely far below that
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) highest = greater_of(z[k], highest);
  if constexpr (K == 2) {  // one of the two is 1, or not a number
    const V difference = z[1] - z[0], of_highest = (highest - highest) + 1;
    const V of_lowest = exp_of_negative<acc_t, kLanes<acc_t>>(difference > 0 ? -difference : difference);
    z[0] = difference > 0 ? of_lowest : of_highest;
    z[1] = difference > 0 ? of_highest : of_lowest;
    return of_highest + of_lowest;
  }
  V sum{};
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) {
    z[k] = exp_of_negative<acc_t, kLanes<acc_t>>(z[k] - highest);
    sum += z[k];
  }
  return sum;
}

// Probabilities of a tile from its logits. kPad channels at a time become exponentials relative to the highest of them;
// then all are brought together.
template <class acc_t>
class Softmax {
 public:
  using V = Vec<acc_t>;
  static constexpr int64_t L = kLanes<acc_t>;

  Softmax(int64_t channels, const Planes<acc_t>& to)
      : M_(channels), stride_(to.stride), planes_(to.data), groups_(to.data + channels * to.stride) {}

  template <class Pixels>
  void tile(const Pixels& logits, int64_t pixels) const {
    for (int64_t begin = 0; begin < pixels; begin += Pixels::kColumns) {
      const int64_t end = std::min(begin + Pixels::kColumns, pixels);
      for (int64_t m = 0; m < M_; m += kPad) {
        visit_count<kPad>(M_ - m, [&](auto K) { group(K, logits, m, begin, end); });
      }
      for (int64_t x = begin; M_ > kPad && x < end; x += L) unite(x);
    }
  }

 private:
  template <class K, class Pixels>
  void group(K, const Pixels logits, int64_t m, int64_t begin, int64_t end) const {
    acc_t *const to = planes_ + m * stride_, *const of_group = groups_ + m / kPad * 2 * stride_;
    const int64_t stride = stride_;
    const bool all = M_ <= kPad;
    const auto next = logits.next(K(), m);
    const auto column = [=](int64_t x, const auto& load) __attribute__((always_inline)) {
      V e[K::value], highest;
      load(e);
      const V sum = exponentials<K::value, acc_t>(e, highest), factor = all ? 1 / sum : V{} + 1;
#pragma GCC unroll 8
      for (int k = 0; k < K::value; ++k) store(to + k * stride + x, e[k] * factor);
      if (all) return;
      store(of_group + x, highest);
      store(of_group + stride + x, sum);
    };
    int64_t x = begin;
    for (; x + L <= end; x += L) {
      next.template ask<L>(x);
      column(x, [&](auto& z) __attribute__((always_inline)) { logits.load(x, m, z); });
    }
    if (x < end) column(x, [&](auto& z) { load_some(logits, x, m, end - x, z); });
  }

  void unite(int64_t x) const {
    acc_t *const column = planes_ + x, *const group = groups_ + x;
    const int64_t M = M_, stride = stride_;
    V highest = load<V>(group);
    for (int64_t g = 1; g * kPad < M; ++g) highest = greater_of(load<V>(group + 2 * g * stride), highest);
    V sum{};
    for (int64_t g = 0; g * kPad < M; ++g) {
      acc_t* const of_group = group + 2 * g * stride;
      const V factor = exp_of_negative<acc_t, L>(load<V>(of_group) - highest);
      sum += load<V>(of_group + stride) * factor;
      store(of_group, factor);
    }
    const V inverse = 1 / sum;
    for (int64_t m = 0; m < M; m += kPad) {
      const V factor = load<V>(group + m / kPad * 2 * stride) * inverse;
      const int64_t last = std::min(m + kPad, M);
      for (int64_t k = m; k < last; ++k) store(column + k * stride, load<V>(column + k * stride) * factor);
    }
  }

  const int64_t M_, stride_;
  acc_t *const planes_, *const groups_;  // groups: two planes for every kPad, their highest logits and their sums
};

// What the gradients of a pixel's logits need of all its channels: the gradient g of its most probable one, and the sum
// of s (g - reference).
template <class V>
struct PixelGradient {
  V reference, dot;
};

// s(m), g(m): probability and gradient of channel m.
template <class V, class S, class G>
CAS_HD PixelGradient<V> pixel_gradient(int64_t channels, S s, G g) {
  V highest = s(0), reference = g(0);
  for (int64_t m = 1; m < channels; ++m) {
    const V probability = s(m);
    reference = probability > highest ? g(m) : reference;
    highest = greater_of(probability, highest);
  }
  return {reference, sum_channels<V>(channels, [&](int64_t m) { return s(m) * (g(m) - reference); })};
}

// Gradients of the logits of a tile, 0 at ignored pixels, from probabilities and their gradients.
template <class acc_t>
class LogitGradient {
 public:
  using V = Vec<acc_t>;
  static constexpr int64_t L = kLanes<acc_t>;

  LogitGradient(int64_t channels, const Planes<acc_t>& probability, const Planes<acc_t>& gradient)
      : M_(channels),
        stride_(probability.stride),
        s_(probability.data),
        g_(gradient.data),
        of_pixel_(probability.data + channels * stride_) {}

  template <class Pixels>
  void tile(const Tile& tile, const Pixels& to) const {
    for (int64_t begin = 0; begin < tile.size; begin += Pixels::kColumns) {
      const int64_t end = std::min(begin + Pixels::kColumns, tile.size);
      if (M_ < kPad) {
        visit_few(M_, [&](auto K) { planes(K, tile, to, 0, begin, end); });
        continue;
      }
      for (int64_t x = begin; x < end; x += L) {
        const auto pixel = pixel_gradient<V>(
            M_, [&](int64_t m) { return load<V>(s_ + m * stride_ + x); },
            [&](int64_t m) { return load<V>(g_ + m * stride_ + x); });
        store(of_pixel_ + x, pixel.reference);
        store(of_pixel_ + stride_ + x, pixel.dot);
      }
      for (int64_t m = 0; m < M_; m += kPad) {  // the last kPad: some twice, with the same values
        planes(std::integral_constant<int, kPad>(), tile, to, std::min(m, M_ - kPad), begin, end);
      }
    }
  }

 private:
  template <class K, class Pixels>
  void planes(K, const Tile& tile, const Pixels to, int64_t m, int64_t begin, int64_t end) const {
    constexpr int kCount = K::value;
    const int64_t stride = stride_;
    const acc_t *const s = s_ + m * stride, *const g = g_ + m * stride, *const of_pixel = of_pixel_;
    const auto column = [=, &tile](int64_t x, const auto& store) __attribute__((always_inline)) {
      V probability[kCount], value[kCount];
#pragma GCC unroll 8
      for (int k = 0; k < kCount; ++k) {
        probability[k] = load<V>(s + k * stride + x);
        value[k] = load<V>(g + k * stride + x);
      }
      PixelGradient<V> pixel;
      if constexpr (kCount == kPad) {
        pixel = {load<V>(of_pixel + x), load<V>(of_pixel + stride + x)};
      } else {
        pixel =
            pixel_gradient<V>(kCount, [&](int64_t k) { return probability[k]; }, [&](int64_t k) { return value[k]; });
      }
      const Mask<acc_t> ignored = members<acc_t>(tile.label + x, kIgnored);
#pragma GCC unroll 8
      for (int k = 0; k < kCount; ++k) {
        const V of_logit = softmax_gradient(probability[k], value[k] - pixel.reference, pixel.dot);
        value[k] = ignored ? V{} : of_logit;
      }
      store(value);
    };
    int64_t x = begin;
    for (; x + L <= end; x += L) {
      if constexpr (Pixels::kColumns < kTile) to.next(K(), m).template ask<L>(x);  // a line is written in several parts
      column(x, [&](const auto& value) __attribute__((always_inline)) { to.store(x, m, value); });
    }
    if (x < end) column(x, [&](const auto& value) { store_some(to, x, m, end - x, value); });
  }

  const int64_t M_, stride_;
  const acc_t *const s_, *const g_;
  acc_t* const of_pixel_;  // planes of PixelGradient::reference and dot
};

template <class scalar_t>
int64_t accumulate_softmax(const AccumulateParams& p, int64_t b, int64_t begin, int64_t end, const ChunkTable& table) {
  using acc_t = AccOf<scalar_t>;
  const PixelArray& input = p.input;
  const scalar_t* image = static_cast<const scalar_t*>(input.data) + b * input.image_stride;
  const int64_t M = p.shape.channels, length = softmax_tile_pixels(M);
  const Planes<acc_t> probability(table.softmax, M);
  Chunk<acc_t> chunk(p.shape, {probability.stride, 1, false}, table.scratch);
  int64_t invalid = kNoPixel;
  const Softmax<acc_t> softmax(M, probability);
  Tile tile;
  for (int64_t x = begin; x < end; x += length) {
    const int64_t pixels = std::min(length, end - x);
    read_tile(p.target, p.shape, b, x, pixels, tile);
    if (tile.invalid != kNoPixel && invalid == kNoPixel) invalid = x + tile.invalid;
    const scalar_t* const z = image + x * input.pixel_stride;
    visit_pixels(z, {input.channel_stride, input.pixel_stride, input.interleaved}, M, z + length * input.pixel_stride,
                 false, [&](const auto& logits) { softmax.tile(logits, pixels); });
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
  const Planes<acc_t> probability(scratch, M), of_probability(static_cast<char*>(scratch) + softmax_bytes(p.shape), M);
  const int64_t stride = probability.stride;
  const Coefficients<acc_t> coefficients(p, b);
  Gradient<acc_t> writer(coefficients, {stride, 1, false}, {stride, 1, false}, false);
  const Softmax<acc_t> softmax(M, probability);
  const LogitGradient<acc_t> of_logits(M, probability, of_probability);
  const bool streams = sizeof(scalar_t) >= sizeof(float) && streams_gradient<scalar_t>(p.shape);
  Tile tile;
  for (int64_t x = begin; x < end; x += length) {
    const int64_t pixels = std::min(length, end - x);
    read_tile(p.target, p.shape, b, x, pixels, tile);
    fill_labels(tile);
    const scalar_t* const z = image + x * input.pixel_stride;
    visit_pixels(z, {input.channel_stride, input.pixel_stride, input.interleaved}, M, z + length * input.pixel_stride,
                 false, [&](const auto& logits) { softmax.tile(logits, pixels); });
    writer.write(tile, probability.data, of_probability.data);
    scalar_t* const to = result + x * gradient.pixel_stride;
    visit_pixels(to, {gradient.channel_stride, gradient.pixel_stride, gradient.interleaved}, M, to, streams,
                 [&](const auto& pixels) { of_logits.tile(tile, pixels); });
  }
  if (streams) end_streams();
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
