// The sparse product for few tokens: Y [T, N] = X [T, K] * W^T (+ bias) for T up to 128, W compressed (sparse/product.cuh
// says how, src/sparse/launch.rs is the contract). It reads the weight once, at the speed of memory.
//
// A warp takes 32 rows of W at a time along K: a step is 64 bytes of kept values of each of them, 128 bytes of each token
// (64 columns of 16 bits, or 128 of 8 bits), two instructions for each 16 rows and 8 tokens. Kept values and codes come
// through a ring of stages in shared memory that is the warp's alone, so that no warp waits for another; X comes straight
// from L1, into the very registers:
//
// | operand | comes from                | with lane (q = lane / 4, t = lane % 4) holding, of the step's instruction k       |
// | ------- | ------------------------- | --------------------------------------------------------------------------------- |
// | a0, a1  | cp.async 16, ldmatrix     | bytes 32 k + 4 t .. of the kept values of the rows q and q + 8                    |
// | a2, a3  | the same                  | bytes 32 k + 16 + 4 t ..                                                          |
// | b0..b3  | a load of 4 bytes each    | bytes 64 k + 16 i + 4 t .. of token q                                             |
// | codes   | cp.async 16, a load of 4  | word `lane` of a tile of codes. 16-bit: one for 32 rows, of which the selector    |
// |         |                           | 0 takes the lanes of the upper 16 rows, 1 those of the lower ones                 |
//
// Why not straight to registers, 16 bytes of kept values a lane? A lane's 16 bytes are whole groups of all residues
// mod 4, where the instruction wants lane t to hold groups t mod 4 alone, in the order of the codes' nibbles: codes would
// have to be transposed by shuffles, and of each two words of X one dropped. And what is under way for several steps ptxas
// (CUDA 13.0, sm_90a) has under one scoreboard, so that waiting for the oldest is waiting for all.
//
// X does not wait for the ring: the loads of a step's first two tiles of tokens are under way before the warp waits for
// its stage, and those of a later tile as soon as the products of the tile two before it have read their registers. ptxas
// has all of them under one scoreboard too, so every two tiles wait for a latency once. Blocks that differ in their tokens
// alone are neighbours in the grid: they read the weight at the same time, and memory gives it once.
//
// A block's warps are row_warps x split_warps: row warps take 32 rows each and share through L1 what they read of X, split
// warps every split_warps-th step of the block's share of K. Their sums are added up in a fixed order at the end, so the
// result depends on the shape and the splits alone.
//
// Symbols: twofour_sparse_small_{f16,bf16,i8}_{16,128}, for up to so many tokens.

#include "sparse/product.cuh"

namespace twofour {

constexpr u32 kThreads = 256;
constexpr u32 kWarps = kThreads / kWarpSize;
constexpr u32 kBlocks = 2;
constexpr u32 kWarpRows = 32;
constexpr u32 kWarpStages = 4;
template <typename T>
constexpr u32 kFoldSteps = kFoldTerms<T> / kDepth;
constexpr u32 kTilesAhead = 2;  // of tokens, of which a warp has loads under way

// Of a step: bytes of a token, of a row's kept values, and of what a stage holds, kept values and then codes.
constexpr u32 kTokenBytes = 128;
constexpr u32 kKeptBytes = kTokenBytes / 2;
static_assert(kKeptBytes == kDepth * sizeof(u16), "kept values lie as those of a tile");
constexpr u32 kStageKeptBytes = kWarpRows * kKeptBytes;
template <typename T>
constexpr u32 kCodeTiles = kWarpRows / kCodeRows<T> * 2;
template <typename T>
constexpr u32 kWarpStageBytes = kStageKeptBytes + kCodeTiles<T> * kCodeTileBytes;

// How a block is made for up to this many tokens: tiles of eight; more tokens are for the next block.
template <u32 max_tokens>
struct Plan {
  static constexpr u32 tiles = max_tokens <= 16 ? 2 : 8;
  static constexpr u32 tokens = 8 * tiles;
};

// Sums meet in shared memory for 16 tokens at a time. Rows of 36: both ways of access touch every bank once at a time.
constexpr u32 kTokensAtOnce = 16;
constexpr u32 kTokenPitch = kWarpRows + 4;
constexpr u32 kWarpSums = kTokensAtOnce * kTokenPitch;
static_assert(kWarpSums * 4 <= kWarpStages * kWarpStageBytes<f16>, "sums lie where the stages were");

// ---- from memory to registers -----------------------------------------------------------------------------

// Copies the codes of a warp's rows step by step: two tiles along K, of which each lane of up to 32 takes 16 bytes. 8-bit:
// of each column first the tile of the upper 16 rows, then the other.
template <typename T>
struct CodeCopier {
  CodeTiles<T> tiles;
  u32 row, col;  // of tiles: the lane's; its column in the first step
  static constexpr u32 kDown = kCodeTiles<T> / 2;
  static constexpr u32 kCopyLanes = kCodeTiles<T> * kCodeTileBytes / 16;

  TWOFOUR_DEVICE CodeCopier(const SparseArgs& args, u32 row_at) : tiles(args) {
    const u32 tile = lane() / (kCodeTileBytes / 16);
    row = tiles.row(row_at / kCodeRows<T> + tile % kDown);
    col = tile / kDown;
  }

  TWOFOUR_DEVICE void copy(u8* to, u32 step) const {
    if (lane() >= kCopyLanes) return;
    cp_async_16(to + 16 * lane(), tiles.at(row, tiles.col(2 * step + col)) + 16 * (lane() % (kCodeTileBytes / 16)));
  }
};

// Token q of every tile. Tokens beyond the last are the last again: what comes of them is not written.
struct Tokens {
  const SparseArgs& args;
  u32 row_bytes;  // offsets of tokens in bytes fit 32 bits: the host sees to it
  u32 first;      // the lane's of the first tile

  TWOFOUR_DEVICE Tokens(const SparseArgs& args, u32 token_at, u32 row_bytes)
      : args(args), row_bytes(row_bytes), first(token_at + lane() / 4) {}

  // The second operands of a step's two instructions, for the tokens of a tile: zeros from `end` on, in bytes.
  template <bool whole>
  TWOFOUR_DEVICE void fetch(u32 n, u32 step, u32 end, u32 (&words)[2][4]) const {
    const u32 at = step * kTokenBytes;
    const u32 of_lane = at + lane() % 4 * 4;
    // One product a tile: of offsets that are sums, one from the other, ptxas makes the chain again for every tile.
    const u32 token = smaller(first + 8 * n, args.tokens - 1);
    const u8* from = static_cast<const u8*>(args.x) + (token * row_bytes + of_lane);
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 8; ++i) {
      const bool there = whole || of_lane + 16 * i < end;
      words[i / 4][i % 4] = there ? load_4(from + 16 * i) : 0;
    }
  }
};

// ---- a warp on its way along K ----------------------------------------------------------------------------

template <typename T, typename P>
struct Walker {
  Copier<Lies::kAlongDepth, kWarpSize> kept;
  CodeCopier<T> codes;
  Tokens tokens;
  u8* ring;
  u32 step, stride;  // of the warp: its next, and from one to the next
  u32 end;           // of the block's share, in bytes of a token
  u32 count;         // of tokens that there are from the block's first on
  SumOf<T> sums[P::tiles][2][4] = {};

  TWOFOUR_DEVICE Walker(const SparseArgs& args, const Matrix& values, u32 row_at, u32 token_at, u32 first_step,
                        u32 stride, u32 end, u8* ring)
      : kept(values, row_at, first_step * kDepth, lane()),
        codes(args, row_at),
        tokens(args, token_at, args.cols * u32(sizeof(T))),
        ring(ring),
        step(first_step),
        stride(stride),
        end(end),
        count(args.tokens - token_at) {}

  // While a step is worked on, the next three are under way: 55 KiB for a block of eight warps, which is more than an SM
  // of an H200 must have under way to be served at the speed of memory. Behind the warp's barrier, what all lanes copied
  // for this step has landed, and all are done with the step before, whose place the newest copy takes.
  template <bool aligned>
  TWOFOUR_DEVICE void walk(Totals<2 * P::tiles, SumOf<T>>& totals) {
    const u32 steps = (end + kTokenBytes - 1) / kTokenBytes;
    const auto copy = [&](u32 number, u32 step) {
      if (step < steps) {
        u8* stage = ring + number % kWarpStages * kWarpStageBytes<T>;
        kept.template copy<aligned>(stage, stride);
        codes.copy(stage + kStageKeptBytes, step);
      }
      cp_async_commit();
    };
    for (u32 number = 0; number < kWarpStages - 1; ++number) copy(number, step + number * stride);
    for (u32 number = 0; step < steps; ++number, step += stride) {
      if (number > 0 && number % kFoldSteps<T> == 0) totals.take(sums[0]);
      const bool whole = (step + 1) * kTokenBytes <= end;
      u32 b[kTilesAhead][2][4];
      if (whole) fetch_first<true>(b);
      else fetch_first<false>(b);
      cp_async_wait<kWarpStages - 2>();
      sync_warp();
      copy(number + kWarpStages - 1, step + (kWarpStages - 1) * stride);
      const u8* stage = ring + number % kWarpStages * kWarpStageBytes<T>;
      if (whole) multiply<true>(stage, b);
      else multiply<false>(stage, b);
    }
  }

  // Whether a tile is worked on: if it has a token, as the first always does; of more than two tiles, if its pair has
  // one, for with a branch a tile registers spill.
  TWOFOUR_DEVICE bool is_there(u32 n) const {
    const u32 from = P::tiles > 2 ? n / 2 * 2 : n;
    return from == 0 || 8 * from < count;
  }

  template <bool whole>
  TWOFOUR_DEVICE void fetch_first(u32 (&b)[kTilesAhead][2][4]) const {
    TWOFOUR_UNROLL
    for (u32 n = 0; n < kTilesAhead; ++n) {
      if (is_there(n)) tokens.fetch<whole>(n, step, end, b[n]);
    }
  }

  // Adds the products of a step, of whose tokens `b` has the first; `whole`: all its columns are there.
  template <bool whole>
  TWOFOUR_DEVICE void multiply(const u8* stage, u32 (&b)[kTilesAhead][2][4]) {
    u32 a[2][2][4], words[kCodeTiles<T>];
    TWOFOUR_UNROLL
    for (u32 i = 0; i < kCodeTiles<T>; ++i) {
      words[i] = load(reinterpret_cast<const u32*>(stage + kStageKeptBytes + i * kCodeTileBytes) + lane());
    }
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 4; ++i) {
      load_fragment<As::kA, Lies::kAlongDepth>(stage, i % 2 * 16, i / 2 * 16, a[i / 2][i % 2]);
    }
    TWOFOUR_UNROLL
    for (u32 n = 0; n < P::tiles; ++n) {
      if (!is_there(n)) break;
      u32(&of_tile)[2][4] = b[n % kTilesAhead];
      TWOFOUR_UNROLL
      for (u32 k = 0; k < 2; ++k) {
        constexpr u32 down = CodeCopier<T>::kDown;
        multiply_sparse<0>(sums[n][0], a[k][0], of_tile[k], words[k * down], T{});
        multiply_sparse<1>(sums[n][1], a[k][1], of_tile[k], words[k * down + down - 1], T{});
      }
      const u32 ahead = n + kTilesAhead;
      if (ahead < P::tiles && is_there(ahead)) tokens.fetch<whole>(ahead, step, end, of_tile);
    }
  }
};

// ---- from sums to Y ---------------------------------------------------------------------------------------

// Puts a warp's sums of two tiles of tokens, from tile `first` on, where the block adds them up: [token][row].
template <typename Sum, u32 tiles>
TWOFOUR_DEVICE void put_sums(const Sum (&sums)[tiles][2][4], u32 first, u32* shared) {
  TWOFOUR_UNROLL
  for (u32 i = 0; i < 16; ++i) {
    const u32 tile = i / 8, half = i / 4 % 2, of = i % 4;
    const u32 token = 8 * tile + lane() % 4 * 2 + of % 2, row = 16 * half + of / 2 * 8 + lane() / 4;
    shared[token * kTokenPitch + row] = word_of(sums[first + tile][half][of]);
  }
}

// Adds up the split warps' sums of 16 tokens, and writes them.
template <typename T>
TWOFOUR_DEVICE void write_sums(const SparseArgs& args, const u32* shared, u32 row_at, u32 token_at) {
  const u32 count = args.row_warps * kTokensAtOnce * kWarpRows;
  for (u32 at = thread_index(); at < count; at += kThreads) {
    const u32 in_row = at % kWarpRows, token = at / kWarpRows % kTokensAtOnce;
    const u32 row_warp = at / (kWarpRows * kTokensAtOnce);
    SumOf<T> sum = 0;
    for (u32 warp = row_warp; warp < kWarps; warp += args.row_warps) {
      SumOf<T> part;
      of_word(shared[warp * kWarpSums + token * kTokenPitch + in_row], part);
      sum = plus(sum, part);
    }
    const u32 row = row_at + row_warp * kWarpRows + in_row;
    if (row >= args.rows || token_at + token >= args.tokens) continue;
    const u64 element = u64(token_at + token) * args.rows + row;
    if (args.splits == 1) {
      store_rounded(static_cast<YOf<T>*>(args.y) + element, plus(sum, bias_of<YOf<T>>(args.bias, row)));
    } else {
      const u64 part = u64(block_index_y()) * args.tokens * args.rows;
      store(static_cast<SumOf<T>*>(args.partial) + part + element, sum);
    }
  }
}

// ---- the kernel -------------------------------------------------------------------------------------------

template <typename T, typename P>
TWOFOUR_DEVICE void small_kernel(const SparseArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(u8, ring);
  const u32 row_warp = warp() % args.row_warps, split_warp = warp() / args.row_warps;
  const u32 token_blocks = (args.tokens + P::tokens - 1) / P::tokens;
  const u32 row_at = block_index() / token_blocks * args.row_warps * kWarpRows;
  const u32 token_at = block_index() % token_blocks * P::tokens;
  u32x4 memory[2 * P::tiles];
  constexpr u32 kFoldCols = kFoldSteps<T> * kTokenBytes / u32(sizeof(T));  // of a warp
  Totals<2 * P::tiles, SumOf<T>> totals(memory, mul_wide(args.share, args.row_warps) > kFoldCols * kWarps);
  // `begin` must not be clamped: the share of a grid row too many begins behind the last step and takes none, whereas
  // from `cols` on it would take the last step, if that is a short one, and add it twice.
  const u32 begin = block_index_y() * args.share, end = smaller(begin + args.share, args.cols);
  const Matrix values = kept_values<T>(args, end);
  const u32 first_step = begin * u32(sizeof(T)) / kTokenBytes + split_warp;
  Walker<T, P> walker(args, values, row_at + row_warp * kWarpRows, token_at, first_step, kWarps / args.row_warps,
                      end * u32(sizeof(T)), ring + warp() * (kWarpStages * kWarpStageBytes<T>));
  if (is_aligned<Lies::kAlongDepth>(values)) walker.template walk<true>(totals);
  else walker.template walk<false>(totals);
  totals.give(walker.sums[0]);
  u32* shared = reinterpret_cast<u32*>(ring);
  TWOFOUR_UNROLL
  for (u32 n = 0; n < P::tiles; n += 2) {
    if (8 * n >= walker.count) return;
    sync_threads();
    put_sums(walker.sums, n, shared + warp() * kWarpSums);
    sync_threads();
    write_sums<T>(args, shared, row_at, token_at + 8 * n);
  }
}

// ---- symbols ----------------------------------------------------------------------------------------------

#define SMALL(T, max_tokens)                                                               \
  TWOFOUR_KERNEL(twofour_sparse_small_##T##_##max_tokens, SparseArgs, kThreads, kBlocks) { \
    small_kernel<T, Plan<max_tokens>>(args);                                               \
  }

SMALL(f16, 16)
SMALL(f16, 128)
SMALL(bf16, 16)
SMALL(bf16, 128)
SMALL(i8, 16)
SMALL(i8, 128)

}  // namespace twofour
