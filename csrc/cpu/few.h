// Stretches of labels with a few regions: which, and the pixels of each, a bit for every pixel.
#pragma once

#include "labels.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

constexpr int kFew = 4;  // as many regions of a tile as are cheaper to mask than to look up

struct FewRegions {
  int32_t region[kFew] = {kIgnored, kIgnored, kIgnored, kIgnored};
  int size = 0;  // 0: all pixels are ignored; kFew + 1: there are more
};

// Which of `regions` may occur among these labels, if they are few.
inline FewRegions few_regions(std::span<const int32_t> labels, int64_t regions) {
  FewRegions found;
  if (regions <= kFew) {
    for (; found.size < regions; ++found.size) found.region[found.size] = found.size;
    return found;
  }
  using Labels = Vec<int32_t>;
  constexpr int64_t kLabels = kLanes<int32_t>, kBlock = 16 * kLabels;  // labels between two looks at the result
  const auto known = [&](int32_t label) {
    bool same = label == kIgnored;
    for (int32_t region : found.region) same |= label == region;
    return same;
  };
  const int64_t size = static_cast<int64_t>(labels.size());
  for (int64_t x = 0; x < size;) {
    Labels strange{};
    const int64_t end = std::min(x + kBlock, size);
    for (int64_t k = x; k + kLabels <= end; k += kLabels) {
      const Labels label = load<Labels>(&labels[k]);
      Labels same = label == kIgnored;
      for (int32_t region : found.region) same |= label == region;
      strange |= ~same;
    }
    int32_t any = end - x < kBlock;
    for (int k = 0; k < kLabels; ++k) any |= strange[k];
    for (; any != 0 && x < end; ++x) {
      if (known(labels[x])) continue;
      if (found.size == kFew) return {{}, kFew + 1};
      found.region[found.size++] = labels[x];
    }
    x = end;
  }
  return found;
}

class MemberBits {
 public:
  // The tile's labels need not have been filled in.
  void find(const Tile& tile, const FewRegions& few) {
    const auto of_labels = [&](const auto* label) {
      using label_t = std::remove_cv_t<std::remove_reference_t<decltype(*label)>>;
      for (int r = 0; r < few.size; ++r) {
        alignas(64) label_t same[kWord];
        std::fill_n(same, kWord, static_cast<label_t>(few.region[r]));
        int64_t x = 0;
        for (; x + kWord <= tile.size; x += kWord) bits_[r][x / kWord] = ~labels::differences(label + x, same);
        uint64_t rest = 0;
        for (int64_t k = x; k < tile.size; ++k) rest |= static_cast<uint64_t>(label[k] == same[0]) << (k - x);
        bits_[r][x / kWord] = rest;
        int32_t pixels = 0;
        for (int64_t word = 0; word <= x / kWord; ++word) {
          before_[r][word] = pixels;
          pixels += __builtin_popcountll(bits_[r][word]);
        }
      }
    };
    if (tile.filled) return of_labels(tile.label);
    visit_labels(*tile.stored, [&](const auto* all) { of_labels(all + tile.first); });
  }

  // Bit k: pixel x + k is one of the r-th region. As many as there are up to the next multiple of kWord, or kWord.
  uint64_t upto_word(int r, int64_t x) const { return bits_[r][x / kWord] >> x % kWord; }
  uint64_t word(int r, int64_t x) const {
    const uint64_t* bits = bits_[r] + x / kWord;
    return bits[0] >> x % kWord | bits[1] << 1 << (kWord - 1 - x % kWord);
  }

  // How many of the pixels [begin, end) are.
  int64_t count(int r, int64_t begin, int64_t end) const {
    const auto before = [&](int64_t x) {
      const uint64_t below = (uint64_t(1) << x % kWord) - 1;
      return before_[r][x / kWord] + __builtin_popcountll(bits_[r][x / kWord] & below);
    };
    return before(end) - before(begin);
  }

  // The first of them from `begin` on; there is one.
  int64_t first(int r, int64_t begin) const {
    for (int64_t x = begin;; x += kWord) {
      if (const uint64_t bits = word(r, x); bits != 0) return x + __builtin_ctzll(bits);
    }
  }

 private:
  uint64_t bits_[kFew][kTile / kWord + 2];
  int32_t before_[kFew][kTile / kWord + 2];  // pixels of the region before each word
};

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
