// What the sums over pixels are built of: lanes of values, single values, and memory asked for ahead of its use.
#pragma once

#include "labels.h"
#include "simd.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int kAdditions =
    32;  // of floats to one float sum, before it joins a double: more would show, where all are alike
constexpr int kChains = 4;  // independent sums, so that an addition need not wait for the one before

// Asks for `elements` values at s, which will be needed soon: the processor's own prefetcher starts afresh with every
// page, and every plane of a tile.
template <int elements, class scalar_t>
CAS_HD void prefetch(const scalar_t* s) {
  for (int byte = 0; byte < elements * static_cast<int>(sizeof(scalar_t)); byte += static_cast<int>(kLine)) {
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

  // Adds lane k to eight[k % 8].
  CAS_HD void add_to(double* eight) const {
    if constexpr (kWide) {
      add_lanes<double, L / 2>(eight, sum_[0]);
      add_lanes<double, L / 2>(eight + L / 2 % kPad, sum_[1]);
    } else {
      add_lanes<acc_t, L>(eight, sum_);
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

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
