// x86-64 with AVX2, FMA and F16C (2013 on).
// Standard and PyTorch headers come before the switch: their inline functions must stay runnable everywhere.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.h"

#ifdef CAS_X86
#include <immintrin.h>

// GCC 12 warns of vectors that loops fill.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx2,fma,f16c")
#define CAS_ISA avx2
#define CAS_VECTOR_BYTES 32
#define CAS_X86_LEVEL 2
#include "isa.h"

namespace cas_ext::cpu {
const Kernels kAvx2{"avx2", 1, avx2::accumulate, avx2::apply};
}  // namespace cas_ext::cpu
#endif
