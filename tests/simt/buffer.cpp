// Guarded allocations: one reserved range of addresses, in which every page belongs to at most one buffer.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "heap.h"
#include "runtime.h"

namespace simt {

constexpr std::size_t kRedZone = 256;    // bytes before and after the data that belong to the buffer's pages
constexpr unsigned char kPoison = 0xff;  // NaN in every float format, -1 in every integer one

static Heap reserve() {
  Heap heap;
  void* memory = mmap(nullptr, kHeapBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  heap.begin = reinterpret_cast<std::uintptr_t>(memory);
  heap.owners = static_cast<Buffer**>(std::calloc(kHeapBytes >> kPageShift, sizeof(Buffer*)));
  if (!heap.owners) throw std::bad_alloc();
  return heap;
}

Heap& heap() {
  static Heap heap = reserve();
  return heap;
}

template <class T>
static T* zeros(std::size_t count) {
  // calloc takes untouched pages from the system: a large buffer costs what is used of it.
  auto* memory = static_cast<T*>(std::calloc(count ? count : 1, sizeof(T)));
  if (!memory) throw std::bad_alloc();
  return memory;
}

static unsigned shift_for(unsigned item_bytes) {
  unsigned shift = 0;
  while (shift < 3 && item_bytes % (2u << shift) == 0) ++shift;
  return shift;
}

Buffer::Buffer(std::string name_, std::size_t bytes_, unsigned item_bytes_, Access access_, unsigned misalignment)
    : name(std::move(name_)),
      bytes(bytes_),
      item_bytes(item_bytes_),
      cell_shift(shift_for(item_bytes_)),
      writable(access_ == Access::writable) {
  Heap& all = heap();
  pages_ = (2 * kRedZone + misalignment + bytes + (1u << kPageShift) - 1) >> kPageShift;
  if ((all.used_pages + pages_) << kPageShift > kHeapBytes) throw std::bad_alloc();
  first_page_ = all.used_pages;
  all.used_pages += pages_;
  for (std::size_t i = 0; i < pages_; ++i) all.owners[first_page_ + i] = this;
  auto* begin = reinterpret_cast<unsigned char*>(all.begin + (first_page_ << kPageShift));
  std::memset(begin, kPoison, pages_ << kPageShift);
  data_ = begin + kRedZone + misalignment;
  history = zeros<Cell>(cells());
  state = zeros<CellState>(cells());
  loads = zeros<std::uint16_t>(cells());
  stores = zeros<std::uint16_t>(cells());
}

Buffer::~Buffer() {
  Heap& all = heap();
  for (std::size_t i = 0; i < pages_; ++i) all.owners[first_page_ + i] = nullptr;
  // Buffers live for one operator call and go in about the reverse order, so a stack of pages is enough.
  while (all.used_pages && !all.owners[all.used_pages - 1]) --all.used_pages;
  std::free(history);
  std::free(state);
  std::free(loads);
  std::free(stores);
}

void Buffer::mark(std::size_t offset, std::size_t size, CellState value) {
  if (size == 0) return;
  const std::size_t first = offset >> cell_shift, last = (offset + size - 1) >> cell_shift;
  for (std::size_t cell = first; cell <= last; ++cell) state[cell] = value;
}

std::int64_t Buffer::first_unwritten() const {
  for (std::size_t cell = 0; cell < cells(); ++cell)
    if (state[cell] == CellState::unwritten) return static_cast<std::int64_t>((cell << cell_shift) / item_bytes);
  return -1;
}

}  // namespace simt
