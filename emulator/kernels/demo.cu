// The kernel of examples/develop.rs: the sum of each block's 1024 numbers.
#include "common/ptx.cuh"

namespace twofour {

struct SumArgs {
  const float* in;
  float* sums;  // one for each block
  u64 count;
};

TWOFOUR_DEVICE float warp_sum(float x) {
  for (u32 step = 16; step > 0; step /= 2) x += shuffle_xor(x, step);
  return x;
}

TWOFOUR_KERNEL(twofour_demo_sum, SumArgs, 256, 4) {
  TWOFOUR_SHARED float warp_sums[8];
  float sum = 0.0f;
  const u64 first = u64(block_index()) * 1024;
  for (u64 i = first + thread_index(); i < first + 1024 && i < args.count; i += block_size()) sum += load(args.in + i);
  sum = warp_sum(sum);
  if (lane() == 0) warp_sums[warp()] = sum;
  sync_threads();
  if (warp() == 0) {
    sum = warp_sum(lane() < 8 ? warp_sums[lane()] : 0.0f);
    if (lane() == 0) store(args.sums + block_index(), sum);
  }
}

}  // namespace twofour
