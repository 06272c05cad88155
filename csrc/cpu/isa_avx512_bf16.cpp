// x86-64 with AVX-512 BF16 too (some of Intel's from 2020 on, AMD's from 2022 on).
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

// GCC 12 warns of its own headers, whose "undefined" vectors are uninitialised on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi2,fma,f16c")
#define CAS_ISA avx512_bf16
#define CAS_VECTOR_BYTES 64
#define CAS_X86_LEVEL 5
#include "isa.h"

namespace cas_ext::cpu {
const Kernels kAvx512Bf16{"avx512_bf16", 3, avx512_bf16::accumulate, avx512_bf16::apply};
}  // namespace cas_ext::cpu
#endif
