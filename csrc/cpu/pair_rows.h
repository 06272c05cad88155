// Sums over bfloat16 planes by products of pairs (products.h) where lanes are channels, so that the end of a run costs
// two conversions, not two folds of eight planes: of short runs, whose planes become rows of pairs of pixels, and of
// sorted pixels, of which any two become a pair.
#pragma once

#include "products.h"
#include "transpose.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kAtOnce = 8;  // sorted pixels; so many places behind the last one are read

#if CAS_X86_LEVEL >= 5
// Planes as rows of kPad pairs, each of two pixels that follow each other, zero where there is no plane or no pixel:
// put(x, rows) gets two of them, of the pixels x, x + 1 and kPairLanes beyond. Meanwhile asks for `next`.
template <bool kAll, class Put>
CAS_HD void turn_pairs(const c10::BFloat16* s, int64_t stride, int64_t planes, int64_t pixels,
                       const NextPlanes<c10::BFloat16>& next, Put put) {
  for (int64_t x = 0; x < pixels; x += kPairValues) {
    const uint32_t bits = first_bits(pixels - x);
    next.template ask<kPairValues>(x);
    Vec<float> pairs[kPad];
#pragma GCC unroll 8
    for (int k = 0; k < kPad; ++k) {
      pairs[k] = kAll || k < planes ? (Vec<float>)load_pairs(s + k * stride + x, bits) : Vec<float>{};
    }
    turn(pairs);
#pragma GCC unroll 8
    for (int k = 0; k < kPad; ++k) put(x + 2 * k, (__m512i)pairs[k]);
  }
}

// The same as rows of pixels.
inline void turn_pixels(const c10::BFloat16* s, int64_t stride, int64_t planes, int64_t pixels, c10::BFloat16* rows,
                        const NextPlanes<c10::BFloat16>& next) {
  alignas(64) static constexpr uint16_t kOfPair[kPairValues] = {0,  2,  4,  6,  8,  10, 12, 14, 1,  3,  5,
                                                                7,  9,  11, 13, 15, 16, 18, 20, 22, 24, 26,
                                                                28, 30, 17, 19, 21, 23, 25, 27, 29, 31};
  const __m512i of_pair = load<__m512i>(kOfPair);
  const auto put = [=](int64_t x, __m512i pairs) {
    store_row((Vec<float>)_mm512_permutexvar_epi16(of_pair, pairs), reinterpret_cast<float*>(rows + x * kPad),
              kPairLanes * kPad / 2);
  };
  planes == kPad ? turn_pairs<true>(s, stride, planes, pixels, next, put)
                 : turn_pairs<false>(s, stride, planes, pixels, next, put);
}

// As sum_piece, of such rows: those that `order` lists, behind which kAtOnce other rows are listed.
// Returns whether it was done, as sum_plane_products.
CAS_HD bool sum_piece_products(const c10::BFloat16* rows, const uint16_t* order, int64_t pixels, const float* center,
                               double* sum, double* square) {
  constexpr int64_t kBlock = 256;                                                     // 128 squares to a float
  static constexpr uint32_t kWithin[] = {0, 0x5555, 0xffff, 0x5555ffff, 0xffffffff};  // of the first pixels
  alignas(64) static constexpr uint16_t kToPairs[kPairValues] = {0,  8,  1,  9,  2,  10, 3,  11, 4,  12, 5,
                                                                 13, 6,  14, 7,  15, 16, 24, 17, 25, 18, 26,
                                                                 19, 27, 20, 28, 21, 29, 22, 30, 23, 31};
  const __m512i to_pairs = load<__m512i>(kToPairs);
  const auto add = [=](PairSums& parts, int64_t x, __mmask32 within) __attribute__((always_inline)) {
    const auto row = [=](int64_t k) { return load<__m128i>(rows + order[x + k] * kPad); };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(row(0)), row(1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(row(2)), row(3), 1);
    const __m512i four = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    parts.add(_mm512_maskz_permutexvar_epi16(within, to_pairs, four));
  };
  using D = Vec<double, kPad>;
  D sums{}, squares{};
  for (int64_t x = 0; x < pixels;) {
    PairSums even, odd;  // two chains of additions
    const int64_t last = std::min(x + kBlock, pixels);
    for (; x + kAtOnce <= last; x += kAtOnce) {
      add(even, x, ~0u);
      add(odd, x + kAtOnce / 2, ~0u);
    }
    if (x < last) {
      add(even, x, kWithin[std::min<int64_t>(last - x, 4)]);
      add(odd, x + kAtOnce / 2, kWithin[std::max<int64_t>(last - x - 4, 0)]);
      x = last;
    }
    sums += add_halves<float>(even.sum + odd.sum);
    squares += add_halves<float>(even.square + odd.square);
  }
  return join_products<kPad>(sums, squares, pixels, center, sum, square);
}

// Some pixels of up to kPad planes as rows of pairs.
class PairRows {
 public:
  static constexpr int64_t kPixels = 1024;  // they fit an L1 cache
  static constexpr int64_t kMost = 128;     // pixels that are added in float (products.h)

  // Takes pixels of planes from s on, as those from `begin` on, which is even. Meanwhile asks for `next`.
  CAS_HD void turn(const c10::BFloat16* s, int64_t stride, int64_t planes, int64_t pixels, int64_t begin,
                   const NextPlanes<c10::BFloat16>& next) {
    float* const rows = reinterpret_cast<float*>(rows_ + begin * kPad);
    const auto put = [=](int64_t x, __m512i pairs) {
      store_row((Vec<float>)pairs, rows + x / 2 * kPad, kPairLanes / 2 * kPad);
    };
    planes == kPad ? turn_pairs<true>(s, stride, planes, pixels, next, put)
                   : turn_pairs<false>(s, stride, planes, pixels, next, put);
  }

  // As sum_plane_products, for the pixels [begin, end), kMost at most. So many vectors at a time, masked, that little
  // depends on how many pixels there are.
  CAS_HD bool sum(int64_t begin, int64_t end, const float* center, double* sum, double* square) const {
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
    return join_products<kPad>(add_halves<float>(parts.sum), add_halves<float>(parts.square), end - begin, center, sum,
                               square);
  }

 private:
  static constexpr int kTogether = 4;  // vectors

  alignas(64) c10::BFloat16 rows_[kPixels * kPad + kTogether * kPairValues];
};
#endif

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
