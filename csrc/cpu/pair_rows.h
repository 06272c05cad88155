// Sums of short runs of bfloat16 planes by products of pairs (products.h): planes become rows of pairs of pixels, so
// that lanes are channels, and the end of a run costs two conversions, not two folds of eight planes.
#pragma once

#include "products.h"
#include "transpose.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

#if CAS_X86_LEVEL >= 5
// Some pixels of up to kPad planes; a row has kPad pairs, of two pixels that follow each other.
class PairRows {
 public:
  static constexpr int64_t kPixels = 1024;  // they fit an L1 cache
  static constexpr int64_t kMost = 128;     // pixels that are added in float (products.h)

  // Takes pixels of planes from s on, as those from `begin` on, which is even. Meanwhile asks for `next`.
  CAS_HD void turn(const c10::BFloat16* s, int64_t stride, int64_t planes, int64_t pixels, int64_t begin,
                   const NextPlanes<c10::BFloat16>& next) {
    planes == kPad ? turn_planes<true>(s, stride, planes, pixels, begin, next)
                   : turn_planes<false>(s, stride, planes, pixels, begin, next);
  }

  // As sum_plane_products, for the pixels [begin, end), kMost at most. So many vectors at a time, masked, that little
  // depends on how many pixels there are.
  CAS_HD bool sum(int64_t begin, int64_t end, const float* center, double* sum, double* square) const {
    using D = Vec<double, kPad>;
    constexpr int64_t kPixelsOfVector = kPairValues / kPad;
    const auto splat = [](int64_t pixel) { return _mm512_set1_epi16(static_cast<short>(pixel)); };
    alignas(64) static constexpr uint16_t kPixel[kPairValues] = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1,
                                                                 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3};
    int64_t x = begin / kPixelsOfVector * kPixelsOfVector;
    __m512i pixel = _mm512_sub_epi16(load<__m512i>(kPixel), splat(begin - x));  // of each value, from `begin` on
    PairSums parts;
    do {
#pragma GCC unroll 4
      for (int k = 0; k < kTogether; ++k, x += kPixelsOfVector) {
        const __mmask32 within = _mm512_cmplt_epu16_mask(pixel, splat(end - begin));
        parts.add(_mm512_maskz_loadu_epi16(within, rows_ + x * kPad));
        pixel = _mm512_add_epi16(pixel, splat(kPixelsOfVector));
      }
    } while (x < end);
    const D sums = add_halves<float>(parts.sum), squares = add_halves<float>(parts.square);
    if (!all_finite(squares)) return false;
    const D n = D{} + static_cast<double>(end - begin);
    store(sum, load<D>(sum) + sums);
    store(square, load<D>(square) + moved_square_sum(squares, sums, n, load_wide<kPad>(center)));
    return true;
  }

 private:
  static constexpr int kTogether = 4;  // vectors

  template <bool kAll>
  CAS_HD void turn_planes(const c10::BFloat16* s, int64_t stride, int64_t planes, int64_t pixels, int64_t begin,
                          const NextPlanes<c10::BFloat16>& next) {
    for (int64_t x = 0; x < pixels; x += kPairValues) {
      const uint32_t bits = first_bits(pixels - x);
      next.template ask<kPairValues>(x);
      Vec<float> pairs[kPad];
#pragma GCC unroll 8
      for (int k = 0; k < kPad; ++k) {
        pairs[k] = kAll || k < planes ? (Vec<float>)load_pairs(s + k * stride + x, bits) : Vec<float>{};
      }
      store_rows(pairs, reinterpret_cast<float*>(rows_ + (begin + x) * kPad), kPad);
    }
  }

  alignas(64) c10::BFloat16 rows_[kPixels * kPad + kTogether * kPairValues];
};
#endif

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
