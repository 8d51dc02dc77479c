// Logarithms and exponentials that a row needs a few of, in double; and the float logarithm of Jensen and Shannon's
// divergence, which has the hardware's reciprocals where IEEE's divisions would be half of its instructions.
#pragma once

#include "common/ptx.cuh"

namespace twofour {

// ln x of a positive normal number, to 1e-14; NaN of NaN.
TWOFOUR_DEVICE double logarithm(double x) {
  if (x != x) return x;
  constexpr u64 root_half = 0x3fe6a09e667f3bcdull;
  const u64 bits = bits_of(x) + (0x3ff0000000000000ull - root_half);
  const double k = double(int(u32(bits >> 52))) - 1023.0;
  const double f = double_of((bits & 0x000fffffffffffffull) + root_half) - 1.0;
  // ln(1 + f) = 2 atanh(s).
  const double s = divide(f, 2.0 + f), z = s * s;
  double sum = 1.0 / 19;
  TWOFOUR_UNROLL
  for (int odd = 17; odd >= 1; odd -= 2) sum = fma(sum, z, 1.0 / odd);
  return fma(k, 0.69314718055994531, 2 * s * sum);
}

// e^x to 1e-13; 0 below -700, infinity above 700, NaN of NaN.
TWOFOUR_DEVICE double exponential(double x) {
  if (x != x) return x;
  if (x < -700.0) return 0.0;
  if (x > 700.0) return double_of(0x7ff0000000000000ull);
  // Adding 1.5 * 2^52 rounds to an integer, which then stands in the low bits.
  constexpr double rounder = 6755399441055744.0;
  const double shifted = fma(x, 1.4426950408889634, rounder), k = shifted - rounder;
  const double r = fma(k, -1.9082149292705877e-10, fma(k, -0.69314718036912382, x));
  double sum = 1.0;
  TWOFOUR_UNROLL
  for (int i = 12; i >= 1; --i) sum = fma(sum * r, 1.0 / i, 1.0);
  return double_of(bits_of(sum) + (bits_of(shifted) << 52));
}

// ln x of a positive normal number, to about two units in the last place, by musl's polynomial; of other numbers that
// are not below 0, some number.
TWOFOUR_DEVICE float logarithm(float x) {
  constexpr u32 root_half = 0x3f3504f3;
  const u32 bits = bits_of(x) + (0x3f800000 - root_half);
  const float k = float_of(0x4b000000 | bits >> 23) - (8388608.0f + 127.0f);
  const float f = float_of((bits & 0x007fffff) + root_half) - 1.0f;
  const float s = f * rcp_approx(2.0f + f), z = s * s, w = z * z;
  const float odd = fma(w, 0.24279079f, 0.40000972f) * w, even = fma(w, 0.28498787f, 0.66666663f) * z;
  const float half = 0.5f * f * f;
  // ln 2 in two parts.
  return fma(s, half + (odd + even), k * 9.058001e-6f) - half + f + k * 0.6931381f;
}

// ln(p/m) with m = beta q + (1 - beta) p; where p is 0 or m below the normal numbers, some number.
TWOFOUR_DEVICE float log_over_mean(float p, float q, float beta) {
  // p/m = 1 + r: near 1 it is r that is accurate, far below p/m itself.
  const float m = fma(q - p, beta, p), inverse = rcp_approx(m < 0x1p-126f ? 1.0f : m);
  const float r = beta * (p - q) * inverse;
  const bool is_far = r < -0.5f;
  const float ratio = is_far ? p * inverse : 1.0f + r;
  return logarithm(ratio) + (is_far ? 0.0f : divide(r - (ratio - 1.0f), ratio));
}

}  // namespace twofour
