// What the runtime's own files share: the running thread, the clock that orders accesses, and errors.
#pragma once

#include <initializer_list>
#include <string>

#include "fiber.h"
#include "simt.h"

namespace simt {

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;

struct Thread {
  Context context;
  std::uint16_t id = 0;  // in its block
  bool exited = false;
  uint3 index{};
  // The collective or barrier it waits at.
  const void* site = nullptr;
  std::uint64_t value = 0;
  int argument = 0, width = 0;
  // Its accesses since the last synchronisation carry `segment`; known[l] is the latest segment of lane l
  // that __syncwarp has put before them.
  std::uint32_t segment = 0;
  std::uint32_t known[kWarp] = {};
};

// Time advances at every start of a block and every barrier, through the life of the process.
struct Clock {
  std::uint32_t now = 1, launch = 1, block = 1, barrier = 1;
};

struct State {
  Options options;
  Thread* current = nullptr;  // null while host code runs
  Clock clock;
  Stacks stacks;
  const Job* job = nullptr;
  uint3 block{};
  std::string kernel;
};
extern State state;

// Ends the launch: run() throws. Leaves the fiber and never returns to it.
struct Problem {
  const char* kind;
  std::string text;
  std::initializer_list<const void*> sites = {};
  std::string buffer = {};
  std::int64_t index = -1;
};
[[noreturn]] void fail(const Problem& problem);
Error describe(const Problem& problem);

std::string thread_name(unsigned id);
std::string resolve_site(const void* return_address);
std::string function_name(const void* function);

enum class Kind : std::uint8_t { load, load_constant, store, atomic };
void access(const void* address, std::size_t size, Kind kind, const void* site);
void check_alignment(const void* address, std::size_t alignment, const void* site);

bool is_tracked(const void* address);  // device or shared memory

// Shared memory and the book-keeping of a launch.
void begin_launch();
void end_launch();
void begin_block(std::size_t shared_bytes);
void note_fence(const Thread& thread);
Buffer& shared_buffer();

}  // namespace simt
