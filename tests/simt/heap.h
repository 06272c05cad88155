// The address range that stands for device memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

class Buffer;

constexpr std::size_t kHeapBytes = std::size_t{16} << 30;  // reserved addresses, not memory
constexpr unsigned kPageShift = 12;

struct Heap {
  std::uintptr_t begin = 0;
  Buffer** owners = nullptr;  // of each page
  std::size_t used_pages = 0;
};
Heap& heap();

template <class Visit>
void for_buffers(Visit&& visit) {
  const Heap& all = heap();
  Buffer* last = nullptr;
  for (std::size_t page = 0; page < all.used_pages; ++page) {
    Buffer* buffer = all.owners[page];
    if (buffer && buffer != last) visit(*buffer);
    last = buffer;
  }
}

}  // namespace simt
