// The same sums where lanes are channels: pixels as rows, in tables of double sums and acc_t squares.
#pragma once

#include "totals.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// As many doubles as a row has lanes, in vectors that the processor has: GCC spills wider ones.
template <int lanes>
class Doubles {
 public:
  CAS_HD Doubles() {
    for (int k = 0; k < kParts; ++k) part_[k] = Vec<double, D>{};
  }
  CAS_HD explicit Doubles(const double* from) {
    for (int k = 0; k < kParts; ++k) part_[k] = load<Vec<double, D>>(from + k * D);
  }
  CAS_HD void store_to(double* to) const {
    for (int k = 0; k < kParts; ++k) store(to + k * D, part_[k]);
  }

  CAS_HD void add(const Doubles& other) {
    for (int k = 0; k < kParts; ++k) part_[k] += other.part_[k];
  }

  CAS_HD void add_from(const float* from) {
    for (int k = 0; k < kParts; ++k) part_[k] += load_wide<D>(from + k * D);
  }

  CAS_HD void add_times(const float* from, double n) {
    for (int k = 0; k < kParts; ++k) part_[k] += n * load_wide<D>(from + k * D);
  }

  template <class acc_t>
  CAS_HD void add(Vec<acc_t, lanes> v) {
    if constexpr (kParts == 1) {
      part_[0] += widen<lanes>(v);
    } else {
      part_[0] += widen<D>(half_of<0, acc_t, lanes>(v));
      part_[1] += widen<D>(half_of<1, acc_t, lanes>(v));
    }
  }

 private:
  static constexpr int D = lanes < kLanes<double> ? lanes : kLanes<double>, kParts = lanes / D;
  static_assert(kParts <= 2);
  Vec<double, D> part_[kParts];
};

// kWidth channels of pixels of one region; place(x): where those of the x-th are. Adds their sums to `sum` (double: of
// d, else of s), their squares to eight doubles.
template <int kWidth, class scalar_t, class Place>
inline void sum_piece(int64_t pixels, Place place, const AccOf<scalar_t>* center, double* sum, double* square) {
  using acc_t = AccOf<scalar_t>;
  constexpr bool kValues = std::is_same_v<scalar_t, float>;
  constexpr int L = kRowLanes<acc_t, kWidth>, kVectors = kWidth / L;
  constexpr int kChains = kVectors <= 2 ? 2 : 1;                       // of additions, of pixels in turn
  constexpr int kSums = kVectors == 1 && L <= kLanes<double> ? 2 : 1;  // the same, in double
  using V = Vec<acc_t, L>;
  V c[kVectors];
  Doubles<L> sums[kSums][kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    c[v] = load<V>(center + v * L);
    sums[0][v] = Doubles<L>(sum + v * L);
  }
  for (int64_t x = 0; x < pixels;) {
    const int64_t end = std::min(pixels, x + kChains * kAdditions);
    V squares[kChains][kVectors], parts[kChains][kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kChains * kVectors; ++v)
      squares[v / kVectors][v % kVectors] = parts[v / kVectors][v % kVectors] = V{};
    const auto add = [&](int64_t at_x, auto k) {
      const auto* at = place(at_x);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const V d = load_acc<L>(at + v * L) - c[v];
        if constexpr (kValues) {
          sums[k % kSums][v].add_from(at + v * L);
        } else {
          parts[k][v] += d;
        }
        squares[k][v] += d * d;
      }
    };
    for (; x + kChains <= end; x += kChains) {
      add(x, std::integral_constant<int, 0>());
      if constexpr (kChains > 1) add(x + 1, std::integral_constant<int, 1>());
    }
    if (kChains > 1 && x < end) add(x++, std::integral_constant<int, 0>());
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      for (int k = 0; !kValues && k < kChains; ++k) sums[0][v].template add<acc_t>(parts[k][v]);
      add_lanes<acc_t, L>(square + v * L % kPad, kChains > 1 ? squares[0][v] + squares[kChains - 1][v] : squares[0][v]);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    if constexpr (kSums > 1) sums[0][v].add(sums[1][v]);
    if constexpr (!kValues && std::is_same_v<acc_t, float>)
      sums[0][v].add_times(center + v * L, static_cast<double>(pixels));
    sums[0][v].store_to(sum + v * L);
  }
}

// Where the rows of regions are in a table, from some channel on.
template <class acc_t>
struct TableRows {
  const acc_t* pilot;
  double* sum;
  acc_t* square;   // kPad of each region
  int64_t stride;  // bytes, from region to region

  template <class T>
  CAS_HD T* of(T* first, int64_t i) const {
    return reinterpret_cast<T*>(reinterpret_cast<std::conditional_t<std::is_const_v<T>, const char, char>*>(first) +
                                i * stride);
  }
};

// kWidth channels, the first `channels` of which count, of pixels with any labels, `row` from pixel to pixel, added to
// rows of the table. float: s is summed, double: d. Meanwhile asks for as many values at `next`, if that is not null.
template <int kWidth, bool kAll, class stored_t>
inline void sum_rows(const stored_t* s, int64_t row, const int32_t* label, int64_t pixels,
                     const TableRows<AccOf<stored_t>>& table, int64_t channels, const stored_t* next) {
  using acc_t = AccOf<stored_t>;
  constexpr int L = kRowLanes<acc_t, kWidth>;
  using V = Vec<acc_t, L>;
  const TableRows<acc_t> rows = table;
  std::conditional_t<kAll, KeepAll, Keep<acc_t, L>> keep[kWidth / L];
  if constexpr (!kAll) {
    for (int m = 0; m < kWidth; m += L) keep[m / L] = Keep<acc_t, L>(((uint64_t(1) << channels) - 1) >> m);
  }
  for (int64_t x = 0; x < pixels; ++x, s += row) {
    const int64_t i = label[x];
    if (next != nullptr) prefetch<kWidth>(next + x * kWidth);
    if (i == kIgnored) continue;
    const acc_t* const pilot = rows.of(rows.pilot, i);
    double* const sum = rows.of(rows.sum, i);
    acc_t* const square = rows.of(rows.square, i);
#pragma GCC unroll 8
    for (int m = 0; m < kWidth; m += L) {
      const V value = keep[m / L](load_acc<L>(s + m)), d = value - load<V>(pilot + m);
      Doubles<L> total(sum + m);
      if constexpr (std::is_same_v<acc_t, double>) {
        total.template add<acc_t>(d);
      } else if constexpr (std::is_same_v<stored_t, float> && kAll) {
        total.add_from(s + m);
      } else {
        total.template add<acc_t>(value);
      }
      total.store_to(sum + m);
      store(square + m, load<V>(square + m) + d * d);
    }
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
