// Where gradients are written: in place, or by way of a stage in the L1 cache, from which whole cache lines go to
// memory past the caches. A line that is written in place is read first.
#pragma once

#include "totals.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int kStagePlanes = 3;
constexpr int64_t kStagePixels = 2048;
constexpr int64_t kStreamedBytes =
    8 << 20;  // of a gradient at least; a smaller one may stay in a cache until it is read

#ifdef CAS_X86
// A store past the caches, of 64, 32 or 16 bytes; `to` is a multiple of that. All of a line follow each other.
template <int bytes>
CAS_HD void stream_bytes(const void* from, void* to) {
#if CAS_X86_LEVEL >= 4
  if constexpr (bytes == 64) return _mm512_stream_si512(static_cast<__m512i*>(to), load<__m512i>(from));
#endif
#if CAS_X86_LEVEL >= 2
  if constexpr (bytes == 32) return _mm256_stream_si256(static_cast<__m256i*>(to), load<__m256i>(from));
#endif
  if constexpr (bytes == 16) {
    _mm_stream_si128(static_cast<__m128i*>(to), load<__m128i>(from));
  } else {
    stream_bytes<bytes / 2>(from, to);
    stream_bytes<bytes / 2>(static_cast<const char*>(from) + bytes / 2, static_cast<char*>(to) + bytes / 2);
  }
}
#endif

// As store_acc, but past the caches: `to` is a multiple of what is stored.
template <int lanes, class scalar_t>
CAS_HD void stream_acc(scalar_t* to, Vec<AccOf<scalar_t>, lanes> v) {
  constexpr int kBytes = lanes * static_cast<int>(sizeof(scalar_t));
#ifdef CAS_X86
  if constexpr (kBytes >= 16) {
    scalar_t values[lanes];
    store_acc<lanes>(values, v);
    return stream_bytes<kBytes>(values, to);
  }
#endif
  store_acc<lanes>(to, v);
}

// Whether the gradient goes past the caches; end_streams then comes last.
template <class scalar_t>
inline bool streams_gradient(const Shape& s) {
  return kTuning.streams && s.images * s.channels * s.pixels >= kStreamedBytes / static_cast<int64_t>(sizeof(scalar_t));
}

// Before other threads may read what has been streamed.
inline void end_streams() {
#ifdef CAS_X86
  _mm_sfence();
#endif
}

template <class scalar_t>
class Output {
 public:
  // `streams`: past the caches where that is faster; end_streams then comes last. Else in place.
  explicit Output(bool streams) : streams_(streams) {}

  // Whether rows of `channels`, `stride` elements from one to the next, the first of which go to g, may be written by
  // stream_acc: all of them are whole lines.
  bool streams_rows(const scalar_t* g, int64_t channels, int64_t stride) const {
    const auto whole = [](int64_t elements) { return elements * kSize % kLine == 0; };
    return streams_ && reinterpret_cast<uintptr_t>(g) % kLine == 0 && whole(channels) && whole(stride);
  }

  // As many pixels of planes as are best written at a time.
  int64_t planar_pixels(int64_t pixels) const { return streams_ ? std::min(pixels, kPlaneBytes / kSize) : pixels; }

  // Gradients of kStagePlanes planes at most, `stride` apart, the first of which go to g, of kStagePixels at most:
  // write(to, its stride), which may write up to kLine values more of each where it writes them right later.
  template <class Write>
  CAS_HD void planes(int K, scalar_t* g, int64_t stride, int64_t pixels, Write write) {
    write(streams_ ? stage_ : g, streams_ ? kStageStride : stride);
    for (int k = 0; streams_ && k < K; ++k) stream(stage_ + k * kStageStride, pixels, g + k * stride);
  }

  // Gradients of touching interleaved pixels, the first of which go to g, a stretch at a time: write(begin, end, to).
  // They are read from s on, and asked for while the stretch before goes to memory.
  template <class Write>
  CAS_HD void interleaved(int64_t channels, const scalar_t* s, scalar_t* g, int64_t pixels, Write write) {
    const int64_t step = streams_ ? kStretch / channels : pixels;
    for (int64_t x = 0; x < pixels; x += step) {
      const int64_t end = std::min(x + step, pixels);
      write(x, end, streams_ ? stage_ : g);
      if (!streams_) return;
      prefetch<kStretch>(s + end * channels);
      stream(stage_, (end - x) * channels, g + x * channels);
    }
  }

 private:
  static constexpr int64_t kSize = sizeof(scalar_t);
  // Short, so that what is written on its way to memory leaves room for what comes next: by trial.
  static constexpr int64_t kPlaneBytes = 1024, kStretch = 2048 / kSize;
  static constexpr int64_t kStageStride = kStagePixels + kLine;

  static void stream(const scalar_t* from, int64_t n, scalar_t* to) {
    int64_t k = 0;
#ifdef CAS_X86
    const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) % kLine) / kSize;
    if (misaligned > 0) k = std::min(kLine / kSize - misaligned, n);
    std::copy_n(from, k, to);
    for (; k + kLine / kSize <= n; k += kLine / kSize) stream_bytes<kLine>(from + k, to + k);
#endif
    std::copy_n(from + k, n - k, to + k);
  }

  const bool streams_;
  alignas(kLine) scalar_t stage_[kStagePlanes * kStageStride];
};

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
