// What makes a neuron's h of its gate and up.
#pragma once

#include "common/ptx.cuh"

namespace twofour {

// On where from <= gate, or low <= gate <= high; and, if `both`, up > 0.
struct Bounds {
  float from, low, high;
  u32 both;
  u32 smooth;  // 1: a is SiLU, else the gate
};
static_assert(sizeof(Bounds) == 20, "BoundsArgs in src/glu/launch.rs");

// NaN.
TWOFOUR_DEVICE bool is_unordered(float x) { return x != x; }

TWOFOUR_DEVICE bool is_inside(const Bounds& bounds, float gate) {
  return gate >= bounds.from || (gate >= bounds.low && gate <= bounds.high);
}

TWOFOUR_DEVICE bool is_on(const Bounds& bounds, float gate, float up) {
  return is_inside(bounds, gate) && (bounds.both == 0 || up > 0.0f) && !is_unordered(gate * up);
}

// Of -infinity 0; slopes are numbers.
struct Silu {
  float value, slope;
  TWOFOUR_DEVICE explicit Silu(float gate) {
    constexpr float kLog2E = 1.4426950408889634f, kMost = 3.40282347e38f;
    const float share = rcp_approx(1.0f + ex2_approx(gate * -kLog2E));
    const float least = max_nan(gate, -kMost), inside = min_nan(least, kMost);
    value = least * share;
    slope = share * (1.0f + inside * (1.0f - share));
  }
};

}  // namespace twofour
