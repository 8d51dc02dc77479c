// Kept values and metadata in any layout back to the dense weight, and metadata from a layout to another
// (src/compress/mod.rs is the contract, cuda/compress/patch.cuh how blocks share a weight).
//
// A code that is not legal makes its whole group poison, or in another layout 4; both count it.
//
// Symbols: twofour_compress_unpack_{b16,b8,b32}, twofour_compress_reorder.

#include "compress/patch.cuh"

namespace twofour {

// How many blocks are to fit an SM at once: those of dense values hold all that a thread takes of a patch.
constexpr u32 kBlocks = 4, kBlocksUnpack = 3;

struct CompressUnpackArgs {
  const u8* values;
  const u8* metadata;
  u8* dense;
  u32* faults;      // null, or counts groups without a legal code
  u64 dense_pitch;  // bytes from a row to the next
  u64 values_pitch;
  Steps steps;
  Patches patches;
  Arrangement by;
  u32 poison;        // a word of NaN
  u32 dense_whole;   // 1: rows begin on 16 bytes
  u32 values_whole;  // the same; 2: and end with 16 bytes, padding included
  u32 unused;
};
static_assert(sizeof(CompressUnpackArgs) == 240, "UnpackArgs in src/compress/launch.rs");

struct CompressReorderArgs {
  const u8* from;
  u8* to;
  u32* faults;  // null, or counts groups without a legal code
  Steps steps;
  Patches patches;
  Arrangement from_by, to_by;
  u32 two_of_four;  // 0: one of two
  u32 unused;
};
static_assert(sizeof(CompressReorderArgs) == 320, "ReorderArgs in src/compress/launch.rs");

// ---- dense values -----------------------------------------------------------------------------------------

// A thread's chunk and its kept values, asked for before they are used.
template <typename V>
struct Kept {
  Chunk<V> at;
  u32 inside;
  u32 values[kKeptWords];

  // Takes the chunk to the next one.
  TWOFOUR_DEVICE Kept(const CompressUnpackArgs& args, const Patch& patch, Chunk<V>& chunk)
      : at(chunk), inside(chunk.inside(patch)) {
    const bool whole = inside > 0 && args.values_whole >= (inside == u32(V::groups) ? 1u : 2u);
    load_kept<V>(args.values + at.values, whole, inside, values);
    chunk.next(args.steps);
  }

  TWOFOUR_DEVICE u32 codes(const CompressUnpackArgs& args, const Patch& patch, const u8* shared) const {
    if (args.by.order == Order::kPlain) return load_plain<V::groups>(args.metadata, at.first, inside);
    const u8* from = shared + patch.at(at.row, at.group);
    if (V::groups == 8) return load(reinterpret_cast<const u32*>(from));
    return load(reinterpret_cast<const u16*>(from));
  }

  TWOFOUR_DEVICE void finish(const CompressUnpackArgs& args, const Patch& patch, const u8* shared) const {
    if (inside == 0) return;
    u32 code = padded_codes<V>(codes(args, patch, shared), inside);
    const u32 bad = illegal_codes(code, V::two_of_four) & kEachCode<V>;
    code = repaired(code, bad);
    u32 dense[kDenseWords];
    V::spread(values, code, dense);
    if (bad) {
      poison_dense<V>(dense, bad, args.poison);
      if (args.faults) atomic_add(args.faults, popcount(bad));
    }
    store_dense<V>(args.dense + at.dense, args.dense_whole && inside == u32(V::groups), inside, dense);
  }
};

template <typename V>
TWOFOUR_DEVICE void unpack(const CompressUnpackArgs& args) {
  TWOFOUR_SHARED u32 words[kPatchWords];
  u8* shared = reinterpret_cast<u8*>(words);
  constexpr u32 chunks = kPatchGroups / kPatchThreads / V::groups;
  static_assert(chunks == 2 || chunks == 4, "chunks of a thread");
  for (u32 number = block_index(); number < args.patches.count; number += block_count()) {
    const Patch patch(args.patches, number);
    Chunk<V> at(args.patches, patch, args.dense_pitch, args.values_pitch);
    // The values are on their way while the codes are waited for.
    const Kept<V> a(args, patch, at), b(args, patch, at);
    if (args.by.order != Order::kPlain) {
      load_arranged(shared, args.by, patch, args.metadata);
      sync_threads();
    }
    if constexpr (chunks == 4) {
      const Kept<V> c(args, patch, at), d(args, patch, at);
      a.finish(args, patch, shared);
      b.finish(args, patch, shared);
      c.finish(args, patch, shared);
      d.finish(args, patch, shared);
    } else {
      a.finish(args, patch, shared);
      b.finish(args, patch, shared);
    }
    sync_threads();
  }
}

#define UNPACK(V) \
  TWOFOUR_KERNEL(twofour_compress_unpack_##V, CompressUnpackArgs, kPatchThreads, kBlocksUnpack) { unpack<V>(args); }
UNPACK(b16)
UNPACK(b8)
UNPACK(b32)

// ---- codes alone ------------------------------------------------------------------------------------------

// Eight groups a thread at a time: reads those of canonical codes, else finds them in the patch; makes them legal, and
// E where the weight has none.
TWOFOUR_DEVICE void mend(const CompressReorderArgs& args, const Patch& patch, u8* shared) {
  Chunk<b8> at(args.patches, patch, 0, 0);
  TWOFOUR_UNROLL
  for (u32 i = 0; i < kPatchGroups / kPatchThreads / 8; ++i) {
    const u32 inside = at.inside(patch);
    u32* const word = reinterpret_cast<u32*>(shared + patch.at(at.row, at.group));
    u32 codes = 0;
    if (args.from_by.order == Order::kPlain) codes = load_plain<8>(args.from, at.first, inside);
    else codes = load(static_cast<const u32*>(word));
    codes = padded_codes<b8>(codes, inside);
    const u32 bad = illegal_codes(codes, args.two_of_four != 0);
    store(word, repaired(codes, bad));
    if (bad && args.faults) atomic_add(args.faults, popcount(bad));
    at.next(args.steps);
  }
}

TWOFOUR_DEVICE u32 source_code(const CompressReorderArgs& args, u64 row, u64 group) {
  const u32 code = args.from_by.order == Order::kPlain ? plain_code(args.from, row * args.patches.groups + group)
                                                       : arranged_code(args.from_by, args.from, row, group);
  return repaired(code, illegal_codes(code, args.two_of_four != 0) & 1);
}

TWOFOUR_KERNEL(twofour_compress_reorder, CompressReorderArgs, kPatchThreads, kBlocks) {
  TWOFOUR_SHARED u32 words[kPatchWords];
  u8* shared = reinterpret_cast<u8*>(words);
  for (u32 number = block_index(); number < args.patches.count; number += block_count()) {
    const Patch patch(args.patches, number);
    if (args.from_by.order != Order::kPlain) {
      load_arranged(shared, args.from_by, patch, args.from);
      sync_threads();
    }
    mend(args, patch, shared);
    sync_threads();
    if (args.to_by.order != Order::kPlain) {
      store_arranged(shared, args.to_by, patch, args.to);
    } else {
      store_plain(shared, args.patches, patch, args.to,
                  [&](u64 row, u64 group) { return source_code(args, row, group); });
    }
    sync_threads();
  }
  if (args.to_by.order != Order::kPlain) fill_room(args.to_by, args.to);
}

}  // namespace twofour
