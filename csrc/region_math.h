// The equations of the class-agnostic segmentation loss (Sharma et al., 2021), once, for host and device.
// docs/maths.md derives them; cas_ext/reference.py is their independent twin. No loop over pixels, no PyTorch.
#pragma once

#include "host_device.h"
#include "params.h"

namespace cas_ext {

// How to add a group of n_b values to one of n_a (Chan, Golub and LeVeque, 1979), delta = mean_b - mean_a:
//   mean += delta * fraction;   m2 += m2_b + delta^2 * cross.
struct MergeWeights {
  double fraction;  // n_b / (n_a + n_b)
  double cross;     // n_a n_b / (n_a + n_b)
};

CAS_HD MergeWeights merge_weights(double n_a, double n_b) {
  const double fraction = n_b / (n_a + n_b);
  return {fraction, n_a * fraction};
}

// `cross` from n_b and the fraction: n_b (1 - fraction), exactly 0 if n_a is 0, as the fraction is 1 then.
CAS_HD double merge_cross(double n_b, double fraction) { return n_b * (1 - fraction); }

// What a group of n values adds to the scatter about the mean of a larger group that contains it.
CAS_HD double between_scatter(double n, double mean, double merged_mean) {
  const double delta = mean - merged_mean;
  return n * delta * delta;
}

// Sum of squared deviations from the mean, given sums of d and d^2 about a pilot near it.
template <class T>
CAS_HD T centered_square_sum(T square_sum, T sum, T inverse_n) {
  return square_sum - sum * sum * inverse_n;
}

// The same, added to `total`, of sums of s and s^2 themselves. Where all values are equal and their sums are exact, it
// is 0.
CAS_HD double square_sum_about(double total, double sum, double mean) { return total - sum * mean; }

// Sums of d and d^2 about a pilot, once the pilot of their n values has moved by `shift`.
template <class T>
CAS_HD T moved_sum(T sum, T n, T shift) {
  return sum - n * shift;
}
template <class T>
CAS_HD T moved_square_sum(T square_sum, T sum, T n, T shift) {
  return square_sum - shift * (2 * sum - n * shift);
}

// A scatter is no less than 0, whatever rounding did; NaN stays NaN.
CAS_HD double at_least_zero(double scatter) { return scatter < 0 ? 0 : scatter; }

// Eq. 1, first term of one region. An absent region adds 0; a poisoned one (scatter NaN) stays NaN.
CAS_HD double uniformer_term(double scatter, double n) { return n > 0 ? scatter / n : scatter * 0; }

// By how much `pairs` multiplies the sum over ordered pairs i != j; `regions` counts the regions present.
CAS_HD double pair_weight(Pairs pairs, double regions) {
  if (pairs == Pairs::kUnordered) return 0.5;
  if (pairs == Pairs::kMean) return regions > 1 ? 1 / (regions - 1) : 0;
  return 1;
}

// Eq. 1, second term: sum_{i != j} |m_i - m_j|^2 = 2 N sum_i |m_i - mbar|^2, mbar the mean of the region means.
CAS_HD double discriminator(double mean_scatter, double regions, Pairs pairs) {
  return pair_weight(pairs, regions) * 2 * regions * mean_scatter;
}

// Eq. 1.
CAS_HD double cas_loss(double alpha, double uniformer, double discriminator) {
  return alpha * uniformer - (1 - alpha) * discriminator;
}

// Over images; the mean of none is 0.
CAS_HD double reduced(Reduction reduction, double sum, double images) {
  return reduction == Reduction::kMean && images > 0 ? sum / images : sum;
}

// Eq. 2 for a pixel of region i: scale (s - m_i) + shift, with scale = 2 alpha / n_i and
// shift = -4 (1 - alpha) (N m_i - sum_j m_j) / n_i = -4 (1 - alpha) N (m_i - mbar) / n_i. Takes 1/n_i: kernels divide
// once.
CAS_HD double gradient_scale(double alpha, double inverse_n) { return 2 * alpha * inverse_n; }

CAS_HD double gradient_push(double alpha, Pairs pairs, double regions) {  // the part that all regions share
  return -4 * (1 - alpha) * pair_weight(pairs, regions) * regions;
}

CAS_HD double gradient_shift(double push, double mean, double mean_of_means, double inverse_n) {
  return push * (mean - mean_of_means) * inverse_n;
}

// Kernels compute s - center with center = mean rounded to acc_t; the offset takes up what the rounding lost.
CAS_HD double centered_offset(double scale, double shift, double center, double mean) {
  return shift + scale * (center - mean);
}

template <class acc_t>
CAS_HD acc_t gradient_element(acc_t weight, acc_t scale, acc_t center, acc_t offset, acc_t s) {
  return weight * (scale * (s - center) + offset);
}

// From the gradient g of the probabilities s = softmax(z) to that of the logits, dz_m = s_m (g_m - sum_k s_k g_k).
// Takes g_m and dot = sum_k s_k g_k relative to the gradient of the pixel's most probable channel r: g_m - g_r and
// sum_k s_k (g_k - g_r). That is the same number, as the s_k sum to 1, and keeps the digits of confident pixels: with
// s_r = 1 - eps, g_r - sum_k s_k g_k is a difference of nearly equal numbers, while here the term of r is exactly 0.
template <class acc_t>
CAS_HD acc_t softmax_gradient(acc_t s, acc_t g, acc_t dot) {
  return s * (g - dot);
}

}  // namespace cas_ext
