// What the emulator's speed is measured on: bare synchronisation, and a product the way a real kernel does it.
#include "common/ptx.cuh"

namespace twofour {

struct SyncArgs {
  u32* out;
  u32 rounds;
};
// Five shuffles and two barriers a round.
TWOFOUR_KERNEL(twofour_speed_sync, SyncArgs, 256, 1) {
  TWOFOUR_SHARED u32 shared[256];
  u32 sum = thread_index();
  for (u32 round = 0; round < args.rounds; ++round) {
    for (u32 step = 16; step > 0; step /= 2) sum += shuffle_xor(sum, step);
    shared[thread_index()] = sum;
    sync_threads();
    sum ^= shared[255 - thread_index()];
    sync_threads();
  }
  store(args.out + u64(block_index()) * block_size() + thread_index(), sum);
}

// Blocks that only load and store: what a block costs by itself.
struct ScaleArgs {
  const float* in;
  float* out;
};
TWOFOUR_KERNEL(twofour_speed_scale, ScaleArgs, 256, 1) {
  const u64 i = u64(block_index()) * block_size() + thread_index();
  const u32x4 x = load_16(args.in + 4 * i);
  const u32x4 y = {bits_of(2.0f * float_of(x.x)), bits_of(2.0f * float_of(x.y)), bits_of(2.0f * float_of(x.z)),
                   bits_of(2.0f * float_of(x.w))};
  store_16(args.out + 4 * i, y);
}

// ---- C [m, n] = A [m, k] B [n, k]^T, bf16 with f32 sums; m, n multiples of 128, k of 32 -------------------

struct ProductArgs {
  const bf16* a;
  const bf16* b;
  float* c;
  u32 n;
  u32 k;
};

constexpr u32 kTile = 128;
constexpr u32 kDepth = 32;
constexpr u32 kStride = kDepth + 8;  // rows 80 bytes apart, so that ldmatrix meets no bank twice
constexpr u32 kStage = 2 * kTile * kStride;

// 128 rows of 32 elements, 16 bytes a thread and step.
TWOFOUR_DEVICE void copy_tile(bf16* shared, const bf16* from, u32 row_length) {
  TWOFOUR_UNROLL
  for (u32 step = 0; step < 2; ++step) {
    const u32 row = step * 64 + thread_index() / 4, column = thread_index() % 4 * 8;
    cp_async_16(shared + row * kStride + column, from + u64(row) * row_length + column);
  }
}

TWOFOUR_DEVICE void copy_stage(bf16* stage, const ProductArgs& args, u32 k) {
  copy_tile(stage, args.a + u64(block_index_y()) * kTile * args.k + k, args.k);
  copy_tile(stage + kTile * kStride, args.b + u64(block_index()) * kTile * args.k + k, args.k);
  cp_async_commit();
}

// A warp's share is 64 x 32: four tiles of 16 rows, four of 8 columns.
TWOFOUR_DEVICE void multiply_stage(float (&sums)[4][4][4], const bf16* stage) {
  const bf16* a_tile = stage + warp() / 4 * 64 * kStride;
  const bf16* b_tile = stage + (kTile + warp() % 4 * 32) * kStride;
  TWOFOUR_UNROLL
  for (u32 k = 0; k < kDepth; k += 16) {
    u32 a[4][4], b[4][2];
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 4; ++i) ldmatrix_x4(a[i], a_tile + (16 * i + lane() % 16) * kStride + k + lane() / 16 * 8);
    TWOFOUR_UNROLL
    for (u32 j = 0; j < 4; ++j) ldmatrix_x2(b[j], b_tile + (8 * j + lane() % 8) * kStride + k + lane() / 8 % 2 * 8);
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 4; ++i)
      for (u32 j = 0; j < 4; ++j) mma_m16n8k16_bf16(sums[i][j], a[i], b[j]);
  }
}

TWOFOUR_KERNEL(twofour_speed_product, ProductArgs, 256, 1) {
  TWOFOUR_DYNAMIC_SHARED(bf16, shared);
  float sums[4][4][4] = {};
  copy_stage(shared, args, 0);
  for (u32 k = 0; k < args.k; k += kDepth) {
    bf16* now = shared + k / kDepth % 2 * kStage;
    if (k + kDepth < args.k) {
      copy_stage(shared + (k / kDepth + 1) % 2 * kStage, args, k + kDepth);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    sync_threads();
    multiply_stage(sums, now);
    sync_threads();
  }
  const u32 row = block_index_y() * kTile + warp() / 4 * 64 + lane() / 4;
  const u32 column = block_index() * kTile + warp() % 4 * 32 + lane() % 4 * 2;
  for (u32 i = 0; i < 4; ++i)
    for (u32 j = 0; j < 4; ++j)
      for (u32 half = 0; half < 2; ++half) {
        float* to = args.c + u64(row + 16 * i + 8 * half) * args.n + column + 8 * j;
        store_8(to, u32x2{bits_of(sums[i][j][2 * half]), bits_of(sums[i][j][2 * half + 1])});
      }
}

// A row of sparse products of one warp: nothing but mma.sp.
struct SparseArgs {
  float* out;
  u32 count;
};
TWOFOUR_KERNEL(twofour_speed_sparse, SparseArgs, 256, 1) {
  const u32 a[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
  const u32 b[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
  float d[4] = {};
  for (u32 i = 0; i < args.count; ++i) mma_sp_m16n8k32_bf16<0>(d, a, b, 0xe4e4e4e4);
  store(args.out + u64(block_index()) * block_size() + thread_index(), d[0] + d[1] + d[2] + d[3]);
}

}  // namespace twofour
