// Masks from logits, and the gradient back to the logits: one pass over memory each (src/mask/mod.rs is the contract).
//
// A block loads the noise table to shared memory once and then walks over the weight. A thread takes a chunk of groups
// whose logits are 48 bytes: 2 groups of f32 logits or 4 of bf16, so every access to logits, weights and gradients is 16
// bytes. Groups beyond the last whole chunk are done one at a time by one thread.
//
// Symbols: twofour_mask_{soft,hard}_{logits}_{weights} write the masked weight only;
//          twofour_mask_full_{logits}_{weights} any choice of outputs, and statistics, for any kind of mask;
//          twofour_mask_backward_{soft,hard}_{logits}_{weights}_{gradient};
//          twofour_mask_statistics adds up the blocks' shares.

#include "common/gradient.cuh"
#include "common/sums.cuh"
#include "common/vector.cuh"
#include "common/walk.cuh"

namespace twofour {

constexpr u32 kThreads = 256;
// Blocks that fit an SM at once: four have 64 registers a thread and 4 x 21 KiB of table; a chunk of four groups with
// more than one output needs twice the registers.
constexpr u32 kBlocksLean = 4;
template <typename L>
constexpr u32 kBlocks = sizeof(L) == 4 ? 4 : 2;
constexpr u32 kWarps = kThreads / kWarpSize;

// The kind of a mask, in `MaskForwardArgs`; kAny as a template argument: the arguments tell.
enum class Kind : u32 { kSoft, kHard, kArgmax, kAny };

// Sums over groups, of a block or of all. The layout of `Statistics` in src/mask/mod.rs.
struct Statistics {
  double kept_energy;
  double confidence;
  u64 moved;
  u64 groups;

  TWOFOUR_DEVICE void add(const Statistics& other) {
    kept_energy += other.kept_energy;
    confidence += other.confidence;
    moved += other.moved;
    groups += other.groups;
  }
};

struct MaskForwardArgs {
  const void* logits;
  const void* weight;  // null: mask alone
  void* masked;        // null unless asked for, like all outputs
  void* mask;
  u8* patterns;
  u8* codes;
  const u8* previous_codes;  // null: nothing counts as moved
  Statistics* statistics;    // null, or [0] for twofour_mask_statistics and [1 + block] for the blocks
  Walk walk;
  Sampling sampling;
  Kind kind;
  u32 unused;
};
static_assert(sizeof(MaskForwardArgs) == 216, "MaskForwardArgs in src/mask/launch.rs");

struct MaskBackwardArgs {
  const void* logits;
  const void* weight;
  const void* gradient;   // of the masked weight
  float* logit_gradient;  // null: weight_gradient alone
  void* weight_gradient;  // null unless asked for; in the type of `gradient`
  Walk walk;
  Differentiation by;
  u32 accumulate;  // 1: add to logit_gradient
  u32 unused;
};
static_assert(sizeof(MaskBackwardArgs) == 200, "MaskBackwardArgs in src/mask/launch.rs");

struct MaskStatisticsArgs {
  Statistics* statistics;
  u64 blocks;
};

// What a thread adds to the statistics.
struct Sums {
  float kept_energy = 0;
  float confidence = 0;
  u32 moved = 0;
  u32 groups = 0;
};

// ---- one group --------------------------------------------------------------------------------------------

struct Choice {
  u32 index;
  float mask[4];
  float confidence;
};

// kAny also serves argmax, whose scores are the logits themselves.
template <Kind kind>
TWOFOUR_DEVICE Choice sample(const MaskForwardArgs& args, const u32x2* lines, u64 group, const float* logits) {
  float z[6], e[6];
  float scale = args.sampling.scale;
  noisy_scores(args.sampling, lines, group, logits, z);
  if (kind == Kind::kAny && args.kind == Kind::kArgmax) {
    TWOFOUR_UNROLL
    for (int i = 0; i < 6; ++i) z[i] = logits[i];
    scale *= args.sampling.kappa;
  }
  Choice choice;
  const float top = largest(z);
  choice.index = choose(z, top);
  exponentials(z, top, scale, e);
  choice.confidence = soft_mask(e, choice.mask);
  if (kind == Kind::kHard || (kind == Kind::kAny && args.kind != Kind::kSoft)) hard_mask(choice.index, choice.mask);
  return choice;
}

template <Kind kind>
TWOFOUR_DEVICE void apply(const MaskForwardArgs& args, const Choice& choice, const float* w, float* masked) {
  if (kind == Kind::kSoft || (kind == Kind::kAny && args.kind == Kind::kSoft)) {
    TWOFOUR_UNROLL
    for (int j = 0; j < 4; ++j) masked[j] = w[j] * choice.mask[j];
  } else {
    keep(choice.index, w, masked);
  }
}

// ---- a chunk of groups ------------------------------------------------------------------------------------

// The codes of `count` groups from an even group on, four bits each.
template <int count>
TWOFOUR_DEVICE u32 load_codes(const u8* codes, u64 group) {
  if constexpr (count == 1) return load(codes + group / 2) >> (4 * (group % 2)) & 15;
  else if constexpr (count == 2) return load(codes + group / 2);
  else return load(reinterpret_cast<const u16*>(codes + group / 2));
}
// A single group writes its byte anew, with the even group's code in `even` when it is the odd one.
template <int count>
TWOFOUR_DEVICE void store_codes(u8* codes, u64 group, u32 packed, u32& even) {
  if constexpr (count == 1) {
    even |= packed << (4 * (group % 2));
    store(codes + group / 2, u8(even));
  } else if constexpr (count == 2) {
    store(codes + group / 2, u8(packed));
  } else {
    store(reinterpret_cast<u16*>(codes + group / 2), u16(packed));
  }
}

template <typename L, typename W, Kind kind, int count, bool whole>
TWOFOUR_DEVICE void forward(const MaskForwardArgs& args, const u32x2* lines, u64 group, Place place, Sums& sums,
                            u32& even) {
  constexpr bool full = kind == Kind::kAny;
  float logits[6 * count], w[4 * count] = {}, masked[4 * count], masks[4 * count];
  u32 indices[count];
  read<whole, L>(args.logits, 6 * group, logits);
  if (!full || args.weight) read<whole, W>(args.weight, 4 * group, w);
  TWOFOUR_UNROLL
  for (int i = 0; i < count; ++i) {
    const Choice choice = sample<kind>(args, lines, place.global, logits + 6 * i);
    place.next(args.walk);
    apply<kind>(args, choice, w + 4 * i, masked + 4 * i);
    if constexpr (full) {
      indices[i] = choice.index;
      TWOFOUR_UNROLL
      for (int j = 0; j < 4; ++j) masks[4 * i + j] = choice.mask[j];
      sums.confidence += choice.confidence;
    }
  }
  if (!full || args.masked) write<whole, W>(args.masked, 4 * group, masked);
  if constexpr (full) {
    if (args.mask) write<whole, W>(args.mask, 4 * group, masks);
    u32 codes = 0;
    TWOFOUR_UNROLL
    for (int i = 0; i < count; ++i) {
      codes |= pattern_code(indices[i]) << (4 * i);
      if (args.patterns) store(args.patterns + group + i, u8(indices[i] == kNoPattern ? kPoisonIndex : indices[i]));
    }
    if (args.codes) store_codes<count>(args.codes, group, codes, even);
    if (args.statistics) {
      const u32 changed = args.previous_codes ? codes ^ load_codes<count>(args.previous_codes, group) : 0;
      TWOFOUR_UNROLL
      for (int i = 0; i < count; ++i) sums.moved += (changed >> (4 * i) & 15) != 0;
      sums.groups += count;
      if (args.weight) {
        TWOFOUR_UNROLL
        for (int j = 0; j < 4 * count; ++j) sums.kept_energy = fma(masked[j], masked[j], sums.kept_energy);
      }
    }
  }
}

template <typename L, typename W, typename G, bool hard, int count, bool whole>
TWOFOUR_DEVICE void backward(const MaskBackwardArgs& args, const u32x2* lines, u64 group, Place place) {
  float logits[6 * count], w[4 * count], g[4 * count], logit_gradient[6 * count], weight_gradient[4 * count];
  read<whole, L>(args.logits, 6 * group, logits);
  read<whole, W>(args.weight, 4 * group, w);
  read<whole, G>(args.gradient, 4 * group, g);
  TWOFOUR_UNROLL
  for (int i = 0; i < count; ++i) {
    differentiate<hard>(args.by, lines, place.global, logits + 6 * i, w + 4 * i, g + 4 * i, logit_gradient + 6 * i,
                        weight_gradient + 4 * i);
    place.next(args.walk);
  }
  if (args.accumulate) add_own<whole>(args.logit_gradient, 6 * group, logit_gradient);
  if (args.logit_gradient) write<whole, float>(args.logit_gradient, 6 * group, logit_gradient);
  if (args.weight_gradient) write<whole, G>(args.weight_gradient, 4 * group, weight_gradient);
}

// ---- the walk ---------------------------------------------------------------------------------------------

// Calls whole(group, place) for each of this thread's chunks, then single(group, place) for each group of the tail.
template <int count, typename Whole, typename Single>
TWOFOUR_DEVICE void for_each_chunk(const Walk& walk, Whole whole, Single single) {
  const u64 thread = u64(block_index()) * kThreads + thread_index();
  const u64 step = u64(block_count()) * kThreads * count;
  const u64 end = walk.groups - walk.groups % count;
  u64 group = thread * count;
  Place place(walk, group);
  for (; group < end; group += step) {
    whole(group, place);
    place.step(walk);
  }
  if (thread != 0) return;
  Place tail(walk, end);
  for (group = end; group < walk.groups; ++group) {
    single(group, tail);
    tail.next(walk);
  }
}

// Adds the threads' sums and writes the block's share. By all threads of the block.
TWOFOUR_DEVICE void add_up(const Sums& sums, Statistics* share) {
  TWOFOUR_SHARED Statistics of_warps[kWarps];
  Statistics total = {sums.kept_energy, sums.confidence, sums.moved, sums.groups};
  for (u32 delta = kWarpSize / 2; delta > 0; delta /= 2) {
    total.add({shuffle_down(total.kept_energy, delta), shuffle_down(total.confidence, delta),
               shuffle_down(total.moved, delta), shuffle_down(total.groups, delta)});
  }
  if (lane() == 0) of_warps[warp()] = total;
  sync_threads();
  if (thread_index() != 0) return;
  for (u32 w = 1; w < kWarps; ++w) total.add(of_warps[w]);
  store(share, total);
}

template <typename L, typename W, Kind kind>
TWOFOUR_DEVICE void forward_kernel(const MaskForwardArgs& args) {
  TWOFOUR_SHARED GumbelTable table;
  const u32x2* lines = load_gumbel_lines<kThreads>(table);
  constexpr int count = 8 / sizeof(L);
  Sums sums;
  u32 even = 0;
  for_each_chunk<count>(
      args.walk,
      [&](u64 group, Place place) { forward<L, W, kind, count, true>(args, lines, group, place, sums, even); },
      [&](u64 group, Place place) {
        even = group % 2 ? even : 0;
        forward<L, W, kind, 1, false>(args, lines, group, place, sums, even);
      });
  if constexpr (kind == Kind::kAny) {
    if (args.statistics) add_up(sums, args.statistics + 1 + block_index());
  }
}

template <typename L, typename W, typename G, bool hard>
TWOFOUR_DEVICE void backward_kernel(const MaskBackwardArgs& args) {
  TWOFOUR_SHARED GumbelTable table;
  const u32x2* lines = load_gumbel_lines<kThreads>(table);
  constexpr int count = 8 / sizeof(L);
  for_each_chunk<count>(
      args.walk, [&](u64 group, Place place) { backward<L, W, G, hard, count, true>(args, lines, group, place); },
      [&](u64 group, Place place) { backward<L, W, G, hard, 1, false>(args, lines, group, place); });
}

// ---- symbols ----------------------------------------------------------------------------------------------

#define FORWARD(kind, variant, L, W)                                            \
  TWOFOUR_KERNEL(twofour_mask_##variant##_##L##_##W, MaskForwardArgs, kThreads, \
                 Kind::kind == Kind::kAny ? kBlocks<L> : kBlocksLean) {         \
    forward_kernel<L, W, Kind::kind>(args);                                     \
  }
#define FORWARDS(L, W)       \
  FORWARD(kSoft, soft, L, W) \
  FORWARD(kHard, hard, L, W) \
  FORWARD(kAny, full, L, W)
#define BACKWARD(hard, variant, L, W, G)                                                                      \
  TWOFOUR_KERNEL(twofour_mask_backward_##variant##_##L##_##W##_##G, MaskBackwardArgs, kThreads, kBlocks<L>) { \
    backward_kernel<L, W, G, hard>(args);                                                                     \
  }
#define BACKWARDS(L, W, G)       \
  BACKWARD(false, soft, L, W, G) \
  BACKWARD(true, hard, L, W, G)
#define LOGITS(L)          \
  FORWARDS(L, f32)         \
  FORWARDS(L, f16)         \
  FORWARDS(L, bf16)        \
  BACKWARDS(L, f32, f32)   \
  BACKWARDS(L, f16, f16)   \
  BACKWARDS(L, bf16, bf16) \
  BACKWARDS(L, f16, f32)   \
  BACKWARDS(L, bf16, f32)

LOGITS(f32)
LOGITS(bf16)

// One block: adds the blocks' shares in a fixed order, so the result depends on the grid alone.
TWOFOUR_KERNEL(twofour_mask_statistics, MaskStatisticsArgs, kThreads, 1) {
  Statistics total = {};
  for (u64 block = thread_index(); block < args.blocks; block += kThreads) {
    total.add(load(args.statistics + 1 + block));
  }
  total = sum_of_threads<kThreads>(total);
  if (thread_index() != 0) return;
  total.confidence = total.groups ? total.confidence / double(total.groups) : 0.0;
  store(args.statistics, total);
}

}  // namespace twofour
