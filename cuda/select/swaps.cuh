// Swaps in a mask (src/select/mod.rs is the contract), in four launches: what changes need of the Hessian by itself;
// H r of each row, by tiles; the swaps, a block a row; and the outputs by groups.
//
// What is compared and what is added up is rounded as in the CPU's executor, in the same order. There what is kept is
// left out of H r; a tile adds zeros for it, and they change nothing but the sign of a zero, which nothing shows.
#pragma once

#include "select/sweep.cuh"

namespace twofour {

// A swap lowers a row's loss by more than this share of its first (src/select/swaps.rs).
constexpr float kLeast = 1.0f / (1 << 20);
// Floats a group: H_jj of the four positions, -2 H_ij of the six pairs, and two that nobody reads.
constexpr u32 kOfGroup = 12;

struct SelectSwapsArgs {
  const void* weight;    // [rows, cols]
  const float* hessian;  // [cols, cols]
  const u8* before;      // codes
  float* products;       // [rows, cols], H r
  float* of_groups;      // [cols / 4, kOfGroup]
  u8* patterns;          // [rows, cols / 4]
  void* masked;          // null unless asked for, like all that follows
  u8* codes;
  double* losses_before;
  double* losses;
  u32* swaps;
  u64 rows;
  u64 cols;
  u64 limit;
};
static_assert(sizeof(SelectSwapsArgs) == 112, "SwapsArgs in src/select/launch.rs");

// The four weights of a group.
template <typename W>
TWOFOUR_DEVICE void load_group(const void* weight, u64 element, float (&w)[4]) {
  const W* from = static_cast<const W*>(weight) + element;
  if constexpr (sizeof(W) == 4) {
    unpack(load_16(from), w, W{});
  } else {
    const u32x2 v = load_8(from);
    unpack(v.x, w[0], w[1], W{}), unpack(v.y, w[2], w[3], W{});
  }
}

// Pairs of a group's positions, in the order in which the first of equal changes is taken.
TWOFOUR_DEVICE int first_of(int pair) { return pair < 3 ? 0 : pair < 5 ? 1 : 2; }
TWOFOUR_DEVICE int second_of(int pair) { return pair < 3 ? 1 + pair : pair < 5 ? pair - 1 : 3; }

TWOFOUR_DEVICE u32 pattern_of_byte(u8 index) { return index < 6 ? index : kNoPattern; }

// The pattern of a code that may be any four bits.
TWOFOUR_DEVICE u32 pattern_of_code(u32 code) {
  u32 index = kNoPattern;
  TWOFOUR_UNROLL
  for (u32 i = 0; i < 6; ++i) index = pattern_code(i) == code ? i : index;
  return index;
}

// The pattern that keeps the positions of these bits.
TWOFOUR_DEVICE u32 pattern_of_bits(u32 bits) {
  u32 index = kNoPattern;
  TWOFOUR_UNROLL
  for (u32 i = 0; i < 6; ++i) index = pattern_bits(i) == bits ? i : index;
  return index;
}

// A thread a group.
TWOFOUR_DEVICE void swap_groups_kernel(const SelectSwapsArgs& args) {
  const u64 group = u64(block_index()) * kThreads + thread_index();
  if (group >= args.cols / 4) return;
  float h[4][4], of_group[kOfGroup] = {};
  TWOFOUR_UNROLL
  for (u32 j = 0; j < 4; ++j) load_run(args.hessian + (4 * group + j) * args.cols + 4 * group, h[j]);
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) of_group[j] = h[j][j];
  TWOFOUR_UNROLL
  for (int pair = 0; pair < 6; ++pair) of_group[4 + pair] = -2.0f * h[first_of(pair)][second_of(pair)];
  store_run(args.of_groups + kOfGroup * group, of_group);
}

// Copies kDepth columns of what kTile rows drop, transposed; NaN where there is no mask.
template <typename W>
TWOFOUR_DEVICE void load_dropped(const SelectSwapsArgs& args, u64 row, u64 depth, float* dropped) {
  TWOFOUR_UNROLL
  for (u32 part = 0; part < kParts; ++part) {
    const u32 i = part * kThreads + thread_index(), r = i / (kDepth / 4), d = i % (kDepth / 4) * 4;
    float w[4] = {};
    if (row + r < args.rows && depth + d < args.cols) {
      const u64 at = (row + r) * args.cols + depth + d, group = at / 4;
      const u32 index = pattern_of_code(u32(load(args.before + group / 2)) >> (4 * (group % 2)) & 15);
      load_group<W>(args.weight, at, w);
      TWOFOUR_UNROLL
      for (int j = 0; j < 4; ++j) w[j] = index == kNoPattern ? not_a_number() : keeps(index, j) ? 0.0f : w[j];
    }
    TWOFOUR_UNROLL
    for (u32 j = 0; j < 4; ++j) dropped[(d + j) * kPitch + r] = w[j];
  }
}

template <typename W>
TWOFOUR_DEVICE void swap_product_kernel(const SelectSwapsArgs& args) {
  TWOFOUR_SHARED float dropped[kDepth * kPitch];
  TWOFOUR_SHARED float hessian[kDepth * kPitch];
  const OwnTile own(args.rows, 0, args.cols);
  Sums sums = {};
  for (u64 depth = 0; depth < args.cols; depth += kDepth) {
    sync_threads();
    load_dropped<W>(args, own.row, depth, dropped);
    load_rows(args.hessian, depth, args.cols, own, hessian);
    sync_threads();
    own.multiply(dropped, hessian, sums);
  }
  own.store(args.products, sums);
}

// A row of the weight. A thread has every kThreads-th group of it: its pattern and its part of H r.
template <typename W>
struct SwapsRow {
  const SelectSwapsArgs& args;
  const void* weight;
  float* products;
  u8* patterns;
  u64 first;  // group of the weight
  u64 groups;

  TWOFOUR_DEVICE SwapsRow(const SelectSwapsArgs& all, u64 row)
      : args(all),
        weight(static_cast<const W*>(all.weight) + row * all.cols),
        products(all.products + row * all.cols),
        patterns(all.patterns + row * (all.cols / 4)),
        first(row * (all.cols / 4)),
        groups(all.cols / 4) {}

  TWOFOUR_DEVICE void begin() const {
    for (u64 group = thread_index(); group < groups; group += kThreads) {
      const u32 code = u32(load(args.before + (first + group) / 2)) >> (4 * ((first + group) % 2)) & 15;
      store(patterns + group, index_byte(pattern_of_code(code)));
    }
  }

  // Twice the row's loss, for all threads: a sum of each thread's, those of a warp as a tree, those in order.
  TWOFOUR_DEVICE double twice_the_loss(double* of_warps) const {
    double sum = 0;
    for (u64 group = thread_index(); group < groups; group += kThreads) {
      const u32 index = pattern_of_byte(load(patterns + group));
      float w[4], c[4];
      load_group<W>(weight, 4 * group, w);
      load_own_run(products + 4 * group, c);
      TWOFOUR_UNROLL
      for (int j = 0; j < 4; ++j) {
        if (!keeps(index, j)) sum += index == kNoPattern ? double(not_a_number()) : double(w[j]) * double(c[j]);
      }
    }
    for (u32 delta = kWarpSize / 2; delta > 0; delta /= 2) sum += shuffle_down(sum, delta);
    sync_threads();
    if (lane() == 0) of_warps[warp()] = sum;
    sync_threads();
    double all = 0;
    for (u32 w = 0; w < kWarps; ++w) all += of_warps[w];
    return all;
  }

  // The two weights that change places, the one that is kept from now on negated, and their rows of the Hessian; null
  // where there is no swap.
  struct Swap {
    float dropped, kept;
    const float* of_dropped;
    const float* of_kept;
  };

  // What a group's best swap adds to twice the loss, if less than `least`, which it then becomes.
  TWOFOUR_DEVICE void look(u64 group, const float (&c)[4], float& least, u64& best) const {
    const u32 kept = pattern_bits(pattern_of_byte(load(patterns + group)));
    float w[4], h[kOfGroup], alone[4];
    load_group<W>(weight, 4 * group, w);
    load_run(args.of_groups + kOfGroup * group, h);
    TWOFOUR_UNROLL
    for (int j = 0; j < 4; ++j)
      alone[j] = fma((kept >> j & 1) != 0 ? 2.0f * w[j] : -2.0f * w[j], c[j], w[j] * w[j] * h[j]);
    TWOFOUR_UNROLL
    for (int pair = 0; pair < 6; ++pair) {
      const int i = first_of(pair), j = second_of(pair);
      const float change = alone[i] + alone[j] + w[i] * w[j] * h[4 + pair];
      const u32 keeps_first = kept >> i & 1, keeps_second = kept >> j & 1;
      if (keeps_first == keeps_second || !(change < least)) continue;
      least = change;
      best = u64(~bits_of(change)) << 32 | group << 4 | u64(pair) << 1 | keeps_first;
    }
  }

  // Makes the products those after a swap, if there is one, and finds the next. Changes are negative, so that of their
  // inverted bits the least is the best, of equal ones the one of the lowest group; a row has less than 2^28 groups, or
  // there would be no memory for the Hessian.
  TWOFOUR_DEVICE u64 advance(const Swap& swap, float enough, u64* of_warps) const {
    u64 best = kNone;
    for (u64 group = thread_index(); group < groups; group += kThreads) {
      float c[4];
      load_own_run(products + 4 * group, c);
      if (swap.of_dropped) {
        float of_dropped[4], of_kept[4];
        load_run(swap.of_dropped + 4 * group, of_dropped);
        load_run(swap.of_kept + 4 * group, of_kept);
        TWOFOUR_UNROLL
        for (int j = 0; j < 4; ++j) c[j] = fma(swap.kept, of_kept[j], fma(swap.dropped, of_dropped[j], c[j]));
        store_run(products + 4 * group, c);
      }
      look(group, c, enough, best);
    }
    for (u32 mask = kWarpSize / 2; mask > 0; mask /= 2) best = least_of(best, shuffle_xor(best, mask));
    if (lane() == 0) of_warps[warp()] = best;
    sync_threads();
    for (u32 w = 0; w < kWarps; ++w) best = least_of(best, of_warps[w]);
    return best;
  }

  // Makes a swap in the mask, by the thread that has its group.
  TWOFOUR_DEVICE Swap make(u64 best) const {
    const u64 group = u32(best) >> 4;
    const int pair = int(u32(best) >> 1 & 7), i = first_of(pair), j = second_of(pair);
    const u64 dropped = 4 * group + u64((best & 1) != 0 ? i : j), kept = 4 * group + u64((best & 1) != 0 ? j : i);
    if (group % kThreads == thread_index()) {
      const u32 bits = pattern_bits(pattern_of_byte(load(patterns + group)));
      store(patterns + group, index_byte(pattern_of_bits(bits ^ (1u << i | 1u << j))));
    }
    const W* w = static_cast<const W*>(weight);
    return {to_float(load(w + dropped)), -to_float(load(w + kept)), args.hessian + dropped * args.cols,
            args.hessian + kept * args.cols};
  }

  static constexpr u64 kNone = ~u64(0);
  TWOFOUR_DEVICE static u64 least_of(u64 a, u64 b) { return a < b ? a : b; }
};

template <typename W>
TWOFOUR_DEVICE void swap_kernel(const SelectSwapsArgs& args) {
  TWOFOUR_SHARED double sums[kWarps];
  TWOFOUR_SHARED u64 best_of_warps[2][kWarps];
  for (u64 at = block_index(); at < args.rows; at += block_count()) {
    const SwapsRow<W> row(args, at);
    row.begin();
    const double before = row.twice_the_loss(sums);
    // Of what is not finite, no change is less.
    const float enough = -kLeast * absolute(float(before));
    typename SwapsRow<W>::Swap swap = {};
    u64 count = 0;
    while (true) {
      const u64 best = row.advance(swap, enough, best_of_warps[count % 2]);
      if (best == SwapsRow<W>::kNone || count == args.limit) break;
      swap = row.make(best);
      ++count;
    }
    const double after = row.twice_the_loss(sums);
    if (thread_index() != 0) continue;
    if (args.losses_before) store(args.losses_before + at, 0.5 * before);
    if (args.losses) store(args.losses + at, 0.5 * after);
    if (args.swaps) store(args.swaps + at, u32(count));
  }
}

// Of groups, as a run of their weights has them.
template <typename W, int n>
TWOFOUR_DEVICE void write_swapped(const SelectSwapsArgs& args, u64 at) {
  float w[n], masked[n];
  if (args.masked) read<n == 8, W>(args.weight, at, w);
  u32 codes = 0;
  TWOFOUR_UNROLL
  for (int i = 0; i < n / 4; ++i) {
    const u32 index = pattern_of_byte(load(args.patterns + at / 4 + i));
    codes |= pattern_code(index) << (4 * i);
    TWOFOUR_UNROLL
    for (int j = 0; j < 4; ++j) {
      masked[4 * i + j] = index == kNoPattern ? not_a_number() : keeps(index, j) ? w[4 * i + j] : 0.0f;
    }
  }
  if (args.codes) store(args.codes + at / 8, u8(codes));
  if (args.masked) write<n == 8, W>(args.masked, at, masked);
}

template <typename W>
TWOFOUR_DEVICE void swap_finish_kernel(const SelectSwapsArgs& args) {
  for_each_eight(args, [&](u64 at) { write_swapped<W, 8>(args, at); }, [&](u64 at) { write_swapped<W, 4>(args, at); });
}

}  // namespace twofour
