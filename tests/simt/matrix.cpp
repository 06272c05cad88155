// A tensor core: sums += a * b, for a of 16 x 16 and b of 16 x 8 bfloat16 numbers, spread over the lanes as PTX says.
#include <cmath>

#include "scheduler.h"
#include "simt/rounding.h"

namespace simt {

namespace {

float number_of(std::uint32_t pair, unsigned which) {
  return bfloat16_bits_to_float(static_cast<std::uint16_t>(which ? pair >> 16 : pair));
}

// What the least exact hardware does with 8 products and a sum: each is cut off, towards zero, below the last bit that
// a float of the largest one's exponent has, and so is their sum.
float add_cut_off(float sum, const double (&products)[8]) {
  double largest = std::fabs(static_cast<double>(sum)), plain = sum;
  for (const double product : products) {
    largest = std::fmax(largest, std::fabs(product));
    plain += product;
  }
  if (!std::isfinite(plain)) return static_cast<float>(plain);
  if (largest == 0) return sum;
  const int last_bit = std::ilogb(largest) - 23;
  const auto cut = [](double value, int bit) { return std::scalbn(std::trunc(std::scalbn(value, -bit)), bit); };
  double total = cut(sum, last_bit);
  for (const double product : products) total += cut(product, last_bit);
  if (total == 0) return 0;
  return static_cast<float>(cut(total, std::max(std::ilogb(total) - 23, -149)));
}

}  // namespace

void multiply(ProductOperands* const (&lanes)[kWarp]) {
  float a[16][16], b[16][8];
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const ProductOperands& own = *lanes[lane];
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned k = 0; k < 2; ++k) {
      for (unsigned which = 0; which < 2; ++which) {
        const unsigned depth = 8 * k + 2 * t + which;
        a[g][depth] = number_of(own.a[2 * k], which);
        a[g + 8][depth] = number_of(own.a[2 * k + 1], which);
        b[depth][g] = number_of(own.b[k], which);
      }
    }
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      float& sum = lanes[lane]->sums[i];
      for (unsigned first = 0; first < 16; first += 8) {
        double products[8];
        for (unsigned k = 0; k < 8; ++k) products[k] = static_cast<double>(a[row][first + k]) * b[first + k][column];
        sum = add_cut_off(sum, products);
      }
    }
  }
}

}  // namespace simt
