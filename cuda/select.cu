// One-shot masks by score (src/select/mod.rs is the contract): the choice, the sums of squares of activations that
// Wanda's scores need, SparseGPT's sweep, and swaps.
//
// Choices, sums of squares and updated weights are the same bits as the CPU executor's: scores are one product each,
// and everything that is added is added in an order that does not depend on the grid.
//
// Symbols: twofour_select_score_{weights} chooses by magnitude, by scaled magnitude or by given scores;
//          twofour_select_statistics adds up the blocks' shares of what is kept;
//          twofour_select_squares_{activations} sums slabs of tokens, twofour_select_norms adds the slabs;
//          twofour_select_widen_{weights}, _sweep, _make_up and _finish_{weights} are the steps of a sweep;
//          twofour_select_swap_groups, _swap_product_{weights}, _swap_{weights} and _swap_finish_{weights} those of swaps.

#include "common/sums.cuh"
#include "common/walk.cuh"
#include "select/swaps.cuh"

namespace twofour {

// What a mask keeps of all scores. The layout of `Statistics` in src/select/mod.rs.
struct Statistics {
  double kept;
  double total;
  u64 groups;
  u64 poisoned;

  TWOFOUR_DEVICE void add(const Statistics& other) {
    kept += other.kept;
    total += other.total;
    groups += other.groups;
    poisoned += other.poisoned;
  }
};

struct SelectScoreArgs {
  const void* weight;         // null where scores are given and nothing is masked
  const float* column_scale;  // null: none
  const float* scores;        // null: the weight's magnitude
  void* masked;               // null unless asked for, like all outputs
  u8* patterns;
  u8* codes;
  Statistics* statistics;  // null, or [0] for twofour_select_statistics and [1 + block] for the blocks
  Walk walk;
};
static_assert(sizeof(SelectScoreArgs) == 96, "ScoreArgs in src/select/launch.rs");

struct SelectStatisticsArgs {
  Statistics* statistics;
  u64 blocks;
};

// ---- the choice -------------------------------------------------------------------------------------------

// A dropped weight becomes +0; without a pattern all become NaN.
TWOFOUR_DEVICE void keep_chosen(u32 index, const float* w, float* masked) {
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) masked[j] = index == kNoPattern ? not_a_number() : keeps(index, j) ? w[j] : 0.0f;
}

TWOFOUR_DEVICE void add_group(u32 index, const float (&s)[4], Statistics& sums) {
  if (index == kNoPattern) {
    ++sums.poisoned;
    return;
  }
  double of_kept = 0, of_all = 0;
  TWOFOUR_UNROLL
  for (int j = 0; j < 4; ++j) {
    of_all += double(s[j]);
    of_kept += double(keeps(index, j) ? s[j] : 0.0f);
  }
  sums.kept += of_kept;
  sums.total += of_all;
  ++sums.groups;
}

// The codes of `count` groups from an even group on; a single group writes its byte anew, with the even group's code in
// `even` when it is the odd one.
template <int count>
TWOFOUR_DEVICE void store_codes(u8* codes, u64 group, u32 packed, u32& even) {
  if constexpr (count == 1) {
    even = group % 2 ? even | packed << 4 : packed;
    store(codes + group / 2, u8(even));
  } else if constexpr (count == 2) {
    store(codes + group / 2, u8(packed));
  } else {
    store(reinterpret_cast<u16*>(codes + group / 2), u16(packed));
  }
}

template <typename W, int count, bool whole>
TWOFOUR_DEVICE void choose_chunk(const SelectScoreArgs& args, u64 group, Place place, Statistics& sums, u32& even) {
  float w[4 * count] = {}, s[4 * count];
  u32 indices[count], codes = 0;
  if (args.weight) read<whole, W>(args.weight, 4 * group, w);
  if (args.scores) {
    read<whole, float>(args.scores, 4 * group, s);
  } else {
    TWOFOUR_UNROLL
    for (int j = 0; j < 4 * count; ++j) s[j] = absolute(w[j]);
  }
  TWOFOUR_UNROLL
  for (int i = 0; i < count; ++i) {
    float of_group[4] = {s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]};
    if (args.column_scale) {
      float scale[4];
      load_run(args.column_scale + 4 * u64(place.in_row), scale);
      TWOFOUR_UNROLL
      for (int j = 0; j < 4; ++j) of_group[j] *= scale[j];
      place.next(args.walk);
    }
    const u32 index = indices[i] = choose_largest(of_group);
    codes |= pattern_code(index) << (4 * i);
    if (args.patterns) store(args.patterns + group + i, index_byte(index));
    if (args.statistics) add_group(index, of_group, sums);
  }
  if (args.codes) store_codes<count>(args.codes, group, codes, even);
  if (!args.masked) return;
  float masked[4 * count];
  TWOFOUR_UNROLL
  for (int i = 0; i < count; ++i) keep_chosen(indices[i], w + 4 * i, masked + 4 * i);
  write<whole, W>(args.masked, 4 * group, masked);
}

// Adds the threads' sums and writes the block's share. By all threads of the block.
TWOFOUR_DEVICE void add_up(Statistics total, Statistics* share) {
  TWOFOUR_SHARED Statistics of_warps[kWarps];
  for (u32 delta = kWarpSize / 2; delta > 0; delta /= 2) {
    total.add({shuffle_down(total.kept, delta), shuffle_down(total.total, delta), shuffle_down(total.groups, delta),
               shuffle_down(total.poisoned, delta)});
  }
  if (lane() == 0) of_warps[warp()] = total;
  sync_threads();
  if (thread_index() != 0) return;
  for (u32 w = 1; w < kWarps; ++w) total.add(of_warps[w]);
  store(share, total);
}

// A thread takes chunks of 32 bytes of the weight; the first thread takes the groups after the last whole chunk.
template <typename W>
TWOFOUR_DEVICE void score_kernel(const SelectScoreArgs& args) {
  constexpr int count = 8 / sizeof(W);
  const u64 thread = u64(block_index()) * kThreads + thread_index();
  const u64 end = args.walk.groups - args.walk.groups % count;
  Statistics sums = {};
  u32 even = 0;
  u64 group = thread * count;
  Place place(args.walk, group);
  for (; group < end; group += args.walk.step_global) {
    choose_chunk<W, count, true>(args, group, place, sums, even);
    place.step(args.walk);
  }
  if (thread == 0) {
    for (group = end; group < args.walk.groups; ++group) {
      choose_chunk<W, 1, false>(args, group, Place(args.walk, group), sums, even);
    }
  }
  if (args.statistics) add_up(sums, args.statistics + 1 + block_index());
}

// ---- sums of squares --------------------------------------------------------------------------------------

// Tokens that a warp sums in f32; the warps' sums make a slab's, in f64 (src/select/activations.rs).
constexpr u32 kRun = 16;
constexpr u32 kSlab = kRun * kWarps;

struct SelectSquaresArgs {
  const void* x;    // [tokens, cols]
  double* partial;  // [slabs, cols]
  u64 tokens;
  u64 cols;
  u32 strips;  // of columns: a block takes one strip of one slab
  u32 wide;    // 1: 16 bytes of a token a lane; 0: 4 columns, for rows that are not aligned for that
};

struct SelectNormsArgs {
  const double* partial;  // [slabs, cols]
  double* sums;           // [cols], added to
  float* norms;           // [cols] or null
  u64 slabs;
  u64 cols;
};

// Four columns of a token, or 16 bytes.
template <typename X, int columns>
TWOFOUR_DEVICE void read_columns(const void* x, u64 element, float (&values)[columns]) {
  const X* from = static_cast<const X*>(x) + element;
  if constexpr (columns * sizeof(X) == 16) {
    load_run(from, values);
  } else {
    const u32x2 v = load_stream_8(from);
    unpack(v.x, values[0], values[1], X{}), unpack(v.y, values[2], values[3], X{});
  }
}

template <typename X, int columns>
TWOFOUR_DEVICE void sum_slab(const SelectSquaresArgs& args, float* of_warps) {
  constexpr u32 width = columns * kWarpSize;
  const u64 slab = block_index() / args.strips, first = u64(block_index() % args.strips) * width;
  const u64 column = first + lane() * columns;
  const u64 begin = slab * kSlab + warp() * kRun;
  const u64 end = args.tokens < begin + kRun ? args.tokens : begin + kRun;
  float sums[columns] = {};
  if (column < args.cols) {
    // Four loads at a time are under way.
    TWOFOUR_NO_UNROLL
    for (u64 token = begin; token < end; token += 4) {
      float x[4][columns] = {};
      TWOFOUR_UNROLL
      for (u32 t = 0; t < 4; ++t) {
        if (token + t < end) read_columns<X>(args.x, (token + t) * args.cols + column, x[t]);
      }
      TWOFOUR_UNROLL
      for (u32 t = 0; t < 4; ++t) {
        TWOFOUR_UNROLL
        for (int c = 0; c < columns; ++c) sums[c] = fma(x[t][c], x[t][c], sums[c]);
      }
    }
  }
  TWOFOUR_UNROLL
  for (int c = 0; c < columns; ++c) of_warps[warp() * width + lane() * columns + c] = sums[c];
  sync_threads();
  const u64 own = first + thread_index();
  if (thread_index() >= width || own >= args.cols) return;
  double total = 0;
  for (u32 w = 0; w < kWarps; ++w) total += double(of_warps[w * width + thread_index()]);
  store(args.partial + slab * args.cols + own, total);
}

template <typename X>
TWOFOUR_DEVICE void squares_kernel(const SelectSquaresArgs& args) {
  constexpr int wide = 16 / sizeof(X);
  TWOFOUR_SHARED float of_warps[kWarps * kWarpSize * wide];
  if (wide == 4 || args.wide) sum_slab<X, wide>(args, of_warps);
  else sum_slab<X, 4>(args, of_warps);
}

// ---- symbols ----------------------------------------------------------------------------------------------

#define OF_TYPE(T)                                                                                                \
  TWOFOUR_KERNEL(twofour_select_score_##T, SelectScoreArgs, kThreads, 4) { score_kernel<T>(args); }               \
  TWOFOUR_KERNEL(twofour_select_squares_##T, SelectSquaresArgs, kThreads, 4) { squares_kernel<T>(args); }         \
  TWOFOUR_KERNEL(twofour_select_widen_##T, SelectSweepArgs, kThreads, 4) { widen_kernel<T>(args); }               \
  TWOFOUR_KERNEL(twofour_select_finish_##T, SelectSweepArgs, kThreads, 4) { finish_kernel<T>(args); }             \
  TWOFOUR_KERNEL(twofour_select_swap_product_##T, SelectSwapsArgs, kThreads, 2) { swap_product_kernel<T>(args); } \
  TWOFOUR_KERNEL(twofour_select_swap_##T, SelectSwapsArgs, kThreads, 4) { swap_kernel<T>(args); }                 \
  TWOFOUR_KERNEL(twofour_select_swap_finish_##T, SelectSwapsArgs, kThreads, 4) { swap_finish_kernel<T>(args); }

OF_TYPE(f32)
OF_TYPE(f16)
OF_TYPE(bf16)

// One block: adds the blocks' shares in a fixed order, so the result depends on the grid alone.
TWOFOUR_KERNEL(twofour_select_statistics, SelectStatisticsArgs, kThreads, 1) {
  Statistics total = {};
  for (u64 block = thread_index(); block < args.blocks; block += kThreads) total.add(load(args.statistics + 1 + block));
  total = sum_of_threads<kThreads>(total);
  if (thread_index() == 0) store(args.statistics, total);
}

// A thread a column.
TWOFOUR_KERNEL(twofour_select_norms, SelectNormsArgs, kThreads, 4) {
  const u64 column = u64(block_index()) * kThreads + thread_index();
  if (column >= args.cols) return;
  double sum = load(args.sums + column);
  for (u64 slab = 0; slab < args.slabs; ++slab) sum += load(args.partial + slab * args.cols + column);
  store(args.sums + column, sum);
  if (args.norms) store(args.norms + column, square_root(float(sum)));
}

TWOFOUR_KERNEL(twofour_select_sweep, SelectSweepArgs, kThreads, 2) { sweep_kernel(args); }

TWOFOUR_KERNEL(twofour_select_make_up, SelectSweepArgs, kThreads, 2) { make_up_kernel(args); }

TWOFOUR_KERNEL(twofour_select_swap_groups, SelectSwapsArgs, kThreads, 4) { swap_groups_kernel(args); }

}  // namespace twofour
