// Pixels of a tile, wherever they lie, as vectors: kLanes of them of one channel each, and back.
//
// The structs have in common: at(x, m), a value; load and store, pixels from x on of K channels from m on; next(K, m),
// what to ask for meanwhile; kColumns, of how many pixels all channels come before the next pixels.
#pragma once

#include "stream.h"
#include "transpose.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

// As load and store, but only the first n pixels; the other lanes are 0.
template <int K, class Pixels, class V>
inline void load_some(const Pixels& pixels, int64_t x, int64_t m, int64_t n, V (&v)[K]) {
  for (int k = 0; k < K; ++k) {
    v[k] = V{};
    for (int j = 0; j < n; ++j) v[k][j] = to_acc(pixels.at(x + j, m + k));
  }
}

template <int K, class Pixels, class V>
inline void store_some(const Pixels& pixels, int64_t x, int64_t m, int64_t n, const V (&v)[K]) {
  for (int k = 0; k < K; ++k) {
    for (int j = 0; j < n; ++j) {
      auto& place = pixels.at(x + j, m + k);
      place = to_stored<std::remove_reference_t<decltype(place)>>(v[k][j]);
    }
  }
}

constexpr int64_t kFarAhead =
    4096;  // bytes: as Tuning::ahead, where exponentials take time between two looks at the memory

template <class scalar_t>
struct PlanarPixels {
  using stored_t = std::remove_const_t<scalar_t>;
  using acc_t = AccOf<stored_t>;
  static constexpr int64_t kColumns = kTile;
  scalar_t* first;
  int64_t stride, channels;
  scalar_t* next_tile;
  bool streams = false;  // whether whole vectors are stored past the caches, at places that are multiples of them

  CAS_HD scalar_t& at(int64_t x, int64_t m) const { return first[m * stride + x]; }

  template <int K>
  CAS_HD void load(int64_t x, int64_t m, Vec<acc_t> (&v)[K]) const {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) v[k] = load_acc<kLanes<acc_t>>(&at(x, m + k));
  }

  template <int K>
  CAS_HD void store(int64_t x, int64_t m, const Vec<acc_t> (&v)[K]) const {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      scalar_t* const to = &at(x, m + k);
      streams ? stream_acc<kLanes<acc_t>>(to, v[k]) : store_acc<kLanes<acc_t>>(to, v[k]);
    }
  }

  template <class K>
  CAS_HD NextPlanes<stored_t> next(K, int64_t m) const {
    if (channels < kPad) return {first + kFarAhead / static_cast<int64_t>(sizeof(stored_t)), stride, channels};
    return NextPlanes<stored_t>::after(first, stride, m, channels, next_tile);
  }
};

// What comes later of interleaved pixels, as much as is read of K channels.
template <class scalar_t, int K>
struct NextRows {
  const scalar_t* first;
  int64_t stride;

  template <int elements>
  CAS_HD void ask(int64_t x) const {
    prefetch<elements * K>(first + x * stride);
  }
};

// Interleaved and touching, fewer channels than kPad, all of them at once: those of kLanes pixels fill K vectors.
template <class scalar_t>
struct PackedPixels {
  using stored_t = std::remove_const_t<scalar_t>;
  using acc_t = AccOf<stored_t>;
  using V = Vec<acc_t>;
  static constexpr int64_t kColumns = kTile;
  static constexpr int L = kLanes<acc_t>;
  scalar_t* first;
  int64_t channels;

  CAS_HD scalar_t& at(int64_t x, int64_t m) const { return first[x * channels + m]; }

  template <int K>
  CAS_HD void load(int64_t x, int64_t, V (&plane)[K]) const {
    V v[K];
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) v[j] = load_acc<L>(first + x * K + j * L);
    Packed<acc_t, K>::to_planes(v, plane);
  }

  template <int K>
  CAS_HD void store(int64_t x, int64_t, const V (&plane)[K]) const {
    V v[K];
    Packed<acc_t, K>::from_planes(plane, v);
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) store_acc<L>(first + x * K + j * L, v[j]);
  }

  template <class K>
  CAS_HD NextRows<stored_t, K::value> next(K, int64_t) const {
    return {first + kFarAhead / static_cast<int64_t>(sizeof(scalar_t)), channels};
  }
};

// Interleaved. Fewer than kPad channels are loaded as the last of kPad, where there are so many.
template <class scalar_t>
struct RowPixels {
  using stored_t = std::remove_const_t<scalar_t>;
  using acc_t = AccOf<stored_t>;
  using V = Vec<acc_t>;
  static constexpr int64_t kColumns = 4 * kLanes<acc_t>;
  scalar_t* first;
  int64_t stride, channels;

  CAS_HD scalar_t& at(int64_t x, int64_t m) const { return first[x * stride + m]; }

  template <int K>
  CAS_HD void load(int64_t x, int64_t m, V (&v)[K]) const {
    if (channels < kPad) return load_some(*this, x, m, kLanes<acc_t>, v);
    V all[kPad];
    load_rows(&at(x, m - (kPad - K)), stride, all);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) v[k] = all[kPad - K + k];
  }

  template <int K>
  CAS_HD void store(int64_t x, int64_t m, const V (&v)[K]) const {
    if constexpr (K == kPad) {
      store_rows(v, &at(x, m), stride);
    } else {
      store_some(*this, x, m, kLanes<acc_t>, v);
    }
  }

  template <class K>
  CAS_HD NextRows<stored_t, K::value> next(K, int64_t m) const {
    return {first + kColumns * stride + m * kLanes<acc_t>, stride};
  }
};

// Calls body(the pixels of a tile that begins at s, where another at next_tile follows). `streams`: they are written
// past the caches where they are planes, each of which begins at a cache line.
template <class scalar_t, class Body>
inline void visit_pixels(scalar_t* s, const Strides& strides, int64_t channels, scalar_t* next_tile, bool streams,
                         Body body) {
  if (!strides.interleaved) {
    constexpr int64_t kSize = sizeof(scalar_t);
    const bool aligned = reinterpret_cast<uintptr_t>(s) % kLine == 0 && strides.channel * kSize % kLine == 0;
    body(PlanarPixels<scalar_t>{s, strides.channel, channels, next_tile, streams && aligned});
  } else if (channels < kPad && strides.pixel == channels) {
    body(PackedPixels<scalar_t>{s, channels});
  } else {
    body(RowPixels<scalar_t>{s, strides.pixel, channels});
  }
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
