// The masked linear layer for few tokens: Y [T, N] = X [T, K] (W∘M)ᵀ for T up to 128, in one pass over logits (or codes)
// and weights. The masked weight exists in registers alone: each thread makes the elements that it hands to the tensor
// cores. src/matmul/small.rs is the contract.
//
// A product m16n8k16 takes 16 rows of W∘M as its first operand and 8 tokens as its second, so a warp makes a tile of Yᵀ.
// Along K the instruction's order of columns does not matter as long as both operands keep to it. In a step of 32 columns
// lane (q = lane / 4, t = lane % 4) takes the 8 columns from 8 t on, two whole groups, of the weight's rows q and q + 8
// and of token q: one access of 16 bytes each to weights and tokens, three to f32 logits, no shared memory. The first
// product takes the even groups, the second the odd ones.
//
// A block's warps are row_warps x split_warps: row warps take 16 rows each, split warps every split_warps-th step of the
// block's share of K. Their sums are added up in a fixed order at the end, so the result depends on the grid alone.
//
// Symbols: twofour_matmul_small_{soft,hard}_{logits}_{weights}_{tokens} sample the mask (hard: argmax too, if asked);
//          twofour_matmul_small_codes_{weights}_{tokens} read it, as codes.

#include "common/fold.cuh"
#include "common/sample.cuh"
#include "common/vector.cuh"

namespace twofour {

constexpr u32 kThreads = 256;
constexpr u32 kWarps = kThreads / kWarpSize;
constexpr u32 kStep = 32;
template <typename W>
constexpr u32 kFoldSteps = kFoldTerms<W> / kStep;
// Two blocks an SM leave a thread 128 registers: a step's loads are under way while another's arithmetic runs.
constexpr u32 kBlocks = 2;

struct MatmulSmallArgs {
  const void* x;       // [T, K]
  const void* weight;  // [N, K]
  const void* logits;  // [N, K/4, 6]
  const u8* codes;     // [N, K/4], two a byte
  void* y;             // [T, N], if splits is 1
  float* partial;      // [splits, T, N], if not
  u64 first_group;     // global number of the shard's first group
  u64 row_groups;      // groups in a row of the whole weight
  Sampling sampling;
  u32 tokens;
  u32 rows;
  u32 cols;
  u32 share;   // columns that one grid row takes: a multiple of kStep
  u32 splits;  // grid rows
  u32 argmax;  // 1: no noise; kappa must be 1, so that the scores are the logits themselves
};
static_assert(sizeof(MatmulSmallArgs) == 192, "SmallArgs in src/matmul/small.rs");

// How a block is made for up to this many tokens. `step_count`: steps that are fetched together.
template <u32 max_tokens, u32 step_count>
struct Plan {
  static constexpr bool few = max_tokens <= 16;
  static constexpr u32 tiles = max_tokens / 8;
  static constexpr u32 row_warps = few ? 1 : 4;  // four share through L1 what they read of X
  static constexpr u32 split_warps = kWarps / row_warps;
  static constexpr u32 rows = 16 * row_warps;
  static constexpr u32 stages = few ? 2 : 1;          // in registers: one is under way while the other is worked on
  static constexpr u32 steps = step_count;            // of a stage
  static constexpr u32 stride = kStep * split_warps;  // from a warp's step to its next
};
// Tiles whose tokens are read together, and whose sums meet in shared memory together. With 64 sums in registers there is
// room for no more.
constexpr u32 kTilesAtOnce = 2;
constexpr u32 kSumsAtOnce = kWarps * kTilesAtOnce * 4 * kWarpSize;

TWOFOUR_DEVICE u32 smaller(u32 a, u32 b) { return a < b ? a : b; }
// The same number, in a guise: what is made of it is then made anew in each step, where the compiler would keep it, or
// count it on, from step to step in more registers than there are.
TWOFOUR_DEVICE u32 here_alone(u32 x) { return bits_of(float_of(x)); }

// A lane's 8 columns of a step: two groups.
struct Columns {
  u32 at;
  u32 end;
  bool whole;  // the same in all lanes: the step's 32 columns are all there, and accesses of 16 bytes are aligned

  TWOFOUR_DEVICE Columns(u32 step, u32 end, bool whole) : at(step + 8 * (lane() % 4)), end(end), whole(whole) {}
  TWOFOUR_DEVICE bool has(u32 group) const { return at + 4 * group < end; }
};

// The 16-bit elements of a lane's two groups, as they lie in memory.
TWOFOUR_DEVICE void load_pair(const u8* from, u32 (&words)[4]) {
  const u32x4 v = load_16(from);
  words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
}
// The same where not all may be there, or only 8 bytes are aligned: zeros for what is not.
TWOFOUR_DEVICE void load_groups(const u8* from, const Columns& columns, u32 (&words)[4]) {
  TWOFOUR_UNROLL
  for (u32 g = 0; g < 2; ++g) {
    const u32x2 v = columns.has(g) ? load_8(from + 8 * g) : u32x2{0, 0};
    words[2 * g] = v.x, words[2 * g + 1] = v.y;
  }
}

// ---- keeping two of four 16-bit weights -------------------------------------------------------------------

// For each half of a group a selector of byte_permute, which takes bytes of the weights and of kZeroOrNan. For kNoPattern
// all is NaN.
constexpr u32 kZeroOrNan = 0x00007fffu;
TWOFOUR_DEVICE u32 selectors(u32 index) {
  if (index == kNoPattern) return 0x54545454u;
  u32 bytes = 0;
  TWOFOUR_UNROLL
  for (u32 j = 0; j < 4; ++j) bytes |= (pattern_bits(index) >> j & 1 ? (j % 2 ? 0x32u : 0x10u) : 0x66u) << (8 * j);
  return bytes;
}

TWOFOUR_DEVICE void keep_packed(u32 selectors, const u32* weight, u32* masked) {
  masked[0] = byte_permute(weight[0], kZeroOrNan, selectors);
  masked[1] = byte_permute(weight[1], kZeroOrNan, selectors >> 16);
}

// ---- masks ------------------------------------------------------------------------------------------------

// The kinds of mask below have in common:
//   load_table   loads what a block needs in shared memory, by all its threads
//   fetch        reads two groups from memory, from this group of the shard on, into a Pair
//   mask         makes masked weights of a Pair; `global` is the first group's number in the whole weight

// The noise table, or for argmax one of zeros: with no noise and a kappa of 1 the scores are the logits themselves, and the
// loop needs no branch. No template, so that there is one array for all.
TWOFOUR_DEVICE const u32x2* gumbel_table(bool zeros) {
  TWOFOUR_SHARED GumbelTable table;
  if (!zeros) return load_gumbel_lines<kThreads>(table);
  for (u32 i = thread_index(); i < kGumbelLineCount; i += kThreads) table.lines[i] = {0, 0};
  sync_threads();
  return table.lines;
}

// The selectors of each of the 16 codes.
TWOFOUR_DEVICE const u32* selectors_of_codes() {
  TWOFOUR_SHARED u32 table[16];
  if (thread_index() < 16) {
    u32 found = selectors(kNoPattern);
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 6; ++i) found = pattern_code(i) == thread_index() ? selectors(i) : found;
    table[thread_index()] = found;
  }
  sync_threads();
  return table;
}

// Sampled from logits.
template <bool hard, typename L, typename W>
struct Sampled {
  static constexpr u32 kLogitWords = 6 * sizeof(L) / 4;  // of a group
  struct Pair {
    u32 logits[2 * kLogitWords];
    u32 weight[4];
  };

  using Table = u32x2;
  TWOFOUR_DEVICE static const Table* load_table(const MatmulSmallArgs& args) {
    return gumbel_table(hard && args.argmax);
  }

  TWOFOUR_DEVICE static void fetch(const MatmulSmallArgs& args, u32 group, const Columns& columns, Pair& pair) {
    const u8* weight = static_cast<const u8*>(args.weight) + mul_wide(group, 8);
    const u8* logits = static_cast<const u8*>(args.logits) + mul_wide(group, 4 * kLogitWords);
    u32(&to)[2 * kLogitWords] = pair.logits;
    if (!columns.whole) {
      load_groups(weight, columns, pair.weight);
      TWOFOUR_UNROLL
      for (u32 i = 0; i < 2 * kLogitWords; ++i) to[i] = columns.has(i / kLogitWords) ? load_4(logits + 4 * i) : 0;
      return;
    }
    load_pair(weight, pair.weight);
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 3; ++i) {
      if constexpr (sizeof(L) == 4) {
        const u32x4 v = load_16(logits + 16 * i);
        to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
      } else {
        const u32x2 v = load_8(logits + 8 * i);
        to[2 * i] = v.x, to[2 * i + 1] = v.y;
      }
    }
  }

  TWOFOUR_DEVICE static void mask(const MatmulSmallArgs& args, const u32x2* lines, u64 global, const Pair& pair,
                                  u32 (&masked)[4]) {
    float z[2][6];
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 12; i += 2) {
      float* to = z[i / 6] + i % 6;
      if constexpr (sizeof(L) == 4) to[0] = float_of(pair.logits[i]), to[1] = float_of(pair.logits[i + 1]);
      else unpack(pair.logits[i / 2], to[0], to[1], bf16{});
    }
    TWOFOUR_UNROLL
    for (u32 g = 0; g < 2; ++g) {
      const u32* weight = pair.weight + 2 * g;
      noisy_scores(args.sampling, lines, global + g, z[g], z[g]);
      if constexpr (hard) keep_packed(choose(z[g], largest(z[g]), selectors), weight, masked + 2 * g);
      else mix(args.sampling, z[g], weight, masked + 2 * g);
    }
  }

  TWOFOUR_DEVICE static void mix(const Sampling& sampling, const float (&z)[6], const u32* weight, u32* masked) {
    float e[6], m[4], w[4];
    exponentials(z, largest(z), sampling.scale, e);
    soft_mask(e, m);
    unpack(weight[0], w[0], w[1], W{}), unpack(weight[1], w[2], w[3], W{});
    masked[0] = pack(w[0] * m[0], w[1] * m[1], W{});
    masked[1] = pack(w[2] * m[2], w[3] * m[3], W{});
  }
};

// Read as codes. A group that is not there has the code of a pattern, so its zeros stay zeros.
struct Coded {
  struct Pair {
    u32 codes;
    u32 weight[4];
  };

  using Table = u32;
  TWOFOUR_DEVICE static const Table* load_table(const MatmulSmallArgs&) { return selectors_of_codes(); }

  TWOFOUR_DEVICE static void fetch(const MatmulSmallArgs& args, u32 group, const Columns& columns, Pair& pair) {
    const u8* weight = static_cast<const u8*>(args.weight) + mul_wide(group, 8);
    if (columns.whole) {  // so the group is even
      load_pair(weight, pair.weight);
      pair.codes = load(args.codes + group / 2);
    } else {
      load_groups(weight, columns, pair.weight);
      pair.codes = 0;
      TWOFOUR_UNROLL
      for (u32 g = 0; g < 2; ++g) {
        const u32 at = group + g;
        const u32 code = columns.has(g) ? load(args.codes + at / 2) >> (4 * (at % 2)) & 15 : pattern_code(0);
        pair.codes |= code << (4 * g);
      }
    }
  }

  TWOFOUR_DEVICE static void mask(const MatmulSmallArgs&, const u32* table, u64, const Pair& pair, u32 (&masked)[4]) {
    keep_packed(table[pair.codes & 15], pair.weight, masked);
    keep_packed(table[pair.codes >> 4], pair.weight + 2, masked + 2);
  }
};

// ---- tokens and products ----------------------------------------------------------------------------------

// Token q of every tile. Tokens beyond the last are the last again: what comes of them is not written.
struct Tokens {
  const u8* x;
  u32 first;  // offsets of tokens in elements; the host sees to it that they fit
  u32 last;
  u32 tile;

  TWOFOUR_DEVICE explicit Tokens(const MatmulSmallArgs& args)
      : x(static_cast<const u8*>(args.x)),
        first(lane() / 4 * args.cols),
        last((args.tokens - 1) * args.cols),
        tile(8 * args.cols) {}

  // Those of `count` tiles from tile n on.
  template <u32 count>
  TWOFOUR_DEVICE void fetch(u32 n, const Columns& columns, u32 (&words)[count][4]) const {
    const u32 at = here_alone(columns.at);
    const u8* of_token[count];
    TWOFOUR_UNROLL
    for (u32 i = 0; i < count; ++i) of_token[i] = x + mul_wide(smaller(first + at + (n + i) * tile, last + at), 2);
    if (columns.whole) {
      TWOFOUR_UNROLL
      for (u32 i = 0; i < count; ++i) load_pair(of_token[i], words[i]);
    } else {
      TWOFOUR_UNROLL
      for (u32 i = 0; i < count; ++i) load_groups(of_token[i], columns, words[i]);
    }
  }
};

TWOFOUR_DEVICE void mma(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], f16) { mma_m16n8k16_f16(sums, a, b); }
TWOFOUR_DEVICE void mma(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], bf16) { mma_m16n8k16_bf16(sums, a, b); }

// Adds the products of 16 rows and 8 tokens over a step: masked holds two groups of row q and of row q + 8.
template <typename W>
TWOFOUR_DEVICE void multiply(float (&sums)[4], const u32 (&masked)[2][4], const u32 (&x)[4]) {
  TWOFOUR_UNROLL
  for (u32 g = 0; g < 2; ++g) {
    const u32 a[4] = {masked[0][2 * g], masked[1][2 * g], masked[0][2 * g + 1], masked[1][2 * g + 1]};
    const u32 b[2] = {x[2 * g], x[2 * g + 1]};
    mma(sums, a, b, W{});
  }
}

// ---- the kernel -------------------------------------------------------------------------------------------

// A step's products, tiles of no token left out.
template <typename W, typename P>
TWOFOUR_DEVICE void multiply_step(const Tokens& tokens, const Columns& columns, u32 count, const u32 (&masked)[2][4],
                                  float (&sums)[P::tiles][4]) {
  TWOFOUR_UNROLL
  for (u32 n = 0; n < P::tiles; n += kTilesAtOnce) {
    if (n > 0 && 8 * n >= count) break;  // there is a token
    u32 x[kTilesAtOnce][4];
    tokens.fetch(n, columns, x);
    TWOFOUR_UNROLL
    for (u32 i = 0; i < kTilesAtOnce; ++i) multiply<W>(sums[n + i], masked, x[i]);
  }
}

TWOFOUR_DEVICE float* sums_of_block() {
  TWOFOUR_SHARED float sums[kSumsAtOnce];
  return sums;
}

// Adds up the split warps' sums and writes them, two tiles at a time.
template <typename W, typename P>
TWOFOUR_DEVICE void write_sums(const MatmulSmallArgs& args, u32 row_warp, u32 split_warp,
                               const float (&sums)[P::tiles][4]) {
  constexpr u32 count = kSumsAtOnce / P::split_warps;
  float* shared = sums_of_block();
  TWOFOUR_UNROLL
  for (u32 n = 0; n < P::tiles; n += 2) {
    if (8 * n >= args.tokens) return;
    if (n > 0) sync_threads();
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 8; ++i) {
      shared[split_warp * count + (8 * row_warp + i) * kWarpSize + lane()] = sums[n + i / 4][i % 4];
    }
    sync_threads();
    for (u32 at = thread_index(); at < count; at += kThreads) {
      float sum = shared[at];
      TWOFOUR_UNROLL
      for (u32 split = 1; split < P::split_warps; ++split) sum += shared[split * count + at];
      const u32 of_lane = at % kWarpSize, i = at / kWarpSize % 8;
      const u32 row = block_index() * P::rows + at / (8 * kWarpSize) * 16 + i % 4 / 2 * 8 + of_lane / 4;
      const u32 token = 8 * n + i / 4 * 8 + of_lane % 4 * 2 + i % 2;
      if (row >= args.rows || token >= args.tokens) continue;
      if (args.splits == 1) {
        store(static_cast<W*>(args.y) + u64(token) * args.rows + row, from_float<W>(sum));
      } else {
        store(args.partial + (u64(block_index_y()) * args.tokens + token) * args.rows + row, sum);
      }
    }
  }
}

// A warp on its way along K.
template <typename Mask, typename W, typename P>
struct Walker {
  using Stage = typename Mask::Pair[P::steps][2];
  // A single stage is fetched anew before the products of its masks, or after them if all registers are taken till then.
  static constexpr bool early = sizeof(typename Mask::Pair) < 64;

  const MatmulSmallArgs& args;
  Tokens tokens;
  u32 row;  // q of the header
  u32 step, end;
  Stage stages[P::stages];
  float sums[P::tiles][4] = {};

  TWOFOUR_DEVICE Walker(const MatmulSmallArgs& args, u32 row_warp, u32 split_warp) : args(args), tokens(args) {
    row = block_index() * P::rows + 16 * row_warp + lane() / 4;
    const u32 begin = block_index_y() * args.share;
    step = begin + kStep * split_warp;
    end = smaller(begin + args.share, args.cols);
    fetch<false>(step, stages[0]);
  }

  // The first group of row q or q + 8, in the shard and in the whole weight. Rows beyond the last are the last again: what
  // comes of them is not written.
  TWOFOUR_DEVICE u32 row_group(u32 r) const { return smaller(own_row() + 8 * r, args.rows - 1) * (args.cols / 4); }
  TWOFOUR_DEVICE u64 global_group(u32 r) const { return args.first_group + (own_row() + 8 * r) * args.row_groups; }
  TWOFOUR_DEVICE u32 own_row() const { return P::few ? row : here_alone(row); }

  // Those of a step that is known to be whole, or of any.
  template <bool whole>
  TWOFOUR_DEVICE Columns columns(u32 step) const {
    return Columns(step, end, whole || (step + kStep <= end && args.cols % 8 == 0));
  }

  template <bool whole>
  TWOFOUR_DEVICE void fetch(u32 from, Stage& stage) const {
    TWOFOUR_UNROLL
    for (u32 i = 0; i < P::steps; ++i) {
      const Columns there = columns<whole>(from + i * P::stride);
      TWOFOUR_UNROLL
      for (u32 r = 0; r < 2; ++r) Mask::fetch(args, row_group(r) + there.at / 4, there, stage[i][r]);
    }
  }

  // Works on the steps of each stage, and fetches the one after: while this one is worked on, or in its place once its
  // masks are made.
  template <bool whole>
  TWOFOUR_DEVICE void advance(const typename Mask::Table* table) {
    TWOFOUR_UNROLL
    for (u32 s = 0; s < P::stages; ++s) {
      const u32 next = step + P::steps * P::stride;
      if (P::stages > 1) fetch<whole>(next, stages[(s + 1) % P::stages]);
      TWOFOUR_UNROLL
      for (u32 i = 0; i < P::steps; ++i) {
        const Columns here = columns<whole>(step + i * P::stride);
        u32 masked[2][4];
        TWOFOUR_UNROLL
        for (u32 r = 0; r < 2; ++r) {
          Mask::mask(args, table, global_group(r) + here.at / 4, stages[s][i][r], masked[r]);
        }
        if (P::stages == 1 && early) fetch<whole>(next, stages[s]);
        multiply_step<W, P>(tokens, here, args.tokens, masked, sums);
        if (P::stages == 1 && !early) fetch<whole>(next, stages[s]);
      }
      step = next;
    }
  }

  // Whether it has worked on kFoldTerms columns since it began, or since it last had. (From where it stands: a counter
  // would be a register too many.)
  TWOFOUR_DEVICE bool folds() const {
    static_assert(kFoldSteps<W> % (P::stages * P::steps) == 0, "it does not step over it");
    return (step - block_index_y() * args.share) / P::stride % kFoldSteps<W> == 0;
  }

  // Whether all that the next `advance` works on and fetches is whole.
  TWOFOUR_DEVICE bool goes_on() const {
    return step + ((P::stages + 1) * P::steps - 1) * P::stride + kStep <= end && args.cols % 8 == 0;
  }
};

template <typename Mask, typename W, typename P>
TWOFOUR_DEVICE void small_kernel(const MatmulSmallArgs& args) {
  const auto* table = Mask::load_table(args);
  // Through a shuffle, so that the compiler sees that it is the same in all lanes.
  const u32 warp_index = shuffle_index(warp(), 0);
  const u32 row_warp = warp_index % P::row_warps, split_warp = warp_index / P::row_warps;
  Walker<Mask, W, P> walker(args, row_warp, split_warp);
  // (The share's columns would do for all; for few tokens those of all shares cost a register less.)
  constexpr u32 kTurn = P::stages * P::steps;
  u32x4 memory[P::tiles];
  Totals<P::tiles> totals(memory, (P::few ? args.cols : args.share) > (kFoldSteps<W> - kTurn) * P::stride);
  const auto fold = [&] {
    if (walker.folds()) totals.take(walker.sums);
  };
  // The first loop has no other branches: what is under way is waited for only where it is needed.
  while (walker.goes_on()) walker.template advance<true>(table), fold();
  while (walker.step < walker.end) walker.template advance<false>(table), fold();
  totals.give(walker.sums);
  write_sums<W, P>(args, row_warp, split_warp, walker.sums);
}

// ---- symbols ----------------------------------------------------------------------------------------------

#define SAMPLED(hard, variant, L, W, max_tokens)                                                                  \
  TWOFOUR_KERNEL(twofour_matmul_small_##variant##_##L##_##W##_##max_tokens, MatmulSmallArgs, kThreads, kBlocks) { \
    small_kernel<Sampled<hard, L, W>, W, Plan<max_tokens, 1>>(args);                                              \
  }
#define CODED(W, max_tokens)                                                                          \
  TWOFOUR_KERNEL(twofour_matmul_small_codes_##W##_##max_tokens, MatmulSmallArgs, kThreads, kBlocks) { \
    small_kernel<Coded, W, Plan<max_tokens, max_tokens <= 16 ? 2 : 1>>(args);                         \
  }
#define TOKENS(W, max_tokens)               \
  SAMPLED(false, soft, f32, W, max_tokens)  \
  SAMPLED(false, soft, bf16, W, max_tokens) \
  SAMPLED(true, hard, f32, W, max_tokens)   \
  SAMPLED(true, hard, bf16, W, max_tokens)  \
  CODED(W, max_tokens)

TOKENS(f16, 16)
TOKENS(f16, 128)
TOKENS(bf16, 16)
TOKENS(bf16, 128)

}  // namespace twofour
