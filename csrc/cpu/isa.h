// Instantiates the pixel loops for the instruction set that the including file has switched on.
// Everything here lies in namespace CAS_ISA, so that the linker never mixes code of two instruction sets.
#pragma once

#include "softmax.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

template <class scalar_t>
int64_t accumulate_as(const AccumulateParams& p, int64_t b, int64_t begin, int64_t end, const ChunkTable& table) {
  return p.activation == Activation::kSoftmax ? accumulate_softmax<scalar_t>(p, b, begin, end, table)
                                              : accumulate_chunk<scalar_t>(p, b, begin, end, table);
}

template <class scalar_t>
void apply_as(const ApplyParams& p, int64_t b, int64_t begin, int64_t end, void* scratch) {
  p.activation == Activation::kSoftmax ? apply_softmax<scalar_t>(p, b, begin, end, scratch)
                                       : apply_range<scalar_t>(p, b, begin, end);
}

#if CAS_X86_LEVEL >= 5
// What this adds to AVX-512 is for bfloat16 alone.
inline int64_t accumulate(const AccumulateParams& p, int64_t b, int64_t begin, int64_t end, const ChunkTable& table) {
  return p.scalar == Scalar::kBFloat16 ? accumulate_as<c10::BFloat16>(p, b, begin, end, table)
                                       : kAvx512.accumulate(p, b, begin, end, table);
}

inline void apply(const ApplyParams& p, int64_t b, int64_t begin, int64_t end, void* scratch) {
  p.scalar == Scalar::kBFloat16 ? apply_as<c10::BFloat16>(p, b, begin, end, scratch)
                                : kAvx512.apply(p, b, begin, end, scratch);
}
#else
inline int64_t accumulate(const AccumulateParams& p, int64_t b, int64_t begin, int64_t end, const ChunkTable& table) {
  switch (p.scalar) {
    case Scalar::kHalf:
      return accumulate_as<c10::Half>(p, b, begin, end, table);
    case Scalar::kBFloat16:
      return accumulate_as<c10::BFloat16>(p, b, begin, end, table);
    case Scalar::kFloat:
      return accumulate_as<float>(p, b, begin, end, table);
    case Scalar::kDouble:
      return accumulate_as<double>(p, b, begin, end, table);
  }
  return kNoPixel;
}

inline void apply(const ApplyParams& p, int64_t b, int64_t begin, int64_t end, void* scratch) {
  switch (p.scalar) {
    case Scalar::kHalf:
      return apply_as<c10::Half>(p, b, begin, end, scratch);
    case Scalar::kBFloat16:
      return apply_as<c10::BFloat16>(p, b, begin, end, scratch);
    case Scalar::kFloat:
      return apply_as<float>(p, b, begin, end, scratch);
    case Scalar::kDouble:
      return apply_as<double>(p, b, begin, end, scratch);
  }
}
#endif

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
