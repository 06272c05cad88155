#include "accumulate_table.cuh"
#include "launch.h"
#include "visit.cuh"

namespace cas_ext {

static_assert(sizeof(TableShared<float>) <= kSharedTableBytes && sizeof(TableShared<double>) <= kSharedTableBytes);

void launch_table(const AccumulateParams& p, const AccumulatePlan& plan, dim3 grid, const Launch& launch) {
  const bool behind_softmax = p.activation == Activation::kSoftmax;
  visit_scalar(p.scalar, [&](auto scalar) {
    using scalar_t = decltype(scalar);
    visit_flags(plan.V > 1, p.input.interleaved, behind_softmax, [&](auto wide, auto interleaved, auto softmax) {
      constexpr int V = wide.value ? 16 / sizeof(scalar_t) : 1;
      launch(accumulate_table_kernel<scalar_t, V, interleaved.value, softmax.value>, grid, dim3(kTableThreads),
             sizeof(TableShared<staged_of<scalar_t, softmax.value>>), p);
    });
  });
}

}  // namespace cas_ext
