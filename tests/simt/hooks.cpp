// The functions that -fsanitize=thread and -fsanitize=undefined make instrumented code call. Neither sanitizer's own
// library is linked: these are the whole implementation. Also the accesses that the headers report themselves.
#include <cstring>

#include "runtime.h"

#define SITE __builtin_return_address(0)
#define HOOK extern "C" __attribute__((visibility("hidden"))) void

using simt::access;
using simt::check_alignment;
using simt::Kind;

// A struct of 16 bytes may be aligned to 8 only, so the size says no more about alignment than this; the rest is
// -fsanitize=alignment's part, which knows the type.
#define SIZED_HOOKS(size)                                                            \
  HOOK __tsan_read##size(void* p) { access(p, size, Kind::load, SITE); }             \
  HOOK __tsan_write##size(void* p) { access(p, size, Kind::store, SITE); }           \
  HOOK __tsan_unaligned_read##size(void* p) { access(p, size, Kind::load, SITE); }   \
  HOOK __tsan_unaligned_write##size(void* p) { access(p, size, Kind::store, SITE); } \
  HOOK __tsan_volatile_read##size(void* p) { access(p, size, Kind::load, SITE); }    \
  HOOK __tsan_volatile_write##size(void* p) { access(p, size, Kind::store, SITE); }
SIZED_HOOKS(1)
SIZED_HOOKS(2)
SIZED_HOOKS(4)
SIZED_HOOKS(8)
SIZED_HOOKS(16)

HOOK __tsan_read_range(void* p, std::size_t size) { access(p, size, Kind::load, SITE); }
HOOK __tsan_write_range(void* p, std::size_t size) { access(p, size, Kind::store, SITE); }
HOOK __tsan_vptr_update(void*, void*) {}
HOOK __tsan_vptr_read(void*) {}
HOOK __tsan_func_entry(void*) {}
HOOK __tsan_func_exit() {}
HOOK __tsan_init() {}

// std::atomic in host code of the module, which runs on one thread.
#define ATOMIC_HOOKS(bits, T)                                                                               \
  extern "C" __attribute__((visibility("hidden"))) T __tsan_atomic##bits##_load(const volatile T* p, int) { \
    return *p;                                                                                              \
  }                                                                                                         \
  HOOK __tsan_atomic##bits##_store(volatile T* p, T v, int) { *p = v; }                                     \
  ATOMIC_UPDATE(bits, T, exchange, v)                                                                       \
  ATOMIC_UPDATE(bits, T, fetch_add, static_cast<T>(old + v))                                                \
  ATOMIC_UPDATE(bits, T, fetch_sub, static_cast<T>(old - v))                                                \
  ATOMIC_UPDATE(bits, T, fetch_and, static_cast<T>(old & v))                                                \
  ATOMIC_UPDATE(bits, T, fetch_or, static_cast<T>(old | v))                                                 \
  ATOMIC_UPDATE(bits, T, fetch_xor, static_cast<T>(old ^ v))                                                \
  extern "C" __attribute__((visibility("hidden"))) int __tsan_atomic##bits##_compare_exchange_strong(       \
      volatile T* p, T* expected, T v, int, int) {                                                          \
    const T old = *p;                                                                                       \
    if (old == *expected) return *p = v, 1;                                                                 \
    *expected = old;                                                                                        \
    return 0;                                                                                               \
  }                                                                                                         \
  extern "C" __attribute__((visibility("hidden"))) int __tsan_atomic##bits##_compare_exchange_weak(         \
      volatile T* p, T* expected, T v, int a, int b) {                                                      \
    return __tsan_atomic##bits##_compare_exchange_strong(p, expected, v, a, b);                             \
  }
#define ATOMIC_UPDATE(bits, T, name, expression)                                                             \
  extern "C" __attribute__((visibility("hidden"))) T __tsan_atomic##bits##_##name(volatile T* p, T v, int) { \
    const T old = *p;                                                                                        \
    *p = expression;                                                                                         \
    return old;                                                                                              \
  }
ATOMIC_HOOKS(8, std::uint8_t)
ATOMIC_HOOKS(16, std::uint16_t)
ATOMIC_HOOKS(32, std::uint32_t)
ATOMIC_HOOKS(64, std::uint64_t)
HOOK __tsan_atomic_thread_fence(int) {}
HOOK __tsan_atomic_signal_fence(int) {}

// Every handler's data starts with where the code stands.
struct SourceLocation {
  const char* file;
  std::uint32_t line, column;
};
struct TypeMismatch {
  SourceLocation location;
  const void* type;
  unsigned char log_alignment;
};

[[noreturn]] static void undefined(const SourceLocation* location, const char* what, const void* site) {
  const char* slash = std::strrchr(location->file, '/');
  simt::fail({"undefined",
              std::string(what) + " in " + (slash ? slash + 1 : location->file) + ":" + std::to_string(location->line) +
                  " (%0)",
              {site}});
}

// One handler for each check that build.py switches on. Host code of the module (pybind11, the standard library) is not
// under test.
HOOK __ubsan_handle_type_mismatch_v1(TypeMismatch* data, std::uintptr_t address) {
  if (!simt::state.current) return;
  const std::uintptr_t alignment = std::uintptr_t{1} << data->log_alignment;
  check_alignment(reinterpret_cast<const void*>(address), alignment, SITE);
}

#define UNDEFINED(name, what)                                 \
  HOOK __ubsan_handle_##name(SourceLocation* location) {      \
    if (simt::state.current) undefined(location, what, SITE); \
  }
UNDEFINED(add_overflow, "a signed addition overflows")
UNDEFINED(sub_overflow, "a signed subtraction overflows")
UNDEFINED(mul_overflow, "a signed multiplication overflows")
UNDEFINED(negate_overflow, "a negation overflows")
UNDEFINED(divrem_overflow, "a division by zero, or one that overflows,")
UNDEFINED(shift_out_of_bounds, "a shift by too many bits, or of a negative number,")
UNDEFINED(out_of_bounds, "an index outside of its array")
UNDEFINED(builtin_unreachable, "code said to be unreachable is reached")
UNDEFINED(missing_return, "a function ends without a return value")

// The build sends kernels' calls of these here: they would move device memory unseen.
static void refuse_untracked(const void* a, const void* b, std::size_t size, const void* site) {
  if (!simt::state.current) return;
  for (const void* pointer : {a, b})
    if (simt::is_tracked(pointer))
      simt::fail(
          {"untracked",
           "moves " + std::to_string(size) +
               " bytes of device or shared memory by memcpy, memmove or memset at %0: use typed loads and stores",
           {site}});
}
extern "C" __attribute__((visibility("hidden"))) void* simt_memcpy(void* to, const void* from, std::size_t size) {
  refuse_untracked(to, from, size, SITE);
  return std::memcpy(to, from, size);
}
extern "C" __attribute__((visibility("hidden"))) void* simt_memmove(void* to, const void* from, std::size_t size) {
  refuse_untracked(to, from, size, SITE);
  return std::memmove(to, from, size);
}
extern "C" __attribute__((visibility("hidden"))) void* simt_memset(void* to, int value, std::size_t size) {
  refuse_untracked(to, to, size, SITE);
  return std::memset(to, value, size);
}

namespace simt {

void load(void* destination, const void* source, unsigned size, unsigned alignment) {
  check_alignment(source, alignment, SITE);
  access(source, size, Kind::load, SITE);
  std::memcpy(destination, source, size);
}

void load_constant(void* destination, const void* source, unsigned size, unsigned alignment) {
  check_alignment(source, alignment, SITE);
  access(source, size, Kind::load_constant, SITE);
  std::memcpy(destination, source, size);
}

void store(void* destination, const void* source, unsigned size, unsigned alignment) {
  check_alignment(destination, alignment, SITE);
  access(destination, size, Kind::store, SITE);
  std::memcpy(destination, source, size);
}

// The one check and count of an atomic; the store that follows is part of it.
void load_atomic(void* value, const void* source, unsigned size) {
  check_alignment(source, size, SITE);
  access(source, size, Kind::atomic, SITE);
  std::memcpy(value, source, size);
}

void store_atomic(void* destination, const void* value, unsigned size) { std::memcpy(destination, value, size); }

}  // namespace simt
