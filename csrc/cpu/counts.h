// The labels of a block of pixels: how many pixels have each, and the pixels sorted by them.
#pragma once

#include "labels.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// A count that has just been written is slow to read, and a load waits where the address of a store before it is not
// known yet. So every quarter of the block has counts of its own, and labels are listed afterwards.
class LabelCounts {
 public:
  static constexpr int64_t ints(int64_t regions) { return kQuarters * (regions + 1) + 2 * (regions + 2); }

  // `memory`: as many ints, for labels up to `regions`.
  LabelCounts(int64_t regions, int32_t* memory)
      : regions_(regions),
        count_(memory + kQuarters),  // from kIgnored = -1 on
        listed_(memory + kQuarters * (regions + 1)),
        begin_(listed_ + regions + 2) {
    std::fill(memory, listed_, 0);
  }

  // Counts the labels of a block. Returns how many different ones there are; after `clear`, the next block may follow.
  int32_t count_block(const int32_t* label, int32_t pixels) {
    for_each_pixel(pixels, [&](int32_t x, int q) { ++count_[kQuarters * label[x] + q]; });
    int32_t labels = 0, *const listed = listed_;
    if (regions_ <= pixels) {
      for (int32_t i = kIgnored, end = static_cast<int32_t>(regions_); i < end; ++i) {
        listed[labels] = i;
        labels += count(i) > 0;
      }
      return labels_ = labels;
    }
    for (int32_t x = 0; x < pixels; ++x) {
      int32_t& first = count_[kQuarters * label[x]];
      if (first & kListed) continue;
      first |= kListed;
      listed[labels++] = label[x];
    }
    for (int32_t k = 0; k < labels; ++k) count_[kQuarters * listed[k]] &= ~kListed;
    return labels_ = labels;
  }

  int32_t labels() const { return labels_; }
  int32_t label(int32_t k) const { return listed_[k]; }
  int32_t count(int32_t i) const {
    const int32_t* n = count_ + kQuarters * i;
    return (n[0] + n[1]) + (n[2] + n[3]);
  }

  // Writes the places of the pixels, label by label; those of label(k) are [begin(k), begin(k + 1)) then. No counts are
  // left.
  void sort(const int32_t* label, int32_t pixels, uint16_t* order) {
    int32_t end = 0;
    for (int32_t k = 0; k < labels_; ++k) {
      begin_[k] = end;
      for (int q = 0; q < kQuarters; ++q) end += std::exchange(count_[kQuarters * listed_[k] + q], end);
    }
    begin_[labels_] = end;
    for_each_pixel(pixels,
                   [&](int32_t x, int q) { order[count_[kQuarters * label[x] + q]++] = static_cast<uint16_t>(x); });
    clear();
  }
  int32_t begin(int32_t k) const { return begin_[k]; }

  void clear() {
    for (int32_t k = 0; k < labels_; ++k) std::fill_n(count_ + kQuarters * listed_[k], kQuarters, 0);
  }

 private:
  static constexpr int kQuarters = 4;
  static constexpr int32_t kListed = 1 << 30;

  // body(x, q): pixel x, of quarter q.
  template <class Body>
  static void for_each_pixel(int32_t pixels, Body body) {
    const int32_t quarter = pixels / kQuarters;
    for (int32_t x = 0; x < quarter; ++x) {
#pragma GCC unroll 4
      for (int q = 0; q < kQuarters; ++q) body(x + q * quarter, q);
    }
    for (int32_t x = kQuarters * quarter; x < pixels; ++x) body(x, kQuarters - 1);
  }

  const int64_t regions_;
  int32_t *const count_, *const listed_, *const begin_;
  int32_t labels_ = 0;
};

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
