// From parameters to launches: the one place that knows grids, blocks and shared memory. `launch(kernel, grid, block,
// shared_bytes, params)` is <<<>>> in operators.cu and the fiber scheduler in tests/simt.
#pragma once

#include "accumulate_bfloat16.cuh"
#include "accumulate_matrix.cuh"
#include "accumulate_small.cuh"
#include "accumulate_strips.cuh"
#include "accumulate_table.cuh"
#include "apply.cuh"
#include "apply_softmax.cuh"
#include "finalise.cuh"
#include "merge.cuh"
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

inline AccumulatePlan plan_accumulate(const AccumulateParams& p, bool tensor_cores) {
  return select_accumulate(p, {kSmallThreads, kSmallPixels, kTilePixels}, tensor_cores);
}

inline ApplyPlan plan_apply(const ApplyParams& p) { return select_apply(p, kApplyThreads); }

static_assert(kSmallThreads <= kMostArrivals && kSmallThreads == kFinaliseThreads && kMergeThreads == kFinaliseThreads);
static_assert(sizeof(TableShared<float>) <= kSharedTableBytes && sizeof(TableShared<double>) <= kSharedTableBytes);
static_assert(sizeof(StripsShared<4>) <= kSharedTableBytes);

// What accumulate needs of workspace, in words of 8 bytes.
struct Workspace {
  int64_t arrivals, terms, tables;
};

inline Workspace workspace_of(const AccumulateParams& p, const AccumulatePlan& plan) {
  const int64_t B = p.shape.images, table = plan.splits * (p.shape.regions * (p.shape.channels + 2) + 1);
  return {plan.merge == Merge::kLastBlock || p.with_loss ? B + 1 : 0, p.with_loss ? 3 * B : 0,
          plan.merge == Merge::kNone ? 0 : B * table};
}

inline int64_t workspace_bytes(const AccumulateParams& p, const AccumulatePlan& plan) {
  const Workspace words = workspace_of(p, plan);
  return (words.arrivals + words.terms + words.tables) * static_cast<int64_t>(sizeof(int64_t));
}

// Points into a workspace of workspace_bytes(), aligned to 8 bytes. `launches`: how many there were.
inline void place_workspace(AccumulateParams& p, const AccumulatePlan& plan, void* workspace, uint64_t launches) {
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

template <class scalar_t, bool kWide, bool kInterleaved, bool kSoftmax, int kRegions, class Launch>
void launch_small(const AccumulateParams& p, dim3 grid, Launch& launch) {
  constexpr int V = kWide ? 16 / sizeof(scalar_t) : 1;
  if (p.shape.channels <= 2) {
    launch(accumulate_small_kernel<scalar_t, kRegions, 2, V, kInterleaved, kSoftmax>, grid, dim3(kSmallThreads),
           sizeof(SmallShared), p);
  } else {
    launch(accumulate_small_kernel<scalar_t, kRegions, 4, V, kInterleaved, kSoftmax>, grid, dim3(kSmallThreads),
           sizeof(SmallShared), p);
  }
}

template <class scalar_t, bool kWide, bool kInterleaved, bool kSoftmax, class Launch>
void launch_strips(const AccumulateParams& p, dim3 grid, Launch& launch) {
  constexpr int V = kWide ? 16 / sizeof(scalar_t) : 1;
  if (p.shape.channels <= 2) {
    launch(accumulate_strips_kernel<scalar_t, 2, V, kInterleaved, kSoftmax>, grid, dim3(kWarpSize),
           strips_shared_bytes<2>(p.shape.regions), p);
  } else {
    launch(accumulate_strips_kernel<scalar_t, 4, V, kInterleaved, kSoftmax>, grid, dim3(kWarpSize),
           strips_shared_bytes<4>(p.shape.regions), p);
  }
}

// Kernels by tensor cores have registers for the sums of kFewProducts blocks of regions, or of all that there may be.
constexpr int kFewProducts = 2;

template <bool kTogether, bool kInterleaved, class Launch>
void launch_products(const AccumulateParams& p, dim3 grid, Launch& launch) {
  const dim3 block(static_cast<unsigned>(matrix_warps(p.shape) * kWarpSize));
  const bool few = p.shape.regions <= kFewProducts * static_cast<int64_t>(kProductRegions);
  if (p.scalar == Scalar::kFloat) {
    constexpr int V = !kTogether ? 1 : kInterleaved ? 2 : 16 / sizeof(float);
    constexpr int kProducts = kMatrixRegions / kProductRegions;
    launch(few ? accumulate_matrix_kernel<V, kInterleaved, kFewProducts>
               : accumulate_matrix_kernel<V, kInterleaved, kProducts>,
           grid, block, matrix_shared_bytes(p.shape), p);
  } else {
    constexpr int V = !kTogether ? 1 : kInterleaved ? 2 : 16 / sizeof(__nv_bfloat16);
    constexpr int kProducts = kPlainRegions / kProductRegions;
    launch(few ? accumulate_bfloat16_kernel<V, kInterleaved, kFewProducts>
               : accumulate_bfloat16_kernel<V, kInterleaved, kProducts>,
           grid, block, sizeof(PlainShared), p);
  }
}

template <class Launch>
void launch_blocks(const AccumulateParams& p, const AccumulatePlan& plan, Launch& launch) {
  const dim3 grid(static_cast<unsigned>(p.shape.images * p.splits));
  if (plan.kernel == AccumulateKernel::kMatrix || plan.kernel == AccumulateKernel::kBFloat16) {
    return visit_flags(plan.V > 1, p.input.interleaved, [&](auto together, auto interleaved) {
      launch_products<together.value, interleaved.value>(p, grid, launch);
    });
  }
  visit_scalar(p.scalar, [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const bool behind_softmax = p.activation == Activation::kSoftmax;
    const bool small = plan.kernel == AccumulateKernel::kSmall, strips = plan.kernel == AccumulateKernel::kStrips;
    visit_flags(plan.V > 1, p.input.interleaved, behind_softmax, [&](auto wide, auto interleaved, auto softmax) {
      if (small && p.shape.regions <= 2) {
        launch_small<scalar_t, wide.value, interleaved.value, softmax.value, 2>(p, grid, launch);
      } else if (small) {
        launch_small<scalar_t, wide.value, interleaved.value, softmax.value, 4>(p, grid, launch);
      } else if (strips) {
        if constexpr (!std::is_same_v<scalar_t, double>) {
          launch_strips<scalar_t, wide.value, interleaved.value, softmax.value>(p, grid, launch);
        }
      } else {
        constexpr int V = wide.value ? 16 / sizeof(scalar_t) : 1;
        launch(accumulate_table_kernel<scalar_t, V, interleaved.value, softmax.value>, grid, dim3(kTableThreads),
               sizeof(TableShared<staged_of<scalar_t, softmax.value>>), p);
      }
    });
  });
}

template <class Launch>
void launch_moments(const AccumulateParams& p, const AccumulatePlan& plan, Launch& launch) {
  launch_blocks(p, plan, launch);
  if (plan.merge != Merge::kKernel) return;
  launch(merge_kernel, dim3(static_cast<unsigned>(p.shape.images * p.shape.regions)), dim3(kMergeThreads),
         sizeof(MergeShared), p);
}

template <class Launch>
void launch_reduce(const FinaliseParams& p, Launch& launch) {
  launch(p.wide ? reduce_kernel<double> : reduce_kernel<float>, dim3(1), dim3(kFinaliseThreads), sizeof(FinaliseShared),
         p);
}

// accumulate, and finalise if p.with_loss: `plan` is that of plan_accumulate, the workspace is placed.
template <class Launch>
void launch_accumulate(const AccumulateParams& p, const AccumulatePlan& plan, Launch&& launch) {
  if (p.shape.images > 0) launch_moments(p, plan, launch);
  const bool reduce = p.with_loss && p.finalise.reduction != Reduction::kNone;
  if (reduce && !reduces_last(p.shape)) launch_reduce(p.finalise, launch);
}

template <class Launch>
void launch_finalise(const FinaliseParams& p, Launch&& launch) {
  if (p.shape.images == 0) return;
  const dim3 grid(static_cast<unsigned>(p.shape.images)), block(kFinaliseThreads);
  launch(p.wide ? finalise_kernel<double> : finalise_kernel<float>, grid, block, sizeof(FinaliseShared), p);
}

template <class scalar_t, int kChannels, class Launch>
void launch_apply_softmax_small(const ApplyParams& p, bool wide, Launch& launch) {
  constexpr int kWide = 16 / sizeof(scalar_t);
  const dim3 grid(
      static_cast<unsigned>(p.shape.images * divide_up(p.shape.pixels, kApplyThreads * (wide ? kWide : 1))));
  if (!wide) {
    launch(apply_softmax_small_kernel<scalar_t, 1, kChannels, false>, grid, dim3(kApplyThreads), 0, p);
  } else if (p.input.interleaved) {
    launch(apply_softmax_small_kernel<scalar_t, kWide, kChannels, true>, grid, dim3(kApplyThreads), 0, p);
  } else {
    launch(apply_softmax_small_kernel<scalar_t, kWide, kChannels, false>, grid, dim3(kApplyThreads), 0, p);
  }
}

// Calls body(team_size(M), channels of a thread, whether a team holds its pixel).
template <class scalar_t, int kSize = kTeamLimit, class Body>
void visit_team(int64_t M, Body&& body) {
  using Size = std::integral_constant<int, kSize>;
  using Channels = std::integral_constant<int, kTeamChannels>;
  using Lone = std::integral_constant<int, kLoneChannels>;
  if constexpr (kSize == kTeamLimit) {
    using Swept = std::conditional_t<std::is_same_v<scalar_t, double>, Lone, Channels>;
    if (M > kHeldChannels) return body(Size(), Swept(), std::false_type());
  }
  if constexpr (kSize > 1) {
    if (team_size(M) < kSize) return visit_team<scalar_t, kSize / 2>(M, body);
  } else if (M <= kLoneChannels) {
    return body(Size(), Lone(), std::true_type());
  }
  body(Size(), Channels(), std::true_type());
}

template <class Launch>
void launch_apply_softmax(const ApplyParams& p, const ApplyPlan& plan, Launch& launch) {
  const int64_t M = p.shape.channels;
  const dim3 team_grid(static_cast<unsigned>(p.shape.images * divide_up(p.shape.pixels, kApplyThreads / team_size(M))));
  visit_scalar(p.scalar, [&](auto scalar) {
    using scalar_t = decltype(scalar);
    constexpr size_t kShared = sizeof(TeamShared<acc_of<scalar_t>>);
    const bool small = plan.kernel == ApplyKernel::kSoftmaxSmall;
    if (small && M <= 2) {
      launch_apply_softmax_small<scalar_t, 2>(p, plan.V > 1, launch);
    } else if (small) {
      launch_apply_softmax_small<scalar_t, 4>(p, plan.V > 1, launch);
    } else {
      visit_team<scalar_t>(M, [&](auto size, auto channels, auto held) {
        launch(apply_softmax_team_kernel<scalar_t, size.value, channels.value, held.value>, team_grid,
               dim3(kApplyThreads), kShared, p);
      });
    }
  });
}

template <class Launch>
void launch_apply(const ApplyParams& p, Launch&& launch) {
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
