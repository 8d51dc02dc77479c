// Dense weights to kept values and codes in any layout, in one pass over memory (src/compress/mod.rs is the contract,
// cuda/compress/patch.cuh how blocks share a weight).
//
// A block takes a patch of 4096 groups. A thread takes chunks of it, 32 bytes of dense values each: it finds their
// codes, writes the 16 bytes that are kept, and leaves the codes in shared memory, from where the block moves them into
// the layout, 16 bytes at a time. Rows that do not begin on 16 bytes go group by group.
//
// No code is written that is not legal, whatever comes in, for `mma.sp` is undefined with others: a group that has none
// gets code 4 and poison for values, and is counted.
//
// Symbols: twofour_compress_{codes,magnitude,sparse}_{values} keep what given codes name, the largest, what is not zero;
//          twofour_compress_sampled_{logits}_{values} what logits choose, hard or argmax.
// Values: b16 (f16, bf16), b8 (e4m3, e5m2, and i8 where magnitudes do not matter), i8, b32 (f32).

#include "common/sample.cuh"
#include "common/vector.cuh"
#include "compress/patch.cuh"

namespace twofour {

// How many blocks are to fit an SM at once: fewer where a chunk is eight groups with logits.
constexpr u32 kBlocks = 4;
template <typename V>
constexpr u32 kBlocksSampled = V::groups == 8 ? 3 : 4;

struct CompressPackArgs {
  const u8* dense;
  const void* logits;  // null unless they choose
  const u8* given;     // null unless codes are given: canonical
  u8* values;          // null unless asked for, like all outputs
  u8* metadata;
  u8* codes;        // canonical
  u8* masked;       // like `dense`
  u32* faults;      // counts groups without a legal code
  u64 dense_pitch;  // bytes from a row to the next
  u64 values_pitch;
  u64 first_group;  // global number of the first group
  u64 row_groups;   // and of groups in a row of the whole weight
  Steps steps;
  Patches patches;
  Arrangement by;
  Sampling sampling;
  u32 argmax;        // 1: no noise
  u32 magnitude;     // the bits of a value below the sign; all of an integer's
  u32 poison;        // a word of NaN
  u32 dense_whole;   // 1: rows begin on 16 bytes
  u32 values_whole;  // the same; 2: and end with 16 bytes, padding included
  u32 logits_whole;
};
static_assert(sizeof(CompressPackArgs) == 400, "PackArgs in src/compress/launch.rs");

enum class Choice { kGiven, kMagnitude, kNonZeros, kSampled };

// ---- codes of a chunk -------------------------------------------------------------------------------------

template <typename L>
TWOFOUR_DEVICE u32 sampled_code(const CompressPackArgs& args, const u32x2* lines, u64 global, const float* logits) {
  float z[6];
  if (args.argmax) {
    TWOFOUR_UNROLL
    for (int i = 0; i < 6; ++i) z[i] = logits[i];
  } else {
    noisy_scores(args.sampling, lines, global, logits, z);
  }
  return choose(z, largest(z), [](u32 index) { return pattern_code(index); });
}

// The code of the group whose logits begin with this element.
template <typename L>
TWOFOUR_DEVICE u32 sampled_code_of(const CompressPackArgs& args, const u32x2* lines, u64 global, u64 element) {
  float logits[6];
  read<false, L>(args.logits, element, logits);
  return sampled_code<L>(args, lines, global, logits);
}

// Those of groups from number `first` on; four at a time where their logits are whole 16 bytes.
template <typename V, typename L>
TWOFOUR_DEVICE u32 sampled_codes(const CompressPackArgs& args, const u32x2* lines, u64 global, u64 first, u32 inside) {
  u32 codes = 0;
  if (args.logits_whole && inside == u32(V::groups)) {
    TWOFOUR_NO_UNROLL
    for (u32 four = 0; four < u32(V::groups); four += 4) {
      float logits[24];
      read<true, L>(args.logits, 6 * (first + four), logits);
      TWOFOUR_UNROLL
      for (u32 g = 0; g < 4; ++g) {
        codes |= sampled_code<L>(args, lines, global + four + g, logits + 6 * g) << (4 * (four + g));
      }
    }
    return codes;
  }
  TWOFOUR_NO_UNROLL
  for (u32 g = 0; g < inside; ++g) codes |= sampled_code_of<L>(args, lines, global + g, 6 * (first + g)) << (4 * g);
  return codes;
}

// Of the values themselves.
template <typename V, Choice choice>
TWOFOUR_DEVICE u32 code_of_values(const CompressPackArgs& args, const u32* group) {
  return choice == Choice::kMagnitude ? V::largest(group) : V::non_zeros(group, args.magnitude);
}

template <typename V, Choice choice, typename L>
struct Pack {
  const CompressPackArgs& args;
  const u32x2* lines;  // the noise table in shared memory
  u8* shared;          // the patch's codes

  // What a chunk needs from memory, asked for before anything of it is used.
  struct Loaded {
    Chunk<V> at;
    u32 inside;
    u32 dense[kDenseWords];
    u32 given;

    TWOFOUR_DEVICE Loaded(const CompressPackArgs& args, const Patch& patch, const Chunk<V>& chunk)
        : at(chunk), inside(chunk.inside(patch)) {
      load_dense<V>(args.dense + at.dense, args.dense_whole && inside == u32(V::groups), inside, dense);
      if (choice == Choice::kGiven) given = load_plain<V::groups>(args.given, at.first, inside);
    }
  };

  TWOFOUR_DEVICE u32 codes_of(const Patch& patch, const Loaded& chunk) const {
    if constexpr (choice == Choice::kGiven) {
      return chunk.given;
    } else if constexpr (choice == Choice::kSampled) {
      const u64 row = patch.row + chunk.at.row, group = patch.group + chunk.at.group;
      const u64 global = args.first_group + row * args.row_groups + group;
      return sampled_codes<V, L>(args, lines, global, chunk.at.first, chunk.inside);
    } else {
      u32 codes = 0;
      TWOFOUR_UNROLL
      for (int g = 0; g < V::groups; ++g) {
        codes |= code_of_values<V, choice>(args, chunk.dense + g * kGroupWords<V>) << (4 * g);
      }
      return codes;
    }
  }

  // Writes a chunk's values and leaves its codes.
  TWOFOUR_DEVICE void finish(const Patch& patch, const Loaded& chunk) const {
    const u32 inside = chunk.inside;
    u32 codes = padded_codes<V>(codes_of(patch, chunk), inside);
    // The largest always have a code.
    const u32 bad = choice == Choice::kMagnitude ? 0 : illegal_codes(codes, V::two_of_four) & kEachCode<V>;
    codes = repaired(codes, bad);
    u8* const left = shared + patch.at(chunk.at.row, chunk.at.group);
    if (V::groups == 8) store(reinterpret_cast<u32*>(left), codes);
    else store(reinterpret_cast<u16*>(left), u16(codes));
    if (inside == 0) return;
    u32 kept[kKeptWords];
    V::keep(chunk.dense, codes, kept);
    if (bad) {
      poison_kept<V>(kept, bad, args.poison);
      if (args.faults) atomic_add(args.faults, popcount(bad));
    }
    const bool all = inside == u32(V::groups);
    if (args.values) store_kept<V>(args.values + chunk.at.values, args.values_whole >= (all ? 1u : 2u), inside, kept);
    if (args.masked) {
      u32 masked[kDenseWords];
      V::spread(kept, codes, masked);
      if (bad) poison_dense<V>(masked, bad, args.poison);
      store_dense<V>(args.masked + chunk.at.dense, args.dense_whole && all, inside, masked);
    }
  }

  // A code of another patch.
  TWOFOUR_DEVICE u32 code_at(u64 row, u64 group) const {
    u32 code;
    if constexpr (choice == Choice::kGiven) {
      code = plain_code(args.given, row * args.patches.groups + group);
    } else if constexpr (choice == Choice::kSampled) {
      code = sampled_code_of<L>(args, lines, args.first_group + row * args.row_groups + group,
                                6 * (row * args.patches.groups + group));
    } else {
      u32 values[kGroupWords<V>];
      V::load_dense(args.dense + row * args.dense_pitch + group * kGroupBytes<V>, values);
      code = code_of_values<V, choice>(args, values);
    }
    return repaired(code, illegal_codes(code, V::two_of_four) & 1);
  }

  // `batch` chunks a thread at a time: so much is asked for before anything is used.
  template <int batch>
  TWOFOUR_DEVICE void run() const {
    constexpr int chunks = kPatchGroups / kPatchThreads / V::groups;
    const bool plain = args.by.order == Order::kPlain;
    for (u32 number = block_index(); number < args.patches.count; number += block_count()) {
      const Patch patch(args.patches, number);
      Chunk<V> at(args.patches, patch, args.dense_pitch, args.values_pitch);
      TWOFOUR_NO_UNROLL
      for (int c = 0; c < chunks; c += batch) take<batch>(patch, at);
      sync_threads();
      if (args.metadata && !plain) store_arranged(shared, args.by, patch, args.metadata);
      TWOFOUR_NO_UNROLL
      for (int i = 0; i < 2; ++i) {
        u8* const canonical = i == 0 ? (plain ? args.metadata : nullptr) : args.codes;
        if (!canonical) continue;
        store_plain(shared, args.patches, patch, canonical, [&](u64 row, u64 group) { return code_at(row, group); });
      }
      sync_threads();
    }
    if (args.metadata && !plain) fill_room(args.by, args.metadata);
  }

  template <int batch>
  TWOFOUR_DEVICE void take(const Patch& patch, Chunk<V>& at) const {
    const Loaded a(args, patch, at);
    at.next(args.steps);
    if constexpr (batch == 1) {
      finish(patch, a);
    } else {
      const Loaded b(args, patch, at);
      at.next(args.steps);
      finish(patch, a);
      finish(patch, b);
    }
  }
};

// ---- symbols ----------------------------------------------------------------------------------------------

#define PACK(variant, choice, name, V)                                                            \
  TWOFOUR_KERNEL(twofour_compress_##variant##_##name, CompressPackArgs, kPatchThreads, kBlocks) { \
    TWOFOUR_SHARED u32 codes[kPatchWords];                                                        \
    const Pack<V, Choice::choice, f32> pack{args, nullptr, reinterpret_cast<u8*>(codes)};         \
    pack.run<2>();                                                                                \
  }
#define SAMPLED(L, V)                                                                                      \
  TWOFOUR_KERNEL(twofour_compress_sampled_##L##_##V, CompressPackArgs, kPatchThreads, kBlocksSampled<V>) { \
    TWOFOUR_SHARED GumbelTable table;                                                                      \
    TWOFOUR_SHARED u32 codes[kPatchWords];                                                                 \
    const u32x2* lines = load_gumbel_lines<kPatchThreads>(table);                                          \
    const Pack<V, Choice::kSampled, L> pack{args, lines, reinterpret_cast<u8*>(codes)};                    \
    pack.run<1>();                                                                                         \
  }

PACK(codes, kGiven, b16, b16)
PACK(codes, kGiven, b8, b8)
PACK(codes, kGiven, b32, b32)
PACK(magnitude, kMagnitude, b16, b16)
PACK(magnitude, kMagnitude, b8, b8)
PACK(magnitude, kMagnitude, i8, i8x4)
PACK(magnitude, kMagnitude, b32, b32)
PACK(sparse, kNonZeros, b16, b16)
PACK(sparse, kNonZeros, b8, b8)
PACK(sparse, kNonZeros, b32, b32)
SAMPLED(f32, b16)
SAMPLED(f32, b8)
SAMPLED(bf16, b16)
SAMPLED(bf16, b8)

}  // namespace twofour
