// Loads and stores with a cache hint, and atomics.
#pragma once

#include <type_traits>

#include "types.h"

namespace simt {

// Checked and counted as one access of `size` bytes; the compiler may split a plain load into its fields.
void load(void* destination, const void* source, unsigned size, unsigned alignment);
void load_constant(void* destination, const void* source, unsigned size, unsigned alignment);
void store(void* destination, const void* source, unsigned size, unsigned alignment);
void load_atomic(void* value, const void* source, unsigned size);
void store_atomic(void* destination, const void* value, unsigned size);

template <class T>
constexpr void check_access() {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 16, "one access moves at most 16 bytes");
}

// Threads run one at a time, so reading and then writing is atomic.
template <class T, class Update>
SIMT_INLINE T atomic(T* address, Update&& update) {
  T before;
  load_atomic(&before, address, sizeof(T));
  T after = update(before);
  store_atomic(address, &after, sizeof(T));
  return before;
}

template <class T>
struct Same {
  using type = T;
};

}  // namespace simt

#define SIMT_LOAD(name, function)                           \
  template <class T>                                        \
  SIMT_INLINE T name(const T* address) {                    \
    simt::check_access<T>();                                \
    T value;                                                \
    simt::function(&value, address, sizeof(T), alignof(T)); \
    return value;                                           \
  }
SIMT_LOAD(__ldg, load_constant)
SIMT_LOAD(__ldca, load)
SIMT_LOAD(__ldcg, load)
SIMT_LOAD(__ldcs, load)
SIMT_LOAD(__ldlu, load)
SIMT_LOAD(__ldcv, load)
#undef SIMT_LOAD

#define SIMT_STORE(name)                                                  \
  template <class T>                                                      \
  SIMT_INLINE void name(T* address, typename simt::Same<T>::type value) { \
    simt::check_access<T>();                                              \
    simt::store(address, &value, sizeof(T), alignof(T));                  \
  }
SIMT_STORE(__stwb)
SIMT_STORE(__stcg)
SIMT_STORE(__stcs)
SIMT_STORE(__stwt)
#undef SIMT_STORE

#define SIMT_ATOMIC(name, expression)                                         \
  template <class T>                                                          \
  SIMT_INLINE T name(T* address, typename simt::Same<T>::type value) {        \
    return simt::atomic(address, [value](T old) -> T { return expression; }); \
  }
SIMT_ATOMIC(atomicAdd, old + value)
SIMT_ATOMIC(atomicSub, old - value)
SIMT_ATOMIC(atomicExch, ((void)old, value))
SIMT_ATOMIC(atomicMin, value < old ? value : old)
SIMT_ATOMIC(atomicMax, old < value ? value : old)
SIMT_ATOMIC(atomicAnd, old& value)
SIMT_ATOMIC(atomicOr, old | value)
SIMT_ATOMIC(atomicXor, old ^ value)
SIMT_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
SIMT_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef SIMT_ATOMIC

template <class T>
SIMT_INLINE T atomicCAS(T* address, typename simt::Same<T>::type compare, typename simt::Same<T>::type value) {
  return simt::atomic(address, [compare, value](T old) -> T { return old == compare ? value : old; });
}
