#include "apply.cuh"
#include "launch.h"
#include "visit.cuh"

namespace cas_ext {

ApplyPlan plan_apply(const ApplyParams& p) { return select_apply(p, kApplyThreads); }

void launch_apply(const ApplyParams& p, const Launch& launch) {
  if (p.shape.images == 0 || p.shape.pixels == 0) return;
  const ApplyPlan plan = plan_apply(p);
  if (p.activation == Activation::kSoftmax) return launch_apply_softmax(p, plan, launch);
  const int64_t coefficients = p.shape.regions * (1 + 2 * shared_row(p.shape.channels));
  visit_scalar(p.scalar, [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const size_t table = plan.shared_table ? coefficients * sizeof(acc_of<scalar_t>) : 0;
    visit_flags(plan.V > 1, plan.shared_table, [&](auto wide, auto shared) {
      constexpr int V = wide.value ? 16 / sizeof(scalar_t) : 1;
      if (plan.kernel == ApplyKernel::kInterleaved) {
        const int64_t blocks = p.shape.images * divide_up(p.shape.pixels, kApplyTilePixels);
        launch(apply_interleaved_kernel<scalar_t, V, shared.value>, dim3(static_cast<unsigned>(blocks)),
               dim3(kApplyThreads), kApplyTilePixels * sizeof(int32_t) + table, p);
      } else {
        const int64_t blocks = p.shape.images * divide_up(p.shape.pixels, kApplyThreads * V);
        launch(apply_planar_kernel<scalar_t, V, shared.value>, dim3(static_cast<unsigned>(blocks)), dim3(kApplyThreads),
               table, p);
      }
    });
  });
}

}  // namespace cas_ext
