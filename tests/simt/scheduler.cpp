// Runs blocks one after another; inside a block one thread at a time, until it waits at a barrier or a collective.
#include <algorithm>
#include <stdexcept>

#include "scheduler.h"

namespace simt {

State state;
Block block;

Options& options() { return state.options; }

std::map<std::string, std::uint64_t>& kernels_run() {
  static std::map<std::string, std::uint64_t> launches;
  return launches;
}

std::string last_kernel() { return state.kernel; }

namespace {

Context host;
const Error* pending = nullptr;
bool fibers_ready = false;
std::uint64_t random_state = 0;

constexpr unsigned kMixing = 8;  // one release in so many lets the other warps go first, when shuffled

// splitmix64
std::uint64_t random_bits() {
  std::uint64_t bits = (random_state += 0x9e3779b97f4a7c15ull);
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
  return bits ^ (bits >> 31);
}

template <class T>
void shuffle(T* items, unsigned count) {
  if (state.options.seed == 0) return;
  for (unsigned i = count; i > 1; --i) {
    const auto j = static_cast<unsigned>(((random_bits() >> 32) * i) >> 32);
    std::swap(items[i - 1], items[j]);
  }
}

[[noreturn]] __attribute__((noinline)) void stuck() {
  // Some thread waits for others that will not come; those at a warp's collective know whom they wait for.
  for (unsigned w = 0; w < block.warps; ++w)
    if (block.warp[w].group_count) explain_stuck_warp(w);
  const Thread *waiting = nullptr, *missing = nullptr;
  for (unsigned id = 0; id < block.threads; ++id) {
    const Thread& thread = block.thread[id];
    if (!thread.exited) waiting = &thread;
    if (thread.exited) missing = &thread;
  }
  state.current = const_cast<Thread*>(waiting);
  fail({"barrier",
        "waits in __syncthreads at %0 for thread " + thread_name(missing ? missing->id : 0) + ", which never arrives",
        {waiting->site}});
}

void fiber_main() {
  for (;;) {
    state.job->call(state.job->kernel, state.job->params);
    Thread& self = *state.current;
    Warp& warp = block.warp[self.id / kWarp];
    self.exited = true;
    warp.exited |= 1u << (self.id % kWarp);
    ++block.exited;
    for (unsigned g = 0; g < warp.group_count; ++g)
      if (warp.groups[g].mask >> (self.id % kWarp) & 1) explain_exit(self, warp.groups[g]);
    run_next();
  }
}

void prepare_fibers() {
  if (!state.stacks.bytes) state.stacks = allocate_stacks(kMaxThreads);
  for (unsigned id = 0; id < kMaxThreads; ++id) {
    block.thread[id].id = static_cast<std::uint16_t>(id);
    prepare_context(block.thread[id].context, state.stacks, id, fiber_main);
  }
  fibers_ready = true;
}

void start_block(const Job& job) {
  begin_block(job.shared_bytes);
  block.arrived = block.exited = 0;
  block.queue_begin = block.queue_count = 0;
  for (unsigned id = 0; id < block.threads; ++id) {
    Thread& thread = block.thread[id];
    thread.exited = false;
    thread.segment = state.clock.now;
    std::fill(thread.known, thread.known + kWarp, 0);
    thread.index = {id % job.block.x, id / job.block.x % job.block.y, id / (job.block.x * job.block.y)};
  }
  for (unsigned w = 0; w < block.warps; ++w) {
    Warp& warp = block.warp[w];
    const unsigned lanes = std::min(kWarp, block.threads - w * kWarp);
    warp.exists = lanes == kWarp ? ~0u : (1u << lanes) - 1;
    warp.exited = warp.group_count = warp.ready_begin = warp.ready_count = 0;
  }
  release_block();
}

void run_block(const Job& job) {
  start_block(job);
  Context& next = take_next()->context;
  switch_context(host, next);
  state.current = nullptr;
  if (!pending) return;
  // The stacks of the abandoned threads are simply forgotten; kernels own nothing on them.
  fibers_ready = false;
  const Error error = *pending;
  delete pending;
  pending = nullptr;
  throw error;
}

void check_launch(const Job& job) {
  const auto refuse = [](const std::string& text) { fail({"launch", text}); };
  const std::uint64_t threads = std::uint64_t{job.block.x} * job.block.y * job.block.z;
  if (threads == 0 || threads > kMaxThreads)
    refuse("a block must have 1 to 1024 threads, got " + std::to_string(threads));
  if (job.grid.x == 0 || job.grid.y == 0 || job.grid.z == 0) refuse("the grid is empty");
  if (job.grid.x > 0x7fffffffu || job.grid.y > 65535 || job.grid.z > 65535)
    refuse("the grid exceeds (2^31 - 1, 65535, 65535)");
  if (job.shared_bytes > kMaxSharedBytes)
    refuse("a block has at most 232448 bytes of shared memory, asked for " + std::to_string(job.shared_bytes));
}

}  // namespace

// Makes the lanes ready to run, in a fresh order.
void release(unsigned warp_index, unsigned lanes) {
  Warp& warp = block.warp[warp_index];
  std::uint8_t order[kWarp];
  unsigned count = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (lanes >> lane & 1) order[count++] = static_cast<std::uint8_t>(lane);
  shuffle(order, count);
  const bool queued = warp.ready_count != 0;
  for (unsigned i = 0; i < count; ++i) warp.ready[(warp.ready_begin + warp.ready_count++) % kWarp] = order[i];
  if (queued) return;
  // A released warp goes on at once, so that its stacks stay in the cache.
  const bool back = state.options.seed != 0 && random_bits() % kMixing == 0;
  if (!back) block.queue_begin = (block.queue_begin + kWarp - 1) % kWarp;
  block.queue[(block.queue_begin + (back ? block.queue_count : 0)) % kWarp] = static_cast<std::uint8_t>(warp_index);
  ++block.queue_count;
}

void release_block() {
  std::uint8_t order[kWarp];
  // Each release puts a warp in front of those before it.
  for (unsigned w = 0; w < block.warps; ++w) order[w] = static_cast<std::uint8_t>(block.warps - 1 - w);
  shuffle(order, block.warps);
  for (unsigned w = 0; w < block.warps; ++w) release(order[w], block.warp[order[w]].exists);
}

Thread* take_next() {
  if (block.queue_count == 0) return nullptr;
  const unsigned index = block.queue[block.queue_begin];
  Warp& warp = block.warp[index];
  const unsigned lane = warp.ready[warp.ready_begin];
  warp.ready_begin = (warp.ready_begin + 1) % kWarp;
  if (--warp.ready_count == 0) {
    block.queue_begin = (block.queue_begin + 1) % kWarp;
    --block.queue_count;
  }
  return state.current = &block.thread[index * kWarp + lane];
}

void run_next() {
  Thread& self = *state.current;
  Thread* next = take_next();
  if (next == &self) return;
  if (!next && block.exited < block.threads) stuck();
  switch_context(self.context, next ? next->context : host);
}

void fail(const Problem& problem) {
  if (!state.current) throw describe(problem);
  pending = new Error(describe(problem));
  Context abandoned;
  switch_context(abandoned, host);
  __builtin_unreachable();
}

void synchronise_block(const void* site) {
  Thread& self = *state.current;
  self.site = site;
  for (unsigned id = 0; block.exited && id < block.threads; ++id)
    if (block.thread[id].exited)
      fail({"barrier", "calls __syncthreads at %0, but thread " + thread_name(id) + " has returned", {site}});
  if (block.arrived == 0) block.barrier_site = site;
  // One line can be two addresses where the compiler has copied code.
  if (site != block.barrier_site && resolve_site(site) != resolve_site(block.barrier_site))
    fail({"barrier",
          "calls __syncthreads at %0, while other threads of its block wait in the one at %1",
          {site, block.barrier_site}});
  if (++block.arrived == block.threads) {
    block.arrived = 0;
    state.clock.barrier = ++state.clock.now;
    for (unsigned id = 0; id < block.threads; ++id) block.thread[id].segment = state.clock.now;
    release_block();
  }
  run_next();
}

void run(const Job& job) {
  state.job = &job;
  state.kernel = function_name(job.kernel);
  state.block = {};
  check_launch(job);
  if (!fibers_ready) prepare_fibers();
  ++kernels_run()[state.kernel];
  begin_launch();
  random_state = state.options.seed;
  block.threads = job.block.x * job.block.y * job.block.z;
  block.warps = (block.threads + kWarp - 1) / kWarp;
  const std::uint64_t blocks = std::uint64_t{job.grid.x} * job.grid.y * job.grid.z;
  std::vector<std::uint32_t> order(blocks);
  for (std::uint64_t i = 0; i < blocks; ++i) order[i] = static_cast<std::uint32_t>(i);
  shuffle(order.data(), static_cast<unsigned>(blocks));
  for (const std::uint32_t i : order) {
    state.block = {i % job.grid.x, i / job.grid.x % job.grid.y, i / (job.grid.x * job.grid.y)};
    run_block(job);
  }
  end_launch();
}

}  // namespace simt
