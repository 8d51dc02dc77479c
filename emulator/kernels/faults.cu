// Planted faults: what each kernel gets wrong, the emulator must find (tests/faults.rs). Every one has a twin, the same
// code without the fault, that must come out right under every schedule.
//
// Unless said otherwise a kernel runs as one block of 256 threads and computes, tile by tile of 256 floats,
//     out[tile][i] = 2 * in[tile][255 - i]
// so a thread needs what a thread of another warp has loaded.
#include "common/ptx.cuh"

namespace twofour {

constexpr u32 kTile = 256;

struct FaultArgs {
  const float* in;
  float* out;
  u32 tiles;
};

#define TWOFOUR_PAIR(name)                                                        \
  TWOFOUR_KERNEL(twofour_wrong_##name, FaultArgs, kTile, 1) { name<true>(args); } \
  TWOFOUR_KERNEL(twofour_right_##name, FaultArgs, kTile, 1) { name<false>(args); }

TWOFOUR_DEVICE u32 mirrored() { return kTile - 1 - thread_index(); }

// ---- barriers ---------------------------------------------------------------------------------------------

template <bool first, bool second>
TWOFOUR_DEVICE void tiles_through(float* shared, const FaultArgs& args) {
  for (u32 tile = 0; tile < args.tiles; ++tile) {
    shared[thread_index()] = load(args.in + tile * kTile + thread_index());
    if (first) sync_threads();
    store(args.out + tile * kTile + thread_index(), 2.0f * shared[mirrored()]);
    if (second) sync_threads();
  }
}

// Reads before the others have written.
template <bool wrong>
TWOFOUR_DEVICE void missing_first_barrier(const FaultArgs& args) {
  TWOFOUR_SHARED float shared[kTile];
  tiles_through<!wrong, true>(shared, args);
}
TWOFOUR_PAIR(missing_first_barrier)

// Writes the next tile before the others have read this one.
template <bool wrong>
TWOFOUR_DEVICE void missing_second_barrier(const FaultArgs& args) {
  TWOFOUR_SHARED float shared[kTile];
  tiles_through<true, !wrong>(shared, args);
}
TWOFOUR_PAIR(missing_second_barrier)

// The same within a warp, where sync_warp is enough.
template <bool wrong>
TWOFOUR_DEVICE void missing_warp_barrier(const FaultArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(float, shared);
  const u32 from = mirrored() / kWarpSize * kWarpSize + lane();
  for (u32 tile = 0; tile < args.tiles; ++tile) {
    store(shared + thread_index(), load(args.in + tile * kTile + from));
    if (!wrong) sync_warp();
    store(args.out + tile * kTile + thread_index(), 2.0f * load(shared + (thread_index() ^ 31)));
    sync_warp();
  }
}
TWOFOUR_PAIR(missing_warp_barrier)

// Only half of the block comes to the barrier.
template <bool wrong>
TWOFOUR_DEVICE void divergent_barrier(const FaultArgs& args) {
  TWOFOUR_SHARED float shared[kTile];
  shared[thread_index()] = load(args.in + thread_index());
  if (!wrong || thread_index() < kTile / 2) sync_threads();
  store(args.out + thread_index(), 2.0f * shared[mirrored()]);
}
TWOFOUR_PAIR(divergent_barrier)

// Both halves come to a barrier, but not to the same one.
template <bool wrong>
TWOFOUR_DEVICE void two_barriers(const FaultArgs& args) {
  TWOFOUR_SHARED float shared[kTile];
  shared[thread_index()] = load(args.in + thread_index());
  if (wrong && thread_index() < kTile / 2) {
    sync_threads();
  } else {
    sync_threads();
  }
  store(args.out + thread_index(), 2.0f * shared[mirrored()]);
}
TWOFOUR_PAIR(two_barriers)

// A thread leaves before a barrier.
template <bool wrong>
TWOFOUR_DEVICE void early_return(const FaultArgs& args) {
  TWOFOUR_SHARED float shared[kTile];
  if (wrong && thread_index() == 100) return;
  shared[thread_index()] = load(args.in + thread_index());
  sync_threads();
  store(args.out + thread_index(), 2.0f * shared[mirrored()]);
}
TWOFOUR_PAIR(early_return)

// ---- asynchronous copies ----------------------------------------------------------------------------------

template <bool waits>
TWOFOUR_DEVICE void copied_tiles(const FaultArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(float, shared);
  for (u32 tile = 0; tile < args.tiles; ++tile) {
    cp_async_4(shared + thread_index(), args.in + tile * kTile + thread_index());
    cp_async_commit();
    if (waits) cp_async_wait<0>();
    sync_threads();
    store(args.out + tile * kTile + thread_index(), 2.0f * load(shared + mirrored()));
    sync_threads();
  }
}
template <bool wrong>
TWOFOUR_DEVICE void missing_copy_wait(const FaultArgs& args) {
  copied_tiles<!wrong>(args);
}
TWOFOUR_PAIR(missing_copy_wait)

// Two stages: while a tile is used the next is on its way. The last tile must be waited for entirely.
template <bool strict, bool barrier_before_copy>
TWOFOUR_DEVICE void pipelined_tiles(const FaultArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(float, shared);
  cp_async_4(shared + thread_index(), args.in + thread_index());
  cp_async_commit();
  for (u32 tile = 0; tile < args.tiles; ++tile) {
    float* now = shared + tile % 2 * kTile;
    float* next = shared + (tile + 1) % 2 * kTile;
    if (tile + 1 < args.tiles) {
      cp_async_4(next + thread_index(), args.in + (tile + 1) * kTile + thread_index());
      cp_async_commit();
      cp_async_wait<1>();
    } else if (strict) {
      cp_async_wait<0>();
    } else {
      cp_async_wait<1>();
    }
    sync_threads();
    store(args.out + tile * kTile + thread_index(), 2.0f * load(now + mirrored()));
    if (barrier_before_copy) sync_threads();
  }
}
template <bool wrong>
TWOFOUR_DEVICE void wrong_wait_count(const FaultArgs& args) {
  pipelined_tiles<!wrong, true>(args);
}
TWOFOUR_PAIR(wrong_wait_count)

// The copy of the next tile but one goes where others still read.
template <bool wrong>
TWOFOUR_DEVICE void copy_into_use(const FaultArgs& args) {
  pipelined_tiles<true, !wrong>(args);
}
TWOFOUR_PAIR(copy_into_use)

// ---- bounds -----------------------------------------------------------------------------------------------

TWOFOUR_DEVICE void double_one(const FaultArgs& args, u32 to) {
  store(args.out + to, 2.0f * load(args.in + (kTile - 1 - to)));
}

template <bool wrong>
TWOFOUR_DEVICE void load_off_by_one(const FaultArgs& args) {
  store(args.out + thread_index(), 2.0f * load(args.in + mirrored() + (wrong ? 1 : 0)));
}
TWOFOUR_PAIR(load_off_by_one)

template <bool wrong>
TWOFOUR_DEVICE void raw_load_off_by_one(const FaultArgs& args) {
  args.out[thread_index()] = 2.0f * args.in[mirrored() + (wrong ? 1 : 0)];
}
TWOFOUR_PAIR(raw_load_off_by_one)

template <bool wrong>
TWOFOUR_DEVICE void store_off_by_one(const FaultArgs& args) {
  double_one(args, thread_index());
  if (wrong && thread_index() == 7) store(args.out + kTile, 1.0f);
}
TWOFOUR_PAIR(store_off_by_one)

template <bool wrong>
TWOFOUR_DEVICE void raw_store_off_by_one(const FaultArgs& args) {
  double_one(args, thread_index());
  if (wrong && thread_index() == 7) args.out[kTile] = 1.0f;
}
TWOFOUR_PAIR(raw_store_off_by_one)

// In front of a buffer that does not fill its pages, where only a pattern can show it.
template <bool wrong>
TWOFOUR_DEVICE void raw_store_in_front(const FaultArgs& args) {
  double_one(args, thread_index());
  if (wrong && thread_index() == 7) *(args.out - 1) = 1.0f;
}
TWOFOUR_PAIR(raw_store_in_front)

template <bool wrong>
TWOFOUR_DEVICE void store_to_input(const FaultArgs& args) {
  double_one(args, thread_index());
  if (wrong && thread_index() == 9) store(const_cast<float*>(args.in) + 9, 1.0f);
}
TWOFOUR_PAIR(store_to_input)

template <bool wrong>
TWOFOUR_DEVICE void raw_store_to_input(const FaultArgs& args) {
  double_one(args, thread_index());
  if (wrong && thread_index() == 9) const_cast<float*>(args.in)[9] = 1.0f;
}
TWOFOUR_PAIR(raw_store_to_input)

template <bool wrong>
TWOFOUR_DEVICE void null_pointer(const FaultArgs& args) {
  double_one(args, thread_index());
  // Null when wrong, as tiles is 1, but not so that a compiler could know.
  const float* pointer = wrong ? reinterpret_cast<const float*>(u64(args.tiles - 1)) : args.in;
  if (thread_index() == 3 && pointer[thread_index()] == 77.0f) store(args.out, 0.0f);
}
TWOFOUR_PAIR(null_pointer)

template <bool wrong>
TWOFOUR_DEVICE void unwritten_output(const FaultArgs& args) {
  if (!wrong || thread_index() + 1 < kTile) double_one(args, thread_index());
}
TWOFOUR_PAIR(unwritten_output)

template <bool wrong>
TWOFOUR_DEVICE void misaligned_load(const FaultArgs& args) {
  double_one(args, thread_index());
  const u32x4 four = load_16(args.in + (wrong ? 2 : 4));
  if (four.x == 0x12345678) store(args.out, 0.0f);
}
TWOFOUR_PAIR(misaligned_load)

template <bool wrong>
TWOFOUR_DEVICE void raw_misaligned_load(const FaultArgs& args) {
  double_one(args, thread_index());
  const u64 two = *reinterpret_cast<const u64*>(args.in + (wrong ? 1 : 2));
  if (two == 0x12345678) store(args.out, 0.0f);
}
TWOFOUR_PAIR(raw_misaligned_load)

// ---- shared memory ----------------------------------------------------------------------------------------

template <bool wrong>
TWOFOUR_DEVICE void shared_overrun(const FaultArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(float, shared);
  store(shared + thread_index() + (wrong ? 2 * kTile - 128 : 0), load(args.in + thread_index()));
  sync_threads();
  store(args.out + thread_index(), 2.0f * load(shared + mirrored() + (wrong ? 2 * kTile - 128 : 0)));
}
TWOFOUR_PAIR(shared_overrun)

template <bool wrong>
TWOFOUR_DEVICE void raw_shared_overrun(const FaultArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(float, shared);
  const u32 offset = wrong ? 2 * kTile - 128 : 0;
  shared[thread_index() + offset] = load(args.in + thread_index());
  sync_threads();
  store(args.out + thread_index(), 2.0f * shared[mirrored() + offset]);
}
TWOFOUR_PAIR(raw_shared_overrun)

template <bool wrong>
TWOFOUR_DEVICE void static_overrun(const FaultArgs& args) {
  TWOFOUR_SHARED float shared[kTile];
  shared[thread_index() + (wrong ? args.tiles : 0)] = load(args.in + thread_index());
  sync_threads();
  store(args.out + thread_index(), 2.0f * shared[mirrored() + (wrong ? args.tiles : 0)]);
}
TWOFOUR_PAIR(static_overrun)

template <bool wrong>
TWOFOUR_DEVICE void uninitialised_shared(const FaultArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(float, sums);
  if (!wrong || warp() != 3) store(sums + thread_index(), 0.0f);
  sync_threads();
  store(sums + thread_index(), load(sums + thread_index()) + load(args.in + thread_index()));
  sync_threads();
  store(args.out + thread_index(), 2.0f * load(sums + mirrored()));
}
TWOFOUR_PAIR(uninitialised_shared)

template <bool wrong>
TWOFOUR_DEVICE void uninitialised_static(const FaultArgs& args) {
  TWOFOUR_SHARED float sums[kTile];
  if (!wrong || warp() != 3) sums[thread_index()] = 0.0f;
  sync_threads();
  sums[thread_index()] += load(args.in + thread_index());
  sync_threads();
  store(args.out + thread_index(), 2.0f * sums[mirrored()]);
}
TWOFOUR_PAIR(uninitialised_static)

template <bool wrong>
TWOFOUR_DEVICE void misaligned_copy(const FaultArgs& args) {
  TWOFOUR_DYNAMIC_SHARED(float, shared);
  double_one(args, thread_index());
  cp_async_16(shared + (wrong ? 1 : 4), args.in);
  cp_async_wait_all();
}
TWOFOUR_PAIR(misaligned_copy)

template <bool wrong>
TWOFOUR_DEVICE void stack_overflow(const FaultArgs& args) {
  double_one(args, thread_index());
  volatile float large[wrong ? 40000 : 40];
  for (u32 i = 0; i < sizeof(large) / sizeof(float); ++i) large[sizeof(large) / sizeof(float) - 1 - i] = 1.0f;
  if (large[thread_index() % 40] != 1.0f) store(args.out, 0.0f);
}
TWOFOUR_PAIR(stack_overflow)

template <bool wrong>
TWOFOUR_DEVICE void wide_shift(const FaultArgs& args) {
  const u32 shift = wrong ? 32 + args.tiles : args.tiles;
  store(args.out + thread_index(), (1u << shift) == 0 ? 0.0f : 2.0f * load(args.in + mirrored()));
}
TWOFOUR_PAIR(wide_shift)

}  // namespace twofour
