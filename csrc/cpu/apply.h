// apply on the CPU: input (B,M,P), target (B,P), coefficients -> gradient (B,M,P) of a range of pixels of one image.
// One thread owns the range: it reads each element once and writes each once, ignored pixels too (as 0). Per tile it
// chooses: long runs of equal labels keep their coefficients in registers; a few regions that alternate are blended
// under masks; planes look up coefficients of up to 128 regions in registers (AVX-512); elsewhere lanes are channels,
// as the coefficients lie in memory.
#pragma once

#include "accumulate.h"
#include "apply_lookup.h"
#include "apply_packed.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kTurnedPlanes = kPad;  // side by side
constexpr int64_t kRowsAhead = 2048;     // bytes: how far ahead interleaved pixels are asked for, by trial
constexpr int kTogether = 3;             // planes that are read and written side by side, run by run: by trial
static_assert(kTogether <= kStagePlanes);

template <class scalar_t>
class Gradient {
 public:
  using acc_t = AccOf<scalar_t>;
  static constexpr int L = kLanes<acc_t>;
  static constexpr int64_t kLineOf = kLine / sizeof(scalar_t);
  using V = Vec<acc_t>;

  // `from` and `to` are interleaved both or neither.
  // `streams`: as of Output.
  Gradient(const Coefficients<acc_t>& coefficients, const Strides& from, const Strides& to, bool streams)
      : c_(coefficients),
        N_(c_.N),
        M_(c_.M),
        from_(from),
        to_(to),
        packed_(from.interleaved && M_ < kPad && from.pixel == M_ && to.pixel == M_),
        out_(streams),
        looked_up_(c_, from.channel, to.channel, out_) {}

  // `s`, `g`: the first pixel of the tile.
  void write(Tile& tile, const scalar_t* s, scalar_t* g) {
    const bool scattered = tile.runs * kShortestRun > tile.size;
    if (!scattered && (packed_ || !from_.interleaved)) {
      list_runs(tile);
      return packed_ ? packed_runs(tile, s, g) : plane_runs(tile, s, g);
    }
    for (int64_t x = 0; x < tile.size; x += kScattered) {
      const Labels label = labels_of(tile, x, std::min(x + kScattered, tile.size));
      const scalar_t* const from = s + x * from_.pixel;
      scalar_t* const to = g + x * to_.pixel;
      if (from_.interleaved && M_ >= kPad) {
        M_ >= 2 * kPad ? write_rows<2 * kPad>(label, from, to, scattered)
                       : write_rows<kPad>(label, from, to, scattered);
      } else {
        write_scattered(label, from, to);
      }
    }
  }

 private:
  void write_scattered(Labels label, const scalar_t* s, scalar_t* g) {
    if (!from_.interleaved || packed_) {
      const FewRegions few = few_regions(label, N_);
      if (few.size == 0 && !packed_) return ignore(label.size(), g);
      if (packed_) return write_packed(label, few, s, g);
      if (few.size <= kFew) return visit_count<kFew>(few.size, [&](auto R) { plane_blend<R.value>(label, few, s, g); });
    }
    if constexpr (LookedUpPlanes<scalar_t>::kMost > 0) {
      if (!from_.interleaved && looked_up_.pays(label.size())) return looked_up_.write(label, s, g);
    }
    write_turned(label, s, g);
  }

  void write_packed(Labels label, const FewRegions& few, const scalar_t* s, scalar_t* g) {
    const PackedGradient<scalar_t> packed(c_);
    visit_few(M_, [&](auto M) {
      if (few.size > kFew) return packed.template rows<M.value>(label, s, g);
      out_.interleaved(M_, s, g, label.size(), [&](int64_t begin, int64_t end, scalar_t* to) {
        packed.template blend<M.value>(label.subspan(begin, end - begin), few, s + begin * M.value, to);
      });
    });
  }

  void packed_runs(const Tile& tile, const scalar_t* s, scalar_t* g) {
    const PackedGradient<scalar_t> packed(c_);
    visit_few(M_, [&](auto M) {
      int64_t run = 0;
      out_.interleaved(M_, s, g, tile.size, [&](int64_t begin, int64_t end, scalar_t* to) {
        packed.template runs<M.value>(tile, begin, end, run, s + begin * M.value, to);
      });
    });
  }

  // Interleaved pixels of kWidth channels or more. What is read of the coefficients has no order where labels are
  // scattered, and the processor then asks for less of the pixels, which have one.
  template <int kWidth>
  void write_rows(Labels label, const scalar_t* s, scalar_t* g, bool scattered) const {
    if (out_.streams_rows(g, M_, to_.pixel)) {
      rows<kWidth, true, true>(label, s, g);
    } else if (scattered || kTuning.always) {
      rows<kWidth, true, false>(label, s, g);
    } else {
      rows<kWidth, false, false>(label, s, g);
    }
  }

  template <int kWidth, bool ask, bool streams>
  void rows(Labels label, const scalar_t* s, scalar_t* g) const {
    const int64_t ahead = (kRowsAhead / kLine * kLineOf + from_.pixel - 1) / from_.pixel * from_.pixel;
    for (int64_t x = 0; x < static_cast<int64_t>(label.size()); ++x, s += from_.pixel, g += to_.pixel) {
      if constexpr (ask) {
        for (int64_t m = 0; m < M_; m += kLineOf) __builtin_prefetch(s + ahead + m);
      }
      row<kRowLanes<acc_t, kWidth>, streams>(label[x], s, g);
    }
  }

  // Turned into rows and back.
  void write_turned(Labels label, const scalar_t* s, scalar_t* g) const {
    const int64_t size = static_cast<int64_t>(label.size());
    for (int64_t first = 0; first < M_; first += kTurnedPlanes) {
      const auto next = NextPlanes<scalar_t>::after(s, from_.channel, first, M_, s + size);
      for (int64_t x = 0; x < size; x += kTurnedPixels) {
        turned(&label[x], std::min(kTurnedPixels, size - x), first, std::min(kTurnedPlanes, M_ - first),
               s + x * from_.pixel, g + x * to_.pixel, next.from(x));
      }
    }
  }

  __attribute__((noinline)) void ignore(size_t pixels, scalar_t* g) const {
    for (int64_t m = 0; m < M_; ++m) std::fill_n(g + m * to_.channel, pixels, scalar_t(0));
  }

  scalar_t element(int64_t i, int64_t m, scalar_t s) const { return c_.element(i, m, s); }

  void plane_runs(const Tile& tile, const scalar_t* s, scalar_t* g) {
    const int64_t step = out_.planar_pixels(tile.size);
    for (int64_t m = 0; m < M_; m += kTogether) {
      visit_count<kTogether>(M_ - m, [&](auto K) {
        int64_t run = 0;
        for (int64_t x = 0; x < tile.size; x += step) {
          const int64_t end = std::min(x + step, tile.size);
          const scalar_t* const from = s + m * from_.channel + x;
          out_.planes(K.value, g + m * to_.channel + x, to_.channel, end - x, [&](scalar_t* to, int64_t stride) {
            some_plane_runs<K.value>(tile, x, end, run, m, from, to, stride);
          });
        }
      });
    }
  }

  // K planes of the pixels [begin, last) of the tile, from channel `first` on: from s, and to g, `stride` apart.
  template <int K>
  void some_plane_runs(const Tile& tile, int64_t begin, int64_t last, int64_t& run, int64_t first, const scalar_t* s,
                       scalar_t* g, int64_t stride) const {
    const V weight = splat(c_.weight);
    const int64_t size = tile.size - begin;
    for_each_run(tile, begin, last, run, [&](int32_t i, int64_t its_first, int64_t length) {
      int64_t x = its_first - begin;
      const int64_t end = x + length;
      if (i == kIgnored) {
        for (int k = 0; k < K; ++k) std::fill(g + k * stride + x, g + k * stride + end, scalar_t(0));
        return;
      }
      if (length < L && x + L > size) {
        for (; x < end; ++x) {
          for (int k = 0; k < K; ++k) g[k * stride + x] = element(i, first + k, s[k * from_.channel + x]);
        }
        return;
      }
      const V scale = splat(c_.scale[i]);
      V center[K], offset[K];
      for (int k = 0; k < K; ++k) {
        center[k] = splat(c_.center[i * M_ + first + k]);
        offset[k] = splat(c_.offset[i * M_ + first + k]);
      }
      const auto write = [&](int64_t at) {
        for (int k = 0; k < K; ++k) {
          const V value = load_acc<L>(s + k * from_.channel + at);
          store_acc<L>(g + k * stride + at, gradient_element(weight, scale, center[k], offset[k], value));
        }
      };
      if (length < L) return write(x);  // what follows is written anew with its own run
      for (; x + L <= end; x += L) {
        for (int k = 0; k < K; ++k) ask_ahead<L>(s + k * from_.channel + x, kTuning.always);
        write(x);
      }
      if (x < end) write(end - L);  // some pixels twice, with the same values
    });
  }

  // R regions in turn: each lane takes the coefficients of its own.
  template <int R>
  void plane_blend(Labels label, const FewRegions& few, const scalar_t* s, scalar_t* g) {
    const int64_t size = static_cast<int64_t>(label.size());
    const V weight = splat(c_.weight);
    for (int64_t m = 0; m < M_; ++m, s += from_.channel) {
      V scale[R], center[R], offset[R];
      for (int r = 0; r < R; ++r) {
        const int64_t im = few.region[r] * M_ + m;
        scale[r] = splat(c_.scale[few.region[r]]), center[r] = splat(c_.center[im]), offset[r] = splat(c_.offset[im]);
      }
      out_.planes(1, g + m * to_.channel, to_.channel, size, [&](scalar_t* to, int64_t) {
        int64_t x = 0;
        for (; x + L <= size; x += L) {
          V its_scale = scale[0], its_center = center[0], its_offset = offset[0];
          for (int r = 1; r < R; ++r) {
            const Mask<acc_t> here = members<acc_t>(&label[x], few.region[r]);
            its_scale = here ? scale[r] : its_scale;
            its_center = here ? center[r] : its_center;
            its_offset = here ? offset[r] : its_offset;
          }
          ask_ahead<L>(s + x, kTuning.always);
          const V value = gradient_element(weight, its_scale, its_center, its_offset, load_acc<L>(s + x));
          store_acc<L>(to + x, members<acc_t>(&label[x], kIgnored) ? V{} : value);
        }
        for (; x < size; ++x) to[x] = element(label[x], m, s[x]);
      });
    }
  }

  // One interleaved pixel of `lanes` channels or more; the last of them may be written twice, with the same values.
  template <int lanes, bool streams>
  void row(int32_t i, const scalar_t* s, scalar_t* g) const {
    using Row = Vec<acc_t, lanes>;
    const Row weight = splat<acc_t, lanes>(c_.weight), scale = splat<acc_t, lanes>(i == kIgnored ? 0 : c_.scale[i]);
    for (int64_t next = 0; next < M_; next += lanes) {
      const int64_t m = std::min(next, M_ - lanes);
      Row value{};
      if (i != kIgnored) {
        const Row center = load<Row>(c_.center + i * M_ + m), offset = load<Row>(c_.offset + i * M_ + m);
        value = gradient_element(weight, scale, center, offset, load_acc<lanes>(s + m));
      }
      if constexpr (streams) {
        stream_acc<lanes>(g + m, value);
      } else {
        store_acc<lanes>(g + m, value);
      }
    }
  }

  // Channels [first, first + channels) of at most kTurnedPixels pixels with any labels, turned into rows and back.
  void turned(const int32_t* label, int64_t pixels, int64_t first, int64_t channels, const scalar_t* s, scalar_t* g,
              const NextPlanes<scalar_t>& next) const {
    alignas(64) acc_t rows[kTurnedPixels * kTurnedPlanes], result[kTurnedPixels * kTurnedPlanes];
    s += first * from_.channel;
    channels <= kNarrow ? turn_rows<kNarrow>(s, from_, channels, pixels, rows, next)
                        : turn_rows<kPad>(s, from_, channels, pixels, rows, next);
    visit_count<kPad>(channels, [&](auto K) { gradient_rows<K.value>(label, pixels, first, rows, result); });
    if (!from_.interleaved) return turn_back(result, pixels, channels, g + first * to_.channel, to_.channel);
    for (int64_t x = 0; x < pixels; ++x) {
      for (int64_t m = 0; m < M_; ++m) {
        g[x * to_.pixel + m] = to_stored<scalar_t>(result[x * padded_row(channels) + m]);
      }
    }
  }

  // K channels of turned pixels, from `first` on.
  template <int K>
  void gradient_rows(const int32_t* label, int64_t pixels, int64_t first, const acc_t* rows, acc_t* result) const {
    constexpr int kWidth = K <= kNarrow ? kNarrow : kPad, R = kRowLanes<acc_t, kWidth>;
    using W = Vec<acc_t, R>;
    const W weight = splat<acc_t, R>(c_.weight);
    const int64_t M = M_;
    const acc_t *const scales = c_.scale, *const centers = c_.center + first, *const offsets = c_.offset + first;
    for (int64_t x = 0; x < pixels; ++x, rows += kWidth, result += kWidth) {
      const int64_t i = label[x];
      const W scale = splat<acc_t, R>(i == kIgnored ? 0 : scales[i]);
#pragma GCC unroll 8
      for (int m = 0; m < K; m += R) {
        W value{};
        if (i != kIgnored) {
          const W center = K - m < R ? load_first<R>(centers + i * M + m, K - m) : load<W>(centers + i * M + m);
          const W offset = K - m < R ? load_first<R>(offsets + i * M + m, K - m) : load<W>(offsets + i * M + m);
          value = gradient_element(weight, scale, center, offset, load<W>(rows + m));
        }
        store(result + m, value);
      }
    }
  }

  const Coefficients<acc_t>& c_;
  const int64_t N_, M_;
  const Strides from_, to_;
  const bool packed_;
  Output<scalar_t> out_;
  LookedUpPlanes<scalar_t> looked_up_;
};

template <class scalar_t>
void apply_range(const ApplyParams& p, int64_t b, int64_t begin, int64_t end) {
  const PixelArray &input = p.input, &gradient = p.gradient;
  const scalar_t* s = static_cast<const scalar_t*>(input.data) + b * input.image_stride;
  scalar_t* g = static_cast<scalar_t*>(gradient.data) + b * gradient.image_stride;
  const Coefficients<AccOf<scalar_t>> coefficients(p, b);
  const bool streams = streams_gradient<scalar_t>(p.shape);
  Gradient<scalar_t> writer(coefficients, {input.channel_stride, input.pixel_stride, input.interleaved},
                            {gradient.channel_stride, gradient.pixel_stride, gradient.interleaved}, streams);
  Tile tile;
  const int64_t step = input.interleaved ? tile_pixels(p.shape.channels) : kTile;
  for (int64_t x = begin; x < end; x += step) {
    read_tile(p.target, p.shape, b, x, std::min(step, end - x), tile);
    writer.write(tile, s + x * input.pixel_stride, g + x * gradient.pixel_stride);
  }
  if (streams) end_streams();
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
