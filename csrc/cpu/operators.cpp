// The CPU operators: chunks of pixels over threads, then a merge in a fixed order.
#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "../labels.h"
#include "../region_math.h"
#include "../tensors.h"
#include "kernels.h"

namespace cas_ext::cpu {

namespace {

constexpr int64_t kMinChunk = 16384;  // pixels of one channel; below, a thread costs more than it brings
constexpr int64_t kMaxChunks = 64;    // per image
// How many times larger than the chunks' tables, of 16 bytes for each region and channel, a float32 input is at least:
// kFewShare in the few chunks that give other threads work, kTableShare beyond.
constexpr int64_t kTableShare = 100, kFewShare = 16, kFewChunks = 4;

// Memory that begins at a cache line.
struct DeleteScratch {
  void operator()(char* scratch) const { ::operator delete[](scratch, kLineAlignment); }
  static constexpr std::align_val_t kLineAlignment{kLine};
};
using Scratch = std::unique_ptr<char[], DeleteScratch>;

Scratch make_scratch(int64_t bytes) {
  return Scratch(static_cast<char*>(::operator new[](bytes, DeleteScratch::kLineAlignment)));
}

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// How many chunks an image is cut into: a function of the shape alone, so that results do not depend on threads.
int64_t chunks_of(const Shape& s) {
  const int64_t by_work = s.pixels * s.channels / (2 * kMinChunk);
  const int64_t tables = s.pixels * static_cast<int64_t>(sizeof(float)) /
                         (2 * static_cast<int64_t>(sizeof(double)) * s.regions);  // that take as much as the input
  const int64_t by_memory = std::max(tables / kTableShare, std::min(tables / kFewShare, kFewChunks));
  return std::clamp<int64_t>(std::min(by_work, by_memory), 1, kMaxChunks);
}

// Sums a table of chunks (in order) into the moments of image b.
void merge_chunks(const AccumulateParams& p, int64_t b, int64_t chunks, const int64_t* count, const double* mean,
                  const double* scatter, const int64_t* invalid) {
  const int64_t N = p.shape.regions, M = p.shape.channels;
  p.first_invalid[b] = *std::min_element(invalid, invalid + chunks);
  const double poison = p.first_invalid[b] == kNoPixel ? 0 : std::numeric_limits<double>::quiet_NaN();
  std::vector<double> between(M);  // by channel, so that no addition waits for the one before
  for (int64_t i = 0; i < N; ++i) {
    int64_t n = 0;
    for (int64_t c = 0; c < chunks; ++c) n += count[c * N + i];
    double* const merged = p.mean + (b * N + i) * M;
    double total = poison;
    std::fill_n(merged, M, poison);
    std::fill(between.begin(), between.end(), 0.0);
    const auto for_each_part = [&](auto body) {
      for (int64_t c = 0; c < chunks; ++c) {
        if (count[c * N + i] > 0) body(static_cast<double>(count[c * N + i]), c * N + i);
      }
    };
    for_each_part([&](double part, int64_t row) {
      total += scatter[row];
      const double fraction = part / static_cast<double>(n);
      for (int64_t m = 0; m < M; ++m) merged[m] += fraction * mean[row * M + m];
    });
    if (chunks > 1) {
      for_each_part([&](double part, int64_t row) {
        for (int64_t m = 0; m < M; ++m) between[m] += between_scatter(part, mean[row * M + m], merged[m]);
      });
    }
    p.count[b * N + i] = n;
    p.scatter[b * N + i] = std::accumulate(between.begin(), between.end(), total);
  }
}

void run_accumulate(AccumulateParams& p, const Tensor& target) {
  const int64_t B = p.shape.images, N = p.shape.regions, M = p.shape.channels, P = p.shape.pixels;
  const int64_t chunks = chunks_of(p.shape), tasks = B * chunks,
                length = round_up((P + chunks - 1) / chunks, kLine);  // no vector crosses a line
  std::unique_ptr<int64_t[]> count(new int64_t[tasks * N]), invalid(new int64_t[tasks]), first(new int64_t[B]);
  std::unique_ptr<double[]> mean(new double[tasks * N * M]), scatter(new double[tasks * N]);
  p.first_invalid = first.get();
  const Kernels& k = kernels();
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    const Scratch scratch = make_scratch(scratch_bytes(p.shape));
    Scratch softmax;
    if (p.activation == Activation::kSoftmax) softmax = make_scratch(softmax_bytes(p.shape));
    for (int64_t t = begin; t < end; ++t) {
      const int64_t x = t % chunks * length;
      const ChunkTable table{&count[t * N], &mean[t * N * M], &scatter[t * N], scratch.get(), softmax.get()};
      invalid[t] = k.accumulate(p, t / chunks, std::min(x, P), std::min(x + length, P), table);
    }
  });
  for (int64_t b = 0; b < B; ++b) {
    const int64_t t = b * chunks;
    merge_chunks(p, b, chunks, &count[t * N], &mean[t * N * M], &scatter[t * N], &invalid[t]);
  }
  raise_on_invalid(p.first_invalid, target, p.target, N, [&](int64_t b, int64_t x) {
    return visit_labels(p.target, [&](const auto* stored) { return static_cast<int64_t>(stored[b * P + x]); });
  });
}

MomentTensors accumulate(Tensor input, Tensor target, int64_t num_regions, int64_t ignore_index, bool,
                         int64_t activation) {
  AccumulateCall call = make_accumulate(input, target, num_regions, ignore_index, activation);
  run_accumulate(call.params, target);
  return {call.count, call.mean, call.scatter};
}

// put(k, b, term): loss, uniformer and discriminator of image b.
template <class acc_t, class Put>
void finalise_image(const FinaliseParams& p, int64_t b, Put put) {
  const int64_t N = p.shape.regions, M = p.shape.channels;
  const int64_t* count = p.count + b * N;
  const double* mean = p.mean + b * N * M;
  acc_t* scale = static_cast<acc_t*>(p.scale) + b * N;
  acc_t* center = static_cast<acc_t*>(p.center) + b * N * M;
  acc_t* offset = static_cast<acc_t*>(p.offset) + b * N * M;
  double regions = 0, uniformer = 0;
  for (int64_t i = 0; i < N; ++i) {
    const double n = static_cast<double>(count[i]);
    regions += n > 0;
    uniformer += uniformer_term(p.scatter[b * N + i], n);
    scale[i] = static_cast<acc_t>(n > 0 ? gradient_scale(p.alpha, 1 / n) : 0);
  }
  std::vector<double> mean_of_means(M), mean_scatter(M);  // by channel
  const auto for_each_present = [&](auto body) {
    for (int64_t i = 0; i < N; ++i) {
      if (count[i] > 0) body(i, mean + i * M);
    }
  };
  for_each_present([&](int64_t, const double* its_mean) {
    for (int64_t m = 0; m < M; ++m) mean_of_means[m] += its_mean[m];
  });
  for (double& mean_of_channel : mean_of_means) mean_of_channel /= std::max(regions, 1.0);
  const double push = gradient_push(p.alpha, p.pairs, regions);
  std::fill_n(center, N * M, acc_t(0));
  std::fill_n(offset, N * M, acc_t(0));
  for_each_present([&](int64_t i, const double* its_mean) {
    const double inverse_n = 1 / static_cast<double>(count[i]);
    for (int64_t m = 0; m < M; ++m) {
      mean_scatter[m] += between_scatter(1, its_mean[m], mean_of_means[m]);
      const acc_t rounded = static_cast<acc_t>(its_mean[m]);
      const double shift = gradient_shift(push, its_mean[m], mean_of_means[m], inverse_n);
      center[i * M + m] = rounded;
      offset[i * M + m] = static_cast<acc_t>(centered_offset(scale[i], shift, rounded, its_mean[m]));
    }
  });
  const double separation =
      discriminator(std::accumulate(mean_scatter.begin(), mean_scatter.end(), 0.0), regions, p.pairs);
  const double terms[3] = {cas_loss(p.alpha, uniformer, separation), uniformer, separation};
  for (int k = 0; k < 3; ++k) put(k, b, terms[k]);
}

template <class acc_t>
void finalise_images(FinaliseParams& p) {
  const int64_t B = p.shape.images, cells = p.shape.regions * p.shape.channels;
  void* const results[3] = {p.loss, p.uniformer, p.discriminator};
  const auto put_result = [&](int k, int64_t at, double term) {
    static_cast<acc_t*>(results[k])[at] = static_cast<acc_t>(term);
  };
  const auto all = [&](auto put) {
    torch::stable::parallel_for(0, B, std::max<int64_t>(1, 4096 / (cells + 1)), [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) finalise_image<acc_t>(p, b, put);
    });
  };
  if (p.reduction == Reduction::kNone) return all(put_result);
  std::unique_ptr<double[]> terms(new double[3 * B]);
  all([&](int k, int64_t b, double term) { terms[k * B + b] = term; });
  for (int k = 0; k < 3; ++k) {
    const double sum = std::accumulate(&terms[k * B], &terms[(k + 1) * B], 0.0);
    put_result(k, 0, reduced(p.reduction, sum, static_cast<double>(B)));
  }
}

void run_finalise(FinaliseParams& p) { p.wide ? finalise_images<double>(p) : finalise_images<float>(p); }

FinaliseTensors finalise(Tensor count, Tensor mean, Tensor scatter, double alpha, int64_t pairs, bool wide) {
  FinaliseParams p;
  FinaliseTensors result = make_finalise(count, mean, scatter, alpha, pairs, wide, p);
  run_finalise(p);
  return result;
}

ForwardTensors forward(Tensor input, Tensor target, int64_t num_regions, int64_t ignore_index, bool, int64_t activation,
                       double alpha, int64_t pairs, int64_t reduction) {
  ForwardCall call = make_forward(input, target, num_regions, ignore_index, activation, alpha, pairs, reduction);
  run_accumulate(call.params, target);
  run_finalise(call.params.finalise);
  return call.results();
}

constexpr uintptr_t kHugePage = 2 << 20;  // bytes

// PyTorch's CPU allocator returns fresh memory for every large gradient. With 4 KB pages, mapping it costs as much as
// writing it.
void prefer_huge_pages([[maybe_unused]] const Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.const_data_ptr()), end = begin + t.numel() * t.element_size();
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage, last = end / kHugePage * kHugePage;
  if (last > first)
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a hint: failing is harmless
#endif
}

Tensor apply(Tensor input, Tensor target, Tensor weight, bool average, Tensor scale, Tensor center, Tensor offset,
             int64_t ignore_index, int64_t activation) {
  ApplyCall call = make_apply(input, target, weight, average, scale, center, offset, ignore_index, activation);
  const ApplyParams& p = call.params;
  const int64_t P = p.shape.pixels;
  // In pixels: no vector of any type crosses a cache line.
  const int64_t tile = p.activation == Activation::kSoftmax ? softmax_tile_pixels(p.shape.channels) : kLine;
  const int64_t length = round_up(std::max<int64_t>(1024, kMinChunk / std::max<int64_t>(p.shape.channels, 1)), tile);
  const int64_t chunks = (P + length - 1) / length;
  prefer_huge_pages(call.written);
  const Kernels& k = kernels();
  torch::stable::parallel_for(0, p.shape.images * chunks, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    if (p.activation == Activation::kSoftmax) scratch = make_scratch(2 * softmax_bytes(p.shape));
    for (int64_t t = begin, next; t < end; t = next) {  // all that this thread has of an image: tiles are larger
      const int64_t b = t / chunks, first = b * chunks;
      next = std::min(end, first + chunks);
      k.apply(p, b, (t - first) * length, std::min((next - first) * length, P), scratch.get());
    }
  });
  return call.finish();
}

int64_t cpu_kernels() { return kernels().index; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cas_ext, CompositeExplicitAutograd, m) { m.impl("cpu_kernels", TORCH_BOX(&cpu_kernels)); }

STABLE_TORCH_LIBRARY_IMPL(cas_ext, CPU, m) {
  m.impl("accumulate", TORCH_BOX(&accumulate));
  m.impl("finalise", TORCH_BOX(&finalise));
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("apply", TORCH_BOX(&apply));
}

}  // namespace cas_ext::cpu
