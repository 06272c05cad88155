// From parameters to launches: launch.cu, and the .cu files of the kernels, which know grids, blocks and shared memory.
// tests/simt compiles them, too, for the fiber scheduler.
#pragma once

#include <cuda_runtime.h>

#include "select.h"

#if defined(__CUDACC__)
#include <stdexcept>
#include <string>
#else
#include "simt.h"
#endif

namespace cas_ext {

#if defined(__CUDACC__)
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else the next check would blame another kernel
  throw std::runtime_error(std::string("cas_ext: ") + what + " failed: " + cudaGetErrorString(status));
}

struct Launch {
  cudaStream_t stream;

  template <class Params>
  void operator()(void (*kernel)(Params), dim3 grid, dim3 block, size_t shared_bytes, const Params& params) const {
    kernel<<<grid, block, shared_bytes, stream>>>(params);
    check(cudaGetLastError(), "launching a kernel");
  }
};
#else
using Launch = simt::Launch;
#endif

AccumulatePlan plan_accumulate(const AccumulateParams& p, bool tensor_cores);
ApplyPlan plan_apply(const ApplyParams& p);

// What accumulate needs of workspace, in words of 8 bytes.
struct Workspace {
  int64_t arrivals, terms, tables;
};
Workspace workspace_of(const AccumulateParams& p, const AccumulatePlan& plan);
int64_t workspace_bytes(const AccumulateParams& p, const AccumulatePlan& plan);
// Points into a workspace of workspace_bytes(), aligned to 8 bytes. `launches`: how many there were.
void place_workspace(AccumulateParams& p, const AccumulatePlan& plan, void* workspace, uint64_t launches);

// accumulate, and finalise if p.with_loss: `plan` is that of plan_accumulate, the workspace is placed.
void launch_accumulate(const AccumulateParams& p, const AccumulatePlan& plan, const Launch& launch);
void launch_finalise(const FinaliseParams& p, const Launch& launch);
void launch_apply(const ApplyParams& p, const Launch& launch);

// Of these, one kernel's launches.
void launch_small(const AccumulateParams& p, const AccumulatePlan& plan, dim3 grid, const Launch& launch);
void launch_strips(const AccumulateParams& p, const AccumulatePlan& plan, dim3 grid, const Launch& launch);
void launch_matrix(const AccumulateParams& p, const AccumulatePlan& plan, dim3 grid, const Launch& launch);
void launch_bfloat16(const AccumulateParams& p, const AccumulatePlan& plan, dim3 grid, const Launch& launch);
void launch_table(const AccumulateParams& p, const AccumulatePlan& plan, dim3 grid, const Launch& launch);
void launch_apply_softmax(const ApplyParams& p, const ApplyPlan& plan, const Launch& launch);

}  // namespace cas_ext
