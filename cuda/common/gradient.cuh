// From the gradient of a group's masked weights to the gradient of its logits (src/mask/mod.rs has the formulas). Shared
// by the kernels that have the former in memory and those that have it in registers, and by those that write the latter
// and those that use it up.
#pragma once

#include "common/sample.cuh"

namespace twofour {

// What the gradient needs besides operands.
struct Differentiation {
  Sampling sampling;
  float logit_scale;  // kappa / tau
  float minus_2_lambda;
};
static_assert(sizeof(Differentiation) == 112, "Differentiation in src/mask/launch.rs");

// A group's masks, as the gradient needs them.
struct Masks {
  float e[6];        // unnormalised weights of the patterns
  float inverse;     // 1 / their sum
  float confidence;  // the largest y
  float soft[4];
  u32 index;  // of the hard one
};

// `group` is the global number; `chooses`: whether the hard one is wanted, which takes a sixth of the instructions.
TWOFOUR_DEVICE Masks masks_of(const Sampling& sampling, const u32x2* lines, u64 group, const float* logits,
                              bool chooses) {
  Masks masks;
  float l[6], noise[6], z[6], r[6];
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) l[i] = logits[i];
  gumbels(sampling.noise, lines, group, noise);
  masks.index = kNoPattern;
  if (chooses) {
    scores(sampling.kappa, l, noise, z);
    masks.index = choose(z, largest(z));
  }
  const float top = relative_scores(sampling.kappa, l, noise, r);
  // Rounded in one place for all six: an instruction less each, but the largest is 1 only nearly.
  const float shift = -(top * sampling.scale);
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) masks.e[i] = ex2_approx(fma(r[i], sampling.scale, shift));
  masks.inverse = soft_mask(masks.e, masks.soft);
  masks.confidence = masks.inverse * ex2_approx(fma(top, sampling.scale, shift));
  return masks;
}

// The mask that weights were masked with.
TWOFOUR_DEVICE void used_mask(const Masks& masks, bool hard, float (&used)[4]) {
  if (hard) {
    hard_mask(masks.index, used);
  } else {
    TWOFOUR_UNROLL
    for (int j = 0; j < 4; ++j) used[j] = masks.soft[j];
  }
}

// `g` is the gradient of the masked weights, `used` the mask that they were masked with: the regulariser sees it.
// Straight-through: otherwise the gradient of a hard mask is the soft mask's. Patterns' sums are taken less that of the
// positions that are kept by more than half: less their mean alone they would cancel where one pattern's y is nearly 1.
// That one's is then exactly 0.
TWOFOUR_DEVICE void logit_gradients(const Differentiation& by, const Masks& masks, const float (&used)[4],
                                    const float* w, const float* g, float* logit_gradient) {
  float d[4], v[6];
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) d[j] = w[j] * fma(by.minus_2_lambda * w[j], used[j], g[j]);
  pair_sums(d, v);
  float kept = 0, mean = 0;
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) kept = fma(masks.soft[j] > 0.5f ? 1.0f : 0.0f, d[j], kept);
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) v[i] -= kept, mean = fma(masks.e[i], v[i], mean);
  const float scale = by.logit_scale * masks.inverse;
  mean *= masks.inverse * scale;
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) logit_gradient[i] = masks.e[i] * fma(scale, v[i], -mean);
}

// Both gradients; `weight_gradient` is g times the mask that was used.
template <bool hard>
TWOFOUR_DEVICE void differentiate(const Differentiation& by, const u32x2* lines, u64 group, const float* logits,
                                  const float* w, const float* g, float* logit_gradient, float* weight_gradient) {
  const Masks masks = masks_of(by.sampling, lines, group, logits, hard);
  float used[4];
  used_mask(masks, hard, used);
  if constexpr (hard) {
    keep(masks.index, g, weight_gradient);
  } else {
    TWOFOUR_UNROLL
    for (int j = 0; j < 4; ++j) weight_gradient[j] = g[j] * masks.soft[j];
  }
  logit_gradients(by, masks, used, w, g, logit_gradient);
}

}  // namespace twofour
