// The same sums where lanes are channels: pixels as rows, in tables of double sums and acc_t squares.
#pragma once

#include "totals.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// Adds a row of channels to sums: float values themselves, doubles about the center.
template <class acc_t, int lanes>
CAS_HD void add_row(double* sum, Vec<acc_t, lanes> value, Vec<acc_t, lanes> d) {
  const Vec<double, lanes> wide = widen<lanes>(std::is_same_v<acc_t, double> ? d : value);
  store(sum, load<Vec<double, lanes>>(sum) + wide);
}

// One pixel, padded with zeros, added to a row of the table: lanes are channels. float: s is summed, double: d.
template <class acc_t>
inline void sum_row(const acc_t* s, int64_t padded, const acc_t* center, double* sum, acc_t* square) {
  constexpr int L = kRowLanes<acc_t>;
  using V = Vec<acc_t, L>;
  V squares{};
  for (int64_t m = 0; m < padded; m += L) {
    const V value = load<V>(s + m), d = value - load<V>(center + m);
    add_row<acc_t, L>(sum + m, value, d);
    squares += d * d;
  }
  store(square, load<V>(square) + squares);
}

// Rows of kWidth channels: while the region stays the same, its sums stay in registers.
template <int kWidth, class Table, class acc_t>
inline void sum_narrow_rows(Table& table, const int32_t* label, int64_t pixels, const acc_t* rows) {
  constexpr int L = kRowLanes<acc_t, kWidth>, kVectors = kWidth / L;
  using V = Vec<acc_t, L>;
  using D = Vec<double, L>;
  int32_t region = kIgnored;
  V center[kVectors] = {}, squares{};
  D sums[kVectors] = {};
  const auto save = [&] {
    if (region == kIgnored) return;
    store(table.row_square(region), squares);
    for (int v = 0; v < kVectors; ++v) store(table.row_sum(region) + v * L, sums[v]);
  };
  for (int64_t x = 0; x < pixels; ++x) {
    const int32_t i = label[x];
    if (i != region) {
      save();
      region = i;
      if (i == kIgnored) continue;
      squares = load<V>(table.row_square(i));
      for (int v = 0; v < kVectors; ++v) {
        center[v] = load<V>(table.pilot(i) + v * L);
        sums[v] = load<D>(table.row_sum(i) + v * L);
      }
    }
    if (i == kIgnored) continue;
    table.count_rows(i, 1);
    for (int v = 0; v < kVectors; ++v) {
      const V value = load<V>(rows + x * kWidth + v * L), d = value - center[v];
      sums[v] += widen<L>(std::is_same_v<acc_t, double> ? d : value);
      squares += d * d;
    }
  }
  save();
}

// The same for an interleaved pixel, read in place. channels >= kPad.
template <class scalar_t>
inline void sum_pixel(const scalar_t* s, int64_t channels, const AccOf<scalar_t>* center, double* sum,
                      AccOf<scalar_t>* square) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kRowLanes<acc_t>;
  using V = Vec<acc_t, L>;
  V squares{};
  int64_t m = 0;
  for (; m + L <= channels; m += L) {
    const V value = load_acc<L>(s + m), d = value - load<V>(center + m);
    add_row<acc_t, L>(sum + m, value, d);
    squares += d * d;
  }
  if (m < channels) {  // the last L channels; those already added are dropped
    const int64_t last = channels - L;
    const Mask<acc_t, L> fresh = lanes_from<acc_t, L>(m - last);
    const V value = fresh ? load_acc<L>(s + last) : V{}, d = fresh ? value - load<V>(center + last) : V{};
    add_row<acc_t, L>(sum + last, value, d);
    squares += d * d;
  }
  store(square, load<V>(square) + squares);
}

// An interleaved segment, kRowLanes channels at a time; writes sum (channels), adds to square. channels >= kPad.
template <class scalar_t>
inline void sum_pixels(const scalar_t* s, int64_t pixels, int64_t stride, int64_t channels,
                       const AccOf<scalar_t>* center, double* sum, double* square) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kRowLanes<acc_t>;
  using V = Vec<acc_t, L>;
  for (int64_t next = 0; next < channels; next += L) {
    const int64_t m = std::min(next, channels - L);
    const V c = load<V>(center + m);
    Vec<double, L> sums[kChains] = {};
    V squares[kChains] = {};
    int64_t x = 0;
    for (; x + kChains <= pixels; x += kChains) {
      for (int k = 0; k < kChains; ++k) {
        const V value = load_acc<L>(s + (x + k) * stride + m), d = value - c;
        sums[k] += widen<L>(std::is_same_v<acc_t, double> ? d : value);
        squares[k] += d * d;
      }
    }
    for (; x < pixels; ++x) {
      const V value = load_acc<L>(s + x * stride + m), d = value - c;
      sums[0] += widen<L>(std::is_same_v<acc_t, double> ? d : value);
      squares[0] += d * d;
    }
    Vec<double, L> total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    if constexpr (std::is_same_v<acc_t, float>) total -= static_cast<double>(pixels) * widen<L>(c);
    V total_square = (squares[0] + squares[1]) + (squares[2] + squares[3]);
    total_square = lanes_from<acc_t, L>(next - m) ? total_square : V{};
    store(sum + m, total);  // the last group says some of it again
    add_lanes<acc_t, L>(square, total_square);
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
