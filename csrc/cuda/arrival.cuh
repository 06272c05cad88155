// Which block is the last to finish, of an image or of all, without a counter that must be zero before the launch: a
// memset would be a launch of its own, and a counter that is kept between launches would be shared by streams and by
// captured graphs.
//
// A word of workspace holds whatever it held. A block that does not find this launch's number in it is the first and
// starts to count. The last block clears the word, so that a graph that is replayed, with the same number, starts anew.
// Numbers have 52 bits and read as NaN: no count and no table looks like one, and random bits do once in 2^52. Where
// there are two kernels anyway, the first clears the words for the second, which counts from 0.
#pragma once

#include "device.cuh"

namespace cas_ext {

constexpr int kArrivalBits = 12;
constexpr int64_t kMostArrivals = (1 << kArrivalBits) - 1;

// What a launch counts from: a hash of how many launches there were, in the upper bits, the highest of a NaN.
inline uint64_t arrival_number(uint64_t launches) {
  uint64_t z = (launches + 1) * 0x9e3779b97f4a7c15ull;  // splitmix64
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return (z ^ z >> 31 | 0x7ff4ull << 48) >> kArrivalBits << kArrivalBits;
}

// For the kernel that follows, if that one counts: by the first of an image's blocks.
__device__ __forceinline__ void clear_arrivals(const AccumulateParams& p, int64_t b, int64_t split) {
  if (!p.with_loss || p.launch != 0 || split != 0 || threadIdx.x != 0) return;
  p.arrivals[b] = 0;
  if (b == 0) p.arrivals[p.shape.images] = 0;
}

// Whether this block is the last of `blocks`, at most kMostArrivals if `number` is not 0, to call this with a word.
// What the others wrote before is visible to all threads of the last one then. `flag`: shared memory.
__device__ __forceinline__ bool last_to_arrive(unsigned long long* word, uint64_t number, int64_t blocks, int* flag) {
  __syncthreads();  // the block has written
  if (threadIdx.x == 0) {
    __threadfence();
    unsigned long long seen = 0, assumed, next;
    do {
      assumed = seen;
      const bool counting = number == 0 || (assumed ^ number) <= kMostArrivals;
      const unsigned long long arrived = counting ? (assumed ^ number) + 1 : 1;
      next = arrived == static_cast<unsigned long long>(blocks) ? 0 : number | arrived;
      seen = atomicCAS(word, assumed, next);
    } while (seen != assumed);
    *flag = next == 0;
    __threadfence();
  }
  __syncthreads();
  return *flag != 0;
}

}  // namespace cas_ext
