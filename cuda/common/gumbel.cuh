// The Gumbel noise of a group, the same bits as src/noise.rs, which explains it: one Philox call, six 21-bit uniforms,
// and a line of the table for each.
#pragma once

#include "common/philox.cuh"

namespace twofour {

#include "common/gumbel_table.cuh"

constexpr u32 kGumbelLineCount = sizeof(kGumbelLines) / sizeof(kGumbelLines[0]);
// `bits_of(t) >> 17` of the smallest t, 2^-22.
constexpr u32 kFirstSegment = 105u << 6;

// Where a group's noise comes from: the seed as round keys, the draw, and the bits of 1 + 2^-22. That constant comes with
// the arguments because one instruction can mask and merge only if one of its two constants is a register.
struct Noise {
  RoundKeys keys;
  u64 draw;
  u32 one_and_half_step;
  u32 unused;
};

// The table in shared memory.
struct alignas(16) GumbelTable {
  u32x2 lines[kGumbelLineCount];
};

// Copies the table to shared memory, by all threads of the block, all copies under way at once: none waits for another,
// so the loop need not be unrolled. Ends with a barrier.
template <u32 threads>
TWOFOUR_DEVICE const u32x2* load_gumbel_lines(GumbelTable& table) {
  TWOFOUR_NO_UNROLL
  for (u32 i = thread_index(); i < kGumbelLineCount / 2; i += threads) {
    cp_async_16(table.lines + 2 * i, kGumbelLines + 2 * i);
  }
  cp_async_wait_all();
  sync_threads();
  return table.lines;
}

// -ln(-ln u) for u = 1 + u - 1 = (k + 1/2) * 2^-21. The subtractions are exact.
//
// The line's byte offset is segment * 16 + 8 if u < 1/2, the sign of u - 1/2. One funnel shift makes segment * 16 +
// sign * 8 + 3: below the sign follow the top three exponent bits of u - 1/2, which are 011 for all of [2^-22, 1/2).
TWOFOUR_DEVICE float gumbel(const u32x2* lines, float one_plus_u) {
  const float from_half = one_plus_u - 1.5f;
  const float t = 0.5f - absolute(from_half);
  const i32 offset = i32(funnel_shift_right(bits_of(from_half), bits_of(t) >> 17, 28));
  const u8* line = reinterpret_cast<const u8*>(lines) + (offset - i32(kFirstSegment * 16 + 3));
  const u32x2 slope_offset = *reinterpret_cast<const u32x2*>(line);
  return fma(float_of(slope_offset.x), t, float_of(slope_offset.y));
}

// The six Gumbel variates of a group. Three fields k lie end to end in the 64 bits hi:lo turned right by two, so that
// a field, or one shift of it, lies in the mantissa of 1 + u.
TWOFOUR_DEVICE void gumbels(const Noise& noise, const u32x2* lines, u64 group, float (&g)[6]) {
  const u32x4 x = philox(noise.keys, {u32(group), u32(group >> 32), u32(noise.draw), u32(noise.draw >> 32)});
  const u32 words[6] = {x.x, funnel_shift_right(x.x, x.y, 21), funnel_shift_right(x.y, x.x, 10),
                        x.z, funnel_shift_right(x.z, x.w, 21), funnel_shift_right(x.w, x.z, 10)};
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) g[i] = gumbel(lines, float_of((words[i] & 0x007ffffcu) | noise.one_and_half_step));
}

}  // namespace twofour
