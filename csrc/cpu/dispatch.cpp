// Chooses the instruction set, and how memory is read and written, once per process.
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

constexpr Tuning kIntel{"intel", 3072, true, true, true}, kAmd{"amd", 256, false, false, false};

constexpr const char* kTuningVariable = "CAS_EXT_CPU_TUNING";

// What the environment asks for, or null.
const char* wish_of(const char* variable) {
  const char* wish = std::getenv(variable);
  return wish != nullptr && *wish != '\0' ? wish : nullptr;
}

// The one that is asked for, or the processor's; of neither kind: kAmd.
const Tuning& choose_tuning() {
  const char* wish = wish_of(kTuningVariable);
  if (wish != nullptr) return std::strcmp(wish, kIntel.name) == 0 ? kIntel : kAmd;
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_is("intel")) return kIntel;
#endif
  return kAmd;
}

const Kernels& choose() {
#ifdef CAS_X86
  const Kernels* known[] = {&kAvx512Bf16, &kAvx512, &kAvx2, &kBaseline};
#else
  const Kernels* known[] = {&kBaseline};
#endif
  const char *wish = wish_of("CAS_EXT_CPU_ISA"), *tuning = wish_of(kTuningVariable);
  if (tuning != nullptr && std::strcmp(tuning, kTuning.name) != 0) {
    throw std::invalid_argument(std::string(kTuningVariable) +
                                " must be intel or amd, and set before cas_ext is imported, got " + tuning);
  }
  for (const Kernels* k : known) {
    if (supported(*k) && (wish == nullptr || std::strcmp(wish, k->name) == 0)) return *k;
  }
  throw std::invalid_argument(
      std::string(
          "CAS_EXT_CPU_ISA must be avx512_bf16, avx512, avx2 or baseline and supported by this processor, got ") +
      wish);
}

}  // namespace

const Tuning kTuning = choose_tuning();

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace cas_ext::cpu
