// Chooses the instruction set once per process.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace cas_ext::cpu {

namespace {

bool supported(const Kernels& k) {
#ifdef CAS_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (&k == &kAvx2) return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (&k == &kAvx512) return avx512;
  if (&k == &kAvx512Bf16) return avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("bmi2");
#endif
  return &k == &kBaseline;
}

bool made_by_intel() {
#ifdef __x86_64__
  __builtin_cpu_init();
  return __builtin_cpu_is("intel");
#else
  return false;
#endif
}

const Kernels& choose() {
#ifdef CAS_X86
  const Kernels* known[] = {&kAvx512Bf16, &kAvx512, &kAvx2, &kBaseline};
#else
  const Kernels* known[] = {&kBaseline};
#endif
  const char* wish = std::getenv("CAS_EXT_CPU_ISA");
  const bool any = wish == nullptr || *wish == '\0';
  for (const Kernels* k : known) {
    if (supported(*k) && (any || std::strcmp(wish, k->name) == 0)) return *k;
  }
  throw std::invalid_argument(
      std::string(
          "CAS_EXT_CPU_ISA must be avx512_bf16, avx512, avx2 or baseline and supported by this processor, got ") +
      wish);
}

}  // namespace

const ReadAhead kReadAhead = made_by_intel() ? ReadAhead{3072, true} : ReadAhead{256, false};

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace cas_ext::cpu
