// The only file that asks which compiler is at work, beside cuda/matrix.cuh, which has the instructions that CUDA has
// no function for: functions marked CAS_HD run on the host and on the device. They are always inlined, so that code
// compiled for one instruction set is never linked into code for another.
#pragma once

#ifdef __CUDACC__
#define CAS_HD __host__ __device__ __forceinline__
#else
#define CAS_HD inline __attribute__((always_inline))
#endif
