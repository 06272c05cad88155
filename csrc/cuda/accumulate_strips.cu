#include "accumulate_strips.cuh"
#include "launch.h"
#include "visit.cuh"

namespace cas_ext {

static_assert(sizeof(StripsShared<4, float>) <= kSharedTableBytes &&
              sizeof(StripsShared<4, __half>) <= kSharedTableBytes);

void launch_strips(const AccumulateParams& p, const AccumulatePlan& plan, dim3 grid, const Launch& launch) {
  const bool behind_softmax = p.activation == Activation::kSoftmax;
  visit_scalar(p.scalar, [&](auto scalar) {
    using scalar_t = decltype(scalar);
    if constexpr (!std::is_same_v<scalar_t, double>) {
      visit_flags(plan.V > 1, p.input.interleaved, behind_softmax, [&](auto wide, auto interleaved, auto softmax) {
        constexpr int V = wide.value ? 16 / sizeof(scalar_t) : 1;
        constexpr bool kStrided = V == 1 || interleaved.value;  // one by one, planar pixels are 1 apart
        using value_t = strip_value<scalar_t, V, softmax.value>;
        if (p.shape.channels <= 2) {
          launch(accumulate_strips_kernel<scalar_t, 2, V, kStrided, softmax.value>, grid, dim3(kWarpSize),
                 strips_shared_bytes<2, value_t>(p.shape.regions), p);
        } else {
          launch(accumulate_strips_kernel<scalar_t, 4, V, kStrided, softmax.value>, grid, dim3(kWarpSize),
                 strips_shared_bytes<4, value_t>(p.shape.regions), p);
        }
      });
    }
  });
}

}  // namespace cas_ext
