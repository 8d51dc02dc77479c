// Twins of barriers, shuffles and votes.
#pragma once

namespace twofour {

TWOFOUR_DEVICE void sync_threads(Site site = Site::here()) { ::twofour_emulator::barrier(site); }

TWOFOUR_DEVICE void sync_warp(Site site = Site::here()) {
  u32 nothing = 0;
  ::twofour_emulator::collective("sync_warp", nothing, [](void* const*) {}, site);
}

struct ShuffleLane {
  u64 value, result;
  u32 which;
};

// Source::of(self, which): the lane that lane `self` reads from. The hardware looks at five bits of `which`.
template <typename Source>
TWOFOUR_DEVICE void shuffle_lanes(void* const* lanes) {
  for (u32 self = 0; self < kWarpSize; ++self) {
    auto* mine = static_cast<ShuffleLane*>(lanes[self]);
    const u32 source = Source::of(self, mine->which % kWarpSize);
    mine->result = static_cast<const ShuffleLane*>(lanes[source])->value;
  }
}
template <typename Source, typename T>
TWOFOUR_DEVICE T shuffle(const char* what, T value, u32 which, Site site) {
  ShuffleLane lane{0, 0, which};
  std::memcpy(&lane.value, &value, sizeof value);
  ::twofour_emulator::collective(what, lane, shuffle_lanes<Source>, site);
  std::memcpy(&value, &lane.result, sizeof value);
  return value;
}

struct XorSource {
  static u32 of(u32 self, u32 mask) { return self ^ mask; }
};
struct DownSource {
  static u32 of(u32 self, u32 delta) { return self + delta < kWarpSize ? self + delta : self; }
};
struct IndexSource {
  static u32 of(u32, u32 source) { return source; }
};
#define TWOFOUR_SHUFFLE(T)                                                    \
  TWOFOUR_DEVICE T shuffle_xor(T x, u32 mask, Site site = Site::here()) {     \
    return shuffle<XorSource>("shuffle_xor", x, mask, site);                  \
  }                                                                           \
  TWOFOUR_DEVICE T shuffle_down(T x, u32 delta, Site site = Site::here()) {   \
    return shuffle<DownSource>("shuffle_down", x, delta, site);               \
  }                                                                           \
  TWOFOUR_DEVICE T shuffle_index(T x, u32 source, Site site = Site::here()) { \
    return shuffle<IndexSource>("shuffle_index", x, source, site);            \
  }
TWOFOUR_SHUFFLE(u32)
TWOFOUR_SHUFFLE(u64)
TWOFOUR_SHUFFLE(float)
TWOFOUR_SHUFFLE(double)
#undef TWOFOUR_SHUFFLE

TWOFOUR_DEVICE void ballot_lanes(void* const* lanes) {
  u32 votes = 0;
  for (u32 l = 0; l < kWarpSize; ++l) votes |= *static_cast<const u32*>(lanes[l]) << l;
  for (u32 l = 0; l < kWarpSize; ++l) *static_cast<u32*>(lanes[l]) = votes;
}
TWOFOUR_DEVICE u32 ballot(bool predicate, Site site = Site::here()) {
  u32 vote = predicate;
  ::twofour_emulator::collective("ballot", vote, ballot_lanes, site);
  return vote;
}
TWOFOUR_DEVICE bool all(bool predicate, Site site = Site::here()) { return ballot(predicate, site) == kFullWarp; }
TWOFOUR_DEVICE bool any(bool predicate, Site site = Site::here()) { return ballot(predicate, site) != 0; }

}  // namespace twofour
