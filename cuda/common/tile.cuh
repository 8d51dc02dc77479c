// The vocabulary of a tensor-core product C [rows, cols] = A [rows, depth] * B [depth, cols] of 16-bit operands with f32
// sums, for sm_80 and later: where an operand's tiles lie in shared memory, how they get there, and what the four warps of
// a block make of them. Products differ in how their operands lie in memory and in what happens to the sums; that is
// cuda/matmul.cu.
//
// A block makes a tile of 128 x 128 of C, each of its warps 64 x 64. The contraction goes through shared memory 32 deep at
// a time, in a ring of four stages: while the tensor cores work on one stage, copies (cp.async) of the next ones are under
// way. Chunks of 16 bytes are permuted (swizzled) so that both the copies and ldmatrix touch every bank once at a time.
#pragma once

#include "common/fold.cuh"

namespace twofour {

constexpr u32 kTile = 128;         // rows and columns of C a block makes
constexpr u32 kDepth = 32;         // of the contraction in a stage
constexpr u32 kStages = 4;         // of the ring
constexpr u32 kTileThreads = 128;  // four warps, two by two
constexpr u32 kWarpTile = 64;      // rows and columns of C a warp makes
constexpr u32 kChunk = 8;          // elements in 16 bytes

constexpr u32 kTileChunks = kTile * kDepth / kChunk;  // of an operand in a stage
constexpr u32 kPasses = kTileChunks / kTileThreads;   // chunks of an operand a thread copies in a stage
constexpr u32 kTileBytes = kTileChunks * 16;
constexpr u32 kStageBytes = 2 * kTileBytes;  // A, then B
constexpr u32 kRingBytes = kStages * kStageBytes;
constexpr u32 kBandRows = kTile / 2;  // of C that pass through shared memory at a time in the end
constexpr u32 kBandBytes = kBandRows * kTile * 4;
static_assert(kBandBytes <= kRingBytes, "a band lies where the ring was");

// How an operand lies in memory. `extent` is the dimension it shares with C: rows of A, columns of B.
enum class Lies { kAlongDepth, kAcrossDepth };  // [extent, depth] or [depth, extent], row-major

// ---- where chunks are -------------------------------------------------------------------------------------

// Chunk c of a stage's tile, 0..511, in the order of memory: its row and the first of its columns there.
template <Lies lies>
constexpr u32 kRowChunks = (lies == Lies::kAlongDepth ? kDepth : kTile) / kChunk;
template <Lies lies>
TWOFOUR_DEVICE u32 chunk_row(u32 chunk) {
  return chunk / kRowChunks<lies>;
}
template <Lies lies>
TWOFOUR_DEVICE u32 chunk_col(u32 chunk) {
  return chunk % kRowChunks<lies> * kChunk;
}

// Its byte offset in shared memory. ldmatrix reads one chunk column of eight rows at once: the permutation spreads those
// over the eight 16-byte columns of the banks. (Rows along the depth are 64 bytes, so two of them fill all banks.)
template <Lies lies>
TWOFOUR_DEVICE u32 chunk_offset(u32 row, u32 chunk_in_row) {
  if constexpr (lies == Lies::kAlongDepth) return (row * 4 + (chunk_in_row ^ (row / 2 % 4))) * 16;
  else return (row * 16 + (chunk_in_row ^ (row % 8))) * 16;
}

// ---- from global memory to a stage ------------------------------------------------------------------------

// A 16-bit matrix in memory, as far as a block reads it.
struct Matrix {
  const void* base;
  u32 pitch;   // elements from row to row
  u32 extent;  // of the dimension it shares with C
  u32 depth;   // where the block's share of the contraction ends
};

// Whether every row of a matrix starts on 16 bytes, as accesses of 16 bytes need.
TWOFOUR_DEVICE bool is_aligned(const void* base, u64 row_bytes) {
  return reinterpret_cast<u64>(base) % 16 == 0 && row_bytes % 16 == 0;
}

// Whether it can be copied in whole chunks: rows start on 16 bytes, and end on them.
template <Lies lies>
TWOFOUR_DEVICE bool is_aligned(const Matrix& m) {
  const u32 row_end = lies == Lies::kAlongDepth ? m.depth : m.extent;
  return is_aligned(m.base, u64(m.pitch) * 2) && row_end % kChunk == 0;
}

// Copies an operand's tiles stage by stage, by so many threads. A thread's chunks are its own number and every
// `threads`-th after it, so they share a column, and their places in shared memory are a constant apart. Fewer threads
// than a block's, for a matrix along the depth, make a tile of as many rows.
template <Lies lies, u32 threads = kTileThreads>
struct Copier {
  const u16* from;  // this thread's first chunk in the next stage's tile
  u64 pass_step;    // elements from a chunk of a thread to its next
  u64 stage_step;   // elements from a stage's tile to the next one's
  i32 rows_left;    // rows of memory from the first chunk's to the end
  i32 cols_left;    // columns of memory from the chunks' first to the end
  u32 place;        // of the first chunk in a stage

  static constexpr u32 kPassRows = threads / kRowChunks<lies>;
  static_assert(threads == kTileThreads || (lies == Lies::kAlongDepth && threads % kWarpSize == 0), "no such tile");

  TWOFOUR_DEVICE Copier(const Matrix& m, u32 extent_at, u32 depth_at, u32 thread = thread_index()) {
    constexpr bool along = lies == Lies::kAlongDepth;
    const u32 row = chunk_row<lies>(thread), col = chunk_col<lies>(thread);
    const u32 row_at = (along ? extent_at : depth_at) + row;
    const u32 col_at = (along ? depth_at : extent_at) + col;
    from = static_cast<const u16*>(m.base) + u64(row_at) * m.pitch + col_at;
    pass_step = u64(kPassRows) * m.pitch;
    stage_step = along ? kDepth : u64(kDepth) * m.pitch;
    rows_left = i32((along ? m.extent : m.depth) - row_at);
    cols_left = i32((along ? m.depth : m.extent) - col_at);
    place = chunk_offset<lies>(row, col / kChunk);
  }

  // Starts copying the next stage's tile; what lies outside the matrix becomes zeros. An aligned one is copied in whole
  // chunks (a size that is 0 or 16 is one predicate for the machine, any other is arithmetic); another one at once,
  // element by element: right, not fast. The next tile is then `stages` stages on.
  template <bool aligned>
  TWOFOUR_DEVICE void copy(u8* tile, u32 stages = 1) {
    TWOFOUR_UNROLL
    for (u32 pass = 0; pass < kPasses; ++pass) {
      const bool inside = rows_left > i32(pass * kPassRows) && cols_left > 0;
      u8* to = tile + place + pass * threads * 16;
      const u16* chunk = from + pass * pass_step;
      if constexpr (aligned) cp_async_16(to, chunk, inside ? 16 : 0);
      else copy_each(to, chunk, !inside ? 0 : cols_left < i32(kChunk) ? u32(cols_left) : kChunk);
    }
    from += stage_step * stages;
    (lies == Lies::kAlongDepth ? cols_left : rows_left) -= i32(kDepth * stages);
  }

  TWOFOUR_DEVICE static void copy_each(u8* to, const u16* chunk, u32 valid) {
    TWOFOUR_NO_UNROLL
    for (u32 i = 0; i < kChunk; ++i) store(reinterpret_cast<u16*>(to) + i, i < valid ? load_2(chunk + i) : u16(0));
  }
};

// ---- masks on a stage -------------------------------------------------------------------------------------

// Four weights, in two words, under a pattern's code. What the pattern drops becomes +0, whatever it is; under a code that
// is none of the six, all become NaN.
TWOFOUR_DEVICE void keep_group(u32 code, u32& low, u32& high) {
  // A byte of ones at each kept position: code = first + 4 * second.
  const u32 first = code << 3 & 24, second = code << 1 & 24;
  const u32 kept = 0xffu << first | 0xffu << second;
  const u32 poison = first < second ? 0 : 0x7fff7fffu;
  low = (low & byte_permute(kept, 0, 0x1100)) | poison;
  high = (high & byte_permute(kept, 0, 0x3322)) | poison;
}

// The eight weights of a chunk under the codes of its two groups, in the low eight bits.
TWOFOUR_DEVICE u32x4 keep_chunk(u32x4 w, u32 codes) {
  keep_group(codes, w.x, w.y);
  keep_group(codes >> 4, w.z, w.w);
  return w;
}

// The codes of a weight that is operand B: a byte for each chunk of a tile, in the order of the chunks.
constexpr u32 kCodeBytes = kTileChunks;

template <Lies lies>
struct Masker {
  const u8* codes;  // row-major over the weight's groups, two a byte, low nibble first
  u32 cols;         // of the weight
  u32 row_at, col_at;
  u32 rows_end, cols_end;
  static constexpr bool kMasks = true;

  TWOFOUR_DEVICE Masker(const u8* packed, const Matrix& m, u32 extent_at, u32 depth_at) : codes(packed), cols(m.pitch) {
    constexpr bool along = lies == Lies::kAlongDepth;
    row_at = along ? extent_at : depth_at, col_at = along ? depth_at : extent_at;
    rows_end = along ? m.extent : m.depth, cols_end = along ? m.depth : m.extent;
  }

  // Whether the codes of four chunks are four bytes that start on four bytes.
  TWOFOUR_DEVICE bool is_aligned() const { return cols % kDepth == 0; }

  // Starts copying the codes of stage `stage`: a thread those of four adjacent chunks, of one row.
  template <bool aligned>
  TWOFOUR_DEVICE void copy(u8* to, u32 stage) const {
    constexpr u32 each = kTileChunks / kTileThreads;
    const u32 chunk = thread_index() * each;
    const u32 row = row_of(chunk, stage), col = col_of(chunk, stage);
    if constexpr (aligned) {
      const bool valid = row < rows_end && col < cols_end;
      cp_async_4(to + chunk, codes + (u64(row) * cols + col) / kChunk, valid ? 4 : 0);
    } else {
      TWOFOUR_NO_UNROLL
      for (u32 i = 0; i < each; ++i) store(to + chunk + i, codes_at(row, col + i * kChunk));
    }
  }

  // Masks the tile in place. The codes and the tile must have landed; a barrier must follow.
  TWOFOUR_DEVICE void mask(u8* tile, const u8* of_chunks, u32 stage) const {
    TWOFOUR_UNROLL
    for (u32 pass = 0; pass < kPasses; ++pass) {
      const u32 chunk = thread_index() + pass * kTileThreads;
      // Outside there are zeros and no codes: any legal ones will do.
      const bool inside = row_of(chunk, stage) < rows_end && col_of(chunk, stage) < cols_end;
      const u32 codes_of_chunk = inside ? of_chunks[chunk] : 0x44;
      u32x4* w =
          reinterpret_cast<u32x4*>(tile + chunk_offset<lies>(chunk_row<lies>(chunk), chunk_col<lies>(chunk) / kChunk));
      *w = keep_chunk(*w, codes_of_chunk);
    }
  }

  TWOFOUR_DEVICE u32 row_of(u32 chunk, u32 stage) const {
    return row_at + chunk_row<lies>(chunk) + (lies == Lies::kAlongDepth ? 0 : stage * kDepth);
  }
  TWOFOUR_DEVICE u32 col_of(u32 chunk, u32 stage) const {
    return col_at + chunk_col<lies>(chunk) + (lies == Lies::kAlongDepth ? stage * kDepth : 0);
  }

  // Rows may start in the middle of a byte. Groups outside get a code that is one.
  TWOFOUR_DEVICE u8 codes_at(u32 row, u32 col) const {
    u32 pair = 0x44;
    for (u32 i = 0; i < 2; ++i) {
      const u32 at = col + 4 * i;
      if (row >= rows_end || at >= cols_end) continue;
      const u64 group = u64(row) * (cols / 4) + at / 4;
      const u32 code = load(codes + group / 2) >> (4 * (group % 2)) & 15;
      pair = (pair & ~(15u << (4 * i))) | code << (4 * i);
    }
    return u8(pair);
  }
};

// Stands in where the weight is dense.
struct NoMasker {
  static constexpr bool kMasks = false;

  TWOFOUR_DEVICE bool is_aligned() const { return true; }
  template <bool aligned>
  TWOFOUR_DEVICE void copy(u8*, u32) const {}
  TWOFOUR_DEVICE void mask(u8*, const u8*, u32) const {}
};

// ---- from a stage to the tensor cores ---------------------------------------------------------------------

// The 16 x 16 elements at (extent, depth) of a tile, as mma takes them: the four registers of an A, or two of each of two
// Bs of eight columns. The order of the four 8 x 8 matrices differs: along the extent first for A, along the depth for B.
enum class As { kA, kB };
template <As as, Lies lies>
TWOFOUR_DEVICE void load_fragment(const u8* tile, u32 extent, u32 depth, u32 (&fragment)[4]) {
  const u32 matrix = lane() / 8, row = lane() % 8;
  extent += (as == As::kA ? matrix % 2 : matrix / 2) * 8;
  depth += (as == As::kA ? matrix / 2 : matrix % 2) * 8;
  if constexpr (lies == Lies::kAlongDepth) {
    ldmatrix_x4(fragment, tile + chunk_offset<lies>(extent + row, depth / kChunk));
  } else {
    ldmatrix_x4_transposed(fragment, tile + chunk_offset<lies>(depth + row, extent / kChunk));
  }
}

TWOFOUR_DEVICE void multiply(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[2], f16) {
  mma_m16n8k16_f16(sum, a, b);
}
TWOFOUR_DEVICE void multiply(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[2], bf16) {
  mma_m16n8k16_bf16(sum, a, b);
}

// A warp's part of C: 4 x 8 tiles of 16 x 8, in the order of mma's registers.
constexpr u32 kWarpRows16 = kWarpTile / 16, kWarpCols8 = kWarpTile / 8;
template <typename Sum>
struct SumsIn {
  Sum of[kWarpRows16][kWarpCols8][4];
};
using Sums = SumsIn<float>;

TWOFOUR_DEVICE u32 warp_row() { return warp() / 2 * kWarpTile; }
TWOFOUR_DEVICE u32 warp_col() { return warp() % 2 * kWarpTile; }

template <typename T, Lies a_lies, Lies b_lies>
TWOFOUR_DEVICE void multiply_stage(const u8* stage, Sums& sums) {
  TWOFOUR_UNROLL
  for (u32 depth = 0; depth < kDepth; depth += 16) {
    u32 a[kWarpRows16][4], b[kWarpCols8 / 2][4];
    TWOFOUR_UNROLL
    for (u32 i = 0; i < kWarpRows16; ++i) load_fragment<As::kA, a_lies>(stage, warp_row() + 16 * i, depth, a[i]);
    TWOFOUR_UNROLL
    for (u32 j = 0; j < kWarpCols8 / 2; ++j) {
      load_fragment<As::kB, b_lies>(stage + kTileBytes, warp_col() + 16 * j, depth, b[j]);
    }
    TWOFOUR_UNROLL
    for (u32 j = 0; j < kWarpCols8; ++j) {
      const u32 of_columns[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
      TWOFOUR_UNROLL
      for (u32 i = 0; i < kWarpRows16; ++i) multiply(sums.of[i][j], a[i], of_columns, T{});
    }
  }
}

// The whole contraction of a block, `aligned` if both operands and the codes are. `ring` holds kRingBytes, and `codes`
// kStages * kCodeBytes where there are masks.
//
// One barrier a stage: behind it, copies of this stage have landed, and everyone is done with the stage before, whose
// place the newest copies take. With masks, those of the next stage are applied while this one is multiplied.
template <typename T, bool aligned, Lies a_lies, Lies b_lies, typename Masking>
TWOFOUR_DEVICE void contract(Copier<a_lies>& a, Copier<b_lies>& b, const Masking& masker, u8* ring, u8* codes,
                             u32 stages, Sums& sums) {
  constexpr bool masked = Masking::kMasks;
  const auto copy = [&](u32 stage) {
    if (stage < stages) {
      u8* to = ring + stage % kStages * kStageBytes;
      a.template copy<aligned>(to);
      b.template copy<aligned>(to + kTileBytes);
      masker.template copy<aligned>(codes + stage % kStages * kCodeBytes, stage);
    }
    cp_async_commit();
  };
  const auto mask = [&](u32 stage) {
    if (stage < stages) {
      masker.mask(ring + stage % kStages * kStageBytes + kTileBytes, codes + stage % kStages * kCodeBytes, stage);
    }
  };
  for (u32 stage = 0; stage < kStages - 1; ++stage) copy(stage);
  if constexpr (masked) {
    cp_async_wait<kStages - 2>();
    sync_threads();
    mask(0);
  }
  u32x4 memory[kWarpRows16 * kWarpCols8];
  constexpr u32 kFoldStages = kFoldTerms<T> / kDepth;
  Totals<kWarpRows16 * kWarpCols8> totals(memory, stages > kFoldStages);
  for (u32 stage = 0; stage < stages; ++stage) {
    if (stage > 0 && stage % kFoldStages == 0) totals.take(sums.of[0]);
    cp_async_wait<masked ? kStages - 3 : kStages - 2>();
    sync_threads();
    copy(stage + kStages - 1);
    if constexpr (masked) mask(stage + 1);
    multiply_stage<T, a_lies, b_lies>(ring + stage % kStages * kStageBytes, sums);
  }
  totals.give(sums.of[0]);
  sync_threads();  // everyone is done with the ring: its place may be taken
}

template <typename T, Lies a_lies, Lies b_lies, typename Masking>
TWOFOUR_DEVICE void contract(bool aligned, Copier<a_lies>& a, Copier<b_lies>& b, const Masking& masker, u8* ring,
                             u8* codes, u32 stages, Sums& sums) {
  if (aligned && masker.is_aligned()) contract<T, true>(a, b, masker, ring, codes, stages, sums);
  else contract<T, false>(a, b, masker, ring, codes, stages, sums);
}

// ---- from the sums to rows of C ---------------------------------------------------------------------------

// C leaves through shared memory, a band of 64 rows at a time, so that global accesses are whole rows. Chunks of four
// floats are permuted so that a warp's stores, of eight rows and two chunks each, touch every bank once at a time.
TWOFOUR_DEVICE u32 band_place(u32 row, u32 col) {
  return row * kTile + ((col / 4) ^ (row % 4 * 2 + row / 4 % 2)) * 4 + col % 4;
}

// Puts a band of the block's sums into shared memory, by the two warps that have it. Barriers before and after.
TWOFOUR_DEVICE void put_band(const Sums& sums, u32 band_number, float* band) {
  sync_threads();
  if (warp_row() == band_number * kBandRows) {
    const u32 row = lane() / 4, col = warp_col() + lane() % 4 * 2;
    TWOFOUR_UNROLL
    for (u32 i = 0; i < kWarpRows16; ++i) {
      TWOFOUR_UNROLL
      for (u32 j = 0; j < kWarpCols8; ++j) {
        const float(&d)[4] = sums.of[i][j];
        float* upper = band + band_place(16 * i + row, 8 * j + col);
        float* lower = band + band_place(16 * i + row + 8, 8 * j + col);
        *reinterpret_cast<u32x2*>(upper) = {bits_of(d[0]), bits_of(d[1])};
        *reinterpret_cast<u32x2*>(lower) = {bits_of(d[2]), bits_of(d[3])};
      }
    }
  }
  sync_threads();
}

// Reads n consecutive sums of a band's row, from a multiple of four on.
template <u32 n>
TWOFOUR_DEVICE void get_sums(const float* band, u32 row, u32 col, float (&x)[n]) {
  TWOFOUR_UNROLL
  for (u32 i = 0; i < n; i += 4) {
    const u32x4 v = *reinterpret_cast<const u32x4*>(band + band_place(row, col + i));
    x[i] = float_of(v.x), x[i + 1] = float_of(v.y), x[i + 2] = float_of(v.z), x[i + 3] = float_of(v.w);
  }
}

// Which tile of C a block makes: eight tile rows at a time, column by column, so that blocks which run together share
// both operands in the level-2 cache.
struct TileAt {
  u32 row, col;
};
TWOFOUR_DEVICE TileAt tile_of(u32 block, u32 tile_rows, u32 tile_cols) {
  constexpr u32 kGroup = 8;
  const u32 first = block / (kGroup * tile_cols) * kGroup;
  const u32 height = tile_rows - first < kGroup ? tile_rows - first : kGroup;
  const u32 in_group = block % (kGroup * tile_cols);
  return {first + in_group % height, in_group / height};
}

}  // namespace twofour
