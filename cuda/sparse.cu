// The sparse product for many tokens: Y [T, N] = X [T, K] * W^T (+ bias), W compressed (sparse/product.cuh says how,
// src/sparse/launch.rs is the contract), made of the vocabulary of common/tile.cuh. C there is the transpose of Y: its
// rows are those of W, its columns are tokens.
//
//   twofour_sparse_tile_{f16,bf16,i8}   Y, or parts of it whose sums are over shares of K
//   twofour_sparse_sum_{f16,bf16,i32}   adds up such parts
//
// A stage is 64 bytes of kept values of each of 128 rows, a tile of tile.cuh; 128 bytes of each of 128 tokens, two tiles
// side by side; and the codes. It is worked on by two instructions along K, the first with the first tile of tokens.

#include "sparse/product.cuh"

namespace twofour {

// With three stages of 25 or 26 KiB two blocks fit an SM of sm_80 or sm_90, and one an SM of sm_86, sm_89 or sm_120.
constexpr u32 kSparseStages = 3;
constexpr u32 kOperandBytes = 3 * kTileBytes;  // of a stage: kept values, then tokens; codes follow
// Of a stage's codes: tiles down and along W.
template <typename T>
constexpr u32 kCodesDown = kTile / kCodeRows<T>;
template <typename T>
constexpr u32 kCodeBytesOf = kCodesDown<T> * 2 * kCodeTileBytes;
template <typename T>
constexpr u32 kSparseStageBytes = kOperandBytes + kCodeBytesOf<T>;
template <typename T>
constexpr u32 kStageCols = 4 * kDepth / sizeof(T);  // columns of W, before they were compressed
template <typename T>
constexpr u32 kSparseFoldStages = kFoldTerms<T> / kDepth;
template <typename T>
using SparseTotals = Totals<kWarpRows16 * kWarpCols8, SumOf<T>>;
constexpr u32 kTileSumBytes = kTile * kTile * 4;
static_assert(kTileSumBytes <= kSparseStages * kSparseStageBytes<f16>, "a tile's sums lie where the ring was");

struct SparseSumArgs {
  const void* partial;  // [splits, elements]
  void* y;
  const void* bias;  // [rows], or null
  u64 elements;
  u32 rows;  // of W, along which Y is contiguous
  u32 splits;
};
static_assert(sizeof(SparseSumArgs) == 40, "SumArgs in src/sparse/launch.rs");

TWOFOUR_DEVICE u32 tiles(u32 extent) { return (extent + kTile - 1) / kTile; }

// ---- the contraction --------------------------------------------------------------------------------------

// Copies a stage's codes, 16 bytes a thread: tiles down W first.
template <typename T>
struct StageCodes {
  CodeTiles<T> tiles;
  u32 row, col;  // of tiles: the thread's; its column in the first stage
  u32 place;
  static constexpr u32 kTileChunks16 = kCodeTileBytes / 16;

  TWOFOUR_DEVICE StageCodes(const SparseArgs& args, u32 row_at, u32 col_at) : tiles(args) {
    const u32 tile = thread_index() / kTileChunks16;
    row = tiles.row(row_at / kCodeRows<T> + tile % kCodesDown<T>);
    col = col_at / kCodeCols<T> + tile / kCodesDown<T>;
    place = 16 * thread_index();
  }

  TWOFOUR_DEVICE void copy(u8* to) {
    if (place < kCodeBytesOf<T>) {
      cp_async_16(to + place, tiles.at(row, tiles.col(col)) + 16 * (thread_index() % kTileChunks16));
    }
    col += 2;
  }
};

// The second operand of an instruction: of eight tokens, from one on, all 64 bytes of a tile.
TWOFOUR_DEVICE void load_tokens(const u8* tile, u32 token, u32 (&b)[4]) {
  ldmatrix_x4(b, tile + chunk_offset<Lies::kAlongDepth>(token + lane() % 8, lane() / 8));
}

// Adds the products of a stage's half k.
template <typename T>
TWOFOUR_DEVICE void multiply_half(const u8* stage, u32 k, SumsIn<SumOf<T>>& sums) {
  constexpr Lies lies = Lies::kAlongDepth;
  constexpr u32 words = kWarpTile / kCodeRows<T>;
  const u8* tokens = stage + kTileBytes + k * kTileBytes;
  const u8* codes = stage + kOperandBytes + k * kCodesDown<T> * kCodeTileBytes;
  u32 a[kWarpRows16][4], of_rows[words];
  TWOFOUR_UNROLL
  for (u32 i = 0; i < words; ++i) {
    const u8* tile = codes + (warp_row() / kCodeRows<T> + i) * kCodeTileBytes;
    of_rows[i] = load(reinterpret_cast<const u32*>(tile) + lane());
  }
  TWOFOUR_UNROLL
  for (u32 i = 0; i < kWarpRows16; ++i) {
    load_fragment<As::kA, lies>(stage, warp_row() + 16 * i, k * kDepth / 2, a[i]);
  }
  TWOFOUR_UNROLL
  for (u32 j = 0; j < kWarpCols8; ++j) {
    u32 b[4];
    load_tokens(tokens, warp_col() + 8 * j, b);
    TWOFOUR_UNROLL
    for (u32 i = 0; i < kWarpRows16; i += 2) {
      constexpr u32 each = kWarpRows16 / words;  // 16-bit: a word serves two
      multiply_sparse<0>(sums.of[i][j], a[i], b, of_rows[i / each], T{});
      multiply_sparse<1>(sums.of[i + 1][j], a[i + 1], b, of_rows[(i + 1) / each], T{});
    }
  }
}

// The whole contraction of a block. One barrier a stage, as in tile.cuh.
template <typename T, bool aligned>
TWOFOUR_DEVICE void contract_sparse(Copier<Lies::kAlongDepth>& kept, Copier<Lies::kAlongDepth>& tokens,
                                    StageCodes<T>& codes, u8* ring, u32 stages, SumsIn<SumOf<T>>& sums,
                                    SparseTotals<T>& totals) {
  const auto copy = [&](u32 stage) {
    if (stage < stages) {
      u8* to = ring + stage % kSparseStages * kSparseStageBytes<T>;
      kept.template copy<aligned>(to);
      tokens.template copy<aligned>(to + kTileBytes);
      tokens.template copy<aligned>(to + 2 * kTileBytes);
      codes.copy(to + kOperandBytes);
    }
    cp_async_commit();
  };
  for (u32 stage = 0; stage < kSparseStages - 1; ++stage) copy(stage);
  for (u32 stage = 0; stage < stages; ++stage) {
    if (stage > 0 && stage % kSparseFoldStages<T> == 0) totals.take(sums.of[0]);
    cp_async_wait<kSparseStages - 2>();
    sync_threads();
    copy(stage + kSparseStages - 1);
    const u8* from = ring + stage % kSparseStages * kSparseStageBytes<T>;
    TWOFOUR_UNROLL
    for (u32 k = 0; k < 2; ++k) multiply_half<T>(from, k, sums);
  }
  sync_threads();  // everyone is done with the ring: its place may be taken
}

// ---- from the sums to Y -----------------------------------------------------------------------------------

// The sums lie in shared memory as Y does, a token's side by side. Chunks of four are permuted so that a warp's stores, of
// four tokens and eight rows of W, touch every bank once.
TWOFOUR_DEVICE u32 sum_place(u32 token, u32 row) {
  return token * kTile + ((row / 4) ^ (token / 2 % 4 * 2)) * 4 + row % 4;
}

template <typename Sum>
TWOFOUR_DEVICE void put_transposed(const SumsIn<Sum>& sums, u32* shared) {
  const u32 row = warp_row() + lane() / 4, token = warp_col() + lane() % 4 * 2;
  TWOFOUR_UNROLL
  for (u32 i = 0; i < kWarpRows16; ++i) {
    TWOFOUR_UNROLL
    for (u32 j = 0; j < kWarpCols8; ++j) {
      TWOFOUR_UNROLL
      for (u32 of = 0; of < 4; ++of) {
        shared[sum_place(token + 8 * j + of % 2, row + 16 * i + of / 2 * 8)] = word_of(sums.of[i][j][of]);
      }
    }
  }
}

// Writes a tile of Y, or of a part of it (C is then the type of sums, and there is no bias), 16 bytes at a time.
template <typename C, typename Sum>
TWOFOUR_DEVICE void write_transposed(const SparseArgs& args, const u32* shared, void* c, const void* bias,
                                     TileAt tile) {
  constexpr u32 n = 16 / sizeof(C), row_runs = kTile / n;
  static_assert(kTileThreads % row_runs == 0, "a thread's runs are of the same rows of W");
  const u32 in_row = thread_index() % row_runs * n, row = tile.row * kTile + in_row;
  if (row >= args.rows) return;
  const u32 valid = args.rows - row < n ? args.rows - row : n;
  const bool whole = is_aligned(c, u64(args.rows) * sizeof(C));
  Sum biases[n];
  TWOFOUR_UNROLL
  for (u32 i = 0; i < n; ++i) biases[i] = i < valid ? bias_of<C>(bias, row + i) : Sum(0);
  for (u32 run = thread_index(); run < kTile * row_runs; run += kTileThreads) {
    const u32 in_col = run / row_runs, token = tile.col * kTile + in_col;
    if (token >= args.tokens) return;
    Sum x[n];
    TWOFOUR_UNROLL
    for (u32 i = 0; i < n; i += 4) {
      const u32x4 v = *reinterpret_cast<const u32x4*>(shared + sum_place(in_col, in_row + i));
      of_word(v.x, x[i]), of_word(v.y, x[i + 1]), of_word(v.z, x[i + 2]), of_word(v.w, x[i + 3]);
    }
    TWOFOUR_UNROLL
    for (u32 i = 0; i < n; ++i) x[i] = plus(x[i], biases[i]);
    C* to = static_cast<C*>(c) + u64(token) * args.rows + row;
    if (whole) {
      store_rounded_run(to, x);
    } else {
      TWOFOUR_UNROLL
      for (u32 i = 0; i < n; ++i) {
        if (i < valid) store_rounded(to + i, x[i]);
      }
    }
  }
}

template <typename T>
TWOFOUR_DEVICE void tile_kernel(const SparseArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(u8, ring);
  const TileAt tile = tile_of(block_index(), tiles(args.rows), tiles(args.tokens));
  const u32 begin = smaller(block_index_y() * args.share, args.cols), end = smaller(begin + args.share, args.cols);
  const u32 stages = (end - begin + kStageCols<T> - 1) / kStageCols<T>;
  u32x4 memory[kWarpRows16 * kWarpCols8];
  SparseTotals<T> totals(memory, args.share > kSparseFoldStages<T> * kStageCols<T>);
  const Matrix values = kept_values<T>(args, end), x = tokens_of<T>(args, end);
  constexpr u32 each = 4 / sizeof(T);  // columns that two bytes of kept values are of
  Copier<Lies::kAlongDepth> kept(values, tile.row * kTile, begin / each);
  Copier<Lies::kAlongDepth> tokens(x, tile.col * kTile, begin / each * 2);
  StageCodes<T> codes(args, tile.row * kTile, begin);
  SumsIn<SumOf<T>> sums = {};
  if (is_aligned<Lies::kAlongDepth>(values) && is_aligned<Lies::kAlongDepth>(x)) {
    contract_sparse<T, true>(kept, tokens, codes, ring, stages, sums, totals);
  } else {
    contract_sparse<T, false>(kept, tokens, codes, ring, stages, sums, totals);
  }
  totals.give(sums.of[0]);
  u32* shared = reinterpret_cast<u32*>(ring);
  put_transposed(sums, shared);
  sync_threads();
  if (args.splits == 1) return write_transposed<YOf<T>, SumOf<T>>(args, shared, args.y, args.bias, tile);
  SumOf<T>* partial = static_cast<SumOf<T>*>(args.partial) + u64(block_index_y()) * args.tokens * args.rows;
  write_transposed<SumOf<T>, SumOf<T>>(args, shared, partial, nullptr, tile);
}

// ---- the sum of parts -------------------------------------------------------------------------------------

// In the order of the splits, whatever order they finished in: the same bits every time. A thread takes runs of n.
template <typename C, typename Sum, u32 n>
TWOFOUR_DEVICE void add_up(const SparseSumArgs& args) {
  const u64 threads = u64(block_count()) * block_size();
  for (u64 run = u64(block_index()) * block_size() + thread_index(); run < args.elements / n; run += threads) {
    Sum sum[n] = {};
    for (u32 split = 0; split < args.splits; ++split) {
      const Sum* from = static_cast<const Sum*>(args.partial) + split * args.elements + n * run;
      Sum part[n];
      if constexpr (n == 1) {
        part[0] = load(from);
      } else {
        TWOFOUR_UNROLL
        for (u32 i = 0; i < n; i += 4) {
          const u32x4 v = load_16(from + i);
          of_word(v.x, part[i]), of_word(v.y, part[i + 1]), of_word(v.z, part[i + 2]), of_word(v.w, part[i + 3]);
        }
      }
      TWOFOUR_UNROLL
      for (u32 i = 0; i < n; ++i) sum[i] = plus(sum[i], part[i]);
    }
    const u64 row = args.bias ? n * run % args.rows : 0;
    TWOFOUR_UNROLL
    for (u32 i = 0; i < n; ++i) sum[i] = plus(sum[i], bias_of<C>(args.bias, row + i));
    C* to = static_cast<C*>(args.y) + n * run;
    if constexpr (n == 1) store_rounded(to, sum[0]);
    else store_rounded_run(to, sum);
  }
}

template <typename C, typename Sum>
TWOFOUR_DEVICE void sum_kernel(const SparseSumArgs& args) {
  constexpr u32 n = 16 / sizeof(C);
  if (args.rows % n == 0) add_up<C, Sum, n>(args);
  else add_up<C, Sum, 1>(args);
}

// ---- symbols ----------------------------------------------------------------------------------------------

// Two blocks an SM: 255 registers a thread.
constexpr u32 kBlocks = 2;

#define TILE(T) \
  TWOFOUR_KERNEL(twofour_sparse_tile_##T, SparseArgs, kTileThreads, kBlocks) { tile_kernel<T>(args); }
#define SUM(C, Sum) \
  TWOFOUR_KERNEL(twofour_sparse_sum_##C, SparseSumArgs, 256, 4) { sum_kernel<C, Sum>(args); }

TILE(f16)
TILE(bf16)
TILE(i8)
SUM(f16, float)
SUM(bf16, float)
SUM(i32, i32)

}  // namespace twofour
