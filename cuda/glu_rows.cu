// Decode, first and second part: products of few tokens with the rows of some neurons, and what the activation makes of
// them (src/glu/decode.rs is the contract). The gate goes over all neurons, or those that are given; up over those whose
// gate is on for a token. A warp takes its even share of them, by rank.
//
// Symbols: twofour_glu_rows_{f16,bf16}_{1,4,8}, for up to so many tokens, and _rows_kept_ for 2:4 weights.
//
// Of a row, lane l takes 8 values in each 256: 16 bytes, and what belongs to them of X, which stays in L1. Of kept values
// that is 16 columns, from which one byte_permute a group takes the two. A row's sums are added up in the same order
// whichever warp has it and whatever other rows: the result depends on X and the row alone.

#include "common/vector.cuh"
#include "glu/active.cuh"
#include "glu/neuron.cuh"

namespace twofour {

constexpr u32 kThreads = 256;
constexpr u32 kWarps = kThreads / kWarpSize;
// Blocks that a multiprocessor holds, of one token and of more.
constexpr u32 kBlocksOfOne = 3;
constexpr u32 kBlocksOfMore = 2;
template <u32 tokens>
constexpr u32 kBlocks = tokens == 1 ? kBlocksOfOne : kBlocksOfMore;
constexpr u32 kRun = 8;
constexpr u32 kStep = kWarpSize * kRun;
// Accesses to the weight that a lane has under way.
template <u32 tokens>
constexpr u32 kAhead = tokens == 8 ? 2 : 4;

struct GluRowsArgs {
  const void* x;       // [tokens, width]
  const void* weight;  // [neurons, width], or [neurons, width/2] kept values
  const u8* codes;     // of kept values
  Which which;
  float* gate;  // [neurons, padded tokens]; the gate writes it, up reads it
  float* h;     // the same; null: this is the gate
  u8* on;       // [32 words] a bit a token; of up another than the gate's
  u8* lost;     // [32 words] a bit a token; up adds to it
  u32 width;
  Bounds bounds;
};
static_assert(sizeof(GluRowsArgs) == 112, "RowsArgs in src/glu/launch/decode.rs");

// Rows that a warp has at once, and of each sum so many tokens.
template <bool kept, u32 tokens>
constexpr u32 kRows = tokens == 1           ? 4
                      : kept && tokens == 8 ? 1
                                            : 2;

// Some rows and tokens, and their sums, a part of each in every lane.
template <typename T, u32 rows, u32 tokens>
struct Dots {
  const GluRowsArgs& args;
  const u32 (&neurons)[rows];
  float sums[rows][tokens];

  TWOFOUR_DEVICE explicit Dots(const GluRowsArgs& of, const u32 (&some)[rows]) : args(of), neurons(some) {
    TWOFOUR_UNROLL
    for (u32 row = 0; row < rows; ++row) {
      TWOFOUR_UNROLL
      for (u32 token = 0; token < tokens; ++token) sums[row][token] = 0.0f;
    }
  }

  // A token's activations; the last one's where there are not as many.
  TWOFOUR_DEVICE const T* token_at(u32 token) const {
    const u32 last = args.which.tokens - 1;
    return static_cast<const T*>(args.x) + u64(token < last ? token : last) * args.width;
  }
  TWOFOUR_DEVICE const T* row_at(u32 row, u32 pitch) const {
    return static_cast<const T*>(args.weight) + u64(neurons[row]) * pitch;
  }

  // ---- rows on 16-byte boundaries

  TWOFOUR_DEVICE void add_dense_runs() {
    constexpr u32 kDeep = kAhead<tokens> / rows;
    for (u32 first = lane() * kRun; first < args.width; first += kDeep * kStep) {
      u32x4 some[kDeep][rows];
      fetch(first, args.width, some);
      TWOFOUR_UNROLL
      for (u32 i = 0; i < kDeep; ++i) {
        const u32 at = first + i * kStep;
        if (at >= args.width) break;
        float weight[rows][kRun];
        TWOFOUR_UNROLL
        for (u32 row = 0; row < rows; ++row) unpack(some[i][row], weight[row], T{});
        TWOFOUR_UNROLL
        for (u32 token = 0; token < tokens; ++token) {
          float x[kRun];
          unpack(load_16(token_at(token) + at), x, T{});
          TWOFOUR_UNROLL
          for (u32 k = 0; k < kRun; ++k) {
            TWOFOUR_UNROLL
            for (u32 row = 0; row < rows; ++row) sums[row][token] = fma(weight[row][k], x[k], sums[row][token]);
          }
        }
      }
    }
  }

  TWOFOUR_DEVICE void add_kept_runs() {
    constexpr u32 kDeep = kAhead<tokens> / rows;
    const u32 pitch = args.width / 2;
    for (u32 first = lane() * kRun; first < pitch; first += kDeep * kStep) {
      u32x4 some[kDeep][rows];
      u32 codes[kDeep][rows];
      fetch(first, pitch, some);
      TWOFOUR_UNROLL
      for (u32 i = 0; i < kDeep; ++i) {
        const u32 at = first + i * kStep;
        if (at >= pitch) break;
        TWOFOUR_UNROLL
        for (u32 row = 0; row < rows; ++row) codes[i][row] = load_2(args.codes + (u64(neurons[row]) * pitch + at) / 4);
      }
      TWOFOUR_UNROLL
      for (u32 i = 0; i < kDeep; ++i) {
        const u32 at = first + i * kStep;
        if (at >= pitch) break;
        add_kept_run(some[i], codes[i], at);
      }
    }
  }

  // Eight kept values of each row, with the 16 columns that they are from.
  TWOFOUR_DEVICE void add_kept_run(const u32x4 (&some)[rows], const u32 (&codes)[rows], u32 at) {
    TWOFOUR_UNROLL
    for (u32 token = 0; token < tokens; ++token) {
      const T* x = token_at(token) + 2 * at;
      const u32x4 low = load_16(x), high = load_16(x + kRun);
      const u32 columns[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      TWOFOUR_UNROLL
      for (u32 row = 0; row < rows; ++row) {
        const u32 pairs[4] = {some[row].x, some[row].y, some[row].z, some[row].w};
        TWOFOUR_UNROLL
        for (u32 group = 0; group < 4; ++group) {
          const u32 code = codes[row] >> (4 * group);
          // Bytes 2 i and 2 i + 1 of a group's four columns for each of the two positions.
          const u32 selector = 0x1010u + (code & 3) * 0x22u + (code >> 2 & 3) * 0x2200u;
          float weight[2], of_x[2];
          unpack(pairs[group], weight[0], weight[1], T{});
          unpack(byte_permute(columns[2 * group], columns[2 * group + 1], selector), of_x[0], of_x[1], T{});
          TWOFOUR_UNROLL
          for (u32 k = 0; k < 2; ++k) sums[row][token] = fma(weight[k], of_x[k], sums[row][token]);
        }
      }
    }
  }

  template <u32 deep>
  TWOFOUR_DEVICE void fetch(u32 first, u32 pitch, u32x4 (&some)[deep][rows]) const {
    TWOFOUR_UNROLL
    for (u32 i = 0; i < deep; ++i) {
      const u32 at = first + i * kStep;
      TWOFOUR_UNROLL
      for (u32 row = 0; row < rows; ++row) {
        if (at < pitch) some[i][row] = load_stream_16(row_at(row, pitch) + at);
      }
    }
  }

  // ---- any rows, an element an access

  TWOFOUR_DEVICE void add(u32 row, float weight, u32 column) {
    TWOFOUR_UNROLL
    for (u32 token = 0; token < tokens; ++token) {
      sums[row][token] = fma(weight, to_float(load(token_at(token) + column)), sums[row][token]);
    }
  }

  TWOFOUR_DEVICE void add_dense_each() {
    for (u32 column = lane(); column < args.width; column += kWarpSize) {
      TWOFOUR_UNROLL
      for (u32 row = 0; row < rows; ++row) add(row, to_float(load(row_at(row, args.width) + column)), column);
    }
  }

  TWOFOUR_DEVICE void add_kept_each() {
    const u32 groups = args.width / 4;
    for (u32 group = lane(); group < groups; group += kWarpSize) {
      TWOFOUR_UNROLL
      for (u32 row = 0; row < rows; ++row) {
        const u64 number = u64(neurons[row]) * groups + group;
        const u32 code = u32(load(args.codes + number / 2)) >> (number % 2 * 4);
        const T* pair = row_at(row, args.width / 2) + 2 * group;
        add(row, to_float(load(pair)), 4 * group + (code & 3));
        add(row, to_float(load(pair + 1)), 4 * group + (code >> 2 & 3));
      }
    }
  }

  template <bool kept>
  TWOFOUR_DEVICE void make() {
    if constexpr (kept) {
      if (args.width % (2 * kRun) == 0) add_kept_runs();
      else add_kept_each();
    } else {
      if (args.width % kRun == 0) add_dense_runs();
      else add_dense_each();
    }
    TWOFOUR_UNROLL
    for (u32 row = 0; row < rows; ++row) {
      TWOFOUR_UNROLL
      for (u32 token = 0; token < tokens; ++token) {
        TWOFOUR_UNROLL
        for (u32 mask = kWarpSize / 2; mask > 0; mask /= 2) sums[row][token] += shuffle_xor(sums[row][token], mask);
      }
    }
  }

  // Of `count` rows; lane `row * tokens + token` has that sum.
  TWOFOUR_DEVICE void write(u32 count) const {
    const u32 token = lane() % tokens;
    float sum = 0.0f;
    u32 neuron = 0;
    TWOFOUR_UNROLL
    for (u32 row = 0; row < rows; ++row) {
      TWOFOUR_UNROLL
      for (u32 of = 0; of < tokens; ++of) {
        if (lane() == row * tokens + of) sum = sums[row][of], neuron = neurons[row];
      }
    }
    const bool is_mine = lane() / tokens < count && lane() < rows * tokens;
    bool on = false, lost = false;
    if (is_mine) {
      const u64 at = u64(neuron) * tokens + token;
      const bool is_there = token < args.which.tokens;
      if (!args.h) {
        const u32* given = args.which.given;
        const u64 word = u64(is_there ? token : 0) * args.which.words + neuron / 32;
        const bool may = is_there && (!given || load(given + word) >> (neuron % 32) & 1);
        on = may && is_inside(args.bounds, sum);
        lost = may && is_unordered(sum);
        store(args.gate + at, sum);
      } else {
        const float gate = load(args.gate + at);
        const bool was = load(args.which.on + neuron) >> token & 1;
        on = was && is_on(args.bounds, gate, sum);
        lost = was && is_unordered(gate * sum);
        store(args.h + at, on ? (args.bounds.smooth ? Silu(gate).value : gate) * sum : 0.0f);
      }
    }
    const u32 all_on = ballot(on), all_lost = ballot(lost);
    if (is_mine && token == 0) {
      constexpr u32 kTokenBits = (1u << tokens) - 1;
      const u32 before = args.h ? load(args.lost + neuron) : 0;
      store(args.on + neuron, u8(all_on >> lane() & kTokenBits));
      store(args.lost + neuron, u8((all_lost >> lane() & kTokenBits) | before));
    }
  }
};

template <typename T, bool kept, u32 rows, u32 tokens>
TWOFOUR_DEVICE void take(const GluRowsArgs& args, const Active& active, bool all, u32 rank, u32 count) {
  u32 neurons[rows];
  TWOFOUR_UNROLL
  for (u32 row = 0; row < rows; ++row) {
    const u32 of = rank + (row < count ? row : count - 1);
    neurons[row] = all ? of : active.select(of);
  }
  Dots<T, rows, tokens> dots(args, neurons);
  dots.template make<kept>();
  dots.write(count);
}

// Neurons that no warp takes are off.
TWOFOUR_DEVICE void write_zeros(const GluRowsArgs& args, const Active& active, bool all) {
  const u32 neurons = 32 * active.words;
  for (u32 neuron = block_index() * kThreads + thread_index(); neuron < neurons; neuron += block_count() * kThreads) {
    if (all ? neuron < args.which.neurons : active.bits[neuron / 32] >> (neuron % 32) & 1) continue;
    store(args.on + neuron, u8(0));
    if (!args.h) store(args.lost + neuron, u8(0));
  }
}

template <typename T, bool kept, u32 tokens>
TWOFOUR_DEVICE void rows_kernel(const GluRowsArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(u32, shared);
  TWOFOUR_SHARED u32 of_warps[kWarps];
  Active active(args.which, shared);
  const bool all = args.which.whole || (!args.which.given && !args.which.on);
  if (!all) active.fill<kThreads>(args.which, of_warps);
  write_zeros(args, active, all);
  // Neighbours in the order of ranks are warps of several blocks: so few neurons are spread over the device.
  const u32 warps = block_count() * kWarps, number = warp() * block_count() + block_index();
  const u32 each = active.count / warps, more = active.count % warps;
  u32 rank = number * each + (number < more ? number : more);
  const u32 end = rank + each + (number < more);
  while (rank < end) {
    const u32 left = end - rank, count = left < kRows<kept, tokens> ? left : kRows<kept, tokens>;
    if (count == 1) take<T, kept, 1, tokens>(args, active, all, rank, 1);
    else take<T, kept, kRows<kept, tokens>, tokens>(args, active, all, rank, count);
    rank += count;
  }
}

#define TWOFOUR_GLU_ROWS(T, tokens)                                                              \
  TWOFOUR_KERNEL(twofour_glu_rows_##T##_##tokens, GluRowsArgs, kThreads, kBlocks<tokens>) {      \
    rows_kernel<T, false, tokens>(args);                                                         \
  }                                                                                              \
  TWOFOUR_KERNEL(twofour_glu_rows_kept_##T##_##tokens, GluRowsArgs, kThreads, kBlocks<tokens>) { \
    rows_kernel<T, true, tokens>(args);                                                          \
  }

TWOFOUR_GLU_ROWS(f16, 1)
TWOFOUR_GLU_ROWS(f16, 4)
TWOFOUR_GLU_ROWS(f16, 8)
TWOFOUR_GLU_ROWS(bf16, 1)
TWOFOUR_GLU_ROWS(bf16, 4)
TWOFOUR_GLU_ROWS(bf16, 8)

}  // namespace twofour
