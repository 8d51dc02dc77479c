// Long sums on tensor cores. What an instruction adds is cut off 24 or 25 bits below its largest term, toward zero (arXiv
// 2511.10909), so a sum of positive terms shrinks with each of them: by about 1e-8 of itself on sm_80, half of that on
// sm_90. No sum here is of more than kFoldTerms terms: it then goes into a total, in f32 and rounded to nearest, and the
// next one begins at zero. So all stay within 1e-5 of the sum of magnitudes (tests/matmul/sums.rs, tests/sparse/sums.rs).
#pragma once

#include "common/vector.cuh"

namespace twofour {

// Products of f16 have bits to lose that products of bf16 do not have.
template <typename T>
constexpr u32 kFoldTerms = 1024;
template <>
constexpr u32 kFoldTerms<f16> = 512;

// The totals of a thread's sums, four of each of so many tiles; `used` if a sum may have more than kFoldTerms terms.
//
// There are no registers for them. They lie in local memory, which is touched once in kFoldTerms; an index keeps them
// there that is 0 (no grid here has a z) but not known to be. Otherwise ptxas takes the registers, and spills others in
// every step.
template <u32 tiles, typename Sum = float>
struct Totals {
  u32x4 (&of)[tiles];
  bool used;

  TWOFOUR_DEVICE Totals(u32x4 (&of)[tiles], bool used) : of(of), used(used) {
    if (!used) return;
    TWOFOUR_UNROLL
    for (u32 i = 0; i < tiles; ++i) of[place(i)] = {0, 0, 0, 0};
  }

  // Takes the sums, which begin anew.
  TWOFOUR_DEVICE void take(float (*sums)[4]) {
    TWOFOUR_UNROLL
    for (u32 i = 0; i < tiles; ++i) {
      float(&sum)[4] = sums[i];
      add(sum, i);
      of[place(i)] = {bits_of(sum[0]), bits_of(sum[1]), bits_of(sum[2]), bits_of(sum[3])};
      sum[0] = sum[1] = sum[2] = sum[3] = 0;
    }
  }

  // Adds what was taken to the sums.
  TWOFOUR_DEVICE void give(float (*sums)[4]) const {
    if (!used) return;
    TWOFOUR_UNROLL
    for (u32 i = 0; i < tiles; ++i) add(sums[i], i);
  }

  TWOFOUR_DEVICE static u32 place(u32 tile) { return tile + block_index_z(); }

  TWOFOUR_DEVICE void add(float (&sum)[4], u32 tile) const {
    float total[4];
    unpack(of[place(tile)], total, f32{});
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 4; ++i) sum[i] += total[i];
  }
};

// Sums of integers lose nothing.
template <u32 tiles>
struct Totals<tiles, i32> {
  TWOFOUR_DEVICE Totals(u32x4 (&)[tiles], bool) {}
  TWOFOUR_DEVICE void take(i32 (*)[4]) {}
  TWOFOUR_DEVICE void give(i32 (*)[4]) const {}
};

}  // namespace twofour
