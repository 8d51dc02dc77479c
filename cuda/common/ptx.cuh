// All inline PTX of the project, under names in plain words. Numbers in brackets are the chapters of
// the PTX ISA 9.0, followed by the instruction, where it is described.
//
// The emulator's twins, same names and same contracts in plain C++, are in emulator/include/twins_*.hpp;
// emulator/kernels/wrappers.cu calls every one, so the two sides cannot drift apart.
//
// Conventions:
// - Pointers are ordinary C++ pointers. `shared` in a parameter's name: it must point to shared memory.
// - A number in a name is bytes (load_16), except in instruction names (mma_m16n8k16). load_N and store_N
//   need the address aligned to N.
// - load_* go through the read-only path (.nc): only for memory that nothing writes during the kernel.
//   load<T> and store<T> are plain accesses, to any memory.
// - All warp-wide functions are for all 32 lanes of a converged warp.
// - Nothing here is contracted or flushed unless the name says so; `a * b + c` stays two operations.
#pragma once

#include "common/types.cuh"

#if TWOFOUR_EMULATED
#include "twins.hpp"
#else

namespace twofour {

// ---- global memory ----------------------------------------------------------------------------------------

// Plain accesses through the pointer (the emulator checks bounds and alignment).
template <typename T>
TWOFOUR_DEVICE T load(const T* from) {
  return *from;
}
template <typename T>
TWOFOUR_DEVICE void store(T* to, T value) {
  *to = value;
}

// [9.7.9 ld.global.nc] `stream`: read once, do not keep in L1.
TWOFOUR_DEVICE u32x4 load_stream_16(const void* from) {
  u32x4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(from));
  return v;
}
TWOFOUR_DEVICE u32x2 load_stream_8(const void* from) {
  u32x2 v;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
  return v;
}
TWOFOUR_DEVICE u32x4 load_16(const void* from) {
  u32x4 v;
  asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}
TWOFOUR_DEVICE u32x2 load_8(const void* from) {
  u32x2 v;
  asm("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
  return v;
}
TWOFOUR_DEVICE u32 load_4(const void* from) {
  u32 v;
  asm("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(from));
  return v;
}
TWOFOUR_DEVICE u16 load_2(const void* from) {
  u16 v;
  asm("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(from));
  return v;
}

// [9.7.9 st] `stream` (.cs): written once, first to be evicted.
TWOFOUR_DEVICE void store_16(void* to, u32x4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
TWOFOUR_DEVICE void store_8(void* to, u32x2 v) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(v.x), "r"(v.y) : "memory");
}
TWOFOUR_DEVICE void store_4(void* to, u32 v) { asm volatile("st.global.u32 [%0], %1;" ::"l"(to), "r"(v) : "memory"); }
TWOFOUR_DEVICE void store_2(void* to, u16 v) { asm volatile("st.global.u16 [%0], %1;" ::"l"(to), "h"(v) : "memory"); }
TWOFOUR_DEVICE void store_stream_16(void* to, u32x4 v) {
  asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
TWOFOUR_DEVICE void store_stream_8(void* to, u32x2 v) {
  asm volatile("st.global.cs.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(v.x), "r"(v.y) : "memory");
}

// [9.7.13 atom] Relaxed, device-wide; gives the value before.
TWOFOUR_DEVICE u32 atomic_add(u32* to, u32 value) {
  u32 old;
  asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(to), "r"(value) : "memory");
  return old;
}
TWOFOUR_DEVICE u64 atomic_add(u64* to, u64 value) {
  u64 old;
  asm volatile("atom.relaxed.gpu.global.add.u64 %0, [%1], %2;" : "=l"(old) : "l"(to), "l"(value) : "memory");
  return old;
}

// [9.7.13 fence] What this thread wrote before is seen, device-wide, before what it writes after.
TWOFOUR_DEVICE void thread_fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// ---- register to register ---------------------------------------------------------------------------------

// One line an instruction: name, result, operands, PTX. "r" u32, "h" u16, "l" u64, "f" float, "d" double.
#define TWOFOUR_PTX_1(name, D, d_is, A, a_is, ptx) \
  TWOFOUR_DEVICE D name(A a) {                     \
    D d;                                           \
    asm(ptx " %0, %1;" : "=" d_is(d) : a_is(a));   \
    return d;                                      \
  }
#define TWOFOUR_PTX_2(name, D, d_is, A, a_is, ptx)            \
  TWOFOUR_DEVICE D name(A a, A b) {                           \
    D d;                                                      \
    asm(ptx " %0, %1, %2;" : "=" d_is(d) : a_is(a), a_is(b)); \
    return d;                                                 \
  }
#define TWOFOUR_PTX_3(name, D, d_is, A, a_is, ptx)                         \
  TWOFOUR_DEVICE D name(A a, A b, A c) {                                   \
    D d;                                                                   \
    asm(ptx " %0, %1, %2, %3;" : "=" d_is(d) : a_is(a), a_is(b), a_is(c)); \
    return d;                                                              \
  }

// [9.7.9 mov] Reinterpret bits.
TWOFOUR_PTX_1(bits_of, u32, "r", float, "f", "mov.b32")
TWOFOUR_PTX_1(bits_of, u64, "l", double, "d", "mov.b64")
TWOFOUR_PTX_1(float_of, float, "f", u32, "r", "mov.b32")
TWOFOUR_PTX_1(double_of, double, "d", u64, "l", "mov.b64")

// [9.7.1 mul, popc, clz; 9.7.8 shf; 9.7.9 prmt] leading_zeros(0) is 32. funnel_shift_right(lo, hi, shift): the low
// 32 bits of hi:lo >> shift % 32. byte_permute(lo, hi, selector): byte i is byte number `nibble i of selector`
// (0..7) of hi:lo.
TWOFOUR_PTX_2(mul_wide, u64, "l", u32, "r", "mul.wide.u32")
TWOFOUR_PTX_2(mul_hi, u32, "r", u32, "r", "mul.hi.u32")
TWOFOUR_PTX_1(popcount, u32, "r", u32, "r", "popc.b32")
TWOFOUR_PTX_1(leading_zeros, u32, "r", u32, "r", "clz.b32")
TWOFOUR_PTX_3(funnel_shift_right, u32, "r", u32, "r", "shf.r.wrap.b32")
TWOFOUR_PTX_3(byte_permute, u32, "r", u32, "r", "prmt.b32")

// [9.7.3 abs, fma, div, sqrt] IEEE: one rounding, subnormals kept. ptxas folds abs into the instruction that uses it.
TWOFOUR_PTX_1(absolute, float, "f", float, "f", "abs.f32")
TWOFOUR_PTX_3(fma, float, "f", float, "f", "fma.rn.f32")
TWOFOUR_PTX_3(fma, double, "d", double, "d", "fma.rn.f64")
TWOFOUR_PTX_2(divide, float, "f", float, "f", "div.rn.f32")
TWOFOUR_PTX_2(divide, double, "d", double, "d", "div.rn.f64")
TWOFOUR_PTX_1(square_root, float, "f", float, "f", "sqrt.rn.f32")
TWOFOUR_PTX_1(square_root, double, "d", double, "d", "sqrt.rn.f64")

// [9.7.3 min, max] NaN if either is NaN, and -0 < +0.
TWOFOUR_PTX_2(min_nan, float, "f", float, "f", "min.NaN.f32")
TWOFOUR_PTX_2(max_nan, float, "f", float, "f", "max.NaN.f32")

// [9.7.3 ex2, rcp] 2^x to about 2 ulp, 1/x to 1 ulp. Subnormal operands and results become 0.
// Their last bits differ between executors: never where a choice is made.
TWOFOUR_PTX_1(ex2_approx, float, "f", float, "f", "ex2.approx.ftz.f32")
TWOFOUR_PTX_1(rcp_approx, float, "f", float, "f", "rcp.approx.ftz.f32")

// [9.7.9 cvt] To 16 bits: to nearest, ties to even, subnormals kept, overflow to infinity, every NaN
// 0x7FFF. To float: exact. to_tf32: ties away, as the bits that an mma operand wants.
TWOFOUR_PTX_1(f16_bits, u16, "h", float, "f", "cvt.rn.f16.f32")
TWOFOUR_PTX_1(bf16_bits, u16, "h", float, "f", "cvt.rn.bf16.f32")
TWOFOUR_PTX_1(float_of_f16_bits, float, "f", u16, "h", "cvt.f32.f16")
TWOFOUR_PTX_1(to_tf32, u32, "r", float, "f", "cvt.rna.tf32.f32")
// Two at once, first operand in the HIGH half; pack_f16x2 and pack_bf16x2 below take (lo, hi).
TWOFOUR_PTX_2(f16x2_high_low, u32, "r", float, "f", "cvt.rn.f16x2.f32")
TWOFOUR_PTX_2(bf16x2_high_low, u32, "r", float, "f", "cvt.rn.bf16x2.f32")

#undef TWOFOUR_PTX_1
#undef TWOFOUR_PTX_2
#undef TWOFOUR_PTX_3

// ---- block and warp ---------------------------------------------------------------------------------------

// [9.7.13 barrier] All threads of the block.
TWOFOUR_DEVICE void sync_threads() { asm volatile("barrier.sync.aligned 0;" ::: "memory"); }

// [9.7.13 bar.warp.sync]
TWOFOUR_DEVICE void sync_warp() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

// [9.7.9 shfl.sync] The value of lane ^ mask; of lane + delta (own value past the end); of lane `source`.
#define TWOFOUR_SHUFFLE(name, mode)                                                                      \
  TWOFOUR_DEVICE u32 name(u32 x, u32 which) {                                                            \
    u32 d;                                                                                               \
    asm volatile("shfl.sync." mode ".b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(d) : "r"(x), "r"(which)); \
    return d;                                                                                            \
  }
TWOFOUR_SHUFFLE(shuffle_xor, "bfly")
TWOFOUR_SHUFFLE(shuffle_down, "down")
TWOFOUR_SHUFFLE(shuffle_index, "idx")
#undef TWOFOUR_SHUFFLE

// Shuffles of the other types: as the bits of u32.
TWOFOUR_DEVICE float shuffle_xor(float x, u32 mask) { return float_of(shuffle_xor(bits_of(x), mask)); }
TWOFOUR_DEVICE float shuffle_down(float x, u32 delta) { return float_of(shuffle_down(bits_of(x), delta)); }
TWOFOUR_DEVICE float shuffle_index(float x, u32 source) { return float_of(shuffle_index(bits_of(x), source)); }
TWOFOUR_DEVICE u64 shuffle_xor(u64 x, u32 mask) {
  return u64(shuffle_xor(u32(x >> 32), mask)) << 32 | shuffle_xor(u32(x), mask);
}
TWOFOUR_DEVICE u64 shuffle_down(u64 x, u32 delta) {
  return u64(shuffle_down(u32(x >> 32), delta)) << 32 | shuffle_down(u32(x), delta);
}
TWOFOUR_DEVICE u64 shuffle_index(u64 x, u32 source) {
  return u64(shuffle_index(u32(x >> 32), source)) << 32 | shuffle_index(u32(x), source);
}
TWOFOUR_DEVICE double shuffle_xor(double x, u32 mask) { return double_of(shuffle_xor(bits_of(x), mask)); }
TWOFOUR_DEVICE double shuffle_down(double x, u32 delta) { return double_of(shuffle_down(bits_of(x), delta)); }
TWOFOUR_DEVICE double shuffle_index(double x, u32 source) { return double_of(shuffle_index(bits_of(x), source)); }

// [9.7.13 vote.sync] ballot: bit l is lane l's predicate.
TWOFOUR_DEVICE u32 ballot(bool predicate) {
  u32 d;
  asm volatile("{.reg .pred p; setp.ne.u32 p, %1, 0; vote.sync.ballot.b32 %0, p, 0xffffffff;}"
               : "=r"(d)
               : "r"(u32(predicate)));
  return d;
}
TWOFOUR_DEVICE bool all(bool predicate) { return ballot(predicate) == kFullWarp; }
TWOFOUR_DEVICE bool any(bool predicate) { return ballot(predicate) != 0; }

// [9.7.9 cvta] The 32-bit address inside shared memory.
TWOFOUR_DEVICE u32 shared_address(const void* shared) { return u32(__cvta_generic_to_shared(shared)); }

// ---- copies from global to shared memory ------------------------------------------------------------------

// [9.7.9 cp.async] Lands at this thread's wait. The second form reads only `valid` bytes (0 reads
// nothing) and fills the rest with zeros. Both addresses aligned to the size.
TWOFOUR_DEVICE void cp_async_16(void* shared, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(from)
               : "memory");
}
TWOFOUR_DEVICE void cp_async_16(void* shared, const void* from, u32 valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(from),
               "r"(valid)
               : "memory");
}
TWOFOUR_DEVICE void cp_async_8(void* shared, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(shared)), "l"(from) : "memory");
}
TWOFOUR_DEVICE void cp_async_8(void* shared, const void* from, u32 valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(shared)), "l"(from), "r"(valid)
               : "memory");
}
TWOFOUR_DEVICE void cp_async_4(void* shared, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(shared)), "l"(from) : "memory");
}
TWOFOUR_DEVICE void cp_async_4(void* shared, const void* from, u32 valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(from), "r"(valid)
               : "memory");
}

// [9.7.9 cp.async.commit_group, cp.async.wait_group] A group is what this thread copied since its last
// commit; wait<N> waits until at most the N newest groups are under way.
TWOFOUR_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <u32 N>
TWOFOUR_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
TWOFOUR_DEVICE void cp_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// ---- fragments of matrices --------------------------------------------------------------------------------

// [9.7.14 ldmatrix] Matrices of 8 rows of 16 bytes; lanes 8i..8i+7 give the row addresses of matrix i (16-byte
// aligned). Register i gets row lane / 4, 16-bit elements 2 (lane % 4) and the next; _transposed: column lane / 4,
// rows 2 (lane % 4) and the next.
#define TWOFOUR_LDMATRIX(name, modifiers, count, registers, address, ...)                              \
  TWOFOUR_DEVICE void name(u32(&d)[count], const void* shared_row) {                                   \
    asm volatile("ldmatrix.sync.aligned.m8n8." modifiers ".shared.b16 {" registers "}, [" address "];" \
                 : __VA_ARGS__                                                                         \
                 : "r"(shared_address(shared_row))                                                     \
                 : "memory");                                                                          \
  }
TWOFOUR_LDMATRIX(ldmatrix_x1, "x1", 1, "%0", "%1", "=r"(d[0]))
TWOFOUR_LDMATRIX(ldmatrix_x2, "x2", 2, "%0, %1", "%2", "=r"(d[0]), "=r"(d[1]))
TWOFOUR_LDMATRIX(ldmatrix_x4, "x4", 4, "%0, %1, %2, %3", "%4", "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]))
TWOFOUR_LDMATRIX(ldmatrix_x1_transposed, "x1.trans", 1, "%0", "%1", "=r"(d[0]))
TWOFOUR_LDMATRIX(ldmatrix_x2_transposed, "x2.trans", 2, "%0, %1", "%2", "=r"(d[0]), "=r"(d[1]))
TWOFOUR_LDMATRIX(ldmatrix_x4_transposed, "x4.trans", 4, "%0, %1, %2, %3", "%4", "=r"(d[0]), "=r"(d[1]), "=r"(d[2]),
                 "=r"(d[3]))
#undef TWOFOUR_LDMATRIX

// [9.7.14 mma] d += a * b, for the warp. With q = lane / 4, t = lane % 4, 16-bit types: a = (row q, k 2t..) (q+8, 2t..)
// (q, 2t+8..) (q+8, 2t+8..); b = (k 2t.., column q) (2t+8.., q); d = row q, columns 2t, 2t+1, then row q+8.

#define TWOFOUR_MMA_F32(name, instruction)                                                      \
  TWOFOUR_DEVICE void name(float(&d)[4], const u32(&a)[4], const u32(&b)[2]) {                  \
    asm volatile(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));           \
  }
TWOFOUR_MMA_F32(mma_m16n8k16_f16, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
TWOFOUR_MMA_F32(mma_m16n8k16_bf16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
TWOFOUR_MMA_F32(mma_m16n8k8_tf32, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")
#undef TWOFOUR_MMA_F32

TWOFOUR_DEVICE void mma_m16n8k32_s8(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// [9.7.14 mma.sp] The same where a holds the two kept of every four along k. The metadata's codes must be of the six
// ordered ones (4 8 9 C D E). selector: which pair of each quad of lanes gives the metadata (0: lanes 0 and 1; 1: lanes
// 2 and 3). For s8 all four lanes do.
//
// The word for ordered codes is of PTX ISA 8.5. Compilers before CUDA 12.5 have the instruction without it alone, which
// does the same with these codes, more slowly on some devices.
#if __CUDACC_VER_MAJOR__ > 12 || (__CUDACC_VER_MAJOR__ == 12 && __CUDACC_VER_MINOR__ >= 5)
#define TWOFOUR_MMA_SP "mma.sp::ordered_metadata.sync.aligned."
#else
#define TWOFOUR_MMA_SP "mma.sp.sync.aligned."
#endif

#define TWOFOUR_MMA_SP_F32(name, type)                                                                      \
  template <u32 selector>                                                                                   \
  TWOFOUR_DEVICE void name(float(&d)[4], const u32(&a)[4], const u32(&b)[4], u32 metadata) {                \
    static_assert(selector < 2, "a pair of lanes");                                                         \
    asm volatile(TWOFOUR_MMA_SP                                                                             \
                 "m16n8k32.row.col.f32." type "." type                                                      \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]),  \
                   "r"(metadata), "n"(selector));                                                           \
  }
TWOFOUR_MMA_SP_F32(mma_sp_m16n8k32_f16, "f16")
TWOFOUR_MMA_SP_F32(mma_sp_m16n8k32_bf16, "bf16")
#undef TWOFOUR_MMA_SP_F32

TWOFOUR_DEVICE void mma_sp_m16n8k64_s8(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[4], u32 metadata) {
  asm volatile(
      TWOFOUR_MMA_SP
      "m16n8k64.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, 0;"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata));
}
#undef TWOFOUR_MMA_SP

}  // namespace twofour

#endif  // TWOFOUR_EMULATED

namespace twofour {

// ---- made of the above ------------------------------------------------------------------------------------

TWOFOUR_DEVICE float to_float(float x) { return x; }
TWOFOUR_DEVICE float to_float(f16 x) { return float_of_f16_bits(x.bits); }
TWOFOUR_DEVICE float to_float(bf16 x) { return float_of(u32(x.bits) << 16); }
TWOFOUR_DEVICE f16 to_f16(float x) { return f16{f16_bits(x)}; }
TWOFOUR_DEVICE bf16 to_bf16(float x) { return bf16{bf16_bits(x)}; }
TWOFOUR_DEVICE u32 pack_f16x2(float lo, float hi) { return f16x2_high_low(hi, lo); }
TWOFOUR_DEVICE u32 pack_bf16x2(float lo, float hi) { return bf16x2_high_low(hi, lo); }

TWOFOUR_DEVICE float infinity() { return float_of(0x7f800000u); }
TWOFOUR_DEVICE float not_a_number() { return float_of(0x7fffffffu); }

// float -> T, for kernels generic over the element type.
template <typename T>
TWOFOUR_DEVICE T from_float(float x);
template <>
TWOFOUR_DEVICE float from_float<float>(float x) {
  return x;
}
template <>
TWOFOUR_DEVICE f16 from_float<f16>(float x) {
  return to_f16(x);
}
template <>
TWOFOUR_DEVICE bf16 from_float<bf16>(float x) {
  return to_bf16(x);
}

}  // namespace twofour
