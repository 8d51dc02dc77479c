// AdamW's moments in 8 bits (src/learn/moments.rs is the contract). The same bits as the CPU executor's.
#pragma once

#include "common/adamw.cuh"

namespace twofour {

// A code is a small floating-point number: an exponent of four bits and a mantissa of three (below a sign) or four. Its
// bits, shifted to their place in a float, are that number times a power of two, subnormals included; so a product
// and a shift encode it; in the place of an f16 a product decodes it.
template <int mantissa>
struct Code {
  static constexpr u32 kShift = 23 - mantissa;
  // What the top code stands for, where code 1 is 1.
  static constexpr float kLargest = float(((2 << mantissa) - 1) << 14);

  // The code of x, in steps and not negative, in the upper bits of a word: rounded by ten random bits, the top code from
  // kLargest on and of a NaN. `least` is 1 or 0.
  TWOFOUR_DEVICE static u32 encode(float x, u32 random, u32 least) {
    const float placed = (x < kLargest ? x : kLargest) * float_of(1u << kShift);
    const u32 sum = bits_of(placed) + ((random << (kShift - 10)) + (1u << (kShift - 11)));
    return (sum < least << kShift ? least << kShift : sum) << (5 - (mantissa == 3));
  }
  // What code 1 stands for.
  TWOFOUR_DEVICE static float step(float scale) { return scale * (1.0f / kLargest); }
  // Steps in 1; 0 of a scale of 0. Scales beyond 2^125, which no step makes, count as that.
  TWOFOUR_DEVICE static float inverse(float scale) {
    const float within = scale < 0x1p125f ? scale : 0x1p125f;
    return scale == 0.0f ? 0.0f : kLargest * nearly_inverse(within);
  }
};
using CodeOfM = Code<3>;
using CodeOfV = Code<4>;

// Blocks whose largest number is below this, 2^-100, hold zeros.
constexpr u32 kNothingBits = (127 - 100) << 23;

// The first moments that the codes in bytes 2 * pair and 2 * pair + 1 of a word stand for, and roots of the second ones. An
// f16 has an exponent of five bits: a code in its place is its number times 2^-17, or 2^-18, subnormals included.
TWOFOUR_DEVICE void decode_m(u32 word, int pair, float step, float& lo, float& hi) {
  const u32 codes = byte_permute(word, 0, pair ? 0x3424 : 0x1404);
  unpack((codes & 0x7f007f00) >> 1 | (codes & 0x80008000), lo, hi, f16{});
  lo *= 0x1p17f * step, hi *= 0x1p17f * step;
}
TWOFOUR_DEVICE void decode_root(u32 word, int pair, float step, float& lo, float& hi) {
  unpack(byte_permute(word, 0, pair ? 0x4342 : 0x4140) << 6, lo, hi, f16{});
  lo *= 0x1p18f * step, hi *= 0x1p18f * step;
}
// In the uppermost byte. What is below 0 in steps has the sign though its code be 0.
TWOFOUR_DEVICE u32 encode_m(float m, float inverse, u32 random) {
  const float x = m * inverse;
  const u32 code = CodeOfM::encode(absolute(x), random, 0);
  return x < 0.0f ? code | 0x80000000 : code;
}
// The second moment is stored as its root. One that is not 0 keeps a code that is not: a 0 beside a first moment would
// be a step without bound.
TWOFOUR_DEVICE u32 encode_v(float root, float inverse, u32 random) {
  const float x = root * inverse;
  return CodeOfV::encode(x, random, x > 0.0f ? 1 : 0);
}

}  // namespace twofour
