// The moments of one chunk of pixels while they grow. The squares are summed in acc_t over a segment, about a pilot
// near its mean, then merged into double sums. So float arithmetic loses nothing that shows: a segment is at most twice
// as long as what its pilot, the mean so far, was taken from, hence the squares about the pilot add up to a small
// multiple of the scatter. The values themselves are summed without rounding (sums.h): means of two regions may differ
// in their last digits.
#pragma once

#include "../region_math.h"
#include "counts.h"
#include "kernels.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kFirstSegment = 16;       // pixels summed about the first one
constexpr int64_t kPlaneSegment = 1 << 14;  // pixels of a region that runs bring before a merge, at most: a long sum of
                                            // values would lose digits of s - pilot
constexpr int64_t kRowSegment = 64;         // the same of rows with any labels
constexpr int64_t kRowChannels = 64;  // whose squares are added to floats before these join doubles: more would show
constexpr int64_t kPilotPixels = 2;   // a segment has at most so many times the pixels behind its pilot

// A part of a run, and what happens to its region before.
struct Piece {
  int32_t region, begin, pixels;
  bool meets;      // the region has not occurred before
  bool renews;     // its rows are merged and its pilot is renewed
  int64_t merged;  // pixels of those rows
  int64_t count;   // pixels of the region then
};

template <class scalar_t>
class RegionTable {
// What happens to a region a few times in a chunk stays out of loops over runs, whose registers it would take.
#define CAS_SELDOM __attribute__((noinline))

 public:
  using acc_t = AccOf<scalar_t>;

  RegionTable(const Shape& shape, void* scratch) : N(shape.regions), M(shape.channels), padded(padded_row(M)) {
    base_ = static_cast<double*>(scratch);
    sum_ = base_ + N * padded;
    row_sum_ = sum_ + N * padded;
    square_ = row_sum_ + N * padded;
    part = square_ + N * kPad;
    pilot_ = reinterpret_cast<acc_t*>(part + padded);
    row_square_ = pilot_ + N * padded;
    count_ = reinterpret_cast<int64_t*>(row_square_ + N * kPad);
    aimed_ = count_ + N;
    limit_ = reinterpret_cast<int32_t*>(aimed_ + N);
    room_ = limit_ + N;
    for (int64_t i = 0; i < N; ++i) limit_[i] = room_[i] = 0;
  }

  // Memory behind the table for LabelCounts.
  int32_t* memory_for_counts() const { return room_ + N; }

  // What region i is summed about, (padded).
  const acc_t* pilot(int32_t i) const { return pilot_ + i * padded; }

  // Segments: before one, `aim` at its first pixel s; it may be `longest` long. Its squares go to eight doubles, its
  // sums to `part`; then merge.
  void aim(int32_t i, const scalar_t* s, int64_t channel_stride) {
    if (limit_[i] == 0) {
      meet(i, s, channel_stride);
    } else if (outgrown(i)) {
      flush(i);
      renew(i);
    }
  }

  int64_t longest(int32_t i) const { return std::max(kFirstSegment, kPilotPixels * aimed_[i]); }

  // As many pixels as a segment may have of a region that `aim` has not seen yet, or has.
  int64_t longest_now(int32_t i) const {
    return limit_[i] == 0 ? kFirstSegment : std::max(longest(i), kPilotPixels * seen(i));
  }

  double* squares(int32_t i) { return square_ + i * kPad; }

  void merge(int32_t i, int64_t pixels) {
    merge(i, pixels, part, 0, 0, padded);
    count_[i] += pixels;
  }

  // The same, channel by channel; count_pixels comes last.
  void merge_channel(int32_t i, int64_t m, int64_t pixels, double sum) {
    const double n = static_cast<double>(pixels), shift = pilot_[i * padded + m] - base_[i * padded + m];
    sum_[i * padded + m] += sum + n * shift;
    square_[i * kPad] += shift * (2 * sum + n * shift);
  }

  void count_pixels(int32_t i, int64_t pixels) { count_[i] += pixels; }

  // Rows: merges what has to be merged before the rows of a block of pixels are summed, whose labels are `labels`, the
  // first pixel at s, and counts them. Returns false, and counts none, where a region has more of them than its rows
  // have room for; then the block has to be halved, unless it `fits` anyway.
  bool take(const LabelCounts& counts, const int32_t* label, const scalar_t* s, int64_t pixel_stride,
            int64_t channel_stride, bool fits) {
    bool room = true;
    for (int32_t k = 0; k < counts.labels(); ++k) {
      const int32_t i = counts.label(k), pixels = counts.count(i);
      if (i == kIgnored) continue;
      if (limit_[i] == 0) {
        int64_t x = 0;
        while (label[x] != i) ++x;
        meet(i, s + x * pixel_stride, channel_stride);
      } else if (room_[i] < pixels && fresh(i) > 0) {
        flush(i);
        if (outgrown(i)) renew(i);
      }
      room = room && pixels <= room_[i];
    }
    if (!room && !fits) return false;
    for (int32_t k = 0; k < counts.labels(); ++k) {
      const int32_t i = counts.label(k);
      if (i != kIgnored) room_[i] -= counts.count(i);
    }
    return true;
  }

  // Planes: their sums become rows too, but a group of channels sees a whole tile before the next group does. So what
  // happens to a region is planned first: the piece of at most `most` pixels from `begin` on. Returns how many it has.
  int32_t plan(int32_t i, int64_t begin, int64_t most, Piece& piece) {
    piece.region = i;
    piece.begin = static_cast<int32_t>(begin);
    piece.meets = limit_[i] == 0;
    piece.renews = !piece.meets && (outgrown(i) || fresh(i) >= kPlaneSegment);
    piece.merged = fresh(i);
    if (piece.meets) start(i);
    if (piece.renews) settle_and_aim(i);
    piece.count = count_[i];
    piece.pixels = static_cast<int32_t>(std::min(most, longest(i)));
    room_[i] -= piece.pixels;
    return piece.pixels;
  }

  // Then, for channels [first, last): what comes before the sums of a piece. `s`: its first pixel.
  void prepare(const Piece& piece, int64_t first, int64_t last, const scalar_t* s, int64_t channel_stride) {
    if (piece.meets || piece.renews) prepare_channels(piece, first, last, s, channel_stride);
  }

  // Between kRowChannels of rows: their squares join double sums.
  void settle_squares(const int32_t* label, int64_t pixels) {
    for (int64_t x = 0; x < pixels; ++x) {
      if (label[x] != kIgnored) settle_squares(label[x]);
    }
  }

  double* row_sum(int32_t i) { return row_sum_ + i * padded; }
  acc_t* row_square(int32_t i) { return row_square_ + i * kPad; }

  // Turns the sums into count, mean (N, M) and scatter.
  void finish(const ChunkTable& out) {
    for (int32_t i = 0; i < N; ++i) {
      out.count[i] = 0;
      if (limit_[i] == 0) continue;
      flush(i);
      out.count[i] = count_[i];
      const double inverse_n = 1 / static_cast<double>(count_[i]);
      double scatter = sum_eight(squares(i));
      for (int64_t m = 0; m < M; ++m) {
        const double sum = sum_[i * padded + m];
        out.mean[i * M + m] = base_[i * padded + m] + sum * inverse_n;
        scatter = centered_square_sum(scatter, sum, inverse_n);
      }
      out.scatter[i] = at_least_zero(scatter);
    }
  }

  const int64_t N, M, padded;
  double* part;  // (padded) sums of the segment at hand

 private:
  CAS_SELDOM void prepare_channels(const Piece& piece, int64_t first, int64_t last, const scalar_t* s,
                                   int64_t channel_stride) {
    const int32_t i = piece.region;
    if (piece.meets) return meet_channels(i, first, last, s, channel_stride);
    merge_rows(i, piece.merged, first, last);
    renew_channels(i, piece.count, first, last);
  }

  CAS_SELDOM void settle_and_aim(int32_t i) {
    settle(i);
    aim_at_mean(i);
  }

  // Begins region i with its first pixel.
  void meet(int32_t i, const scalar_t* s, int64_t channel_stride) {
    start(i);
    meet_channels(i, 0, padded, s, channel_stride);
  }

  CAS_SELDOM void start(int32_t i) {
    for (int k = 0; k < kPad; ++k) square_[i * kPad + k] = row_square_[i * kPad + k] = 0;
    count_[i] = aimed_[i] = 0;
    limit_[i] = room_[i] = static_cast<int32_t>(kFirstSegment);
  }

  void meet_channels(int32_t i, int64_t first, int64_t last, const scalar_t* s, int64_t channel_stride) {
    for (int64_t m = first; m < last; ++m) {
      const acc_t value = m < M ? to_acc(s[m * channel_stride]) : 0;
      base_[i * padded + m] = pilot_[i * padded + m] = value;
      sum_[i * padded + m] = row_sum_[i * padded + m] = 0;
    }
  }

  // Takes the mean so far as pilot.
  void renew(int32_t i) {
    renew_channels(i, count_[i], 0, padded);
    aim_at_mean(i);
  }

  void aim_at_mean(int32_t i) {
    aimed_[i] = count_[i];
    limit_[i] = room_[i] = static_cast<int32_t>(std::min(kRowSegment, kPilotPixels * aimed_[i]));
  }

  // Cut to a value of the stored type: the difference of two such is exact, or nearly.
  void renew_channels(int32_t i, int64_t count, int64_t first, int64_t last) {
    const double inverse_n = 1 / static_cast<double>(count);
    for (int64_t k = i * padded + first; k < i * padded + last; ++k) {
      pilot_[k] = cut(static_cast<acc_t>(base_[k] + sum_[k] * inverse_n));
    }
  }

  static acc_t cut(acc_t value) {
    if constexpr (std::is_same_v<scalar_t, acc_t>) return value;
    constexpr uint32_t kept = std::is_same_v<scalar_t, c10::Half> ? 0xffffe000u : 0xffff0000u;  // 10 or 7 bits
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    bits &= kept;
    std::memcpy(&value, &bits, sizeof(bits));
    return value;
  }

  // Adds the sums of values s - pilot of channels [first, last) to those of s - base; the squares of s - pilot are in
  // square_ already. `uncentered`: of how many values the pilot has yet to be subtracted.
  void merge(int32_t i, int64_t pixels, const double* sums, double uncentered, int64_t first, int64_t last) {
    const double n = static_cast<double>(pixels), *base = base_ + i * padded;
    const acc_t* pilot = pilot_ + i * padded;
    double *sum = sum_ + i * padded, *square = square_ + i * kPad;
    constexpr int D = kLanes<double> < kNarrow ? kLanes<double> : kNarrow;
    using V = Vec<double, D>;
    for (int64_t m = first; m < last; m += D) {
      const V about = widen<D>(load<Vec<acc_t, D>>(pilot + m)), shift = about - load<V>(base + m);
      const V s = load<V>(sums + m) - uncentered * about;
      store(sum + m, load<V>(sum + m) + (s + n * shift));
      double* to = square + m % kPad;
      store(to, load<V>(to) + shift * (2 * s + n * shift));
    }
  }

  int64_t fresh(int32_t i) const { return limit_[i] - room_[i]; }
  int64_t seen(int32_t i) const { return count_[i] + fresh(i); }

  // Whether the pilot is due to be renewed. A region may have been met, and none of its pixels summed yet.
  bool outgrown(int32_t i) const { return seen(i) > 0 && seen(i) >= kPilotPixels * aimed_[i]; }

  // Merges the rows of region i.
  void flush(int32_t i) {
    if (fresh(i) == 0) return;
    merge_rows(i, fresh(i), 0, padded);
    settle(i);
  }

  void merge_rows(int32_t i, int64_t pixels, int64_t first, int64_t last) {
    double* sum = row_sum_ + i * padded;
    merge(i, pixels, sum, std::is_same_v<acc_t, float> ? static_cast<double>(pixels) : 0, first, last);
    for (int64_t m = first; m < last; ++m) sum[m] = 0;
  }

  void settle_squares(int32_t i) {
    acc_t* square = row_square_ + i * kPad;
    for (int k = 0; k < kPad; ++k) {
      square_[i * kPad + k] += square[k];
      square[k] = 0;
    }
  }

  // What of a merge of rows does not depend on the channel.
  void settle(int32_t i) {
    settle_squares(i);
    count_[i] += fresh(i);
    room_[i] = limit_[i];
  }

#undef CAS_SELDOM

  double *base_, *sum_;         // (N, padded): the first pixel's values; sums of s - base
  double* row_sum_;             // (N, padded) of values (float) or of values - pilot (double), not in sum_ yet
  double* square_;              // (N, kPad) sums of (s - base)^2
  int64_t *count_, *aimed_;     // (N) pixels in sum_; when the pilot was taken
  acc_t *pilot_, *row_square_;  // (N, padded); (N, kPad)
  int32_t *limit_, *room_;      // (N) pixels of rows that may be summed before a merge, 0: never met; how many are left
};

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
