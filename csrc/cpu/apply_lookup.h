// The gradient of planes whose labels are scattered, where coefficients of all regions fit the registers: each lane
// looks those of its own region up there.
#pragma once

#include <vector>

#include "apply_packed.h"
#include "stream.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kScattered = 2048;  // pixels of a tile at a time, unless run by run: int32 labels of 8 KB, a quarter
                                      // of an L1 cache
static_assert(kScattered <= kStagePixels);

// A value for each of 2 * kPairs * kLanes regions, in registers. A shuffle looks up in a pair of them.
template <class acc_t, int kPairs>
class RegionValues {
 public:
  using V = Vec<acc_t>;
  static constexpr int L = kLanes<acc_t>, kSize = 2 * kPairs * L;

  RegionValues() = default;
  CAS_HD explicit RegionValues(const acc_t* values) {
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p) {
      low_[p] = load<V>(values + 2 * p * L);
      high_[p] = load<V>(values + (2 * p + 1) * L);
    }
  }

  CAS_HD V of(Mask<acc_t> region) const {
    V value[kPairs];
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p) value[p] = __builtin_shuffle(low_[p], high_[p], region);
#pragma GCC unroll 2
    for (int bit = 2 * L, apart = 1; apart < kPairs; bit *= 2, apart *= 2) {
      const auto upper = (region & bit) != 0;
#pragma GCC unroll 2
      for (int p = 0; p < kPairs; p += 2 * apart) value[p] = upper ? value[p + apart] : value[p];
    }
    return value[0];
  }

 private:
  V low_[kPairs], high_[kPairs];
};

template <class scalar_t>
class LookedUpPlanes {
 public:
  using acc_t = AccOf<scalar_t>;
  using V = Vec<acc_t>;
  static constexpr int L = kLanes<acc_t>;
  // Regions at most. Other instruction sets lack the shuffle, or the registers.
  static constexpr int64_t kMost = CAS_X86_LEVEL >= 4 && std::is_same_v<acc_t, float> ? 8 * L : 0;
  static constexpr int64_t kOfEach = 16;  // pixels of a region, on average, that pay for `fill`

  LookedUpPlanes(const Coefficients<acc_t>& coefficients, int64_t from_channel, int64_t to_channel,
                 Output<scalar_t>& out)
      : c_(coefficients), from_channel_(from_channel), to_channel_(to_channel), out_(out) {}

  // Whether to write so many more pixels of this image here.
  bool pays(size_t pixels) {
    pixels_ += static_cast<int64_t>(pixels);
    return c_.N <= kMost && pixels_ >= kOfEach * c_.N;
  }

  // At most kScattered pixels.
  void write(Labels label, const scalar_t* s, scalar_t* g) {
    if (c_.N <= 2 * L) return write_pairs<1>(label, s, g);
    if (c_.N <= 4 * L) return write_pairs<2>(label, s, g);
    return write_pairs<4>(label, s, g);
  }

 private:
  // Planes side by side, by trial: of 32 regions all coefficients have room, of 128 half of them come from the stack.
  template <int kPairs>
  static constexpr int kPlanes = kPairs == 1 ? 3 : 2;

  template <int kPairs>
  void write_pairs(Labels label, const scalar_t* s, scalar_t* g) {
    using Values = RegionValues<acc_t, kPairs>;
    if (values_.empty()) fill(Values::kSize);
    const int64_t size = static_cast<int64_t>(label.size());
    alignas(64) acc_t scale[kScattered];
    const Values scales(values_.data());
    for (int64_t x = 0; x + L <= size; x += L) store(scale + x, scales.of(load<Mask<acc_t>>(&label[x])));
    const bool ignored = *std::min_element(label.begin(), label.end()) == kIgnored;
    for (int64_t m = 0; m < c_.M; m += kPlanes<kPairs>) {
      visit_count<kPlanes<kPairs>>(c_.M - m, [&](auto K) {
        const auto write = [&](scalar_t* to, int64_t stride) {
          ignored ? planes<kPairs, K.value, true>(label, scale, m, s, to, stride)
                  : planes<kPairs, K.value, false>(label, scale, m, s, to, stride);
        };
        scalar_t* const to = g + m * to_channel_;
        if constexpr (sizeof(scalar_t) < sizeof(float)) {
          write(to, to_channel_);  // half types: no faster past the caches, by trial
        } else {
          out_.planes(K.value, to, to_channel_, size, write);
        }
      });
    }
  }

  // K planes from channel m on, which go to g, `stride` apart.
  template <int kPairs, int K, bool ignored>
  void planes(Labels label, const acc_t* scales, int64_t m, const scalar_t* s, scalar_t* g, int64_t stride) const {
    using Values = RegionValues<acc_t, kPairs>;
    Values center[K], offset[K];
    const acc_t* values = values_.data() + (2 * m + 1) * Values::kSize;
    for (int k = 0; k < K; ++k, values += 2 * Values::kSize) {
      center[k] = Values(values), offset[k] = Values(values + Values::kSize);
    }
    const V weight = splat(c_.weight);
    const int64_t size = static_cast<int64_t>(label.size());
    const scalar_t* next = m + 2 * K <= c_.M ? s + (m + K) * from_channel_ : s + size;  // K planes, or pixels
    s += m * from_channel_;
    int64_t x = 0;
    for (; x + L <= size; x += L) {
      const Mask<acc_t> region = load<Mask<acc_t>>(&label[x]);
      const V scale = load<V>(scales + x);
#pragma GCC unroll 3
      for (int k = 0; k < K; ++k) {
        prefetch<L, false>(next + k * from_channel_ + x);
        V value = load_acc<L>(s + k * from_channel_ + x);
        value = gradient_element(weight, scale, center[k].of(region), offset[k].of(region), value);
        if constexpr (ignored) value = region == kIgnored ? V{} : value;
        store_acc<L>(g + k * stride + x, value);
      }
    }
    for (; x < size; ++x) {
      for (int k = 0; k < K; ++k) {
        g[k * stride + x] = c_.element(label[x], m + k, s[k * from_channel_ + x]);
      }
    }
  }

  // Scales, and for each channel centers and offsets, `size` of each.
  __attribute__((noinline)) void fill(int64_t size) {
    values_.resize((2 * c_.M + 1) * size);
    std::copy_n(c_.scale, c_.N, values_.data());
    acc_t* value = values_.data() + size;
    for (int64_t m = 0; m < c_.M; ++m, value += 2 * size) {
      for (int64_t i = 0; i < c_.N; ++i) {
        value[i] = c_.center[i * c_.M + m];
        value[size + i] = c_.offset[i * c_.M + m];
      }
    }
  }

  const Coefficients<acc_t>& c_;
  const int64_t from_channel_, to_channel_;
  Output<scalar_t>& out_;
  std::vector<acc_t> values_;
  int64_t pixels_ = 0;  // that `pays` was asked of
};

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
