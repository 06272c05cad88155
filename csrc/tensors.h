// From PyTorch tensors to the plain structs of params.h: shared by the CPU and the CUDA operators.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "layout.h"

namespace cas_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using MomentTensors = std::tuple<Tensor, Tensor, Tensor>;                            // count, mean, scatter
using FinaliseTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;  // see ops.cpp
using ForwardTensors = decltype(std::tuple_cat(FinaliseTensors(), MomentTensors()));

inline Scalar scalar_of(const Tensor& input) {
  switch (input.scalar_type()) {
    case ScalarType::Half:
      return Scalar::kHalf;
    case ScalarType::BFloat16:
      return Scalar::kBFloat16;
    case ScalarType::Float:
      return Scalar::kFloat;
    case ScalarType::Double:
      return Scalar::kDouble;
    default:
      throw std::invalid_argument("cas_ext: input must be float16, bfloat16, float32 or float64");
  }
}

inline Label label_of(const Tensor& target) {
  switch (target.scalar_type()) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      return Label::kUInt8;
    case ScalarType::Char:
      return Label::kInt8;
    case ScalarType::Short:
      return Label::kInt16;
    case ScalarType::Int:
      return Label::kInt32;
    case ScalarType::Long:
      return Label::kInt64;
    default:
      throw std::invalid_argument("cas_ext: target must be bool, uint8, int8, int16, int32 or int64");
  }
}

inline Activation activation_of(int64_t activation) {
  if (activation == 0) return Activation::kNone;
  if (activation == 1) return Activation::kSoftmax;
  throw std::invalid_argument("cas_ext: activation must be 0 (none) or 1 (softmax)");
}

inline Reduction reduction_of(int64_t reduction) {
  if (reduction == 0) return Reduction::kNone;
  if (reduction == 1) return Reduction::kMean;
  if (reduction == 2) return Reduction::kSum;
  throw std::invalid_argument("cas_ext: reduction must be 0 (none), 1 (mean) or 2 (sum)");
}

inline bool collapse(const Tensor& t, PixelArray& out) {
  return collapse(t.dim(), t.sizes().data(), t.strides().data(), out);
}

// Memory by the shim and not by torch::stable::new_empty, which looks the operator up by its name at every call: for a
// small input that costs more than the kernels. The same goes for the next two.
inline Tensor allocate(const Tensor& like, ScalarType dtype, int64_t dims, const int64_t* sizes,
                       const int64_t* strides) {
  int32_t device = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  const int32_t type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle result = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dims, sizes, strides, type, device, like.get_device_index(), &result));
  return Tensor(result);
}

inline Tensor allocate_like(const Tensor& t) {
  if (!t.is_contiguous()) return torch::stable::empty_like(t);
  return allocate(t, t.scalar_type(), t.dim(), t.sizes().data(), t.strides().data());
}

inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

template <class... Sizes>
Tensor empty(const Tensor& like, ScalarType dtype, Sizes... sizes) {
  constexpr int64_t kDims = sizeof...(sizes);
  const std::array<int64_t, kDims> shape{static_cast<int64_t>(sizes)...};
  std::array<int64_t, kDims> strides;
  int64_t stride = 1;
  for (int64_t d = kDims - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= std::max<int64_t>(shape[d], 1);
  }
  return allocate(like, dtype, kDims, shape.data(), strides.data());
}

// `t` itself where kernels can read it in place, else a contiguous copy.
inline Tensor readable(const Tensor& t, PixelArray& out) {
  Tensor result = collapse(t, out) ? t : as_contiguous(t);
  collapse(result, out);
  out.data = const_cast<void*>(result.const_data_ptr());
  return result;
}

inline Shape shape_of(const Tensor& input, int64_t regions) {
  int64_t pixels = 1;
  for (int64_t d = 2; d < input.dim(); ++d) pixels *= input.size(d);
  return {input.size(0), regions, input.size(1), pixels};
}

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// The guard of kernels called directly (torch.ops.cas_ext...): the friendly messages are in functional.py.
inline void check_pixels(const Tensor& input, const Tensor& target) {
  require(input.dim() >= 2 && target.dim() == input.dim() - 1, "cas_ext: target must have shape (B, *spatial)");
  bool same = input.size(0) == target.size(0);
  for (int64_t d = 2; d < input.dim(); ++d) same = same && input.size(d) == target.size(d - 1);
  require(same, "cas_ext: target must have shape (B, *spatial)");
  require(input.size(1) <= kMaxChannels, "cas_ext: input must have at most 2**22 channels");
  require(input.get_device_index() == target.get_device_index(), "cas_ext: target must be on the device of input");
}

inline bool has_shape(const Tensor& t, std::initializer_list<int64_t> sizes) {
  return t.dim() == static_cast<int64_t>(sizes.size()) && std::equal(sizes.begin(), sizes.end(), t.sizes().begin());
}

// Tables that kernels read as they are, beside `other`: on its device and contiguous.
inline bool readable_beside(const Tensor& other, std::initializer_list<const Tensor*> tables) {
  return std::all_of(tables.begin(), tables.end(), [&](const Tensor* t) {
    return t->is_contiguous() && t->get_device_index() == other.get_device_index();
  });
}

// The tensors that finalise returns for moments like `mean` (B, N, M), and the parameters that point at them.
inline FinaliseTensors make_finalise(const Tensor& mean, double alpha, int64_t pairs, bool wide, int64_t reduction,
                                     FinaliseParams& params) {
  require(0 <= pairs && pairs <= 2, "cas_ext: pairs must be 0 (ordered), 1 (unordered) or 2 (mean)");
  const int64_t B = mean.size(0), N = mean.size(1), M = mean.size(2);
  const ScalarType dtype = wide ? ScalarType::Double : ScalarType::Float;
  params = {};
  params.shape = {B, N, M, 0};
  params.alpha = alpha;
  params.pairs = static_cast<Pairs>(pairs);
  params.wide = wide;
  params.reduction = reduction_of(reduction);
  const auto term = [&] { return params.reduction == Reduction::kNone ? empty(mean, dtype, B) : empty(mean, dtype); };
  Tensor loss = term(), uniformer = term(), discriminator = term();
  Tensor scale = empty(mean, dtype, B, N), center = empty(mean, dtype, B, N, M), offset = empty(mean, dtype, B, N, M);
  params.loss = loss.mutable_data_ptr();
  params.uniformer = uniformer.mutable_data_ptr();
  params.discriminator = discriminator.mutable_data_ptr();
  params.scale = scale.mutable_data_ptr();
  params.center = center.mutable_data_ptr();
  params.offset = offset.mutable_data_ptr();
  return {loss, uniformer, discriminator, scale, center, offset};
}

// The same for moments that are there.
inline FinaliseTensors make_finalise(const Tensor& count, const Tensor& mean, const Tensor& scatter, double alpha,
                                     int64_t pairs, bool wide, FinaliseParams& params) {
  require(mean.dim() == 3 && has_shape(count, {mean.size(0), mean.size(1)}) &&
              has_shape(scatter, {mean.size(0), mean.size(1)}),
          "cas_ext: count, mean and scatter must have shapes (B, N), (B, N, M) and (B, N)");
  require(count.scalar_type() == ScalarType::Long && mean.scalar_type() == ScalarType::Double &&
              scatter.scalar_type() == ScalarType::Double,
          "cas_ext: count must be int64, mean and scatter float64");
  require(readable_beside(mean, {&count, &mean, &scatter}),
          "cas_ext: count, mean and scatter must be contiguous and on one device");
  FinaliseTensors result = make_finalise(mean, alpha, pairs, wide, 0, params);
  params.count = static_cast<const int64_t*>(count.const_data_ptr());
  params.mean = static_cast<const double*>(mean.const_data_ptr());
  params.scatter = static_cast<const double*>(scatter.const_data_ptr());
  return result;
}

// Everything apply needs. The kernel writes `written`, which is `gradient` itself wherever kernels can write it in
// place.
struct ApplyCall {
  ApplyParams params;
  Tensor gradient;  // like input
  Tensor written;
  std::vector<Tensor> keep;  // copies that the kernel reads

  Tensor finish() {
    if (written.get() != gradient.get()) torch::stable::copy_(gradient, written);
    return gradient;
  }
};

inline ApplyCall make_apply(const Tensor& input, const Tensor& target, const Tensor& weight, bool average,
                            const Tensor& scale, const Tensor& center, const Tensor& offset, int64_t ignore_index,
                            int64_t activation) {
  check_pixels(input, target);
  require(weight.dim() == 1 && weight.size(0) == input.size(0), "cas_ext: weight must have shape (B,)");
  require(weight.get_device_index() == input.get_device_index(), "cas_ext: weight must be on the device of input");
  require(scale.dim() == 2 && has_shape(scale, {input.size(0), scale.size(1)}) &&
              has_shape(center, {input.size(0), scale.size(1), input.size(1)}) &&
              has_shape(offset, {input.size(0), scale.size(1), input.size(1)}),
          "cas_ext: scale, center and offset must have shapes (B, N), (B, N, M) and (B, N, M)");
  require(readable_beside(input, {&scale, &center, &offset}),
          "cas_ext: scale, center and offset must be contiguous and on the device of input");
  const ScalarType acc = input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  require(weight.scalar_type() == acc && scale.scalar_type() == acc && center.scalar_type() == acc &&
              offset.scalar_type() == acc,
          "cas_ext: weight, scale, center and offset must be float64 for float64 input, else float32");
  ApplyCall call;
  ApplyParams& p = call.params;
  Tensor source = readable(input, p.input);
  call.gradient = call.written = allocate_like(input);
  if (!collapse(call.written, p.gradient) || p.gradient.interleaved != p.input.interleaved) {
    source = as_contiguous(source);
    readable(source, p.input);
    call.written = allocate_like(source);
    collapse(call.written, p.gradient);
  }
  p.gradient.data = call.written.mutable_data_ptr();
  Tensor labels = as_contiguous(target);
  p.shape = shape_of(input, scale.size(1));
  p.scalar = scalar_of(input);
  p.activation = activation_of(activation);
  p.target = {labels.const_data_ptr(), label_of(target), ignore_index};
  p.weight = weight.const_data_ptr();
  p.weight_stride = weight.stride(0);
  p.factor = average ? 1 / static_cast<double>(p.shape.images) : 1;  // inf for no image is never used
  p.scale = scale.const_data_ptr();
  p.center = center.const_data_ptr();
  p.offset = offset.const_data_ptr();
  call.keep = {source, labels};
  return call;
}

// Everything accumulate needs, but for the CUDA workspace.
struct AccumulateCall {
  AccumulateParams params;
  Tensor count, mean, scatter;
  std::vector<Tensor> keep;
};

inline AccumulateCall make_accumulate(const Tensor& input, const Tensor& target, int64_t num_regions,
                                      int64_t ignore_index, int64_t activation) {
  check_pixels(input, target);
  require(num_regions >= 1 && num_regions <= INT32_MAX, "cas_ext: num_regions must be in [1, 2**31 - 1]");
  AccumulateCall call;
  AccumulateParams& p = call.params;
  p = {};
  Tensor source = readable(input, p.input);
  Tensor labels = as_contiguous(target);
  p.shape = shape_of(input, num_regions);
  p.scalar = scalar_of(input);
  p.activation = activation_of(activation);
  p.target = {labels.const_data_ptr(), label_of(target), ignore_index};
  call.count = empty(input, ScalarType::Long, p.shape.images, num_regions);
  call.mean = empty(input, ScalarType::Double, p.shape.images, num_regions, p.shape.channels);
  call.scatter = empty(input, ScalarType::Double, p.shape.images, num_regions);
  p.count = static_cast<int64_t*>(call.count.mutable_data_ptr());
  p.mean = static_cast<double*>(call.mean.mutable_data_ptr());
  p.scatter = static_cast<double*>(call.scatter.mutable_data_ptr());
  call.keep = {source, labels};
  return call;
}

// Everything forward needs: accumulate, and finalise on what it writes.
struct ForwardCall : AccumulateCall {
  FinaliseTensors loss;

  ForwardTensors results() const { return std::tuple_cat(loss, MomentTensors(count, mean, scatter)); }
};

inline ForwardCall make_forward(const Tensor& input, const Tensor& target, int64_t num_regions, int64_t ignore_index,
                                int64_t activation, double alpha, int64_t pairs, int64_t reduction) {
  ForwardCall call{make_accumulate(input, target, num_regions, ignore_index, activation), {}};
  AccumulateParams& p = call.params;
  p.with_loss = true;
  call.loss = make_finalise(call.mean, alpha, pairs, p.scalar == Scalar::kDouble, reduction, p.finalise);
  p.finalise.count = p.count;
  p.finalise.mean = p.mean;
  p.finalise.scatter = p.scatter;
  return call;
}

// ValueError (PyTorch's bindings translate std::invalid_argument) for the first label out of range, if any.
// first_invalid (B): pixel index or kNoPixel. `label` reads the label of pixel x of image b from host or device.
template <class ReadLabel>
void raise_on_invalid(const int64_t* first_invalid, const Tensor& target, const LabelArray& labels, int64_t regions,
                      ReadLabel label) {
  for (int64_t b = 0; b < target.size(0); ++b) {
    const int64_t x = first_invalid[b];
    if (x == kNoPixel) continue;
    throw std::invalid_argument(
        invalid_label_message(target.dim(), target.sizes().data(), b, x, label(b, x), regions, labels.ignore_index));
  }
}

}  // namespace cas_ext
