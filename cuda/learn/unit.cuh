// A warp's unit of work on logits: 64 consecutive groups, two of them a lane, which are a block of 8-bit moments, too.
//
// A lane's two groups are 12 numbers: 48 bytes of f32, 24 of bf16, 12 of codes. What a lane reads in pieces is whole
// cache lines of its warp, which level 1 holds. Stores go past level 1, and a piece alone would be a part of a 32-byte
// sector to level 2; so a warp's stores first meet in shared memory and leave as whole lines. A unit that is cut short,
// the last one, is read and written number by number.
#pragma once

#include "common/adamw.cuh"
#include "common/walk.cuh"

namespace twofour {

constexpr u32 kThreads = 256;
constexpr u32 kWarps = kThreads / kWarpSize;
constexpr u32 kLaneGroups = 2;
constexpr u32 kUnitGroups = kLaneGroups * kWarpSize;
// Logits of a lane.
constexpr int kLane = 6 * kLaneGroups;
// Where a warp's stores meet: 48 bytes a lane.
struct alignas(16) Staging {
  u32 words[kLane * kWarpSize];
};

// A lane's place in its warp's unit.
struct Unit {
  u64 first;   // group of the unit
  u64 group;   // of the lane; may lie beyond the end of a short unit
  u32 groups;  // of the lane: 2, or fewer in a short unit
  bool whole;  // the unit, so the same for all lanes

  TWOFOUR_DEVICE Unit(u64 number, u64 all_groups)
      : first(number * kUnitGroups), group(first + lane() * kLaneGroups), groups(0), whole(false) {
    const u64 left = all_groups - first;
    const u32 here = lane() * kLaneGroups;
    whole = left >= kUnitGroups;
    groups = whole || left >= here + kLaneGroups ? kLaneGroups : left > here ? u32(left) - here : 0;
  }

  TWOFOUR_DEVICE bool has(int i) const { return u32(i) < groups; }
};

// Calls of_unit(unit, global numbers of the lane's groups) for each of this warp's units.
template <typename OfUnit>
TWOFOUR_DEVICE void for_each_unit(const Walk& walk, OfUnit of_unit) {
  const u64 units = (walk.groups + kUnitGroups - 1) / kUnitGroups;
  const u64 warps = u64(block_count()) * kWarps;
  u64 number = u64(block_index()) * kWarps + warp();
  Place place(walk, number * kUnitGroups + lane() * kLaneGroups);
  TWOFOUR_NO_UNROLL
  for (; number < units; number += warps) {
    Place next = place;
    next.next(walk);
    const u64 global[kLaneGroups] = {place.global, next.global};
    of_unit(Unit(number, walk.groups), global);
    place.step(walk);
  }
}

// n words of this thread's own from memory that it writes later, aligned to as many bytes as a third of them are.
template <int n>
TWOFOUR_DEVICE void load_own_words(const void* from, u32 (&words)[n]) {
  static_assert(n == 3 || n == 6 || n == 12, "codes, bf16 or f32 of two groups");
  TWOFOUR_UNROLL
  for (int a = 0; a < 3; ++a) {
    if constexpr (n == 12) {
      const u32x4 v = load(static_cast<const u32x4*>(from) + a);
      words[4 * a] = v.x, words[4 * a + 1] = v.y, words[4 * a + 2] = v.z, words[4 * a + 3] = v.w;
    } else if constexpr (n == 6) {
      const u32x2 v = load(static_cast<const u32x2*>(from) + a);
      words[2 * a] = v.x, words[2 * a + 1] = v.y;
    } else {
      words[a] = load(static_cast<const u32*>(from) + a);
    }
  }
}

// The lanes' words, end to end, to 16-byte aligned memory in whole lines. By all lanes of a warp.
template <int n>
TWOFOUR_DEVICE void store_together(void* to, Staging& staging, const u32 (&words)[n]) {
  constexpr u32 wide = n / 3;
  u32* own = staging.words + n * lane();
  const u32* line = staging.words + wide * lane();
  u32* out = static_cast<u32*>(to) + wide * lane();
  // What was staged before has left.
  sync_warp();
  TWOFOUR_UNROLL
  for (int a = 0; a < 3; ++a) {
    if constexpr (n == 12) {
      reinterpret_cast<u32x4*>(own)[a] = {words[4 * a], words[4 * a + 1], words[4 * a + 2], words[4 * a + 3]};
    } else if constexpr (n == 6) {
      reinterpret_cast<u32x2*>(own)[a] = {words[2 * a], words[2 * a + 1]};
    } else {
      own[a] = words[a];
    }
  }
  sync_warp();
  TWOFOUR_UNROLL
  for (u32 a = 0; a < 3; ++a) {
    const u32 at = a * wide * kWarpSize;
    if constexpr (n == 12) store_16(out + at, *reinterpret_cast<const u32x4*>(line + at));
    else if constexpr (n == 6) store_8(out + at, *reinterpret_cast<const u32x2*>(line + at));
    else store_4(out + at, line[at]);
  }
}

// ---- numbers of two groups --------------------------------------------------------------------------------

TWOFOUR_DEVICE void unpack_words(const u32 (&words)[12], float (&x)[kLane], f32) {
  TWOFOUR_UNROLL
  for (int i = 0; i < kLane; ++i) x[i] = float_of(words[i]);
}
TWOFOUR_DEVICE void unpack_words(const u32 (&words)[6], float (&x)[kLane], bf16) {
  TWOFOUR_UNROLL
  for (int i = 0; i < 6; ++i) unpack(words[i], x[2 * i], x[2 * i + 1], bf16{});
}

// The lane's numbers of type T, of memory that it writes later; 0 where it has no group.
template <typename T>
TWOFOUR_DEVICE void read_own(const Unit& unit, const void* base, float (&x)[kLane]) {
  const T* from = static_cast<const T*>(base) + 6 * unit.group;
  if (unit.whole) {
    u32 words[kLane * sizeof(T) / 4];
    load_own_words(from, words);
    unpack_words(words, x, T{});
  } else {
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; ++i) x[i] = unit.has(i / 6) ? to_float(load(from + i)) : 0.0f;
  }
}

// The same of f32 that are in registers as such.
TWOFOUR_DEVICE void write_own(const Unit& unit, float* base, Staging& staging, const float (&x)[kLane]) {
  if (unit.whole) {
    u32 words[kLane];
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; ++i) words[i] = bits_of(x[i]);
    store_together(base + 6 * unit.first, staging, words);
  } else {
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; ++i) {
      if (unit.has(i / 6)) store(base + 6 * unit.group + i, x[i]);
    }
  }
}

// Of bf16, given as the bits of f32 that are bf16's already.
TWOFOUR_DEVICE void write_own(const Unit& unit, bf16* base, Staging& staging, const float (&x)[kLane]) {
  if (unit.whole) {
    u32 words[kLane / 2];
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane / 2; ++i) words[i] = cut_to_bf16x2(x[2 * i], x[2 * i + 1]);
    store_together(base + 6 * unit.first, staging, words);
  } else {
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; ++i) {
      if (unit.has(i / 6)) store(base + 6 * unit.group + i, cut_to_bf16(x[i]));
    }
  }
}

// Four codes a word, lowest first.
TWOFOUR_DEVICE void read_own_codes(const Unit& unit, const u8* base, u32 (&words)[3]) {
  const u8* from = base + 6 * unit.group;
  if (unit.whole) {
    load_own_words(from, words);
  } else {
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; ++i) {
      const u32 code = unit.has(i / 6) ? load(from + i) : 0;
      words[i / 4] = i % 4 ? words[i / 4] | code << (8 * (i % 4)) : code;
    }
  }
}
// Given as the uppermost bytes of words.
TWOFOUR_DEVICE void write_own_codes(const Unit& unit, u8* base, Staging& staging, const u32 (&codes)[kLane]) {
  if (unit.whole) {
    u32 words[3];
    TWOFOUR_UNROLL
    for (int a = 0; a < 3; ++a) {
      const u32* four = codes + 4 * a;
      words[a] = byte_permute(byte_permute(four[0], four[1], 0x0073), byte_permute(four[2], four[3], 0x0073), 0x5410);
    }
    store_together(base + 6 * unit.first, staging, words);
  } else {
    TWOFOUR_UNROLL
    for (int i = 0; i < kLane; ++i) {
      if (unit.has(i / 6)) store(base + 6 * unit.group + i, u8(codes[i] >> 24));
    }
  }
}

// The lane's weights, or their gradients, which nothing writes.
template <typename T>
TWOFOUR_DEVICE void read_weights(const Unit& unit, const void* base, float (&x)[4 * kLaneGroups]) {
  const T* from = static_cast<const T*>(base) + 4 * unit.group;
  if (unit.whole) {
    load_run(from, x);
  } else {
    TWOFOUR_UNROLL
    for (int j = 0; j < int(4 * kLaneGroups); ++j) x[j] = unit.has(j / 4) ? to_float(load(from + j)) : 0.0f;
  }
}

}  // namespace twofour
