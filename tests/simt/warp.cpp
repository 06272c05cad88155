// What the lanes of a warp do together, and the built-in variables and barriers of a thread.
#include <algorithm>

#include "scheduler.h"

namespace simt {

namespace {

const char* name_of(Collective operation) {
  static const char* const names[] = {"__syncwarp",        "__shfl_sync",       "__shfl_up_sync",
                                      "__shfl_down_sync",  "__shfl_xor_sync",   "a vote",
                                      "__match_any_sync",  "__match_all_sync",  "__reduce_add_sync",
                                      "__reduce_min_sync", "__reduce_max_sync", "__reduce_and_sync",
                                      "__reduce_or_sync",  "__reduce_xor_sync", "mma.sync"};
  return names[static_cast<unsigned>(operation)];
}

std::string hexadecimal(unsigned mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

Thread* lanes_of(unsigned warp) { return &block.thread[warp * kWarp]; }

template <class Visit>
void for_lanes(unsigned mask, Visit&& visit) {
  for (; mask; mask &= mask - 1) visit(static_cast<unsigned>(__builtin_ctz(mask)));
}

// Everything the lanes did is now before everything they will do.
void order_memory(Thread* lanes, unsigned mask) {
  std::uint32_t known[kWarp] = {};
  for_lanes(mask, [&](unsigned lane) {
    for (unsigned i = 0; i < kWarp; ++i) known[i] = std::max(known[i], lanes[lane].known[i]);
  });
  for_lanes(mask, [&](unsigned lane) { known[lane] = lanes[lane].segment; });
  ++state.clock.now;
  for_lanes(mask, [&](unsigned lane) {
    std::copy(known, known + kWarp, lanes[lane].known);
    lanes[lane].segment = state.clock.now;
  });
}

// The lane that `lane` reads from; itself where the shuffle leaves its segment of `width` lanes.
unsigned source_lane(Collective operation, unsigned lane, int argument, int width) {
  const int self = static_cast<int>(lane), first = self & ~(width - 1), last = first + width - 1;
  int source = self;
  switch (operation) {
    case Collective::shuffle_index:
      source = first | (argument & (width - 1));
      break;
    case Collective::shuffle_up:
      source = self - argument < first ? self : self - argument;
      break;
    case Collective::shuffle_down:
      source = self + argument > last ? self : self + argument;
      break;
    // May read from an earlier segment, not from a later one.
    default:
      source = (self ^ argument) > last ? self : self ^ argument;
      break;
  }
  return static_cast<unsigned>(source);
}

void shuffle(Thread* lanes, unsigned mask, Collective operation) {
  std::uint64_t values[kWarp];
  for_lanes(mask, [&](unsigned lane) { values[lane] = lanes[lane].value; });
  for_lanes(mask, [&](unsigned lane) {
    Thread& self = lanes[lane];
    const unsigned source = source_lane(operation, lane, self.argument, self.width);
    if (source >= kWarp || !(mask >> source & 1)) {
      state.current = &self;
      fail({"warp",
            std::string("reads lane ") + std::to_string(static_cast<int>(source)) + " by " + name_of(operation) +
                " at %0, but the mask " + hexadecimal(mask) + " does not name that lane",
            {self.site}});
    }
    self.value = values[source];
  });
}

std::uint64_t combine(Collective operation, std::uint64_t a, std::uint64_t b) {
  switch (operation) {
    case Collective::reduce_add:
      return a + b;
    case Collective::reduce_min:
      return std::min(a, b);
    case Collective::reduce_max:
      return std::max(a, b);
    case Collective::reduce_and:
      return a & b;
    case Collective::reduce_or:
      return a | b;
    default:
      return a ^ b;
  }
}

// Not inlined, so that the lanes that only wait do not pay for its stack frame.
__attribute__((noinline)) void finish(Thread* lanes, unsigned mask, Collective operation) {
  const unsigned first = static_cast<unsigned>(__builtin_ctz(mask));
  std::uint64_t result = 0;
  switch (operation) {
    case Collective::syncwarp:
      return order_memory(lanes, mask);
    case Collective::shuffle_index:
    case Collective::shuffle_up:
    case Collective::shuffle_down:
    case Collective::shuffle_xor:
      return shuffle(lanes, mask, operation);
    case Collective::match_any: {
      std::uint64_t values[kWarp];
      for_lanes(mask, [&](unsigned lane) { values[lane] = lanes[lane].value; });
      for_lanes(mask, [&](unsigned lane) {
        lanes[lane].value = 0;
        for_lanes(mask, [&](unsigned other) {
          lanes[lane].value |= static_cast<std::uint64_t>(values[other] == values[lane]) << other;
        });
      });
      return;
    }
    case Collective::add_product: {
      ProductOperands* operands[kWarp];
      for_lanes(mask, [&](unsigned lane) { operands[lane] = reinterpret_cast<ProductOperands*>(lanes[lane].value); });
      return multiply(operands);
    }
    case Collective::match_all:
      result = mask;
      for_lanes(mask, [&](unsigned lane) { result = lanes[lane].value == lanes[first].value ? result : 0; });
      break;
    case Collective::ballot:
      for_lanes(mask, [&](unsigned lane) { result |= lanes[lane].value << lane; });
      break;
    default:
      result = lanes[first].value;
      for_lanes(mask & (mask - 1), [&](unsigned lane) { result = combine(operation, result, lanes[lane].value); });
  }
  for_lanes(mask, [&](unsigned lane) { lanes[lane].value = result; });
}

[[noreturn]] __attribute__((noinline)) void refuse(Collective operation, unsigned mask, int width, const void* site) {
  const Thread& self = *state.current;
  const Warp& warp = block.warp[self.id / kWarp];
  if (width < 1 || width > 32 || (width & (width - 1)))
    fail({"warp", "shuffles at %0 with width " + std::to_string(width) + ", not a power of two up to 32", {site}});
  const std::string call = std::string("calls ") + name_of(operation) + " at %0 with the mask " + hexadecimal(mask);
  if (!(mask >> (self.id % kWarp) & 1)) fail({"warp", call + ", which does not name it", {site}});
  const unsigned absent = mask & (warp.exited | ~warp.exists);
  fail({"warp", call + ", but lanes " + hexadecimal(absent) + " have returned or never existed", {site}});
}

}  // namespace

std::uint64_t collective(Collective operation, unsigned mask, std::uint64_t value, int argument, int width) {
  const void* site = __builtin_return_address(0);
  Thread& self = *state.current;
  const unsigned warp_index = self.id / kWarp, bit = 1u << (self.id % kWarp);
  Warp& warp = block.warp[warp_index];
  const bool lanes_agree = (mask & bit) && !(mask & (warp.exited | ~warp.exists));
  if (!lanes_agree || width < 1 || width > 32 || (width & (width - 1))) refuse(operation, mask, width, site);
  self.site = site;
  self.value = value;
  self.argument = argument;
  self.width = width;
  unsigned g = 0;
  while (g < warp.group_count && (warp.groups[g].mask != mask || warp.groups[g].operation != operation)) ++g;
  if (g == warp.group_count) warp.groups[warp.group_count++] = {mask, 0, operation};
  warp.groups[g].arrived |= bit;
  if (warp.groups[g].arrived == mask) {
    warp.groups[g] = warp.groups[--warp.group_count];
    finish(lanes_of(warp_index), mask, operation);
    release(warp_index, mask);
  }
  run_next();
  return self.value;
}

unsigned lane_bit() { return 1u << (state.current->id % kWarp); }
uint3 thread_index() { return state.current->index; }
uint3 block_index() { return state.block; }
dim3 block_dim() { return state.job->block; }
dim3 grid_dim() { return state.job->grid; }

void explain_stuck_warp(unsigned warp) {
  const Group& group = block.warp[warp].groups[0];
  const Thread& waiting = lanes_of(warp)[__builtin_ctz(group.arrived)];
  const Thread& missing = lanes_of(warp)[__builtin_ctz(group.mask & ~group.arrived)];
  state.current = const_cast<Thread*>(&waiting);
  fail({"warp",
        std::string("waits in ") + name_of(group.operation) + " at %0 with the mask " + hexadecimal(group.mask) +
            " for thread " + thread_name(missing.id) + ", which waits at %1",
        {waiting.site, missing.site}});
}

void explain_exit(const Thread& thread, const Group& group) {
  const Thread& waiting = lanes_of(thread.id / kWarp)[__builtin_ctz(group.arrived)];
  state.current = const_cast<Thread*>(&waiting);
  fail({"warp",
        std::string("waits in ") + name_of(group.operation) + " at %0 with the mask " + hexadecimal(group.mask) +
            ", which names thread " + thread_name(thread.id) + ", but that has returned",
        {waiting.site}});
}

}  // namespace simt

void __syncthreads() { simt::synchronise_block(__builtin_return_address(0)); }

// The count must outlive the barrier until the last thread has read it, and a second barrier starts the next.
int __syncthreads_count(int predicate) {
  const void* site = __builtin_return_address(0);
  if (simt::block.arrived == 0) simt::block.votes = 0;
  simt::block.votes += predicate != 0;
  simt::synchronise_block(site);
  const int votes = simt::block.votes;
  simt::synchronise_block(site);
  return votes;
}
int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
int __syncthreads_and(int predicate) { return __syncthreads_count(predicate) == static_cast<int>(simt::block.threads); }

void __threadfence() { simt::note_fence(*simt::state.current); }
void __nanosleep(unsigned) {
  const unsigned id = simt::state.current->id;
  simt::release(id / simt::kWarp, 1u << (id % simt::kWarp));
  simt::run_next();
}
void __trap() { simt::fail({"trap", "calls __trap at %0", {__builtin_return_address(0)}}); }
