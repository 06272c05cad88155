// The CPU's pixel loops, compiled once per instruction set (isa_*.cpp) and chosen at run time (dispatch.cpp).
#pragma once

#include "../params.h"

namespace cas_ext::cpu {

// What one chunk of pixels of one image saw. `pilot` and `sum` are scratch.
struct ChunkTable {
  int64_t* count;   // (N)
  double* mean;     // (N, M); the pilot values while pixels are read
  double* sum;      // (N, M) of s - pilot
  double* scatter;  // (N); sums of (s - pilot)^2 while pixels are read
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
