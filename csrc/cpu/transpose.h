// to[c][r] = from[r][c], with a change of type: planes of a tile become rows of pixels, and back.
#pragma once

#include "packed.h"

namespace cas_ext::cpu {
namespace CAS_ISA {

#if CAS_X86_LEVEL >= 2
// Eight vectors of eight floats.
CAS_HD void transpose_eight(__m256 (&v)[8]) {
  __m256 t[8], u[8];
  for (int k = 0; k < 8; k += 2) {
    t[k] = _mm256_unpacklo_ps(v[k], v[k + 1]);
    t[k + 1] = _mm256_unpackhi_ps(v[k], v[k + 1]);
  }
  for (int k = 0; k < 8; k += 4) {
    u[k] = _mm256_shuffle_ps(t[k], t[k + 2], 0x44);
    u[k + 1] = _mm256_shuffle_ps(t[k], t[k + 2], 0xee);
    u[k + 2] = _mm256_shuffle_ps(t[k + 1], t[k + 3], 0x44);
    u[k + 3] = _mm256_shuffle_ps(t[k + 1], t[k + 3], 0xee);
  }
  for (int k = 0; k < 4; ++k) {
    v[k] = _mm256_permute2f128_ps(u[k], u[k + 4], 0x20);
    v[k + 4] = _mm256_permute2f128_ps(u[k], u[k + 4], 0x31);
  }
}

// The first four of them: v[k] holds columns k and k + 4.
CAS_HD void transpose_four(__m256 (&v)[8]) {
  const __m256 t0 = _mm256_unpacklo_ps(v[0], v[1]), t1 = _mm256_unpackhi_ps(v[0], v[1]);
  const __m256 t2 = _mm256_unpacklo_ps(v[2], v[3]), t3 = _mm256_unpackhi_ps(v[2], v[3]);
  v[0] = _mm256_shuffle_ps(t0, t2, 0x44);
  v[1] = _mm256_shuffle_ps(t0, t2, 0xee);
  v[2] = _mm256_shuffle_ps(t1, t3, 0x44);
  v[3] = _mm256_shuffle_ps(t1, t3, 0xee);
}
#endif

// kFill (kPad, kNarrow or 0): planes of a tile, more of which follow in memory, whose rows in `to` are written up to
// its next multiple, with zeros. Strides count elements.
template <int64_t kFill, class from_t, class to_t>
inline void transpose(const from_t* from, int64_t from_stride, int64_t rows, int64_t cols, to_t* to,
                      int64_t to_stride) {
#if CAS_X86_LEVEL >= 2
  if constexpr (std::is_same_v<AccOf<from_t>, float>) {
    constexpr int k8 = 8;
    if (cols >= k8 && (kFill > 0 || rows >= k8)) {
      // Eight rows from r on, of which `all` are there, or some.
      const auto turn = [=](int64_t r, auto all) __attribute__((always_inline)) {
        for (int64_t c = 0; c < cols; c += k8) {
          const int64_t c0 = std::min(c, cols - k8);
          __m256 v[k8];
          for (int k = 0; k < k8; ++k) {
            if (kFill > 0) prefetch_ahead<k8>(from + (r + k) * from_stride + c0);
            v[k] = all.value || r + k < rows ? (__m256)load_acc<k8>(from + (r + k) * from_stride + c0) : __m256{};
          }
          if constexpr (kFill == kNarrow) {
            transpose_four(v);
            for (int k = 0; k < kNarrow; ++k) {
              store(to + (c0 + k) * to_stride, _mm256_castps256_ps128(v[k]));
              store(to + (c0 + k + kNarrow) * to_stride, _mm256_extractf128_ps(v[k], 1));
            }
          } else {
            transpose_eight(v);
            for (int k = 0; k < k8; ++k) store_acc<k8>(to + (c0 + k) * to_stride + r, (Vec<float, k8>)v[k]);
          }
        }
      };
      for (int64_t r = 0; r < rows; r += k8) {
        if (r + k8 <= rows) {
          turn(r, std::true_type());
        } else if constexpr (kFill > 0) {
          turn(r, std::false_type());
        } else {
          turn(rows - k8, std::true_type());  // some are written twice
        }
      }
      return;
    }
  }
#endif
  const int64_t filled = kFill > 0 ? (rows + kFill - 1) / kFill * kFill : rows;
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      to[c * to_stride + r] = static_cast<to_t>(to_acc(from[r * from_stride + c]));
    }
    for (int64_t r = rows; r < filled; ++r) to[c * to_stride + r] = static_cast<to_t>(0);
  }
}

// Rows of padded_row(channels) become planes again.
template <class scalar_t>
inline void turn_back(const AccOf<scalar_t>* rows, int64_t pixels, int64_t channels, scalar_t* to, int64_t to_stride) {
  const int64_t padded = padded_row(channels);
#if CAS_X86_LEVEL >= 2
  if constexpr (std::is_same_v<AccOf<scalar_t>, float>) {
    constexpr int64_t k8 = 8;
    // Eight planes from m on, of which `all` are there, or some.
    const auto turn = [=](int64_t m, auto all) __attribute__((always_inline)) {
      for (int64_t next = 0; pixels >= k8 && next < pixels; next += k8) {
        const int64_t x = std::min(next, pixels - k8);  // the last eight may be written twice
        __m256 v[k8];
        if (padded == kNarrow) {
          for (int k = 0; k < kNarrow; ++k) {
            const __m128 low = _mm_loadu_ps(rows + (x + k) * kNarrow);
            v[k] =
                _mm256_insertf128_ps(_mm256_castps128_ps256(low), _mm_loadu_ps(rows + (x + k + kNarrow) * kNarrow), 1);
          }
          transpose_four(v);
        } else {
          for (int k = 0; k < k8; ++k) v[k] = _mm256_loadu_ps(rows + (x + k) * padded + m);
          transpose_eight(v);
        }
        for (int k = 0; k < k8 && (all.value || m + k < channels); ++k)
          store_acc<k8>(to + (m + k) * to_stride + x, (Vec<float, k8>)v[k]);
      }
    };
    for (int64_t m = 0; m < channels; m += k8) {
      m + k8 <= channels ? turn(m, std::true_type()) : turn(m, std::false_type());
    }
    if (pixels >= k8) return;
  }
#endif
  transpose<0>(rows, padded, pixels, channels, to, to_stride);
}

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

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
