// Every wrapper of ptx.cuh, called: for the emulator's own tests, and so that nvcc sees each one's PTX.
#include "common/ptx.cuh"

namespace twofour {

TWOFOUR_DEVICE u64 global_thread() { return u64(block_index()) * block_size() + thread_index(); }

// ---- conversions ------------------------------------------------------------------------------------------

struct NarrowArgs {
  const float* in;
  u16* f16s;
  u16* bf16s;
  u32* f16_pairs;  // of (in[i], in[i ^ 1])
  u32* bf16_pairs;
  u32* tf32s;
  u64 count;
};
TWOFOUR_KERNEL(twofour_test_narrow, NarrowArgs, 256, 1) {
  const u64 i = global_thread();
  if (i >= args.count) return;
  const float x = load(args.in + i), other = load(args.in + (i ^ 1));
  store(args.f16s + i, to_f16(x).bits);
  store(args.bf16s + i, to_bf16(x).bits);
  store(args.f16_pairs + i, pack_f16x2(x, other));
  store(args.bf16_pairs + i, pack_bf16x2(x, other));
  store(args.tf32s + i, to_tf32(from_float<float>(x)));
}

struct WidenArgs {
  const u16* in;
  float* from_f16;
  float* from_bf16;
  u64 count;
};
TWOFOUR_KERNEL(twofour_test_widen, WidenArgs, 256, 1) {
  const u64 i = global_thread();
  if (i >= args.count) return;
  const u16 bits = load(args.in + i);
  store(args.from_f16 + i, to_float(f16{bits}));
  store(args.from_bf16 + i, to_float(to_float(bf16{bits})));
}

// ---- arithmetic -------------------------------------------------------------------------------------------

constexpr u32 kResults = 24;

struct MathArgs {
  const u32* a;
  const u32* b;
  const u32* c;
  u32* results;  // kResults for each i
  u64 count;
};
TWOFOUR_KERNEL(twofour_test_math, MathArgs, 256, 1) {
  const u64 i = global_thread();
  if (i >= args.count) return;
  const u32 a = load(args.a + i), b = load(args.b + i), c = load(args.c + i);
  const float x = float_of(a), y = float_of(b), z = float_of(c);
  const u64 wide = mul_wide(a, b);
  const double large = fma(double_of(u64(a) << 32 | b), 3.0, double_of(u64(c) << 32));
  const double ratio = divide(double_of(u64(a) << 32 | b), double_of(u64(c) << 32 | a));
  const double root = square_root(double_of(u64(a) << 32 | b));
  const u32 results[kResults] = {u32(wide),
                                 u32(wide >> 32),
                                 mul_hi(a, b),
                                 popcount(a),
                                 leading_zeros(a),
                                 funnel_shift_right(a, b, c),
                                 byte_permute(a, b, c),
                                 bits_of(fma(x, y, z)),
                                 bits_of(divide(x, y)),
                                 bits_of(square_root(x)),
                                 bits_of(min_nan(x, y)),
                                 bits_of(max_nan(x, y)),
                                 bits_of(ex2_approx(x)),
                                 bits_of(rcp_approx(x)),
                                 u32(bits_of(large)),
                                 u32(bits_of(large) >> 32),
                                 bits_of(x * y + z),
                                 bits_of(absolute(x)),
                                 u32(bits_of(ratio)),
                                 u32(bits_of(ratio) >> 32),
                                 u32(bits_of(root)),
                                 u32(bits_of(root) >> 32)};
  for (u32 r = 0; r < kResults; ++r) store(args.results + i * kResults + r, results[r]);
}

// ---- memory -----------------------------------------------------------------------------------------------

struct CopyArgs {
  const u8* in;
  u8* out;
  u64 bytes;  // a multiple of 64
};
// A thread moves 64 bytes, with every load and store there is.
TWOFOUR_KERNEL(twofour_test_copy, CopyArgs, 256, 1) {
  const u64 at = global_thread() * 64;
  if (at >= args.bytes) return;
  const u8* in = args.in + at;
  u8* out = args.out + at;
  store_16(out, load_16(in));
  store_stream_16(out + 16, load_stream_16(in + 16));
  store_8(out + 32, load_8(in + 32));
  store_stream_8(out + 40, load_stream_8(in + 40));
  store_4(out + 48, load_4(in + 48));
  store_2(out + 52, load_2(in + 52));
  store_2(out + 54, load_2(in + 54));
  store(reinterpret_cast<u64*>(out + 56), load(reinterpret_cast<const u64*>(in + 56)));
}

// cp.async of every size, `valid` bytes of each; then one group at a time is waited for and its first copy moved on.
struct AsyncArgs {
  const u8* in;
  u8* out;  // 64 bytes for each thread of one block
  u32 valid;
};
TWOFOUR_KERNEL(twofour_test_async, AsyncArgs, 256, 1) {
  TWOFOUR_DYNAMIC_SHARED(u8, shared);
  const u32 at = thread_index() * 64;
  const u32 valid = args.valid;
  cp_async_16(shared + at, args.in + at);
  cp_async_8(shared + at + 16, args.in + at + 16);
  cp_async_4(shared + at + 24, args.in + at + 24);
  cp_async_commit();
  cp_async_16(shared + at + 32, args.in + at + 32, valid < 16 ? valid : 16);
  cp_async_commit();
  cp_async_8(shared + at + 48, args.in + at + 48, valid < 8 ? valid : 8);
  cp_async_4(shared + at + 56, args.in + at + 56, valid < 4 ? valid : 4);
  cp_async_wait<1>();
  store_16(args.out + at, load(reinterpret_cast<const u32x4*>(shared + at)));
  cp_async_wait<0>();
  store_16(args.out + at + 32, load(reinterpret_cast<const u32x4*>(shared + at + 32)));
  cp_async_wait_all();
  sync_threads();
  // Across threads, and through an address in shared memory's own numbers.
  const u32 other = at ^ 64;
  const u32 distance = shared_address(shared + other) - shared_address(shared + at);
  const u8* from = shared + (at + distance);
  u8* to = args.out + other;
  store_8(to + 16, load(reinterpret_cast<const u32x2*>(from + 16)));
  store_4(to + 24, load(reinterpret_cast<const u32*>(from + 24)));
  store_4(to + 28, ~0u);
  store_8(to + 48, load(reinterpret_cast<const u32x2*>(from + 48)));
  store_4(to + 56, load(reinterpret_cast<const u32*>(from + 56)));
  store_4(to + 60, ~0u);
}

// Memory that plain accesses reach besides buffers: a constant table, static shared memory, a thread's own locals.
TWOFOUR_TABLE u32x2 kSquares[4] = {{0, 0}, {1, 1}, {2, 4}, {3, 9}};

struct PlacesArgs {
  u32* out;  // one for each thread of one block
};
TWOFOUR_KERNEL(twofour_test_places, PlacesArgs, 256, 1) {
  TWOFOUR_SHARED u32x2 shared[4];
  if (thread_index() < 4) store(shared + thread_index(), load_8(kSquares + thread_index()));
  sync_threads();
  u32 own[4];
  for (u32 i = 0; i < 4; ++i) store(own + i, load(shared + i).y + load(&kSquares[3 - i].x));
  store(args.out + thread_index(), load(own + thread_index() % 4));
}

struct CountArgs {
  u32* sum;
  u64* wide_sum;
  u32* places;  // one for each thread: the order of arrival
};
TWOFOUR_KERNEL(twofour_test_count, CountArgs, 256, 1) {
  const u32 place = atomic_add(args.sum, 1u);
  store(args.places + place, u32(global_thread()));
  thread_fence();
  atomic_add(args.wide_sum, u64(1) << 33);
}

// ---- where a thread is ------------------------------------------------------------------------------------

struct IndexArgs {
  u32* out;  // 15 for each thread
};
TWOFOUR_KERNEL(twofour_test_index, IndexArgs, 1024, 1) {
  const u32 block = (block_index_z() * block_count_y() + block_index_y()) * block_count() + block_index();
  const u32 thread = (thread_index_z() * block_size_y() + thread_index_y()) * block_size() + thread_index();
  const u32 threads = block_size() * block_size_y() * block_size_z();
  const u32 values[15] = {thread_index(),  thread_index_y(), thread_index_z(), block_index(),  block_index_y(),
                          block_index_z(), block_size(),     block_size_y(),   block_size_z(), block_count(),
                          block_count_y(), block_count_z(),  lane(),           warp(),         thread};
  TWOFOUR_UNROLL
  for (u32 i = 0; i < 15; ++i) store(args.out + (u64(block) * threads + thread) * 15 + i, values[i]);
}

// ---- warps ------------------------------------------------------------------------------------------------

constexpr u32 kShuffles = 20;

struct WarpArgs {
  const u32* in;  // one for each thread
  const u32* which;
  u32* out;  // kShuffles for each thread
};
TWOFOUR_DEVICE void put(u32* out, u32& at, u32 value) { store(out + at++, value); }
TWOFOUR_DEVICE void put(u32* out, u32& at, u64 value) {
  put(out, at, u32(value));
  put(out, at, u32(value >> 32));
}
TWOFOUR_KERNEL(twofour_test_warp, WarpArgs, 256, 1) {
  const u64 i = global_thread();
  const u32 x = load(args.in + i), which = load(args.which + i);
  const u64 wide = u64(x) << 32 | ~x;
  u32* out = args.out + i * kShuffles;
  u32 at = 0;
  put(out, at, shuffle_xor(x, which));
  put(out, at, shuffle_down(x, which));
  put(out, at, shuffle_index(x, which));
  put(out, at, bits_of(shuffle_xor(float_of(x), which)));
  put(out, at, bits_of(shuffle_down(float_of(x), which)));
  put(out, at, bits_of(shuffle_index(float_of(x), which)));
  put(out, at, shuffle_xor(wide, which));
  put(out, at, shuffle_down(wide, which));
  put(out, at, shuffle_index(wide, which));
  sync_warp();
  put(out, at, bits_of(shuffle_xor(double_of(wide), 5)));
  put(out, at, bits_of(shuffle_down(double_of(wide), 5)) + bits_of(shuffle_index(double_of(wide), 5)));
  put(out, at, ballot(x % 2 == 1));
  put(out, at,
      u32(all(lane() < kWarpSize)) << 3 | u32(all(lane() == 7)) << 2 | u32(any(lane() == 7)) << 1 |
          u32(any(lane() == kWarpSize)));
  put(out, at, kFullWarp);
  put(out, at, u32(1 + warp()));
}

// ---- tensor cores: one warp, fragments as the caller laid them out ----------------------------------------

struct LdmatrixArgs {
  const u8* in;  // 4 matrices of 8 rows of 16 bytes
  u32* out;      // 14 for each lane: x1, x2, x4, then transposed
};
TWOFOUR_KERNEL(twofour_test_ldmatrix, LdmatrixArgs, 32, 1) {
  TWOFOUR_SHARED u32x4 tile[32];
  tile[lane()] = load_16(args.in + 16 * lane());
  sync_threads();
  u32 one[1], two[2], four[4];
  u32* out = args.out + 14 * lane();
  ldmatrix_x1(one, tile + lane() % 8);
  ldmatrix_x2(two, tile + lane() % 16);
  ldmatrix_x4(four, tile + lane());
  store(out, one[0]);
  for (u32 i = 0; i < 2; ++i) store(out + 1 + i, two[i]);
  for (u32 i = 0; i < 4; ++i) store(out + 3 + i, four[i]);
  ldmatrix_x1_transposed(one, tile + lane() % 8);
  ldmatrix_x2_transposed(two, tile + lane() % 16);
  ldmatrix_x4_transposed(four, tile + lane());
  store(out + 7, one[0]);
  for (u32 i = 0; i < 2; ++i) store(out + 8 + i, two[i]);
  for (u32 i = 0; i < 4; ++i) store(out + 10 + i, four[i]);
}

struct MmaArgs {
  const u32* a;         // 4 registers of each lane
  const u32* b;         // 4 (dense: the first 2 count)
  const u32* metadata;  // 1
  u32* d;               // 4, in and out
};
template <typename Sum, typename Multiply>
TWOFOUR_DEVICE void with_fragments(const MmaArgs& args, Multiply multiply) {
  u32 a[4], b[4];
  Sum d[4];
  for (u32 i = 0; i < 4; ++i) {
    a[i] = load(args.a + 4 * lane() + i);
    b[i] = load(args.b + 4 * lane() + i);
    d[i] = load(reinterpret_cast<Sum*>(args.d) + 4 * lane() + i);
  }
  const u32 half[2] = {b[0], b[1]};
  multiply(d, a, b, half, load(args.metadata + lane()));
  for (u32 i = 0; i < 4; ++i) store(reinterpret_cast<Sum*>(args.d) + 4 * lane() + i, d[i]);
}
#define TWOFOUR_TEST_MMA(kernel, Sum, call)                                                                 \
  struct kernel##_call {                                                                                    \
    TWOFOUR_DEVICE void operator()(Sum (&d)[4], const u32 (&a)[4], const u32 (&b)[4], const u32 (&half)[2], \
                                   u32 metadata) const {                                                    \
      (void)b, (void)half, (void)metadata;                                                                  \
      call;                                                                                                 \
    }                                                                                                       \
  };                                                                                                        \
  TWOFOUR_KERNEL(kernel, MmaArgs, 32, 1) { with_fragments<Sum>(args, kernel##_call{}); }
TWOFOUR_TEST_MMA(twofour_test_mma_f16, float, mma_m16n8k16_f16(d, a, half))
TWOFOUR_TEST_MMA(twofour_test_mma_bf16, float, mma_m16n8k16_bf16(d, a, half))
TWOFOUR_TEST_MMA(twofour_test_mma_tf32, float, mma_m16n8k8_tf32(d, a, half))
TWOFOUR_TEST_MMA(twofour_test_mma_s8, i32, mma_m16n8k32_s8(d, a, half))
TWOFOUR_TEST_MMA(twofour_test_mma_sp_f16_0, float, mma_sp_m16n8k32_f16<0>(d, a, b, metadata))
TWOFOUR_TEST_MMA(twofour_test_mma_sp_f16_1, float, mma_sp_m16n8k32_f16<1>(d, a, b, metadata))
TWOFOUR_TEST_MMA(twofour_test_mma_sp_bf16_0, float, mma_sp_m16n8k32_bf16<0>(d, a, b, metadata))
TWOFOUR_TEST_MMA(twofour_test_mma_sp_bf16_1, float, mma_sp_m16n8k32_bf16<1>(d, a, b, metadata))
TWOFOUR_TEST_MMA(twofour_test_mma_sp_s8, i32, mma_sp_m16n8k64_s8(d, a, b, metadata))

}  // namespace twofour
