#include "accumulate_matrix.cuh"
#include "launch.h"
#include "visit.cuh"

namespace cas_ext {

void launch_matrix(const AccumulateParams& p, const AccumulatePlan& plan, dim3 grid, const Launch& launch) {
  visit_products(p, plan, [&](auto together, auto interleaved, auto few, auto lane) {
    constexpr int V = !together.value ? 1 : interleaved.value ? 2 : 16 / sizeof(float);
    constexpr int kProducts = few.value ? kFewProducts : kMatrixRegions / kProductRegions;
    const dim3 block(static_cast<unsigned>(matrix_warps(p.shape, lane.value) * kWarpSize));
    launch(accumulate_matrix_kernel<V, interleaved.value, kProducts, lane.value>, grid, block,
           matrix_shared_bytes(p.shape, lane.value), p);
  });
}

}  // namespace cas_ext
