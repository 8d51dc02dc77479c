// Philox4x32-10 (Salmon et al., SC 2011): ten rounds over a 128-bit counter under a 64-bit key.
// The host twin is `philox` in src/noise.rs, tested against the published known answers.
#pragma once

#include "common/ptx.cuh"

namespace twofour {

// The keys of the ten rounds, made from the seed by the host (`round_keys` in src/noise.rs): in a kernel's arguments they
// cost nothing to use, where the key schedule would cost 20 additions a call.
struct RoundKeys {
  u32 key[20];
};

TWOFOUR_DEVICE u32x4 philox(const RoundKeys& keys, u32x4 counter) {
  u32x4 x = counter;
  TWOFOUR_UNROLL
  for (int round = 0; round < 10; ++round) {
    const u64 a = mul_wide(x.x, 0xd2511f53u);
    const u64 b = mul_wide(x.z, 0xcd9e8d57u);
    x = {u32(b >> 32) ^ x.y ^ keys.key[2 * round], u32(b), u32(a >> 32) ^ x.w ^ keys.key[2 * round + 1], u32(a)};
  }
  return x;
}

}  // namespace twofour
