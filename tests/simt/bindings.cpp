#include "bindings.h"

#include <algorithm>
#include <cstring>

namespace py = pybind11;

namespace simt {

namespace {

// What was counted on all arrays of one name since the last reset.
struct Record {
  std::map<std::string, Totals> by_kernel;
  std::uint64_t arrays = 0, elements = 0, bytes = 0;
  std::uint16_t min_loads = 0xffff, max_loads = 0, min_stores = 0xffff, max_stores = 0;
  std::vector<std::uint16_t> last_loads, last_stores;  // of each cell of the latest array
};

std::map<std::string, Record>& records() {
  static std::map<std::string, Record> all;
  return all;
}

void record(const Buffer& buffer) {
  Record& sum = records()[buffer.name];
  for (const auto& [kernel, totals] : buffer.by_kernel)
    if (totals.loads + totals.stores) sum.by_kernel[kernel].add(totals);
  ++sum.arrays;
  sum.bytes += buffer.bytes;
  for (std::size_t cell = 0; cell < buffer.cells(); ++cell) {
    if (buffer.state[cell] == CellState::outside) continue;
    ++sum.elements;
    sum.min_loads = std::min(sum.min_loads, buffer.loads[cell]);
    sum.max_loads = std::max(sum.max_loads, buffer.loads[cell]);
    sum.min_stores = std::min(sum.min_stores, buffer.stores[cell]);
    sum.max_stores = std::max(sum.max_stores, buffer.stores[cell]);
  }
  sum.last_loads.assign(buffer.loads, buffer.loads + buffer.cells());
  sum.last_stores.assign(buffer.stores, buffer.stores + buffer.cells());
}

py::dict to_dict(const Totals& totals) {
  py::dict result;
  result["loads"] = totals.loads;
  result["stores"] = totals.stores;
  result["atomics"] = totals.atomics;
  result["bytes_loaded"] = totals.bytes_loaded;
  result["bytes_stored"] = totals.bytes_stored;
  return result;
}

py::dict counters() {
  py::dict result;
  for (const auto& [name, record] : records()) {
    Totals sum;
    py::dict kernels;
    for (const auto& [kernel, totals] : record.by_kernel) {
      sum.add(totals);
      kernels[py::str(kernel)] = to_dict(totals);
    }
    py::dict entry = to_dict(sum);
    entry["kernels"] = kernels;
    entry["arrays"] = record.arrays;
    entry["elements"] = record.elements;
    entry["bytes"] = record.bytes;
    // An array without elements satisfies every claim about its elements.
    entry["min_loads"] = record.elements ? record.min_loads : 0;
    entry["max_loads"] = record.max_loads;
    entry["min_stores"] = record.elements ? record.min_stores : 0;
    entry["max_stores"] = record.max_stores;
    result[py::str(name)] = entry;
  }
  return result;
}

py::array_t<std::uint16_t> counts_of(const std::vector<std::uint16_t>& counts) {
  return py::array_t<std::uint16_t>(static_cast<py::ssize_t>(counts.size()), counts.data());
}

// Calls visit(byte offset) for every element of a strided array, in row-major order.
template <class Visit>
void for_elements(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides, Visit&& visit) {
  std::vector<std::int64_t> at(shape.size(), 0);
  if (std::count(shape.begin(), shape.end(), 0)) return;
  std::int64_t offset = 0;
  for (;;) {
    visit(offset);
    std::size_t d = shape.size();
    while (d > 0) {
      --d;
      offset += strides[d];
      if (++at[d] < shape[d]) break;
      offset -= strides[d] * shape[d];
      at[d] = 0;
      if (d == 0) return;
    }
    if (shape.empty()) return;
  }
}

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    py::object type = py::module_::import("simt").attr("KernelError");
    py::dict fields;
    fields["kind"] = error.kind;
    fields["kernel"] = error.kernel;
    fields["block"] = py::make_tuple(error.block[0], error.block[1], error.block[2]);
    fields["thread"] = py::make_tuple(error.thread[0], error.thread[1], error.thread[2]);
    fields["buffer"] = error.buffer;
    fields["index"] = error.index;
    py::list sites;
    for (const std::string& site : error.sites) sites.append(site);
    fields["sites"] = sites;
    PyErr_SetObject(type.ptr(), type(error.what(), **fields).ptr());
  }
}

}  // namespace

Arrays::Layout Arrays::layout_of(const py::dtype& type, std::vector<std::int64_t> shape,
                                 std::vector<std::int64_t> strides) {
  std::int64_t low = 0, high = type.itemsize();
  for (std::size_t d = 0; d < shape.size(); ++d) {
    const std::int64_t reach = (shape[d] - 1) * strides[d];
    (reach < 0 ? low : high) += reach;
  }
  if (std::count(shape.begin(), shape.end(), 0)) low = high = 0;
  return {type, std::move(shape), std::move(strides), -low, high - low};
}

Arrays::Entry& Arrays::add(const std::string& name, Layout layout, Buffer::Access access, std::int64_t misalignment,
                           CellState content) {
  for (const Entry& entry : entries_)
    if (entry.buffer.name == name) throw std::invalid_argument("two arrays are named " + name);
  const auto bytes = static_cast<std::size_t>(layout.bytes);
  const auto item = static_cast<unsigned>(layout.type.itemsize());
  entries_.emplace_back(std::move(layout), name, bytes, item, access, static_cast<unsigned>(misalignment));
  Entry& entry = entries_.back();
  entry.buffer.mark(0, bytes, CellState::outside);
  for_elements(entry.layout.shape, entry.layout.strides, [&](std::int64_t offset) {
    entry.buffer.mark(static_cast<std::size_t>(entry.layout.origin + offset), item, content);
  });
  return entry;
}

DevicePointer Arrays::copy(const std::string& name, const py::array& array, int misalignment, Buffer::Access access) {
  Layout layout = layout_of(array.dtype(), {array.shape(), array.shape() + array.ndim()},
                            {array.strides(), array.strides() + array.ndim()});
  const auto* first = static_cast<const unsigned char*>(array.data());
  const auto item = static_cast<std::size_t>(layout.type.itemsize());
  const auto address = reinterpret_cast<std::uintptr_t>(first - layout.origin);
  Entry& entry =
      add(name, std::move(layout), access, misalignment < 0 ? address % 16 : misalignment, CellState::written);
  unsigned char* origin = entry.buffer.data() + entry.layout.origin;
  for_elements(entry.layout.shape, entry.layout.strides,
               [&](std::int64_t offset) { std::memcpy(origin + offset, first + offset, item); });
  return {origin};
}

DevicePointer Arrays::in(const std::string& name, const py::array& array, int misalignment) {
  return copy(name, array, misalignment, Buffer::Access::read_only);
}

DevicePointer Arrays::inout(const std::string& name, const py::array& array, int misalignment) {
  return copy(name, array, misalignment, Buffer::Access::writable);
}

DevicePointer Arrays::out(const std::string& name, const py::dtype& type, const std::vector<std::int64_t>& shape,
                          std::vector<std::int64_t> strides, int misalignment) {
  if (strides.empty()) {
    strides.resize(shape.size());
    std::int64_t step = 1;
    for (std::size_t d = shape.size(); d-- > 0; step *= shape[d]) strides[d] = step;
  }
  for (std::int64_t& stride : strides) stride *= type.itemsize();
  Entry& entry = add(name, layout_of(type, shape, std::move(strides)), Buffer::Access::writable, misalignment,
                     CellState::unwritten);
  return {entry.buffer.data() + entry.layout.origin};
}

DevicePointer Arrays::workspace(const std::string& name, std::int64_t bytes, unsigned item_bytes) {
  const py::dtype type("V" + std::to_string(item_bytes));
  return out(name, type, {(bytes + item_bytes - 1) / item_bytes});
}

py::array Arrays::take(const std::string& name) {
  const auto entry = std::find_if(entries_.begin(), entries_.end(), [&](auto& e) { return e.buffer.name == name; });
  if (entry == entries_.end()) throw std::invalid_argument("no array is named " + name);
  const Buffer& buffer = entry->buffer;
  const std::int64_t unwritten = options().checked ? buffer.first_unwritten() : -1;
  if (unwritten >= 0) {
    Error error("unwritten-output after " + last_kernel() + ": nobody has written " + name + "[" +
                std::to_string(unwritten) + "]");
    error.kind = "unwritten-output";
    error.kernel = last_kernel();
    error.buffer = name;
    error.index = unwritten;
    throw error;
  }
  const Layout& layout = entry->layout;
  py::array_t<std::uint8_t> bytes(std::max<std::int64_t>(layout.bytes, 1));
  std::memcpy(bytes.mutable_data(), buffer.data(), buffer.bytes);
  return py::array(layout.type, layout.shape, layout.strides, bytes.mutable_data() + layout.origin, bytes);
}

Arrays::~Arrays() {
  if (!options().checked) return;
  for (const Entry& entry : entries_) record(entry.buffer);
}

void bind_runtime(py::module_& module) {
  py::register_exception_translator(translate);
  module.def("seed", [](std::uint64_t seed) { options().seed = seed; });
  module.def("checked", [](bool checked) { options().checked = checked; });
  module.def("access_limit", [](std::uint64_t accesses) { options().access_limit = accesses; });
  module.def("counters", &counters);
  module.def("reset_counters", [] { records().clear(); });
  module.def("loads", [](const std::string& name) { return counts_of(records().at(name).last_loads); });
  module.def("stores", [](const std::string& name) { return counts_of(records().at(name).last_stores); });
  module.def("kernels_run", [] {
    py::dict result;
    for (const auto& [kernel, launches] : kernels_run()) result[py::str(kernel)] = launches;
    return result;
  });
}

}  // namespace simt
