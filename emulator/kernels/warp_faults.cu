// More planted faults (see faults.cu): collectives of a warp, fragments and sparse metadata.
#include "common/ptx.cuh"

namespace twofour {

struct WarpFaultArgs {
  const float* in;
  float* out;
  u32 tiles;
};

#define TWOFOUR_PAIR(name)                                                          \
  TWOFOUR_KERNEL(twofour_wrong_##name, WarpFaultArgs, 256, 1) { name<true>(args); } \
  TWOFOUR_KERNEL(twofour_right_##name, WarpFaultArgs, 256, 1) { name<false>(args); }

// out[i] = 2 * in[255 - i], the mirroring inside the warp by shuffles.
template <typename Shuffle>
TWOFOUR_DEVICE void mirror_by(const WarpFaultArgs& args, Shuffle shuffle) {
  const u32 from = (255 - thread_index()) / kWarpSize * kWarpSize + lane();
  store(args.out + thread_index(), 2.0f * shuffle(load(args.in + from)));
}

struct Everyone {
  TWOFOUR_DEVICE float operator()(float x) const { return shuffle_xor(x, 31); }
};
// Half of the warp does not come.
struct Half {
  TWOFOUR_DEVICE float operator()(float x) const { return lane() < 16 ? shuffle_xor(x, 31) : x; }
};
template <bool wrong>
TWOFOUR_DEVICE void divergent_collective(const WarpFaultArgs& args) {
  if (wrong) mirror_by(args, Half{});
  if (!wrong) mirror_by(args, Everyone{});
}
TWOFOUR_PAIR(divergent_collective)

// Half of the warp comes to another one.
struct Mixed {
  TWOFOUR_DEVICE float operator()(float x) const {
    return lane() < 16 ? shuffle_xor(x, 31) : shuffle_index(x, 31 - lane());
  }
};
template <bool wrong>
TWOFOUR_DEVICE void mismatched_collective(const WarpFaultArgs& args) {
  if (wrong) mirror_by(args, Mixed{});
  if (!wrong) mirror_by(args, Everyone{});
}
TWOFOUR_PAIR(mismatched_collective)

// A barrier of the block in one half of a warp, a collective in the other.
template <bool wrong>
TWOFOUR_DEVICE void barrier_against_collective(const WarpFaultArgs& args) {
  if (wrong && lane() < 16) sync_threads();
  mirror_by(args, Everyone{});
  if (!wrong || lane() >= 16) sync_threads();
}
TWOFOUR_PAIR(barrier_against_collective)

// ---- one warp: a 16 x 8 product of small integers, a row-major 16 x 16 then b column-major 16 x 8 in `in` --

TWOFOUR_DEVICE u32 pair_at(const float* from) { return pack_bf16x2(load(from), load(from + 1)); }

template <bool wrong>
TWOFOUR_DEVICE void wrong_fragment_lane(const WarpFaultArgs& args) {
  const u32 q = lane() / 4, t = lane() % 4;
  const float* a = args.in;
  const float* b = args.in + 256;
  const u32 column = wrong ? q ^ 1 : q;
  const u32 a_fragment[4] = {pair_at(a + q * 16 + 2 * t), pair_at(a + (q + 8) * 16 + 2 * t),
                             pair_at(a + q * 16 + 2 * t + 8), pair_at(a + (q + 8) * 16 + 2 * t + 8)};
  const u32 b_fragment[2] = {pair_at(b + column * 16 + 2 * t), pair_at(b + column * 16 + 2 * t + 8)};
  float d[4] = {};
  mma_m16n8k16_bf16(d, a_fragment, b_fragment);
  for (u32 i = 0; i < 4; ++i) store(args.out + (q + i / 2 * 8) * 8 + 2 * t + i % 2, d[i]);
}
TWOFOUR_PAIR(wrong_fragment_lane)

// The same with b through ldmatrix: column n of b is row n of a matrix, so it must not be transposed.
template <bool wrong, u32 misalignment>
TWOFOUR_DEVICE void product_through_shared(const WarpFaultArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(u16, tile);
  const u32 q = lane() / 4, t = lane() % 4;
  const float* a = args.in;
  for (u32 i = lane(); i < 128; i += kWarpSize) store(tile + i, to_bf16(load(args.in + 256 + i)).bits);
  sync_warp();
  const u32 a_fragment[4] = {pair_at(a + q * 16 + 2 * t), pair_at(a + (q + 8) * 16 + 2 * t),
                             pair_at(a + q * 16 + 2 * t + 8), pair_at(a + (q + 8) * 16 + 2 * t + 8)};
  u32 b_fragment[2];
  const u16* row = tile + lane() % 8 * 16 + lane() / 8 % 2 * 8 + misalignment;
  if (wrong && misalignment == 0) {
    ldmatrix_x2_transposed(b_fragment, row);
  } else {
    ldmatrix_x2(b_fragment, row);
  }
  float d[4] = {};
  mma_m16n8k16_bf16(d, a_fragment, b_fragment);
  for (u32 i = 0; i < 4; ++i) store(args.out + (q + i / 2 * 8) * 8 + 2 * t + i % 2, d[i]);
}
template <bool wrong>
TWOFOUR_DEVICE void wrong_transpose(const WarpFaultArgs& args) {
  product_through_shared<wrong, 0>(args);
}
TWOFOUR_PAIR(wrong_transpose)
template <bool wrong>
TWOFOUR_DEVICE void misaligned_ldmatrix(const WarpFaultArgs& args) {
  product_through_shared<wrong, wrong ? 1 : 0>(args);
}
TWOFOUR_PAIR(misaligned_ldmatrix)

// ---- one warp: a sparse product; every group keeps columns 1 and 3, code 0xD ------------------------------

// Row r of a is kept[r][16] (row-major at `in`), b column-major 32 x 8 after it.
template <bool wrong, u32 code>
TWOFOUR_DEVICE void sparse_product(const WarpFaultArgs& args, bool metadata_in_other_lanes) {
  const u32 q = lane() / 4, t = lane() % 4;
  const float* a = args.in;
  const float* b = args.in + 256;
  const u32 a_fragment[4] = {pair_at(a + q * 16 + 2 * t), pair_at(a + (q + 8) * 16 + 2 * t),
                             pair_at(a + q * 16 + 2 * t + 8), pair_at(a + (q + 8) * 16 + 2 * t + 8)};
  u32 b_fragment[4];
  for (u32 i = 0; i < 4; ++i) b_fragment[i] = pair_at(b + q * 32 + 2 * t + 8 * i);
  // In the lanes that are not asked, another ordered code: nothing but the numbers tells.
  const bool asked = metadata_in_other_lanes ? t >= 2 : t < 2;
  float d[4] = {};
  mma_sp_m16n8k32_bf16<0>(d, a_fragment, b_fragment, asked ? code : 0x44444444);
  for (u32 i = 0; i < 4; ++i) store(args.out + (q + i / 2 * 8) * 8 + 2 * t + i % 2, d[i]);
}
template <bool wrong>
TWOFOUR_DEVICE void unordered_metadata(const WarpFaultArgs& args) {
  sparse_product<wrong, wrong ? 0xdddd7ddd : 0xdddddddd>(args, false);
}
TWOFOUR_PAIR(unordered_metadata)
template <bool wrong>
TWOFOUR_DEVICE void wrong_metadata_lane(const WarpFaultArgs& args) {
  sparse_product<wrong, 0xdddddddd>(args, wrong);
}
TWOFOUR_PAIR(wrong_metadata_lane)

}  // namespace twofour
