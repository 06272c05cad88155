// From what is known at run time to template arguments.
#pragma once

#include "device.cuh"
#include "select.h"

namespace cas_ext {

// Calls body(scalar_t()) for the stored type.
template <class Body>
void visit_scalar(Scalar scalar, Body body) {
  switch (scalar) {
    case Scalar::kHalf:
      return body(__half());
    case Scalar::kBFloat16:
      return body(__nv_bfloat16());
    case Scalar::kFloat:
      return body(float());
    case Scalar::kDouble:
      return body(double());
  }
}

template <bool value>
using Flag = std::integral_constant<bool, value>;

// Calls body with std::true_type or std::false_type for each run-time flag.
template <class Body>
void visit_flags(bool first, bool second, Body body) {
  const auto inner = [&](auto a) { second ? body(a, Flag<true>()) : body(a, Flag<false>()); };
  first ? inner(Flag<true>()) : inner(Flag<false>());
}

template <class Body>
void visit_flags(bool first, bool second, bool third, Body body) {
  visit_flags(first, second, [&](auto a, auto b) { third ? body(a, b, Flag<true>()) : body(a, b, Flag<false>()); });
}

// Calls body(flag of together, flag of interleaved, flag of few regions, lane) for a kernel by tensor cores: whether
// neighbours are loaded together, and channels of a lane (select.h).
template <class Body>
void visit_products(const AccumulateParams& p, const AccumulatePlan& plan, Body body) {
  const bool few = p.shape.regions <= kFewRegions;
  visit_flags(plan.V > 1, p.input.interleaved, few, [&](auto together, auto interleaved, auto few_regions) {
    if constexpr (few_regions.value && !(together.value && interleaved.value)) {
      if (lane_channels(p.shape, interleaved.value) == kTripleLane) {
        return body(together, interleaved, few_regions, std::integral_constant<int, kTripleLane>());
      }
    }
    body(together, interleaved, few_regions, std::integral_constant<int, kPairLane>());
  });
}

}  // namespace cas_ext
