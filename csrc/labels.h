// Labels are stored in five integer types and never widened in memory: this is where the type is looked up.
#pragma once

#include "host_device.h"
#include "params.h"

namespace cas_ext {

// Calls body(pointer to the first label), the pointer typed as the labels are stored.
template <class Body>
CAS_HD auto visit_labels(const LabelArray& labels, Body body) {
  switch (labels.type) {
    case Label::kUInt8:
      return body(static_cast<const uint8_t*>(labels.data));
    case Label::kInt8:
      return body(static_cast<const int8_t*>(labels.data));
    case Label::kInt16:
      return body(static_cast<const int16_t*>(labels.data));
    case Label::kInt32:
      return body(static_cast<const int32_t*>(labels.data));
    default:
      return body(static_cast<const int64_t*>(labels.data));
  }
}

// What a kernel keeps of a label: its region, kIgnored, or kInvalid where it is out of range.
constexpr int32_t kInvalid = -2;

CAS_HD int32_t region_of(int64_t label, int64_t regions, int64_t ignore_index) {
  if (label == ignore_index) return kIgnored;
  return static_cast<uint64_t>(label) < static_cast<uint64_t>(regions) ? static_cast<int32_t>(label) : kInvalid;
}

// The same for labels of 8 or 16 bits, without 64-bit arithmetic.
CAS_HD int32_t narrow_region_of(int32_t label, int64_t regions, int64_t ignore_index) {
  constexpr int32_t kBeyond = 1 << 16;  // no label of 16 bits
  const int32_t ignored =
      -kBeyond < ignore_index && ignore_index < kBeyond ? static_cast<int32_t>(ignore_index) : kBeyond;
  const uint32_t bound = static_cast<uint32_t>(regions < kBeyond ? regions : kBeyond);
  if (label == ignored) return kIgnored;
  return static_cast<uint32_t>(label) < bound ? label : kInvalid;
}

}  // namespace cas_ext
