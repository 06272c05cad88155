// accumulate on the CPU: input (B,M,P), target (B,P) -> moments of one chunk of pixels of one image.
// One thread owns a chunk and walks it in tiles. Per tile it chooses: runs of equal labels are summed run by run,
// planar ones eight planes of the tile at a time; a few regions that alternate in few channels are summed under masks;
// else lanes are channels, and planar pixels are sorted by their labels where there are several of each.
#pragma once

#include "blocks.h"
#include "kernels.h"
#include "narrow.h"
#include "packed.h"
#include "plane_runs.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// Mean run length (pixels) of a tile of few interleaved channels below which it is not summed run by run.
constexpr int64_t kShortRowOfFew = 12;
static_assert(kShortRowOfFew >= kShortestRun);
// Mean run lengths below which two regions are cheaper to mask: planar, interleaved.
constexpr int64_t kLongRunOfTwo = CAS_X86_LEVEL >= 5 ? 96 : CAS_X86_LEVEL >= 4 ? 128 : 64, kLongRowOfTwo = 32;

template <class scalar_t>
class Chunk {
 public:
  using acc_t = AccOf<scalar_t>;
  static constexpr int64_t L = kLanes<acc_t>;

  Chunk(const Shape& shape, const Strides& strides, void* scratch)
      : t_(shape, scratch),
        planes_(t_, strides, pieces()),
        blocks_(t_, strides, pieces(), t_.memory_for_tile() + piece_bytes(shape)),
        narrow_(t_, strides, t_.memory_for_tile() + piece_bytes(shape)),
        M_(shape.channels),
        strides_(strides),
        packed_(strides.interleaved && strides.pixel == M_ && M_ < kPad) {}

  // `s`: the first pixel of the tile; `next`: that of the tile that will follow.
  void add(Tile& tile, const scalar_t* s, const scalar_t* next) {
    const bool maskable = M_ <= kPad && (packed_ || !strides_.interleaved);
    const int64_t mean_run = tile.size / tile.runs;
    const bool mask_two = maskable && t_.N == 2 && mean_run < (packed_ ? kLongRowOfTwo : kLongRunOfTwo);
    const bool by_planes = !strides_.interleaved && tile.size >= kGroupPixels<scalar_t>;
    int64_t shortest = kShortestRun;
    if (strides_.interleaved && M_ < kPad) shortest = kShortRowOfFew;
    if (!strides_.interleaved && M_ > kNarrow) shortest = kShortRun<scalar_t>;
    if ((by_planes || strides_.interleaved) && !mask_two && mean_run >= shortest) {
      list_runs(tile);
      if (by_planes) return planes_.add(tile, s, next);
      return M_ < kPad ? add_runs(tile, s) : blocks_.add_runs(tile, s);
    }
    if (maskable) {
      if (t_.N > kFew) fill_labels(tile);
      const FewRegions few = few_regions({tile.label, static_cast<size_t>(tile.size)}, t_.N);
      if (few.size <= kFew) {
        members_.find(tile, few);
        constexpr int kAll[kFew] = {0, 1, 2, 3};
        return add_masked(tile, s, few, kAll, few.size, 0, tile.size);
      }
    }
    fill_labels(tile);
    if constexpr (std::is_same_v<acc_t, float>) {
      if (0 < M_ && M_ <= kNarrow) return narrow_.add(tile, s);
    }
    blocks_.add(tile, s);
  }

  void finish(const ChunkTable& out) { t_.finish(out); }

 private:
  // Runs of interleaved pixels of few channels.
  void add_runs(const Tile& tile, const scalar_t* s) {
    if (packed_) return visit_few(M_, [&](auto M) { add_packed_runs<M.value>(tile, s); });
    for_each_run(tile, [&](int32_t i, int64_t first, int64_t length) {
      if (i == kIgnored) return;
      const int64_t end = first + length;
      for (int64_t x = first, pixels; x < end; x += pixels) {
        const scalar_t* run = s + x * strides_.pixel;
        t_.aim(i, run, strides_.channel);
        pixels = std::min(end - x, t_.longest(i));
        add_pixels(run, pixels, t_.pilot(i), t_.squares(i));
        for (int64_t m = M_; m < t_.padded; ++m) t_.part[m] = 0;
        t_.merge(i, pixels);
      }
    });
  }

  template <int M>
  void add_packed_runs(const Tile& tile, const scalar_t* s) {
    for_each_run(tile, [&](int32_t i, int64_t x, int64_t length) {
      if (i == kIgnored) return;
      Piece piece;
      for (const int64_t end = x + length; x < end; x += piece.pixels) {
        t_.plan(i, x, end - x, piece);
        t_.prepare(piece, 0, t_.padded, s + x * M, 1);
        sum_packed<M>(s + x * M, piece.pixels, tile.size - x, t_.pilot(i), t_.sum(i), t_.squares(i));
      }
    });
  }

  // Pixels one by one, into t_.part.
  void add_pixels(const scalar_t* s, int64_t pixels, const acc_t* center, double* square) {
    for (int64_t m = 0; m < M_; ++m) {
      t_.part[m] = 0;
      for (int64_t x = 0; x < pixels; ++x) {
        add_one(s[m * strides_.channel + x * strides_.pixel], center[m], t_.part[m], square[m % kPad]);
      }
    }
  }

  // Some of the regions of a segment, and what sums about their pilots need.
  struct Members {
    int size = 0, which[kFew];
    int32_t region[kFew];
    int64_t pixels[kFew];
    const acc_t* pilot[kFew];
    double* squares[kFew];
  };

  // Pixels [begin, end) of the tile and those of its regions, of which members_ knows, that `which` (size) lists. A
  // region that has many more of them than its pilot was taken from gets its halves apart, so that what happens to it
  // depends on its own pixels alone.
  void add_masked(const Tile& tile, const scalar_t* s, const FewRegions& few, const int* which, int size, int64_t begin,
                  int64_t end) {
    Members of;
    int halved[kFew], halves = 0;
    for (int k = 0; k < size; ++k) {
      const int r = which[k];
      const int32_t i = few.region[r];
      const int64_t pixels = members_.count(r, begin, end);
      if (pixels > t_.longest_now(i) && end - begin >= 2 * L) {
        halved[halves++] = r;
      } else if (pixels > 0) {
        t_.aim(i, s + members_.first(r, begin) * strides_.pixel, strides_.channel);
        of.which[of.size] = r;
        of.region[of.size] = i;
        of.pilot[of.size] = t_.pilot(i);
        of.squares[of.size] = t_.squares(i);
        of.pixels[of.size++] = pixels;
      }
    }
    packed_ ? add_masked_packed(s, of, begin, end, tile.size) : add_masked_planes(s, of, begin, end);
    for (int r = 0; r < of.size; ++r) t_.count_pixels(of.region[r], of.pixels[r]);
    if (halves == 0) return;
    const int64_t half = begin + (end - begin) / (2 * L) * L;
    add_masked(tile, s, few, halved, halves, begin, half);
    add_masked(tile, s, few, halved, halves, half, end);
  }

  // Two planes and two regions at a time.
  void add_masked_planes(const scalar_t* s, const Members& of, int64_t begin, int64_t end) {
    for (int64_t m = 0; m < M_; m += 2) {
      visit_count<2>(M_ - m, [&](auto K) {
        for (int r = 0; r < of.size; r += 2) {
          double sum[2][K.value];
          const acc_t* const center[2] = {of.pilot[r] + m, of.pilot[std::min(r + 1, of.size - 1)] + m};
          const int regions = std::min(2, of.size - r);
          visit_count<2>(regions, [&](auto R) {
            if constexpr (kProducts<scalar_t>) {
              if (sum_masked_products<K.value, R.value>(s + m * strides_.channel, strides_.channel, members_,
                                                        of.which + r, begin, end, of.pixels + r, center, sum,
                                                        of.squares + r, r == 0)) {
                return;
              }
            }
            sum_masked<K.value, R.value>(s + m * strides_.channel, strides_.channel, members_, of.which + r, begin, end,
                                         of.pixels + r, center, sum, of.squares + r, r == 0);
          });
          for (int q = 0; q < regions; ++q) {
            for (int k = 0; k < K.value; ++k) t_.merge_channel(of.region[r + q], m + k, of.pixels[r + q], sum[q][k]);
          }
        }
      });
    }
  }

  void add_masked_packed(const scalar_t* s, const Members& of, int64_t begin, int64_t end, int64_t left) {
    visit_few(M_, [&](auto M) {
      for (int r = 0; r < of.size; r += 2) {
        double sum[2][kPad];
        const int regions = std::min(2, of.size - r);
        visit_count<2>(regions, [&](auto R) {
          sum_packed_masked<M.value, R.value>(s, members_, of.which + r, begin, end, left, of.pixels + r, of.pilot + r,
                                              sum, of.squares + r);
        });
        for (int q = 0; q < regions; ++q) {
          for (int m = 0; m < M.value; ++m) t_.merge_channel(of.region[r + q], m, of.pixels[r + q], sum[q][m]);
        }
      }
    });
  }

  RegionTable<scalar_t> t_;
  Piece* pieces() const { return reinterpret_cast<Piece*>(t_.memory_for_tile()); }  // of a tile

  PlaneRuns<scalar_t> planes_;
  BlockSums<scalar_t> blocks_;
  NarrowSums<scalar_t> narrow_;
  MemberBits members_;
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
  const int64_t step = tile_pixels(p.shape.channels);
  for (int64_t x = begin; x < end; x += step) {
    read_tile(p.target, p.shape, b, x, std::min(step, end - x), tile);
    if (tile.invalid != kNoPixel && invalid == kNoPixel) invalid = x + tile.invalid;
    const scalar_t* const pixels = image + x * input.pixel_stride;
    const bool ends_image = x + step >= p.shape.pixels;
    chunk.add(tile, pixels,
              !ends_image              ? pixels + step * input.pixel_stride
              : b + 1 < p.shape.images ? image + input.image_stride
                                       : image);
  }
  chunk.finish(table);
  return invalid;
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
