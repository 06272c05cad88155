// The block that is running: its threads, and who of them may go on.
#pragma once

#include "runtime.h"

namespace simt {

// Lanes that wait at one collective for the rest of their mask.
struct Group {
  unsigned mask, arrived;
  Collective operation;
};

struct Warp {
  unsigned exists, exited;
  std::uint8_t ready[kWarp];  // a ring of lanes
  unsigned ready_begin, ready_count;
  Group groups[kWarp];
  unsigned group_count;
};

struct Block {
  Thread thread[kMaxThreads];
  Warp warp[kMaxThreads / kWarp];
  unsigned threads, warps;
  unsigned arrived, exited;  // at the barrier; from the kernel
  const void* barrier_site;
  int votes;                  // of the threads at __syncthreads_count and its kin
  std::uint8_t queue[kWarp];  // a ring of the warps with ready lanes
  unsigned queue_begin, queue_count;
};
extern Block block;

void release(unsigned warp, unsigned lanes);
void release_block();
Thread* take_next();  // becomes state.current; null if no thread is ready
void run_next();      // leaves the current thread, and returns when it is its turn again
void synchronise_block(const void* site);

void multiply(ProductOperands* const (&lanes)[kWarp]);  // matrix.cpp

[[noreturn]] void explain_stuck_warp(unsigned warp);
[[noreturn]] void explain_exit(const Thread& thread, const Group& group);

}  // namespace simt
