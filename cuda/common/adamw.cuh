// A step of AdamW on a group's six logits (src/learn/mod.rs is the contract). The same bits as the CPU executor's: each
// operation is IEEE's, in this order.
#pragma once

#include "common/philox.cuh"
#include "common/vector.cuh"

namespace twofour {

// One step's numbers, made by the host in f64 and rounded once.
struct AdamW {
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float keep;  // 1 - rate * decay
  float rate;  // rate / (1 - beta1^t)
  float root;  // 1 / sqrt(1 - beta2^t)
  float epsilon;
};
static_assert(sizeof(AdamW) == 32, "the scalars of a step in src/learn");

// The sum of squares of a group's gradient from which on, or if it is NaN, the group is left as it is: 2^120, so that
// no second moment overflows.
constexpr u32 kWildBits = (120 + 127) << 23;

TWOFOUR_DEVICE float sum_of_squares(const float* g) {
  float square = 0.0f;
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) square = fma(g[i], g[i], square);
  return square;
}

TWOFOUR_DEVICE float next_m(const AdamW& by, float m, float g) { return fma(by.beta1, m, by.one_minus_beta1 * g); }
TWOFOUR_DEVICE float next_v(const AdamW& by, float v, float g) {
  return fma(by.beta2, v, (by.one_minus_beta2 * g) * g);
}
// `root` is the second moment's square root.
TWOFOUR_DEVICE float stepped(const AdamW& by, float logit, float m, float root) {
  return fma(by.keep, logit, -divide(by.rate * m, fma(root, by.root, by.epsilon)));
}

// Beside moments in 8 bits a root and a quotient to a part in a million will do, at half the instructions: a first guess
// from the float's bits, and two of Newton's steps, whose constants halve the largest error. Products, sums and integers
// alone, so the same bits everywhere (src/learn/nearly.rs).
//
// The square root of v, 0 of 0; of v below 2^-126 less than it.
TWOFOUR_DEVICE float nearly_root(float v) {
  const float minus_half = -0.5f * v;
  float y = float_of(0x5f374540u - (bits_of(v) >> 1));
  y *= fma(minus_half * y, y, 1.5009084f);
  y *= fma(minus_half * y, y, 1.5000006f);
  return v * y;
}
// 1 / x, of x from 2^-126 to 2^125.
TWOFOUR_DEVICE float nearly_inverse(float x) {
  float y = float_of(0x7ef3343cu - bits_of(x));
  y *= fma(-x, y, 2.0012822f);
  return y * fma(-x, y, 2.0000008f);
}
TWOFOUR_DEVICE float nearly_stepped(const AdamW& by, float logit, float m, float root) {
  return fma(by.keep, logit, -(by.rate * m * nearly_inverse(fma(root, by.root, by.epsilon))));
}

// Random words of a group that is known by its global number.
TWOFOUR_DEVICE u32x4 random_bits(const RoundKeys& keys, u64 group, u64 draw) {
  return philox(keys, {u32(group), u32(group >> 32), u32(draw), u32(draw >> 32)});
}

// To bf16 by 16 random bits, as the bits of a float; what is not finite is cut.
TWOFOUR_DEVICE float round_to_bf16(float x, u32 random) {
  const u32 bits = bits_of(x);
  return float_of((absolute(x) < infinity() ? bits + random : bits) & 0xffff0000u);
}

// Rounds a group's logits to what memory holds, as floats still.
TWOFOUR_DEVICE void round_logits(const RoundKeys&, u64, u64, float*, f32) {}
TWOFOUR_DEVICE void round_logits(const RoundKeys& keys, u64 group, u64 draw, float* logits, bf16) {
  const u32x4 random = random_bits(keys, group, draw);
  const u32 words[3] = {random.x, random.y, random.z};
  TWOFOUR_UNROLL
  for (int k = 0; k < 6; ++k) {
    logits[k] = round_to_bf16(logits[k], k % 2 ? words[k / 2] >> 16 : words[k / 2] & 0xffff);
  }
}
// The same by the words that round the group's moments to 8 bits: of the first three logits' the first and third, of the
// others' the second and fourth, so a logit takes its bits from those of the other three.
TWOFOUR_DEVICE void round_logits(const u32 (&)[4], float*, f32) {}
TWOFOUR_DEVICE void round_logits(const u32 (&words)[4], float* logits, bf16) {
  TWOFOUR_UNROLL
  for (int k = 0; k < 6; ++k) {
    const u32 word = words[(k < 3 ? 1 : 0) + (k % 3 == 2 ? 2 : 0)];
    logits[k] = round_to_bf16(logits[k], k % 3 == 1 ? word >> 16 : word & 0xffff);
  }
}

// Two floats that are bf16's already, as memory holds them: NaN's bits too.
TWOFOUR_DEVICE u32 cut_to_bf16x2(float lo, float hi) { return byte_permute(bits_of(lo), bits_of(hi), 0x7632); }
TWOFOUR_DEVICE bf16 cut_to_bf16(float x) { return bf16{u16(bits_of(x) >> 16)}; }

// Writes n logits that were rounded so, from `element` on.
template <bool whole, int n>
TWOFOUR_DEVICE void write_logits(f32* base, u64 element, const float (&x)[n]) {
  write<whole, f32>(base, element, x);
}
template <bool whole, int n>
TWOFOUR_DEVICE void write_logits(bf16* base, u64 element, const float (&x)[n]) {
  bf16* to = base + element;
  if constexpr (whole) {
    static_assert(n % 8 == 0, "whole 16-byte accesses");
    TWOFOUR_UNROLL
    for (int a = 0; a < n; a += 8) {
      store_16(to + a, {cut_to_bf16x2(x[a], x[a + 1]), cut_to_bf16x2(x[a + 2], x[a + 3]),
                        cut_to_bf16x2(x[a + 4], x[a + 5]), cut_to_bf16x2(x[a + 6], x[a + 7])});
    }
  } else {
    TWOFOUR_UNROLL
    for (int i = 0; i < n; ++i) store(to + i, cut_to_bf16(x[i]));
  }
}

}  // namespace twofour
