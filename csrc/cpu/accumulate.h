// accumulate on the CPU: input (B,M,P), target (B,P) -> moments of one chunk of pixels of one image.
// One thread owns a chunk and walks it in tiles. Per tile it chooses: long runs of equal labels are summed run by run;
// labels that change often are summed under masks (few regions) or row by row into the table, lanes being channels
// (many regions). Sums are about a pilot value per region and channel, the first value of that region in the chunk, so
// that large offsets and tiny variances cancel nothing.
#pragma once

#include "../region_math.h"
#include "kernels.h"
#include "sums.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kShortRun = 12;    // mean run length (pixels) below which runs are not worth finding
constexpr int64_t kMaskRegions = 4;  // as many regions as may be summed under masks, each at the cost of a pass over L1
constexpr int64_t kBlockBytes = 16384;  // of an interleaved run, read once per eight channels from L1
constexpr int64_t kTransposed = 32;     // pixels of a planar tile that are turned into rows at a time

template <class scalar_t>
class Chunk {
 public:
  Chunk(const AccumulateParams& p, int64_t b, const ChunkTable& table)
      : p_(p),
        t_(table),
        image_(static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride),
        N_(p.shape.regions),
        M_(p.shape.channels),
        channel_stride_(p.input.channel_stride),
        pixel_stride_(p.input.pixel_stride),
        packed_(p.input.interleaved && pixel_stride_ == M_ && M_ < kLanes) {
    for (int64_t i = 0; i < N_; ++i) t_.count[i] = 0;
    for (int64_t k = 0; k < N_ * kLanes; ++k) t_.square[k] = 0;
  }

  void add(const Tile& tile, int64_t begin) {
    const scalar_t* s = image_ + begin * pixel_stride_;
    if (tile.runs * kShortRun <= tile.size) return add_runs(tile, s);
    const bool maskable = N_ <= kMaskRegions && (packed_ || !p_.input.interleaved);
    maskable ? add_masked(tile, s) : add_rows(tile, s);
  }

  // Turns the sums into count, mean and scatter.
  void finish() {
    for (int64_t i = 0; i < N_; ++i) {
      if (t_.count[i] == 0) continue;
      const double inverse_n = 1 / static_cast<double>(t_.count[i]);
      double scatter = sum_lanes(load<Double8>(t_.square + i * kLanes));
      for (int64_t m = 0; m < M_; ++m) {
        const double sum = t_.sum[i * M_ + m];
        t_.mean[i * M_ + m] += sum * inverse_n;
        scatter = centered_square_sum(scatter, sum, inverse_n);
      }
      t_.scatter[i] = at_least_zero(scatter);
    }
  }

 private:
  // Counts pixels of region i; at first sight takes its pilot from the pixel at s.
  void meet(int32_t i, const scalar_t* s, int64_t pixels) {
    if (t_.count[i] == 0) {
      for (int64_t m = 0; m < M_; ++m) {
        t_.mean[i * M_ + m] = widen(s[m * channel_stride_]);
        t_.sum[i * M_ + m] = 0;
      }
    }
    t_.count[i] += pixels;
  }

  void add_runs(const Tile& tile, const scalar_t* s) {
    for_each_run(tile, [&](int32_t i, int64_t first, int64_t length) {
      if (i == kIgnored) return;
      const scalar_t* run = s + first * pixel_stride_;
      meet(i, run, length);
      double *sum = t_.sum + i * M_, *square = t_.square + i * kLanes;
      const double* pilot = t_.mean + i * M_;
      if (!p_.input.interleaved) {
        for (int64_t m = 0; m < M_; ++m) sum_plane(run + m * channel_stride_, length, pilot[m], sum[m], square);
      } else if (packed_) {
        visit_few(M_, [&](auto M) { sum_packed<M.value>(run, length, pilot, sum, square); });
      } else if (M_ >= kLanes) {
        const int64_t block = std::max<int64_t>(1, kBlockBytes / (M_ * static_cast<int64_t>(sizeof(scalar_t))));
        for (int64_t x = 0; x < length; x += block) {
          const int64_t pixels = std::min(block, length - x);
          sum_pixels(run + x * pixel_stride_, pixels, pixel_stride_, M_, pilot, sum, square);
        }
      } else {
        for (int64_t x = 0; x < length; ++x) sum_short_row(run + x * pixel_stride_, 1, M_, pilot, sum, square);
      }
    });
  }

  void add_masked(const Tile& tile, const scalar_t* s) {
    for (int32_t i = 0; i < N_; ++i) {
      int64_t pixels = 0, first = -1;
      for (int64_t x = 0; x < tile.size; ++x) pixels += tile.label[x] == i;
      for (int64_t x = 0; t_.count[i] == 0 && pixels > 0 && first < 0; ++x) first = tile.label[x] == i ? x : -1;
      if (pixels > 0) meet(i, s + std::max<int64_t>(first, 0) * pixel_stride_, pixels);
    }
    for (int32_t i = 0; packed_ && i < N_; ++i) {
      if (t_.count[i] == 0) continue;
      visit_few(M_, [&](auto M) {
        sum_packed_masked<M.value>(tile, s, i, t_.mean + i * M_, t_.sum + i * M_, t_.square + i * kLanes);
      });
    }
    for (int64_t m = 0; !packed_ && m < M_; ++m) {
      const scalar_t* plane = s + m * channel_stride_;
      for (int32_t i = 0; i < N_; i += 2) {
        const int64_t im = i * M_ + m;
        const bool pair = i + 1 < N_ && t_.count[i] > 0 && t_.count[i + 1] > 0;
        if (pair) {
          sum_masked<2>(tile, plane, i, M_, t_.mean + im, t_.sum + im, t_.square + i * kLanes);
          continue;
        }
        for (int32_t j = i; j < std::min<int64_t>(i + 2, N_); ++j) {
          const int64_t jm = j * M_ + m;
          if (t_.count[j] > 0) sum_masked<1>(tile, plane, j, M_, t_.mean + jm, t_.sum + jm, t_.square + j * kLanes);
        }
      }
    }
  }

  void add_rows(const Tile& tile, const scalar_t* s) {
    scalar_t rows[kTransposed * kMaxRow];
    const bool turn = !p_.input.interleaved && M_ >= kLanes && M_ <= kMaxRow;
    for (int64_t x0 = 0; x0 < tile.size; x0 += kTransposed) {
      const int64_t pixels = std::min(kTransposed, tile.size - x0);
      for (int64_t m = 0; turn && m < M_; ++m) {
        const scalar_t* plane = s + m * channel_stride_ + x0;
        for (int64_t x = 0; x < pixels; ++x) rows[x * M_ + m] = plane[x];
      }
      for (int64_t x = 0; x < pixels; ++x) {
        const int32_t i = tile.label[x0 + x];
        if (i == kIgnored) continue;
        const scalar_t* pixel = s + (x0 + x) * pixel_stride_;
        meet(i, pixel, 1);
        double *sum = t_.sum + i * M_, *square = t_.square + i * kLanes;
        const double* pilot = t_.mean + i * M_;
        if (turn || (p_.input.interleaved && M_ >= kLanes)) {
          sum_row(turn ? rows + x * M_ : pixel, M_, pilot, sum, square);
        } else if (M_ < kLanes) {
          sum_short_row(pixel, channel_stride_, M_, pilot, sum, square);
        } else {
          for (int64_t m = 0; m < M_; m += kLanes) {
            sum_short_row(pixel + m * channel_stride_, channel_stride_, std::min<int64_t>(kLanes, M_ - m), pilot + m,
                          sum + m, square);
          }
        }
      }
    }
  }

  static constexpr int64_t kMaxRow = 256;  // channels; kTransposed rows of them fit L1

  const AccumulateParams& p_;
  const ChunkTable& t_;
  const scalar_t* image_;
  const int64_t N_, M_, channel_stride_, pixel_stride_;
  const bool packed_;  // interleaved, pixels touch, fewer channels than lanes
};

template <class scalar_t>
int64_t accumulate_chunk(const AccumulateParams& p, int64_t b, int64_t begin, int64_t end, const ChunkTable& table) {
  Chunk<scalar_t> chunk(p, b, table);
  int64_t invalid = kNoPixel;
  Tile tile;
  for (int64_t x = begin; x < end; x += kTile) {
    read_tile(p.target, p.shape, b, x, std::min(kTile, end - x), tile);
    if (tile.invalid != kNoPixel && invalid == kNoPixel) invalid = x + tile.invalid;
    chunk.add(tile, x);
  }
  chunk.finish();
  return invalid;
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
