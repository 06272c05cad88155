// Which lanes of a vector count, from a bit each: vectors, or the mask registers of AVX-512.
#pragma once

#include "folds.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// All of them.
struct KeepAll {
  static constexpr bool kAll = true;
  template <class V>
  CAS_HD V operator()(V value) const {
    return value;
  }
  template <class V>
  CAS_HD V add_square(V sum, V value) const {
    return sum + value * value;
  }
};

// Some of them.
template <class acc_t, int lanes = kLanes<acc_t>>
class Keep {
 public:
  static constexpr bool kAll = false;
  using V = Vec<acc_t, lanes>;
  using Lanes = Mask<acc_t, lanes>;
  using Half = Vec<double, lanes / 2>;

  CAS_HD Keep() : mask_(Lanes{}) {}

  // Lane k, if the bit lane_bit[k] of `bits` is set.
  CAS_HD Keep(uint64_t bits, Lanes lane_bit) : mask_((splat<Bits<acc_t>, lanes>(bits) & lane_bit) != 0) {}

  // Lane k, if bit k is set.
  CAS_HD explicit Keep(uint64_t bits) {
    alignas(64) static constexpr Bits<acc_t> kBit[16] = {1,       2,       4,       8,      1 << 4,  1 << 5,
                                                         1 << 6,  1 << 7,  1 << 8,  1 << 9, 1 << 10, 1 << 11,
                                                         1 << 12, 1 << 13, 1 << 14, 1 << 15};
    mask_ = (splat<Bits<acc_t>, lanes>(bits) & load<Lanes>(kBit)) != 0;
  }

  CAS_HD V choose(V yes, V no) const { return mask_ ? yes : no; }

  // The value, or 0.
  CAS_HD V operator()(V value) const { return choose(value, V{}); }

  // add_halves of the value, which lies at s, or of 0.
  CAS_HD Wide<acc_t> halves(const acc_t*, V value) const { return add_halves<acc_t>((*this)(value)); }

  // Adds the value, or its square.
  CAS_HD V add(V sum, V value) const { return sum + (*this)(value); }
  CAS_HD V add_square(V sum, V value) const {
    const V kept = (*this)(value);
    return sum + kept * kept;
  }

  // Adds to doubles, one for each lane of the lower (0) or the upper (1) half.
  template <int half>
  CAS_HD Half add_half(Half sum, Half value) const {
    const auto mask = half_of<half, Bits<acc_t>, lanes>(mask_);
#if CAS_X86_LEVEL == 2
    if constexpr (lanes == 8 && sizeof(acc_t) == 4)
      return sum + (Half)_mm256_and_pd((__m256d)value, (__m256d)_mm256_cvtepi32_epi64((__m128i)mask));
#endif
    return sum + (__builtin_convertvector(mask, Vec<int64_t, lanes / 2>) ? value : Half{});
  }

 private:
  Lanes mask_;
};

#if CAS_X86_LEVEL >= 4
template <>
class Keep<float, 16> {
 public:
  static constexpr bool kAll = false;
  using V = Vec<float, 16>;
  using Half = Vec<double, 8>;

  CAS_HD Keep() : mask_(0) {}
  CAS_HD Keep(uint64_t bits, Mask<float, 16> lane_bit)
      : mask_(_mm512_test_epi32_mask(_mm512_set1_epi32(static_cast<int>(bits)), (__m512i)lane_bit)) {}
  CAS_HD explicit Keep(uint64_t bits) : mask_(static_cast<__mmask16>(bits)) {}

  CAS_HD V choose(V yes, V no) const { return (V)_mm512_mask_mov_ps((__m512)no, mask_, (__m512)yes); }
  CAS_HD V operator()(V value) const { return (V)_mm512_maskz_mov_ps(mask_, (__m512)value); }
  CAS_HD Half halves(const float* s, V) const {
    return (Half)_mm512_maskz_cvtps_pd(static_cast<__mmask8>(mask_), _mm256_loadu_ps(s)) +
           (Half)_mm512_maskz_cvtps_pd(static_cast<__mmask8>(mask_ >> 8), _mm256_loadu_ps(s + 8));
  }
  CAS_HD V add(V sum, V value) const { return (V)_mm512_mask_add_ps((__m512)sum, mask_, (__m512)sum, (__m512)value); }
  CAS_HD V add_square(V sum, V value) const {
    return (V)_mm512_mask3_fmadd_ps((__m512)value, (__m512)value, (__m512)sum, mask_);
  }
  template <int half>
  CAS_HD Half add_half(Half sum, Half value) const {
    const __mmask8 mask = static_cast<__mmask8>(mask_ >> 8 * half);
    return (Half)_mm512_mask_add_pd((__m512d)sum, mask, (__m512d)sum, (__m512d)value);
  }

 private:
  __mmask16 mask_;
};
#endif

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
