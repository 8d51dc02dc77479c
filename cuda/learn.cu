// What a training step adds (src/learn/mod.rs is the contract): the gradient's norm, and a step of AdamW on the logits,
// by a gradient in memory or by one that is made from the masked weight's in registers and never reaches memory. Logits
// at the start are cuda/learn_start.cu.
//
// A warp walks over units of 64 groups (learn/unit.cuh), which are the blocks of 8-bit moments. By a gradient in memory
// a step's results are the same bits as the CPU executor's.
//
// Symbols: twofour_learn_update_{logits}_{moments} steps by a gradient in memory;
//          twofour_learn_fused_{logits}_{moments}_{weights}_{gradient} makes the gradient, and steps by it or measures
//          it; twofour_learn_norm measures a gradient in memory;
//          twofour_learn_finish adds up the blocks' shares, twofour_learn_clip makes the factor of a norm.

#include "common/gradient.cuh"
#include "common/step.cuh"
#include "common/sums.cuh"
#include "learn/eight.cuh"
#include "learn/unit.cuh"

namespace twofour {

// Moments in 8 bits, as a type in symbols and templates.
struct u8x384 {};

struct LearnUpdateArgs {
  Step step;
  float* gradient;
  float scale;
  u32 zero;  // 1: the gradient is overwritten with zeros
};
static_assert(sizeof(LearnUpdateArgs) == 312, "UpdateArgs in src/learn/launch.rs");

struct LearnFusedArgs {
  Step step;
  const void* weight;
  const void* gradient;  // of the masked weight
  Differentiation differentiation;
  u32 hard;
  u32 unused;
};
static_assert(sizeof(LearnFusedArgs) == 432, "FusedArgs in src/learn/launch.rs");

// ---- a step -----------------------------------------------------------------------------------------------

// Bit i: group i of the lane is there and its gradient is not wild. Adds the squares of those.
TWOFOUR_DEVICE u32 measure(const Unit& unit, const float (&g)[kLane], StepSums& sums) {
  u32 tame = 0;
  float squares[kLaneGroups];
  TWOFOUR_UNROLL
  for (int i = 0; i < int(kLaneGroups); ++i) {
    squares[i] = sum_of_squares(g + 6 * i);
    const bool is_tame = unit.has(i) && squares[i] < float_of(kWildBits);
    tame |= u32(is_tame) << i;
    sums.gradient_squares += is_tame ? double(squares[i]) : 0.0;
  }
  return tame;
}

// One of the three ten-bit fields of a word.
TWOFOUR_DEVICE u32 field(u32 word, int number) { return word >> (2 + 10 * number) & 1023; }

// The largest of the warp's, by all its lanes.
TWOFOUR_DEVICE float largest_of_warp(float x) {
  TWOFOUR_UNROLL
  for (u32 mask = kWarpSize / 2; mask > 0; mask /= 2) x = max_nan(x, shuffle_xor(x, mask));
  return x;
}

// Moments of f32. `update` updates a logit's, if it is to be, and gives the stepped logit; `write` writes all, and rounds
// the stepped logits.
struct WideMoments {
  float m[kLane];
  float v[kLane];

  TWOFOUR_DEVICE WideMoments(const Step& step, const Unit& unit) {
    read_own<f32>(unit, step.m, m);
    read_own<f32>(unit, step.v, v);
  }
  TWOFOUR_DEVICE float update(const AdamW& by, int i, float g, bool taken, float logit) {
    m[i] = taken ? next_m(by, m[i], g) : m[i];
    v[i] = taken ? next_v(by, v[i], g) : v[i];
    return stepped(by, logit, m[i], square_root(v[i]));
  }
  template <typename L>
  TWOFOUR_DEVICE void write(const Step& step, const Unit& unit, const u64 (&global)[kLaneGroups], Staging& staging,
                            float (&after)[kLane], L) const {
    write_own(unit, static_cast<float*>(step.m), staging, m);
    write_own(unit, static_cast<float*>(step.v), staging, v);
    TWOFOUR_UNROLL
    for (int i = 0; i < int(kLaneGroups); ++i) {
      round_logits(step.logit_keys, global[i], step.draw, after + 6 * i, L{});
    }
  }
};

// Moments of 8 bits; `v` is the root once it has been updated.
struct NarrowMoments {
  float m[kLane];
  float v[kLane];

  TWOFOUR_DEVICE NarrowMoments(const Step& step, const Unit& unit) {
    u32 of_m[3], of_v[3];
    read_own_codes(unit, static_cast<const u8*>(step.m), of_m);
    read_own_codes(unit, static_cast<const u8*>(step.v), of_v);
    const u64 at = unit.first / kUnitGroups * 2;
    const float step_m = CodeOfM::step(load(step.scales + at));
    const float step_v = CodeOfV::step(load(step.scales + at + 1));
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; i += 2) {
      decode_m(of_m[i / 4], i % 4 / 2, step_m, m[i], m[i + 1]);
      decode_root(of_v[i / 4], i % 4 / 2, step_v, v[i], v[i + 1]);
      v[i] *= v[i], v[i + 1] *= v[i + 1];
    }
  }
  TWOFOUR_DEVICE float update(const AdamW& by, int i, float g, bool taken, float logit) {
    m[i] = taken ? next_m(by, m[i], g) : m[i];
    v[i] = nearly_root(taken ? next_v(by, v[i], g) : v[i]);
    return nearly_stepped(by, logit, m[i], v[i]);
  }
  template <typename L>
  TWOFOUR_DEVICE void write(const Step& step, const Unit& unit, const u64 (&global)[kLaneGroups], Staging& staging,
                            float (&after)[kLane], L) const {
    float top[2] = {0, 0};
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; ++i) top[0] = max_nan(top[0], absolute(m[i])), top[1] = max_nan(top[1], v[i]);
    TWOFOUR_UNROLL
    for (int k = 0; k < 2; ++k) {
      const float largest = largest_of_warp(top[k]);
      top[k] = largest < float_of(kNothingBits) ? 0.0f : largest;
    }
    const float inverse_m = CodeOfM::inverse(top[0]), inverse_v = CodeOfV::inverse(top[1]);
    u32 of_m[kLane], of_v[kLane];
    TWOFOUR_UNROLL
    for (int group = 0; group < int(kLaneGroups); ++group) {
      const u32x4 random = random_bits(step.moment_keys, global[group], step.draw);
      const u32 words[4] = {random.x, random.y, random.z, random.w};
      TWOFOUR_UNROLL
      for (int k = 0; k < 6; ++k) {
        const int i = 6 * group + k;
        of_m[i] = encode_m(m[i], inverse_m, field(words[k / 3], k % 3));
        of_v[i] = encode_v(v[i], inverse_v, field(words[2 + k / 3], k % 3));
      }
      round_logits(words, after + 6 * group, L{});
    }
    write_own_codes(unit, static_cast<u8*>(step.m), staging, of_m);
    write_own_codes(unit, static_cast<u8*>(step.v), staging, of_v);
    const u64 at = unit.first / kUnitGroups * 2;
    // All lanes have loaded the old ones; shuffles order no memory.
    sync_warp();
    if (lane() < 2) store(step.scales + at + lane(), lane() == 0 ? top[0] : top[1]);
  }
};

template <typename S>
struct MomentsOf;
template <>
struct MomentsOf<f32> {
  using Type = WideMoments;
};
template <>
struct MomentsOf<u8x384> {
  using Type = NarrowMoments;
};

// Steps a unit's logits by the gradient `g`, those groups that have their bit in `taken`. By all lanes of a warp.
template <typename L, typename S>
TWOFOUR_DEVICE void take_step(const Step& step, const Unit& unit, const u64 (&global)[kLaneGroups],
                              float (&logits)[kLane], const float (&g)[kLane], u32 taken, float factor,
                              Staging& staging, StepSums& sums) {
  // A unit that nothing is known of stays as it is, its scales too.
  if (!any(taken != 0)) return;
  typename MomentsOf<S>::Type moments(step, unit);
  float after[kLane];
  TWOFOUR_UNROLL
  for (int i = 0; i < kLane; ++i) {
    after[i] = moments.update(step.by, i, factor * g[i], taken >> (i / 6) & 1, logits[i]);
  }
  moments.write(step, unit, global, staging, after, L{});
  TWOFOUR_UNROLL
  for (int i = 0; i < kLane; ++i) after[i] = taken >> (i / 6) & 1 ? after[i] : logits[i];
  write_own(unit, static_cast<L*>(step.logits), staging, after);
  if (step.statistics) {
    TWOFOUR_UNROLL
    for (int i = 0; i < int(kLaneGroups); ++i) sums.moved += argmax(after + 6 * i) != argmax(logits + 6 * i);
  }
}

// ---- kernels ----------------------------------------------------------------------------------------------

template <typename L, typename S>
TWOFOUR_DEVICE void update_kernel(const LearnUpdateArgs& args) {
  TWOFOUR_SHARED Staging staging[kWarps];
  Staging& own = staging[warp()];
  const float factor = clip_factor(args.step.factor);
  StepSums sums;
  for_each_unit(args.step.walk, [&](const Unit& unit, const u64(&global)[kLaneGroups]) {
    float logits[kLane], g[kLane];
    read_own<f32>(unit, args.gradient, g);
    read_own<L>(unit, args.step.logits, logits);
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; ++i) g[i] *= args.scale;
    const u32 taken = is_factor(factor) ? measure(unit, g, sums) : (measure(unit, g, sums), 0);
    take_step<L, S>(args.step, unit, global, logits, g, taken, factor, own, sums);
    sums.groups += unit.groups;
    sums.skipped += unit.groups - popcount(taken);
    if (args.zero) {
      const float zeros[kLane] = {};
      write_own(unit, args.gradient, own, zeros);
    }
  });
  if (args.step.statistics || args.step.norm_squares)
    add_up<kWarps>(sums, args.step.statistics, args.step.norm_squares);
}

// The gradients of a lane's logits, and what the statistics want of its masks.
template <typename W, typename G>
TWOFOUR_DEVICE void make_gradient(const LearnFusedArgs& args, const u32x2* lines, const Unit& unit,
                                  const u64 (&global)[kLaneGroups], const float (&logits)[kLane], float (&g)[kLane],
                                  float (&confidence)[kLaneGroups], float (&kept)[kLaneGroups]) {
  float w[4 * kLaneGroups], of_masked[4 * kLaneGroups];
  read_weights<W>(unit, args.weight, w);
  read_weights<G>(unit, args.gradient, of_masked);
  TWOFOUR_UNROLL
  for (int i = 0; i < int(kLaneGroups); ++i) {
    const Masks masks = masks_of(args.differentiation.sampling, lines, global[i], logits + 6 * i, args.hard != 0);
    float used[4];
    used_mask(masks, args.hard != 0, used);
    logit_gradients(args.differentiation, masks, used, w + 4 * i, of_masked + 4 * i, g + 6 * i);
    confidence[i] = masks.confidence;
    kept[i] = kept_energy(w + 4 * i, used);
  }
}

template <typename L, typename S, typename W, typename G>
TWOFOUR_DEVICE void fused_kernel(const LearnFusedArgs& args) {
  TWOFOUR_SHARED GumbelTable table;
  TWOFOUR_SHARED Staging staging[kWarps];
  Staging& own = staging[warp()];
  const u32x2* lines = load_gumbel_lines<kThreads>(table);
  const float factor = clip_factor(args.step.factor);
  StepSums sums;
  for_each_unit(args.step.walk, [&](const Unit& unit, const u64(&global)[kLaneGroups]) {
    float logits[kLane], g[kLane], confidence[kLaneGroups], kept[kLaneGroups];
    read_own<L>(unit, args.step.logits, logits);
    make_gradient<W, G>(args, lines, unit, global, logits, g, confidence, kept);
    const u32 tame = measure(unit, g, sums);
    const u32 taken = is_factor(factor) ? tame : 0;
    if (args.step.statistics) {
      TWOFOUR_UNROLL
      for (int i = 0; i < int(kLaneGroups); ++i) {
        sums.confidence += taken >> i & 1 ? double(confidence[i]) : 0.0;
        sums.kept_energy += taken >> i & 1 ? double(kept[i]) : 0.0;
      }
      sums.groups += unit.groups;
      sums.skipped += unit.groups - popcount(taken);
    }
    if (!args.step.m) return;
    take_step<L, S>(args.step, unit, global, logits, g, taken, factor, own, sums);
  });
  if (args.step.statistics || args.step.norm_squares)
    add_up<kWarps>(sums, args.step.statistics, args.step.norm_squares);
}

// ---- symbols ----------------------------------------------------------------------------------------------

#define FUSED(L, S, name, W, G)                                                               \
  TWOFOUR_KERNEL(twofour_learn_fused_##L##_##name##_##W##_##G, LearnFusedArgs, kThreads, 2) { \
    fused_kernel<L, S, W, G>(args);                                                           \
  }
#define STEPS(L, S, name)                                                                                        \
  TWOFOUR_KERNEL(twofour_learn_update_##L##_##name, LearnUpdateArgs, kThreads, 2) { update_kernel<L, S>(args); } \
  FUSED(L, S, name, f32, f32)                                                                                    \
  FUSED(L, S, name, f16, f16)                                                                                    \
  FUSED(L, S, name, bf16, bf16)                                                                                  \
  FUSED(L, S, name, f16, f32)                                                                                    \
  FUSED(L, S, name, bf16, f32)
#define LOGITS(L)    \
  STEPS(L, f32, f32) \
  STEPS(L, u8x384, u8)

LOGITS(f32)
LOGITS(bf16)

struct LearnNormArgs {
  const float* gradient;
  double* norm_squares;
  u64 groups;
  float scale;
  u32 unused;
};

TWOFOUR_KERNEL(twofour_learn_norm, LearnNormArgs, kThreads, 4) {
  const u64 units = (args.groups + kUnitGroups - 1) / kUnitGroups;
  StepSums sums;
  for (u64 number = u64(block_index()) * kWarps + warp(); number < units; number += u64(block_count()) * kWarps) {
    const Unit unit(number, args.groups);
    float g[kLane];
    read_own<f32>(unit, args.gradient, g);
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; ++i) g[i] *= args.scale;
    measure(unit, g, sums);
  }
  add_up<kWarps>(sums, nullptr, args.norm_squares);
}

struct LearnFinishArgs {
  Statistics* statistics;  // either may be null
  double* norm_squares;
  const Statistics* shares;  // [blocks]
  const double* shares_of_norm;
  u64 blocks;
};

struct Shares {
  Statistics total;
  double squares;

  TWOFOUR_DEVICE void add(const Shares& other) {
    total.add(other.total);
    squares += other.squares;
  }
};

// One block: adds the blocks' shares in a fixed order, so the result depends on the grids alone. Statistics become those
// of this pass, the norm's squares are added to those that are there.
TWOFOUR_KERNEL(twofour_learn_finish, LearnFinishArgs, kThreads, 1) {
  Shares shares = {};
  TWOFOUR_NO_UNROLL
  for (u64 block = thread_index(); block < args.blocks; block += kThreads) {
    if (args.statistics) shares.total.add(load(args.shares + block));
    if (args.norm_squares) shares.squares += load(args.shares_of_norm + block);
  }
  shares = sum_of_threads<kThreads>(shares);
  if (thread_index() != 0) return;
  Statistics& total = shares.total;
  const u64 stepped = total.groups - total.skipped;
  total.confidence = stepped ? total.confidence / double(stepped) : 0.0;
  if (args.statistics) store(args.statistics, total);
  if (args.norm_squares) store(args.norm_squares, load(args.norm_squares) + shares.squares);
}

struct LearnClipArgs {
  double* norm_squares;  // [0] is read, and set to 0
  float* factor;
  float* norm;  // null unless asked for
  double max_norm;
};

// One thread. A NaN stays one, and no step is taken by it.
TWOFOUR_KERNEL(twofour_learn_clip, LearnClipArgs, kWarpSize, 1) {
  if (thread_index() != 0) return;
  const double norm = square_root(load(args.norm_squares));
  const double factor = divide(args.max_norm, norm + 1e-6);
  store(args.factor, factor >= 1.0 ? 1.0f : float(factor));
  if (args.norm) store(args.norm, float(norm));
  store(args.norm_squares, 0.0);
}

}  // namespace twofour
