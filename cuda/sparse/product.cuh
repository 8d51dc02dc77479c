// What the sparse products share: Y [T, N] = X [T, K] * W^T with W [N, K] compressed, its kept values row-major [N, K/2]
// and its codes in the layout `CutlassSm80` of src/compress/layout.rs. Tensor cores take a sparse matrix as their first
// operand alone, so what they sum up is the transpose of Y: 16 rows of W by 8 tokens an instruction.
//
// Sizes are counted in bytes wherever that makes 16-bit and 8-bit values one case: an instruction contracts over 64 bytes
// of a token (32 columns of 16 bits, 64 of 8) and 32 bytes of a row's kept values, and so many columns are a tile of codes.
//
// Codes must be of the six ordered ones: the packers write no others, and the hardware does not define what others do.
// A product has no term for what a code drops, so a NaN of X there does not reach Y.
#pragma once

#include "common/tile.cuh"

namespace twofour {

struct SparseArgs {
  const void* x;       // [T, K]
  const void* values;  // [N, K/2]
  const u8* codes;     // in tiles of kCodeTileBytes, the tiles of a column of tiles side by side
  const void* bias;    // [N] of the type of Y, or null
  void* y;             // [T, N], if splits is 1
  void* partial;       // [splits, T, N] of sums, if not
  u32 tokens;
  u32 rows;       // N
  u32 cols;       // K, a multiple of 4
  u32 share;      // columns that a split takes: whole stages, or whole steps of a warp
  u32 splits;     // blocks along the grid's y
  u32 row_warps;  // of a block for few tokens
};
static_assert(sizeof(SparseArgs) == 72, "SparseArgs in src/sparse/launch.rs");

TWOFOUR_DEVICE u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

constexpr u32 kCodeTileBytes = 128;  // a word for each lane of a warp

// The types of values and tokens, of sums, and of Y.
template <typename T>
struct SparseTypes {
  using Sum = float;
  using Y = T;
};
template <>
struct SparseTypes<i8> {
  using Sum = i32;
  using Y = i32;
};
template <typename T>
using SumOf = typename SparseTypes<T>::Sum;
template <typename T>
using YOf = typename SparseTypes<T>::Y;

// Of a tile of codes: 32 x 32 of 16-bit values, 16 x 64 of 8-bit ones.
template <typename T>
constexpr u32 kCodeRows = 16 * sizeof(T);
template <typename T>
constexpr u32 kCodeCols = 64 / sizeof(T);

// The tiles of codes that there are. Rows and columns beyond a weight's end have codes as far as its last tiles reach.
// Beyond these, any legal codes will do: what stands there is the last tile once more.
template <typename T>
struct CodeTiles {
  const u8* base;
  u32 down, along;

  TWOFOUR_DEVICE explicit CodeTiles(const SparseArgs& args)
      : base(args.codes),
        down((args.rows + kCodeRows<T> - 1) / kCodeRows<T>),
        along((args.cols + kCodeCols<T> - 1) / kCodeCols<T>) {}

  TWOFOUR_DEVICE u32 row(u32 of_tiles) const { return of_tiles < down ? of_tiles : down - 1; }
  TWOFOUR_DEVICE u32 col(u32 of_tiles) const { return of_tiles < along ? of_tiles : along - 1; }
  TWOFOUR_DEVICE const u8* at(u32 row, u32 col) const { return base + (mul_wide(col, down) + row) * kCodeTileBytes; }
};

// Matrices as the vocabulary of tile.cuh has them, of 16-bit elements, for columns before `end`: two 8-bit values are one.
template <typename T>
TWOFOUR_DEVICE Matrix kept_values(const SparseArgs& args, u32 end) {
  return {args.values, args.cols / 4 * u32(sizeof(T)), args.rows, end / 4 * u32(sizeof(T))};
}
template <typename T>
TWOFOUR_DEVICE Matrix tokens_of(const SparseArgs& args, u32 end) {
  return {args.x, args.cols / 2 * u32(sizeof(T)), args.tokens, end / 2 * u32(sizeof(T))};
}

// sum += a * b, `codes` being the metadata operand: of 16-bit values, lanes 2 s and 2 s + 1 of each quad give it for the
// selector s; of 8-bit values all four lanes do, and the selector is none.
template <u32 selector>
TWOFOUR_DEVICE void multiply_sparse(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[4], u32 codes, f16) {
  mma_sp_m16n8k32_f16<selector>(sum, a, b, codes);
}
template <u32 selector>
TWOFOUR_DEVICE void multiply_sparse(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[4], u32 codes, bf16) {
  mma_sp_m16n8k32_bf16<selector>(sum, a, b, codes);
}
template <u32 selector>
TWOFOUR_DEVICE void multiply_sparse(i32 (&sum)[4], const u32 (&a)[4], const u32 (&b)[4], u32 codes, i8) {
  mma_sp_m16n8k64_s8(sum, a, b, codes);
}

// ---- from sums to Y ---------------------------------------------------------------------------------------

// Sums of integers wrap.
TWOFOUR_DEVICE float plus(float a, float b) { return a + b; }
TWOFOUR_DEVICE i32 plus(i32 a, i32 b) { return i32(u32(a) + u32(b)); }

TWOFOUR_DEVICE u32 word_of(float x) { return bits_of(x); }
TWOFOUR_DEVICE u32 word_of(i32 x) { return u32(x); }
TWOFOUR_DEVICE void of_word(u32 word, float& x) { x = float_of(word); }
TWOFOUR_DEVICE void of_word(u32 word, i32& x) { x = i32(word); }

TWOFOUR_DEVICE float as_sum(f16 x) { return to_float(x); }
TWOFOUR_DEVICE float as_sum(bf16 x) { return to_float(x); }
TWOFOUR_DEVICE i32 as_sum(i32 x) { return x; }

// A row's bias as a number to add; 0 where there is none.
template <typename Y>
TWOFOUR_DEVICE auto bias_of(const void* bias, u64 row) {
  return bias ? as_sum(load(static_cast<const Y*>(bias) + row)) : decltype(as_sum(Y{}))(0);
}

TWOFOUR_DEVICE void store_rounded(f16* to, float sum) { store(to, to_f16(sum)); }
TWOFOUR_DEVICE void store_rounded(bf16* to, float sum) { store(to, to_bf16(sum)); }
TWOFOUR_DEVICE void store_rounded(f32* to, float sum) { store(to, sum); }
TWOFOUR_DEVICE void store_rounded(i32* to, i32 sum) { store(to, sum); }

// 16 bytes of Y or of partial sums at once.
TWOFOUR_DEVICE void store_rounded_run(f16* to, const float (&x)[8]) { store_run(to, x); }
TWOFOUR_DEVICE void store_rounded_run(bf16* to, const float (&x)[8]) { store_run(to, x); }
TWOFOUR_DEVICE void store_rounded_run(f32* to, const float (&x)[4]) { store_run(to, x); }
TWOFOUR_DEVICE void store_rounded_run(i32* to, const i32 (&x)[4]) {
  store_16(to, {u32(x[0]), u32(x[1]), u32(x[2]), u32(x[3])});
}

}  // namespace twofour
