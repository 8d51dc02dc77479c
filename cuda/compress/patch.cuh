// How blocks share the groups of a weight where codes change their places: by patches of 4096 groups, as many rows and
// groups of a row as make whole tiles of every layout at hand. A block brings a patch's codes together in shared memory,
// row by row, and moves them from there, or to there, in 16-byte pieces of the layout.
//
// A layout's tile is a permutation of bits: each bit of a code's number in the tile is a bit of its row or of its group
// (src/compress/launch.rs makes the list from the layout's table). So is a patch, if the bits above a tile's say which
// tile it is. Canonical codes are one run without rows: a weight in that layout is one long row, and its patches are
// pieces of it.
#pragma once

#include "compress/codes.cuh"

namespace twofour {

constexpr u32 kPatchThreads = 256;
constexpr u32 kPatchBits = 12;
constexpr u32 kPatchGroups = 1 << kPatchBits;
// 16-byte pieces of a patch's codes.
constexpr u32 kPatchPieces = kPatchGroups / 32;
// A row of a patch takes a word more than its codes do, so that rows begin in different banks; 512 rows at most.
constexpr u32 kPatchWords = kPatchGroups / 8 + 512;

// How the patches lie over the weight.
struct Patches {
  u64 rows;    // of the weight as it is walked: 1 where it is one long row
  u64 groups;  // of such a row
  u32 along;   // patches side by side
  u32 count;   // patches in all
  u32 rows_log2;
  u32 groups_log2;  // at least 3; together kPatchBits
};

// A layout's codes in memory.
enum class Order : u32 { kPlain, kWords, kWoven };
struct Arrangement {
  u64 rows, groups;        // with padding to whole tiles
  u64 down, beside;        // bytes from a tile to the one below it, and to the one beside it
  u64 codes, bytes;        // bytes that tiles fill, and all: those between them are padding
  u32 places[kPatchBits];  // of each bit of a code's number in the patch: row << 16 | group
  u32 tile_rows_log2, tile_groups_log2;
  Order order;  // plain: none of the above counts. Words: four groups of a row lie together. Woven: see `weave`.
  u32 unused;
};

// The part of a patch that the weight has.
struct Patch {
  u64 row, group;
  u32 rows, groups;
  u32 groups_log2;

  TWOFOUR_DEVICE Patch(const Patches& all, u32 number) : groups_log2(all.groups_log2) {
    const u32 down = number / all.along;
    row = u64(down) << all.rows_log2;
    group = u64(number - down * all.along) << groups_log2;
    rows = clamp(row, all.rows, 1u << all.rows_log2);
    groups = clamp(group, all.groups, 1u << groups_log2);
  }

  // How many of `most` there are from `first` on.
  TWOFOUR_DEVICE static u32 clamp(u64 first, u64 end, u32 most) {
    if (first >= end) return 0;
    return end - first < most ? u32(end - first) : most;
  }
  // Bytes from a row to the next in shared memory.
  TWOFOUR_DEVICE u32 pitch() const { return (1u << groups_log2) / 2 + 4; }
  TWOFOUR_DEVICE u32 at(u32 row_in_patch, u32 group_in_patch) const {
    return row_in_patch * pitch() + group_in_patch / 2;
  }
};

// From a thread's chunk to its next one: 256 chunks further along the patch's rows.
struct Steps {
  u64 dense, values;  // bytes
  u64 groups;         // of the weight, counted row by row
  u32 row, group;     // in the patch
};

// A thread's chunk of a patch: which of its groups the weight has, and where its values are.
template <typename V>
struct Chunk {
  u32 row, group;     // in the patch
  u64 dense, values;  // bytes from the arrays' starts
  u64 first;          // number of its first group, counted row by row

  TWOFOUR_DEVICE Chunk(const Patches& all, const Patch& patch, u64 dense_pitch, u64 values_pitch) {
    constexpr u32 log2 = V::groups == 8 ? 3 : 2;
    row = thread_index() >> (patch.groups_log2 - log2);
    group = thread_index() << log2 & ((1u << patch.groups_log2) - 1);
    const u64 of_row = patch.row + row, of_group = patch.group + group;
    dense = of_row * dense_pitch + of_group * kGroupBytes<V>;
    values = of_row * values_pitch + of_group * kKeptBytes<V>;
    first = of_row * all.groups + of_group;
  }
  TWOFOUR_DEVICE void next(const Steps& by) {
    row += by.row, group += by.group;
    dense += by.dense, values += by.values, first += by.groups;
  }
  TWOFOUR_DEVICE u32 inside(const Patch& patch) const {
    if (row >= patch.rows || group >= patch.groups) return 0;
    const u32 rest = patch.groups - group;
    return rest < u32(V::groups) ? rest : V::groups;
  }
};

// ---- canonical codes --------------------------------------------------------------------------------------

TWOFOUR_DEVICE u32 plain_code(const u8* codes, u64 group) { return load(codes + group / 2) >> (4 * (group % 2)) & 15; }

// The codes of a chunk of which `inside` groups exist, from number `group` of the whole weight on.
template <int count>
TWOFOUR_DEVICE u32 load_plain(const u8* codes, u64 group, u32 inside) {
  if (inside == u32(count) && group % count == 0) {
    if constexpr (count == 8) return load_4(codes + group / 2);
    else return load_2(codes + group / 2);
  }
  u32 all = 0;
  TWOFOUR_NO_UNROLL
  for (u32 g = 0; g < inside; ++g) all |= plain_code(codes, group + g) << (4 * g);
  return all;
}

TWOFOUR_DEVICE u32 patch_code(const u8* shared, const Patch& patch, u32 row, u32 group) {
  return shared[patch.at(row, group)] >> (4 * (group % 2)) & 15;
}

// A patch's codes to canonical ones, by all threads of the block. Where rows begin in the middle of a byte, a patch
// writes the bytes whose lower code it has; `next(row, group)` gives a code that it does not have.
template <typename Next>
TWOFOUR_DEVICE void store_plain(const u8* shared, const Patches& all, const Patch& patch, u8* codes, Next next) {
  const u32 groups_log2 = patch.groups_log2;
  // Rows that begin with 16 bytes; the last piece of a weight that is one row may end with fewer.
  const bool in_pieces = groups_log2 >= 5 && (all.groups % 32 == 0 || all.rows == 1);
  const u32 done = in_pieces ? patch.groups / 32 * 32 : 0;
  if (in_pieces && thread_index() < kPatchPieces) {
    const u32 row = thread_index() >> (groups_log2 - 5), group = thread_index() << 5 & ((1u << groups_log2) - 1);
    const u32* from = reinterpret_cast<const u32*>(shared + patch.at(row, group));
    if (row < patch.rows && group < done) {
      store_16(codes + ((patch.row + row) * all.groups + patch.group + group) / 2,
               {load(from), load(from + 1), load(from + 2), load(from + 3)});
    }
  }
  if (done == patch.groups) return;
  TWOFOUR_NO_UNROLL
  for (u32 slot = thread_index(); slot < kPatchGroups / 2; slot += kPatchThreads) {
    const u32 row = slot >> (groups_log2 - 1);
    const u64 first = (patch.row + row) * all.groups + patch.group;
    // The weight's even groups have the lower half of a byte.
    const u32 group = (slot << 1 & ((1u << groups_log2) - 1)) + u32(first % 2);
    if (row >= patch.rows || group >= patch.groups || group < done) continue;
    u32 odd = 0;
    if (group + 1 < patch.groups) odd = patch_code(shared, patch, row, group + 1);
    else if (patch.group + group + 1 < all.groups) odd = next(patch.row + row, patch.group + group + 1);
    else if (patch.row + row + 1 < all.rows) odd = next(patch.row + row + 1, u64(0));
    store(codes + (first + group) / 2, u8(patch_code(shared, patch, row, group) | odd << 4));
  }
}

// ---- a layout's codes -------------------------------------------------------------------------------------

// A 16-byte piece of the patch in a layout: where its first code is, and where it lies in memory.
struct Piece {
  u32 row, group;
  bool there;
  u64 byte;

  TWOFOUR_DEVICE Piece(const Arrangement& by, const Patch& patch, u32 piece) {
    u32 place = 0;
    TWOFOUR_UNROLL
    for (u32 bit = 5; bit < kPatchBits; ++bit) place += piece >> (bit - 5) & 1 ? by.places[bit] : 0;
    row = place >> 16;
    group = place & 0xffff;
    there = patch.row + row < by.rows && patch.group + group < by.groups;
    const u32 tile_bytes = 1u << (by.tile_rows_log2 + by.tile_groups_log2 - 1);
    byte = ((patch.row + row) >> by.tile_rows_log2) * by.down +
           ((patch.group + group) >> by.tile_groups_log2) * by.beside + (16 * piece & (tile_bytes - 1));
  }
};

// How far codes lie from one another in shared memory, of which one bit of the number differs.
TWOFOUR_DEVICE u32 distance(const Arrangement& by, const Patch& patch, u32 bit) {
  return patch.at(by.places[bit] >> 16, by.places[bit] & 0xffff);
}

// Half bytes 0 and 1 of x, to the lowest of two 16-bit halves; and back.
TWOFOUR_DEVICE u32 apart(u32 x) { return (x | x << 12) & 0x000f000fu; }
TWOFOUR_DEVICE u32 adjoin(u32 x) { return (x | x >> 12) & 0xffu; }

// Eight codes each of two rows, woven: rows alternate, and groups are in the order 0 4 1 5 2 6 3 7.
TWOFOUR_DEVICE u32x2 weave(u32 upper, u32 lower) {
  const u32 u0 = apart(upper & 0xff) | apart(upper >> 16 & 0xff) << 8;
  const u32 u1 = apart(upper >> 8 & 0xff) | apart(upper >> 24) << 8;
  const u32 l0 = apart(lower & 0xff) | apart(lower >> 16 & 0xff) << 8;
  const u32 l1 = apart(lower >> 8 & 0xff) | apart(lower >> 24) << 8;
  return {u0 | l0 << 4, u1 | l1 << 4};
}
// One row of it: the upper, or for words shifted by 4 the lower one.
TWOFOUR_DEVICE u32 unweave(u32 first, u32 second) {
  const u32 a = first & 0x000f000fu, b = second & 0x000f000fu;
  const u32 c = first >> 8 & 0x000f000fu, d = second >> 8 & 0x000f000fu;
  return adjoin(a) | adjoin(b) << 8 | adjoin(c) << 16 | adjoin(d) << 24;
}

// A patch's codes to a layout, by all threads of the block.
TWOFOUR_DEVICE void store_arranged(const u8* shared, const Arrangement& by, const Patch& patch, u8* metadata) {
  static_assert(kPatchPieces <= kPatchThreads, "a piece a thread");
  const Piece piece(by, patch, thread_index());
  if (thread_index() >= kPatchPieces || !piece.there) return;
  const u8* from = shared + patch.at(piece.row, piece.group);
  u32 words[4];
  if (by.order == Order::kWoven) {
    const u32 eight_rows = distance(by, patch, 0), row = distance(by, patch, 4);
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 2; ++i) {
      const u32* upper = reinterpret_cast<const u32*>(from + i * row);
      const u32* lower = reinterpret_cast<const u32*>(from + i * row + eight_rows);
      const u32x2 both = weave(load(upper), load(lower));
      words[2 * i] = both.x, words[2 * i + 1] = both.y;
    }
  } else {
    const u32 half = distance(by, patch, 2), one = distance(by, patch, 3), two = distance(by, patch, 4);
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 4; ++i) {
      const u8* low = from + (i & 1 ? one : 0) + (i & 2 ? two : 0);
      const u32 high = load(reinterpret_cast<const u16*>(low + half));
      words[i] = load(reinterpret_cast<const u16*>(low)) | high << 16;
    }
  }
  store_16(metadata + piece.byte, {words[0], words[1], words[2], words[3]});
}

// The way back: a layout's codes to the patch. Codes of padding may come along.
TWOFOUR_DEVICE void load_arranged(u8* shared, const Arrangement& by, const Patch& patch, const u8* metadata) {
  static_assert(kPatchPieces <= kPatchThreads, "a piece a thread");
  const Piece piece(by, patch, thread_index());
  if (thread_index() >= kPatchPieces || !piece.there) return;
  u8* to = shared + patch.at(piece.row, piece.group);
  const u32x4 v = load_16(metadata + piece.byte);
  const u32 words[4] = {v.x, v.y, v.z, v.w};
  if (by.order == Order::kWoven) {
    const u32 eight_rows = distance(by, patch, 0), row = distance(by, patch, 4);
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 2; ++i) {
      u8* upper = to + i * row;
      store(reinterpret_cast<u32*>(upper), unweave(words[2 * i], words[2 * i + 1]));
      store(reinterpret_cast<u32*>(upper + eight_rows), unweave(words[2 * i] >> 4, words[2 * i + 1] >> 4));
    }
  } else {
    const u32 half = distance(by, patch, 2), one = distance(by, patch, 3), two = distance(by, patch, 4);
    TWOFOUR_UNROLL
    for (u32 i = 0; i < 4; ++i) {
      u8* low = to + (i & 1 ? one : 0) + (i & 2 ? two : 0);
      store(reinterpret_cast<u16*>(low), u16(words[i]));
      store(reinterpret_cast<u16*>(low + half), u16(words[i] >> 16));
    }
  }
}

// One code of a layout.
TWOFOUR_DEVICE u32 arranged_code(const Arrangement& by, const u8* metadata, u64 row, u64 group) {
  const u32 in_tile =
      (u32(row) & ((1u << by.tile_rows_log2) - 1)) << 16 | (u32(group) & ((1u << by.tile_groups_log2) - 1));
  u32 number = 0;
  TWOFOUR_NO_UNROLL
  for (u32 bit = 0; bit < by.tile_rows_log2 + by.tile_groups_log2; ++bit) {
    number |= u32((in_tile & by.places[bit]) != 0) << bit;
  }
  const u8* tile = metadata + (row >> by.tile_rows_log2) * by.down + (group >> by.tile_groups_log2) * by.beside;
  return load(tile + number / 2) >> (4 * (number % 2)) & 15;
}

// Padding behind the last tile, by all threads of the grid.
TWOFOUR_DEVICE void fill_room(const Arrangement& by, u8* metadata) {
  const u64 step = u64(block_count()) * kPatchThreads * 16;
  u64 byte = by.codes + (u64(block_index()) * kPatchThreads + thread_index()) * 16;
  for (; byte < by.bytes; byte += step) {
    store_16(metadata + byte, {kPaddingCodes, kPaddingCodes, kPaddingCodes, kPaddingCodes});
  }
}

}  // namespace twofour
