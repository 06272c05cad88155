// When the pilot of a region moves to its mean (table.h).
#pragma once

#include "kernels.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int64_t kFirstSegment = 16;       // pixels of any labels that are summed about the first of a region
constexpr int64_t kPlaneSegment = 1 << 14;  // pixels that are planned about the same pilot before it moves anyway: a
                                            // tile more fits `room`
constexpr int64_t kRowSegment = 64;         // pixels of rows with any labels about the same pilot, at most

// Pixels that a segment has at most about a pilot taken from so many: the more of a small region, as moving it costs.
inline int64_t longest_about(int64_t pixels) { return (pixels < 256 ? 4 : 2) * pixels; }

// How far a region has come.
struct Progress {
  int64_t count, aimed;  // pixels in the sums, but for those of rows; pixels that the pilot was taken from
  int32_t limit, room;   // pixels of rows that may be summed until they settle, 0: never met; how many are left

  bool unmet() const { return limit == 0; }
  int64_t fresh() const { return limit - room; }
  int64_t seen() const { return count + fresh(); }

  // Whether the pilot is due to move.
  bool outgrown() const { return seen() >= longest_about(aimed); }

  // Pixels that a segment about the pilot may have: now; or if the pilot moves first, where it is due.
  int64_t longest() const { return longest_about(aimed); }
  int64_t longest_now() const { return unmet() ? kFirstSegment : outgrown() ? longest_about(seen()) : longest(); }

  void start(int64_t pixels) {
    count = 0;
    aimed = pixels;
    limit = room = static_cast<int32_t>(kFirstSegment);
  }
  void settle() {
    count += fresh();
    room = limit;
  }
  void aim() {
    aimed = count;
    limit = room = static_cast<int32_t>(std::min(kRowSegment, longest_about(aimed)));
  }
};

// Of values that are not finite, `other`: about those, infinite sums would not stay infinite.
template <class V>
CAS_HD V finite_or(V value, V other) {
  return value - value == 0 ? value : other;
}

// A part of a run, and what happens to its region before.
struct Piece {
  int32_t region, begin, pixels;
  uint8_t meets;  // the region has not occurred before: its pilot is the mean of so many pixels from `begin` on
  bool moves;     // its pilot moves to its mean
  int64_t count;  // pixels of the region then
};
static_assert(sizeof(Piece) == kPieceBytes);

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
