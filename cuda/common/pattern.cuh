// The six 2:4 patterns (src/pattern.rs): keep (0,1) (0,2) (0,3) (1,2) (1,3) (2,3), by index. Index 6 stands for "no
// pattern" inside kernels: it keeps nothing and its code is 0, which no hardware accepts.
#pragma once

#include "common/types.cuh"

namespace twofour {

constexpr u32 kNoPattern = 6;
// What "no pattern" is in an array of indices.
constexpr u32 kPoisonIndex = 0xff;

// Four bits an index, lowest index lowest.
TWOFOUR_DEVICE u32 pattern_code(u32 index) { return (0x0ed9c84u >> (4 * index)) & 15; }
TWOFOUR_DEVICE u32 pattern_bits(u32 index) { return (0x0ca6953u >> (4 * index)) & 15; }

// m_j = sum of y_i over the patterns i that keep position j; and the sum of all six.
TWOFOUR_DEVICE float mix_patterns(const float (&y)[6], float (&m)[4]) {
  const float keep_0 = y[0] + y[1], keep_3 = y[4] + y[5], middle = y[2] + y[3];
  m[0] = keep_0 + y[2];
  m[1] = y[0] + y[3] + y[4];
  m[2] = y[1] + y[3] + y[5];
  m[3] = keep_3 + y[2];
  return keep_0 + middle + keep_3;
}

// u_i = sum of d_j over the two positions that pattern i keeps.
TWOFOUR_DEVICE void pair_sums(const float (&d)[4], float (&u)[6]) {
  u[0] = d[0] + d[1];
  u[1] = d[0] + d[2];
  u[2] = d[0] + d[3];
  u[3] = d[1] + d[2];
  u[4] = d[1] + d[3];
  u[5] = d[2] + d[3];
}

}  // namespace twofour
