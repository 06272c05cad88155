// Round-to-nearest-even from double to a 16-bit float format, subnormals, infinities and NaN included.
#pragma once

#include <cstdint>
#include <cstring>

#include "types.h"

namespace simt {

// `kMantissa` stored bits and a sign leave 15 - kMantissa exponent bits. One rounding, also for double arguments.
template <int kMantissa>
inline std::uint16_t round_to_16_bits(double value) {
  constexpr int kExponentBits = 15 - kMantissa;
  constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  constexpr int kInfinity = ((1 << kExponentBits) - 1) << kMantissa;
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint16_t sign = static_cast<std::uint16_t>((bits >> 48) & 0x8000);
  const int exponent = static_cast<int>((bits >> 52) & 0x7ff) - 1023;
  if (exponent == 1024) {
    const bool nan = (bits << 12) != 0;
    return static_cast<std::uint16_t>(nan ? 0x7fff : sign | kInfinity);  // CUDA's one NaN
  }
  if (exponent > kBias) return static_cast<std::uint16_t>(sign | kInfinity);
  // A double's subnormals are far below half the smallest 16-bit number.
  if (exponent < 1 - kBias - kMantissa - 1) return sign;
  const std::uint64_t significand = (bits & ((1ull << 52) - 1)) | (1ull << 52);
  const bool subnormal = exponent < 1 - kBias;
  const int drop = 52 - kMantissa + (subnormal ? 1 - kBias - exponent : 0);
  const std::uint64_t half = 1ull << (drop - 1);
  const std::uint64_t rest = significand & ((1ull << drop) - 1);
  std::uint64_t kept = significand >> drop;
  kept += rest > half || (rest == half && (kept & 1));
  // A carry out of the significand moves into the exponent by itself, up to infinity.
  const std::uint64_t base = subnormal ? 0 : static_cast<std::uint64_t>(exponent + kBias - 1) << kMantissa;
  return static_cast<std::uint16_t>(sign | (base + kept));
}

inline float half_bits_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1f;
  const std::uint32_t mantissa = bits & 0x3ff;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 0x7f800000u : (exponent + 112) << 23;
  const std::uint32_t result = sign | wide | (mantissa << 13);
  float value;
  std::memcpy(&value, &result, sizeof value);
  return value;
}

inline float bfloat16_bits_to_float(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

}  // namespace simt
