// accumulate on the CPU: input (B,M,P), target (B,P) -> moments of one chunk of pixels of one image.
// One thread owns a chunk and walks it in tiles. Per tile it chooses: runs of equal labels are summed run by run,
// planar ones eight planes of the tile at a time; a few regions that alternate in few channels are summed under masks;
// else lanes are channels, and pixels are sorted by their labels where there are several of each.
#pragma once

#include "blocks.h"
#include "kernels.h"
#include "packed.h"
#include "sums.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// Mean run lengths (pixels) of a tile below which its pixels are sorted instead: planar, and for few channels;
// interleaved, and for few channels.
constexpr int64_t kShortRun = 20, kShortRunOfFew = kShortestRun;
constexpr int64_t kShortRow = 24, kShortRowOfFew = 12;
static_assert(kShortRowOfFew >= kShortestRun);
constexpr int64_t kLongRunOfTwo = 64;  // mean run length below which two regions are cheaper to mask

template <class scalar_t>
class Chunk {
 public:
  using acc_t = AccOf<scalar_t>;
  static constexpr int64_t L = kLanes<acc_t>;

  Chunk(const Shape& shape, const Strides& strides, void* scratch)
      : t_(shape, scratch),
        blocks_(t_, strides),
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
    if (blocks_.in_rows() && mean_run >= kShortestRun) return blocks_.add_runs(tile, s);
    fill_labels(tile);
    if (maskable) {
      const FewRegions few = few_regions(tile, t_.N);
      const int64_t limit = (packed_ ? 1 : kUnroll) * L * kAdditions;
      for (int64_t x = 0; few.size <= kFew && x < tile.size; x += limit) {
        add_masked(tile, s, few, x, std::min(x + limit, tile.size));
      }
      if (few.size <= kFew) return;
    }
    blocks_.add(tile, s);
  }

  void finish(const ChunkTable& out) { t_.finish(out); }

 private:
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

  static constexpr int64_t kMaxPieces = kMaxRuns + kTile / kFirstSegment;  // runs, cut at kFirstSegment pixels or more

  RegionTable<scalar_t> t_;
  BlockSums<scalar_t> blocks_;
  Piece piece_[kMaxPieces];
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
