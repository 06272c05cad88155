#include "accumulate_small.cuh"
#include "launch.h"
#include "visit.cuh"

namespace cas_ext {

static_assert(kSmallThreads <= kMostArrivals);

namespace {

template <class scalar_t, bool kWide, bool kInterleaved, bool kSoftmax, int kRegions>
void launch_for(const AccumulateParams& p, dim3 grid, const Launch& launch) {
  constexpr int V = kWide ? 16 / sizeof(scalar_t) : 1;
  const bool few = p.shape.channels <= 2;
  launch(few ? accumulate_small_kernel<scalar_t, kRegions, 2, V, kInterleaved, kSoftmax>
             : accumulate_small_kernel<scalar_t, kRegions, 4, V, kInterleaved, kSoftmax>,
         grid, dim3(kSmallThreads), sizeof(SmallShared), p);
}

}  // namespace

void launch_small(const AccumulateParams& p, const AccumulatePlan& plan, dim3 grid, const Launch& launch) {
  const bool behind_softmax = p.activation == Activation::kSoftmax;
  visit_scalar(p.scalar, [&](auto scalar) {
    using scalar_t = decltype(scalar);
    visit_flags(plan.V > 1, p.input.interleaved, behind_softmax, [&](auto wide, auto interleaved, auto softmax) {
      constexpr bool kStrided = !wide.value || interleaved.value;  // one by one, planar pixels are 1 apart
      if (p.shape.regions <= 2) {
        launch_for<scalar_t, wide.value, kStrided, softmax.value, 2>(p, grid, launch);
      } else {
        launch_for<scalar_t, wide.value, kStrided, softmax.value, 4>(p, grid, launch);
      }
    });
  });
}

}  // namespace cas_ext
