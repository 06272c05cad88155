// Instantiates every kernel that csrc/cuda/launch.cuh can launch, without PyTorch, to be disassembled.
#include "cuda/launch.cuh"

namespace {

struct Launch {
  template <class Params>
  void operator()(void (*kernel)(Params), dim3 grid, dim3 block, size_t shared_bytes, const Params& params) const {
    kernel<<<grid, block, shared_bytes>>>(params);
  }
};

}  // namespace

void instantiate(cas_ext::AccumulateParams& a, cas_ext::FinaliseParams& f, cas_ext::ApplyParams& g) {
  cas_ext::launch_accumulate(a, cas_ext::plan_accumulate(a, true), Launch{});
  cas_ext::launch_finalise(f, Launch{});
  cas_ext::launch_apply(g, Launch{});
}
