// From a group's logits to its mask: scores z_i = kappa * logit_i + noise_i, the soft mask softmax(z / tau) mixes, the
// hard choice the largest score makes. Shared by all kernels that sample.
#pragma once

#include "common/gumbel.cuh"
#include "common/pattern.cuh"

namespace twofour {

// What sampling needs besides logits; `scale` is log2(e) / tau.
struct Sampling {
  Noise noise;
  float kappa;
  float scale;
};
static_assert(sizeof(Sampling) == 104, "Sampling in src/mask/launch.rs");

TWOFOUR_DEVICE void scores(float kappa, const float* logits, const float (&noise)[6], float (&z)[6]) {
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) z[i] = fma(kappa, logits[i], noise[i]);
}

// Noisy scores of global group `group`. The same bits on every executor.
TWOFOUR_DEVICE void noisy_scores(const Sampling& s, const u32x2* lines, u64 group, const float* logits, float (&z)[6]) {
  float noise[6];
  gumbels(s.noise, lines, group, noise);
  scores(s.kappa, logits, noise, z);
}

// NaN if any score is.
TWOFOUR_DEVICE float largest(const float (&z)[6]) {
  return max_nan(max_nan(max_nan(z[0], z[1]), max_nan(z[2], z[3])), max_nan(z[4], z[5]));
}

// The r of src/mask/mod.rs: scores by which much smaller numbers are rounded than z, the same bits on every executor.
// Gives the largest, NaN where the largest z is not finite.
TWOFOUR_DEVICE float relative_scores(float kappa, const float (&logits)[6], const float (&noise)[6], float (&r)[6]) {
  const float top = largest(logits);
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) r[i] = logits[i] - top;
  scores(kappa, r, noise, r);
  return fma(kappa * top, 0.0f, largest(r));
}

// What `of` makes of the lowest pattern index whose score is the largest; of kNoPattern unless that is finite.
template <typename Of>
TWOFOUR_DEVICE u32 choose(const float (&z)[6], float top, Of of) {
  u32 chosen = of(kNoPattern);
  TWOFOUR_UNROLL
  for (int i = 5; i >= 0; --i) chosen = z[i] == top ? of(u32(i)) : chosen;
  return absolute(top) < infinity() ? chosen : of(kNoPattern);
}
TWOFOUR_DEVICE u32 choose(const float (&z)[6], float top) {
  return choose(z, top, [](u32 index) { return index; });
}

// Weights of the six patterns, unnormalised, the largest being 1. All NaN in effect (the sum is) unless `top` is finite.
TWOFOUR_DEVICE void exponentials(const float (&z)[6], float top, float scale, float (&e)[6]) {
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) e[i] = ex2_approx((z[i] - top) * scale);
}

// The soft mask; gives 1 / sum of e, which is the largest y.
TWOFOUR_DEVICE float soft_mask(const float (&e)[6], float (&m)[4]) {
  const float inverse = rcp_approx(mix_patterns(e, m));
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) m[j] *= inverse;
  return inverse;
}

// 1 at the two kept positions, 0 at the others; four NaN for kNoPattern.
TWOFOUR_DEVICE void hard_mask(u32 index, float (&m)[4]) {
  const u32 bits = pattern_bits(index);
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) m[j] = index == kNoPattern ? not_a_number() : float_of((bits >> j & 1) * 0x3f800000u);
}

// w where kept, +0 where not, whatever w is; NaN for kNoPattern.
TWOFOUR_DEVICE void keep(u32 index, const float* w, float* kept) {
  const u32 bits = pattern_bits(index);
  const float dropped = index == kNoPattern ? not_a_number() : 0.0f;
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) kept[j] = (bits >> j & 1) ? w[j] : dropped;
}

}  // namespace twofour
