// The CPU's pixel loops, compiled once per instruction set (isa_*.cpp) and chosen at run time (dispatch.cpp).
#pragma once

#include "../params.h"

namespace cas_ext::cpu {

// What one chunk of pixels of one image saw, and what it is computed in.
struct ChunkTable {
  int64_t* count;   // (N)
  double* mean;     // (N, M); the pilot values while pixels are read
  double* scatter;  // (N)
  double* sum;      // scratch (N, M): sums of s - pilot
  double* square;   // scratch (N, 8): sums of (s - pilot)^2, in eight lanes
};

struct Kernels {
  const char* name;
  int index;  // into INSTRUCTION_SETS of cas_ext/ops.py
  // Moments of the pixels [begin, end) of image b; returns the first label out of range or kNoPixel.
  int64_t (*accumulate)(const AccumulateParams&, int64_t b, int64_t begin, int64_t end, const ChunkTable&);
  // Gradient of the pixels [begin, end) of image b.
  void (*apply)(const ApplyParams&, int64_t b, int64_t begin, int64_t end);
};

extern const Kernels kBaseline;
#ifdef CAS_X86
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

// The fastest kernels this processor runs, or those that CAS_EXT_CPU_ISA (baseline, avx2, avx512) asks for.
const Kernels& kernels();

}  // namespace cas_ext::cpu
