// Twins of ldmatrix, mma and mma.sp. Each builds whole matrices out of the lanes' fragments, multiplies them as a loop
// would, and hands the result out again. The maps are those of the PTX ISA, chapter 9.7.14, q = lane / 4, t = lane % 4.
#pragma once

namespace twofour {

// For what the twins do with their own arrays: the compiler's checks are for kernels.
#define TWOFOUR_UNCHECKED __attribute__((no_sanitize("undefined"))) inline

struct MatrixLane {
  const void* row;
  u32* d;
};

template <u32 count, bool transposed>
TWOFOUR_UNCHECKED void ldmatrix_lanes(void* const* lanes) {
  for (u32 i = 0; i < count; ++i) {
    u16 matrix[8][8];
    for (u32 r = 0; r < 8; ++r) std::memcpy(matrix[r], static_cast<const MatrixLane*>(lanes[8 * i + r])->row, 16);
    for (u32 l = 0; l < kWarpSize; ++l) {
      const u32 q = l / 4, t = l % 4;
      const u16 lo = transposed ? matrix[2 * t][q] : matrix[q][2 * t];
      const u16 hi = transposed ? matrix[2 * t + 1][q] : matrix[q][2 * t + 1];
      static_cast<MatrixLane*>(lanes[l])->d[i] = u32(hi) << 16 | lo;
    }
  }
}
// Only the first 8 * count lanes' addresses are used, so only they are checked.
template <u32 count, bool transposed>
TWOFOUR_DEVICE void ldmatrix(u32 (&d)[count], const void* row, Site site) {
  if (lane() < 8 * count) check_shared("ldmatrix", row, 16, 16, site);
  MatrixLane mine{row, d};
  ::twofour_emulator::collective("ldmatrix", mine, ldmatrix_lanes<count, transposed>, site);
}
TWOFOUR_DEVICE void ldmatrix_x1(u32 (&d)[1], const void* shared_row, Site site = Site::here()) {
  ldmatrix<1, false>(d, shared_row, site);
}
TWOFOUR_DEVICE void ldmatrix_x2(u32 (&d)[2], const void* shared_row, Site site = Site::here()) {
  ldmatrix<2, false>(d, shared_row, site);
}
TWOFOUR_DEVICE void ldmatrix_x4(u32 (&d)[4], const void* shared_row, Site site = Site::here()) {
  ldmatrix<4, false>(d, shared_row, site);
}
TWOFOUR_DEVICE void ldmatrix_x1_transposed(u32 (&d)[1], const void* shared_row, Site site = Site::here()) {
  ldmatrix<1, true>(d, shared_row, site);
}
TWOFOUR_DEVICE void ldmatrix_x2_transposed(u32 (&d)[2], const void* shared_row, Site site = Site::here()) {
  ldmatrix<2, true>(d, shared_row, site);
}
TWOFOUR_DEVICE void ldmatrix_x4_transposed(u32 (&d)[4], const void* shared_row, Site site = Site::here()) {
  ldmatrix<4, true>(d, shared_row, site);
}

// ---- element types: how many a register holds, and what number each is ------------------------------------

// `number` is that of Element in src/tensor/arithmetic.rs.
struct F16Elements {
  using Sum = float;
  static constexpr u32 number = 0;
  static constexpr u32 per_register = 2;
  TWOFOUR_UNCHECKED static float at(u32 word, u32 i) { return float_of_f16_bits(u16(word >> (16 * i))); }
};
struct Bf16Elements {
  using Sum = float;
  static constexpr u32 number = 1;
  static constexpr u32 per_register = 2;
  TWOFOUR_UNCHECKED static float at(u32 word, u32 i) { return float_of(word >> (16 * i) << 16); }
};
// The hardware ignores the 13 bits that tf32 does not have.
struct Tf32Elements {
  using Sum = float;
  static constexpr u32 number = 2;
  static constexpr u32 per_register = 1;
  TWOFOUR_UNCHECKED static float at(u32 word, u32) { return float_of(word & 0xffffe000); }
};
// Unsigned: overflow wraps, as the hardware's does without .satfinite.
struct S8Elements {
  using Sum = u32;
  static constexpr u32 per_register = 4;
  TWOFOUR_UNCHECKED static u32 at(u32 word, u32 i) { return u32(i32(i8(word >> (8 * i)))); }
};

struct MmaLane {
  void* d;
  const u32* a;
  const u32* b;
  u32 metadata;
};

// Eight columns of one row at once.
template <typename Sum>
struct Eight {
  typedef Sum Vector __attribute__((vector_size(8 * sizeof(Sum))));
};

// If the launch has asked for a device's arithmetic, which is Rust's: has it been done?
template <typename Elements>
TWOFOUR_UNCHECKED bool add_as_tensor_cores(const float* a, u32 terms, const void* b, const u8* columns, void* sums) {
  ::twofour_emulator::Thread* const thread = twofour_emulator_current;
  if (thread->arithmetic == 0) return false;
  twofour_emulator_multiply(thread, Elements::number, a, terms, b, columns, sums);
  return true;
}
template <typename Elements>
TWOFOUR_UNCHECKED bool add_as_tensor_cores(const u32*, u32, const void*, const u8*, void*) {
  return false;
}

// Tensor cores have one NaN.
TWOFOUR_UNCHECKED Eight<float>::Vector canonical(Eight<float>::Vector sum) {
  return sum == sum ? sum : Eight<float>::Vector{} + float_of(0x7fffffffu);
}
TWOFOUR_UNCHECKED Eight<u32>::Vector canonical(Eight<u32>::Vector sum) { return sum; }

// d += a * b for 16 rows of `terms` elements and b K x 8; the sum runs along the elements in order, or as the launch's
// tensor cores do it. Element i of a row is
// for row `columns[row][i]` of b, or, without columns, for row i: as in hardware, a sparse row has no term for what it
// does not keep.
template <typename Elements, u32 K, u32 b_registers, u32 terms>
TWOFOUR_UNCHECKED void multiply(void* const* lanes, const typename Elements::Sum (&a)[16][terms],
                                const u8 (*columns)[terms]) {
  using Sum = typename Elements::Sum;
  using Columns = typename Eight<Sum>::Vector;
  constexpr u32 P = Elements::per_register;
  Columns b[K], sums[16];
  for (u32 q = 0; q < 8; ++q)
    for (u32 t = 0; t < 4; ++t) {
      const auto* lane = static_cast<const MmaLane*>(lanes[4 * q + t]);
      for (u32 i = 0; i < b_registers; ++i)
        for (u32 j = 0; j < P; ++j) b[4 * P * i + P * t + j][q] = Elements::at(lane->b[i], j);
      const auto* d = static_cast<const Sum*>(lane->d);
      for (u32 i = 0; i < 4; ++i) sums[q + i / 2 * 8][2 * t + i % 2] = d[i];
    }
  if (!add_as_tensor_cores<Elements>(a[0], terms, b, columns == nullptr ? nullptr : columns[0], sums))
    for (u32 row = 0; row < 16; ++row) {
      Columns sum = sums[row];
      for (u32 i = 0; i < terms; ++i) sum += a[row][i] * b[columns == nullptr ? i : columns[row][i]];
      sums[row] = canonical(sum);
    }
  for (u32 q = 0; q < 8; ++q)
    for (u32 t = 0; t < 4; ++t) {
      auto* d = static_cast<Sum*>(static_cast<const MmaLane*>(lanes[4 * q + t])->d);
      for (u32 i = 0; i < 4; ++i) d[i] = sums[q + i / 2 * 8][2 * t + i % 2];
    }
}

// Register i of a lane: row q, or q + 8 if i is odd; P elements from P * t on, and 4 P further from i = 2 on.
template <typename Elements>
TWOFOUR_UNCHECKED void mma_lanes(void* const* lanes) {
  constexpr u32 P = Elements::per_register, K = 8 * P;
  typename Elements::Sum a[16][K];
  for (u32 q = 0; q < 8; ++q)
    for (u32 t = 0; t < 4; ++t) {
      const u32* registers = static_cast<const MmaLane*>(lanes[4 * q + t])->a;
      for (u32 i = 0; i < 4; ++i)
        for (u32 j = 0; j < P; ++j) a[q + i % 2 * 8][i / 2 * 4 * P + t * P + j] = Elements::at(registers[i], j);
    }
  multiply<Elements, K, 2, K>(lanes, a, nullptr);
}

// The metadata of 16 rows: code g of a row is for the dense columns 4g..4g+3. 16-bit, K = 32: lanes 2 s and 2 s + 1 of
// quad q (s the selector) hold columns 0..15 and 16..31; low half row q, high q+8.
template <u32 selector>
struct PairMetadata {
  static bool gives(u32 lane) { return lane % 4 / 2 == selector; }
  TWOFOUR_UNCHECKED static u32 code(void* const* lanes, u32 row, u32 group) {
    const u32 lane = row % 8 * 4 + 2 * selector + group / 4;
    return static_cast<const MmaLane*>(lanes[lane])->metadata >> (row / 8 * 16 + group % 4 * 4) & 15;
  }
};
// 8-bit, K = 64: lane t of quad q holds row q + 8 (t % 2), columns 32 (t / 2) and on.
struct QuadMetadata {
  static bool gives(u32) { return true; }
  TWOFOUR_UNCHECKED static u32 code(void* const* lanes, u32 row, u32 group) {
    const u32 lane = row % 8 * 4 + row / 8 + group / 8 * 2;
    return static_cast<const MmaLane*>(lanes[lane])->metadata >> (group % 8 * 4) & 15;
  }
};

// Register i of a lane holds the kept ones of 2 P dense columns from 2 P t on; rows and i as in mma_lanes, 8 P further.
template <typename Elements, typename Metadata>
TWOFOUR_UNCHECKED void mma_sp_lanes(void* const* lanes) {
  constexpr u32 P = Elements::per_register, K = 16 * P;
  typename Elements::Sum a[16][K / 2];
  u8 columns[16][K / 2];
  for (u32 q = 0; q < 8; ++q)
    for (u32 t = 0; t < 4; ++t) {
      const u32* registers = static_cast<const MmaLane*>(lanes[4 * q + t])->a;
      for (u32 i = 0; i < 4; ++i)
        for (u32 j = 0; j < P; ++j) {
          const u32 row = q + i % 2 * 8;
          const u32 kept = i / 2 * 4 * P + t * P + j;
          a[row][kept] = Elements::at(registers[i], j);
          columns[row][kept] = u8(kept / 2 * 4 + (Metadata::code(lanes, row, kept / 2) >> (kept % 2 * 2) & 3));
        }
    }
  multiply<Elements, K, 4, K / 2>(lanes, a, columns);
}

// Each of the eight codes must be one of 4 8 9 C D E: first index below the second.
TWOFOUR_DEVICE void check_ordered(u32 metadata, Site site) {
  for (u32 i = 0; i < 8; ++i) {
    const u32 code = metadata >> (4 * i) & 15;
    if (code % 4 >= code / 4) twofour_emulator_unordered(twofour_emulator_current, metadata, site);
  }
}
template <typename Elements, typename Metadata, typename D>
TWOFOUR_DEVICE void mma_sp(const char* what, D (&d)[4], const u32 (&a)[4], const u32 (&b)[4], u32 metadata, Site site) {
  if (Metadata::gives(lane())) check_ordered(metadata, site);
  MmaLane mine{d, a, b, metadata};
  ::twofour_emulator::collective(what, mine, mma_sp_lanes<Elements, Metadata>, site);
}
template <typename Elements, typename D>
TWOFOUR_DEVICE void mma(const char* what, D (&d)[4], const u32 (&a)[4], const u32 (&b)[2], Site site) {
  MmaLane mine{d, a, b, 0};
  ::twofour_emulator::collective(what, mine, mma_lanes<Elements>, site);
}

TWOFOUR_DEVICE void mma_m16n8k16_f16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], Site site = Site::here()) {
  mma<F16Elements>("mma_m16n8k16_f16", d, a, b, site);
}
TWOFOUR_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], Site site = Site::here()) {
  mma<Bf16Elements>("mma_m16n8k16_bf16", d, a, b, site);
}
TWOFOUR_DEVICE void mma_m16n8k8_tf32(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], Site site = Site::here()) {
  mma<Tf32Elements>("mma_m16n8k8_tf32", d, a, b, site);
}
TWOFOUR_DEVICE void mma_m16n8k32_s8(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2], Site site = Site::here()) {
  mma<S8Elements>("mma_m16n8k32_s8", d, a, b, site);
}
template <u32 selector>
TWOFOUR_DEVICE void mma_sp_m16n8k32_f16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[4], u32 metadata,
                                        Site site = Site::here()) {
  static_assert(selector < 2, "a pair of lanes");
  mma_sp<F16Elements, PairMetadata<selector>>("mma_sp_m16n8k32_f16", d, a, b, metadata, site);
}
template <u32 selector>
TWOFOUR_DEVICE void mma_sp_m16n8k32_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[4], u32 metadata,
                                         Site site = Site::here()) {
  static_assert(selector < 2, "a pair of lanes");
  mma_sp<Bf16Elements, PairMetadata<selector>>("mma_sp_m16n8k32_bf16", d, a, b, metadata, site);
}
TWOFOUR_DEVICE void mma_sp_m16n8k64_s8(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[4], u32 metadata,
                                       Site site = Site::here()) {
  mma_sp<S8Elements, QuadMetadata>("mma_sp_m16n8k64_s8", d, a, b, metadata, site);
}

}  // namespace twofour
