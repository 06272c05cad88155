// Pixels of few channels with any labels. What a tile adds to a region lies in one cache line, so that a pixel takes
// one addition: of its values and of its squares about the pilot, in double. How good a pilot was shows afterwards:
// where too much of the squares would cancel, it moves, and they are summed again.
#pragma once

#include "table.h"
#include "transpose.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

template <class scalar_t>
class NarrowSums {
 public:
  // `memory`: kNarrowBytes for each region and one more, from a cache line on.
  NarrowSums(RegionTable<scalar_t>& table, const Strides& strides, char* memory)
      : t_(table), all_(reinterpret_cast<Sums*>(memory) + 1), strides_(strides) {}

  // A tile whose labels have been filled in; `s`: its first pixel.
  void add(const Tile& tile, const scalar_t* s) {
    for (int32_t i = kIgnored; i < t_.N; ++i) {
      of(i) = {};
      if (i == kIgnored || !t_.has_pilot(i, of(i).pilot)) of(i).count = kNoPilot;
    }
    add_pixels(tile, s);
    bool again = false;
    for (int32_t i = 0; i < t_.N; ++i) {
      Sums& its = of(i);
      its.again = its.count > 0 && !t_.join(i, its.count, its.pilot, its.value, its.square);
      if (!its.again) continue;
      again = true;
      std::fill_n(its.square, kNarrow, 0.0);
      t_.has_pilot(i, its.pilot);
    }
    if (!again) return;
    add_pixels(tile, s);
    for (int32_t i = 0; i < t_.N; ++i) {
      if (of(i).again) t_.join_squares(i, of(i).square);
    }
  }

 private:
  using acc_t = AccOf<scalar_t>;
  using Row = Vec<acc_t, kNarrow>;

  struct alignas(kLine) Sums {
    double value[kNarrow], square[kNarrow];
    acc_t pilot[kNarrow];
    int32_t count;
    bool again;  // whether its squares are summed again
  };
  static_assert(sizeof(Sums) == kNarrowBytes);
  static constexpr int32_t kNoPilot = -1 << 30;  // the count, before the first pixel

  Sums& of(int32_t i) const { return all_[i]; }

  void add_pixels(const Tile& tile, const scalar_t* s) {
    constexpr int64_t kPixels = 32;
    Sums* const all = all_;
    const bool in_place = strides_.interleaved && t_.M == kNarrow;
    const auto next = NextPlanes<scalar_t>::after(s, strides_.channel, 0, t_.M, nullptr);
    int64_t x = 0;
#if CAS_X86_LEVEL >= 4
    if (!strides_.interleaved) {
      visit_count<kNarrow>(t_.M, [&](auto M) { x = add_turned<M.value>(tile, s, strides_.channel, next); });
    }
#endif
    for (; x < tile.size; x += kPixels) {
      const int64_t pixels = std::min(kPixels, tile.size - x);
      const scalar_t* const first = s + x * strides_.pixel;
      if (in_place) {
        prefetch_ahead<kPixels * kNarrow>(first);
        for (int64_t k = 0; k < pixels; ++k) {
          add_pixel(all[tile.label[x + k]], load_acc<kNarrow>(first + k * strides_.pixel));
        }
      } else {
        alignas(64) acc_t rows[kPixels * kNarrow];
        turn_rows<kNarrow>(first, strides_, t_.M, pixels, rows, next.from(x));
        for (int64_t k = 0; k < pixels; ++k) add_pixel(all[tile.label[x + k]], load<Row>(rows + k * kNarrow));
      }
    }
  }

#if CAS_X86_LEVEL >= 4
  // M planes, whose pixels become rows in registers: in memory, they would be read right after they have been written.
  // Returns where the last few pixels begin.
  template <int M>
  int64_t add_turned(const Tile& tile, const scalar_t* s, int64_t stride, const NextPlanes<scalar_t>& next) {
    constexpr int64_t L = kLanes<float>;
    Sums* const all = all_;
    int64_t x = 0;
    for (; x + L <= tile.size; x += L) {
      next.template ask<L, M>(x);
      Vec<float> v[kNarrow];
#pragma GCC unroll 4
      for (int k = 0; k < kNarrow; ++k) v[k] = k < M ? load_acc<L>(s + k * stride + x) : Vec<float>{};
      turn_narrow(v);
#pragma GCC unroll 4
      for (int k = 0; k < kNarrow; ++k) {
        const int32_t* const label = tile.label + x + k * kNarrow;
        add_pixel(all[label[0]], (Row)_mm512_castps512_ps128((__m512)v[k]));
        add_pixel(all[label[1]], (Row)_mm512_extractf32x4_ps((__m512)v[k], 1));
        add_pixel(all[label[2]], (Row)_mm512_extractf32x4_ps((__m512)v[k], 2));
        add_pixel(all[label[3]], (Row)_mm512_extractf32x4_ps((__m512)v[k], 3));
      }
    }
    return x;
  }
#endif

  CAS_HD static void add_pixel(Sums& its, Row value) {
    if (++its.count < 0) aim(its, value);
    const Row d = value - load<Row>(its.pilot);
#if CAS_X86_LEVEL >= 4
    const __m256 both = _mm256_insertf128_ps(_mm256_castps128_ps256((__m128)value), (__m128)(d * d), 1);
    store(its.value, load<__m512d>(its.value) + _mm512_cvtps_pd(both));
#else
    add_row(its.value, value);
    add_row(its.square, d * d);
#endif
  }

  __attribute__((noinline)) static void aim(Sums& its, Row first) {
    store(its.pilot, finite_or(first, Row{}));
    its.count = 1;
  }

  CAS_HD static void add_row(double* sum, Row value) {
    Doubles<kNarrow> total(sum);
    total.template add<acc_t>(value);
    total.store_to(sum);
  }

  RegionTable<scalar_t>& t_;
  Sums* const all_;  // from kIgnored on, whose are never read
  const Strides strides_;
};

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
