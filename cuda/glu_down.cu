// Decode, last part: Y = the sum of h times the rows of the neurons that are on (src/glu/decode.rs is the contract).
//
// Symbols: twofour_glu_down_{f16,bf16}_{1,4,8}, for up to so many tokens, and _down_kept_ for 2:4 weights.
//
// A block takes 32 columns of all rows: four lanes a row, 8 columns each (16 bytes, or 8 of kept values), and every 96th
// row by rank. So neurons that are on cost the same wherever they are, no block waits for another's sums, and Y is written
// once. Sums are of ranks in order, then of lanes, then of warps: they depend on which neurons are on alone.

#include "common/vector.cuh"
#include "glu/active.cuh"
#include "glu/neuron.cuh"

namespace twofour {

constexpr u32 kThreads = 384;
constexpr u32 kWarps = kThreads / kWarpSize;
constexpr u32 kRun = 8;
constexpr u32 kColumns = 32;
constexpr u32 kRowLanes = kColumns / kRun;
constexpr u32 kSlots = kThreads / kRowLanes;
constexpr u32 kListed = 4096;
// Rows that a lane has under way.
template <u32 tokens>
constexpr u32 kAhead = tokens == 8 ? 2 : 4;

struct GluDownArgs {
  const void* weight;  // [neurons, width], or [neurons, width/2] kept values
  const u8* codes;     // of kept values
  const float* h;      // [neurons, padded tokens]
  const u8* by_gate;   // [32 words] a bit for each token whose gate is on
  const u8* of_lost;   // [32 words] a bit a token
  void* y;             // [tokens, width]
  u32* mask;           // [tokens, words]; null: not wanted
  u32* lost;           // [tokens]; null: not wanted
  u32* rows;           // [3]; null: not wanted
  Which which;
  u32 width;
  u32 accumulate;
};
static_assert(sizeof(GluDownArgs) == 112, "DownArgs in src/glu/launch/decode.rs");

// ---- what is said of the neurons, by one block --------------------------------------------------------------------------

// The block's sum, in all threads. `of_warps` is shared memory.
TWOFOUR_DEVICE u32 add_up(u32 mine, u32* of_warps) {
  TWOFOUR_UNROLL
  for (u32 mask = kWarpSize / 2; mask > 0; mask /= 2) mine += shuffle_xor(mine, mask);
  sync_threads();
  if (lane() == 0) of_warps[warp()] = mine;
  sync_threads();
  u32 sum = 0;
  for (u32 other = 0; other < kWarps; ++other) sum += of_warps[other];
  return sum;
}

// Of 32 neurons those whose byte has a token's bit.
TWOFOUR_DEVICE u32 bits_of_token(const u8* bytes, u32 word, u32 token) {
  u32 bits = 0;
  for (u32 i = 0; i < 32; ++i) bits |= (u32(load(bytes + 32 * word + i)) >> token & 1) << i;
  return bits;
}

TWOFOUR_DEVICE void report(const GluDownArgs& args, const Active& active, u32* of_warps) {
  const Which& which = args.which;
  for (u32 token = 0; token < which.tokens; ++token) {
    u32 lost = 0;
    for (u32 word = thread_index(); word < which.words; word += kThreads) {
      if (args.mask) store(args.mask + token * which.words + word, bits_of_token(which.on, word, token));
      if (args.lost) lost += popcount(bits_of_token(args.of_lost, word, token));
    }
    if (!args.lost) continue;
    lost = add_up(lost, of_warps);
    if (thread_index() == 0) store(args.lost + token, lost);
  }
  if (!args.rows) return;
  u32 gate = 0, up = 0;
  for (u32 word = thread_index(); word < which.words; word += kThreads) {
    const u32 given = given_word(which, word);
    gate += popcount(given);
    up += popcount(which.whole ? given : bits_of_bytes(args.by_gate + 32 * word));
  }
  gate = add_up(gate, of_warps), up = add_up(up, of_warps);
  if (thread_index() == 0) store(args.rows, gate), store(args.rows + 1, up), store(args.rows + 2, active.count);
}

// ---- sums ---------------------------------------------------------------------------------------------------------------

// Eight columns of a row: their values, and which of them are kept.
struct Part {
  float values[kRun];
  u32 kept;
};

// As it lies in memory.
struct Raw {
  u32x4 values;
  u32 codes;
};

// Columns that are not there are of no row.
template <typename T, bool kept, bool whole>
TWOFOUR_DEVICE void fetch(const GluDownArgs& args, u32 neuron, u32 column, Raw& raw, Part& part) {
  const u64 first = u64(neuron) * args.width + column;
  if constexpr (whole && kept) {
    const u32x2 pair = load_stream_8(static_cast<const T*>(args.weight) + first / 2);
    raw.values = {pair.x, pair.y, 0, 0};
    raw.codes = load(args.codes + first / 8);
  } else if constexpr (whole) {
    raw.values = load_stream_16(static_cast<const T*>(args.weight) + first);
  } else {
    part.kept = 0;
    const u32 count = args.width - column;
    TWOFOUR_UNROLL
    for (u32 i = 0; i < kRun; ++i) {
      if (i >= count) break;
      if constexpr (kept) {
        const u64 group = (first + i) / 4;
        const u32 code = u32(load(args.codes + group / 2)) >> (group % 2 * 4);
        const bool is_first = (code & 3) == i % 4, is_second = (code >> 2 & 3) == i % 4;
        part.values[i] = to_float(load(static_cast<const T*>(args.weight) + 2 * group + is_second));
        part.kept |= u32(is_first || is_second) << i;
      } else {
        part.values[i] = to_float(load(static_cast<const T*>(args.weight) + first + i));
        part.kept |= 1u << i;
      }
    }
  }
}

template <typename T, bool kept, bool whole>
TWOFOUR_DEVICE void open(const Raw& raw, Part& part) {
  if constexpr (whole && kept) {
    part.kept = 0;
    TWOFOUR_UNROLL
    for (u32 group = 0; group < 2; ++group) {
      const u32 first = raw.codes >> (4 * group) & 3, second = raw.codes >> (4 * group + 2) & 3;
      const u32 pair = group == 0 ? raw.values.x : raw.values.y;
      // For each of four columns two bytes of the pair, or of zeros.
      const u32 bytes = 0x44444444u ^ 0x54u << (8 * first) ^ 0x76u << (8 * second);
      float* values = part.values + 4 * group;
      unpack(byte_permute(pair, 0, bytes & 0xffffu), values[0], values[1], T{});
      unpack(byte_permute(pair, 0, bytes >> 16), values[2], values[3], T{});
      part.kept |= (1u << first | 1u << second) << (4 * group);
    }
  } else if constexpr (whole) {
    unpack(raw.values, part.values, T{});
    part.kept = 0xffu;
  }
}

template <typename T, bool kept, u32 tokens>
struct Sums {
  const GluDownArgs& args;
  float sums[tokens][kRun];

  TWOFOUR_DEVICE explicit Sums(const GluDownArgs& of) : args(of) {
    TWOFOUR_UNROLL
    for (u32 token = 0; token < tokens; ++token) {
      TWOFOUR_UNROLL
      for (u32 i = 0; i < kRun; ++i) sums[token][i] = 0.0f;
    }
  }

  TWOFOUR_DEVICE void add(const Part& part, const float (&h)[tokens]) {
    TWOFOUR_UNROLL
    for (u32 i = 0; i < kRun; ++i) {
      // What is dropped does not count, be h infinite.
      if (part.kept >> i & 1) {
        TWOFOUR_UNROLL
        for (u32 token = 0; token < tokens; ++token) sums[token][i] = fma(h[token], part.values[i], sums[token][i]);
      }
    }
  }

  // Of every kSlots-th neuron of a list, from the thread's own.
  template <bool whole>
  TWOFOUR_DEVICE void add_rows(const u16* list, u32 count, u32 column) {
    constexpr u32 kDeep = kAhead<tokens>;
    for (u32 rank = thread_index() / kRowLanes; rank < count; rank += kDeep * kSlots) {
      Raw raw[kDeep];
      Part part[kDeep];
      float h[kDeep][tokens];
      TWOFOUR_UNROLL
      for (u32 i = 0; i < kDeep; ++i) {
        if (rank + i * kSlots >= count) break;
        const u32 neuron = list[rank + i * kSlots];
        fetch<T, kept, whole>(args, neuron, column, raw[i], part[i]);
        if constexpr (tokens == 1) h[i][0] = load(args.h + neuron);
        else load_own_run(args.h + u64(neuron) * tokens, h[i]);
      }
      TWOFOUR_UNROLL
      for (u32 i = 0; i < kDeep; ++i) {
        if (rank + i * kSlots >= count) break;
        open<T, kept, whole>(raw[i], part[i]);
        add(part[i], h[i]);
      }
    }
  }

  // Adds up what the block's lanes and warps have, and writes it; `shared` is [kWarps, tokens, kColumns].
  TWOFOUR_DEVICE void write(u32 first_column, float* shared) {
    TWOFOUR_UNROLL
    for (u32 token = 0; token < tokens; ++token) {
      TWOFOUR_UNROLL
      for (u32 i = 0; i < kRun; ++i) {
        float& sum = sums[token][i];
        TWOFOUR_UNROLL
        for (u32 mask = kRowLanes; mask < kWarpSize; mask *= 2) sum += shuffle_xor(sum, mask);
        if (lane() < kRowLanes) shared[(warp() * tokens + token) * kColumns + lane() * kRun + i] = sum;
      }
    }
    sync_threads();
    const u32 token = thread_index() / kColumns, column = first_column + thread_index() % kColumns;
    if (token < args.which.tokens && column < args.width) {
      float sum = 0.0f;
      for (u32 of = 0; of < kWarps; ++of) sum += shared[of * tokens * kColumns + thread_index()];
      T* y = static_cast<T*>(args.y) + u64(token) * args.width + column;
      store(y, from_float<T>(args.accumulate ? to_float(load(y)) + sum : sum));
    }
    sync_threads();
  }
};

template <typename T, bool kept, u32 tokens>
TWOFOUR_DEVICE void down_kernel(const GluDownArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(u32, memory);
  TWOFOUR_SHARED u32 of_warps[kWarps];
  Active active(args.which, memory);
  float* shared = reinterpret_cast<float*>(memory + 2 * args.which.words);
  u16* list = reinterpret_cast<u16*>(shared + kWarps * tokens * kColumns);
  active.fill<kThreads>(args.which, of_warps);
  if (block_index() == 0 && (args.mask || args.lost || args.rows)) report(args, active, of_warps);
  for (u32 first_column = block_index() * kColumns; first_column < args.width;
       first_column += block_count() * kColumns) {
    const u32 column = first_column + lane() % kRowLanes * kRun;
    Sums<T, kept, tokens> sums(args);
    for (u32 first = 0; first < active.count; first += kListed) {
      const u32 left = active.count - first, count = left < kListed ? left : kListed;
      active.write(first, kListed, list);
      sync_threads();
      if (column < args.width) {
        if (args.width % kRun == 0) sums.template add_rows<true>(list, count, column);
        else sums.template add_rows<false>(list, count, column);
      }
      sync_threads();
    }
    sums.write(first_column, shared);
  }
}

#define TWOFOUR_GLU_DOWN(T, tokens)                                                                                  \
  TWOFOUR_KERNEL(twofour_glu_down_##T##_##tokens, GluDownArgs, kThreads, 1) { down_kernel<T, false, tokens>(args); } \
  TWOFOUR_KERNEL(twofour_glu_down_kept_##T##_##tokens, GluDownArgs, kThreads, 1) { down_kernel<T, true, tokens>(args); }

TWOFOUR_GLU_DOWN(f16, 1)
TWOFOUR_GLU_DOWN(f16, 4)
TWOFOUR_GLU_DOWN(f16, 8)
TWOFOUR_GLU_DOWN(bf16, 1)
TWOFOUR_GLU_DOWN(bf16, 4)
TWOFOUR_GLU_DOWN(bf16, 8)

}  // namespace twofour
