// Instantiates the pixel loops for the instruction set that the including file has switched on.
// Everything here lies in namespace CAS_ISA, so that the linker never mixes code of two instruction sets.
#pragma once

#include "softmax.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

inline int64_t accumulate(const AccumulateParams& p, int64_t b, int64_t begin, int64_t end, const ChunkTable& t) {
  const bool softmax = p.activation == Activation::kSoftmax;
  switch (p.scalar) {
    case Scalar::kHalf:
      return softmax ? accumulate_softmax<c10::Half>(p, b, begin, end, t)
                     : accumulate_chunk<c10::Half>(p, b, begin, end, t);
    case Scalar::kBFloat16:
      return softmax ? accumulate_softmax<c10::BFloat16>(p, b, begin, end, t)
                     : accumulate_chunk<c10::BFloat16>(p, b, begin, end, t);
    case Scalar::kFloat:
      return softmax ? accumulate_softmax<float>(p, b, begin, end, t) : accumulate_chunk<float>(p, b, begin, end, t);
    case Scalar::kDouble:
      return softmax ? accumulate_softmax<double>(p, b, begin, end, t) : accumulate_chunk<double>(p, b, begin, end, t);
  }
  return kNoPixel;
}

inline void apply(const ApplyParams& p, int64_t b, int64_t begin, int64_t end, void* scratch) {
  const bool softmax = p.activation == Activation::kSoftmax;
  switch (p.scalar) {
    case Scalar::kHalf:
      return softmax ? apply_softmax<c10::Half>(p, b, begin, end, scratch) : apply_range<c10::Half>(p, b, begin, end);
    case Scalar::kBFloat16:
      return softmax ? apply_softmax<c10::BFloat16>(p, b, begin, end, scratch)
                     : apply_range<c10::BFloat16>(p, b, begin, end);
    case Scalar::kFloat:
      return softmax ? apply_softmax<float>(p, b, begin, end, scratch) : apply_range<float>(p, b, begin, end);
    case Scalar::kDouble:
      return softmax ? apply_softmax<double>(p, b, begin, end, scratch) : apply_range<double>(p, b, begin, end);
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
