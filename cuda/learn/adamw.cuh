// A step of AdamW on a group's six logits, and its moments in 8 bits (src/learn/mod.rs is the contract). The same bits as
// the CPU executor's: each operation is IEEE's, in this order.
#pragma once

#include "common/philox.cuh"

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

// To bf16 by 16 random bits, as the bits of a float; what is not finite is cut.
TWOFOUR_DEVICE float round_to_bf16(float x, u32 random) {
  const u32 bits = bits_of(x);
  return float_of((absolute(x) < infinity() ? bits + random : bits) & 0xffff0000u);
}

// ---- 8 bits -----------------------------------------------------------------------------------------------

// A code is a small floating-point number: an exponent of four bits and a mantissa of three (below a sign) or four. Its
// bits, shifted to their place in a float, are that number times a power of two, subnormals included; so a product
// decodes it, and a product and a shift encode.
template <int mantissa>
struct Code {
  static constexpr u32 kShift = 23 - mantissa;
  static constexpr u32 kTop = (16u << mantissa) - 1;
  // What the top code stands for, where code 1 is 1.
  static constexpr float kLargest = float(((2 << mantissa) - 1) << 14);

  // `step` is what code 1 stands for. 2^126 takes a code from its place in a float to its number over 2^mantissa.
  TWOFOUR_DEVICE static float decode(u32 code, float step) {
    return (float_of(code << kShift) * float_of(253u << 23)) * (float(1 << mantissa) * step);
  }
  // x in steps, from 0 to kLargest, rounded by ten random bits.
  TWOFOUR_DEVICE static u32 encode(float x, u32 random) {
    const float placed = x * float_of(1u << kShift);
    const u32 code = (bits_of(placed) + (random << (kShift - 10)) + (1u << (kShift - 11))) >> kShift;
    return code < kTop ? code : kTop;
  }
  TWOFOUR_DEVICE static float step(float scale) { return divide(scale, kLargest); }
  // Steps in 1.
  TWOFOUR_DEVICE static float inverse(float scale) { return divide(kLargest, scale); }
};
using CodeOfM = Code<3>;
using CodeOfV = Code<4>;

// Blocks whose largest number is below this, 2^-100, hold zeros.
constexpr u32 kNothingBits = (127 - 100) << 23;

TWOFOUR_DEVICE float decode_m(u32 code, float step) {
  const float size = CodeOfM::decode(code & 127, step);
  return float_of(bits_of(size) | (code & 128) << 24);
}
TWOFOUR_DEVICE u32 encode_m(float m, float inverse, u32 random) {
  const u32 code = CodeOfM::encode(absolute(m) * inverse, random);
  return m < 0.0f && code != 0 ? code | 128 : code;
}
// The second moment is stored as its root. One that is not 0 keeps a code that is not: a 0 beside a first moment would
// be a step without bound.
TWOFOUR_DEVICE float decode_v(u32 code, float step) {
  const float root = CodeOfV::decode(code, step);
  return root * root;
}
TWOFOUR_DEVICE u32 encode_v(float root, float inverse, u32 random) {
  const float x = root * inverse;
  const u32 code = CodeOfV::encode(x, random), least = x > 0.0f ? 1 : 0;
  return code > least ? code : least;
}

}  // namespace twofour
