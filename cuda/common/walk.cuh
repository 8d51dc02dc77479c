// How a grid walks over the groups of a weight: a contiguous [N, K] is one run of groups, cut into chunks; thread t of all
// threads takes chunks t, t + threads, t + 2 * threads ... The number of a group in the whole (unsharded) weight is kept
// up to date by additions: it jumps where a row of the shard ends. src/device/walk.rs fills the struct.
#pragma once

#include "common/ptx.cuh"

namespace twofour {

struct Walk {
  u64 groups;       // in the shard
  u64 first;        // global number of the shard's first group
  u64 row_jump;     // what the global number skips where a row of the shard ends
  u64 step_global;  // how far one step of all threads moves the global number, without the jump of a wrap
  u32 row_groups;   // groups in a row of the shard; any number when row_jump is 0
  u32 step_in_row;  // how far one step moves the place in the row
};

// A group's place in its row and its global number.
struct Place {
  u32 in_row;
  u64 global;

  TWOFOUR_DEVICE Place(const Walk& walk, u64 group)
      : in_row(u32(group % walk.row_groups)), global(walk.first + group + group / walk.row_groups * walk.row_jump) {}

  // To the next group of the shard.
  TWOFOUR_DEVICE void next(const Walk& walk) {
    const bool wraps = ++in_row == walk.row_groups;
    in_row = wraps ? 0 : in_row;
    global += wraps ? walk.row_jump + 1 : 1;
  }

  // To the same thread's next chunk.
  TWOFOUR_DEVICE void step(const Walk& walk) {
    in_row += walk.step_in_row;
    const bool wraps = in_row >= walk.row_groups;
    in_row -= wraps ? walk.row_groups : 0;
    global += wraps ? walk.step_global + walk.row_jump : walk.step_global;
  }
};

// Calls run(i) for every i below `count` that is this thread's.
template <typename Run>
TWOFOUR_DEVICE void for_each(u64 count, Run run) {
  const u64 threads = u64(block_count()) * block_size();
  for (u64 i = u64(block_index()) * block_size() + thread_index(); i < count; i += threads) run(i);
}

}  // namespace twofour
