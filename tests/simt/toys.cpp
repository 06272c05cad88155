// The Python module of the toys, and the smallest example of a module of kernels.
#include <map>

#include "bindings.h"
#include "sync_toys.cuh"
#include "toys.cuh"
#include "warp_toys.cuh"

namespace py = pybind11;
using namespace cas_ext::toys;

using Kernel = void (*)(ToyParams);

#define TOY(name)                                          \
  {                                                        \
    #name, { &name##_kernel<false>, &name##_kernel<true> } \
  }

static const std::map<std::string, std::pair<Kernel, Kernel>> kToys = {TOY(copy),
                                                                       TOY(write_past_end),
                                                                       TOY(shared_bounds),
                                                                       TOY(shared_underflow),
                                                                       TOY(shared_unwritten),
                                                                       TOY(global_unwritten),
                                                                       TOY(missing_syncthreads),
                                                                       TOY(write_after_read),
                                                                       TOY(missing_syncwarp),
                                                                       TOY(shuffle_is_no_barrier),
                                                                       TOY(block_race),
                                                                       TOY(plain_count),
                                                                       TOY(last_block),
                                                                       TOY(divergent_barrier),
                                                                       TOY(early_exit),
                                                                       TOY(two_barriers),
                                                                       TOY(shuffle_from_exited),
                                                                       TOY(lane_outside_mask),
                                                                       TOY(source_outside_mask),
                                                                       TOY(lanes_disagree),
                                                                       TOY(misaligned),
                                                                       TOY(misaligned_hint),
                                                                       TOY(unwritten_output),
                                                                       TOY(write_input),
                                                                       TOY(stale_read),
                                                                       TOY(undefined_shift),
                                                                       TOY(endless),
                                                                       TOY(memcpy),
                                                                       TOY(read_twice),
                                                                       TOY(sum),
                                                                       TOY(busy),
                                                                       TOY(partial_syncwarp),
                                                                       TOY(late_reader),
                                                                       TOY(block_read_race),
                                                                       TOY(trap),
                                                                       TOY(wild_pointer)};

static py::array run_toy(const std::string& name, bool broken, const py::array_t<float>& input, std::int64_t outputs,
                         int blocks, int threads, int shared_bytes, int launches) {
  simt::Arrays arrays;
  ToyParams params{};
  params.input = arrays.in("input", input);
  params.size = static_cast<int>(input.size());
  const py::array_t<unsigned> zero(std::vector<py::ssize_t>{1}, std::vector<unsigned>{0}.data());
  params.counter = arrays.inout("counter", zero);
  params.workspace = arrays.workspace("workspace", 4 * blocks, 4);
  // sum_kernel adds to what is there.
  const py::array_t<float> zeros(std::vector<py::ssize_t>{outputs}, std::vector<float>(outputs).data());
  params.output = name == "sum" ? arrays.inout("output", zeros) : arrays.out<float>("output", {outputs});
  const auto& kernels = kToys.at(name);
  for (int i = 0; i < launches; ++i)
    launch_toy(broken ? kernels.second : kernels.first, params, blocks, threads, shared_bytes, simt::Launch{});
  return arrays.take(name == "plain_count" ? "counter" : "output");
}

using DoubleArray = py::array_t<double, py::array::c_style>;
using FloatArray = py::array_t<float, py::array::c_style>;
using IntArray = py::array_t<int, py::array::c_style | py::array::forcecast>;
using BitsArray = py::array_t<std::uint16_t, py::array::c_style>;

static py::array run_warp(int operation, unsigned mask, const DoubleArray& input, const IntArray& argument, int width,
                          bool is_unsigned, const std::string& type) {
  static const std::map<std::string, void (*)(WarpParams)> kernels = {{"int", &warp_kernel<int>},
                                                                      {"unsigned", &warp_kernel<unsigned>},
                                                                      {"long long", &warp_kernel<long long>},
                                                                      {"float", &warp_kernel<float>},
                                                                      {"double", &warp_kernel<double>}};
  simt::Arrays arrays;
  WarpParams params{static_cast<WarpOperation>(operation),
                    mask,
                    width,
                    is_unsigned,
                    arrays.in("input", input),
                    arrays.in("argument", argument),
                    arrays.out<double>("output", {32})};
  simt::Launch{}(kernels.at(type), dim3(1), dim3(32), 0, params);
  return arrays.take("output");
}

static py::array run_product(const BitsArray& onehot, const BitsArray& parts, const FloatArray& before) {
  simt::Arrays arrays;
  ProductParams params{arrays.in("onehot", onehot), arrays.in("parts", parts), arrays.in("before", before),
                       arrays.out<float>("sums", {16, 8})};
  simt::Launch{}(&product_kernel, dim3(1), dim3(32), 0, params);
  return arrays.take("sums");
}

static py::tuple run_atomics(const IntArray& input, const IntArray& initial, int blocks) {
  simt::Arrays arrays;
  const py::array_t<float> zero(std::vector<py::ssize_t>{1}, std::vector<float>{0}.data());
  AtomicParams params{arrays.in("input", input), arrays.inout("integers", initial),
                      arrays.inout("sums", zero.attr("astype")("float64")), arrays.inout("single", zero)};
  const auto threads = static_cast<unsigned>(input.size() / blocks);
  simt::Launch{}(&atomics_kernel, dim3(static_cast<unsigned>(blocks)), dim3(threads), 0, params);
  return py::make_tuple(arrays.take("integers"), arrays.take("sums"), arrays.take("single"));
}

template <class To, class From, class Convert>
static py::array_t<To> convert(const py::array_t<From, py::array::c_style>& from, Convert&& function) {
  py::array_t<To> to(from.size());
  for (py::ssize_t i = 0; i < from.size(); ++i) to.mutable_at(i) = function(from.at(i));
  return to;
}

static void bind_conversions(py::module_& module) {
  module.def("half_to_float", [](const BitsArray& a) {
    return convert<float>(a, [](std::uint16_t x) { return __half2float(__ushort_as_half(x)); });
  });
  module.def("float_to_half", [](const FloatArray& a) {
    return convert<std::uint16_t>(a, [](float x) { return __half_as_ushort(__float2half_rn(x)); });
  });
  module.def("double_to_half", [](const DoubleArray& a) {
    return convert<std::uint16_t>(a, [](double x) { return __half_as_ushort(__double2half(x)); });
  });
  module.def("bfloat16_to_float", [](const BitsArray& a) {
    return convert<float>(a, [](std::uint16_t x) { return __bfloat162float(__ushort_as_bfloat16(x)); });
  });
  module.def("float_to_bfloat16", [](const FloatArray& a) {
    return convert<std::uint16_t>(a, [](float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); });
  });
}

PYBIND11_MODULE(toys, module) {
  simt::bind_runtime(module);
  module.def("run", &run_toy, py::arg("name"), py::arg("broken"), py::arg("input"), py::arg("outputs") = 1,
             py::arg("blocks") = 1, py::arg("threads") = 32, py::arg("shared_bytes") = 0, py::arg("launches") = 1);
  module.def("warp", &run_warp);
  module.def("atomics", &run_atomics);
  module.def("product", &run_product);
  bind_conversions(module);
}
