// Logits at the start, and a prior on some (src/learn/mod.rs is the contract). A warp walks over units of 64 groups
// (learn/unit.cuh). The results are the same bits as the CPU executor's.
//
// Symbols: twofour_learn_initial_{logits} writes logits; twofour_learn_prior_{logits} adds to some.

#include "common/pattern.cuh"
#include "learn/unit.cuh"

namespace twofour {

struct LearnPriorArgs {
  void* logits;
  const u8* codes;  // null, for the start alone: no prior
  Walk walk;
  RoundKeys keys;
  float spread;  // what one step of the sum of halves is worth
  float shift;   // what a position in common beyond the first is worth
};
static_assert(sizeof(LearnPriorArgs) == 144, "PriorArgs in src/learn/launch.rs");

// How many positions each pattern has in common with the one that the code stands for, less one; NaN if for none.
TWOFOUR_DEVICE void likeness(u32 code, float (&x)[6]) {
  const u32 lower = code & 3, upper = code >> 2, kept = 1u << lower | 1u << upper;
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) {
    x[i] = lower < upper ? float(i32(popcount(pattern_bits(i) & kept)) - 1) : not_a_number();
  }
}

TWOFOUR_DEVICE float to_nearest(float x, f32) { return x; }
TWOFOUR_DEVICE float to_nearest(float x, bf16) { return to_float(to_bf16(x)); }

// The likenesses of a lane's two groups, whose codes share a byte.
TWOFOUR_DEVICE void read_likeness(const Unit& unit, const u8* codes, float (&x)[kLane]) {
  const u32 packed = unit.has(0) ? load(codes + unit.group / 2) : 0;
  TWOFOUR_UNROLL
  for (int group = 0; group < int(kLaneGroups); ++group) {
    float of_group[6];
    likeness(packed >> (4 * group) & 15, of_group);
    TWOFOUR_UNROLL
    for (int k = 0; k < 6; ++k) x[6 * group + k] = of_group[k];
  }
}

template <typename L>
TWOFOUR_DEVICE void initial_kernel(const LearnPriorArgs& args) {
  TWOFOUR_SHARED Staging staging[kWarps];
  for_each_unit(args.walk, [&](const Unit& unit, const u64(&global)[kLaneGroups]) {
    float x[kLane] = {}, logits[kLane];
    if (args.codes) read_likeness(unit, args.codes, x);
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; ++i) {
      const u32x4 random = random_bits(args.keys, global[i / 6], i % 6);
      const u32 words[4] = {random.x, random.y, random.z, random.w};
      u32 sum = 0;
      TWOFOUR_UNROLL
      for (int w = 0; w < 4; ++w) sum += (words[w] & 0xffff) + (words[w] >> 16);
      const float normal = float(i32(sum) - 262140);
      logits[i] = to_nearest(fma(args.spread, normal, args.shift * x[i]), L{});
    }
    write_own(unit, static_cast<L*>(args.logits), staging[warp()], logits);
  });
}

template <typename L>
TWOFOUR_DEVICE void prior_kernel(const LearnPriorArgs& args) {
  TWOFOUR_SHARED Staging staging[kWarps];
  for_each_unit(args.walk, [&](const Unit& unit, const u64(&)[kLaneGroups]) {
    float x[kLane], logits[kLane];
    read_own<L>(unit, args.logits, logits);
    read_likeness(unit, args.codes, x);
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; ++i) logits[i] = to_nearest(fma(args.shift, x[i], logits[i]), L{});
    write_own(unit, static_cast<L*>(args.logits), staging[warp()], logits);
  });
}

// ---- symbols ----------------------------------------------------------------------------------------------

#define LOGITS(L)                                                                                     \
  TWOFOUR_KERNEL(twofour_learn_initial_##L, LearnPriorArgs, kThreads, 4) { initial_kernel<L>(args); } \
  TWOFOUR_KERNEL(twofour_learn_prior_##L, LearnPriorArgs, kThreads, 4) { prior_kernel<L>(args); }

LOGITS(f32)
LOGITS(bf16)

}  // namespace twofour
