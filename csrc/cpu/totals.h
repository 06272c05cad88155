// What the sums over pixels are built of: lanes of values, single values, and memory asked for ahead of its use.
#pragma once

#include "folds.h"
#include "labels.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int kAdditions =
    32;  // of floats to one float sum, before it joins a double: more would show, where all are alike

// Asks for `elements` values at s, which will be needed soon: the processor's own prefetcher starts afresh with every
// page, and every plane of a tile.
template <int elements, class scalar_t>
CAS_HD void prefetch(const scalar_t* s) {
  for (int byte = 0; byte < elements * static_cast<int>(sizeof(scalar_t)); byte += static_cast<int>(kLine)) {
    __builtin_prefetch(reinterpret_cast<const char*>(s) + byte);
  }
}

constexpr int64_t kAhead = 1024;  // bytes: how far ahead of its use a plane or an interleaved image is asked for

template <int elements, class scalar_t>
CAS_HD void prefetch_ahead(const scalar_t* s) {
  prefetch<elements>(s + kAhead / static_cast<int64_t>(sizeof(scalar_t)));
}

// Sums of values along kLanes pixels. float: of the values themselves, in double, which is exact. Other types: of d,
// which is exact as well, or nearly, since center is a value of the stored type; in acc_t until `settle`.
template <class scalar_t>
class Total {
 public:
  using acc_t = AccOf<scalar_t>;
  static constexpr int L = kLanes<acc_t>;
  using Half = Vec<double, L / 2>;
  static constexpr bool kValues = std::is_same_v<scalar_t, float>;

  CAS_HD Total() : low_(Half{}), high_(Half{}) {
    if constexpr (!kValues) fresh_ = Vec<acc_t>{};
  }

  CAS_HD void add([[maybe_unused]] const scalar_t* s, [[maybe_unused]] Vec<acc_t> d) {
    if constexpr (kValues) {
      low_ += load_wide<L / 2>(s);
      high_ += load_wide<L / 2>(s + L / 2);
    } else {
      fresh_ += d;
    }
  }

  // Only where the mask says so; d is 0 elsewhere.
  CAS_HD void add([[maybe_unused]] const scalar_t* s, [[maybe_unused]] Vec<acc_t> d,
                  [[maybe_unused]] Mask<acc_t> mask) {
    if constexpr (kValues) {
      const Half low = load_wide<L / 2>(s), high = load_wide<L / 2>(s + L / 2);
#if CAS_X86_LEVEL >= 4
      const __mmask16 keep = _mm512_movepi32_mask((__m512i)mask);
      low_ = (Half)_mm512_mask_add_pd((__m512d)low_, static_cast<__mmask8>(keep), (__m512d)low_, (__m512d)low);
      high_ = (Half)_mm512_mask_add_pd((__m512d)high_, static_cast<__mmask8>(keep >> 8), (__m512d)high_, (__m512d)high);
#else
      low_ += where(half_of<0, int32_t, L>(mask), low);
      high_ += where(half_of<1, int32_t, L>(mask), high);
#endif
    } else {
      fresh_ += d;
    }
  }

  CAS_HD void add(const Total& other) {
    low_ += other.low_;
    high_ += other.high_;
    if constexpr (!kValues) fresh_ += other.fresh_;
  }

  // Due after kAdditions.
  CAS_HD void settle() {
    if constexpr (!kValues) {
      low_ += widen<L / 2>(half_of<0, acc_t, L>(fresh_));
      high_ += widen<L / 2>(half_of<1, acc_t, L>(fresh_));
      fresh_ = Vec<acc_t>{};
    }
  }

  // The sum of s - center over `pixels` values. This and what follows: of what has settled.
  CAS_HD double about(acc_t center, int64_t pixels) const {
    const double sum = sum_lanes<double, L / 2>(low_ + high_);
    return kValues ? sum - static_cast<double>(pixels) * center : sum;
  }

  // Lane k: of s if kValues, else of d.
  CAS_HD double lane(int k) const { return k < L / 2 ? low_[k] : high_[k - L / 2]; }

  // The sum of lanes k and k + L / 2.
  CAS_HD Half halves() const { return low_ + high_; }

 private:
  static Half where(Vec<int32_t, L / 2> mask, Half value) {
#if CAS_X86_LEVEL == 2
    if constexpr (L == 8) return (Half)_mm256_and_pd((__m256d)value, (__m256d)_mm256_cvtepi32_epi64((__m128i)mask));
#endif
    return __builtin_convertvector(mask, Vec<int64_t, L / 2>) ? value : Half{};
  }

  Half low_, high_;
  struct Nothing {};
  [[no_unique_address]] std::conditional_t<kValues, Nothing, Vec<acc_t>> fresh_;
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
