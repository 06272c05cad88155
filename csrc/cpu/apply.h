// apply on the CPU: input (B,M,P), target (B,P), coefficients -> gradient (B,M,P) of a range of pixels of one image.
// One thread owns the range: it reads each element once and writes each once, ignored pixels too (as 0).
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "../region_math.h"
#include "kernels.h"
#include "labels.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

template <class scalar_t, class acc_t>
struct Coefficients {
  acc_t weight;
  const acc_t* scale;   // (N)
  const acc_t* center;  // (N, M)
  const acc_t* offset;  // (N, M)

  scalar_t element(int64_t i, int64_t im, scalar_t s) const {
    return static_cast<scalar_t>(gradient_element(weight, scale[i], center[im], offset[im], static_cast<acc_t>(s)));
  }
};

template <class scalar_t>
void apply_range(const ApplyParams& p, int64_t b, int64_t begin, int64_t end) {
  using acc_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
  const int64_t N = p.shape.regions, M = p.shape.channels;
  const scalar_t* input = static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride;
  scalar_t* gradient = static_cast<scalar_t*>(p.gradient.data) + b * p.gradient.image_stride;
  const Coefficients<scalar_t, acc_t> c{
      static_cast<acc_t>(p.factor) * static_cast<const acc_t*>(p.weight)[b * p.weight_stride],
      static_cast<const acc_t*>(p.scale) + b * N, static_cast<const acc_t*>(p.center) + b * N * M,
      static_cast<const acc_t*>(p.offset) + b * N * M};
  const int64_t in_stride = p.input.pixel_stride, out_stride = p.gradient.pixel_stride;
  Tile tile;
  for (int64_t x0 = begin; x0 < end; x0 += kTile) {
    read_tile(p.target, p.shape, b, x0, end - x0 < kTile ? end - x0 : kTile, tile);
    const scalar_t* s = input + x0 * in_stride;
    scalar_t* g = gradient + x0 * out_stride;
    if (p.input.interleaved) {
      for (int64_t x = 0; x < tile.size; ++x) {
        const int64_t i = tile.label[x];
        for (int64_t m = 0; m < M; ++m) {
          g[x * out_stride + m] =
              i == kIgnored ? static_cast<scalar_t>(0) : c.element(i, i * M + m, s[x * in_stride + m]);
        }
      }
      continue;
    }
    for_each_run(tile, [&](int32_t i, int64_t first, int64_t length) {
      for (int64_t m = 0; m < M; ++m) {
        const scalar_t* in = s + m * p.input.channel_stride + first;
        scalar_t* out = g + m * p.gradient.channel_stride + first;
        if (i == kIgnored) {
          for (int64_t x = 0; x < length; ++x) out[x] = static_cast<scalar_t>(0);
          continue;
        }
        const acc_t weight = c.weight, scale = c.scale[i], center = c.center[i * M + m], offset = c.offset[i * M + m];
        for (int64_t x = 0; x < length; ++x) {
          out[x] = static_cast<scalar_t>(gradient_element(weight, scale, center, offset, static_cast<acc_t>(in[x])));
        }
      }
    });
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
