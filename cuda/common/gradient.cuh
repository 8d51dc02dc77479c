// From the gradient of a group's masked weights to the gradient of its logits (src/mask/mod.rs has the formulas). Shared
// by the kernels that have the former in memory and those that have it in registers.
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

// `group` is the global number, `g` the gradient of the masked weights. Straight-through: the gradient of a hard mask is
// the soft mask's. The regulariser sees the mask that was used. `weight_gradient` is g times that mask.
template <bool hard>
TWOFOUR_DEVICE void differentiate(const Differentiation& by, const u32x2* lines, u64 group, const float* logits,
                                  const float* w, const float* g, float* logit_gradient, float* weight_gradient) {
  float z[6], e[6], soft[4], used[4];
  noisy_scores(by.sampling, lines, group, logits, z);
  const float top = largest(z);
  exponentials(z, top, by.sampling.scale, e);
  const float inverse = soft_mask(e, soft);
  const u32 index = choose(z, top);
  if constexpr (hard) {
    hard_mask(index, used);
    keep(index, g, weight_gradient);
  } else {
    TWOFOUR_UNROLL
    for (int j = 0; j < 4; ++j) used[j] = soft[j], weight_gradient[j] = g[j] * soft[j];
  }
  float d[4], u[6];
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) d[j] = w[j] * fma(by.minus_2_lambda * w[j], used[j], g[j]);
  pair_sums(d, u);
  const float mean = fma(d[0], soft[0], d[1] * soft[1]) + fma(d[2], soft[2], d[3] * soft[3]);
  const float scale = by.logit_scale * inverse;
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) logit_gradient[i] = (e[i] * scale) * (u[i] - mean);
}

}  // namespace twofour
