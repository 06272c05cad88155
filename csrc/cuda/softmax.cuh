// softmax over the channels of a pixel, in the type of pixel arithmetic whatever the logits are stored in. A pixel
// whose logits are all -inf, or hold +inf or NaN, becomes NaN, as in torch.softmax.
#pragma once

#include <cmath>

#include "device.cuh"

namespace cas_ext {

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

// Of all logits of a pixel at once, in place; -inf stands for channels that do not exist. Returns the most probable
// one.
template <class acc_t, int K>
__device__ __forceinline__ int softmax(acc_t (&z)[K]) {
  acc_t highest = z[0], sum = 0;
  int top = 0;
#pragma unroll
  for (int k = 1; k < K; ++k) {
    if (z[k] > highest) {
      highest = z[k];
      top = k;
    }
  }
  if constexpr (K == 2) {  // one of the two is 1, or not a number; that of a channel that does not exist is 0
    const acc_t of_highest = (highest - highest) + 1, of_other = exponential((top == 0 ? z[1] : z[0]) - highest);
    z[0] = top == 0 ? of_highest : of_other;
    z[1] = top == 0 ? of_other : of_highest;
    sum = of_highest + of_other;
  } else {
#pragma unroll
    for (int k = 0; k < K; ++k) sum += z[k] = exponential(z[k] - highest);
  }
  const acc_t inverse = 1 / sum;
#pragma unroll
  for (int k = 0; k < K; ++k) z[k] *= inverse;
  return top;
}

// Turns a pixel's logits into probabilities, one at a time.
template <class acc_t>
struct Softmax {
  acc_t highest, inverse;  // the largest logit; 1 / sum of exp(z - highest)

  __device__ __forceinline__ acc_t operator()(acc_t z) const { return exponential(z - highest) * inverse; }
};

// What is known of a pixel's softmax after some of its logits: the largest, and the sum of exponentials about it.
template <class acc_t>
struct SoftmaxSums {
  acc_t highest = minus_infinity<acc_t>(), sum = 0;

  // Adds K logits; -inf adds nothing. They become exponentials about `highest`. Returns which of them is larger than
  // all before, or -1.
  template <int K>
  __device__ __forceinline__ int add(acc_t (&z)[K]) {
    const acc_t before = highest;
    int top = -1;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (z[k] > highest) {
        highest = z[k];
        top = k;
      }
    }
    const acc_t about = highest == minus_infinity<acc_t>() ? acc_t(0) : highest;  // inf - inf is NaN
    acc_t part = 0;  // one long float sum over many channels would lose digits
#pragma unroll
    for (int k = 0; k < K; ++k) part += z[k] = exponential(z[k] - about);
    sum = sum * exponential(before - about) + part;
    return top;
  }

  // Adds the logits of channels 0 to M - 1, a few at a time so that their loads overlap.
  template <class Logit>
  __device__ __forceinline__ void add_all(int64_t M, Logit logit) {
    constexpr int kGroup = 8;
    for (int64_t m = 0; m < M; m += kGroup) {
      acc_t z[kGroup];
#pragma unroll
      for (int k = 0; k < kGroup; ++k) z[k] = m + k < M ? acc_t(logit(m + k)) : minus_infinity<acc_t>();
      add(z);
    }
  }

  __device__ __forceinline__ Softmax<acc_t> result() const { return {highest, 1 / sum}; }
};

}  // namespace cas_ext
