// Planes of a tile become rows of pixels, and back.
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

#if CAS_X86_LEVEL >= 4
// Eight vectors of sixteen floats: each half as above.
CAS_HD void transpose_halves(__m512 (&v)[8]) {
  __m512 t[8], u[8];
#pragma GCC unroll 8
  for (int k = 0; k < 8; k += 2) {
    t[k] = _mm512_unpacklo_ps(v[k], v[k + 1]);
    t[k + 1] = _mm512_unpackhi_ps(v[k], v[k + 1]);
  }
#pragma GCC unroll 8
  for (int k = 0; k < 8; k += 4) {
    u[k] = _mm512_shuffle_ps(t[k], t[k + 2], 0x44);
    u[k + 1] = _mm512_shuffle_ps(t[k], t[k + 2], 0xee);
    u[k + 2] = _mm512_shuffle_ps(t[k + 1], t[k + 3], 0x44);
    u[k + 3] = _mm512_shuffle_ps(t[k + 1], t[k + 3], 0xee);
  }
  const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 8
  for (int k = 0; k < 4; ++k) {
    v[k] = (__m512)_mm512_permutex2var_pd((__m512d)u[k], low, (__m512d)u[k + 4]);
    v[k + 4] = (__m512)_mm512_permutex2var_pd((__m512d)u[k], high, (__m512d)u[k + 4]);
  }
}
#endif

#if CAS_X86_LEVEL >= 2
// Vectors of a row of kPad channels, with AVX-512 of that and the one `eight` elements further on. `turn` makes kPad
// such rows planes, and planes rows.
template <class scalar_t>
CAS_HD Vec<float> load_row(const scalar_t* row, [[maybe_unused]] int64_t eight) {
  const __m256 v = (__m256)load_acc<8>(row);
#if CAS_X86_LEVEL >= 4
  return (Vec<float>)_mm512_insertf32x8(_mm512_castps256_ps512(v), (__m256)load_acc<8>(row + eight), 1);
#else
  return (Vec<float>)v;
#endif
}

template <class scalar_t>
CAS_HD void store_row(Vec<float> v, scalar_t* row, [[maybe_unused]] int64_t eight) {
#if CAS_X86_LEVEL >= 4
  store_acc<8>(row, (Vec<float, 8>)_mm512_castps512_ps256((__m512)v));
  store_acc<8>(row + eight, (Vec<float, 8>)_mm512_extractf32x8_ps((__m512)v, 1));
#else
  store_acc<8>(row, v);
#endif
}

CAS_HD void turn(Vec<float> (&v)[kPad]) {
#if CAS_X86_LEVEL >= 4
  transpose_halves(reinterpret_cast<__m512(&)[kPad]>(v));
#else
  transpose_eight(reinterpret_cast<__m256(&)[kPad]>(v));
#endif
}
#endif

// kLanes rows of kPad channels, `stride` elements apart, as planes.
template <class scalar_t>
CAS_HD void load_rows(const scalar_t* rows, int64_t stride, Vec<AccOf<scalar_t>> (&plane)[kPad]) {
#if CAS_X86_LEVEL >= 2
  if constexpr (std::is_same_v<AccOf<scalar_t>, float>) {
#pragma GCC unroll 8
    for (int k = 0; k < kPad; ++k) plane[k] = load_row(rows + k * stride, 8 * stride);
    return turn(plane);
  }
#endif
  for (int k = 0; k < kPad; ++k) {
    for (int j = 0; j < kLanes<AccOf<scalar_t>>; ++j) plane[k][j] = to_acc(rows[j * stride + k]);
  }
}

template <class scalar_t>
CAS_HD void store_rows(const Vec<AccOf<scalar_t>> (&plane)[kPad], scalar_t* rows, int64_t stride) {
#if CAS_X86_LEVEL >= 2
  if constexpr (std::is_same_v<AccOf<scalar_t>, float>) {
    Vec<float> v[kPad];
#pragma GCC unroll 8
    for (int k = 0; k < kPad; ++k) v[k] = plane[k];
    turn(v);
#pragma GCC unroll 8
    for (int k = 0; k < kPad; ++k) store_row(v[k], rows + k * stride, 8 * stride);
    return;
  }
#endif
  for (int k = 0; k < kPad; ++k) {
    for (int j = 0; j < kLanes<AccOf<scalar_t>>; ++j) rows[j * stride + k] = to_stored<scalar_t>(plane[k][j]);
  }
}

#if CAS_X86_LEVEL >= 4
// Sixteen pixels of kNarrow planes as touching rows, of four pixels in each vector.
CAS_HD void turn_narrow(Vec<float> (&v)[kNarrow]) {
  const __m512d t0 = (__m512d)_mm512_unpacklo_ps((__m512)v[0], (__m512)v[1]),
                t1 = (__m512d)_mm512_unpackhi_ps((__m512)v[0], (__m512)v[1]);
  const __m512d t2 = (__m512d)_mm512_unpacklo_ps((__m512)v[2], (__m512)v[3]),
                t3 = (__m512d)_mm512_unpackhi_ps((__m512)v[2], (__m512)v[3]);
  __m512 row[kNarrow];  // row[j]: pixels j, j + 4, j + 8 and j + 12
  row[0] = (__m512)_mm512_unpacklo_pd(t0, t2), row[1] = (__m512)_mm512_unpackhi_pd(t0, t2);
  row[2] = (__m512)_mm512_unpacklo_pd(t1, t3), row[3] = (__m512)_mm512_unpackhi_pd(t1, t3);
  const __m512 a = _mm512_shuffle_f32x4(row[0], row[1], 0x44), b = _mm512_shuffle_f32x4(row[2], row[3], 0x44);
  const __m512 c = _mm512_shuffle_f32x4(row[0], row[1], 0xee), d = _mm512_shuffle_f32x4(row[2], row[3], 0xee);
  v[0] = (Vec<float>)_mm512_shuffle_f32x4(a, b, 0x88), v[1] = (Vec<float>)_mm512_shuffle_f32x4(a, b, 0xdd);
  v[2] = (Vec<float>)_mm512_shuffle_f32x4(c, d, 0x88), v[3] = (Vec<float>)_mm512_shuffle_f32x4(c, d, 0xdd);
}
#endif

// Planes, `stride` apart, as touching rows of kWidth (kPad or kNarrow) channels, with zeros for those that are missing.
// Meanwhile asks for `next`.
template <int kWidth, class scalar_t>
inline void planes_to_rows(const scalar_t* from, int64_t stride, int64_t planes, int64_t pixels, AccOf<scalar_t>* rows,
                           const NextPlanes<scalar_t>& next) {
  int64_t x = 0;
#if CAS_X86_LEVEL >= 2
  if constexpr (std::is_same_v<AccOf<scalar_t>, float>) {
    constexpr int64_t kBlock = CAS_X86_LEVEL >= 4 ? 16 : 8;
    const auto turn = [=, &next](int64_t at, auto all) __attribute__((always_inline)) {
      next.template ask<kBlock>(at);
      const auto load_plane = [&](int k, auto lanes) {
        return all.value || k < planes ? load_acc<lanes.value>(from + k * stride + at) : Vec<float, lanes.value>{};
      };
#if CAS_X86_LEVEL >= 4
      Vec<float> v[kWidth];
#pragma GCC unroll 8
      for (int k = 0; k < kWidth; ++k) v[k] = load_plane(k, std::integral_constant<int, 16>());
      if constexpr (kWidth == kNarrow) {
        turn_narrow(v);
#pragma GCC unroll 4
        for (int k = 0; k < kNarrow; ++k) store(rows + at * kWidth + k * kBlock, v[k]);
      } else {
        store_rows(v, rows + at * kWidth, kWidth);
      }
#else
      __m256 v[kPad];
#pragma GCC unroll 8
      for (int k = 0; k < kPad; ++k)
        v[k] = k < kWidth ? (__m256)load_plane(k, std::integral_constant<int, 8>()) : __m256{};
      if constexpr (kWidth == kNarrow) {
        transpose_four(v);
        for (int k = 0; k < kNarrow; ++k) {
          store(rows + (at + k) * kWidth, _mm256_castps256_ps128(v[k]));
          store(rows + (at + k + kNarrow) * kWidth, _mm256_extractf128_ps(v[k], 1));
        }
      } else {
        transpose_eight(v);
        for (int k = 0; k < kPad; ++k) store(rows + (at + k) * kWidth, v[k]);
      }
#endif
    };
    const auto turn_all = [=, &turn](auto all) __attribute__((always_inline)) {
      for (int64_t at = 0; at < pixels; at += kBlock) turn(std::min(at, pixels - kBlock), all);
    };
    if (pixels >= kBlock) {
      planes == kWidth ? turn_all(std::true_type()) : turn_all(std::false_type());
      x = pixels;
    }
  }
#endif
  for (; x < pixels; ++x) {
    for (int64_t k = 0; k < kWidth; ++k) rows[x * kWidth + k] = k < planes ? to_acc(from[k * stride + x]) : 0;
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
  for (int64_t m = 0; m < channels; ++m) {
    for (int64_t x = 0; x < pixels; ++x) to[m * to_stride + x] = to_stored<scalar_t>(rows[x * padded + m]);
  }
}

// How the pixels of a tile lie.
struct Strides {
  int64_t channel, pixel;
  bool interleaved;
};

// Pixels as touching rows of kWidth channels, with zeros for those that are missing. Interleaved: there are no more.
// Meanwhile asks for `next`.
template <int kWidth, class scalar_t>
inline void turn_rows(const scalar_t* s, const Strides& strides, int64_t channels, int64_t pixels,
                      AccOf<scalar_t>* rows, const NextPlanes<scalar_t>& next) {
  if (!strides.interleaved) return planes_to_rows<kWidth>(s, strides.channel, channels, pixels, rows, next);
  visit_count<kWidth>(channels, [&](auto M) {
    for (int64_t x = 0; x < pixels; ++x) {
      for (int m = 0; m < kWidth; ++m) rows[x * kWidth + m] = m < M.value ? to_acc(s[x * strides.pixel + m]) : 0;
    }
  });
}

}  // namespace CAS_ISA
}  // namespace cas_ext::cpu
