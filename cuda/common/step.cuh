// What steps of AdamW have in common, whoever makes them: their arguments, and what a pass over the groups adds up: the
// statistics of a step, and the square of the gradient's norm. Threads add up their own, blocks theirs, and
// twofour_learn_finish adds up the blocks'.
#pragma once

#include "common/adamw.cuh"
#include "common/sample.cuh"
#include "common/walk.cuh"

namespace twofour {

// Sums over groups, of a block or of all. The layout of `Statistics` in src/learn/mod.rs.
struct Statistics {
  double gradient_squares;
  double kept_energy;
  double confidence;
  u64 moved;
  u64 skipped;
  u64 groups;

  TWOFOUR_DEVICE void add(const Statistics& other) {
    gradient_squares += other.gradient_squares;
    kept_energy += other.kept_energy;
    confidence += other.confidence;
    moved += other.moved;
    skipped += other.skipped;
    groups += other.groups;
  }
};

// What a step is besides the gradient.
struct Step {
  void* logits;
  void* m;  // moments; null: nothing is updated
  void* v;
  float* scales;           // of 8-bit moments: two a unit
  const float* factor;     // null: 1
  Statistics* statistics;  // the blocks' shares, [blocks]; null: not wanted
  double* norm_squares;    // the same of the norm
  Walk walk;
  u64 draw;
  RoundKeys logit_keys;   // of the rounding of bf16 logits
  RoundKeys moment_keys;  // of that of 8-bit moments
  AdamW by;
};
static_assert(sizeof(Step) == 296, "StepArgs in src/learn/launch.rs");

// A factor outside [0, 1], NaN among them, is none: nothing is stepped.
TWOFOUR_DEVICE float clip_factor(const float* factor) { return factor ? load(factor) : 1.0f; }
TWOFOUR_DEVICE bool is_factor(float factor) { return factor >= 0.0f && factor <= 1.0f; }

// The pattern of the largest logit; kNoPattern where none is.
TWOFOUR_DEVICE u32 argmax(const float* logits) {
  const float z[6] = {logits[0], logits[1], logits[2], logits[3], logits[4], logits[5]};
  return choose(z, largest(z));
}

// The sum of the squares of a group's masked weights.
TWOFOUR_DEVICE float kept_energy(const float* w, const float (&used)[4]) {
  float kept = 0;
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) kept = fma(w[j] * used[j], w[j] * used[j], kept);
  return kept;
}

// What a thread adds up.
struct StepSums {
  double gradient_squares = 0;
  double kept_energy = 0;
  double confidence = 0;
  u32 moved = 0;
  u32 skipped = 0;
  u32 groups = 0;
};

// Adds the threads' sums and writes the block's share. By all threads of the block, which has so many warps.
template <u32 warps>
TWOFOUR_DEVICE void add_up(const StepSums& sums, Statistics* statistics, double* norm_squares) {
  TWOFOUR_SHARED Statistics of_warps[warps];
  Statistics total = {sums.gradient_squares, sums.kept_energy, sums.confidence, sums.moved, sums.skipped, sums.groups};
  for (u32 delta = kWarpSize / 2; delta > 0; delta /= 2) {
    total.add({shuffle_down(total.gradient_squares, delta), shuffle_down(total.kept_energy, delta),
               shuffle_down(total.confidence, delta), shuffle_down(total.moved, delta),
               shuffle_down(total.skipped, delta), shuffle_down(total.groups, delta)});
  }
  if (lane() == 0) of_warps[warp()] = total;
  sync_threads();
  if (thread_index() != 0) return;
  for (u32 w = 1; w < warps; ++w) total.add(of_warps[w]);
  if (statistics) store(statistics + block_index(), total);
  if (norm_squares) store(norm_squares + block_index(), total.gradient_squares);
}

}  // namespace twofour
