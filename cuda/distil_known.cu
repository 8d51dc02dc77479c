// Top-k teachers (src/distil/mod.rs and src/distil/top_k.rs are the contract): the loss and gradient of rows whose
// teacher is k tokens and their log-probabilities, and such teachers made of logits. A block takes a row.
//
// Symbols: twofour_distil_known_{logits} is the loss and gradient, twofour_distil_top_{logits} makes a teacher.

#include "distil/row.cuh"

namespace twofour {

struct KnownArgs {
  DistilArgs row;    // without a teacher; to make one, its logits are the student
  u32* tokens;       // [rows, k]
  float* log_probs;  // [rows, k]
  u32 k;
  u32 lumped;  // 1: what the teacher has left is one bucket
};
static_assert(sizeof(KnownArgs) == 104, "KnownArgs in src/distil/launch.rs");

// Below this, what is left is the rounding of the k.
constexpr double kLeastRest = 1.0 / (1 << 20);

// ---- the loss ---------------------------------------------------------------------------------------------

// A row's k tokens in shared memory: how far their logits are below the largest.
struct Known {
  const u32* tokens;
  const float* log_probs;
  float* below;
};

// Marks the k tokens and reads their logits; gives whether all are in the vocabulary. Barriers before and after are the
// caller's. Each word is one thread's.
template <typename T>
TWOFOUR_DEVICE bool mark(const KnownArgs& args, const Row& row, const Known& known, u32* words) {
  const u32 vocab = args.row.vocab;
  bool is_right = true;
  for (u32 i = thread_index(); i < vocab / 32 + 2; i += kThreads) words[i] = 0;
  constexpr u32 kAtOnce = 4;
  for (u32 first = 0; first < args.k; first += kAtOnce) {
    // Under way together. Of the last few some are the last one again, whose mark is there.
    u32 tokens[kAtOnce];
    TWOFOUR_UNROLL
    for (u32 i = 0; i < kAtOnce; ++i) tokens[i] = load(known.tokens + (first + i < args.k ? first + i : args.k - 1));
    TWOFOUR_UNROLL
    for (u32 i = 0; i < kAtOnce; ++i) {
      const u32 token = tokens[i];
      is_right = is_right && token < vocab;
      if (token < vocab && token / 32 % kThreads == thread_index()) words[token / 32] |= 1u << token % 32;
    }
  }
  for (u32 j = thread_index(); j < args.k; j += kThreads) {
    const u32 token = load(known.tokens + j);
    known.below[j] = token < vocab ? to_float(load(static_cast<const T*>(args.row.student) + row.base + token)) : 0.0f;
  }
  return is_right;
}

// Sums of the k alone, for all threads of the block.
TWOFOUR_DEVICE Sums sum_known(const KnownArgs& args, const Row& row, const Known& known) {
  Sums sums = no_sums();
  for (u32 j = thread_index(); j < args.k; j += kThreads) {
    const float s[1] = {known.below[j]}, t[1] = {};
    add<Of::kStudent>(sums, args.row.exponent, row.apart, s, t);
  }
  return merge_all<Of::kStudent>(sums, args.row.exponent, row.apart);
}

// The divergence of a row, and what the gradient takes from it.
struct Far {
  double divergence;
  double log_known;  // what the k's log-probabilities are less by
  double others;     // how much of the student's gradient the other tokens have
};

// Makes of the k's logits how far they are below the largest. `others` is the student's sum without the k.
TWOFOUR_DEVICE Far measure(const KnownArgs& args, const Known& known, const Sums& sums, float others) {
  const double temperature = args.row.temperature, log_sum = logarithm(double(sums.student));
  Two own = {0, 0};
  for (u32 j = thread_index(); j < args.k; j += kThreads) {
    known.below[j] -= sums.top_student;
    const double log_prob = load(known.log_probs + j), q = exponential(log_prob);
    own.a += q;
    own.b += q == 0.0 ? 0.0 : q * (log_prob - double(known.below[j]) / temperature);
  }
  const Two all = add_all(own);
  if (!args.lumped) {
    const double log_known = logarithm(all.a);
    return {divide(all.b, all.a) - log_known + log_sum, log_known, 1.0};
  }
  const double of_known = all.b + all.a * log_sum, rest = 1.0 - all.a;
  if (args.k == args.row.vocab || rest < kLeastRest) return {of_known, 0.0, 1.0};
  const double left = double(others) / double(sums.student);
  if (left == 0.0) return {of_known + double(infinity()), 0.0, 1.0};
  return {of_known + rest * (logarithm(rest) - logarithm(left)), 0.0, 1.0 - divide(rest, left)};
}

// Overwrites the gradients of the k.
template <typename T>
TWOFOUR_DEVICE void write_known(const KnownArgs& args, const Row& row, const Known& known, const Slope& slope,
                                double log_known, float factor) {
  for (u32 j = thread_index(); j < args.k; j += kThreads) {
    const u32 token = load(known.tokens + j);
    if (token >= args.row.vocab) continue;
    const float below = known.below[j], e = ex2_approx(below * args.row.exponent);
    const double q = exponential(double(load(known.log_probs + j)) - log_known);
    float gradient = float(double(e * slope.inverse_student) - q);
    gradient = fma(gradient, factor, slope.of_label * (row.apart ? ex2_approx(below * kLog2E) : e));
    if (row.has_label && token == row.label) gradient -= slope.at_label;
    store(static_cast<T*>(args.row.student) + row.base + token, from_float<T>(gradient));
  }
}

template <typename T>
TWOFOUR_DEVICE void known_kernel(const KnownArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(u32, words);
  float* const below = reinterpret_cast<float*>(words + args.row.vocab / 32 + 2);
  TWOFOUR_NO_UNROLL
  for (u64 number = block_index(); number < args.row.rows; number += block_count()) {
    Row row = row_of<T>(args.row, number);
    if (row.weight == 0.0f) {
      skip_row<T>(args.row, row, number);
      continue;
    }
    const Known known = {args.tokens + number * args.k, args.log_probs + number * args.k, below};
    sync_threads();
    if (!mark<T>(args, row, known, words)) row.weight = not_a_number();
    sync_threads();
    Sums sums = sum_row<T, Of::kStudent>(args.row, row.apart, Bits{words}, row.base);
    const Sums own = sum_known(args, row, known);
    raise<Of::kStudent>(sums, args.row.exponent, row.apart, max_nan(sums.top_student, own.top_student), 0.0f);
    const float others = sums.student;
    merge<Of::kStudent>(sums, own, args.row.exponent, row.apart);
    const Far far = measure(args, known, sums, others);
    if (!is_sum(sums.student) || far.divergence != far.divergence) row.weight = not_a_number();
    Slope slope = slope_of(args.row, row, sums);
    const double factor = double(args.row.temperature) * (double(row.weight) * double(args.row.scale));
    slope.factor = float(factor * far.others);
    if (thread_index() == 0) store_loss(args.row, row, number, sums, far.divergence);
    if (!args.row.writes) continue;
    write_row<T, Of::kStudent>(args.row, row, slope, Bits{words});
    sync_threads();
    write_known<T>(args, row, known, slope, far.log_known, float(factor));
  }
}

// ---- a teacher of logits ----------------------------------------------------------------------------------

// Bits of a float that are always the same in a type.
template <typename T>
constexpr u32 kUnused = 0;
template <>
constexpr u32 kUnused<f16> = 13;
template <>
constexpr u32 kUnused<bf16> = 16;

// Ordered as the logits are, -0 as 0.
template <typename T>
TWOFOUR_DEVICE u32 key_of(const void* logits, u64 element) {
  const u32 bits = bits_of(to_float(load(static_cast<const T*>(logits) + element)) + 0.0f);
  return (bits >> 31 ? ~bits : bits | 0x80000000u) >> kUnused<T>;
}

// The key of the k-th largest logit of a row, or a lower one that just k exceed; gives in `above` how many do.
template <typename T>
TWOFOUR_DEVICE u32 least_key(const KnownArgs& args, u64 base, u32& above) {
  u32 least = 0;
  above = 0;
  for (u32 bit = 32 - kUnused<T>; bit-- > 0;) {
    const u32 candidate = least | 1u << bit;
    u32 count = 0;
    for (u64 v = thread_index(); v < args.row.vocab; v += kThreads) {
      count += key_of<T>(args.row.student, base + v) >= candidate;
    }
    const u32 all = add_all(count);
    if (all == args.k) {
      // All of these and no other: none is equal to the one below them.
      above = all;
      return candidate - 1;
    }
    if (all > args.k) least = candidate;
    else above = all;
  }
  return least;
}

// What a warp, or all before it, has of the larger logits and of those that are equal to the k-th.
struct Counts {
  u32 above, equal;
};

// Writes the chosen tokens in order, of equal logits the first.
template <typename T>
TWOFOUR_DEVICE void write_top(const KnownArgs& args, u64 base, u64 place, const Sums& sums) {
  TWOFOUR_SHARED Counts of_warps[kWarps];
  u32 above;
  const u32 least = least_key<T>(args, base, above), equal = args.k - above;
  const double log_sum = logarithm(double(sums.student));
  Counts before = {0, 0};
  for (u64 first = 0; first < args.row.vocab; first += kThreads) {
    const u64 v = first + thread_index();
    const u32 key = v < args.row.vocab ? key_of<T>(args.row.student, base + v) : 0;
    const bool is_above = key > least, is_equal = v < args.row.vocab && key == least;
    const u32 all_above = ballot(is_above), all_equal = ballot(is_equal), lanes_before = (1u << lane()) - 1;
    sync_threads();
    if (lane() == 0) of_warps[warp()] = {popcount(all_above), popcount(all_equal)};
    sync_threads();
    Counts own = {popcount(all_above & lanes_before), popcount(all_equal & lanes_before)};
    Counts tile = {0, 0};
    for (u32 w = 0; w < kWarps; ++w) {
      const Counts counts = of_warps[w];
      if (w < warp()) own.above += counts.above, own.equal += counts.equal;
      tile.above += counts.above, tile.equal += counts.equal;
    }
    own.above += before.above, own.equal += before.equal;
    before.above += tile.above, before.equal += tile.equal;
    if (!is_above && !(is_equal && own.equal < equal)) continue;
    const u64 at = place + own.above + (own.equal < equal ? own.equal : equal);
    const double below = double(to_float(load(static_cast<const T*>(args.row.student) + base + v))) - sums.top_student;
    store(args.tokens + at, u32(v));
    store(args.log_probs + at, float(below / double(args.row.temperature) - log_sum));
  }
}

template <typename T>
TWOFOUR_DEVICE void top_kernel(const KnownArgs& args) {
  TWOFOUR_NO_UNROLL
  for (u64 number = block_index(); number < args.row.rows; number += block_count()) {
    const u64 base = number * args.row.vocab, place = number * args.k;
    const Sums sums = sum_row<T, Of::kStudent>(args.row, false, Nothing{}, base);
    if (is_sum(sums.student)) {
      write_top<T>(args, base, place, sums);
      continue;
    }
    for (u32 j = thread_index(); j < args.k; j += kThreads) {
      store(args.tokens + place + j, j);
      store(args.log_probs + place + j, not_a_number());
    }
  }
}

#define OF_TYPE(T)                                                                            \
  TWOFOUR_KERNEL(twofour_distil_known_##T, KnownArgs, kThreads, 2) { known_kernel<T>(args); } \
  TWOFOUR_KERNEL(twofour_distil_top_##T, KnownArgs, kThreads, 2) { top_kernel<T>(args); }

OF_TYPE(f32)
OF_TYPE(f16)
OF_TYPE(bf16)

}  // namespace twofour
