// For each detector a kernel that is wrong in one way, and its correct twin (kBroken = false).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace cas_ext {

__device__ inline float* shared_floats() {
  extern __shared__ __align__(16) unsigned char arena[];
  return reinterpret_cast<float*>(arena);
}

namespace toys {

struct ToyParams {
  const float* input;  // (size)
  float* output;       // (size), or (blocks)
  float* workspace;    // (blocks)
  unsigned* counter;   // (1)
  int size;
};

__device__ inline int global_thread() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

template <bool kBroken>
__global__ void copy_kernel(ToyParams params) {
  const int i = global_thread();
  if (i < params.size + kBroken) params.output[i] = params.input[i];
}

template <bool kBroken>
__global__ void write_past_end_kernel(ToyParams params) {
  const int i = global_thread();
  if (i < params.size + kBroken) params.output[i] = 1;
}

template <bool kBroken>
__global__ void shared_bounds_kernel(ToyParams params) {
  float* shared = shared_floats();
  shared[threadIdx.x + kBroken] = params.input[threadIdx.x];
  params.output[threadIdx.x] = shared[threadIdx.x + kBroken];
}

template <bool kBroken>
__global__ void shared_underflow_kernel(ToyParams params) {
  float* shared = shared_floats();
  const int i = static_cast<int>(threadIdx.x) - kBroken;
  shared[i] = params.input[threadIdx.x];
  params.output[threadIdx.x] = shared[i];
}

// Reads an element that nobody wrote.
template <bool kBroken>
__global__ void shared_unwritten_kernel(ToyParams params) {
  float* shared = shared_floats();
  if (!kBroken || threadIdx.x != 7) shared[threadIdx.x] = params.input[threadIdx.x];
  __syncthreads();
  params.output[threadIdx.x] = shared[threadIdx.x ^ 1];
}

template <bool kBroken>
__global__ void global_unwritten_kernel(ToyParams params) {
  if (!kBroken) params.workspace[blockIdx.x] = 1;
  params.output[blockIdx.x] = params.workspace[blockIdx.x];
}

template <bool kBroken>
__global__ void misaligned_kernel(ToyParams params) {
  const float* from = params.input + kBroken;
  const float4 four = *reinterpret_cast<const float4*>(from);
  params.output[0] = four.x + four.y + four.z + four.w;
}

template <bool kBroken>
__global__ void misaligned_hint_kernel(ToyParams params) {
  const float4 four = __ldcs(reinterpret_cast<const float4*>(params.input + kBroken));
  params.output[0] = four.x + four.y + four.z + four.w;
}

template <bool kBroken>
__global__ void unwritten_output_kernel(ToyParams params) {
  const int i = global_thread();
  if (i < params.size - kBroken) params.output[i] = 0;
}

template <bool kBroken>
__global__ void write_input_kernel(ToyParams params) {
  float* target = kBroken ? const_cast<float*>(params.input) : params.output;
  target[global_thread()] = 0;
}

template <bool kBroken>
__global__ void stale_read_kernel(ToyParams params) {
  params.workspace[blockIdx.x] = 1;
  const float* from = params.workspace + blockIdx.x;
  __syncthreads();
  params.output[blockIdx.x] = kBroken ? __ldg(from) : __ldcg(from);
}

template <bool kBroken>
__global__ void undefined_shift_kernel(ToyParams params) {
  const int shift = params.size * (kBroken ? 32 : 1);
  params.output[threadIdx.x] = static_cast<float>(1 << shift);
}

template <bool kBroken>
__global__ void endless_kernel(ToyParams params) {
  volatile unsigned* flag = params.counter;
  while (*flag == 0 && kBroken) {
  }
  params.output[threadIdx.x] = 0;
}

template <bool kBroken>
__global__ void trap_kernel(ToyParams params) {
  if (kBroken && threadIdx.x == 3) __trap();
  params.output[threadIdx.x] = 0;
}

template <bool kBroken>
__global__ void wild_pointer_kernel(ToyParams params) {
  const float* from = kBroken ? nullptr : params.input;
  params.output[threadIdx.x] = from[threadIdx.x];
}

// Untracked bytes: a variable size keeps the compiler from turning the call into loads and stores.
template <bool kBroken>
__global__ void memcpy_kernel(ToyParams params) {
  if (kBroken)
    __builtin_memcpy(params.output, params.input, static_cast<unsigned>(params.size) * sizeof(float));
  else
    for (int i = 0; i < params.size; ++i) params.output[i] = params.input[i];
}

// Reads every element once, or twice.
template <bool kBroken>
__global__ void read_twice_kernel(ToyParams params) {
  const int i = global_thread();
  float value = params.input[i];
  if (kBroken) {
    __syncthreads();
    value += params.input[i];
  }
  params.output[i] = value;
}

// A tree of fixed shape: the sum does not depend on the order in which threads run.
template <bool kBroken>
__global__ void sum_kernel(ToyParams params) {
  float* shared = shared_floats();
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < params.size; i += static_cast<int>(blockDim.x))
    sum += params.input[i];
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(0xffffffffu, sum, static_cast<unsigned>(delta));
  if (threadIdx.x % 32 == 0) {
    if (kBroken)
      atomicAdd(params.output, sum);
    else
      shared[threadIdx.x / 32] = sum;
  }
  __syncthreads();
  if (kBroken || threadIdx.x != 0) return;
  sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += shared[warp];
  params.output[0] += sum;
}

// A few barriers and shuffles: what a launch costs.
template <bool kBroken>
__global__ void busy_kernel(ToyParams params) {
  float* shared = shared_floats();
  float value = params.input[global_thread()];
  for (int round = 0; round < 4; ++round) {
    shared[threadIdx.x] = value;
    __syncthreads();
    value += shared[(threadIdx.x + 1) % blockDim.x];
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    __syncthreads();
  }
  params.output[global_thread()] = value;
}

template <class Launch>
void launch_toy(void (*kernel)(ToyParams), const ToyParams& params, int blocks, int threads, int shared_bytes,
                Launch&& launch) {
  launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
         static_cast<std::size_t>(shared_bytes), params);
}

}  // namespace toys
}  // namespace cas_ext
