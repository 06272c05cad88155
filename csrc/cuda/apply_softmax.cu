#include "apply_softmax.cuh"
#include "launch.h"
#include "visit.cuh"

namespace cas_ext {

namespace {

template <class scalar_t, int kChannels>
void launch_small_for(const ApplyParams& p, bool wide, const Launch& launch) {
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

}  // namespace

void launch_apply_softmax(const ApplyParams& p, const ApplyPlan& plan, const Launch& launch) {
  const int64_t M = p.shape.channels;
  const dim3 team_grid(static_cast<unsigned>(p.shape.images * divide_up(p.shape.pixels, kApplyThreads / team_size(M))));
  visit_scalar(p.scalar, [&](auto scalar) {
    using scalar_t = decltype(scalar);
    constexpr size_t kShared = sizeof(TeamShared<acc_of<scalar_t>>);
    const bool small = plan.kernel == ApplyKernel::kSoftmaxSmall;
    if (small && M <= 2) {
      launch_small_for<scalar_t, 2>(p, plan.V > 1, launch);
    } else if (small) {
      launch_small_for<scalar_t, 4>(p, plan.V > 1, launch);
    } else {
      visit_team<scalar_t>(M, [&](auto size, auto channels, auto held) {
        launch(apply_softmax_team_kernel<scalar_t, size.value, channels.value, held.value>, team_grid,
               dim3(kApplyThreads), kShared, p);
      });
    }
  });
}

}  // namespace cas_ext
