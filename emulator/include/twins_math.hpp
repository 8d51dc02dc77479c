// Twins of the register-to-register instructions: the same bits as the hardware, save ex2_approx and rcp_approx.
#pragma once

namespace twofour {

template <typename To, typename From>
TWOFOUR_DEVICE To reinterpret_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
TWOFOUR_DEVICE u32 bits_of(float x) { return reinterpret_bits<u32>(x); }
TWOFOUR_DEVICE u64 bits_of(double x) { return reinterpret_bits<u64>(x); }
TWOFOUR_DEVICE float float_of(u32 bits) { return reinterpret_bits<float>(bits); }
TWOFOUR_DEVICE double double_of(u64 bits) { return reinterpret_bits<double>(bits); }

TWOFOUR_DEVICE u64 mul_wide(u32 a, u32 b) { return u64(a) * b; }
TWOFOUR_DEVICE u32 mul_hi(u32 a, u32 b) { return u32(u64(a) * b >> 32); }
TWOFOUR_DEVICE u32 popcount(u32 x) { return u32(__builtin_popcount(x)); }
TWOFOUR_DEVICE u32 leading_zeros(u32 x) { return x == 0 ? 32 : u32(__builtin_clz(x)); }
TWOFOUR_DEVICE u32 funnel_shift_right(u32 lo, u32 hi, u32 shift) { return u32((u64(hi) << 32 | lo) >> (shift % 32)); }
TWOFOUR_DEVICE u32 byte_permute(u32 lo, u32 hi, u32 selector) {
  const u64 bytes = u64(hi) << 32 | lo;
  u32 result = 0;
  for (u32 i = 0; i < 4; ++i) {
    const u32 nibble = selector >> (4 * i) & 15;
    const u32 byte = u32(bytes >> (8 * (nibble & 7))) & 0xff;
    // The nibble's top bit asks for eight copies of the byte's sign.
    result |= (nibble < 8 ? byte : (byte & 0x80 ? 0xffu : 0u)) << (8 * i);
  }
  return result;
}

TWOFOUR_DEVICE float fma(float a, float b, float c) { return std::fma(a, b, c); }
TWOFOUR_DEVICE double fma(double a, double b, double c) { return std::fma(a, b, c); }
TWOFOUR_DEVICE float divide(float a, float b) { return a / b; }
TWOFOUR_DEVICE double divide(double a, double b) { return a / b; }
TWOFOUR_DEVICE float square_root(float x) { return std::sqrt(x); }
TWOFOUR_DEVICE double square_root(double x) { return std::sqrt(x); }

constexpr u32 kNan = 0x7fffffff;  // the NaN that the hardware makes

TWOFOUR_DEVICE bool is_nan(float x) { return x != x; }
TWOFOUR_DEVICE float min_nan(float a, float b) {
  if (is_nan(a) || is_nan(b)) return float_of(kNan);
  if (a == b) return float_of(bits_of(a) | bits_of(b));
  return a < b ? a : b;
}
TWOFOUR_DEVICE float absolute(float x) { return float_of(bits_of(x) & 0x7fffffff); }
TWOFOUR_DEVICE float max_nan(float a, float b) {
  if (is_nan(a) || is_nan(b)) return float_of(kNan);
  if (a == b) return float_of(bits_of(a) & bits_of(b));
  return a > b ? a : b;
}

// Subnormals become zeros of the same sign.
TWOFOUR_DEVICE float flushed(float x) { return (bits_of(x) & 0x7f800000) == 0 ? float_of(bits_of(x) & 0x80000000) : x; }
TWOFOUR_DEVICE float ex2_approx(float x) { return flushed(std::exp2(flushed(x))); }
TWOFOUR_DEVICE float rcp_approx(float x) { return flushed(1.0f / flushed(x)); }

TWOFOUR_DEVICE u16 f16_bits(float x) {
  const u32 sign = bits_of(x) >> 16 & 0x8000;
  const u32 magnitude = bits_of(x) & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  // From the middle between the largest finite value and the next step on: infinity.
  if (magnitude >= 0x477ff000) return u16(sign | 0x7c00);
  // Below 2^-14 the steps are 2^-24 wide, as those of float are from one half on: the addition rounds.
  if (magnitude < 0x38800000) return u16(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)));
  const u32 rebiased = magnitude - (112u << 23);
  return u16(sign | (rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13);
}
TWOFOUR_DEVICE u16 bf16_bits(float x) {
  const u32 bits = bits_of(x);
  if (is_nan(x)) return 0x7fff;
  return u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
TWOFOUR_DEVICE float float_of_f16_bits(u16 bits) {
  const u32 sign = u32(bits & 0x8000) << 16;
  const u32 magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) return float_of(sign | 0x7f800000 | magnitude << 13);
  if (magnitude >= 0x0400) return float_of(sign | (magnitude << 13) + (112u << 23));
  return float_of(sign | bits_of(float(magnitude) * 0x1p-24f));
}
TWOFOUR_DEVICE u32 to_tf32(float x) {
  if (is_nan(x)) return kNan;
  return (bits_of(x) + 0x1000) & 0xffffe000;
}
TWOFOUR_DEVICE u32 f16x2_high_low(float high, float low) { return u32(f16_bits(high)) << 16 | f16_bits(low); }
TWOFOUR_DEVICE u32 bf16x2_high_low(float high, float low) { return u32(bf16_bits(high)) << 16 | bf16_bits(low); }

}  // namespace twofour
