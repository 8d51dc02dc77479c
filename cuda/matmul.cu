// The products of the masked linear layer on tensor cores (src/matmul/mod.rs is the contract), 16-bit operands and f32
// sums, made of the vocabulary of common/tile.cuh:
//
//   twofour_matmul_output_{dense,codes}_{f16,bf16}   Y  [T, N] = X [T, K] W^T       W [N, K] as it is, or under codes
//   twofour_matmul_input_{dense,codes}_{f16,bf16}    dX [T, K] = dY [T, N] W        the same
//   twofour_matmul_gradient_{f16,bf16}               G  [N, K] = dY^T X             in f32
//   twofour_matmul_gradient_rounded_{f16,bf16}       the same in the operands' type
//   twofour_matmul_logits_{soft,hard}_{logits}_{f16,bf16}
//                                                    G as above, and from it, in registers, the gradient of the logits
//   twofour_matmul_step_{soft,hard}_{logits}_{f16,bf16}
//                                                    and from that the step of AdamW: the logits are others afterwards
//   twofour_matmul_sum_{f32,f16,bf16}                adds up what blocks left that share a tile of C
//
// With codes, masks are applied on the way through shared memory: the masked weight is never in global memory. Nor is G,
// for the logits: it is not even rounded. A step has the same bits as the gradient of the logits and cuda/learn.cu.

#include "common/gradient.cuh"
#include "common/step.cuh"
#include "common/tile.cuh"
#include "common/walk.cuh"

namespace twofour {

struct MatmulArgs {
  const void* a;
  const void* b;
  const u8* codes;  // of the weight, which is b
  void* c;          // row-major, [rows, cols]
  float* partial;   // [splits, rows, cols], instead of c where splits > 1
  u32 a_pitch, b_pitch;
  u32 rows, cols, depth;
  u32 share;  // of the depth that a split takes, a multiple of kDepth
  u32 splits;
  u32 unused;
};
static_assert(sizeof(MatmulArgs) == 72, "MatmulArgs in src/matmul/tile.rs");

struct MatmulLogitsArgs {
  const void* dy;         // [tokens, rows]
  const void* x;          // [tokens, cols]
  const void* weight;     // [rows, cols]
  const void* logits;     // [rows, cols / 4, 6]
  float* logit_gradient;  // the same shape
  u64 first_group;        // global number of the first row's first
  u64 row_groups;         // groups in a row of the whole weight
  u32 rows, cols, tokens;
  u32 accumulate;  // 1: add to logit_gradient
  Differentiation by;
};
static_assert(sizeof(MatmulLogitsArgs) == 184, "LogitsArgs in src/matmul/launch/logits.rs");

struct MatmulStepArgs {
  Step step;
  const void* dy;      // [tokens, rows]
  const void* x;       // [tokens, cols]
  const void* weight;  // [rows, cols]
  Differentiation by;
  u32 rows, cols, tokens;
  u32 unused;
};
static_assert(sizeof(MatmulStepArgs) == 448, "StepArgs in src/matmul/launch/logits.rs");

struct MatmulSumArgs {
  const float* partial;  // [splits, elements]
  void* sum;
  u64 elements;
  u32 splits;
  u32 unused;
};

TWOFOUR_DEVICE u32 tiles(u32 extent) { return (extent + kTile - 1) / kTile; }

// ---- products that write C --------------------------------------------------------------------------------

// Writes n sums, rounded once; those beyond the row's end are not there.
template <typename C, u32 n>
TWOFOUR_DEVICE void write_row(void* c, u64 element, const float (&x)[n], u32 valid, bool whole) {
  if (whole) return write<true, C>(c, element, x);
  for (u32 i = 0; i < n; ++i) {
    if (i < valid) store(static_cast<C*>(c) + element + i, from_float<C>(x[i]));
  }
}

template <typename C>
TWOFOUR_DEVICE void write_tile(const Sums& sums, float* band, void* c, u32 rows, u32 cols, TileAt tile) {
  constexpr u32 n = 16 / sizeof(C), row_runs = kTile / n;
  const bool whole = is_aligned(c, u64(cols) * sizeof(C));
  for (u32 band_number = 0; band_number < 2; ++band_number) {
    put_band(sums, band_number, band);
    for (u32 run = thread_index(); run < kBandRows * row_runs; run += kTileThreads) {
      const u32 in_row = run / row_runs, in_col = run % row_runs * n;
      const u32 row = tile.row * kTile + band_number * kBandRows + in_row, col = tile.col * kTile + in_col;
      if (row >= rows || col >= cols) continue;
      float x[n];
      get_sums(band, in_row, in_col, x);
      write_row<C>(c, u64(row) * cols + col, x, cols - col, whole);
    }
  }
}

template <typename T, typename C, Lies a_lies, Lies b_lies, bool masked>
TWOFOUR_DEVICE void product_kernel(const MatmulArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(u8, ring);
  const TileAt tile = tile_of(block_index(), tiles(args.rows), tiles(args.cols));
  const u32 begin = block_index_y() * args.share;
  const u32 end = args.depth - begin < args.share ? args.depth : begin + args.share;
  const Matrix a_matrix = {args.a, args.a_pitch, args.rows, end};
  const Matrix b_matrix = {args.b, args.b_pitch, args.cols, end};
  Copier<a_lies> a(a_matrix, tile.row * kTile, begin);
  Copier<b_lies> b(b_matrix, tile.col * kTile, begin);
  const u32 stages = (end - begin + kDepth - 1) / kDepth;
  const bool aligned = is_aligned<a_lies>(a_matrix) && is_aligned<b_lies>(b_matrix);
  Sums sums = {};
  if constexpr (masked) {
    const Masker<b_lies> masker(args.codes, b_matrix, tile.col * kTile, begin);
    contract<T>(aligned, a, b, masker, ring, ring + kRingBytes, stages, sums);
  } else {
    contract<T>(aligned, a, b, NoMasker{}, ring, nullptr, stages, sums);
  }
  float* band = reinterpret_cast<float*>(ring);
  if (args.splits == 1) return write_tile<C>(sums, band, args.c, args.rows, args.cols, tile);
  float* partial = args.partial + u64(block_index_y()) * args.rows * args.cols;
  write_tile<f32>(sums, band, partial, args.rows, args.cols, tile);
}

// ---- from G to the logits ---------------------------------------------------------------------------------

// A tile of G, of operands that lie across the depth, and behind the band that it leaves by, the noise table: both where
// the ring was.
template <typename T>
TWOFOUR_DEVICE const u32x2* gradient_tile(const void* dy, const void* x, u32 rows, u32 cols, u32 tokens, TileAt tile,
                                          u8* ring, Sums& sums) {
  constexpr Lies lies = Lies::kAcrossDepth;
  const Matrix a_matrix = {dy, rows, rows, tokens}, b_matrix = {x, cols, cols, tokens};
  Copier<lies> a(a_matrix, tile.row * kTile, 0), b(b_matrix, tile.col * kTile, 0);
  const bool aligned = is_aligned<lies>(a_matrix) && is_aligned<lies>(b_matrix);
  contract<T>(aligned, a, b, NoMasker{}, ring, nullptr, (tokens + kDepth - 1) / kDepth, sums);
  static_assert(kBandBytes + sizeof(GumbelTable) <= kRingBytes, "both fit the ring");
  return load_gumbel_lines<kTileThreads>(*reinterpret_cast<GumbelTable*>(ring + kBandBytes));
}

// Groups side by side, from column `col` of a row on, and where their gradients of masked weights are in the band.
template <int count, bool whole>
struct Groups {
  u32 row, col, in_row, in_col;
  static constexpr int kCount = count;
  static constexpr bool kWhole = whole;

  TWOFOUR_DEVICE u64 first(u32 cols) const { return (u64(row) * cols + col) / 4; }
};

// Calls of_groups(groups) for those of a tile. As in cuda/mask.cu, a thread takes a chunk of groups whose logits are 48
// bytes, or where those would not be whole accesses, a group.
template <typename L, typename OfGroups>
TWOFOUR_DEVICE void for_each_groups(u32 rows, u32 cols, const Sums& sums, float* band, TileAt tile,
                                    const OfGroups& of_groups) {
  constexpr int count = 8 / sizeof(L);
  constexpr u32 row_chunks = kTile / (4 * count);
  const bool whole = cols % (4 * count) == 0;
  for (u32 band_number = 0; band_number < 2; ++band_number) {
    put_band(sums, band_number, band);
    for (u32 chunk = thread_index(); chunk < kBandRows * row_chunks; chunk += kTileThreads) {
      const u32 in_row = chunk / row_chunks, in_col = chunk % row_chunks * (4 * count);
      const u32 row = tile.row * kTile + band_number * kBandRows + in_row, col = tile.col * kTile + in_col;
      if (row >= rows || col >= cols) continue;
      if (whole) {
        of_groups(Groups<count, true>{row, col, in_row, in_col});
      } else {
        for (u32 i = 0; i < 4 * count && col + i < cols; i += 4) {
          of_groups(Groups<1, false>{row, col + i, in_row, in_col + i});
        }
      }
    }
  }
}

template <typename L, typename W, bool hard, int count, bool whole>
TWOFOUR_DEVICE void groups_gradient(const MatmulLogitsArgs& args, const u32x2* lines, const float* band,
                                    Groups<count, whole> groups) {
  float g[4 * count], logits[6 * count], w[4 * count], logit_gradient[6 * count], unused[4];
  const u64 group = groups.first(args.cols);
  get_sums(band, groups.in_row, groups.in_col, g);
  read<whole, L>(args.logits, 6 * group, logits);
  read<whole, W>(args.weight, 4 * group, w);
  const u64 global = args.first_group + groups.row * args.row_groups + groups.col / 4;
  TWOFOUR_UNROLL
  for (int i = 0; i < count; ++i) {
    differentiate<hard>(args.by, lines, global + i, logits + 6 * i, w + 4 * i, g + 4 * i, logit_gradient + 6 * i,
                        unused);
  }
  if (args.accumulate) add_own<whole>(args.logit_gradient, 6 * group, logit_gradient);
  write<whole, f32>(args.logit_gradient, 6 * group, logit_gradient);
}

// For for_each_groups. (No generic lambda: NVRTC takes one for a function of the host.)
template <typename L, typename W, bool hard>
struct WriteGradient {
  const MatmulLogitsArgs& args;
  const u32x2* lines;
  const float* band;

  template <int count, bool whole>
  TWOFOUR_DEVICE void operator()(Groups<count, whole> groups) const {
    groups_gradient<L, W, hard>(args, lines, band, groups);
  }
};

template <typename L, typename W, bool hard>
TWOFOUR_DEVICE void logits_kernel(const MatmulLogitsArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(u8, ring);
  const TileAt tile = tile_of(block_index(), tiles(args.rows), tiles(args.cols));
  Sums sums = {};
  const u32x2* lines = gradient_tile<W>(args.dy, args.x, args.rows, args.cols, args.tokens, tile, ring, sums);
  float* band = reinterpret_cast<float*>(ring);
  for_each_groups<L>(args.rows, args.cols, sums, band, tile, WriteGradient<L, W, hard>{args, lines, band});
}

// Steps a group's logits and moments, unless its gradient or the factor is wild.
template <typename L, bool hard>
TWOFOUR_DEVICE void step_group(const MatmulStepArgs& args, const u32x2* lines, u64 global, float factor, const float* w,
                               const float* g, float* logits, float* m, float* v, StepSums& sums) {
  const Step& step = args.step;
  const Masks masks = masks_of(args.by.sampling, lines, global, logits, hard);
  float used[4], gradient[6];
  used_mask(masks, hard, used);
  logit_gradients(args.by, masks, used, w, g, gradient);
  const float squares = sum_of_squares(gradient);
  const bool tame = squares < float_of(kWildBits), taken = tame && is_factor(factor);
  sums.gradient_squares += tame ? double(squares) : 0.0;
  if (step.statistics) {
    sums.confidence += taken ? double(masks.confidence) : 0.0;
    sums.kept_energy += taken ? double(kept_energy(w, used)) : 0.0;
    sums.groups += 1;
    sums.skipped += !taken;
  }
  if (!taken) return;
  float after[6];
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) {
    const float clipped = factor * gradient[i];
    m[i] = next_m(step.by, m[i], clipped);
    v[i] = next_v(step.by, v[i], clipped);
    after[i] = stepped(step.by, logits[i], m[i], square_root(v[i]));
  }
  round_logits(step.logit_keys, global, step.draw, after, L{});
  if (step.statistics) sums.moved += argmax(after) != argmax(logits);
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) logits[i] = after[i];
}

// Moments are read and written a pair of groups at a time, which are whole accesses.
template <typename L, typename W, bool hard, int count, bool whole>
TWOFOUR_DEVICE void step_groups(const MatmulStepArgs& args, const u32x2* lines, const float* band, float factor,
                                Groups<count, whole> groups, StepSums& sums) {
  constexpr int pair = whole ? 2 : 1;
  const Step& step = args.step;
  const u64 group = groups.first(args.cols);
  const u64 global = step.walk.first + groups.row * (args.cols / 4 + step.walk.row_jump) + groups.col / 4;
  float logits[6 * count];
  read_own<whole, L>(step.logits, 6 * group, logits);
  TWOFOUR_UNROLL
  for (int i = 0; i < count; i += pair) {
    float g[4 * pair], w[4 * pair], m[6 * pair], v[6 * pair];
    get_sums(band, groups.in_row, groups.in_col + 4 * i, g);
    read<whole, W>(args.weight, 4 * (group + i), w);
    read_own<whole, f32>(step.m, 6 * (group + i), m);
    read_own<whole, f32>(step.v, 6 * (group + i), v);
    TWOFOUR_UNROLL
    for (int k = 0; k < pair; ++k) {
      step_group<L, hard>(args, lines, global + i + k, factor, w + 4 * k, g + 4 * k, logits + 6 * (i + k), m + 6 * k,
                          v + 6 * k, sums);
    }
    write<whole, f32>(step.m, 6 * (group + i), m);
    write<whole, f32>(step.v, 6 * (group + i), v);
  }
  write_logits<whole>(static_cast<L*>(step.logits), 6 * group, logits);
}

template <typename L, typename W, bool hard>
struct MakeStep {
  const MatmulStepArgs& args;
  const u32x2* lines;
  const float* band;
  float factor;
  StepSums& sums;

  template <int count, bool whole>
  TWOFOUR_DEVICE void operator()(Groups<count, whole> groups) const {
    step_groups<L, W, hard>(args, lines, band, factor, groups, sums);
  }
};

template <typename L, typename W, bool hard>
TWOFOUR_DEVICE void step_kernel(const MatmulStepArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(u8, ring);
  const TileAt tile = tile_of(block_index(), tiles(args.rows), tiles(args.cols));
  Sums sums = {};
  const u32x2* lines = gradient_tile<W>(args.dy, args.x, args.rows, args.cols, args.tokens, tile, ring, sums);
  float* band = reinterpret_cast<float*>(ring);
  const float factor = clip_factor(args.step.factor);
  StepSums of_step;
  const MakeStep<L, W, hard> make_step{args, lines, band, factor, of_step};
  for_each_groups<L>(args.rows, args.cols, sums, band, tile, make_step);
  if (!args.step.statistics && !args.step.norm_squares) return;
  add_up<kTileThreads / kWarpSize>(of_step, args.step.statistics, args.step.norm_squares);
}

// ---- adding up --------------------------------------------------------------------------------------------

// In the order of the splits, whatever order they finished in: the same bits every time. `sum` may be the first part.
template <typename C, int n, bool whole>
TWOFOUR_DEVICE void add_up(const MatmulSumArgs& args) {
  for_each((args.elements + n - 1) / n, [&](u64 run) {
    float sum[n] = {};
    for (u32 split = 0; split < args.splits; ++split) {
      const float* from = args.partial + split * args.elements + n * run;
      float x[n];
      if constexpr (whole) load_own_run(from, x);
      else x[0] = load(from);
      TWOFOUR_UNROLL
      for (int i = 0; i < n; ++i) sum[i] += x[i];
    }
    write<whole, C>(args.sum, n * run, sum);
  });
}

template <typename C>
TWOFOUR_DEVICE void sum_kernel(const MatmulSumArgs& args) {
  constexpr int n = 16 / sizeof(C);
  if (args.elements % n == 0) add_up<C, n, true>(args);
  else add_up<C, 1, false>(args);
}

// ---- symbols ----------------------------------------------------------------------------------------------

// Two blocks an SM: 255 registers a thread, 64 KiB of shared memory a block.
constexpr u32 kBlocks = 2;

#define PRODUCT(name, T, C, a_lies, b_lies, masked)                                \
  TWOFOUR_KERNEL(twofour_matmul_##name##_##T, MatmulArgs, kTileThreads, kBlocks) { \
    product_kernel<T, C, Lies::a_lies, Lies::b_lies, masked>(args);                \
  }
#define PRODUCTS(T)                                            \
  PRODUCT(output_dense, T, T, kAlongDepth, kAlongDepth, false) \
  PRODUCT(output_codes, T, T, kAlongDepth, kAlongDepth, true)  \
  PRODUCT(input_dense, T, T, kAlongDepth, kAcrossDepth, false) \
  PRODUCT(input_codes, T, T, kAlongDepth, kAcrossDepth, true)  \
  PRODUCT(gradient, T, f32, kAcrossDepth, kAcrossDepth, false) \
  PRODUCT(gradient_rounded, T, T, kAcrossDepth, kAcrossDepth, false)
#define LOGITS(hard, variant, L, W)                                                                      \
  TWOFOUR_KERNEL(twofour_matmul_logits_##variant##_##L##_##W, MatmulLogitsArgs, kTileThreads, kBlocks) { \
    logits_kernel<L, W, hard>(args);                                                                     \
  }                                                                                                      \
  TWOFOUR_KERNEL(twofour_matmul_step_##variant##_##L##_##W, MatmulStepArgs, kTileThreads, kBlocks) {     \
    step_kernel<L, W, hard>(args);                                                                       \
  }
#define ALL_LOGITS(L, W)    \
  LOGITS(false, soft, L, W) \
  LOGITS(true, hard, L, W)
#define SUM(C) \
  TWOFOUR_KERNEL(twofour_matmul_sum_##C, MatmulSumArgs, 256, 4) { sum_kernel<C>(args); }

PRODUCTS(f16)
PRODUCTS(bf16)
ALL_LOGITS(f32, f16)
ALL_LOGITS(f32, bf16)
ALL_LOGITS(bf16, f16)
ALL_LOGITS(bf16, bf16)
SUM(f32)
SUM(f16)
SUM(bf16)

}  // namespace twofour
