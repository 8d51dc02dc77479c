// The masked weight by a mask that is frozen: from the weight and its codes (src/mask/mod.rs is the contract). A thread
// takes two groups at a time, whose codes share a byte.
//
// Symbols: twofour_mask_frozen_{weights}

#include "common/vector.cuh"
#include "common/walk.cuh"

namespace twofour {

struct MaskFrozenArgs {
  const void* weight;
  const u8* codes;
  void* masked;
  u64 groups;
};

// A group under its code: +0 where it is dropped, NaN if the code is none of the six.
TWOFOUR_DEVICE void keep_group(u32 code, f32* w) {
  const bool legal = code % 4 < code / 4;
  for (u32 j = 0; j < 4; ++j) {
    const bool kept = code % 4 == j || code / 4 == j;
    w[j] = !legal ? not_a_number() : kept ? w[j] : 0.0f;
  }
}

template <typename W>
TWOFOUR_DEVICE void frozen_kernel(const MaskFrozenArgs& args) {
  for_each((args.groups + 1) / 2, [&](u64 pair) {
    const u32 codes = load(args.codes + pair);
    float w[8];
    if (2 * pair + 1 < args.groups) {
      read<true, W>(args.weight, 8 * pair, w);
      keep_group(codes % 16, w), keep_group(codes / 16, w + 4);
      write<true, W>(args.masked, 8 * pair, w);
    } else {
      float last[4];
      read<false, W>(args.weight, 8 * pair, last);
      keep_group(codes % 16, last);
      write<false, W>(args.masked, 8 * pair, last);
    }
  });
}

// ---- symbols ----------------------------------------------------------------------------------------------

#define FROZEN(W) \
  TWOFOUR_KERNEL(twofour_mask_frozen_##W, MaskFrozenArgs, 256, 4) { frozen_kernel<W>(args); }

FROZEN(f32)
FROZEN(f16)
FROZEN(bf16)

}  // namespace twofour
