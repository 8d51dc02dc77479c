// The noise by itself: to compare executors over its whole domain, and to feed the same noise to another framework.
//
// Symbols: twofour_noise_gumbels writes the six variates of each of a run of groups;
//          twofour_noise_table those of a run of 21-bit fields.

#include "common/gumbel.cuh"

namespace twofour {

constexpr u32 kNoiseThreads = 256;

struct NoiseGumbelsArgs {
  float* out;  // [groups, 6]
  u64 first;   // global number of the first group
  u64 groups;
  Noise noise;
};

TWOFOUR_KERNEL(twofour_noise_gumbels, NoiseGumbelsArgs, kNoiseThreads, 1) {
  TWOFOUR_SHARED GumbelTable table;
  const u32x2* lines = load_gumbel_lines<kNoiseThreads>(table);
  for (u64 i = u64(block_index()) * kNoiseThreads + thread_index(); i < args.groups;
       i += u64(block_count()) * kNoiseThreads) {
    float g[6];
    gumbels(args.noise, lines, args.first + i, g);
    TWOFOUR_UNROLL
    for (int p = 0; p < 6; ++p) store(args.out + 6 * i + p, g[p]);
  }
}

struct NoiseTableArgs {
  float* out;  // [count]
  u64 first;   // the first field
  u64 count;
};

TWOFOUR_KERNEL(twofour_noise_table, NoiseTableArgs, kNoiseThreads, 1) {
  TWOFOUR_SHARED GumbelTable table;
  const u32x2* lines = load_gumbel_lines<kNoiseThreads>(table);
  for (u64 i = u64(block_index()) * kNoiseThreads + thread_index(); i < args.count;
       i += u64(block_count()) * kNoiseThreads) {
    store(args.out + i, gumbel(lines, float_of(u32(args.first + i) << 2 | 0x3f800002u)));
  }
}

}  // namespace twofour
