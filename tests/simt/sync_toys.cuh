// The toys for races, barriers and the operations of a warp.
#pragma once

#include "toys.cuh"

namespace cas_ext {
namespace toys {

// Zeros first, so that only the barrier tells whether the neighbour's value has arrived.
template <bool kBroken>
__global__ void missing_syncthreads_kernel(ToyParams params) {
  float* shared = shared_floats();
  shared[threadIdx.x] = 0;
  __syncthreads();
  shared[threadIdx.x] = params.input[global_thread()];
  if (!kBroken) __syncthreads();
  params.output[global_thread()] = shared[blockDim.x - 1 - threadIdx.x];
}

// The second barrier keeps the next round's write from overtaking this round's read.
template <bool kBroken>
__global__ void write_after_read_kernel(ToyParams params) {
  float* shared = shared_floats();
  float sum = 0;
  for (int round = 0; round < 3; ++round) {
    shared[threadIdx.x] = params.input[global_thread()] + static_cast<float>(round);
    __syncthreads();
    sum += shared[(threadIdx.x + 33) % blockDim.x];
    if (!kBroken) __syncthreads();
  }
  params.output[global_thread()] = sum;
}

template <bool kBroken>
__global__ void missing_syncwarp_kernel(ToyParams params) {
  float* shared = shared_floats();
  shared[threadIdx.x] = 0;
  __syncwarp();
  shared[threadIdx.x] = params.input[global_thread()];
  if (!kBroken) __syncwarp();
  params.output[global_thread()] = shared[threadIdx.x ^ 1];
}

// A shuffle makes lanes meet but does not order their memory accesses.
template <bool kBroken>
__global__ void shuffle_is_no_barrier_kernel(ToyParams params) {
  float* shared = shared_floats();
  shared[threadIdx.x] = 0;
  __syncwarp();
  shared[threadIdx.x] = params.input[global_thread()];
  const float neighbour = __shfl_xor_sync(0xffffffffu, params.input[global_thread()], 1);
  if (!kBroken) __syncwarp();
  params.output[global_thread()] = shared[threadIdx.x ^ 1] - neighbour;
}

// Two halves of a warp that each synchronise among themselves only.
template <bool kBroken>
__global__ void partial_syncwarp_kernel(ToyParams params) {
  float* shared = shared_floats();
  shared[threadIdx.x] = 0;
  __syncwarp();
  shared[threadIdx.x] = params.input[threadIdx.x];
  __syncwarp(!kBroken ? 0xffffffffu : threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u);
  params.output[threadIdx.x] = shared[threadIdx.x ^ 16];
}

// Thread 0 overwrites what another warp may still have to read.
template <bool kBroken>
__global__ void late_reader_kernel(ToyParams params) {
  float* shared = shared_floats();
  if (threadIdx.x == 0) shared[0] = 1;
  __syncthreads();
  params.output[threadIdx.x] = shared[0];
  if (kBroken)
    __syncwarp();
  else
    __syncthreads();
  if (threadIdx.x == 0) shared[0] = 2;
}

// Every block reads what the last one writes.
template <bool kBroken>
__global__ void block_read_race_kernel(ToyParams params) {
  params.output[blockIdx.x] = static_cast<float>(*params.counter);
  if (kBroken && blockIdx.x + 1 == gridDim.x) *params.counter = 1;
}

template <bool kBroken>
__global__ void block_race_kernel(ToyParams params) {
  params.output[kBroken ? blockIdx.x / 2 : blockIdx.x] = 1;
}

template <bool kBroken>
__global__ void plain_count_kernel(ToyParams params) {
  if (kBroken)
    *params.counter += 1;
  else
    atomicAdd(params.counter, 1u);
}

// The last block to finish sums what all wrote.
template <bool kBroken>
__global__ void last_block_kernel(ToyParams params) {
  params.workspace[blockIdx.x] = static_cast<float>(blockIdx.x);
  if (!kBroken) __threadfence();
  if (atomicAdd(params.counter, 1u) + 1 != gridDim.x) return;
  float sum = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) sum += __ldcg(params.workspace + block);
  params.output[0] = sum;
}

template <bool kBroken>
__global__ void divergent_barrier_kernel(ToyParams params) {
  if (!kBroken || threadIdx.x < 40) __syncthreads();
  params.output[global_thread()] = 0;
}

template <bool kBroken>
__global__ void early_exit_kernel(ToyParams params) {
  if (kBroken && threadIdx.x == 5) return;
  __syncthreads();
  params.output[global_thread()] = 0;
}

template <bool kBroken>
__global__ void two_barriers_kernel(ToyParams params) {
  if (kBroken && threadIdx.x < 32) {
    params.output[global_thread()] = 1;
    __syncthreads();
  } else {
    params.output[global_thread()] = 2;
    __syncthreads();
  }
}

template <bool kBroken>
__global__ void shuffle_from_exited_kernel(ToyParams params) {
  if (threadIdx.x >= 16) return;
  params.output[threadIdx.x] = __shfl_down_sync(kBroken ? 0xffffffffu : 0xffffu, params.input[threadIdx.x], 1, 16);
}

template <bool kBroken>
__global__ void lane_outside_mask_kernel(ToyParams params) {
  const unsigned mask = kBroken ? 0x7fffffffu : 0xffffffffu;
  params.output[threadIdx.x] = static_cast<float>(__ballot_sync(mask, 1));
}

template <bool kBroken>
__global__ void source_outside_mask_kernel(ToyParams params) {
  if (threadIdx.x < 16) params.output[threadIdx.x] = __shfl_sync(0xffffu, params.input[threadIdx.x], kBroken ? 20 : 3);
}

template <bool kBroken>
__global__ void lanes_disagree_kernel(ToyParams params) {
  float value = params.input[threadIdx.x];
  if (kBroken && threadIdx.x < 16)
    value += __shfl_xor_sync(0xffffffffu, value, 1);
  else
    __syncwarp();
  params.output[threadIdx.x] = value;
}

}  // namespace toys
}  // namespace cas_ext
