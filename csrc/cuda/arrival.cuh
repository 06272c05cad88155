// Which block of an image is the last to finish, without a counter that must be zero before the launch: a memset would
// be a launch of its own, and a counter that is kept between launches would be shared by streams and by captured
// graphs.
//
// An image's word of workspace holds whatever it held. A block that does not find this launch's number in it is the
// first and starts to count. The last block clears the word, so that a graph that is replayed, with the same number,
// starts anew. Numbers have 55 bits and read as NaN: no count and no table looks like one, and random bits do once in
// 2^55.
#pragma once

#include "device.cuh"

namespace cas_ext {

constexpr int kArrivalBits = 9;
constexpr int64_t kMostArrivals = (1 << kArrivalBits) - 1;

// What a launch counts from: a hash of how many launches there were, in the upper bits, the highest of a NaN.
inline uint64_t arrival_number(uint64_t launches) {
  uint64_t z = (launches + 1) * 0x9e3779b97f4a7c15ull;  // splitmix64
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return (z ^ z >> 31 | 0x7ff4ull << 48) >> kArrivalBits << kArrivalBits;
}

// Whether this block is the last of `blocks` to call this with an image's word. What the others wrote before is visible
// to all threads of the last one then. `flag`: shared memory.
__device__ __forceinline__ bool last_to_arrive(unsigned long long* word, uint64_t number, int64_t blocks, int* flag) {
  __syncthreads();  // the block has written
  if (threadIdx.x == 0) {
    __threadfence();
    unsigned long long seen = 0, assumed, next;
    do {
      assumed = seen;
      const unsigned long long arrived = (assumed ^ number) <= kMostArrivals ? (assumed ^ number) + 1 : 1;
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
