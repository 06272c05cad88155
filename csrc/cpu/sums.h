// Sums of d = s - center and of d^2 over the pixels of one segment (table.h), in acc_t lanes. Pixels are read once from
// memory; a tile that is read again is in the L1 cache.
#pragma once

#include "labels.h"
#include "simd.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int kChains = 4;  // independent sums, so that an addition need not wait for the one before

// Asks for `elements` values at s, which will be needed soon: the processor's own prefetcher starts afresh with every
// page, and every plane of a tile.
template <int elements, class scalar_t>
CAS_HD void prefetch(const scalar_t* s) {
  constexpr int kLine = 64;  // bytes
  for (int byte = 0; byte < elements * static_cast<int>(sizeof(scalar_t)); byte += kLine) {
    __builtin_prefetch(reinterpret_cast<const char*>(s) + byte);
  }
}

// The same place in the next tile of this plane.
template <int elements, class scalar_t>
CAS_HD void prefetch_next_tile(const scalar_t* s) {
  prefetch<elements>(s + kTile);
}

constexpr int64_t kAhead = 4096;  // bytes: how far ahead an interleaved image is asked for

// Sums of values along kLanes pixels. float: of the values themselves, in double, which is exact. Other types: of d,
// which is exact as well, or nearly, since center is a value of the stored type.
template <class scalar_t>
class Total {
 public:
  using acc_t = AccOf<scalar_t>;
  static constexpr int L = kLanes<acc_t>;
  static constexpr bool kWide = std::is_same_v<scalar_t, float>;

  CAS_HD void add([[maybe_unused]] const scalar_t* s, [[maybe_unused]] Vec<acc_t> d) {
    if constexpr (kWide) {
      sum_[0] += load_wide<L / 2>(s);
      sum_[1] += load_wide<L / 2>(s + L / 2);
    } else {
      sum_ += d;
    }
  }

  // Only where the mask says so; d is 0 elsewhere.
  CAS_HD void add([[maybe_unused]] const scalar_t* s, [[maybe_unused]] Vec<acc_t> d,
                  [[maybe_unused]] Mask<acc_t> mask) {
    if constexpr (kWide) {
#if CAS_X86_LEVEL >= 4
      const __mmask16 keep = _mm512_movepi32_mask((__m512i)mask);
      const __m512d low = (__m512d)load_wide<L / 2>(s), high = (__m512d)load_wide<L / 2>(s + L / 2);
      sum_[0] = (Double)_mm512_mask_add_pd((__m512d)sum_[0], static_cast<__mmask8>(keep), (__m512d)sum_[0], low);
      sum_[1] = (Double)_mm512_mask_add_pd((__m512d)sum_[1], static_cast<__mmask8>(keep >> 8), (__m512d)sum_[1], high);
#else
      using Half = Vec<int32_t, L / 2>;
      using Long = Vec<int64_t, L / 2>;
      const Half low = load<Half>(&mask), high = load<Half>(reinterpret_cast<const int32_t*>(&mask) + L / 2);
      sum_[0] += __builtin_convertvector(low, Long) ? load_wide<L / 2>(s) : Double{};
      sum_[1] += __builtin_convertvector(high, Long) ? load_wide<L / 2>(s + L / 2) : Double{};
#endif
    } else {
      sum_ += d;
    }
  }

  CAS_HD void add(const Total& other) {
    if constexpr (kWide) {
      sum_[0] += other.sum_[0];
      sum_[1] += other.sum_[1];
    } else {
      sum_ += other.sum_;
    }
  }

  // The sum of s - center over `pixels` values.
  CAS_HD double about(acc_t center, int64_t pixels) const {
    if constexpr (kWide) {
      return sum_lanes<double, L / 2>(sum_[0] + sum_[1]) - static_cast<double>(pixels) * center;
    } else {
      return sum_lanes<acc_t, L>(sum_);
    }
  }

  // Lane k: of s if kWide, else of d.
  CAS_HD double lane(int k) const {
    if constexpr (kWide) {
      return sum_[k / (L / 2)][k % (L / 2)];
    } else {
      return sum_[k];
    }
  }

 private:
  using Double = Vec<double, kWide ? L / 2 : 1>;
  std::conditional_t<kWide, Double[2], Vec<acc_t>> sum_{};
};

// One value after all vectors: the sum of s - center goes to `sum`.
template <class scalar_t>
CAS_HD void add_one(scalar_t s, AccOf<scalar_t> center, double& sum, double& square) {
  const double d = static_cast<double>(to_acc(s)) - center;
  sum += d;
  square += d * d;
}

// One channel of a planar segment: returns the sum, adds the squares to eight doubles.
template <class scalar_t>
inline double sum_plane(const scalar_t* s, int64_t pixels, AccOf<scalar_t> center, double* square) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kLanes<acc_t>;
  using V = Vec<acc_t>;
  const V c = splat(center);
  double tail = 0;
  if (pixels < L) {
    for (int64_t x = 0; x < pixels; ++x) add_one(s[x], center, tail, square[x % kPad]);
    return tail;
  }
  Total<scalar_t> sum[kChains];
  V squares[kChains] = {};
  int64_t x = 0;
  for (; x + kChains * L <= pixels; x += kChains * L) {
    prefetch_next_tile<kChains * L>(s + x);
    for (int k = 0; k < kChains; ++k) {
      const V d = load_acc<L>(s + x + k * L) - c;
      sum[k].add(s + x + k * L, d);
      squares[k] += d * d;
    }
  }
  for (; x + L <= pixels; x += L) {
    const V d = load_acc<L>(s + x) - c;
    sum[0].add(s + x, d);
    squares[0] += d * d;
  }
  if (x < pixels) {  // the last L pixels; those already added are dropped
    Mask<acc_t> fresh{};
    for (int k = 0; k < L; ++k) fresh[k] = k >= L - (pixels - x) ? -1 : 0;
    const V d = fresh ? load_acc<L>(s + pixels - L) - c : V{};
    sum[1].add(s + pixels - L, d, fresh);
    squares[1] += d * d;
  }
  add_lanes<acc_t, L>(square, (squares[0] + squares[1]) + (squares[2] + squares[3]));
  for (int k = 1; k < kChains; ++k) sum[0].add(sum[k]);
  return sum[0].about(center, pixels);
}

// One channel of a planar segment for R regions: each lane keeps or drops a value. pixels[r]: those of region r.
template <int R, class scalar_t>
inline void sum_masked(const scalar_t* s, const int32_t* label, int64_t length, const int32_t* region,
                       const int64_t* pixels, const AccOf<scalar_t>* center, double* sum, double* const* square,
                       bool first) {
  using acc_t = AccOf<scalar_t>;
  constexpr int L = kLanes<acc_t>, kUnroll = 2;
  using V = Vec<acc_t>;
  Total<scalar_t> sums[R][kUnroll];
  V squares[R][kUnroll] = {};
  const int64_t end = length / (kUnroll * L) * (kUnroll * L);
  for (int64_t x = 0; x < end; x += kUnroll * L) {
    if (first) prefetch_next_tile<kUnroll * L>(s + x);
    for (int k = 0; k < kUnroll; ++k) {
      const scalar_t* at = s + x + k * L;
      const V value = load_acc<L>(at);
      for (int r = 0; r < R; ++r) {
        const Mask<acc_t> mask = members<acc_t>(label + x + k * L, region[r]);
        const V d = mask ? value - center[r] : V{};
        sums[r][k].add(at, d, mask);
        squares[r][k] += d * d;
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    sums[r][0].add(sums[r][1]);
    add_lanes<acc_t, L>(square[r], squares[r][0] + squares[r][1]);
    int64_t tail = 0;
    double rest = 0;
    for (int64_t x = end; x < length; ++x) {
      if (label[x] != region[r]) continue;
      ++tail;
      add_one(s[x], center[r], rest, square[r][0]);
    }
    sum[r] = rest + sums[r][0].about(center[r], pixels[r] - tail);
  }
}

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
  V squares = load<V>(square);
  for (int64_t m = 0; m < padded; m += L) {
    const V value = load<V>(s + m), d = value - load<V>(center + m);
    add_row<acc_t, L>(sum + m, value, d);
    squares += d * d;
  }
  store(square, squares);
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
    table.count_row(i);
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
  V squares = load<V>(square);
  int64_t m = 0;
  for (; m + L <= channels; m += L) {
    const V value = load_acc<L>(s + m), d = value - load<V>(center + m);
    add_row<acc_t, L>(sum + m, value, d);
    squares += d * d;
  }
  if (m < channels) {  // the last L channels; those already added are dropped
    const int64_t last = channels - L;
    Mask<acc_t, L> fresh{};
    for (int k = 0; k < L; ++k) fresh[k] = k >= m - last ? -1 : 0;
    const V value = fresh ? load_acc<L>(s + last) : V{}, d = fresh ? value - load<V>(center + last) : V{};
    add_row<acc_t, L>(sum + last, value, d);
    squares += d * d;
  }
  store(square, squares);
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
    for (int k = 0; k < next - m; ++k) total_square[k] = 0;
    store(sum + m, total);  // the last group says some of it again
    add_lanes<acc_t, L>(square, total_square);
  }
}

// Touching interleaved pixels of M < kPad channels: M vectors hold kLanes pixels, and lane k of vector v is channel
// (v * kLanes + k) % M of pixel (v * kLanes + k) / M.
template <class acc_t, int M>
struct Packed {
  static constexpr int L = kLanes<acc_t>;
  using V = Vec<acc_t>;

  // A value per channel, repeated along the lanes.
  static void spread(const acc_t* of_channel, V (&out)[M]) {
    for (int v = 0; v < M; ++v) {
      out[v] = V{};
      for (int k = 0; k < L; ++k) out[v][k] = of_channel[(v * L + k) % M];
    }
  }

  // The pixel of each lane, for __builtin_shuffle.
  static void pixels(Mask<acc_t> (&out)[M]) {
    for (int v = 0; v < M; ++v) {
      out[v] = Mask<acc_t>{};
      for (int k = 0; k < L; ++k) out[v][k] = (v * L + k) / M;
    }
  }
};

// Pixels [0, length) of one region, or, if kMasked, those with its label, of which there are `pixels`.
template <int M, bool kMasked, class scalar_t>
inline void sum_packed(const scalar_t* s, [[maybe_unused]] const int32_t* label, int64_t length,
                       [[maybe_unused]] int32_t region, int64_t pixels, const AccOf<scalar_t>* center, double* sum,
                       double* square) {
  using acc_t = AccOf<scalar_t>;
  using P = Packed<acc_t, M>;
  using V = typename P::V;
  constexpr int L = P::L;
  V c[M], squares[M] = {}, total{};
  Total<scalar_t> sums[M];
  [[maybe_unused]] Mask<acc_t> pixel[M];
  P::spread(center, c);
  if constexpr (kMasked) P::pixels(pixel);
  const int64_t end = length / L * L;
  for (int64_t x = 0; x < end; x += L) {
    prefetch<M * L>(s + x * M + kAhead / static_cast<int64_t>(sizeof(scalar_t)));
    [[maybe_unused]] Mask<acc_t> member{};
    if constexpr (kMasked) member = members<acc_t>(label + x, region);
    for (int v = 0; v < M; ++v) {
      const scalar_t* at = s + x * M + v * L;
      V d = load_acc<L>(at) - c[v];
      if constexpr (kMasked) {
        const Mask<acc_t> mask = __builtin_shuffle(member, pixel[v]);
        d = mask ? d : V{};
        sums[v].add(at, d, mask);
      } else {
        sums[v].add(at, d);
      }
      squares[v] += d * d;
    }
  }
  for (int m = 0; m < M; ++m) sum[m] = 0;
  int64_t tail = 0;
  for (int64_t x = end; x < length; ++x) {
    if (kMasked && label[x] != region) continue;
    ++tail;
    for (int m = 0; m < M; ++m) add_one(s[x * M + m], center[m], sum[m], square[m]);
  }
  for (int v = 0; v < M; ++v) {
    total += squares[v];
    for (int k = 0; k < L; ++k) sum[(v * L + k) % M] += sums[v].lane(k);
  }
  if constexpr (Total<scalar_t>::kWide) {
    for (int m = 0; m < M; ++m) sum[m] -= static_cast<double>(pixels - tail) * center[m];
  }
  add_lanes<acc_t, L>(square, total);
}

// Calls body(std::integral_constant<int, M>()) for M in 1..7.
template <class Body>
inline void visit_few(int64_t M, Body body) {
  static_assert(kPad == 8);
  switch (M) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    case 4:
      return body(std::integral_constant<int, 4>());
    case 5:
      return body(std::integral_constant<int, 5>());
    case 6:
      return body(std::integral_constant<int, 6>());
    case 7:
      return body(std::integral_constant<int, 7>());
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
