// Remembers who touched each cell, and reports what is not ordered under every schedule, or was never written.
#include "history.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "heap.h"

namespace simt {

constexpr std::uint32_t kClockLimit = 1u << 31;  // leaves a launch as many ticks again
constexpr std::size_t kSites = 1 << 16;          // what Stamp::site can number

const char* verb(Kind kind) {
  switch (kind) {
    case Kind::store:
      return "writes";
    case Kind::atomic:
      return "updates";
    default:
      return "reads";
  }
}

std::string element(const Buffer& buffer, std::int64_t index) {
  if (&buffer == &shared_buffer()) return "byte " + std::to_string(index) + " of shared memory";
  return buffer.name + "[" + std::to_string(index) + "]";
}

namespace {

struct Release {
  std::uint32_t block, time;
};

// Return addresses by number; the table is found by hashing the address.
const void* sites[kSites];
std::uint32_t site_slots[4 * kSites];
std::uint32_t site_count = 1;

// Blocks may hand data over by an atomic after __threadfence(): what each address released, and what this block
// acquired.
std::unordered_map<std::uintptr_t, std::vector<Release>> released;
std::vector<Release> acquired;
std::vector<std::uint32_t> block_starts;
std::uint32_t fenced_at[kMaxThreads];

std::uint16_t number_of(const void* site) {
  std::size_t slot = (reinterpret_cast<std::uintptr_t>(site) * 0x9e3779b97f4a7c15ull) >> 46;
  while (site_slots[slot] && sites[site_slots[slot]] != site) slot = (slot + 1) % (4 * kSites);
  if (!site_slots[slot]) {
    if (site_count == kSites) return 0;
    sites[site_count] = site;
    site_slots[slot] = site_count++;
  }
  return static_cast<std::uint16_t>(site_slots[slot]);
}

std::uint32_t block_of(std::uint32_t time) {
  return *(std::upper_bound(block_starts.begin(), block_starts.end(), time) - 1);
}

// Does a stamped access come before what the running thread does now, under every schedule?
inline bool ordered(Stamp stamp, std::uint32_t since) {
  if (stamp.time < since) return true;
  const Clock& clock = state.clock;
  const Thread& self = *state.current;
  if (stamp.time >= clock.block) {
    if (stamp.time < clock.barrier || stamp.thread == self.id) return true;
    return stamp.thread / kWarp == self.id / kWarp && stamp.time <= self.known[stamp.thread % kWarp];
  }
  const std::uint32_t block = block_of(stamp.time);
  return std::any_of(acquired.begin(), acquired.end(),
                     [&](Release r) { return r.block == block && stamp.time <= r.time; });
}

inline void note_reader(Cell& cell, Stamp stamp, std::uint32_t since) {
  const Stamp last = cell.read;
  cell.read = stamp;
  if (last.time >= state.clock.block) {
    if (last.thread == stamp.thread) return;
    if (last.thread / kWarp == stamp.thread / kWarp) {
      cell.read_same_warp = last;
      return;
    }
    const Stamp other = cell.read_other_warp;
    const bool keep = other.thread / kWarp == stamp.thread / kWarp && other.thread != stamp.thread;
    cell.read_same_warp = keep ? other : Stamp{};
    cell.read_other_warp = last;
  } else if (last.time >= since) {
    cell.read_other_block = last;
  }
}

[[noreturn]] void race(const Buffer& buffer, std::int64_t index, Stamp other, bool other_wrote, Kind kind,
                       const void* site) {
  const bool same_block = other.time >= state.clock.block;
  fail({"race",
        std::string(verb(kind)) + " " + element(buffer, index) + " at %0, which thread " + thread_name(other.thread) +
            (same_block ? "" : " of another block") + (other_wrote ? " wrote" : " read") + " at %1, with no " +
            (same_block ? "barrier" : "order") + " between",
        {site, sites[other.site]},
        buffer.name,
        index});
}

}  // namespace

void check_history(Buffer& buffer, std::size_t offset, std::size_t size, Kind kind, const void* site,
                   std::uint32_t since) {
  const Stamp stamp = {state.current->segment, number_of(site), state.current->id, kind == Kind::atomic};
  const std::size_t first = offset >> buffer.cell_shift, last = (offset + size - 1) >> buffer.cell_shift;
  for (std::size_t i = first; i <= last; ++i) {
    Cell& cell = buffer.history[i];
    const auto index = [&] { return static_cast<std::int64_t>((i << buffer.cell_shift) / buffer.item_bytes); };
    if (buffer.state[i] == CellState::outside)
      fail({"out-of-bounds",
            std::string(verb(kind)) + " " + buffer.name + " at %0, byte " + std::to_string(i << buffer.cell_shift) +
                ", which lies between the elements of a strided array",
            {site},
            buffer.name,
            index()});
    if (!(stamp.atomic && cell.write.atomic) && !ordered(cell.write, since))
      race(buffer, index(), cell.write, true, kind, site);
    if (kind != Kind::store) {
      if (buffer.state[i] == CellState::unwritten)
        fail({"unwritten-read",
              std::string(verb(kind)) + " " + element(buffer, index()) + " at %0, which nobody has written",
              {site},
              buffer.name,
              index()});
      if (kind == Kind::load_constant && cell.write.time >= since)
        fail({"stale-read",
              "reads " + element(buffer, index()) + " by __ldg at %0, but this kernel wrote it at %1",
              {site, sites[cell.write.site]},
              buffer.name,
              index()});
    }
    if (kind == Kind::store || kind == Kind::atomic) {
      for (Stamp reader : {cell.read, cell.read_same_warp, cell.read_other_warp, cell.read_other_block})
        if (!ordered(reader, since)) race(buffer, index(), reader, false, kind, site);
      cell.write = stamp;
      buffer.state[i] = CellState::written;
      buffer.stores[i] += buffer.stores[i] != 0xffff;
    }
    if (kind != Kind::store) buffer.loads[i] += buffer.loads[i] != 0xffff;
    if (kind == Kind::load || kind == Kind::load_constant) note_reader(cell, stamp, since);
  }
}

// The first atomic of a block on an address that another block released makes that block's earlier writes visible.
void synchronise_blocks(std::uintptr_t address) {
  std::vector<Release>& releases = released[address];
  for (Release release : releases)
    if (release.block != state.clock.block) acquired.push_back(release);
  if (fenced_at[state.current->id] >= state.clock.block) releases.push_back({state.clock.block, state.clock.now});
}

void begin_launch() {
  Clock& clock = state.clock;
  if (clock.now > kClockLimit) {
    // The stamps of live buffers would outlive the clock's 32 bits.
    for_buffers([](Buffer& buffer) { std::memset(buffer.history, 0, buffer.cells() * sizeof(Cell)); });
    std::memset(fenced_at, 0, sizeof fenced_at);
    clock = {};
  }
  if (site_count > kSites / 2) {
    std::memset(site_slots, 0, sizeof site_slots);
    site_count = 1;
  }
  clock.launch = ++clock.now;
  released.clear();
  block_starts.clear();
}

void begin_history_of_block() {
  Clock& clock = state.clock;
  clock.block = clock.barrier = ++clock.now;
  block_starts.push_back(clock.block);
  acquired.clear();
}

void note_fence(const Thread& thread) { fenced_at[thread.id] = state.clock.now; }

}  // namespace simt
