// What a pass over the groups adds up: the statistics of a step, and the square of the gradient's norm. Threads add up
// their own, blocks theirs, and twofour_learn_finish adds up the blocks'.
#pragma once

#include "learn/adamw.cuh"
#include "learn/unit.cuh"

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

// What a thread adds up.
struct Sums {
  double gradient_squares = 0;
  double kept_energy = 0;
  double confidence = 0;
  u32 moved = 0;
  u32 skipped = 0;
  u32 groups = 0;
};

// Adds the threads' sums and writes the block's share. By all threads of the block.
TWOFOUR_DEVICE void add_up(const Sums& sums, Statistics* statistics, double* norm_squares) {
  TWOFOUR_SHARED Statistics of_warps[kWarps];
  Statistics total = {sums.gradient_squares, sums.kept_energy, sums.confidence, sums.moved, sums.skipped, sums.groups};
  for (u32 delta = kWarpSize / 2; delta > 0; delta /= 2) {
    total.add({shuffle_down(total.gradient_squares, delta), shuffle_down(total.kept_energy, delta),
               shuffle_down(total.confidence, delta), shuffle_down(total.moved, delta),
               shuffle_down(total.skipped, delta), shuffle_down(total.groups, delta)});
  }
  if (lane() == 0) of_warps[warp()] = total;
  sync_threads();
  if (thread_index() != 0) return;
  for (u32 w = 1; w < kWarps; ++w) total.add(of_warps[w]);
  if (statistics) store(statistics + 1 + block_index(), total);
  if (norm_squares) store(norm_squares + 1 + block_index(), total.gradient_squares);
}

// Bit i: group i of the lane is there and its gradient is not wild. Adds the squares of those.
TWOFOUR_DEVICE u32 measure(const Unit& unit, const float (&g)[kLane], Sums& sums) {
  u32 tame = 0;
  float squares[kLaneGroups];
  TWOFOUR_UNROLL
  for (int i = 0; i < int(kLaneGroups); ++i) {
    squares[i] = sum_of_squares(g + 6 * i);
    const bool is_tame = unit.has(i) && squares[i] < float_of(kWildBits);
    tame |= u32(is_tame) << i;
    sums.gradient_squares += is_tame ? double(squares[i]) : 0.0;
  }
  return tame;
}

}  // namespace twofour
