// Runs CUDA kernels on the host, every CUDA thread a fiber, every memory access checked and counted.
// This is the interface for a test module: Launch, Buffer and Error. README.md explains the rest.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace simt {

constexpr std::size_t kMaxSharedBytes = 227 << 10;  // what sm_90 gives one block

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
  std::string kind;    // "race", "out-of-bounds", ...: README.md lists them
  std::string kernel;  // without its parameter list
  std::array<unsigned, 3> block{}, thread{};
  std::string buffer;              // its name, or "shared"
  std::int64_t index = -1;         // of an element of the buffer
  std::vector<std::string> sites;  // file:line of the access, then of the one it conflicts with
};

struct Stamp {
  std::uint32_t time;
  std::uint16_t site;
  std::uint16_t thread : 10;
  std::uint16_t atomic : 1;
};

// Who last touched a cell: enough readers to find any that a writer is not ordered with.
struct Cell {
  Stamp write, read, read_same_warp, read_other_warp, read_other_block;
};

enum class CellState : std::uint8_t { unwritten, written, outside };

struct Totals {
  std::uint64_t loads = 0, stores = 0, atomics = 0, bytes_loaded = 0, bytes_stored = 0;

  void add(const Totals& other) {
    loads += other.loads;
    stores += other.stores;
    atomics += other.atomics;
    bytes_loaded += other.bytes_loaded;
    bytes_stored += other.bytes_stored;
  }
};

// An array in guarded "device" memory. A cell is an element (a word of 8 bytes if that is smaller).
class Buffer {
 public:
  enum class Access { read_only, writable };

  // The first byte lies at `misalignment` modulo 256. Its content is poison, and every cell unwritten.
  Buffer(std::string name, std::size_t bytes, unsigned item_bytes, Access access, unsigned misalignment = 0);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  unsigned char* data() const { return data_; }
  std::size_t cells() const { return (bytes + cell_bytes() - 1) >> cell_shift; }
  unsigned cell_bytes() const { return 1u << cell_shift; }
  void mark(std::size_t offset, std::size_t size, CellState state);
  std::int64_t first_unwritten() const;  // the element, or -1

  const std::string name;
  const std::size_t bytes;
  const unsigned item_bytes;
  unsigned cell_shift;
  const bool writable;

  Cell* history = nullptr;
  CellState* state = nullptr;
  std::uint16_t* loads = nullptr;  // of each cell, saturating
  std::uint16_t* stores = nullptr;
  std::map<std::string, Totals> by_kernel;
  Totals totals;  // of the running launch

 private:
  unsigned char* data_;
  std::size_t first_page_ = 0, pages_ = 0;
};

struct Options {
  std::uint64_t seed = 0;                 // of the order of threads, warps and blocks; 0 is the natural order
  bool checked = true;                    // false: only bounds are checked, nothing is counted
  std::uint64_t access_limit = 1u << 30;  // of one block: more is a loop that never ends
};
Options& options();

// Launches of each kernel instance since the module was loaded.
std::map<std::string, std::uint64_t>& kernels_run();

std::string last_kernel();

struct Job {
  void (*call)(const void* kernel, const void* params);
  const void* kernel;
  const void* params;
  dim3 grid, block;
  std::size_t shared_bytes;
};
void run(const Job& job);

// The launcher that a host function `launch_foo(params, launch)` calls.
struct Launch {
  template <class Params>
  void operator()(void (*kernel)(Params), dim3 grid, dim3 block, std::size_t shared_bytes, const Params& params) const {
    run({&call<Params>, reinterpret_cast<const void*>(kernel), &params, grid, block, shared_bytes});
  }

 private:
  // Reads the parameters from the host's stack, which no check may mistake for the kernel's doing.
  template <class Params>
  __attribute__((noinline, no_sanitize("thread"))) static void call(const void* kernel, const void* params) {
    reinterpret_cast<void (*)(Params)>(const_cast<void*>(kernel))(*static_cast<const Params*>(params));
  }
};

}  // namespace simt
