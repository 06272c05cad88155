#include "accumulate_bfloat16.cuh"
#include "launch.h"
#include "visit.cuh"

namespace cas_ext {

void launch_bfloat16(const AccumulateParams& p, const AccumulatePlan& plan, dim3 grid, const Launch& launch) {
  visit_products(p, plan, [&](auto together, auto interleaved, auto few, auto lane) {
    constexpr int V = !together.value ? 1 : interleaved.value ? 2 : 16 / sizeof(__nv_bfloat16);
    constexpr int kProducts = few.value ? kFewProducts : kPlainRegions / kProductRegions;
    const dim3 block(static_cast<unsigned>(matrix_warps(p.shape, lane.value) * kWarpSize));
    launch(accumulate_bfloat16_kernel<V, interleaved.value, kProducts, lane.value>, grid, block, sizeof(PlainShared),
           p);
  });
}

}  // namespace cas_ext
