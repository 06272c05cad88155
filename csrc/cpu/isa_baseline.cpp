// Plain C++ for any processor.
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
#endif
// GCC 12 warns of vectors that loops fill.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define CAS_ISA baseline
#define CAS_VECTOR_BYTES 16
#define CAS_X86_LEVEL 0
#include "isa.h"

namespace cas_ext::cpu {
const Kernels kBaseline{"baseline", 0, baseline::accumulate, baseline::apply};
}  // namespace cas_ext::cpu
