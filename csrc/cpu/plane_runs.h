// Sums of runs of equal labels in planes, kPad planes of a whole tile at a time: so many streams suit the memory, and
// each has a few pages. Meanwhile the next kPad are asked for.
#pragma once

#include "products.h"
#include "table.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// Whether short runs have code of their own: sum_short_planes.
template <class scalar_t>
constexpr bool kShortRuns = CAS_X86_LEVEL >= 4 && std::is_same_v<AccOf<scalar_t>, float>;

// Mean run lengths (pixels) of a tile: below the first, more than kNarrow planes are sorted; below the second, runs are
// short.
template <class scalar_t>
constexpr int64_t kShortRun = kShortRuns<scalar_t> ? kShortestRun : 20;
constexpr int64_t kLongRun = 64;

template <class scalar_t>
class PlaneRuns {
 public:
  using acc_t = AccOf<scalar_t>;

  // `pieces`: memory for those of a tile.
  PlaneRuns(RegionTable<scalar_t>& table, const Strides& strides, Piece* pieces)
      : t_(table), pieces_(pieces), M_(t_.M), stride_(strides.channel) {}

  // A tile of at least kGroupPixels whose runs are listed; `s`: its first pixel; `next_tile`: that of the next.
  void add(const Tile& tile, const scalar_t* s, const scalar_t* next_tile) {
    const bool short_runs = kShortRuns<scalar_t> && tile.size < kLongRun * tile.runs;
    const int64_t pieces = plan(tile, short_runs);
    for (int64_t m = 0; m < M_; m += kPad) {
      const scalar_t* const planes = s + m * stride_;
      const auto next = NextPlanes<scalar_t>::after(s, stride_, m, M_, next_tile);
      visit_count<kPad>(M_ - m, [=, this, &tile, all = Sums(t_, m), list = pieces_, stride = stride_](auto K) {
        [[maybe_unused]] const int64_t whole = tile.size - (kLanes<acc_t> - 1);  // a vector ends in the tile
        for (int64_t p = 0; p < pieces; ++p) {
          const Piece& piece = list[p];
          const int64_t x = piece.begin, n = piece.pixels;
          t_.prepare(piece, m, std::min(m + kPad, t_.padded), s + x, stride);
          const auto [pilot, sum, square] = all.of(piece.region);
          if constexpr (kShortRuns<scalar_t>) {
            if (short_runs && x + n <= whole) {
              sum_short_planes<K.value>(planes, stride, x, n, pilot, sum, square, next);
              continue;
            }
          }
          if constexpr (kProducts<scalar_t>) {
            if (!sum_plane_products<K.value>(planes, stride, x, n, pilot, sum, square, next)) {
              add_again(tile, planes, m, piece);
            }
          } else {
            sum_planes<K.value>(planes, stride, x, n, tile.size, pilot, sum, square, next);
          }
        }
      });
    }
  }

 private:
  // Plans the pieces of all runs. Returns how many there are.
  int64_t plan(const Tile& tile, bool short_runs) {
    int64_t pieces = 0;
    const int64_t most = short_runs ? kMostShort : tile.size, last_vector = tile.size - kLanes<acc_t>;
    for_each_run(tile, [&](int32_t i, int64_t x, int64_t length) {
      if (i == kIgnored) return;
      for (const int64_t end = x + length; x < end;) {
        const int64_t first = short_runs && x <= last_vector ? kLanes<acc_t> : 1;
        x += t_.plan(i, x, std::min(end - x, most), pieces_[pieces++], first);
      }
    });
    return pieces;
  }

  // A piece whose products overflow.
  __attribute__((noinline)) void add_again(const Tile& tile, const scalar_t* planes, int64_t m, const Piece& piece) {
    const auto [pilot, sum, square] = Sums(t_, m).of(piece.region);
    visit_count<kPad>(M_ - m, [&](auto K) {
      sum_planes<K.value>(planes, stride_, piece.begin, piece.pixels, tile.size, pilot, sum, square,
                          NextPlanes<scalar_t>{nullptr, 0, 0});
    });
  }

  // Where the table has channels from m on. A copy of its own: what a member leads to would be read anew after every
  // store.
  struct Sums {
    struct OfRegion {
      const acc_t* pilot;
      double *sum, *square;
    };

    CAS_HD Sums(const RegionTable<scalar_t>& table, int64_t m) : rows(table.rows(m)), squares(table.squares(0)) {}
    CAS_HD OfRegion of(int64_t i) const { return {rows.of(rows.pilot, i), rows.of(rows.sum, i), rows.of(squares, i)}; }

    const TableRows<acc_t> rows;
    double* const squares;
  };

  RegionTable<scalar_t>& t_;
  Piece* const pieces_;
  const int64_t M_, stride_;
};

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
