// Sums of pixels where lanes are channels, so that a run may begin and end anywhere. Pixels with any labels are taken
// block by block: sorted by their labels, so that a region's sums stay in registers for several pixels, or else as they
// come, each added to its row of the table. Planes of a block become rows of pixels first, kPad at a time.
#pragma once

#include "rows.h"
#include "sorted_products.h"
#include "table.h"
#include "transpose.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

template <class acc_t>  // that are sorted at a time; kPad channels of them fit the L2 cache
constexpr int64_t kSortedPixels = kSortedBytes / (kPad * static_cast<int64_t>(sizeof(acc_t)));
constexpr int64_t kTurnedPixels = 32;  // that become rows at a time where they are not sorted

// Pixels of each label in a block, on average, below which sorting them does not pay. Only for float does it depend on
// the processor: its sums are exact, in whatever order.
template <class scalar_t>
int64_t few_of_each() {
  if (!std::is_same_v<scalar_t, float> || !kTuning.forwards) return 6;
  return CAS_X86_LEVEL >= 4 ? 128 : 12;
}

template <class scalar_t>
class BlockSums {
 public:
  using acc_t = AccOf<scalar_t>;

  // `pieces`, `rows`: memory for those of sorted pixels.
  BlockSums(RegionTable<scalar_t>& table, const Strides& strides, Piece* pieces, char* rows)
      : t_(table),
        counts_(t_.N, t_.memory_for_counts()),
        pieces_(pieces),
        rows_(reinterpret_cast<acc_t*>(rows)),
        M_(t_.M),
        strides_(strides),
        in_place_(strides.interleaved && (M_ >= kPad || strides.pixel == M_)),
        sorted_(!in_place_ && M_ > kNarrow) {}

  // A tile whose labels have been filled in; `s`: its first pixel.
  void add(const Tile& tile, const scalar_t* s) {
    const int64_t block = sorted_ ? kSortedPixels<acc_t> : std::clamp(kRowSegment / 2 * t_.N, kTurnedPixels, kTile);
    for (int64_t x = 0; x < tile.size; x += block) {
      add_block(tile.label + x, static_cast<int32_t>(std::min(block, tile.size - x)), s + x * strides_.pixel);
    }
  }

  // Runs of interleaved pixels, M_ >= kPad. Where a run is short, or is read several times, no processor guesses what
  // comes next.
  void add_runs(const Tile& tile, const scalar_t* s) {
    const bool guessed = M_ <= kWidest && tile.size >= kShortRow * tile.runs, ask = !guessed || kTuning.always;
    const int64_t ahead = (guessed ? 2 : 1) * kRowBlock;
    for_each_run(tile, [&](int32_t i, int64_t x, int64_t length) {
      if (i == kIgnored) return;
      Piece piece;
      for (const int64_t end = x + length; x < end; x += piece.pixels) {
        t_.plan(i, x, end - x, piece);
        const scalar_t* first = s + x * strides_.pixel;
        t_.prepare(piece, 0, t_.padded, first, strides_.channel);
        for (int64_t done = 0; done < piece.pixels; done += kRowBlock) {
          const scalar_t* block = first + done * strides_.pixel;
          const scalar_t* next = ask ? block + ahead * strides_.pixel : nullptr;
          add_rows(
              i, std::min(kRowBlock, piece.pixels - done), [&](int64_t k) { return block + k * strides_.pixel; }, next);
        }
      }
    });
  }

 private:
  // Pixels with any labels, lanes are channels. Those of one region come one after the other where that pays, so that
  // its sums stay in registers; in memory as rows, it would change the order in which they are read.
  void add_block(const int32_t* label, int32_t pixels, const scalar_t* s) {
    const int32_t labels = counts_.count_block(label, pixels);
    if (sorted_ && labels * few_of_each<scalar_t>() <= pixels) return add_sorted(pixels, s, sort(label, pixels));
    const bool taken = t_.take(counts_, label, pixels, s, strides_.pixel, strides_.channel, pixels <= kTurnedPixels);
    counts_.clear();
    if (!taken) {
      const int32_t half = pixels / 2;
      add_block(label, half, s);
      return add_block(label + half, pixels - half, s + half * strides_.pixel);
    }
    const auto add_rows_of = [&](auto width) {
      in_place_ ? add_in_place<width.value>(label, pixels, s) : add_turned<width.value>(label, pixels, s);
    };
    if constexpr (std::is_same_v<acc_t, double>) {  // few channels of other types: narrow.h
      if (M_ <= kNarrow) return add_rows_of(std::integral_constant<int, kNarrow>());
    }
    add_rows_of(std::integral_constant<int, kPad>());
  }

  // Interleaved pixels, kWidth channels of a few of them after the other, so that what they touch of the table stays in
  // the L1 cache.
  template <int kWidth>
  void add_in_place(const int32_t* label, int64_t pixels, const scalar_t* s) {
    for (int64_t x = 0; x < pixels; x += kRowsInPlace) {
      const int64_t rows = std::min(kRowsInPlace, pixels - x);
      const scalar_t *const first = s + x * strides_.pixel, *next = first + rows * strides_.pixel;
      for (int64_t m = 0; m < M_; m += kWidth, next += rows * kWidth) {
        const TableRows<acc_t> table = t_.rows(m);
        const int64_t channels = M_ - m;
        if (channels >= kWidth) {
          sum_rows<kWidth, true>(first + m, strides_.pixel, label + x, rows, table, kWidth, next);
          if ((m + kWidth) % kRowChannels == 0 && channels > kWidth) t_.settle_squares(label + x, rows);
          continue;
        }
        // What follows the last channel belongs to the next pixel, if there is one.
        scalar_t last[kWidth] = {};
        std::copy_n(first + (rows - 1) * strides_.pixel + m, channels, last);
        sum_rows<kWidth, false>(first + m, strides_.pixel, label + x, rows - 1, table, channels, next);
        sum_rows<kWidth, false, scalar_t>(last, 0, label + x + rows - 1, 1, table, channels, nullptr);
      }
    }
  }

  // Sorts the pixels of a block and plans the pieces of each region, places in that order. Returns how many.
  int64_t sort(const int32_t* label, int32_t pixels) {
    counts_.sort(label, pixels, order_);
    std::fill_n(order_ + pixels, kAtOnce, 0);
    int64_t pieces = 0;
    for (int32_t k = 0; k < counts_.labels(); ++k) {
      const int32_t i = counts_.label(k), end = counts_.begin(k + 1);
      if (i == kIgnored) continue;
      for (int32_t x = counts_.begin(k); x < end;) x += t_.plan(i, x, end - x, pieces_[pieces++]);
    }
    return pieces;
  }

  // kWidth channels of all pixels after the other. Interleaved: there are no more.
  template <int kWidth>
  void add_turned(const int32_t* label, int64_t pixels, const scalar_t* s) {
    alignas(64) acc_t rows[kTurnedPixels * kWidth];
    for (int64_t m = 0; m < M_; m += kWidth) {
      const auto next = NextPlanes<scalar_t>::after(s, strides_.channel, m, M_, s + pixels);
      const TableRows<acc_t> table = t_.rows(m);
      for (int64_t x = 0; x < pixels; x += kTurnedPixels) {
        const int64_t turned = std::min(kTurnedPixels, pixels - x);
        turn_rows<kWidth>(s + x * strides_.pixel + m * strides_.channel, strides_, std::min<int64_t>(kWidth, M_ - m),
                          turned, rows, next.from(x));
        sum_rows<kWidth, true, acc_t>(rows, kWidth, label + x, turned, table, kWidth, nullptr);
      }
      if ((m + kWidth) % kRowChannels == 0 && m + kWidth < M_) t_.settle_squares(label, pixels);
    }
  }

  void add_sorted(int64_t pixels, const scalar_t* s, int64_t pieces) {
    if constexpr (kProducts<scalar_t>) {
      if (!strides_.interleaved) return add_sorted_products(pixels, s, pieces);
    }
    for (int64_t m = 0; m < M_; m += kPad) {
      turn_rows<kPad>(s + m * strides_.channel, strides_, std::min<int64_t>(kPad, M_ - m), pixels, rows_,
                      NextPlanes<scalar_t>::after(s, strides_.channel, m, M_, s + pixels));
      for (int64_t p = 0; p < pieces; ++p) {
        const Piece& piece = pieces_[p];
        const int64_t i = piece.region;
        const uint16_t* order = order_ + piece.begin;
        t_.prepare(piece, m, m + kPad, s + order[0] * strides_.pixel, strides_.channel);
        const auto place = [&](int64_t x) { return static_cast<const acc_t*>(rows_) + order[x] * kPad; };
        sum_piece<kPad, scalar_t>(piece.pixels, place, t_.pilot(i) + m, t_.sum(i) + m, t_.squares(i));
      }
    }
  }

#if CAS_X86_LEVEL >= 5
  void add_sorted_products(int64_t pixels, const scalar_t* s, int64_t pieces) {
    scalar_t* const rows = reinterpret_cast<scalar_t*>(rows_);
    for (int64_t m = 0; m < M_; m += kPad) {
      const scalar_t* const planes = s + m * strides_.channel;
      turn_pixels(planes, strides_.channel, std::min(kPad, M_ - m), pixels, rows,
                  NextPlanes<scalar_t>::after(s, strides_.channel, m, M_, s + pixels));
      for (int64_t p = 0; p < pieces; ++p) {
        const Piece& piece = pieces_[p];
        const int64_t i = piece.region;
        const uint16_t* order = order_ + piece.begin;
        t_.prepare(piece, m, m + kPad, s + order[0], strides_.channel);
        if (!sum_piece_products(rows, order, piece.pixels, t_.pilot(i) + m, t_.sum(i) + m, t_.squares(i))) {
          add_again(planes, order, m, piece);
        }
      }
    }
  }

  // A piece whose products overflow.
  __attribute__((noinline)) void add_again(const scalar_t* planes, const uint16_t* order, int64_t m,
                                           const Piece& piece) {
    const int64_t i = piece.region;
    for (int64_t k = 0; k < std::min(kPad, M_ - m); ++k) {
      const acc_t center = t_.pilot(i)[m + k];
      double about_pilot = 0;
      for (int64_t x = 0; x < piece.pixels; ++x) {
        add_one(planes[k * strides_.channel + order[x]], center, about_pilot, t_.squares(i)[k]);
      }
      t_.merge_channel(i, m + k, piece.pixels, about_pilot);
    }
  }
#endif

  // Pixels of region i; row(x): the channels of the x-th. Meanwhile asks for as many rows at `next`, if that is not
  // null, and moves it.
  template <class Row>
  void add_rows(int64_t i, int64_t pixels, Row row, const scalar_t*& next) {
    int64_t m = 0;
    const auto add_channels = [&](auto width) {
      const auto add = [&](auto place) {
        sum_piece<width.value, scalar_t>(pixels, place, t_.pilot(i) + m, t_.sum(i) + m, t_.squares(i));
      };
      if (next == nullptr) {
        add([&](int64_t x) { return row(x) + m; });
      } else {
        add([&](int64_t x) {
          prefetch<width.value>(next + x * width.value);
          return row(x) + m;
        });
        next += pixels * width.value;
      }
      m += width.value;
    };
    while (M_ - m >= kWidest) add_channels(std::integral_constant<int, kWidest>());
    if constexpr (kWidest > 4 * kPad) {
      if (M_ - m >= 4 * kPad) add_channels(std::integral_constant<int, 4 * kPad>());
    }
    if constexpr (kWidest > 2 * kPad) {
      if (M_ - m >= 2 * kPad) add_channels(std::integral_constant<int, 2 * kPad>());
    }
    if (M_ - m >= kPad) add_channels(std::integral_constant<int, kPad>());
    if (m == M_) return;
    const int64_t fresh = M_ - m;
    m = M_ - kPad;  // the last kPad channels; those already added are dropped
    double sum[kPad] = {}, square[kPad] = {};
    const auto place = [&](int64_t x) { return row(x) + m; };
    sum_piece<kPad, scalar_t>(pixels, place, t_.pilot(i) + m, sum, square);
    for (int64_t k = kPad - fresh; k < kPad; ++k) {
      t_.sum(i)[m + k] += sum[k];
      t_.squares(i)[k] += square[k];
    }
  }

  // Channels whose sums the registers hold.
  static constexpr int kWidest = static_cast<int>(CAS_VECTOR_BYTES >= 64   ? 8 * kPad
                                                  : CAS_VECTOR_BYTES >= 32 ? 2 * kPad
                                                                           : kPad);
  static constexpr int64_t kRowsInPlace = 48;
  static constexpr int64_t kShortRow = 24;  // pixels of a run, on average
  static constexpr int64_t kRowBlock =
      32;  // pixels whose channels are all summed before the next: 8 KB for 64 of float32

  RegionTable<scalar_t>& t_;
  LabelCounts counts_;
  Piece* const pieces_;
  acc_t* const rows_;
  uint16_t order_[kSortedPixels<acc_t> + kAtOnce];
  const int64_t M_;
  const Strides strides_;
  const bool in_place_;  // pixels lie in memory as rows of channels
  const bool sorted_;    // where there are several of each label
};

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
