// Codes of several groups in one word, four bits each, the lowest group lowest; and a chunk of groups: 32 bytes of dense
// values, the 16 bytes that are kept of them, and their codes (src/compress/mod.rs says which values a code keeps).
//
// A type of values is known by its width: what a kernel does with it is to move it, and to compare magnitudes.
#pragma once

#include "common/ptx.cuh"

namespace twofour {

// Code E: what stands in places without a code.
constexpr u32 kPaddingCodes = 0xeeeeeeeeu;

// Where a chunk's values are, in words.
constexpr int kDenseWords = 8, kKeptWords = 4;

// A bit at the bottom of each code that is not legal. Of codes i0 + 4 * i1 those with i0 < i1 are; for groups of two
// those of both halves of one value: i0 even, and i1 = i0 + 1.
TWOFOUR_DEVICE u32 illegal_codes(u32 codes, bool two_of_four) {
  const u32 second = codes >> 2;  // over the first, bit by bit
  const u32 above = second & ~codes, same = ~(second ^ codes);
  const u32 legal = two_of_four ? above >> 1 | (same >> 1 & above) : above & same >> 1;
  return ~legal & 0x11111111u;
}

// Those codes with 4 in place of each that `illegal` marks.
TWOFOUR_DEVICE u32 repaired(u32 codes, u32 illegal) { return (codes & ~(illegal * 15)) | illegal << 2; }

// ---- the largest, and what is not zero --------------------------------------------------------------------

// The code that keeps the two largest of four magnitudes, of equal ones the lower position: both of a pair if the less
// of them beats the other pair, else the winner of each.
TWOFOUR_DEVICE u32 code_of_largest(u32 a, u32 b, u32 c, u32 d) {
  const u32 ab = a > b ? a : b, less_ab = a > b ? b : a, cd = c > d ? c : d, less_cd = c > d ? d : c;
  const u32 winners = (a >= b ? 0x8 : 0x9) + (c >= d ? 0 : 4);
  const u32 code = less_ab >= cd ? 0x4 : winners;
  return less_cd > ab ? 0xe : code;
}

// The code of a group of four that is 2:4 already, from a bit a position that is not zero: these, and the highest of
// the others; 0 if they are three or four.
TWOFOUR_DEVICE u32 code_of_non_zeros(u32 bits) {
  const u32 codes = bits & 8 ? 0x000e0dceu : 0x098e4dceu;
  return codes >> (4 * (bits & 7)) & 15;
}

// ---- values by width --------------------------------------------------------------------------------------

// 16-bit values: a chunk is four groups of four.
struct b16 {
  static constexpr int groups = 4;
  static constexpr bool two_of_four = true;

  // Compared in the upper half of a word, where the second value of each is already.
  TWOFOUR_DEVICE static u32 largest(const u32* group) {
    const u32 below_sign = 0x7fff0000u;
    return code_of_largest(group[0] << 16 & below_sign, group[0] & below_sign, group[1] << 16 & below_sign,
                           group[1] & below_sign);
  }
  // `magnitude` masks a value's bits below the sign.
  TWOFOUR_DEVICE static u32 non_zeros(const u32* group, u32 magnitude) {
    const u32 high = magnitude << 16;
    return code_of_non_zeros(u32((group[0] & magnitude) != 0) | u32((group[0] & high) != 0) << 1 |
                             u32((group[1] & magnitude) != 0) << 2 | u32((group[1] & high) != 0) << 3);
  }
  // Both kept values are one word.
  TWOFOUR_DEVICE static void keep(const u32 (&dense)[kDenseWords], u32 codes, u32 (&kept)[kKeptWords]) {
    TWOFOUR_UNROLL
    for (int g = 0; g < groups; ++g) {
      const u32 code = codes >> (4 * g) & 15;
      // Bytes 2 i and 2 i + 1 of the group, for i0 and for i1.
      const u32 selector = ((code | code << 6) & 0x303) * 0x22 + 0x1010;
      kept[g] = byte_permute(dense[2 * g], dense[2 * g + 1], selector);
    }
  }
  TWOFOUR_DEVICE static void spread(const u32 (&kept)[kKeptWords], u32 codes, u32 (&dense)[kDenseWords]) {
    TWOFOUR_UNROLL
    for (int g = 0; g < groups; ++g) {
      const u32 code = codes >> (4 * g);
      // A byte of the selector a position: 44 fetches zeros, 10 the first value, 32 the second.
      const u32 selector = 0x44444444u ^ 0x54u << (code << 3 & 24) ^ 0x76u << (code << 1 & 24);
      dense[2 * g] = byte_permute(kept[g], 0, selector);
      dense[2 * g + 1] = byte_permute(kept[g], 0, selector >> 16);
    }
  }
  // A group's values by themselves, in memory that is aligned to them and no more.
  TWOFOUR_DEVICE static void load_dense(const u8* from, u32* group) {
    const u32x2 words = load_8(from);
    group[0] = words.x, group[1] = words.y;
  }
  TWOFOUR_DEVICE static void store_dense(u8* to, const u32* group) { store_8(to, {group[0], group[1]}); }
  TWOFOUR_DEVICE static void load_kept(const u8* from, u32 (&kept)[kKeptWords], int g) { kept[g] = load_4(from); }
  TWOFOUR_DEVICE static void store_kept(u8* to, const u32 (&kept)[kKeptWords], int g) { store_4(to, kept[g]); }
  TWOFOUR_DEVICE static void poison_kept(u32 (&kept)[kKeptWords], int g, u32 poison) { kept[g] = poison; }
};

// 8-bit values: a chunk is eight groups of four.
struct b8 {
  static constexpr int groups = 8;
  static constexpr bool two_of_four = true;

  TWOFOUR_DEVICE static u32 largest(const u32* group) {
    const u32 w = group[0], below_sign = 0x7f000000u;
    return code_of_largest(w << 24 & below_sign, w << 16 & below_sign, w << 8 & below_sign, w & below_sign);
  }
  TWOFOUR_DEVICE static u32 non_zeros(const u32* group, u32 magnitude) {
    u32 bits = 0;
    TWOFOUR_UNROLL
    for (int j = 0; j < 4; ++j) bits |= u32((group[0] >> (8 * j) & magnitude) != 0) << j;
    return code_of_non_zeros(bits);
  }
  // Kept values of two groups are one word.
  TWOFOUR_DEVICE static void keep(const u32 (&dense)[kDenseWords], u32 codes, u32 (&kept)[kKeptWords]) {
    TWOFOUR_UNROLL
    for (int pair = 0; pair < groups / 2; ++pair) {
      // The four positions, one to a nibble; the second group's count from 4 on.
      u32 selector = codes >> (8 * pair) & 0xff;
      selector = (selector | selector << 4) & 0x0f0f;
      selector = (selector | selector << 2) & 0x3333;
      kept[pair] = byte_permute(dense[2 * pair], dense[2 * pair + 1], selector | 0x4400);
    }
  }
  TWOFOUR_DEVICE static void spread(const u32 (&kept)[kKeptWords], u32 codes, u32 (&dense)[kDenseWords]) {
    TWOFOUR_UNROLL
    for (int g = 0; g < groups; ++g) {
      const u32 code = codes >> (4 * g);
      // A nibble of the selector a position: 4 fetches zero, the others the group's first and second value.
      const u32 first = g % 2 ? 4 ^ 2 : 4 ^ 0, second = g % 2 ? 4 ^ 3 : 4 ^ 1;
      const u32 selector = 0x4444u ^ first << (code << 2 & 12) ^ second << (code & 12);
      dense[g] = byte_permute(kept[g / 2], 0, selector);
    }
  }
  TWOFOUR_DEVICE static void load_dense(const u8* from, u32* group) { group[0] = load_4(from); }
  TWOFOUR_DEVICE static void store_dense(u8* to, const u32* group) { store_4(to, group[0]); }
  TWOFOUR_DEVICE static void load_kept(const u8* from, u32 (&kept)[kKeptWords], int g) {
    kept[g / 2] |= u32(load_2(from)) << (16 * (g % 2));
  }
  TWOFOUR_DEVICE static void store_kept(u8* to, const u32 (&kept)[kKeptWords], int g) {
    store_2(to, u16(kept[g / 2] >> (16 * (g % 2))));
  }
  TWOFOUR_DEVICE static void poison_kept(u32 (&kept)[kKeptWords], int g, u32 poison) {
    const u32 half = 0xffffu << (16 * (g % 2));
    kept[g / 2] = (kept[g / 2] & ~half) | (poison & half);
  }
};

// The same, integers: the magnitude of -128 is 128.
struct i8x4 : b8 {
  // Of the value in the highest byte, there.
  TWOFOUR_DEVICE static u32 magnitude(u32 value) { return value >> 31 ? 0u - value : value; }
  TWOFOUR_DEVICE static u32 largest(const u32* group) {
    const u32 w = group[0];
    return code_of_largest(magnitude(w << 24), magnitude(w << 16 & 0xff000000u), magnitude(w << 8 & 0xff000000u),
                           magnitude(w & 0xff000000u));
  }
};

// 32-bit values: a chunk is four groups of two.
struct b32 {
  static constexpr int groups = 4;
  static constexpr bool two_of_four = false;

  TWOFOUR_DEVICE static u32 largest(const u32* group) {
    return (group[0] & 0x7fffffffu) >= (group[1] & 0x7fffffffu) ? 0x4 : 0xe;
  }
  TWOFOUR_DEVICE static u32 non_zeros(const u32* group, u32 magnitude) {
    const bool first = (group[0] & magnitude) != 0, second = (group[1] & magnitude) != 0;
    return first ? (second ? 0 : 0x4) : 0xe;
  }
  TWOFOUR_DEVICE static void keep(const u32 (&dense)[kDenseWords], u32 codes, u32 (&kept)[kKeptWords]) {
    TWOFOUR_UNROLL
    for (int g = 0; g < groups; ++g) kept[g] = codes >> (4 * g + 1) & 1 ? dense[2 * g + 1] : dense[2 * g];
  }
  TWOFOUR_DEVICE static void spread(const u32 (&kept)[kKeptWords], u32 codes, u32 (&dense)[kDenseWords]) {
    TWOFOUR_UNROLL
    for (int g = 0; g < groups; ++g) {
      const bool second = codes >> (4 * g + 1) & 1;
      dense[2 * g] = second ? 0 : kept[g];
      dense[2 * g + 1] = second ? kept[g] : 0;
    }
  }
  TWOFOUR_DEVICE static void load_dense(const u8* from, u32* group) { b16::load_dense(from, group); }
  TWOFOUR_DEVICE static void store_dense(u8* to, const u32* group) { b16::store_dense(to, group); }
  TWOFOUR_DEVICE static void load_kept(const u8* from, u32 (&kept)[kKeptWords], int g) { kept[g] = load_4(from); }
  TWOFOUR_DEVICE static void store_kept(u8* to, const u32 (&kept)[kKeptWords], int g) { store_4(to, kept[g]); }
  TWOFOUR_DEVICE static void poison_kept(u32 (&kept)[kKeptWords], int g, u32 poison) { kept[g] = poison; }
};

// Words, and bytes, of a group.
template <typename V>
constexpr int kGroupWords = kDenseWords / V::groups;
template <typename V>
constexpr u32 kGroupBytes = 4 * kGroupWords<V>;
template <typename V>
constexpr u32 kKeptBytes = kGroupBytes<V> / 2;
// A bit at the bottom of each of a chunk's codes.
template <typename V>
constexpr u32 kEachCode = V::groups == 8 ? 0x11111111u : 0x1111u;

// A chunk's rows in memory: the first `inside` of its groups, all in 16-byte accesses where they are `whole`.
template <typename V>
TWOFOUR_DEVICE void load_dense(const u8* from, bool whole, u32 inside, u32 (&dense)[kDenseWords]) {
  if (whole) {
    const u32x4 a = load_16(from), b = load_16(from + 16);
    dense[0] = a.x, dense[1] = a.y, dense[2] = a.z, dense[3] = a.w;
    dense[4] = b.x, dense[5] = b.y, dense[6] = b.z, dense[7] = b.w;
    return;
  }
  TWOFOUR_UNROLL
  for (int i = 0; i < kDenseWords; ++i) dense[i] = 0;
  TWOFOUR_UNROLL
  for (int g = 0; g < V::groups; ++g) {
    if (u32(g) < inside) V::load_dense(from + g * kGroupBytes<V>, dense + g * kGroupWords<V>);
  }
}
template <typename V>
TWOFOUR_DEVICE void store_dense(u8* to, bool whole, u32 inside, const u32 (&dense)[kDenseWords]) {
  if (whole) {
    store_16(to, {dense[0], dense[1], dense[2], dense[3]});
    store_16(to + 16, {dense[4], dense[5], dense[6], dense[7]});
    return;
  }
  TWOFOUR_UNROLL
  for (int g = 0; g < V::groups; ++g) {
    if (u32(g) < inside) V::store_dense(to + g * kGroupBytes<V>, dense + g * kGroupWords<V>);
  }
}
template <typename V>
TWOFOUR_DEVICE void load_kept(const u8* from, bool whole, u32 inside, u32 (&kept)[kKeptWords]) {
  if (whole) {
    const u32x4 v = load_stream_16(from);
    kept[0] = v.x, kept[1] = v.y, kept[2] = v.z, kept[3] = v.w;
    return;
  }
  TWOFOUR_UNROLL
  for (int i = 0; i < kKeptWords; ++i) kept[i] = 0;
  TWOFOUR_UNROLL
  for (int g = 0; g < V::groups; ++g) {
    if (u32(g) < inside) V::load_kept(from + g * kKeptBytes<V>, kept, g);
  }
}
template <typename V>
TWOFOUR_DEVICE void store_kept(u8* to, bool whole, u32 inside, const u32 (&kept)[kKeptWords]) {
  if (whole) {
    store_16(to, {kept[0], kept[1], kept[2], kept[3]});
    return;
  }
  TWOFOUR_UNROLL
  for (int g = 0; g < V::groups; ++g) {
    if (u32(g) < inside) V::store_kept(to + g * kKeptBytes<V>, kept, g);
  }
}

// Poison in place of the groups that `bad` marks.
template <typename V>
TWOFOUR_DEVICE void poison_kept(u32 (&kept)[kKeptWords], u32 bad, u32 poison) {
  TWOFOUR_UNROLL
  for (int g = 0; g < V::groups; ++g) {
    if (bad >> (4 * g) & 1) V::poison_kept(kept, g, poison);
  }
}
template <typename V>
TWOFOUR_DEVICE void poison_dense(u32 (&dense)[kDenseWords], u32 bad, u32 poison) {
  TWOFOUR_UNROLL
  for (int i = 0; i < kDenseWords; ++i) dense[i] = bad >> (4 * (i / kGroupWords<V>)) & 1 ? poison : dense[i];
}

// The codes of a chunk of which only the first `inside` groups exist: E for the others.
template <typename V>
TWOFOUR_DEVICE u32 padded_codes(u32 codes, u32 inside) {
  if (inside >= u32(V::groups)) return codes;
  const u32 given = (1u << (4 * inside)) - 1;
  return (codes & given) | (kPaddingCodes & ~given);
}

}  // namespace twofour
