// The products of the masked linear layer on tensor cores (src/matmul/mod.rs is the contract), 16-bit operands and f32
// sums, made of the vocabulary of common/tile.cuh:
//
//   twofour_matmul_output_{dense,codes}_{f16,bf16}   Y  [T, N] = X [T, K] W^T       W [N, K] as it is, or under codes
//   twofour_matmul_input_{dense,codes}_{f16,bf16}    dX [T, K] = dY [T, N] W        the same
//   twofour_matmul_gradient_{f16,bf16}               G  [N, K] = dY^T X             in f32
//   twofour_matmul_logits_{soft,hard}_{logits}_{f16,bf16}
//                                                    G as above, and from it, in registers, the gradient of the logits
//   twofour_matmul_sum_{f32,f16,bf16}                adds up what blocks left that share a tile of C
//
// With codes, masks are applied on the way through shared memory: the masked weight is never in global memory. Nor is G,
// for the logits: it is not even rounded.

#include "common/gradient.cuh"
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
static_assert(sizeof(MatmulLogitsArgs) == 184, "MatmulLogitsArgs in src/matmul/tile.rs");

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

// ---- the gradient of the logits ---------------------------------------------------------------------------

// `count` groups from column `col` of a row on, whose gradients of masked weights are in the band.
template <typename L, typename W, bool hard, int count, bool whole>
TWOFOUR_DEVICE void groups_gradient(const MatmulLogitsArgs& args, const u32x2* lines, const float* g, u32 row,
                                    u32 col) {
  float logits[6 * count], w[4 * count], logit_gradient[6 * count], unused[4];
  const u64 group = (u64(row) * args.cols + col) / 4;
  read<whole, L>(args.logits, 6 * group, logits);
  read<whole, W>(args.weight, 4 * group, w);
  const u64 global = args.first_group + row * args.row_groups + col / 4;
  TWOFOUR_UNROLL
  for (int i = 0; i < count; ++i) {
    differentiate<hard>(args.by, lines, global + i, logits + 6 * i, w + 4 * i, g + 4 * i, logit_gradient + 6 * i,
                        unused);
  }
  if (args.accumulate) add_own<whole>(args.logit_gradient, 6 * group, logit_gradient);
  write<whole, f32>(args.logit_gradient, 6 * group, logit_gradient);
}

// As in cuda/mask.cu, a thread takes a chunk of groups whose logits are 48 bytes.
template <typename L, typename W, bool hard>
TWOFOUR_DEVICE void write_logit_gradient(const MatmulLogitsArgs& args, const Sums& sums, const u32x2* lines,
                                         float* band, TileAt tile) {
  constexpr int count = 8 / sizeof(L);
  constexpr u32 row_chunks = kTile / (4 * count);
  const bool whole = args.cols % (4 * count) == 0;
  for (u32 band_number = 0; band_number < 2; ++band_number) {
    put_band(sums, band_number, band);
    for (u32 chunk = thread_index(); chunk < kBandRows * row_chunks; chunk += kTileThreads) {
      const u32 in_row = chunk / row_chunks, in_col = chunk % row_chunks * (4 * count);
      const u32 row = tile.row * kTile + band_number * kBandRows + in_row, col = tile.col * kTile + in_col;
      if (row >= args.rows || col >= args.cols) continue;
      if (whole) {
        float g[4 * count];
        get_sums(band, in_row, in_col, g);
        groups_gradient<L, W, hard, count, true>(args, lines, g, row, col);
      } else {
        for (u32 i = 0; i < 4 * count && col + i < args.cols; i += 4) {
          float g[4];
          get_sums(band, in_row, in_col + i, g);
          groups_gradient<L, W, hard, 1, false>(args, lines, g, row, col + i);
        }
      }
    }
  }
}

template <typename L, typename W, bool hard>
TWOFOUR_DEVICE void logits_kernel(const MatmulLogitsArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(u8, ring);
  const TileAt tile = tile_of(block_index(), tiles(args.rows), tiles(args.cols));
  constexpr Lies lies = Lies::kAcrossDepth;
  const Matrix dy = {args.dy, args.rows, args.rows, args.tokens}, x = {args.x, args.cols, args.cols, args.tokens};
  Copier<lies> a(dy, tile.row * kTile, 0), b(x, tile.col * kTile, 0);
  const bool aligned = is_aligned<lies>(dy) && is_aligned<lies>(x);
  Sums sums = {};
  contract<W>(aligned, a, b, NoMasker{}, ring, nullptr, (args.tokens + kDepth - 1) / kDepth, sums);
  // The noise table takes the ring's place too, behind the band.
  u32x2* lines = reinterpret_cast<u32x2*>(ring + kBandBytes);
  static_assert(kBandBytes + kGumbelLineCount * sizeof(u32x2) <= kRingBytes, "both fit the ring");
  load_gumbel_lines(lines);
  write_logit_gradient<L, W, hard>(args, sums, lines, reinterpret_cast<float*>(ring), tile);
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
  PRODUCT(gradient, T, f32, kAcrossDepth, kAcrossDepth, false)
#define LOGITS(hard, variant, L, W)                                                                      \
  TWOFOUR_KERNEL(twofour_matmul_logits_##variant##_##L##_##W, MatmulLogitsArgs, kTileThreads, kBlocks) { \
    logits_kernel<L, W, hard>(args);                                                                     \
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
