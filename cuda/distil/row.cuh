// A block goes over a row of logits: first for the largest and for sums of exponentials below them, then to write the
// gradient (src/distil/mod.rs is the contract).
#pragma once

#include "common/vector.cuh"
#include "distil/logarithm.cuh"

namespace twofour {

constexpr u32 kThreads = 512;
constexpr u32 kWarps = kThreads / kWarpSize;
// Logits that a thread takes at a time.
constexpr int kRun = 8;
constexpr float kLog2E = 1.4426950408889634f;

// What is summed besides the student's exponentials: nothing; the teacher's; those, and differences weighed by the
// teacher's or by the student's.
enum class Of : u32 { kStudent, kBoth, kForward, kReverse };

struct DistilArgs {
  void* student;         // [rows, vocab]
  const void* teacher;   // [rows, vocab]; null: none
  float* loss;           // [rows]
  const u32* labels;     // [rows]; null: none
  const float* weights;  // [rows]; null: all 1
  u64 rows;
  u32 vocab;
  u32 ignored;     // the label without cross-entropy
  float exponent;  // log2(e) / temperature
  float temperature;
  float lambda;
  float scale;
  float beta;
  u32 writes;  // 1: the gradient takes the student's place
};
static_assert(sizeof(DistilArgs) == 80, "DistilArgs in src/distil/launch.rs");

// Tokens of a row whose logits count as -infinity: none.
struct Nothing {
  TWOFOUR_DEVICE u32 hidden(u32) const { return 0; }
};

// Those with a bit in shared memory.
struct Bits {
  const u32* words;
  // Bit i is token first + i's, for 8 tokens.
  TWOFOUR_DEVICE u32 hidden(u32 first) const {
    return funnel_shift_right(words[first / 32], words[first / 32 + 1], first % 32) & 0xff;
  }
};

// Calls run(first) for each of this thread's whole runs of a row, kRun tokens whose accesses are aligned, and
// single(token) for the few tokens before and after them.
template <typename T, typename Run, typename Single>
TWOFOUR_DEVICE void for_each_run(u64 base, u32 vocab, Run run, Single single) {
  constexpr u32 per_access = 16 / sizeof(T);
  const u32 misaligned = u32(base % per_access), to_boundary = misaligned ? per_access - misaligned : 0;
  const u32 head = to_boundary < vocab ? to_boundary : vocab, runs = (vocab - head) / kRun;
  const u32 singles = vocab - runs * kRun;
  if (thread_index() < singles) single(thread_index() < head ? thread_index() : runs * kRun + thread_index());
  for (u32 i = thread_index(); i < runs; i += kThreads) run(head + i * kRun);
}

template <int n>
TWOFOUR_DEVICE void hide(u32 marks, float (&z)[n]) {
  if (marks == 0) return;
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) z[i] = marks >> i & 1 ? -infinity() : z[i];
}

// ---- sums -------------------------------------------------------------------------------------------------

// Of some logits: sums of exponentials below the largest, and of differences. "Below" is a logit less the largest.
struct Sums {
  float student, teacher;
  float apart;  // the student's exponentials at temperature 1
  float cross;
  float top_student, top_teacher;
};

// Of none. The largest is finite, so that differences are.
TWOFOUR_DEVICE Sums no_sums() {
  constexpr float least = -3.40282347e38f;
  return {0, 0, 0, 0, least, least};
}

// What has underflowed does not count, were its difference infinite.
TWOFOUR_DEVICE float fallen(float factor, float cross) { return factor == 0.0f ? 0.0f : factor * cross; }

// To larger logits than those that sums are below. NaN where one is NaN.
template <Of of>
TWOFOUR_DEVICE void raise(Sums& sums, float exponent, bool apart, float student, float teacher) {
  // Where there are no sums, nothing falls.
  const float fall = sums.student > 0.0f ? sums.top_student - student : 0.0f;
  const float factor = ex2_approx(fall * exponent);
  if constexpr (of != Of::kStudent) {
    const float fall_teacher = sums.teacher > 0.0f ? sums.top_teacher - teacher : 0.0f;
    const float factor_teacher = ex2_approx(fall_teacher * exponent);
    if constexpr (of == Of::kForward) {
      sums.cross = fallen(factor_teacher, fma(sums.teacher, fall_teacher - fall, sums.cross));
    }
    if constexpr (of == Of::kReverse) {
      sums.cross = fallen(factor, fma(sums.student, fall - fall_teacher, sums.cross));
    }
    sums.top_teacher = teacher;
    sums.teacher *= factor_teacher;
  }
  sums.top_student = student;
  sums.student *= factor;
  if (apart) sums.apart *= ex2_approx(fall * kLog2E);
}

template <Of of, int n>
TWOFOUR_DEVICE void add(Sums& sums, float exponent, bool apart, const float (&s)[n], const float (&t)[n]) {
  float top_student = sums.top_student, top_teacher = sums.top_teacher;
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) {
    top_student = max_nan(top_student, s[i]);
    if constexpr (of != Of::kStudent) top_teacher = max_nan(top_teacher, t[i]);
  }
  raise<of>(sums, exponent, apart, top_student, top_teacher);
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) {
    const float below = s[i] - top_student, e = ex2_approx(below * exponent);
    sums.student += e;
    if (apart) sums.apart += ex2_approx(below * kLog2E);
    if constexpr (of != Of::kStudent) {
      const float below_teacher = t[i] - top_teacher, f = ex2_approx(below_teacher * exponent);
      sums.teacher += f;
      if constexpr (of == Of::kForward) sums.cross += f == 0.0f ? 0.0f : f * (below_teacher - below);
      if constexpr (of == Of::kReverse) sums.cross += e == 0.0f ? 0.0f : e * (below - below_teacher);
    }
  }
}

template <Of of>
TWOFOUR_DEVICE void merge(Sums& sums, Sums other, float exponent, bool apart) {
  const float top_student = max_nan(sums.top_student, other.top_student);
  const float top_teacher = max_nan(sums.top_teacher, other.top_teacher);
  raise<of>(sums, exponent, apart, top_student, top_teacher);
  raise<of>(other, exponent, apart, top_student, top_teacher);
  sums.student += other.student;
  sums.teacher += other.teacher;
  sums.apart += other.apart;
  sums.cross += other.cross;
}

// The sums of all threads of the block, for all of them. A barrier before and after.
template <Of of>
TWOFOUR_DEVICE Sums merge_all(Sums sums, float exponent, bool apart) {
  TWOFOUR_SHARED Sums of_warps[kWarps];
  for (u32 delta = kWarpSize / 2; delta > 0; delta /= 2) {
    Sums other = no_sums();
    other.student = shuffle_xor(sums.student, delta), other.top_student = shuffle_xor(sums.top_student, delta);
    if (apart) other.apart = shuffle_xor(sums.apart, delta);
    if constexpr (of != Of::kStudent) {
      other.teacher = shuffle_xor(sums.teacher, delta), other.top_teacher = shuffle_xor(sums.top_teacher, delta);
    }
    if constexpr (of == Of::kForward || of == Of::kReverse) other.cross = shuffle_xor(sums.cross, delta);
    merge<of>(sums, other, exponent, apart);
  }
  sync_threads();
  if (lane() == 0) of_warps[warp()] = sums;
  sync_threads();
  sums = of_warps[0];
  TWOFOUR_NO_UNROLL
  for (u32 w = 1; w < kWarps; ++w) merge<of>(sums, of_warps[w], exponent, apart);
  return sums;
}

// The sum of a number, or of two, of all threads of the block, for all of them. A barrier before and after.
struct Two {
  double a, b;
  TWOFOUR_DEVICE void operator+=(Two other) { a += other.a, b += other.b; }
};
TWOFOUR_DEVICE Two shuffle_xor(Two x, u32 mask) { return {shuffle_xor(x.a, mask), shuffle_xor(x.b, mask)}; }

template <typename N>
TWOFOUR_DEVICE N add_all(N x) {
  TWOFOUR_SHARED N of_warps[kWarps];
  for (u32 delta = kWarpSize / 2; delta > 0; delta /= 2) x += shuffle_xor(x, delta);
  sync_threads();
  if (lane() == 0) of_warps[warp()] = x;
  sync_threads();
  x = of_warps[0];
  TWOFOUR_NO_UNROLL
  for (u32 w = 1; w < kWarps; ++w) x += of_warps[w];
  return x;
}

template <typename T, Of of, int n, typename Hidden>
TWOFOUR_DEVICE void sum_run(Sums& sums, const DistilArgs& args, bool apart, Hidden hidden, u64 base, u32 first) {
  float s[n], t[n] = {};
  read_own<n == kRun, T>(args.student, base + first, s);
  if constexpr (of != Of::kStudent) read<n == kRun, T>(args.teacher, base + first, t);
  hide(hidden.hidden(first), s);
  add<of>(sums, args.exponent, apart, s, t);
}

// The sums of a row, for all threads of the block.
template <typename T, Of of, typename Hidden>
TWOFOUR_DEVICE Sums sum_row(const DistilArgs& args, bool apart, Hidden hidden, u64 base) {
  Sums sums = no_sums();
  for_each_run<T>(
      base, args.vocab, [&](u32 first) { sum_run<T, of, kRun>(sums, args, apart, hidden, base, first); },
      [&](u32 token) { sum_run<T, of, 1>(sums, args, apart, hidden, base, token); });
  return merge_all<of>(sums, args.exponent, apart);
}

TWOFOUR_DEVICE bool is_sum(float sum) { return sum > 0.0f && sum < infinity(); }

// ---- the gradient -----------------------------------------------------------------------------------------

// What a row has of its own.
struct Row {
  u64 base;
  float weight;    // NaN: the row has no loss
  bool has_label;  // that counts
  bool apart;      // exponentials at temperature 1 are sums of their own
  u32 label;
  float label_logit;  // the student's
};

// Reads it, before anything is written.
template <typename T>
TWOFOUR_DEVICE Row row_of(const DistilArgs& args, u64 row) {
  Row own = {};
  own.base = row * args.vocab;
  own.weight = args.weights ? load(args.weights + row) : 1.0f;
  own.apart = args.labels && args.temperature != 1.0f;
  if (!args.labels || own.weight == 0.0f) return own;
  own.label = load(args.labels + row);
  own.has_label = own.label != args.ignored;
  if (!own.has_label) return own;
  if (own.label >= args.vocab) {
    own.weight = not_a_number();
    return own;
  }
  own.label_logit = to_float(load(static_cast<const T*>(args.student) + own.base + own.label));
  return own;
}

// What the gradient is made of.
struct Slope {
  float top_student, top_teacher;
  float inverse_student, inverse_teacher;  // 1 over the sums of exponentials
  float factor;                            // of the divergence's gradient
  float mean;                              // under the student, of differences or logarithms
  float of_label;                          // of exponentials at temperature 1
  float at_label;                          // is subtracted there
};

TWOFOUR_DEVICE Slope slope_of(const DistilArgs& args, const Row& row, const Sums& sums) {
  Slope slope = {};
  slope.top_student = sums.top_student, slope.top_teacher = sums.top_teacher;
  slope.inverse_student = divide(1.0f, sums.student), slope.inverse_teacher = divide(1.0f, sums.teacher);
  // NaN in every gradient if the row has none.
  slope.factor = row.weight * 0.0f;
  if (!row.has_label) return slope;
  slope.at_label = args.lambda * (row.weight * args.scale);
  slope.of_label = divide(slope.at_label, row.apart ? sums.apart : sums.student);
  return slope;
}

template <Of of, int n>
TWOFOUR_DEVICE void differentiate(const DistilArgs& args, const Slope& slope, bool apart, const float (&t)[n],
                                  float (&s)[n]) {
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) {
    const float below = s[i] - slope.top_student, e = ex2_approx(below * args.exponent);
    const float p = e * slope.inverse_student;
    float gradient = p;
    if constexpr (of != Of::kStudent) {
      const float below_teacher = t[i] - slope.top_teacher;
      if constexpr (of == Of::kReverse) {
        gradient = e == 0.0f ? 0.0f : p * (below - below_teacher - slope.mean);
      } else {
        const float q = ex2_approx(below_teacher * args.exponent) * slope.inverse_teacher;
        gradient = of == Of::kForward ? p - q : p * (log_over_mean(p, q, args.beta) - slope.mean);
      }
    }
    s[i] = fma(gradient, slope.factor, slope.of_label * (apart ? ex2_approx(below * kLog2E) : e));
  }
}

template <typename T, Of of, int n, typename Hidden>
TWOFOUR_DEVICE void write_run(const DistilArgs& args, const Row& row, const Slope& slope, Hidden hidden, u32 first) {
  float s[n], t[n] = {};
  read_own<n == kRun, T>(args.student, row.base + first, s);
  if constexpr (of != Of::kStudent) read<n == kRun, T>(args.teacher, row.base + first, t);
  hide(hidden.hidden(first), s);
  differentiate<of>(args, slope, row.apart, t, s);
  if (row.has_label && row.label - first < n) {
    TWOFOUR_UNROLL
    for (u32 i = 0; i < n; ++i) s[i] -= first + i == row.label ? slope.at_label : 0.0f;
  }
  write<n == kRun, T>(args.student, row.base + first, s);
}

template <typename T, Of of, typename Hidden>
TWOFOUR_DEVICE void write_row(const DistilArgs& args, const Row& row, const Slope& slope, Hidden hidden) {
  for_each_run<T>(
      row.base, args.vocab, [&](u32 first) { write_run<T, of, kRun>(args, row, slope, hidden, first); },
      [&](u32 token) { write_run<T, of, 1>(args, row, slope, hidden, token); });
}

template <typename T, int n>
TWOFOUR_DEVICE void zero_run(const DistilArgs& args, const Row& row, u32 first) {
  const float zeros[n] = {};
  write<n == kRun, T>(args.student, row.base + first, zeros);
}

// A row of weight 0.
template <typename T>
TWOFOUR_DEVICE void skip_row(const DistilArgs& args, const Row& row, u64 number) {
  if (thread_index() == 0) store(args.loss + number, 0.0f);
  if (!args.writes) return;
  for_each_run<T>(
      row.base, args.vocab, [&](u32 first) { zero_run<T, kRun>(args, row, first); },
      [&](u32 token) { zero_run<T, 1>(args, row, token); });
}

// Writes the loss, of this divergence. By one thread.
TWOFOUR_DEVICE void store_loss(const DistilArgs& args, const Row& row, u64 number, const Sums& sums,
                               double divergence) {
  const double temperature = args.temperature;
  // What is below 0 is rounding.
  double loss = divergence < 0.0 ? 0.0 : temperature * temperature * divergence;
  if (row.has_label) {
    const double below = double(row.label_logit) - double(sums.top_student);
    loss += double(args.lambda) * (logarithm(double(row.apart ? sums.apart : sums.student)) - below);
  }
  store(args.loss + number, float(double(row.weight) * loss));
}

}  // namespace twofour
