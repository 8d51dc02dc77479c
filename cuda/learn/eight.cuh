// AdamW's moments in 8 bits (src/learn/moments.rs is the contract). The same bits as the CPU executor's.
#pragma once

#include "common/ptx.cuh"

namespace twofour {

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
