// SquareHead's loss of hidden states (src/distil/squarehead.rs is the contract).
//
// Symbols: twofour_distil_squares_{states} leaves each block's share of the sums of squares, twofour_distil_share adds
// them up to the loss, twofour_distil_pull_{states} writes the gradient.

#include "common/sums.cuh"
#include "common/vector.cuh"
#include "common/walk.cuh"

namespace twofour {

constexpr u32 kThreads = 256;
constexpr u32 kWarps = kThreads / kWarpSize;
// Elements that a thread takes at a time.
constexpr int kRun = 8;

// Sums of squares: of the differences, and of the teacher's states.
struct Squares {
  double differences, teacher;

  TWOFOUR_DEVICE void add(const Squares& other) { differences += other.differences, teacher += other.teacher; }
};

struct SquaresArgs {
  void* student;
  const void* teacher;
  float* loss;
  Squares* sums;  // [0] for the gradient's factor, [1 + block] for the blocks
  u64 elements;
  u32 blocks;  // that leave a share
  float epsilon;
  float scale;
  u32 unused;
};
static_assert(sizeof(SquaresArgs) == 56, "SquaresArgs in src/distil/launch.rs");

template <typename T, bool whole, int n>
TWOFOUR_DEVICE void add(const SquaresArgs& args, u64 first, float& differences, float& teacher) {
  float s[n], t[n];
  read_own<whole, T>(args.student, first, s);
  read<whole, T>(args.teacher, first, t);
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) {
    differences = fma(s[i] - t[i], s[i] - t[i], differences);
    teacher = fma(t[i], t[i], teacher);
  }
}

template <typename T>
TWOFOUR_DEVICE void squares_kernel(const SquaresArgs& args) {
  TWOFOUR_SHARED Squares of_warps[kWarps];
  const u64 runs = args.elements / kRun;
  float differences = 0, teacher = 0;
  for_each(runs, [&](u64 run) { add<T, true, kRun>(args, run * kRun, differences, teacher); });
  for_each(args.elements % kRun, [&](u64 i) { add<T, false, 1>(args, runs * kRun + i, differences, teacher); });
  Squares sums = {differences, teacher};
  for (u32 delta = kWarpSize / 2; delta > 0; delta /= 2) {
    sums.differences += shuffle_down(sums.differences, delta);
    sums.teacher += shuffle_down(sums.teacher, delta);
  }
  if (lane() == 0) of_warps[warp()] = sums;
  sync_threads();
  if (thread_index() != 0) return;
  for (u32 w = 1; w < kWarps; ++w) sums.add(of_warps[w]);
  store(args.sums + 1 + block_index(), sums);
}

template <typename T, bool whole, int n>
TWOFOUR_DEVICE void pull(const SquaresArgs& args, float factor, u64 first) {
  float s[n], t[n];
  read_own<whole, T>(args.student, first, s);
  read<whole, T>(args.teacher, first, t);
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) s[i] = (s[i] - t[i]) * factor;
  write<whole, T>(args.student, first, s);
}

template <typename T>
TWOFOUR_DEVICE void pull_kernel(const SquaresArgs& args) {
  const float factor = float(load(args.sums).differences);
  const u64 runs = args.elements / kRun;
  for_each(runs, [&](u64 run) { pull<T, true, kRun>(args, factor, run * kRun); });
  for_each(args.elements % kRun, [&](u64 i) { pull<T, false, 1>(args, factor, runs * kRun + i); });
}

#define OF_TYPE(T)                                                                                  \
  TWOFOUR_KERNEL(twofour_distil_squares_##T, SquaresArgs, kThreads, 4) { squares_kernel<T>(args); } \
  TWOFOUR_KERNEL(twofour_distil_pull_##T, SquaresArgs, kThreads, 4) { pull_kernel<T>(args); }

OF_TYPE(f32)
OF_TYPE(f16)
OF_TYPE(bf16)

// One block: adds the shares in a fixed order, so the result depends on the number of elements alone.
TWOFOUR_KERNEL(twofour_distil_share, SquaresArgs, kThreads, 1) {
  Squares all = {0, 0};
  for (u32 block = thread_index(); block < args.blocks; block += kThreads) all.add(load(args.sums + 1 + block));
  all = sum_of_threads<kThreads>(all);
  if (thread_index() != 0) return;
  const double elements = double(args.elements), size = all.teacher / elements + double(args.epsilon);
  store(args.loss, load(args.loss) + float(all.differences / elements / size));
  // A NaN among the sums is to be one in every gradient.
  const double lost = all.differences != all.differences ? all.differences : 0.0;
  store(args.sums, Squares{2.0 * double(args.scale) / elements / size + lost, 0.0});
}

}  // namespace twofour
