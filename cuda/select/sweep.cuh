// SparseGPT's sweep (src/select/mod.rs), a launch a step: the weight to f32; for each block of columns the choice, by warps
// that hold a row each, and the columns to the block's right, by tiles; and the outputs.
//
// A weight meets the same multiply-adds in the same order as in the CPU's executor. There those by an error of 0 are
// left out; a tile does them, and they change nothing but the sign of a zero, which the outputs do not keep.
#pragma once

#include "common/vector.cuh"
#include "select/choose.cuh"
#include "select/tile.cuh"

namespace twofour {

// Columns of a block: a warp keeps those of one row in registers, four a lane.
constexpr u32 kBlock = 4 * kWarpSize;

struct SelectSweepArgs {
  const void* weight;  // [rows, cols]
  const float* upper;  // [cols, cols]
  const float* scale;  // [cols]
  float* work;         // [rows, cols], the weight while it changes
  float* errors;       // [rows, kBlock]
  u8* patterns;        // [rows, cols / 4]
  void* updated;       // null unless asked for, like the next two
  u8* codes;
  double* losses;
  u32* faults;  // counts what is not finite in updated
  u64 rows;
  u64 cols;
  u64 start;  // of the block
};
static_assert(sizeof(SelectSweepArgs) == 104, "SweepArgs in src/select/launch.rs");

// Calls eight(element) for each of this thread's runs of eight weights, then four(element) for what is left.
template <typename Args, typename Eight, typename Four>
TWOFOUR_DEVICE void for_each_eight(const Args& args, Eight eight, Four four) {
  const u64 elements = args.rows * args.cols, step = u64(block_count()) * kThreads * 8;
  const u64 thread = u64(block_index()) * kThreads + thread_index();
  for (u64 at = thread * 8; at + 8 <= elements; at += step) eight(at);
  if (thread == 0 && elements % 8 != 0) four(elements - 4);
}

// Losses begin at zero here, for the blocks add to them.
template <typename W>
TWOFOUR_DEVICE void widen_kernel(const SelectSweepArgs& args) {
  const u64 threads = u64(block_count()) * kThreads;
  for (u64 row = u64(block_index()) * kThreads + thread_index(); args.losses && row < args.rows; row += threads) {
    store(args.losses + row, 0.0);
  }
  for_each_eight(
      args,
      [&](u64 at) {
        float w[8];
        read<true, W>(args.weight, at, w);
        write<true, float>(args.work, at, w);
      },
      [&](u64 at) {
        float w[4];
        read<false, W>(args.weight, at, w);
        write<true, float>(args.work, at, w);
      });
}

// A lane's four columns of a row: chooses, and leaves the errors that the columns to the right are to make up for.
TWOFOUR_DEVICE u32 drop(const float* upper, const float (&scale)[4], float (&w)[4], float (&errors)[4]) {
  float score[4];
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) score[j] = absolute(w[j] * scale[j]);
  const u32 index = choose_largest(score);
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) {
    const bool kept = keeps(index, j);
    errors[j] = index == kNoPattern ? not_a_number() : kept ? 0.0f : w[j] * scale[j];
    w[j] = index == kNoPattern ? not_a_number() : kept && scale[j] != 0 ? w[j] : 0.0f;
    if (errors[j] == 0) continue;
    TWOFOUR_UNROLL
    for (int i = j + 1; i < 4; ++i) w[i] = fma(-errors[j], upper[j * kBlock + i], w[i]);
  }
  return index;
}

// One row's columns of the block. `upper` is the factor's part in shared memory, [kBlock, kBlock].
TWOFOUR_DEVICE void sweep_row(const SelectSweepArgs& args, const float* upper, u64 row, u32 width) {
  const u32 own = 4 * lane();
  const bool inside = own < width;
  float w[4] = {}, scale[4] = {}, errors[4] = {};
  u32 index = 0;
  if (inside) {
    load_own_run(args.work + row * args.cols + args.start + own, w);
    load_run(args.scale + args.start + own, scale);
  }
  TWOFOUR_NO_UNROLL
  for (u32 column = 0; column < width; column += 4) {
    if (own == column) index = drop(upper + own * (kBlock + 1), scale, w, errors);
    TWOFOUR_UNROLL
    for (u32 j = 0; j < 4; ++j) {
      const float error = shuffle_index(errors[j], column / 4);
      if (error == 0 || own <= column) continue;
      float u[4];
      load_own_run(upper + (column + j) * kBlock + own, u);
      TWOFOUR_UNROLL
      for (int i = 0; i < 4; ++i) w[i] = fma(-error, u[i], w[i]);
    }
  }
  double loss = 0;
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) loss = fma(double(errors[j]), double(errors[j]), loss);
  for (u32 delta = kWarpSize / 2; delta > 0; delta /= 2) loss += shuffle_down(loss, delta);
  if (args.losses && lane() == 0) store(args.losses + row, load(args.losses + row) + 0.5 * loss);
  store_run(args.errors + row * kBlock + own, errors);
  if (!inside) return;
  store_run(args.work + row * args.cols + args.start + own, w);
  store(args.patterns + row * (args.cols / 4) + (args.start + own) / 4, index_byte(index));
}

// Blocks walk over rows, a warp a row; the factor's part stays in shared memory.
TWOFOUR_DEVICE void sweep_kernel(const SelectSweepArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(float, upper);
  const u64 left = args.cols - args.start;
  const u32 width = left < kBlock ? u32(left) : kBlock;
  for (u32 i = 4 * thread_index(); i < width * kBlock; i += 4 * kThreads) {
    const u32 row = i / kBlock, column = i % kBlock;
    float u[4] = {};
    if (column < width) load_run(args.upper + (args.start + row) * args.cols + args.start + column, u);
    store_shared(upper + i, u);
  }
  sync_threads();
  for (u64 row = u64(block_index()) * kWarps + warp(); row < args.rows; row += u64(block_count()) * kWarps) {
    sweep_row(args, upper, row, width);
  }
}

// Copies kDepth of the block's errors of kTile rows, transposed and negated.
TWOFOUR_DEVICE void load_errors(const SelectSweepArgs& args, u64 row, u32 depth, float* errors) {
  TWOFOUR_UNROLL
  for (u32 part = 0; part < kParts; ++part) {
    const u32 i = part * kThreads + thread_index(), r = i / (kDepth / 4), d = i % (kDepth / 4) * 4;
    float e[4] = {};
    if (row + r < args.rows) load_run(args.errors + (row + r) * kBlock + depth + d, e);
    TWOFOUR_UNROLL
    for (u32 j = 0; j < 4; ++j) errors[(d + j) * kPitch + r] = -e[j];
  }
}

TWOFOUR_DEVICE void make_up_kernel(const SelectSweepArgs& args) {
  TWOFOUR_SHARED float errors[kDepth * kPitch];
  TWOFOUR_SHARED float upper[kDepth * kPitch];
  const OwnTile own(args.rows, args.start + kBlock, args.cols);
  Sums sums = {};
  own.load(args.work, sums);
  for (u32 depth = 0; depth < kBlock; depth += kDepth) {
    sync_threads();
    load_errors(args, own.row, depth, errors);
    load_rows(args.upper, args.start + depth, args.start + kBlock, own, upper);
    sync_threads();
    own.multiply(errors, upper, sums);
  }
  own.store(args.work, sums);
}

TWOFOUR_DEVICE u32 code_of_byte(u8 index) { return pattern_code(index < 6 ? index : kNoPattern); }

// Counts what the type that is written cannot hold, and what was not finite before.
template <typename W, int n>
TWOFOUR_DEVICE void count_faults(u32* faults, const float (&w)[n]) {
  u32 count = 0;
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) count += (bits_of(to_float(from_float<W>(w[i]))) & 0x7f800000u) == 0x7f800000u ? 1 : 0;
  if (count > 0) atomic_add(faults, count);
}

// The sum makes a zero positive, which side it came from being of no consequence.
template <typename W, int n>
TWOFOUR_DEVICE void write_updated(const SelectSweepArgs& args, u64 at) {
  float w[n];
  load_own_run(args.work + at, w);
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) w[i] += 0.0f;
  write<n == 8, W>(args.updated, at, w);
  if (args.faults) count_faults<W>(args.faults, w);
}

template <typename W>
TWOFOUR_DEVICE void finish_kernel(const SelectSweepArgs& args) {
  for_each_eight(
      args,
      [&](u64 at) {
        if (args.updated) write_updated<W, 8>(args, at);
        const u8* pair = args.patterns + at / 4;
        if (args.codes) store(args.codes + at / 8, u8(code_of_byte(load(pair)) | code_of_byte(load(pair + 1)) << 4));
      },
      [&](u64 at) {
        if (args.updated) write_updated<W, 4>(args, at);
        if (args.codes) store(args.codes + at / 8, u8(code_of_byte(load(args.patterns + at / 4))));
      });
}

}  // namespace twofour
