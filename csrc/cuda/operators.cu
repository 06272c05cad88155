// The CUDA operators: current stream, device guard, launch checks. No allocation beyond the outputs and one
// workspace, no host sync unless `validate` asks for one.
#include <cuda_runtime.h>

#include <array>
#include <atomic>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../tensors.h"
#include "arrival.cuh"
#include "launch.h"

namespace cas_ext {

namespace {

// Launches on PyTorch's current stream of one device, which is the current one meanwhile.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    launch.stream = static_cast<cudaStream_t>(stream);
  }

  Launch launch;

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};

// Before anything is launched that could not be taken back.
void require_no_capture(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "asking for a capture");
  if (status != cudaStreamCaptureStatusNone) {
    throw std::runtime_error(
        "cas_ext: validate must be False while a CUDA graph is captured, got True: it reads labels back");
  }
}

// Copies the images' flags back and raises for the first label out of range: the host sync of `validate`.
void raise_from_device(const AccumulateParams& p, const Tensor& target, cudaStream_t stream) {
  const auto fetch = [&](void* to, const void* from, size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "reading a label back");
    check(cudaStreamSynchronize(stream), "reading a label back");
  };
  std::vector<int64_t> first(p.shape.images);
  fetch(first.data(), p.first_invalid, first.size() * sizeof(int64_t));
  raise_on_invalid(first.data(), target, p.target, p.shape.regions, [&](int64_t b, int64_t x) {
    return visit_labels(p.target, [&](const auto* stored) {
      std::remove_cv_t<std::remove_pointer_t<decltype(stored)>> label{};
      fetch(&label, stored + b * p.shape.pixels + x, sizeof(label));
      return static_cast<int64_t>(label);
    });
  });
}

__global__ void compiled_like_all() {}

// Whether kernels that need tensor cores run on this device, the current one: it has them, and what it runs is not
// translated from the PTX of an older one.
bool has_tensor_cores(int32_t device) {
  constexpr int kDevices = 64;
  enum : int8_t { kUnknown, kNo, kYes };
  static std::array<std::atomic<int8_t>, kDevices> known{};
  if (device < kDevices && known[device] != kUnknown) return known[device] == kYes;
  int major = 0;  // of the compute capability
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking the device");
  cudaFuncAttributes compiled{};
  check(cudaFuncGetAttributes(&compiled, compiled_like_all), "asking for a kernel");
  const bool found = major >= 8 && compiled.ptxVersion >= 80;
  if (device < kDevices) known[device] = found ? kYes : kNo;
  return found;
}

void run_accumulate(AccumulateParams& p, const Tensor& input, const Tensor& target, bool validate) {
  const OnDevice device(input);
  if (validate) require_no_capture(device.launch.stream);
  const AccumulatePlan plan = plan_accumulate(p, has_tensor_cores(input.get_device_index()));
  const int64_t bytes = workspace_bytes(p, plan);
  const Tensor workspace = empty(input, ScalarType::Byte, bytes + p.shape.images * sizeof(int64_t));
  char* const memory = static_cast<char*>(workspace.mutable_data_ptr());
  p.first_invalid = reinterpret_cast<int64_t*>(memory + bytes);
  static std::atomic<uint64_t> launches{0};
  place_workspace(p, plan, memory, launches++);
  launch_accumulate(p, plan, device.launch);
  if (validate && p.shape.images > 0) raise_from_device(p, target, device.launch.stream);
}

MomentTensors accumulate(Tensor input, Tensor target, int64_t num_regions, int64_t ignore_index, bool validate,
                         int64_t activation) {
  AccumulateCall call = make_accumulate(input, target, num_regions, ignore_index, activation);
  run_accumulate(call.params, input, target, validate);
  return {call.count, call.mean, call.scatter};
}

ForwardTensors forward(Tensor input, Tensor target, int64_t num_regions, int64_t ignore_index, bool validate,
                       int64_t activation, double alpha, int64_t pairs, int64_t reduction) {
  ForwardCall call = make_forward(input, target, num_regions, ignore_index, activation, alpha, pairs, reduction);
  run_accumulate(call.params, input, target, validate);
  return call.results();
}

FinaliseTensors finalise(Tensor count, Tensor mean, Tensor scatter, double alpha, int64_t pairs, bool wide) {
  const OnDevice device(mean);
  FinaliseParams p;
  FinaliseTensors result = make_finalise(count, mean, scatter, alpha, pairs, wide, p);
  launch_finalise(p, device.launch);
  return result;
}

Tensor apply(Tensor input, Tensor target, Tensor weight, bool average, Tensor scale, Tensor center, Tensor offset,
             int64_t ignore_index, int64_t activation) {
  const OnDevice device(input);
  ApplyCall call = make_apply(input, target, weight, average, scale, center, offset, ignore_index, activation);
  launch_apply(call.params, device.launch);
  return call.finish();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cas_ext, CUDA, m) {
  m.impl("accumulate", TORCH_BOX(&accumulate));
  m.impl("finalise", TORCH_BOX(&finalise));
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("apply", TORCH_BOX(&apply));
}

}  // namespace cas_ext
