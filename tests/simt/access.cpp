// Every memory access of a kernel arrives here: whose memory it is, whether it stays inside, and how it counts.
#include <link.h>

#include <cstring>

#include "heap.h"
#include "history.h"
#include "runtime.h"

namespace cas_ext {
// Kernels see it as `extern __shared__`. 128 bytes is more alignment than CUDA promises, and all its instructions ask.
alignas(128) unsigned char arena[simt::kMaxSharedBytes];
}  // namespace cas_ext

namespace simt {

constexpr std::size_t kGuard = 4096;  // bytes around the arena that are reported as shared memory
namespace {

std::size_t shared_bytes = 0;
std::uint64_t accesses = 0;

void count(Totals& totals, std::size_t size, Kind kind) {
  const bool stores = kind == Kind::store || kind == Kind::atomic, loads = kind != Kind::store;
  totals.atomics += kind == Kind::atomic;
  totals.loads += loads;
  totals.stores += stores;
  totals.bytes_loaded += loads ? size : 0;
  totals.bytes_stored += stores ? size : 0;
}

void access_global(Buffer* buffer, std::uintptr_t address, std::size_t size, Kind kind, const void* site) {
  if (!buffer) fail({"out-of-bounds", std::string(verb(kind)) + " device memory outside of every array at %0", {site}});
  const auto offset = static_cast<std::int64_t>(address - reinterpret_cast<std::uintptr_t>(buffer->data()));
  if (offset < 0 || offset + static_cast<std::int64_t>(size) > static_cast<std::int64_t>(buffer->bytes)) {
    const std::int64_t item = buffer->item_bytes;
    const std::int64_t index = offset >= 0 ? offset / item : -((-offset + item - 1) / item);
    fail({"out-of-bounds",
          std::string(verb(kind)) + " " + std::to_string(size) + " bytes at " + element(*buffer, index) +
              " at %0, but it has " + std::to_string(buffer->bytes / buffer->item_bytes) + " elements",
          {site},
          buffer->name,
          index});
  }
  if (!buffer->writable && (kind == Kind::store || kind == Kind::atomic)) {
    const std::int64_t index = offset / buffer->item_bytes;
    fail({"read-only",
          std::string(verb(kind)) + " the input " + element(*buffer, index) + " at %0",
          {site},
          buffer->name,
          index});
  }
  if (!state.options.checked) return;
  count(buffer->totals, size, kind);
  if (kind == Kind::atomic) synchronise_blocks(address);
  check_history(*buffer, static_cast<std::size_t>(offset), size, kind, site, state.clock.launch);
}

void access_shared(std::uintptr_t address, std::size_t size, Kind kind, const void* site) {
  const auto offset = static_cast<std::int64_t>(address - reinterpret_cast<std::uintptr_t>(cas_ext::arena));
  if (offset < 0 || offset + static_cast<std::int64_t>(size) > static_cast<std::int64_t>(shared_bytes))
    fail({"out-of-bounds",
          std::string(verb(kind)) + " " + std::to_string(size) + " bytes of shared memory at byte " +
              std::to_string(offset) + " at %0, but the launch asked for " + std::to_string(shared_bytes) + " bytes",
          {site},
          "shared",
          offset});
  if (!state.options.checked) return;
  Buffer& shared = shared_buffer();
  count(shared.totals, size, kind);
  check_history(shared, static_cast<std::size_t>(offset), size, kind, site, state.clock.block);
}

// Constant tables live in read-only segments of the program; a kernel has no business in any other static data.
bool is_constant(std::uintptr_t address) {
  const auto contains = [](dl_phdr_info* info, std::size_t, void* data) {
    const std::uintptr_t wanted = *static_cast<std::uintptr_t*>(data);
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const auto& header = info->dlpi_phdr[i];
      const bool constant = header.p_type == PT_GNU_RELRO || (header.p_type == PT_LOAD && !(header.p_flags & PF_W));
      if (constant && wanted - (info->dlpi_addr + header.p_vaddr) < header.p_memsz) return 1;
    }
    return 0;
  };
  return dl_iterate_phdr(contains, &address) != 0;
}

}  // namespace

// Its history and counts; the memory itself is the arena.
Buffer& shared_buffer() {
  static Buffer* shared = new Buffer("shared", kMaxSharedBytes, 1, Buffer::Access::writable);
  return *shared;
}

void access(const void* pointer, std::size_t size, Kind kind, const void* site) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  if (address - state.stacks.begin < state.stacks.bytes || !state.current || size == 0) return;
  if (++accesses == state.options.access_limit)
    fail({"endless",
          "still runs after " + std::to_string(accesses) + " accesses of memory in one block, at %0",
          {site}});
  const Heap& all = heap();
  if (address - all.begin < kHeapBytes) {
    access_global(all.owners[(address - all.begin) >> kPageShift], address, size, kind, site);
  } else if (address - reinterpret_cast<std::uintptr_t>(cas_ext::arena) + kGuard < kMaxSharedBytes + 2 * kGuard) {
    access_shared(address, size, kind, site);
  } else if (kind == Kind::store || kind == Kind::atomic || !is_constant(address)) {
    fail({"out-of-bounds", std::string(verb(kind)) + " memory that is neither the device's nor its own at %0", {site}});
  }
}

bool is_tracked(const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  return address - heap().begin < kHeapBytes ||
         address - reinterpret_cast<std::uintptr_t>(cas_ext::arena) < kMaxSharedBytes;
}

void check_alignment(const void* pointer, std::size_t alignment, const void* site) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  if (address % alignment == 0) return;
  const Buffer* buffer =
      address - heap().begin < kHeapBytes ? heap().owners[(address - heap().begin) >> kPageShift] : nullptr;
  std::string where = "an address";
  std::int64_t index = -1;
  if (buffer) {
    index = (static_cast<std::int64_t>(address) -
             static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(buffer->data()))) /
            buffer->item_bytes;
    where = element(*buffer, index);
  } else if (is_tracked(pointer)) {
    where = "byte " + std::to_string(address - reinterpret_cast<std::uintptr_t>(cas_ext::arena)) + " of shared memory";
  }
  fail({"misaligned",
        "accesses " + where + " at %0, which is not aligned to " + std::to_string(alignment) + " bytes",
        {site},
        buffer ? buffer->name : "",
        index});
}

void end_launch() {
  for_buffers([](Buffer& buffer) {
    buffer.by_kernel[state.kernel].add(buffer.totals);
    buffer.totals = {};
  });
}

void begin_block(std::size_t bytes) {
  begin_history_of_block();
  accesses = 0;
  shared_bytes = bytes;
  std::memset(cas_ext::arena, 0xff, bytes);
  if (state.options.checked) shared_buffer().mark(0, bytes, CellState::unwritten);
}

}  // namespace simt
