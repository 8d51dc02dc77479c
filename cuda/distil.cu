// Distillation: a loss of each row of logits and its gradient, in place (src/distil/mod.rs is the contract). A block
// takes a row, so that no result depends on the grid; the second sweep finds in the level-2 cache what the first read.
//
// Symbols: twofour_distil_labels_{logits} is cross-entropy alone;
//          twofour_distil_forward_{logits}, _reverse_ and _jsd_ have a divergence from a teacher's logits beside it.

#include "distil/row.cuh"

namespace twofour {

// Adds q ln(q/m) and p ln(p/m) of n tokens.
template <typename T, int n>
TWOFOUR_DEVICE void add_differences(float& of_teacher, float& of_student, const DistilArgs& args, const Row& row,
                                    const Slope& slope, u32 first) {
  float s[n], t[n];
  read_own<n == kRun, T>(args.student, row.base + first, s);
  read<n == kRun, T>(args.teacher, row.base + first, t);
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) {
    const float p = ex2_approx((s[i] - slope.top_student) * args.exponent) * slope.inverse_student;
    const float q = ex2_approx((t[i] - slope.top_teacher) * args.exponent) * slope.inverse_teacher;
    of_teacher += q * log_over_mean(q, p, 1.0f - args.beta);
    of_student += p * log_over_mean(p, q, args.beta);
  }
}

// Their sums over a row, for all threads of the block.
template <typename T>
TWOFOUR_DEVICE Two differences(const DistilArgs& args, const Row& row, const Slope& slope) {
  float of_teacher = 0, of_student = 0;
  for_each_run<T>(
      row.base, args.vocab,
      [&](u32 first) { add_differences<T, kRun>(of_teacher, of_student, args, row, slope, first); },
      [&](u32 token) { add_differences<T, 1>(of_teacher, of_student, args, row, slope, token); });
  return add_all(Two{of_teacher, of_student});
}

// The divergence of a row, and what of the slope comes from it.
template <typename T, Of of>
TWOFOUR_DEVICE double divergence(const DistilArgs& args, const Row& row, const Sums& sums, Slope& slope) {
  const double temperature = args.temperature, unit = double(row.weight) * double(args.scale);
  if constexpr (of == Of::kStudent) {
    return 0.0;
  } else if constexpr (of == Of::kBoth) {
    const Two sum = differences<T>(args, row, slope);
    slope.factor = float(temperature * unit * (1.0 - double(args.beta)));
    slope.mean = float(sum.b);
    return double(args.beta) * sum.a + (1.0 - double(args.beta)) * sum.b;
  } else {
    const double students = logarithm(double(sums.student)), teachers = logarithm(double(sums.teacher));
    const double mean = double(sums.cross) / double(of == Of::kForward ? sums.teacher : sums.student);
    if constexpr (of == Of::kForward) {
      slope.factor = float(temperature * unit);
      return mean / temperature + students - teachers;
    }
    slope.factor = absolute(sums.cross) < infinity() ? float(unit) : not_a_number();
    slope.mean = float(mean);
    return mean / temperature + teachers - students;
  }
}

template <typename T, Of of>
TWOFOUR_DEVICE void row_kernel(const DistilArgs& args) {
  TWOFOUR_NO_UNROLL
  for (u64 number = block_index(); number < args.rows; number += block_count()) {
    Row row = row_of<T>(args, number);
    if (row.weight == 0.0f) {
      skip_row<T>(args, row, number);
      continue;
    }
    const Sums sums = sum_row<T, of>(args, row.apart, Nothing{}, row.base);
    if (!is_sum(sums.student) || (of != Of::kStudent && !is_sum(sums.teacher))) row.weight = not_a_number();
    Slope slope = slope_of(args, row, sums);
    const double far = divergence<T, of>(args, row, sums, slope);
    if (thread_index() == 0) store_loss(args, row, number, sums, far);
    if (args.writes) write_row<T, of>(args, row, slope, Nothing{});
  }
}

#define OF_TYPE(T)                                                                                           \
  TWOFOUR_KERNEL(twofour_distil_labels_##T, DistilArgs, kThreads, 2) { row_kernel<T, Of::kStudent>(args); }  \
  TWOFOUR_KERNEL(twofour_distil_forward_##T, DistilArgs, kThreads, 2) { row_kernel<T, Of::kForward>(args); } \
  TWOFOUR_KERNEL(twofour_distil_reverse_##T, DistilArgs, kThreads, 2) { row_kernel<T, Of::kReverse>(args); } \
  TWOFOUR_KERNEL(twofour_distil_jsd_##T, DistilArgs, kThreads, 2) { row_kernel<T, Of::kBoth>(args); }

OF_TYPE(f32)
OF_TYPE(f16)
OF_TYPE(bf16)

}  // namespace twofour
