// The Python module of the CUDA kernels of csrc/cuda, launched on NumPy arrays exactly as operators.cu launches them.
#include <random>
#include <string>
#include <vector>

#include <pybind11/stl.h>

#include "bindings.h"
#include "cuda/arrival.cuh"
#include "cuda/launch.h"
#include "layout.h"

namespace py = pybind11;
using namespace cas_ext;

namespace {

using Sizes = std::vector<int64_t>;

bool tensor_cores = true;  // whether the emulated device has them

// An array's strides in elements.
Sizes strides_of(const py::array& array) {
  Sizes strides(array.strides(), array.strides() + array.ndim());
  for (int64_t& stride : strides) stride /= array.itemsize();
  return strides;
}

Sizes sizes_of(const py::array& array) { return Sizes(array.shape(), array.shape() + array.ndim()); }

// "planar" or "interleaved", or "" for an array that kernels cannot read in place.
std::string layout(const py::array& array) {
  PixelArray result;
  if (!collapse(array.ndim(), sizes_of(array).data(), strides_of(array).data(), result)) return "";
  return result.interleaved ? "interleaved" : "planar";
}

PixelArray pixels_of(const Sizes& sizes, const Sizes& strides, void* data) {
  PixelArray result;
  collapse(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), result);
  result.data = data;
  return result;
}

Shape shape_of(const py::array& input, int64_t regions) {
  int64_t pixels = 1;
  for (py::ssize_t d = 2; d < input.ndim(); ++d) pixels *= input.shape(d);
  return {input.shape(0), regions, input.shape(1), pixels};
}

// What a word of workspace may hold before a launch: anything, and what a launch that was cut off left.
py::array_t<uint64_t> stale_words(int64_t size, uint64_t launches) {
  static std::mt19937_64 random(1);
  py::array_t<uint64_t> words(size);
  for (int64_t k = 0; k < size; ++k) words.mutable_at(k) = k % 2 ? arrival_number(launches - 1) + 1 : random();
  return words;
}

// The parameters that accumulate and forward share.
AccumulateParams accumulate_params(simt::Arrays& arrays, const py::array& input, int scalar, const py::array& target,
                                   int label, int64_t regions, int64_t ignore_index, int activation) {
  AccumulateParams p{};
  p.shape = shape_of(input, regions);
  p.scalar = static_cast<Scalar>(scalar);
  p.activation = static_cast<Activation>(activation);
  p.input = pixels_of(sizes_of(input), strides_of(input), arrays.in("input", input));
  const void* labels = arrays.in("target", target);
  p.target = {labels, static_cast<Label>(label), ignore_index};
  const int64_t B = p.shape.images, N = p.shape.regions, M = p.shape.channels;
  p.count = arrays.out<int64_t>("count", {B, N});
  p.mean = arrays.out<double>("mean", {B, N, M});
  p.scatter = arrays.out<double>("scatter", {B, N});
  p.first_invalid = arrays.out<int64_t>("first_invalid", {B});
  return p;
}

// Launches; returns for each word that told a last block whether it still counts, which would mislead a replay.
py::array run_accumulate(simt::Arrays& arrays, AccumulateParams& p) {
  const AccumulatePlan plan = plan_accumulate(p, tensor_cores);
  const int64_t words = workspace_of(p, plan).arrivals;
  void* workspace = nullptr;
  if (const int64_t bytes = workspace_bytes(p, plan)) workspace = arrays.workspace("workspace", bytes, 8);
  static uint64_t launches = 0;
  place_workspace(p, plan, workspace, launches);
  if (words > 0) p.arrivals = arrays.inout("arrivals", stale_words(words, launches));
  ++launches;
  launch_accumulate(p, plan, simt::Launch{});
  if (words == 0 || p.shape.images == 0) return py::array_t<bool>(0);
  py::array_t<bool> counting(words);
  const py::array_t<uint64_t> left = arrays.take("arrivals");
  for (int64_t k = 0; k < words; ++k) {
    const uint64_t count = left.at(k) ^ p.launch;
    counting.mutable_at(k) = p.launch == 0 ? count != 0 : count <= kMostArrivals;
  }
  return counting;
}

// `first_invalid` comes back as the fourth result, run_accumulate's as the fifth.
py::tuple accumulate(const py::array& input, int scalar, const py::array& target, int label, int64_t regions,
                     int64_t ignore_index, int activation) {
  simt::Arrays arrays;
  AccumulateParams p = accumulate_params(arrays, input, scalar, target, label, regions, ignore_index, activation);
  const py::array words = run_accumulate(arrays, p);
  return py::make_tuple(arrays.take("count"), arrays.take("mean"), arrays.take("scatter"), arrays.take("first_invalid"),
                        words);
}

const char* const kLossArrays[] = {"loss", "uniformer", "discriminator", "scale", "center", "offset"};

FinaliseParams finalise_params(simt::Arrays& arrays, int64_t B, int64_t N, int64_t M, double alpha, int pairs,
                               bool wide, int reduction) {
  FinaliseParams p{};
  p.shape = {B, N, M, 0};
  p.alpha = alpha;
  p.pairs = static_cast<Pairs>(pairs);
  p.wide = wide;
  p.reduction = static_cast<Reduction>(reduction);
  const py::dtype acc = wide ? py::dtype::of<double>() : py::dtype::of<float>();
  const Sizes terms = p.reduction == Reduction::kNone ? Sizes{B} : Sizes{};
  p.loss = arrays.out("loss", acc, terms);
  p.uniformer = arrays.out("uniformer", acc, terms);
  p.discriminator = arrays.out("discriminator", acc, terms);
  p.scale = arrays.out("scale", acc, {B, N});
  p.center = arrays.out("center", acc, {B, N, M});
  p.offset = arrays.out("offset", acc, {B, N, M});
  return p;
}

py::tuple finalise(const py::array& count, const py::array& mean, const py::array& scatter, double alpha, int pairs,
                   bool wide) {
  simt::Arrays arrays;
  FinaliseParams p = finalise_params(arrays, mean.shape(0), mean.shape(1), mean.shape(2), alpha, pairs, wide, 0);
  p.count = arrays.in("count", count);
  p.mean = arrays.in("mean", mean);
  p.scatter = arrays.in("scatter", scatter);
  launch_finalise(p, simt::Launch{});
  py::list results;
  for (const char* name : kLossArrays) results.append(arrays.take(name));
  return py::tuple(results);
}

// As accumulate, before its results those of finalise.
py::tuple forward(const py::array& input, int scalar, const py::array& target, int label, int64_t regions,
                  int64_t ignore_index, int activation, double alpha, int pairs, int reduction) {
  simt::Arrays arrays;
  AccumulateParams p = accumulate_params(arrays, input, scalar, target, label, regions, ignore_index, activation);
  p.with_loss = true;
  p.finalise = finalise_params(arrays, p.shape.images, regions, p.shape.channels, alpha, pairs,
                               p.scalar == Scalar::kDouble, reduction);
  p.finalise.count = p.count;
  p.finalise.mean = p.mean;
  p.finalise.scatter = p.scatter;
  const py::array words = run_accumulate(arrays, p);
  py::list results;
  for (const char* name : kLossArrays) results.append(arrays.take(name));
  for (const char* name : {"count", "mean", "scatter", "first_invalid"}) results.append(arrays.take(name));
  results.append(words);
  return py::tuple(results);
}

// `strides`: of the gradient, in elements. `weight` may have stride 0.
py::array apply(const py::array& input, int scalar, const py::array& target, int label, const py::array& weight,
                double factor, const py::array& scale, const py::array& center, const py::array& offset,
                int64_t ignore_index, const Sizes& strides, int activation) {
  simt::Arrays arrays;
  ApplyParams p{};
  p.shape = shape_of(input, scale.shape(1));
  p.scalar = static_cast<Scalar>(scalar);
  p.activation = static_cast<Activation>(activation);
  p.input = pixels_of(sizes_of(input), strides_of(input), arrays.in("input", input));
  p.gradient = pixels_of(sizes_of(input), strides, arrays.out("gradient", input.dtype(), sizes_of(input), strides));
  const void* labels = arrays.in("target", target);
  p.target = {labels, static_cast<Label>(label), ignore_index};
  p.weight = arrays.in("weight", weight);
  p.weight_stride = strides_of(weight)[0];
  p.factor = factor;
  p.scale = arrays.in("scale", scale);
  p.center = arrays.in("center", center);
  p.offset = arrays.in("offset", offset);
  launch_apply(p, simt::Launch{});
  return arrays.take("gradient");
}

// What select.h answers for sizes, strides and addresses alone. `sizes`: B, N, M, P; `strides`: of image, channel,
// pixel.
PixelArray pixels_at(uintptr_t address, const Sizes& strides, bool interleaved) {
  return {reinterpret_cast<void*>(address), strides.at(0), strides.at(1), strides.at(2), interleaved};
}

py::dict plan_of_accumulate(const Sizes& sizes, int scalar, uintptr_t input, const Sizes& strides, bool interleaved,
                            uintptr_t target) {
  AccumulateParams p{};
  p.shape = {sizes.at(0), sizes.at(1), sizes.at(2), sizes.at(3)};
  p.scalar = static_cast<Scalar>(scalar);
  p.input = pixels_at(input, strides, interleaved);
  p.target.data = reinterpret_cast<const void*>(target);
  p.with_loss = true;  // as in `forward`
  const AccumulatePlan plan = plan_accumulate(p, tensor_cores);
  py::dict result;
  const char* const kernels[] = {"accumulate_small", "accumulate_strips", "accumulate_matrix", "accumulate_bfloat16",
                                 "accumulate_table"};
  result["kernel"] = kernels[static_cast<int>(plan.kernel)];
  result["V"] = plan.V;
  result["splits"] = plan.splits;
  result["pixels_per_split"] = plan.pixels_per_split;
  const char* const merges[] = {"none", "last block", "kernel"};
  result["merge"] = merges[static_cast<int>(plan.merge)];
  result["workspace_bytes"] = workspace_bytes(p, plan);
  return result;
}

py::dict plan_of_apply(const Sizes& sizes, int scalar, bool softmax, uintptr_t input, const Sizes& strides,
                       bool interleaved, uintptr_t target, uintptr_t gradient) {
  ApplyParams p{};
  p.shape = {sizes.at(0), sizes.at(1), sizes.at(2), sizes.at(3)};
  p.scalar = static_cast<Scalar>(scalar);
  p.activation = softmax ? Activation::kSoftmax : Activation::kNone;
  p.input = pixels_at(input, strides, interleaved);
  p.gradient = pixels_at(gradient, strides, interleaved);
  p.target.data = reinterpret_cast<const void*>(target);
  const ApplyPlan plan = plan_apply(p);
  const char* const names[] = {"apply_planar", "apply_interleaved", "apply_softmax_small", "apply_softmax_team"};
  py::dict result;
  result["kernel"] = names[static_cast<int>(plan.kernel)];
  result["V"] = plan.V;
  result["shared_table"] = plan.shared_table;
  return result;
}

std::string label_message(const Sizes& sizes, int64_t b, int64_t x, int64_t label, int64_t regions,
                          int64_t ignore_index) {
  return invalid_label_message(static_cast<int64_t>(sizes.size()), sizes.data(), b, x, label, regions, ignore_index);
}

}  // namespace

PYBIND11_MODULE(emulated_kernels, module) {
  simt::bind_runtime(module);
  module.def("layout", &layout);
  module.def("accumulate", &accumulate);
  module.def("finalise", &finalise);
  module.def("forward", &forward);
  module.def("apply", &apply);
  module.def("select_accumulate", &plan_of_accumulate);
  module.def("select_apply", &plan_of_apply);
  module.def("tensor_cores", [](bool has) { tensor_cores = has; });
  module.def("label_message", &label_message);
}
