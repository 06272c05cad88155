// The gradient's coefficients, and its pixels where they are interleaved and touch, of few channels.
#pragma once

#include "../region_math.h"
#include "few.h"
#include "packed.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

using Labels = std::span<const int32_t>;  // of pixels that follow each other

// Coefficients of one image.
template <class acc_t>
struct Coefficients {
  Coefficients(const ApplyParams& p, int64_t b)
      : N(p.shape.regions),
        M(p.shape.channels),
        weight(static_cast<acc_t>(p.factor) * static_cast<const acc_t*>(p.weight)[b * p.weight_stride]),
        scale(static_cast<const acc_t*>(p.scale) + b * N),
        center(static_cast<const acc_t*>(p.center) + b * N * M),
        offset(static_cast<const acc_t*>(p.offset) + b * N * M) {}

  // One gradient element, of channel m of a pixel of region i.
  template <class scalar_t>
  scalar_t element(int64_t i, int64_t m, scalar_t s) const {
    if (i == kIgnored) return static_cast<scalar_t>(0);
    const int64_t im = i * M + m;
    return to_stored<scalar_t>(gradient_element(weight, scale[i], center[im], offset[im], to_acc(s)));
  }

  const int64_t N, M;
  const acc_t weight;
  const acc_t *scale, *center, *offset;
};

// Of float32, where gradients are written at the same rate, enough lines are in flight without being asked for; or else
// `always`.
template <int elements, class scalar_t>
CAS_HD void ask_ahead(const scalar_t* s, bool always = false) {
  if (sizeof(scalar_t) < sizeof(float) || always) prefetch_ahead<elements>(s);
}

// s, g: the first of M < kPad channels of pixels that follow each other.
template <class scalar_t>
class PackedGradient {
 public:
  using acc_t = AccOf<scalar_t>;
  using V = Vec<acc_t>;

  explicit PackedGradient(const Coefficients<acc_t>& coefficients) : c_(coefficients) {}

  // Runs of touching pixels with M < kPad channels, the pixels [begin, end) of a tile: M vectors hold L pixels.
  template <int M>
  void runs(const Tile& tile, int64_t begin, int64_t end, int64_t& run, const scalar_t* s, scalar_t* g) const {
    const V weight = splat(c_.weight);
    for_each_run(tile, begin, end, run, [&](int32_t i, int64_t first, int64_t length) {
      int64_t x = first - begin;
      const int64_t end = x + length;
      if (i == kIgnored) return std::fill(g + x * M, g + end * M, static_cast<scalar_t>(0));
      if (length >= L) {
        const V scale = splat(c_.scale[i]);
        V center[M], offset[M];
        Packed<acc_t, M>::spread(c_.center + i * M, center);
        Packed<acc_t, M>::spread(c_.offset + i * M, offset);
        const auto pixels = [&](int64_t at) {
          for (int v = 0; v < M; ++v) {
            const int64_t k = at * M + v * L;
            store_acc<L>(g + k, gradient_element(weight, scale, center[v], offset[v], load_acc<L>(s + k)));
          }
        };
        for (; x + L <= end; x += L) {
          ask_ahead<M * L>(s + x * M);
          pixels(x);
        }
        if (x < end) pixels(end - L);  // some pixels twice, with the same values
        return;
      }
      for (; x < end; ++x) {
        for (int m = 0; m < M; ++m) g[x * M + m] = c_.element(i, m, s[x * M + m]);
      }
    });
  }

  // Touching pixels with any labels. A pixel's channels are written with some of the next, which are written anew then.
  template <int M>
  void rows(Labels label, const scalar_t* s, scalar_t* g) const {
    const int64_t size = static_cast<int64_t>(label.size());
    constexpr int kWidth = M <= kNarrow ? kNarrow : kPad, R = kRowLanes<acc_t, kWidth>;
    using W = Vec<acc_t, R>;
    const W weight = splat<acc_t, R>(c_.weight);
    int64_t x = 0;
    for (; x * M + kWidth <= size * M; ++x) {
      const int64_t i = label[x];
#pragma GCC unroll 8
      for (int m = 0; m < M; m += R) {
        W value{};
        if (i != kIgnored) {
          const W center = load_first<R>(c_.center + i * M + m, std::min(M - m, R));
          const W offset = load_first<R>(c_.offset + i * M + m, std::min(M - m, R));
          value = gradient_element(weight, splat<acc_t, R>(c_.scale[i]), center, offset, load_acc<R>(s + x * M + m));
        }
        store_acc<R>(g + x * M + m, value);
      }
    }
    for (; x < size; ++x) {
      for (int m = 0; m < M; ++m) g[x * M + m] = c_.element(label[x], m, s[x * M + m]);
    }
  }

  // The same for regions in turn.
  template <int M>
  void blend(Labels label, const FewRegions& few, const scalar_t* s, scalar_t* g) const {
    const int64_t size = static_cast<int64_t>(label.size());
    const V weight = splat(c_.weight);
    V scale[kFew], center[kFew][M], offset[kFew][M];
    Mask<acc_t> pixel[M];
    Packed<acc_t, M>::pixels(pixel);
    for (int r = 0; r < few.size; ++r) {
      const int64_t i = few.region[r];
      scale[r] = splat(c_.scale[i]);
      Packed<acc_t, M>::spread(c_.center + i * M, center[r]);
      Packed<acc_t, M>::spread(c_.offset + i * M, offset[r]);
    }
    int64_t x = 0;
    for (; x + L <= size && few.size > 0; x += L) {
      Mask<acc_t> here[kFew];
      for (int r = 1; r < few.size; ++r) here[r] = members<acc_t>(&label[x], few.region[r]);
      const Mask<acc_t> ignored = members<acc_t>(&label[x], kIgnored);
      ask_ahead<M * L>(s + x * M);
      for (int v = 0; v < M; ++v) {
        V its_scale = scale[0], its_center = center[0][v], its_offset = offset[0][v];
        for (int r = 1; r < few.size; ++r) {
          const Mask<acc_t> mask = permute(here[r], pixel[v]);
          its_scale = mask ? scale[r] : its_scale;
          its_center = mask ? center[r][v] : its_center;
          its_offset = mask ? offset[r][v] : its_offset;
        }
        const int64_t k = x * M + v * L;
        const V value = gradient_element(weight, its_scale, its_center, its_offset, load_acc<L>(s + k));
        store_acc<L>(g + k, permute(ignored, pixel[v]) ? V{} : value);
      }
    }
    for (; x < size; ++x) {
      for (int m = 0; m < M; ++m) g[x * M + m] = c_.element(label[x], m, s[x * M + m]);
    }
  }

 private:
  static constexpr int L = kLanes<acc_t>;
  const Coefficients<acc_t>& c_;
};

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
