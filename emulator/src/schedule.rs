//! In which order the threads of a block run. A kernel must be right under every one.

use crate::warp::Warp;

/// The order of threads. A thread runs until it waits for others; then the schedule picks the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Thread after thread, in order, block after block. The easiest to follow in a debugger.
    /// Asynchronous copies land as late as they may.
    RoundRobin,
    /// Any thread that can go on, at random. Asynchronous copies land at once or late, at random.
    Random(u64),
    /// One warp runs alone until all of it waits, then another at random: the order that finds a missing second
    /// barrier, where a fast warp overwrites what a slow one still reads. Copies as for `Random`.
    Solo(u64),
}

impl Schedule {
    /// `RoundRobin`, and `seeds` different ones each of `Random` and `Solo`.
    pub fn several(seeds: u64) -> impl Iterator<Item = Schedule> {
        let seeded = (0..seeds).flat_map(|seed| [Schedule::Solo(seed), Schedule::Random(seed)]);
        std::iter::once(Schedule::RoundRobin).chain(seeded)
    }

    fn seed(self) -> u64 {
        match self {
            Schedule::RoundRobin => 0,
            Schedule::Random(seed) | Schedule::Solo(seed) => seed,
        }
    }

    /// The random numbers of one block.
    pub(crate) fn random(self, block: u64) -> Random {
        Random(self.seed().wrapping_mul(0xD1B5_4A32_D192_ED03) ^ block.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    #[inline]
    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z >> 32) as u32
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.next()) * bound as u64) >> 32) as usize
    }
}

/// Picks the thread to run next.
pub(crate) struct Picker {
    schedule: Schedule,
    random: Random,
    warp: usize,
    lane: u32,
}

impl Picker {
    pub(crate) fn new(schedule: Schedule, block: u64, warps: usize) -> Picker {
        let mut random = schedule.random(block);
        let warp = match schedule {
            Schedule::RoundRobin => 0,
            _ => random.below(warps),
        };
        Picker { schedule, random, warp, lane: 0 }
    }

    /// The number of a thread that can go on, marked as running; none if all wait or are done.
    #[inline]
    pub(crate) fn pick(&mut self, warps: &[Warp]) -> Option<usize> {
        let ready = match self.schedule {
            Schedule::RoundRobin => self.next_in_order(warps)?,
            Schedule::Random(_) => self.any(warps)?,
            Schedule::Solo(_) => match warps[self.warp].ready.get() {
                0 => self.any(warps)?,
                ready => ready,
            },
        };
        self.lane = match self.schedule {
            Schedule::RoundRobin => ready.trailing_zeros(),
            _ => self.any_bit(ready),
        };
        let warp = &warps[self.warp];
        warp.ready.set(warp.ready.get() & !(1 << self.lane));
        Some(self.warp * 32 + self.lane as usize)
    }

    /// The lanes after the last one in its warp, or those of the next warp that has any.
    #[inline]
    fn next_in_order(&mut self, warps: &[Warp]) -> Option<u32> {
        let later = warps[self.warp].ready.get() & (!0u32 << self.lane);
        if later != 0 {
            return Some(later);
        }
        self.search_from(self.warp + 1, warps)
    }

    /// The lanes of a warp chosen at random among those that can go on.
    #[inline]
    fn any(&mut self, warps: &[Warp]) -> Option<u32> {
        let start = self.random.below(warps.len());
        self.search_from(start, warps)
    }

    #[inline]
    fn search_from(&mut self, start: usize, warps: &[Warp]) -> Option<u32> {
        let count = warps.len();
        let found = (start..start + count).map(|w| if w >= count { w - count } else { w });
        let warp = found.into_iter().find(|&w| warps[w].ready.get() != 0)?;
        self.warp = warp;
        self.lane = 0;
        Some(warps[warp].ready.get())
    }

    /// One of the set bits of a number that is not zero.
    #[inline]
    fn any_bit(&mut self, bits: u32) -> u32 {
        let turn = self.random.next() % 32;
        (bits.rotate_right(turn).trailing_zeros() + turn) % 32
    }
}
