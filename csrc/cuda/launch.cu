#include "launch.h"

#include "accumulate_small.cuh"
#include "finalise.cuh"
#include "merge.cuh"
#include "tile_groups.cuh"

namespace cas_ext {

static_assert(kSmallThreads == kFinaliseThreads && kMergeThreads == kFinaliseThreads);

AccumulatePlan plan_accumulate(const AccumulateParams& p, bool tensor_cores) {
  return select_accumulate(p, {kSmallThreads, kSmallPixels, kTilePixels}, tensor_cores);
}

Workspace workspace_of(const AccumulateParams& p, const AccumulatePlan& plan) {
  const int64_t B = p.shape.images, table = plan.splits * (p.shape.regions * (p.shape.channels + 2) + 1);
  return {plan.merge == Merge::kLastBlock || p.with_loss ? B + 1 : 0, p.with_loss ? 3 * B : 0,
          plan.merge == Merge::kNone ? 0 : B * table};
}

int64_t workspace_bytes(const AccumulateParams& p, const AccumulatePlan& plan) {
  const Workspace words = workspace_of(p, plan);
  return (words.arrivals + words.terms + words.tables) * static_cast<int64_t>(sizeof(int64_t));
}

void place_workspace(AccumulateParams& p, const AccumulatePlan& plan, void* workspace, uint64_t launches) {
  const Workspace words = workspace_of(p, plan);
  const int64_t rows = p.shape.images * plan.splits * p.shape.regions;
  p.splits = plan.splits;
  p.pixels_per_split = plan.pixels_per_split;
  p.launch = plan.merge == Merge::kKernel ? 0 : arrival_number(launches);
  p.arrivals = static_cast<unsigned long long*>(workspace);
  p.finalise.terms = static_cast<double*>(workspace) + words.arrivals;
  p.partial_mean = p.finalise.terms + words.terms;
  p.partial_scatter = p.partial_mean + rows * p.shape.channels;
  p.partial_count = reinterpret_cast<int64_t*>(p.partial_scatter + rows);
  p.partial_invalid = p.partial_count + rows;
}

namespace {

void launch_blocks(const AccumulateParams& p, const AccumulatePlan& plan, const Launch& launch) {
  const dim3 grid(static_cast<unsigned>(p.shape.images * p.splits));
  switch (plan.kernel) {
    case AccumulateKernel::kSmall:
      return launch_small(p, plan, grid, launch);
    case AccumulateKernel::kStrips:
      return launch_strips(p, plan, grid, launch);
    case AccumulateKernel::kMatrix:
      return launch_matrix(p, plan, grid, launch);
    case AccumulateKernel::kBFloat16:
      return launch_bfloat16(p, plan, grid, launch);
    case AccumulateKernel::kTable:
      return launch_table(p, plan, grid, launch);
  }
}

void launch_moments(const AccumulateParams& p, const AccumulatePlan& plan, const Launch& launch) {
  launch_blocks(p, plan, launch);
  if (plan.merge != Merge::kKernel) return;
  launch(merge_kernel, dim3(static_cast<unsigned>(p.shape.images * p.shape.regions)), dim3(kMergeThreads),
         sizeof(MergeShared), p);
}

void launch_reduce(const FinaliseParams& p, const Launch& launch) {
  launch(p.wide ? reduce_kernel<double> : reduce_kernel<float>, dim3(1), dim3(kFinaliseThreads), sizeof(FinaliseShared),
         p);
}

}  // namespace

void launch_accumulate(const AccumulateParams& p, const AccumulatePlan& plan, const Launch& launch) {
  if (p.shape.images > 0) launch_moments(p, plan, launch);
  const bool reduce = p.with_loss && p.finalise.reduction != Reduction::kNone;
  if (reduce && !reduces_last(p.shape)) launch_reduce(p.finalise, launch);
}

void launch_finalise(const FinaliseParams& p, const Launch& launch) {
  if (p.shape.images == 0) return;
  const dim3 grid(static_cast<unsigned>(p.shape.images)), block(kFinaliseThreads);
  launch(p.wide ? finalise_kernel<double> : finalise_kernel<float>, grid, block, sizeof(FinaliseShared), p);
}

}  // namespace cas_ext
