// accumulate on the CPU: input (B,M,P), target (B,P) -> moments of one chunk of pixels of one image.
// One thread owns a chunk. Pixels are read once, in tiles; sums are kept in double about a pilot value per region and channel,
// the first value of that region in the chunk, so that large offsets and tiny variances cancel nothing.
#pragma once

#include "../region_math.h"
#include "kernels.h"
#include "labels.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int kLanes = 16;           // independent sums: two 512-bit registers of doubles
constexpr int64_t kShortRun = 8;     // mean run length (pixels) below which runs are not worth finding

template <class scalar_t>
inline double widen(scalar_t s) {
  return static_cast<double>(static_cast<float>(s));
}
template <>
inline double widen<double>(double s) {
  return s;
}

// Adds `rows` rows of kLanes values, `stride` apart, to the sums of each lane.
template <class scalar_t>
inline void sum_rows(const scalar_t* s, int64_t rows, int64_t stride, const double* pilot, double* sum,
                     double* square) {
  double lane_sum[kLanes] = {}, lane_square[kLanes] = {};
  for (int64_t r = 0; r < rows; ++r, s += stride) {
    for (int k = 0; k < kLanes; ++k) {
      const double d = widen(s[k]) - pilot[k];
      lane_sum[k] += d;
      lane_square[k] += d * d;
    }
  }
  for (int k = 0; k < kLanes; ++k) {
    sum[k] += lane_sum[k];
    square[k] += lane_square[k];
  }
}

// One channel of one run of a planar image.
template <class scalar_t>
inline void sum_plane(const scalar_t* s, int64_t length, double pilot, double& sum, double& square) {
  double lane_sum = 0, lane_square = 0;
  const int64_t rows = length / kLanes;
  if (rows > 0) {
    double pilots[kLanes], sums[kLanes] = {}, squares[kLanes] = {};
    for (int k = 0; k < kLanes; ++k) pilots[k] = pilot;
    sum_rows(s, rows, kLanes, pilots, sums, squares);
    for (int k = 0; k < kLanes; ++k) {
      lane_sum += sums[k];
      lane_square += squares[k];
    }
  }
  for (int64_t x = rows * kLanes; x < length; ++x) {
    const double d = widen(s[x]) - pilot;
    lane_sum += d;
    lane_square += d * d;
  }
  sum += lane_sum;
  square += lane_square;
}

// All channels of `length` pixels of an interleaved image, `stride` apart.
template <class scalar_t>
inline void sum_pixels(const scalar_t* s, int64_t length, int64_t stride, int64_t channels, const double* pilot,
                       double* sum, double& square) {
  int64_t m = 0;
  for (; m + kLanes <= channels; m += kLanes) {
    double squares[kLanes] = {};
    sum_rows(s + m, length, stride, pilot + m, sum + m, squares);
    for (int k = 0; k < kLanes; ++k) square += squares[k];
  }
  if (m == 0 && kLanes % channels == 0 && stride == channels) {  // several pixels fill the lanes
    const int64_t per_row = kLanes / channels, rows = length / per_row;
    double pilots[kLanes], sums[kLanes] = {}, squares[kLanes] = {};
    for (int k = 0; k < kLanes; ++k) pilots[k] = pilot[k % channels];
    sum_rows(s, rows, kLanes, pilots, sums, squares);
    for (int k = 0; k < kLanes; ++k) {
      sum[k % channels] += sums[k];
      square += squares[k];
    }
    s += rows * kLanes;
    length -= rows * per_row;
  }
  for (; m < channels; ++m) {
    double lane_sum = 0, lane_square = 0;
    for (int64_t x = 0; x < length; ++x) {
      const double d = widen(s[x * stride + m]) - pilot[m];
      lane_sum += d;
      lane_square += d * d;
    }
    sum[m] += lane_sum;
    square += lane_square;
  }
}

template <class scalar_t>
int64_t accumulate_chunk(const AccumulateParams& p, int64_t b, int64_t begin, int64_t end, const ChunkTable& t) {
  const int64_t N = p.shape.regions, M = p.shape.channels;
  const int64_t channel_stride = p.input.channel_stride, pixel_stride = p.input.pixel_stride;
  const scalar_t* image = static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride;
  for (int64_t i = 0; i < N; ++i) {
    t.count[i] = 0;
    t.scatter[i] = 0;
  }
  const auto meet = [&](int32_t i, const scalar_t* s, int64_t pixels) {  // counts, and takes the pilot at first sight
    if (t.count[i] == 0) {
      for (int64_t m = 0; m < M; ++m) {
        t.mean[i * M + m] = widen(s[m * channel_stride]);
        t.sum[i * M + m] = 0;
      }
    }
    t.count[i] += pixels;
  };
  int64_t invalid = kNoPixel;
  Tile tile;
  for (int64_t x0 = begin; x0 < end; x0 += kTile) {
    read_tile(p.target, p.shape, b, x0, end - x0 < kTile ? end - x0 : kTile, tile);
    if (tile.invalid != kNoPixel && invalid == kNoPixel) invalid = x0 + tile.invalid;
    const scalar_t* s = image + x0 * pixel_stride;
    if (p.input.interleaved || tile.runs * kShortRun <= tile.size) {
      for_each_run(tile, [&](int32_t i, int64_t first, int64_t length) {
        if (i == kIgnored) return;
        const scalar_t* run = s + first * pixel_stride;
        meet(i, run, length);
        if (p.input.interleaved) {
          return sum_pixels(run, length, pixel_stride, M, t.mean + i * M, t.sum + i * M, t.scatter[i]);
        }
        for (int64_t m = 0; m < M; ++m) {
          sum_plane(run + m * channel_stride, length, t.mean[i * M + m], t.sum[i * M + m], t.scatter[i]);
        }
      });
    } else {
      for (int64_t x = 0; x < tile.size; ++x) {
        if (tile.label[x] != kIgnored) meet(tile.label[x], s + x, 1);
      }
      for (int64_t m = 0; m < M; ++m) {
        const scalar_t* plane = s + m * channel_stride;
        for (int64_t x = 0; x < tile.size; ++x) {
          const int64_t i = tile.label[x];
          if (i == kIgnored) continue;
          const double d = widen(plane[x]) - t.mean[i * M + m];
          t.sum[i * M + m] += d;
          t.scatter[i] += d * d;
        }
      }
    }
  }
  for (int64_t i = 0; i < N; ++i) {
    if (t.count[i] == 0) continue;
    const double inverse_n = 1 / static_cast<double>(t.count[i]);
    double scatter = t.scatter[i];
    for (int64_t m = 0; m < M; ++m) {
      const double sum = t.sum[i * M + m];
      t.mean[i * M + m] += sum * inverse_n;
      scatter = centered_square_sum(scatter, sum, inverse_n);
    }
    t.scatter[i] = scatter < 0 ? 0 : scatter;  // NaN stays NaN
  }
  return invalid;
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
