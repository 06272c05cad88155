// What the sums over pixels are built of: lanes of values, single values, and memory asked for ahead of its use.
#pragma once

#include "labels.h"
#include "masks.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int kAdditions =
    32;  // of floats to one float sum, before it joins a double: more would show, where all are alike

// Asks for `elements` values at s, which will be needed soon. `nearest`: for the L1 cache, else for the L2 cache.
template <int elements, bool nearest = true, class scalar_t>
CAS_HD void prefetch(const scalar_t* s) {
  for (int byte = 0; byte < elements * static_cast<int>(sizeof(scalar_t)); byte += static_cast<int>(kLine)) {
    __builtin_prefetch(reinterpret_cast<const char*>(s) + byte, 0, nearest ? 3 : 2);
  }
}

// What is read in order, a while later.
template <class scalar_t>
CAS_HD const scalar_t* ahead_of(const scalar_t* s) {
  return s + kTuning.ahead / static_cast<int64_t>(sizeof(scalar_t));
}

template <int elements, class scalar_t>
CAS_HD void prefetch_ahead(const scalar_t* s) {
  prefetch<elements>(ahead_of(s));
}

// Planes that are asked for while others of the tile are worked on: they come far enough ahead for the L2 cache.
template <class scalar_t>
struct NextPlanes {
  const scalar_t* first;
  int64_t stride, planes;

  // What follows the kPad planes from channel m on of a tile of M planes that begins at s: the next kPad, or the first
  // of the next tile. A few planes are read in order, so it is what follows in each.
  static NextPlanes after(const scalar_t* s, int64_t stride, int64_t m, int64_t M, const scalar_t* next_tile) {
    if (M < kPad) return {ahead_of(s), stride, M};
    const int64_t next = m + kPad < M ? m + kPad : 0;
    return {next > 0 ? s + next * stride : next_tile, stride, std::min(kPad, M - next)};
  }

  // `elements` of each, from pixel x on; as a rule there are K planes.
  template <int elements, int K = kPad>
  CAS_HD void ask(int64_t x) const {
    if (planes == K) {
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) prefetch<elements, false>(first + k * stride + x);
    } else {
      for (int64_t k = 0; k < planes; ++k) prefetch<elements, false>(first + k * stride + x);
    }
  }

  NextPlanes from(int64_t x) const { return {first + x, stride, planes}; }
};

// Sums of values along lanes. float: of the values themselves, in double, which is exact. Other types: of d,
// which is exact as well, or nearly, since center is a value of the stored type; in acc_t until `settle`.
template <class scalar_t, int lanes = kLanes<AccOf<scalar_t>>>
class Total {
 public:
  using acc_t = AccOf<scalar_t>;
  using Half = Vec<double, lanes / 2>;
  static constexpr bool kValues = std::is_same_v<scalar_t, float>;

  CAS_HD Total() : low_(Half{}), high_(Half{}) {
    if constexpr (!kValues) fresh_ = Vec<acc_t, lanes>{};
  }

  template <class stored_t>
  CAS_HD void add([[maybe_unused]] const stored_t* s, [[maybe_unused]] Vec<acc_t, lanes> d) {
    if constexpr (kValues) {
      low_ += load_wide<lanes / 2>(s);
      high_ += load_wide<lanes / 2>(s + lanes / 2);
    } else {
      fresh_ += d;
    }
  }

  template <class stored_t>
  CAS_HD void add(const stored_t* s, Vec<acc_t, lanes> d, KeepAll) {
    add(s, d);
  }

  // Only where lanes count.
  template <class stored_t>
  CAS_HD void add([[maybe_unused]] const stored_t* s, [[maybe_unused]] Vec<acc_t, lanes> d, Keep<acc_t, lanes> keep) {
    if constexpr (kValues) {
      low_ = keep.template add_half<0>(low_, load_wide<lanes / 2>(s));
      high_ = keep.template add_half<1>(high_, load_wide<lanes / 2>(s + lanes / 2));
    } else {
      fresh_ = keep.add(fresh_, d);
    }
  }

  // Due after kAdditions.
  CAS_HD void settle() {
    if constexpr (!kValues) {
      low_ += widen<lanes / 2>(half_of<0, acc_t, lanes>(fresh_));
      high_ += widen<lanes / 2>(half_of<1, acc_t, lanes>(fresh_));
      fresh_ = Vec<acc_t, lanes>{};
    }
  }

  // The sum of s - center over `pixels` values. This and what follows: of what has settled.
  CAS_HD double about(acc_t center, int64_t pixels) const {
    const double sum = sum_lanes<double, lanes / 2>(low_ + high_);
    return kValues ? sum - static_cast<double>(pixels) * center : sum;
  }

  // Adds lane k to sum[k].
  CAS_HD void add_to(double* sum) const {
    store(sum, load<Half>(sum) + low_);
    store(sum + lanes / 2, load<Half>(sum + lanes / 2) + high_);
  }

  // Lane k: of s if kValues, else of d.
  CAS_HD double lane(int k) const { return k < lanes / 2 ? low_[k] : high_[k - lanes / 2]; }

  // The sum of lanes k and k + lanes / 2.
  CAS_HD Half halves() const { return low_ + high_; }

 private:
  Half low_, high_;
  struct Nothing {};
  [[no_unique_address]] std::conditional_t<kValues, Nothing, Vec<acc_t, lanes>> fresh_;
};

// Adds `pixels` times the center to sums of K channels; both are padded with zeros.
template <int K>
CAS_HD void add_centers(const float* center, int64_t pixels, double* sum) {
  constexpr int D = std::min<int>(kLanes<double>, K <= kNarrow ? kNarrow : kPad);
#pragma GCC unroll 4
  for (int k = 0; k < K; k += D) {
    store(sum + k, load<Vec<double, D>>(sum + k) + static_cast<double>(pixels) * load_wide<D>(center + k));
  }
}

// One value after all vectors: the sum of s - center goes to `sum`.
template <class scalar_t>
CAS_HD void add_one(scalar_t s, AccOf<scalar_t> center, double& sum, double& square) {
  const double d = static_cast<double>(to_acc(s)) - center;
  sum += d;
  square += d * d;
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
