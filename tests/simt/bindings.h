// NumPy arrays as device memory, for the pybind11 module around a set of kernels. README.md has an example.
#pragma once

#include <pybind11/numpy.h>

#include <list>
#include <string>
#include <vector>

#include "simt.h"

namespace simt {

// Converts to a pointer of whatever type the params struct declares.
struct DevicePointer {
  void* address;
  template <class T>
  operator T*() const {
    return static_cast<T*>(address);
  }
};

// The arrays of one operator call. What was counted on them joins counters() when it ends.
class Arrays {
 public:
  Arrays() = default;
  ~Arrays();
  Arrays(const Arrays&) = delete;

  // A copy with the same strides, whose first byte keeps the host's address modulo 16, or lies at `misalignment`.
  // Bytes between the elements of a strided array are out of bounds. bfloat16 comes as uint16.
  DevicePointer in(const std::string& name, const pybind11::array& array, int misalignment = -1);
  DevicePointer inout(const std::string& name, const pybind11::array& array, int misalignment = -1);

  // Poisoned memory. Strides are in elements, row-major by default; take() refuses an element nobody wrote.
  DevicePointer out(const std::string& name, const pybind11::dtype& type, const std::vector<std::int64_t>& shape,
                    std::vector<std::int64_t> strides = {}, int misalignment = 0);
  template <class T>
  DevicePointer out(const std::string& name, const std::vector<std::int64_t>& shape,
                    std::vector<std::int64_t> strides = {}) {
    return out(name, pybind11::dtype::of<T>(), shape, std::move(strides));
  }

  // Poisoned memory that need not be written everywhere. `item_bytes` of 1 suits memory carved into several tables.
  DevicePointer workspace(const std::string& name, std::int64_t bytes, unsigned item_bytes = 1);

  // The content, with the strides it was registered with.
  pybind11::array take(const std::string& name);

 private:
  struct Layout {
    pybind11::dtype type;
    std::vector<std::int64_t> shape, strides;  // strides in bytes
    std::int64_t origin;                       // of element 0, from the lowest byte
    std::int64_t bytes;                        // from the lowest to behind the highest
  };
  struct Entry {
    Layout layout;
    Buffer buffer;
    template <class... Rest>
    Entry(Layout layout_, Rest&&... rest) : layout(std::move(layout_)), buffer(std::forward<Rest>(rest)...) {}
  };
  static Layout layout_of(const pybind11::dtype& type, std::vector<std::int64_t> shape,
                          std::vector<std::int64_t> strides);
  Entry& add(const std::string& name, Layout layout, Buffer::Access access, std::int64_t misalignment,
             CellState content);
  DevicePointer copy(const std::string& name, const pybind11::array& array, int misalignment, Buffer::Access access);

  std::list<Entry> entries_;
};

// Adds to the module: seed(n), checked(flag), access_limit(n), counters(), reset_counters(), loads(name), stores(name),
// kernels_run(), and the translation of Error into simt.KernelError.
void bind_runtime(pybind11::module_& module);

}  // namespace simt
