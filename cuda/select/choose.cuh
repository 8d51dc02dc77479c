// The choice of two of four by score (src/select/mod.rs).
#pragma once

#include "common/pattern.cuh"
#include "common/ptx.cuh"

namespace twofour {

// The pattern of the two largest scores, of equal ones the lowest; kNoPattern if one is NaN.
TWOFOUR_DEVICE u32 choose_largest(const float (&s)[4]) {
  const float high = max_nan(s[0], s[1]), low = min_nan(s[0], s[1]);
  const float other_high = max_nan(s[2], s[3]), other_low = min_nan(s[2], s[3]);
  // The larger of each pair, unless the smaller of one is before the larger of the other, too.
  u32 index = 1 + (s[0] >= s[1] ? 0 : 2) + (s[2] >= s[3] ? 0 : 1);
  index = low >= other_high ? 0 : index;
  index = other_low > high ? 5 : index;
  const float top = max_nan(high, other_high);
  return top != top ? kNoPattern : index;
}

TWOFOUR_DEVICE bool keeps(u32 index, int j) { return (pattern_bits(index) >> j & 1) != 0; }

TWOFOUR_DEVICE u8 index_byte(u32 index) { return u8(index == kNoPattern ? kPoisonIndex : index); }

}  // namespace twofour
