// The moments of one chunk of pixels while they grow: of every region a pilot near its mean, the sums of its values and
// the squares about the pilot. Squares are summed in acc_t over a segment, then in double. So float arithmetic loses
// nothing that shows: a segment is at most four times as long as what its pilot, the mean so far, was taken from, hence
// the squares about the pilot add up to a small multiple of the scatter. The values themselves are summed without
// rounding, as means of two regions may differ in their last digits; but not those of short runs (sums.h).
#pragma once

#include "../region_math.h"
#include "counts.h"
#include "pilots.h"
#include "rows.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kRowChannels = 64;  // whose squares are added to floats before these join doubles: more would show

template <class scalar_t>
class RegionTable {
// What happens to a region a few times in a chunk stays out of loops over runs, whose registers it would take.
#define CAS_SELDOM __attribute__((noinline))

 public:
  using acc_t = AccOf<scalar_t>;

  RegionTable(const Shape& shape, void* scratch)
      : N(shape.regions),
        M(shape.channels),
        padded(padded_row(M)),
        stride_(region_bytes(M, sizeof(acc_t))),
        squares_(static_cast<double*>(scratch)),
        sums_(squares_ + kPad),
        pilots_(reinterpret_cast<acc_t*>(sums_ + padded)),
        row_squares_(pilots_ + std::max(padded, kPad)),
        state_(reinterpret_cast<Progress*>(row_squares_ + kPad)),
        part(of(squares_, N)) {
    for (int64_t i = 0; i < N; ++i) state(i).limit = state(i).room = 0;
  }

  // Memory behind the table: for LabelCounts; for a tile, from a cache line on.
  int32_t* memory_for_counts() const { return reinterpret_cast<int32_t*>(part + padded); }
  char* memory_for_tile() const {
    const auto end = reinterpret_cast<uintptr_t>(memory_for_counts() + LabelCounts::ints(N));
    return reinterpret_cast<char*>((end + kLine - 1) / kLine * kLine);
  }

  // Of region i: what its squares are about, (padded); sums of its values (double: of values - pilot), (padded); sums
  // of squares, eight doubles.
  const acc_t* pilot(int32_t i) const { return of(pilots_, i); }
  double* sum(int32_t i) const { return of(sums_, i); }
  double* squares(int32_t i) const { return of(squares_, i); }

  // Channels from m on, for pixels with any labels.
  TableRows<acc_t> rows(int64_t m) const { return {pilots_ + m, sums_ + m, row_squares_, stride_}; }

  // Segments: before one, `aim` at its first pixel s; it may be `longest` long. Its squares go to eight doubles, its
  // sums to `part`; then merge.
  void aim(int32_t i, const scalar_t* s, int64_t channel_stride) {
    if (state(i).unmet()) {
      meet(i, s, channel_stride);
    } else if (state(i).outgrown()) {
      settle_and_move(i);
    }
  }

  int64_t longest(int32_t i) const { return state(i).longest(); }
  int64_t longest_now(int32_t i) const { return state(i).longest_now(); }

  void merge(int32_t i, int64_t pixels) {
    for (int64_t m = 0; m < padded; ++m) merge_channel(i, m, pixels, part[m]);
    count_pixels(i, pixels);
  }

  // The same, channel by channel; count_pixels comes last.
  void merge_channel(int32_t i, int64_t m, int64_t pixels, double sum_about_pilot) {
    sum(i)[m] += sum_about_pilot + (kOfValues ? static_cast<double>(pixels) * pilot(i)[m] : 0);
  }

  void count_pixels(int32_t i, int64_t pixels) { state(i).count += pixels; }

  // Rows: makes room before the rows of a block of pixels are summed, whose labels are `label`, the first pixel at s,
  // and counts them. Returns false, and counts none, where a region has more of them than its rows have room for; then
  // the block has to be halved, unless it `fits` anyway.
  bool take(const LabelCounts& counts, const int32_t* label, int64_t size, const scalar_t* s, int64_t pixel_stride,
            int64_t channel_stride, bool fits) {
    bool room = true, all_met = true;
    for (int32_t k = 0; k < counts.labels(); ++k) {
      const int32_t i = counts.label(k), pixels = counts.count(i);
      if (i == kIgnored) continue;
      if (state(i).unmet()) {
        all_met = false;
        room = room && pixels <= kFirstSegment;
        continue;
      }
      if (state(i).room < pixels && state(i).fresh() > 0) state(i).outgrown() ? settle_and_move(i) : settle(i);
      room = room && pixels <= state(i).room;
    }
    for (int64_t x = 0; !all_met && x < size; ++x) {
      if (label[x] != kIgnored && state(label[x]).unmet()) meet(label[x], s + x * pixel_stride, channel_stride);
    }
    if (!room && !fits) return false;
    for (int32_t k = 0; k < counts.labels(); ++k) {
      const int32_t i = counts.label(k);
      if (i != kIgnored) state(i).room -= counts.count(i);
    }
    return true;
  }

  // Planes: a group of channels sees a whole tile before the next group does. So what happens to a region is planned
  // first: the piece of at most `most` pixels from `begin` on, `first` of which (at most) are a first pilot. Returns
  // how many it has.
  int32_t plan(int32_t i, int64_t begin, int64_t most, Piece& piece, int64_t first = 1) {
    piece.region = i;
    piece.begin = static_cast<int32_t>(begin);
    piece.meets = state(i).unmet() ? static_cast<uint8_t>(std::min(most, first)) : 0;
    piece.moves = !piece.meets && (state(i).outgrown() || state(i).fresh() >= kPlaneSegment);
    if (piece.meets) start(i, piece.meets);
    if (piece.moves) settle_and_aim(i);
    piece.count = state(i).count;
    piece.pixels = static_cast<int32_t>(std::min(most, longest(i)));
    state(i).room -= piece.pixels;
    return piece.pixels;
  }

  // Then, for channels [first, last): what comes before the sums of a piece. `s`: its first pixel.
  void prepare(const Piece& piece, int64_t first, int64_t last, const scalar_t* s, int64_t channel_stride) {
    if (piece.meets || piece.moves) prepare_channels(piece, first, last, s, channel_stride);
  }

  // Few channels: whether region i has occurred. Its pilot, before sums about that.
  bool has_pilot(int32_t i, acc_t* pilot_now) {
    if (state(i).unmet()) return false;
    if (state(i).outgrown()) settle_and_move(i);
    std::copy_n(pilot(i), padded, pilot_now);
    return true;
  }

  // Then, sums of values and of squares about that pilot, or another if there was none. Returns whether that was good
  // enough: else it has moved to the mean, these pixels included, and their squares are due again.
  bool join(int32_t i, int64_t pixels, const acc_t* about_it, const double* values, const double* square) {
    if (state(i).unmet()) {
      start(i, 1);
      std::copy_n(about_it, padded, of(pilots_, i));
      std::fill_n(sum(i), padded, 0.0);
    }
    settle(i);
    const Double n = Double{} + static_cast<double>(pixels), before = Double{} + static_cast<double>(state(i).count);
    double about_pilot = 0, scatter = 0;
    for (int64_t m = 0; m < padded; m += kDoubles) {
      const auto its = load<Double>(square + m);
      about_pilot += sum_lanes<double, kDoubles>(its);
      scatter += sum_lanes<double, kDoubles>(
          centered_square_sum(its, moved_sum(load<Double>(values + m), n, pilot_of(i, m)), 1 / n));
    }
    const bool good = scatter >= about_pilot / 8;
    for (int64_t m = 0; m < padded; m += kDoubles) {
      const Double all = load<Double>(sum(i) + m) + load<Double>(values + m);
      if (!good) move_channels(i, before, m, all / (before + n));
      store(sum(i) + m, all);
    }
    count_pixels(i, pixels);
    good ? join_squares(i, square) : settle_and_aim(i);
    return good;
  }

  void join_squares(int32_t i, const double* square) {
    for (int64_t m = 0; m < padded; ++m) squares(i)[m] += square[m];
  }

  // Between kRowChannels of rows: their squares join double sums.
  void settle_squares(const int32_t* label, int64_t pixels) {
    for (int64_t x = 0; x < pixels; ++x) {
      if (label[x] != kIgnored) settle_squares(label[x]);
    }
  }

  // Turns the sums into count, mean (N, M) and scatter.
  void finish(const ChunkTable& out) {
    for (int32_t i = 0; i < N; ++i) {
      out.count[i] = 0;
      if (state(i).unmet()) continue;
      settle(i);
      out.count[i] = state(i).count;
      const Double n = Double{} + static_cast<double>(out.count[i]), inverse_n = 1 / n;
      double* const square = squares(i);
      for (int64_t m = 0; m < padded; m += kDoubles) {
        const Double about_pilot = about(i, m, n);
        store(part + m, kOfValues ? load<Double>(sum(i) + m) / n : pilot_of(i, m) + about_pilot * inverse_n);
        double* const at = square + m % kPad;
        store(at, centered_square_sum(load<Double>(at), about_pilot, inverse_n));
      }
      std::copy_n(part, M, out.mean + i * M);
      out.scatter[i] = at_least_zero(sum_eight(square));
    }
  }

  const int64_t N, M, padded;

 private:
  // Sums are of values as they are; of double, where these would be rounded, about the pilot.
  static constexpr bool kOfValues = std::is_same_v<acc_t, float>;

  CAS_SELDOM void prepare_channels(const Piece& piece, int64_t first, int64_t last, const scalar_t* s,
                                   int64_t channel_stride) {
#if CAS_X86_LEVEL >= 4
    if constexpr (std::is_same_v<acc_t, float>) {
      if (piece.meets > 1) return meet_mean(piece, first, last, s, channel_stride);
    }
#endif
    if (piece.meets) return meet_channels(piece.region, first, last, s, channel_stride);
    move_pilot(piece.region, piece.count, first, last);
  }

  CAS_SELDOM void settle_and_aim(int32_t i) {
    settle(i);
    state(i).aim();
  }

  void settle_and_move(int32_t i) {
    settle_and_aim(i);
    move_pilot(i, state(i).count, 0, padded);
  }

  // Begins region i with its first pixel.
  void meet(int32_t i, const scalar_t* s, int64_t channel_stride) {
    start(i, 1);
    meet_channels(i, 0, padded, s, channel_stride);
  }

  CAS_SELDOM void start(int32_t i, int64_t pixels) {
    for (int k = 0; k < kPad; ++k) squares(i)[k] = row_square(i)[k] = 0;
    state(i).start(pixels);
  }

  void meet_channels(int32_t i, int64_t first, int64_t last, const scalar_t* s, int64_t channel_stride) {
    acc_t* const pilot = of(pilots_, i);
    for (int64_t m = first; m < last; ++m) {
      pilot[m] = m < M ? finite_or(to_acc(s[m * channel_stride]), acc_t(0)) : 0;
      sum(i)[m] = 0;
    }
  }

#if CAS_X86_LEVEL >= 4
  // Planes: takes the mean of the first pixels of a piece, of which each has a vector in memory, as pilot of kPad
  // channels at most.
  void meet_mean(const Piece& piece, int64_t first, int64_t last, const scalar_t* s, int64_t channel_stride) {
    using V = Vec<float, kPad>;
    const Keep<float> pixels((uint64_t(1) << piece.meets) - 1);
    const Keep<float, kPad> channels((uint64_t(1) << std::min(M - first, kPad)) - 1);
    const auto mean = fold_floats<kPad>([&](int64_t k) {
      const scalar_t* const plane = s + std::min(first + k, M - 1) * channel_stride;
      return pixels(load_acc<kLanes<float>>(plane)) * (1.0f / piece.meets);
    });
    store(of(pilots_, piece.region) + first, channels(finite_or(cut(__builtin_convertvector(mean, V)), V{})));
    std::fill_n(sum(piece.region) + first, last - first, 0.0);
  }
#endif

  // A few channels of region i, of n pixels, from m on.
  static constexpr int kDoubles = kLanes<double> < kNarrow ? kLanes<double> : kNarrow;
  using Double = Vec<double, kDoubles>;
  Double pilot_of(int32_t i, int64_t m) const { return widen<kDoubles>(load<Vec<acc_t, kDoubles>>(pilot(i) + m)); }
  Double about(int32_t i, int64_t m, Double n) const {  // sums of values - pilot
    const auto s = load<Double>(sum(i) + m);
    return kOfValues ? moved_sum(s, n, pilot_of(i, m)) : s;
  }

  // Takes the mean of the `count` pixels so far as pilot.
  void move_pilot(int32_t i, int64_t count, int64_t first, int64_t last) {
    const Double n = Double{} + static_cast<double>(count), inverse_n = 1 / n;
    for (int64_t m = first; m < last; m += kDoubles) {
      move_channels(i, n, m, pilot_of(i, m) + about(i, m, n) * inverse_n);
    }
  }

  // Takes `mean` as pilot of a few channels; their sums are of n pixels.
  void move_channels(int32_t i, Double n, int64_t m, Double mean) {
    const auto old = load<Vec<acc_t, kDoubles>>(pilot(i) + m);
    const auto next = finite_or(cut(__builtin_convertvector(mean, Vec<acc_t, kDoubles>)), old);
    const Double about_pilot = about(i, m, n), shift = widen<kDoubles>(next) - widen<kDoubles>(old);
    double* const square = squares(i) + m % kPad;
    store(square, moved_square_sum(load<Double>(square), about_pilot, n, shift));
    if (!kOfValues) store(sum(i) + m, moved_sum(about_pilot, n, shift));
    store(of(pilots_, i) + m, next);
  }

  // To values of the stored type: the difference of two such is exact, or nearly.
  template <class V>
  static V cut(V value) {
    if constexpr (std::is_same_v<scalar_t, acc_t>) return value;
    constexpr uint32_t kept = std::is_same_v<scalar_t, c10::Half> ? 0xffffe000u : 0xffff0000u;  // 10 or 7 bits
    return (V)((Vec<uint32_t, sizeof(V) / sizeof(uint32_t)>)value & kept);
  }

  // Rows of region i join the others.
  void settle(int32_t i) {
    settle_squares(i);
    state(i).settle();
  }

  void settle_squares(int32_t i) {
    acc_t* square = row_square(i);
    for (int k = 0; k < kPad; ++k) {
      squares(i)[k] += square[k];
      square[k] = 0;
    }
  }

  acc_t* row_square(int32_t i) const { return of(row_squares_, i); }
  Progress& state(int32_t i) const { return *of(state_, i); }

  // What lies at `first` for region 0, for region i.
  template <class T>
  T* of(T* first, int64_t i) const {
    return rows(0).of(first, i);
  }

#undef CAS_SELDOM

  // All of a region lies together, in an odd number of cache lines: those of one channel then spread over a cache.
  const int64_t stride_;
  double *const squares_, *const sums_;
  acc_t *const pilots_, *const row_squares_;  // row_squares_: eight sums of squares of rows, until they settle
  Progress* const state_;

 public:
  double* const part;  // (padded) sums of the segment at hand, about its pilot
};

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
