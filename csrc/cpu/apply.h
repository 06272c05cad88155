// apply on the CPU: input (B,M,P), target (B,P), coefficients -> gradient (B,M,P) of a range of pixels of one image.
// One thread owns the range: it reads each element once and writes each once, ignored pixels too (as 0). Per tile it
// chooses: long runs of equal labels keep their coefficients in registers; elsewhere they are looked up for eight
// pixels at a time (planar) or lie in memory as the channels do (interleaved).
#pragma once

#include "../region_math.h"
#include "kernels.h"
#include "sums.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kBlendRegions = 4;  // as many regions as are cheaper to blend under masks than to look up

template <class acc_t>
using Acc8 = std::conditional_t<std::is_same_v<acc_t, double>, Double8, Float8>;
template <class acc_t>
using Mask8 = std::conditional_t<std::is_same_v<acc_t, double>, Long8, Int8>;

template <class scalar_t>
class Gradient {
 public:
  using acc_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
  using V = Acc8<acc_t>;
  using Mask = Mask8<acc_t>;

  Gradient(const ApplyParams& p, int64_t b)
      : p_(p),
        N_(p.shape.regions),
        M_(p.shape.channels),
        input_(static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride),
        gradient_(static_cast<scalar_t*>(p.gradient.data) + b * p.gradient.image_stride),
        weight_(static_cast<acc_t>(p.factor) * static_cast<const acc_t*>(p.weight)[b * p.weight_stride]),
        scale_(static_cast<const acc_t*>(p.scale) + b * N_),
        center_(static_cast<const acc_t*>(p.center) + b * N_ * M_),
        offset_(static_cast<const acc_t*>(p.offset) + b * N_ * M_),
        packed_(p.input.interleaved && M_ < kLanes && p.input.pixel_stride == M_ && p.gradient.pixel_stride == M_) {}

  void write(const Tile& tile, int64_t begin) const {
    const scalar_t* s = input_ + begin * p_.input.pixel_stride;
    scalar_t* g = gradient_ + begin * p_.gradient.pixel_stride;
    const bool runs = tile.runs * kLanes <= tile.size;
    if (!p_.input.interleaved) {
      for (int64_t m = 0; m < M_; ++m) {
        const scalar_t* from = s + m * p_.input.channel_stride;
        scalar_t* to = g + m * p_.gradient.channel_stride;
        runs ? plane_runs(tile, m, from, to) : plane_lookup(tile, m, from, to);
      }
    } else if (runs && packed_) {
      visit_few(M_, [&](auto M) { packed_runs<M.value>(tile, s, g); });
    } else if (M_ >= kLanes) {
      for (int64_t x = 0; x < tile.size; ++x)
        row(tile.label[x], s + x * p_.input.pixel_stride, g + x * p_.gradient.pixel_stride);
    } else {
      for (int64_t x = 0; x < tile.size; ++x) {
        for (int64_t m = 0; m < M_; ++m) {
          g[x * p_.gradient.pixel_stride + m] = element(tile.label[x], m, s[x * p_.input.pixel_stride + m]);
        }
      }
    }
  }

 private:
  static V splat(acc_t value) { return broadcast(value); }

  scalar_t element(int64_t i, int64_t m, scalar_t s) const {
    if (i == kIgnored) return static_cast<scalar_t>(0);
    const int64_t im = i * M_ + m;
    return static_cast<scalar_t>(gradient_element(weight_, scale_[i], center_[im], offset_[im], static_cast<acc_t>(s)));
  }

  void plane_runs(const Tile& tile, int64_t m, const scalar_t* s, scalar_t* g) const {
    for_each_run(tile, [&](int32_t i, int64_t first, int64_t length) {
      int64_t x = first;
      const int64_t end = first + length;
      if (i == kIgnored) {
        for (; x + kLanes <= end; x += kLanes) store_acc(g + x, V{});
      } else {
        const V weight = splat(weight_), scale = splat(scale_[i]);
        const V center = splat(center_[i * M_ + m]), offset = splat(offset_[i * M_ + m]);
        for (; x + kLanes <= end; x += kLanes) {
          store_acc(g + x, gradient_element(weight, scale, center, offset, load_acc(s + x)));
        }
      }
      for (; x < end; ++x) g[x] = element(i, m, s[x]);
    });
  }

  void plane_lookup(const Tile& tile, int64_t m, const scalar_t* s, scalar_t* g) const {
    const V weight = splat(weight_);
    int64_t x = 0;
    for (; x + kLanes <= tile.size; x += kLanes) {
      const Int8 label = load<Int8>(tile.label + x);
      const Mask region = __builtin_convertvector(label, Mask);
      V scale, center, offset;
      if (N_ <= kBlendRegions) {
        scale = splat(scale_[0]), center = splat(center_[m]), offset = splat(offset_[m]);
        for (int64_t i = 1; i < N_; ++i) {
          const Mask here = region == static_cast<acc_label>(i);
          scale = here ? splat(scale_[i]) : scale;
          center = here ? splat(center_[i * M_ + m]) : center;
          offset = here ? splat(offset_[i * M_ + m]) : offset;
        }
      } else {
        for (int k = 0; k < kLanes; ++k) {
          const int64_t i = tile.label[x + k] < 0 ? 0 : tile.label[x + k];
          scale[k] = scale_[i];
          center[k] = center_[i * M_ + m];
          offset[k] = offset_[i * M_ + m];
        }
      }
      const V value = gradient_element(weight, scale, center, offset, load_acc(s + x));
      store_acc(g + x, region >= 0 ? value : V{});
    }
    for (; x < tile.size; ++x) g[x] = element(tile.label[x], m, s[x]);
  }

  // One pixel of M >= kLanes channels; the last eight may be written twice, with the same values.
  void row(int32_t i, const scalar_t* s, scalar_t* g) const {
    const V weight = splat(weight_), scale = splat(i == kIgnored ? acc_t(0) : scale_[i]);
    for (int64_t next = 0; next < M_; next += kLanes) {
      const int64_t m = next + kLanes <= M_ ? next : M_ - kLanes;
      V value{};
      if (i != kIgnored) {
        const acc_t *center = center_ + i * M_ + m, *offset = offset_ + i * M_ + m;
        value = gradient_element(weight, scale, load_acc(center), load_acc(offset), load_acc(s + m));
      }
      store_acc(g + m, value);
    }
  }

  // Runs of touching pixels with M < kLanes channels: M vectors hold eight pixels.
  template <int M>
  void packed_runs(const Tile& tile, const scalar_t* s, scalar_t* g) const {
    for_each_run(tile, [&](int32_t i, int64_t first, int64_t length) {
      int64_t x = first;
      const int64_t end = first + length;
      const V weight = splat(weight_), scale = splat(i == kIgnored ? acc_t(0) : scale_[i]);
      V center[M] = {}, offset[M] = {};
      for (int v = 0; v < M && i != kIgnored; ++v) {
        for (int k = 0; k < kLanes; ++k) {
          center[v][k] = center_[i * M + (v * kLanes + k) % M];
          offset[v][k] = offset_[i * M + (v * kLanes + k) % M];
        }
      }
      for (; x + kLanes <= end; x += kLanes) {
        for (int v = 0; v < M; ++v) {
          const scalar_t* from = s + x * M + v * kLanes;
          const V value = i == kIgnored ? V{} : gradient_element(weight, scale, center[v], offset[v], load_acc(from));
          store_acc(g + x * M + v * kLanes, value);
        }
      }
      for (; x < end; ++x) {
        for (int m = 0; m < M; ++m) g[x * M + m] = element(i, m, s[x * M + m]);
      }
    });
  }

  using acc_label = std::conditional_t<std::is_same_v<acc_t, double>, int64_t, int32_t>;

  const ApplyParams& p_;
  const int64_t N_, M_;
  const scalar_t* input_;
  scalar_t* gradient_;
  const acc_t weight_;
  const acc_t *scale_, *center_, *offset_;
  const bool packed_;
};

template <class scalar_t>
void apply_range(const ApplyParams& p, int64_t b, int64_t begin, int64_t end) {
  const Gradient<scalar_t> gradient(p, b);
  Tile tile;
  for (int64_t x = begin; x < end; x += kTile) {
    read_tile(p.target, p.shape, b, x, std::min(kTile, end - x), tile);
    gradient.write(tile, x);
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
