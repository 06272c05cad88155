// Sums over sorted pixels of bfloat16 planes by products of pairs (products.h): planes become rows of pixels, any two
// of which become a pair, and lanes are channels.
#pragma once

#include "products.h"
#include "transpose.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kAtOnce = 8;  // sorted pixels; so many places behind the last one are read

#if CAS_X86_LEVEL >= 5
// Planes as touching rows of kPad channels, zero where there is no plane or no pixel. Meanwhile asks for `next`.
inline void turn_pixels(const c10::BFloat16* s, int64_t stride, int64_t planes, int64_t pixels, c10::BFloat16* rows,
                        const NextPlanes<c10::BFloat16>& next) {
  alignas(64) static constexpr uint16_t kOfPair[kPairValues] = {0,  2,  4,  6,  8,  10, 12, 14, 1,  3,  5,
                                                                7,  9,  11, 13, 15, 16, 18, 20, 22, 24, 26,
                                                                28, 30, 17, 19, 21, 23, 25, 27, 29, 31};
  const __m512i of_pair = load<__m512i>(kOfPair);
  const auto turn_all = [=](auto all) {
    for (int64_t x = 0; x < pixels; x += kPairValues) {
      const uint32_t bits = first_bits(pixels - x);
      next.template ask<kPairValues>(x);
      Vec<float> pairs[kPad];  // each of two pixels that follow each other
#pragma GCC unroll 8
      for (int k = 0; k < kPad; ++k) {
        pairs[k] = all.value || k < planes ? (Vec<float>)load_pairs(s + k * stride + x, bits) : Vec<float>{};
      }
      turn(pairs);
#pragma GCC unroll 8
      for (int k = 0; k < kPad; ++k) {
        store_row((Vec<float>)_mm512_permutexvar_epi16(of_pair, (__m512i)pairs[k]),
                  reinterpret_cast<float*>(rows + (x + 2 * k) * kPad), kPairLanes * kPad / 2);
      }
    }
  };
  planes == kPad ? turn_all(std::true_type()) : turn_all(std::false_type());
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
#endif

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
