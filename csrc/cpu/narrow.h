// Pixels of few channels with any labels. What a tile adds to a region lies in one cache line, so that a pixel takes
// one addition: of its values and of its squares about the pilot, in double. How many pixels a region has is known
// after that; where its pilot was taken from too few, it moves, and squares are summed again.
#pragma once

#include "table.h"
#include "transpose.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

template <class scalar_t>
class NarrowSums {
 public:
  // `memory`: narrow_bytes, from a cache line on.
  NarrowSums(RegionTable<scalar_t>& table, const Strides& strides, char* memory)
      : t_(table), all_(reinterpret_cast<Sums*>(memory) + 1), strides_(strides) {
    of(kIgnored) = {};
  }

  // A tile whose labels have been filled in; `s`: its first pixel.
  void add(const Tile& tile, const scalar_t* s) {
    for (int32_t i = 0; i < t_.N; ++i) {
      of(i) = {};
      t_.copy_pilot(i, of(i).pilot);
    }
    add_pixels(tile, s);
    bool again = false;
    for (int32_t i = 0; i < t_.N; ++i) {
      Sums& its = of(i);
      if (its.count == 0) continue;
      its.again = !t_.join(i, its.count, its.value);
      if (its.again) {
        again = true;
        std::fill_n(its.square, kNarrow, 0.0);
        t_.copy_pilot(i, its.pilot);
      } else {
        t_.join_squares(i, its.square);
      }
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
    bool again;
  };
  static_assert(sizeof(Sums) == kNarrowBytes);

  Sums& of(int32_t i) const { return all_[i]; }

  void add_pixels(const Tile& tile, const scalar_t* s) {
    constexpr int64_t kPixels = 32;
    const bool in_place = strides_.interleaved && t_.M == kNarrow;
    const auto next = NextPlanes<scalar_t>::after(s, strides_.channel, 0, t_.M, nullptr);
    for (int64_t x = 0; x < tile.size; x += kPixels) {
      const int64_t pixels = std::min(kPixels, tile.size - x);
      const scalar_t* const first = s + x * strides_.pixel;
      if (in_place) {
        prefetch_ahead<kPixels * kNarrow>(first);
        add_rows(first, strides_.pixel, tile.label + x, pixels);
      } else {
        alignas(64) acc_t rows[kPixels * kNarrow];
        turn_rows<kNarrow>(first, strides_, t_.M, pixels, rows, next.from(x));
        add_rows<acc_t>(rows, kNarrow, tile.label + x, pixels);
      }
    }
  }

  // Pixels as rows, `row` elements from one to the next.
  template <class stored_t>
  CAS_HD void add_rows(const stored_t* s, int64_t row, const int32_t* label, int64_t pixels) {
    Sums* const all = all_;
    for (int64_t x = 0; x < pixels; ++x) {
      Sums& its = all[label[x]];
      const Row value = load_acc<kNarrow>(s + x * row), d = value - load<Row>(its.pilot);
#if CAS_X86_LEVEL >= 4
      const __m256 both = _mm256_insertf128_ps(_mm256_castps128_ps256((__m128)value), (__m128)(d * d), 1);
      store(its.value, load<__m512d>(its.value) + _mm512_cvtps_pd(both));
#else
      add<Row>(its.value, value);
      add<Row>(its.square, d * d);
#endif
      ++its.count;
    }
  }

  template <class V>
  CAS_HD static void add(double* sum, V value) {
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
