// Which block is the last to finish, of an image or of all, without a counter that must be zero before the launch: a
// memset would be a launch of its own, and a counter that is kept between launches would be shared by streams and by
// captured graphs.
//
// A word of workspace holds whatever it held. Every block claims it before it finishes: where it does not find this
// launch's number, it writes it. A block that finishes adds one, and the last one clears the word, so that a graph that
// is replayed, with the same number, starts anew. Numbers have 52 bits and read as NaN: no count and no table looks
// like one, and random bits do once in 2^52. Where there are two kernels anyway, the first clears the words for the
// second, which counts from 0. No block tries again and again: hundreds that finish together would wait for each other.
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

__device__ __forceinline__ void claim_arrivals(unsigned long long* word, uint64_t number) {
  const unsigned long long seen = atomicAdd(word, 0ull);
  if ((seen ^ number) > kMostArrivals) atomicCAS(word, seen, number);  // where it fails, another block has claimed it
}

// Whether the last block of the last image reduces; else reduce_kernel does.
CAS_HD bool reduces_last(const Shape& s) { return 0 < s.images && s.images <= kMostArrivals; }

// For the kernel that follows, if that one counts: by the first of an image's blocks.
__device__ __forceinline__ void clear_arrivals(const AccumulateParams& p, int64_t b, int64_t split) {
  if (!p.with_loss || p.launch != 0 || split != 0 || threadIdx.x != 0) return;
  p.arrivals[b] = 0;
  if (b == 0) p.arrivals[p.shape.images] = 0;
}

// Where the last block of this kernel goes on: claims the words on which this one may arrive later.
__device__ __forceinline__ void begin_arrivals(const AccumulateParams& p, int64_t b, int64_t split) {
  clear_arrivals(p, b, split);
  if (p.launch == 0 || threadIdx.x != 0) return;
  if (p.splits > 1) claim_arrivals(p.arrivals + b, p.launch);
  const bool reduces = p.with_loss && p.finalise.reduction != Reduction::kNone && reduces_last(p.shape);
  if (reduces) claim_arrivals(p.arrivals + p.shape.images, p.launch);
}

// Whether this block is the last of `blocks`, at most kMostArrivals if `number` is not 0, to call this with a word.
// What the others wrote before is visible to all threads of the last one then. `flag`: shared memory.
__device__ __forceinline__ bool last_to_arrive(unsigned long long* word, uint64_t number, int64_t blocks, int* flag) {
  __syncthreads();  // the block has written
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned long long before = atomicAdd(word, 1ull) ^ number;
    *flag = before + 1 == static_cast<unsigned long long>(blocks);
    if (*flag) {
      atomicExch(word, 0ull);
      __threadfence();
    }
  }
  __syncthreads();
  return *flag != 0;
}

}  // namespace cas_ext
