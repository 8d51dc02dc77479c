// The choice of two of four by score (src/select/mod.rs).
#pragma once

#include "common/pattern.cuh"
#include "common/ptx.cuh"

namespace twofour {

// The pattern of the two largest scores, of equal ones the lowest; kNoPattern if one is NaN.
TWOFOUR_DEVICE u32 choose_largest(const float (&s)[4]) {
  const bool ab = s[0] >= s[1], ac = s[0] >= s[2], ad = s[0] >= s[3];
  const bool bc = s[1] >= s[2], bd = s[1] >= s[3], cd = s[2] >= s[3];
  // Kept are the two that win against two others or all three.
  const bool a = (ab & ac) | (ad & (ab | ac)), b = (!ab & bc) | (bd & (!ab | bc));
  const bool d = (!ad & !bd) | (!cd & (!ad | !bd));
  const u32 first = a ? 0 : b ? 1 : 2;
  const u32 second = d ? 3 : a & b ? 1 : 2;
  const bool nan = s[0] != s[0] || s[1] != s[1] || s[2] != s[2] || s[3] != s[3];
  return nan ? kNoPattern : first + second - (first == 0 ? 1 : 0);
}

TWOFOUR_DEVICE bool keeps(u32 index, int j) { return (pattern_bits(index) >> j & 1) != 0; }

TWOFOUR_DEVICE u8 index_byte(u32 index) { return u8(index == kNoPattern ? kPoisonIndex : index); }

}  // namespace twofour
