// Products of a matrix [rows, depth] and one [depth, cols] as SparseGPT's sweep and swaps need them: in f32, each sum by
// fused multiply-adds in the order of the depth. A block has a tile of the sums.
#pragma once

#include "common/vector.cuh"

namespace twofour {

constexpr u32 kThreads = 256;
constexpr u32 kWarps = kThreads / kWarpSize;

// A thread's 8 x 8 of a tile's 128 x 128, as four squares of 4 x 4 that lie 64 apart: so a warp reads shared memory
// without conflicts.
constexpr u32 kTile = 128;
// Steps of the depth that are in shared memory at a time.
constexpr u32 kDepth = 16;
constexpr u32 kPitch = kTile + 4;
// Runs of four that a thread copies of them.
constexpr u32 kParts = kTile * kDepth / 4 / kThreads;
// By row and by half of the tile's columns.
using Sums = float[8][2][4];

// Four floats to 16-byte aligned shared memory.
TWOFOUR_DEVICE void store_shared(float* to, const float (&x)[4]) {
  store(reinterpret_cast<u32x4*>(to), u32x4{bits_of(x[0]), bits_of(x[1]), bits_of(x[2]), bits_of(x[3])});
}

// Where a block's tile lies, in the columns from `first` on, and in it a thread's part.
struct OwnTile {
  u64 row, column, cols;
  u32 own_row, own_column;
  u64 high, wide;  // Rows and columns from this thread's first on.

  TWOFOUR_DEVICE OwnTile(u64 rows, u64 first, u64 all_cols) : cols(all_cols) {
    const u32 tiles = u32((cols - first + kTile - 1) / kTile);
    row = u64(block_index() / tiles) * kTile, column = first + u64(block_index() % tiles) * kTile;
    own_row = thread_index() / 16 * 4, own_column = thread_index() % 16 * 4;
    high = rows > row + own_row ? rows - row - own_row : 0;
    wide = cols > column + own_column ? cols - column - own_column : 0;
  }

  // Calls each(row, half, offset) for this thread's runs of four sums; offsets are from (row, column) of the matrix.
  template <typename Each>
  TWOFOUR_DEVICE void for_each(Each each) const {
    const u64 first = (row + own_row) * cols + column + own_column;
    TWOFOUR_UNROLL
    for (u32 r = 0; r < 8; ++r) {
      TWOFOUR_UNROLL
      for (u32 half = 0; half < 2; ++half) {
        const u32 down = r % 4 + r / 4 * 64, along = 64 * half;
        if (down < high && along < wide) each(r, half, first + down * cols + along);
      }
    }
  }

  TWOFOUR_DEVICE void load(const float* from, Sums& sums) const {
    for_each([&](u32 r, u32 half, u64 at) { load_own_run(from + at, sums[r][half]); });
  }

  TWOFOUR_DEVICE void store(float* to, const Sums& sums) const {
    for_each([&](u32 r, u32 half, u64 at) { store_run(to + at, sums[r][half]); });
  }

  // Adds kDepth products: a [kDepth, kPitch] of rows, b [kDepth, kPitch] of columns, in shared memory.
  TWOFOUR_DEVICE void multiply(const float* a, const float* b, Sums& sums) const {
    if (high == 0 || wide == 0) return;
    TWOFOUR_NO_UNROLL
    for (u32 d = 0; d < kDepth; ++d) {
      float x[2][4], y[2][4];
      TWOFOUR_UNROLL
      for (u32 half = 0; half < 2; ++half) {
        load_own_run(a + d * kPitch + own_row + 64 * half, x[half]);
        load_own_run(b + d * kPitch + own_column + 64 * half, y[half]);
      }
      TWOFOUR_UNROLL
      for (u32 r = 0; r < 8; ++r) {
        TWOFOUR_UNROLL
        for (u32 c = 0; c < 8; ++c) {
          sums[r][c / 4][c % 4] = fma(x[r / 4][r % 4], y[c / 4][c % 4], sums[r][c / 4][c % 4]);
        }
      }
    }
  }
};

// Copies the columns of a tile from kDepth rows of a matrix, from `row` on; zeros from row `end` on.
TWOFOUR_DEVICE void load_rows(const float* from, u64 row, u64 end, const OwnTile& tile, float* to) {
  TWOFOUR_UNROLL
  for (u32 part = 0; part < kParts; ++part) {
    const u32 i = part * kThreads + thread_index(), d = i / (kTile / 4), c = i % (kTile / 4) * 4;
    float x[4] = {};
    if (row + d < end && tile.column + c < tile.cols) load_run(from + (row + d) * tile.cols + tile.column + c, x);
    store_shared(to + d * kPitch + c, x);
  }
}

}  // namespace twofour
