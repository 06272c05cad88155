// Barriers, shuffles, votes, matches and reductions of a warp.
#pragma once

#include <cstring>
#include <type_traits>

#include "types.h"

namespace simt {

enum class Collective : std::uint8_t {
  syncwarp,
  shuffle_index,
  shuffle_up,
  shuffle_down,
  shuffle_xor,
  ballot,
  match_any,
  match_all,
  reduce_add,
  reduce_min,
  reduce_max,
  reduce_and,
  reduce_or,
  reduce_xor,
  add_product,
};

// Waits for the lanes in `mask`, then returns this lane's result. `argument` is a lane, a delta or a lane mask.
std::uint64_t collective(Collective, unsigned mask, std::uint64_t value = 0, int argument = 0, int width = 32);
unsigned lane_bit();

// mma.sync.m16n8k16 of bfloat16, with sums in float: matrix.cpp.
struct ProductOperands {
  float sums[4];
  std::uint32_t a[4], b[2];
};
SIMT_INLINE void add_product(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  ProductOperands own;
  std::memcpy(own.sums, sums, sizeof sums);
  std::memcpy(own.a, a, sizeof a);
  std::memcpy(own.b, b, sizeof b);
  collective(Collective::add_product, 0xffffffffu, reinterpret_cast<std::uintptr_t>(&own));
  std::memcpy(sums, own.sums, sizeof sums);
}

template <class T>
SIMT_INLINE std::uint64_t to_bits(T value) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
SIMT_INLINE T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// Flipping the sign bit makes unsigned comparison order signed numbers.
template <class T>
constexpr unsigned kSignBit = std::is_signed<T>::value ? 0x80000000u : 0u;

template <class T>
SIMT_INLINE T reduce_ordered(Collective operation, unsigned mask, T value) {
  static_assert(std::is_integral<T>::value && sizeof(T) == 4, "__reduce_*_sync takes int or unsigned");
  return static_cast<T>(
      static_cast<unsigned>(collective(operation, mask, static_cast<unsigned>(value) ^ kSignBit<T>) ^ kSignBit<T>));
}

}  // namespace simt

// Functions of the runtime, so that their return address is the kernel's line.
void __syncthreads();
int __syncthreads_count(int predicate);
int __syncthreads_or(int predicate);
int __syncthreads_and(int predicate);
void __threadfence();
void __nanosleep(unsigned nanoseconds);
[[noreturn]] void __trap();

SIMT_INLINE void __threadfence_block() {}
SIMT_INLINE void __syncwarp(unsigned mask = 0xffffffffu) { simt::collective(simt::Collective::syncwarp, mask); }

// The least convergence the hardware may show: a lane can be sure of itself only.
SIMT_INLINE unsigned __activemask() { return simt::lane_bit(); }

#define SIMT_SHUFFLE(name, operation, Argument)                                                                        \
  template <class T>                                                                                                   \
  SIMT_INLINE T name(unsigned mask, T value, Argument argument, int width = warpSize) {                                \
    return simt::from_bits<T>(                                                                                         \
        simt::collective(simt::Collective::operation, mask, simt::to_bits(value), static_cast<int>(argument), width)); \
  }
SIMT_SHUFFLE(__shfl_sync, shuffle_index, int)
SIMT_SHUFFLE(__shfl_up_sync, shuffle_up, unsigned)
SIMT_SHUFFLE(__shfl_down_sync, shuffle_down, unsigned)
SIMT_SHUFFLE(__shfl_xor_sync, shuffle_xor, int)
#undef SIMT_SHUFFLE

SIMT_INLINE unsigned __ballot_sync(unsigned mask, int predicate) {
  return static_cast<unsigned>(simt::collective(simt::Collective::ballot, mask, predicate != 0));
}
SIMT_INLINE int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
SIMT_INLINE int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

template <class T>
SIMT_INLINE unsigned __match_any_sync(unsigned mask, T value) {
  return static_cast<unsigned>(simt::collective(simt::Collective::match_any, mask, simt::to_bits(value)));
}

template <class T>
SIMT_INLINE unsigned __match_all_sync(unsigned mask, T value, int* all_equal) {
  unsigned lanes = static_cast<unsigned>(simt::collective(simt::Collective::match_all, mask, simt::to_bits(value)));
  *all_equal = lanes != 0;
  return lanes;
}

template <class T>
SIMT_INLINE T __reduce_add_sync(unsigned mask, T value) {
  return static_cast<T>(
      static_cast<unsigned>(simt::collective(simt::Collective::reduce_add, mask, static_cast<unsigned>(value))));
}
template <class T>
SIMT_INLINE T __reduce_min_sync(unsigned mask, T value) {
  return simt::reduce_ordered(simt::Collective::reduce_min, mask, value);
}
template <class T>
SIMT_INLINE T __reduce_max_sync(unsigned mask, T value) {
  return simt::reduce_ordered(simt::Collective::reduce_max, mask, value);
}
SIMT_INLINE unsigned __reduce_and_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(simt::collective(simt::Collective::reduce_and, mask, value));
}
SIMT_INLINE unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(simt::collective(simt::Collective::reduce_or, mask, value));
}
SIMT_INLINE unsigned __reduce_xor_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(simt::collective(simt::Collective::reduce_xor, mask, value));
}
