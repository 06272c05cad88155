// accumulate on the CPU: input (B,M,P), target (B,P) -> moments of one chunk of pixels of one image.
// One thread owns a chunk and walks it in tiles. Per tile it chooses: runs of equal labels are summed run by run,
// planar ones eight planes of the tile at a time; a few regions that alternate are summed under masks; many are summed
// row by row into the table, lanes being channels.
#pragma once

#include "kernels.h"
#include "packed.h"
#include "rows.h"
#include "sums.h"
#include "table.h"
#include "transpose.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// Mean run lengths (pixels) of a tile below which its pixels are sorted instead: planar, and for few channels;
// interleaved, and for few channels.
constexpr int64_t kShortRun = 20, kShortRunOfFew = kShortestRun;
constexpr int64_t kShortRow = 24, kShortRowOfFew = 12;
static_assert(kShortRowOfFew >= kShortestRun);
constexpr int64_t kLongRunOfTwo = 64;  // mean run length below which two regions are cheaper to mask

// Of the pixels that are sorted at a time: values of a group of channels, which the L1 cache holds; values of
// interleaved pixels; and pixels.
constexpr int64_t kTurnedValues = 1 << 13, kRowValues = 1 << 15;
constexpr int64_t kTurnedPixels = 32;  // that become rows at a time where they are not sorted
// Pixels of each label in a block, on average, below which sorting them does not pay; interleaved.
constexpr int64_t kFewOfEach = 6, kFewRowsOfEach = 16;

// How the pixels of a tile lie.
struct Strides {
  int64_t channel, pixel;
  bool interleaved;
};

// Pixels as rows of padded_row(channels), padded with zeros. Interleaved: channels < kPad.
template <class scalar_t>
inline void turn_rows(const scalar_t* s, const Strides& strides, int64_t channels, int64_t pixels,
                      AccOf<scalar_t>* rows) {
  if (!strides.interleaved) {
    return channels <= kNarrow ? transpose<kNarrow>(s, strides.channel, channels, pixels, rows, kNarrow)
                               : transpose<kPad>(s, strides.channel, channels, pixels, rows, padded_row(channels));
  }
  visit_few(channels, [&](auto M) {
    constexpr int kRow = M.value <= kNarrow ? kNarrow : kPad;
    for (int64_t x = 0; x < pixels; ++x) {
      for (int m = 0; m < kRow; ++m) rows[x * kRow + m] = m < M.value ? to_acc(s[x * strides.pixel + m]) : 0;
    }
  });
}

template <class scalar_t>
class Chunk {
 public:
  using acc_t = AccOf<scalar_t>;
  static constexpr int64_t L = kLanes<acc_t>;

  Chunk(const Shape& shape, const Strides& strides, void* scratch)
      : t_(shape, scratch),
        counts_(shape.regions, t_.memory_for_counts()),
        M_(shape.channels),
        strides_(strides),
        packed_(strides.interleaved && strides.pixel == M_ && M_ < kPad) {}

  // `s`: the first pixel of the tile.
  void add(Tile& tile, const scalar_t* s) {
    const bool maskable = M_ <= kPad && (packed_ || !strides_.interleaved);
    const int64_t mean_run = tile.size / tile.runs;
    const bool mask_two = maskable && t_.N == 2 && mean_run < kLongRunOfTwo;
    const bool by_planes = !strides_.interleaved && tile.size >= L;
    if (by_planes && !mask_two && mean_run >= (M_ <= kNarrow ? kShortRunOfFew : kShortRun)) return add_planes(tile, s);
    if (strides_.interleaved && !mask_two && mean_run >= (M_ < kPad ? kShortRowOfFew : kShortRow))
      return add_runs(tile, s);
    fill_labels(tile);
    if (maskable) {
      const FewRegions few = few_regions(tile, t_.N);
      const int64_t limit = (packed_ ? 1 : kUnroll) * L * kAdditions;
      for (int64_t x = 0; few.size <= kFew && x < tile.size; x += limit) {
        add_masked(tile, s, few, x, std::min(x + limit, tile.size));
      }
      if (few.size <= kFew) return;
    }
    const int64_t values = in_rows() ? kRowValues / M_ : kTurnedValues / (M_ <= kNarrow ? kNarrow : kPad);
    const int64_t block = std::clamp(values, kTurnedPixels, kTile);
    for (int64_t x = 0; x < tile.size; x += block) {
      add_block(tile.label + x, static_cast<int32_t>(std::min(block, tile.size - x)), s + x * strides_.pixel);
    }
  }

  void finish(const ChunkTable& out) { t_.finish(out); }

 private:
  // Pixels lie in memory as rows of channels.
  bool in_rows() const { return strides_.interleaved && M_ >= kPad; }

  void add_runs(const Tile& tile, const scalar_t* s) {
    for_each_run(tile, [&](int32_t i, int64_t first, int64_t length) {
      if (i == kIgnored) return;
      const int64_t end = first + length;
      for (int64_t x = first, pixels; x < end; x += pixels) {
        const scalar_t* run = s + x * strides_.pixel;
        t_.aim(i, run, strides_.channel);
        pixels = std::min(end - x, t_.longest(i));
        tile.size < L ? add_pixels(run, pixels, t_.pilot(i), t_.squares(i))
                      : add_segment(run, pixels, tile.size - x, t_.pilot(i), t_.squares(i));
        for (int64_t m = M_; m < t_.padded; ++m) t_.part[m] = 0;
        t_.merge(i, pixels);
      }
    });
  }

  // Planar runs, kPad planes of the whole tile at a time: so many streams suit the memory, and each has a page or two.
  void add_planes(const Tile& tile, const scalar_t* s) {
    int64_t pieces = 0;
    for_each_run(tile, [&](int32_t i, int64_t x, int64_t length) {
      if (i == kIgnored) return;
      for (const int64_t end = x + length; x < end;) x += t_.plan(i, x, end - x, piece_[pieces++]);
    });
    for (int64_t m = 0; m < M_; m += kPad) {
      const scalar_t* planes = s + m * strides_.channel;
      visit_count<kPad>(M_ - m, [&](auto K) {
        for (int64_t p = 0; p < pieces; ++p) {
          const Piece& piece = piece_[p];
          const int64_t i = piece.region, x = piece.begin;
          t_.prepare(piece, m, std::min(m + kPad, t_.padded), s + x, strides_.channel);
          sum_planes<K.value>(planes + x, strides_.channel, piece.pixels, tile.size - x, t_.pilot(i) + m,
                              t_.row_sum(i) + m, t_.squares(i));
        }
      });
    }
  }

  // Sums interleaved pixels of a region into t_.part. Their tile has L pixels at least, `left` of them from s on.
  void add_segment(const scalar_t* s, int64_t pixels, int64_t left, const acc_t* center, double* square) {
    if (packed_) {
      return visit_few(M_, [&](auto M) { sum_packed<M.value>(s, pixels, left, center, t_.part, square); });
    }
    M_ < kPad ? add_pixels(s, pixels, center, square)
              : sum_pixels(s, pixels, strides_.pixel, M_, center, t_.part, square);
  }

  // The same one by one.
  void add_pixels(const scalar_t* s, int64_t pixels, const acc_t* center, double* square) {
    for (int64_t m = 0; m < M_; ++m) {
      t_.part[m] = 0;
      for (int64_t x = 0; x < pixels; ++x) {
        add_one(s[m * strides_.channel + x * strides_.pixel], center[m], t_.part[m], square[m % kPad]);
      }
    }
  }

  // Pixels [begin, end) of the tile. Halved until no region has many more of them than its pilot was taken from.
  void add_masked(const Tile& tile, const scalar_t* s, const FewRegions& few, int64_t begin, int64_t end) {
    const int32_t* label = tile.label + begin;
    int64_t pixels[kFew] = {};
    int present = 0;
    int32_t region[kFew];
    for (int r = 0; r < few.size; ++r) {
      int32_t count = 0;
      for (int64_t x = 0; x < end - begin; ++x) count += label[x] == few.region[r];
      if (count == 0) continue;
      if (count > t_.longest_now(few.region[r]) && end - begin > 2 * kFirstSegment) {
        const int64_t half = begin + (end - begin) / 2;
        add_masked(tile, s, few, begin, half);
        return add_masked(tile, s, few, half, end);
      }
      region[present] = few.region[r];
      pixels[present++] = count;
    }
    for (int r = 0; r < present; ++r) {
      int64_t x = begin;
      while (tile.label[x] != region[r]) ++x;
      t_.aim(region[r], s + x * strides_.pixel, strides_.channel);
      if (!packed_) continue;
      visit_few(M_, [&](auto M) {
        sum_packed_masked<M.value>(s + begin * strides_.pixel, label, end - begin, region[r], pixels[r],
                                   t_.pilot(region[r]), t_.part, t_.squares(region[r]));
      });
      for (int64_t m = M_; m < t_.padded; ++m) t_.part[m] = 0;
      t_.merge(region[r], pixels[r]);
    }
    if (!packed_) add_masked_planes(s + begin, label, end - begin, region, pixels, present);
  }

  // Planar pixels, two regions at a time; channel by channel, so that a plane is read from memory once.
  void add_masked_planes(const scalar_t* s, const int32_t* label, int64_t length, const int32_t* region,
                         const int64_t* pixels, int present) {
    for (int64_t m = 0; m < M_; ++m) {
      acc_t center[kFew];
      double sum[kFew], *square[kFew];
      for (int r = 0; r < present; ++r) {
        center[r] = t_.pilot(region[r])[m];
        square[r] = t_.squares(region[r]);
      }
      const scalar_t* plane = s + m * strides_.channel;
      for (int r = 0; r < present; r += 2) {
        r + 1 < present
            ? sum_masked<2>(plane, label, length, region + r, pixels + r, center + r, sum + r, square + r, r == 0)
            : sum_masked<1>(plane, label, length, region + r, pixels + r, center + r, sum + r, square + r, r == 0);
      }
      for (int r = 0; r < present; ++r) t_.merge_channel(region[r], m, pixels[r], sum[r]);
    }
    for (int r = 0; r < present; ++r) t_.count_pixels(region[r], pixels[r]);
  }

  // Pixels with any labels, lanes are channels. Those of one region come one after the other where there are a few of
  // each, so that its sums stay in registers.
  void add_block(const int32_t* label, int32_t pixels, const scalar_t* s) {
    const int32_t labels = counts_.count_block(label, pixels);
    if (labels * (in_rows() ? kFewRowsOfEach : kFewOfEach) <= pixels) {
      const int64_t pieces = sort(label, pixels);
      if (M_ <= kNarrow) return add_sorted<kNarrow>(pixels, s, pieces);
      return in_rows() ? add_sorted_rows(s, pieces) : add_sorted<kPad>(pixels, s, pieces);
    }
    const bool taken = t_.take(counts_, label, s, strides_.pixel, strides_.channel, pixels <= kTurnedPixels);
    counts_.clear();
    if (!taken) {
      const int32_t half = pixels / 2;
      add_block(label, half, s);
      return add_block(label + half, pixels - half, s + half * strides_.pixel);
    }
    if (M_ <= kNarrow) return add_turned<kNarrow>(label, pixels, s);
    if (!in_rows()) return add_turned<kPad>(label, pixels, s);
    for (int64_t x = 0; x < pixels; ++x) {
      const int32_t i = label[x];
      if (i == kIgnored) continue;
      sum_pixel(s + x * strides_.pixel, M_, t_.pilot(i), t_.row_sum(i), t_.row_square(i));
    }
  }

  // Sorts the pixels of a block and plans the pieces of each region, places in that order. Returns how many.
  int64_t sort(const int32_t* label, int32_t pixels) {
    counts_.sort(label, pixels, order_);
    int64_t pieces = 0;
    for (int32_t k = 0; k < counts_.labels(); ++k) {
      const int32_t i = counts_.label(k), end = counts_.begin(k + 1);
      if (i == kIgnored) continue;
      for (int32_t x = counts_.begin(k); x < end;) x += t_.plan(i, x, end - x, piece_[pieces++]);
    }
    return pieces;
  }

  // Pixels as touching rows of kWidth channels, from channel m on, with zeros for those that are missing.
  template <int kWidth>
  void turn(const scalar_t* s, int64_t m, int64_t pixels, acc_t* rows) {
    const int64_t channels = std::min<int64_t>(kWidth, M_ - m);
    if (strides_.interleaved) return turn_rows(s, strides_, channels, pixels, rows);
    transpose<kWidth>(s + m * strides_.channel, strides_.channel, channels, pixels, rows, kWidth);
  }

  // kWidth channels of all pixels after the other. Interleaved: there are no more.
  template <int kWidth>
  void add_turned(const int32_t* label, int64_t pixels, const scalar_t* s) {
    alignas(64) acc_t rows[kTurnedPixels * kWidth];
    for (int64_t m = 0; m < M_; m += kWidth) {
      const TableRows<acc_t> table{t_.pilot(0) + m, t_.row_sum(0) + m, t_.row_square(0), t_.padded};
      for (int64_t x = 0; x < pixels; x += kTurnedPixels) {
        const int64_t turned = std::min(kTurnedPixels, pixels - x);
        turn<kWidth>(s + x * strides_.pixel, m, turned, rows);
        sum_rows<kWidth>(rows, label + x, turned, table);
      }
    }
  }

  template <int kWidth>
  void add_sorted(int64_t pixels, const scalar_t* s, int64_t pieces) {
    alignas(64) acc_t rows[kTurnedValues];
    for (int64_t m = 0; m < M_; m += kWidth) {
      turn<kWidth>(s, m, pixels, rows);
      for (int64_t p = 0; p < pieces; ++p) {
        const Piece& piece = piece_[p];
        const int64_t i = piece.region;
        const uint16_t* order = order_ + piece.begin;
        t_.prepare(piece, m, m + kWidth, s + order[0] * strides_.pixel, strides_.channel);
        const auto place = [&](int64_t x) { return static_cast<const acc_t*>(rows) + order[x] * kWidth; };
        sum_piece<kWidth, scalar_t>(piece.pixels, place, t_.pilot(i) + m, t_.row_sum(i) + m, t_.squares(i));
      }
    }
  }

  void add_sorted_rows(const scalar_t* s, int64_t pieces) {
    for (int64_t p = 0; p < pieces; ++p) {
      const Piece& piece = piece_[p];
      const int64_t i = piece.region;
      const uint16_t* order = order_ + piece.begin;
      t_.prepare(piece, 0, t_.padded, s + order[0] * strides_.pixel, strides_.channel);
      for (int64_t m = 0; m + kPad <= M_; m += kPad) {
        const auto place = [&](int64_t x) { return s + order[x] * strides_.pixel + m; };
        sum_piece<kPad, scalar_t>(piece.pixels, place, t_.pilot(i) + m, t_.row_sum(i) + m, t_.squares(i));
      }
      if (M_ % kPad == 0) continue;
      const int64_t m = M_ - kPad;  // the last kPad channels; those already added are dropped
      double sum[kPad] = {}, square[kPad] = {};
      const auto place = [&](int64_t x) { return s + order[x] * strides_.pixel + m; };
      sum_piece<kPad, scalar_t>(piece.pixels, place, t_.pilot(i) + m, sum, square);
      for (int64_t k = kPad - M_ % kPad; k < kPad; ++k) {
        t_.row_sum(i)[m + k] += sum[k];
        t_.squares(i)[k] += square[k];
      }
    }
  }

  static constexpr int64_t kMaxPieces = kMaxRuns + kTile / kFirstSegment;  // runs, cut at kFirstSegment pixels or more

  RegionTable<scalar_t> t_;
  LabelCounts counts_;
  Piece piece_[kMaxPieces];
  uint16_t order_[kTile];
  const int64_t M_;
  const Strides strides_;
  const bool packed_;  // interleaved, pixels touch, fewer channels than kPad
};

template <class scalar_t>
int64_t accumulate_chunk(const AccumulateParams& p, int64_t b, int64_t begin, int64_t end, const ChunkTable& table) {
  const PixelArray& input = p.input;
  const scalar_t* image = static_cast<const scalar_t*>(input.data) + b * input.image_stride;
  Chunk<scalar_t> chunk(p.shape, {input.channel_stride, input.pixel_stride, input.interleaved}, table.scratch);
  int64_t invalid = kNoPixel;
  Tile tile;
  for (int64_t x = begin; x < end; x += kTile) {
    read_tile(p.target, p.shape, b, x, std::min(kTile, end - x), tile);
    if (tile.invalid != kNoPixel && invalid == kNoPixel) invalid = x + tile.invalid;
    chunk.add(tile, image + x * input.pixel_stride);
  }
  chunk.finish(table);
  return invalid;
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
