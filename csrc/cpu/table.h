// The moments of one chunk of pixels while they grow. The squares are summed in acc_t over a segment, about a pilot near
// its mean, then merged into double sums. So float arithmetic loses nothing that shows: a segment is at most twice as long
// as what its pilot, the mean so far, was taken from, hence the squares about the pilot add up to a small multiple of the
// scatter. The values themselves are summed without rounding (sums.h): means of two regions may differ in their last digits.
#pragma once

#include "../region_math.h"
#include "kernels.h"
#include "labels.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kFirstSegment = 16;    // pixels summed about the first one
constexpr int64_t kRowSegment = 128;     // at most, in rows
constexpr int64_t kPilotPixels = 2;      // a segment has at most so many times the pixels behind its pilot

template <class scalar_t>
class RegionTable {
 public:
  using acc_t = AccOf<scalar_t>;

  RegionTable(const Shape& shape, void* scratch)
      : N(shape.regions), M(shape.channels), padded((M + kPad - 1) / kPad * kPad) {
    char* base = static_cast<char*>(scratch);
    pilot_ = reinterpret_cast<double*>(base);
    sum_ = pilot_ + N * padded;
    square_ = sum_ + N * padded;
    part = square_ + N * kPad;
    count_ = reinterpret_cast<int64_t*>(part + padded);
    row_sum_ = reinterpret_cast<double*>(count_ + N);
    row_pilot_ = reinterpret_cast<acc_t*>(row_sum_ + N * padded);
    row_square_ = row_pilot_ + N * padded;
    center = row_square_ + N * kPad;
    fresh_ = reinterpret_cast<int32_t*>(center + padded);
    limit_ = fresh_ + N;
    for (int64_t i = 0; i < N; ++i) limit_[i] = 0;
  }

  bool known(int32_t i) const { return limit_[i] > 0; }

  // Begins region i with its first pixel.
  void meet(int32_t i, const scalar_t* s, int64_t channel_stride) {
    for (int64_t m = 0; m < padded; ++m) {
      const acc_t value = m < M ? to_acc(s[m * channel_stride]) : 0;
      row_pilot_[i * padded + m] = value;
      pilot_[i * padded + m] = value;
      row_sum_[i * padded + m] = 0;
      sum_[i * padded + m] = 0;
    }
    for (int k = 0; k < kPad; ++k) square_[i * kPad + k] = row_square_[i * kPad + k] = 0;
    count_[i] = fresh_[i] = 0;
    limit_[i] = static_cast<int32_t>(kFirstSegment);
  }

  // Segments: how long one may be, the values to sum about, the double lanes for their squares, and the merge.
  int64_t longest(int32_t i) const { return std::max(kFirstSegment, kPilotPixels * count_[i]); }

  void aim(int32_t i) { aim(i, center); }

  double* squares(int32_t i) { return square_ + i * kPad; }

  void merge(int32_t i, int64_t pixels) { merge(i, pixels, center, part, 0); }

  // The same, channel by channel; count_pixels comes last.
  acc_t mean(int32_t i, int64_t m) const {
    const double inverse_n = count_[i] > 0 ? 1 / static_cast<double>(count_[i]) : 0;
    return round(pilot_[i * padded + m] + sum_[i * padded + m] * inverse_n);
  }

  void merge_channel(int32_t i, int64_t m, int64_t pixels, acc_t about, double sum) {
    const double n = static_cast<double>(pixels), shift = about - pilot_[i * padded + m];
    sum_[i * padded + m] += sum + n * shift;
    square_[i * kPad] += shift * (2 * sum + n * shift);
  }

  void count_pixels(int32_t i, int64_t pixels) { count_[i] += pixels; }

  // Rows: `expect_row` for every pixel of a block, then count_row and the sums of each.
  void expect_row(int32_t i, const scalar_t* s, int64_t channel_stride) {
    if (!known(i)) meet(i, s, channel_stride);
    if (fresh_[i] >= limit_[i]) flush(i);
  }

  void count_row(int32_t i) { ++fresh_[i]; }

  const acc_t* row_pilot(int32_t i) const { return row_pilot_ + i * padded; }
  double* row_sum(int32_t i) { return row_sum_ + i * padded; }
  acc_t* row_square(int32_t i) { return row_square_ + i * kPad; }

  // Turns the sums into count, mean (N, M) and scatter.
  void finish(const ChunkTable& out) {
    for (int32_t i = 0; i < N; ++i) {
      out.count[i] = 0;
      if (!known(i)) continue;
      flush(i);
      out.count[i] = count_[i];
      const double inverse_n = 1 / static_cast<double>(count_[i]);
      double scatter = sum_eight(squares(i));
      for (int64_t m = 0; m < M; ++m) {
        const double sum = sum_[i * padded + m];
        out.mean[i * M + m] = pilot_[i * padded + m] + sum * inverse_n;
        scatter = centered_square_sum(scatter, sum, inverse_n);
      }
      out.scatter[i] = at_least_zero(scatter);
    }
  }

  const int64_t N, M, padded;
  acc_t* center;  // (padded) what the segment at hand is summed about
  double* part;   // (padded) its sums

 private:
  // A pilot is a value of the stored type: the difference of two such is exact, or nearly.
  static acc_t round(double value) { return to_acc(static_cast<scalar_t>(static_cast<acc_t>(value))); }

  void aim(int32_t i, acc_t* to) const {
    const double inverse_n = count_[i] > 0 ? 1 / static_cast<double>(count_[i]) : 0;
    for (int64_t k = 0; k < padded; ++k) {
      to[k] = round(pilot_[i * padded + k] + sum_[i * padded + k] * inverse_n);
    }
  }

  // Adds the sums of values s - about[m] to those of s - pilot; the squares of s - about[m] are in square_ already.
  // `uncentered`: of how many values about[m] has yet to be subtracted.
  void merge(int32_t i, int64_t pixels, const acc_t* about, const double* sums, double uncentered) {
    const double n = static_cast<double>(pixels), *pilot = pilot_ + i * padded;
    double *sum = sum_ + i * padded, *square = square_ + i * kPad;
    for (int64_t m = 0; m < padded; m += kPad) {
      for (int k = 0; k < kPad; ++k) {
        const double shift = about[m + k] - pilot[m + k], s = sums[m + k] - uncentered * about[m + k];
        sum[m + k] += s + n * shift;
        square[k] += shift * (2 * s + n * shift);
      }
    }
    count_[i] += pixels;
  }

  // Merges the rows of region i and takes its mean as their pilot.
  void flush(int32_t i) {
    if (fresh_[i] == 0) return;
    double* sum = row_sum_ + i * padded;
    acc_t* square = row_square_ + i * kPad;
    for (int k = 0; k < kPad; ++k) square_[i * kPad + k] += square[k];
    merge(i, fresh_[i], row_pilot_ + i * padded, sum, std::is_same_v<acc_t, float> ? fresh_[i] : 0);
    for (int64_t m = 0; m < padded; ++m) sum[m] = 0;
    for (int k = 0; k < kPad; ++k) square[k] = 0;
    fresh_[i] = 0;
    aim(i, row_pilot_ + i * padded);
    limit_[i] = static_cast<int32_t>(std::min(kRowSegment, kPilotPixels * count_[i]));
  }

  double *pilot_, *sum_, *square_;   // (N, padded), (N, padded), (N, kPad)
  int64_t* count_;                   // (N) pixels in sum_
  double* row_sum_;                  // (N, padded) of values (float) or of values - pilot (double), not in sum_ yet
  acc_t *row_pilot_, *row_square_;   // (N, padded), (N, kPad)
  int32_t *fresh_, *limit_;          // (N) pixels in row_sum_; when to flush them, 0: never met
};

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
