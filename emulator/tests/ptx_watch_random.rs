//! Random programs of a few threads over a few cells: a watched launch finds a race exactly if one of all pairs of
//! accesses, taken apart by the program's own order, has nothing between that orders it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/watch.rs"]
mod support;

use std::cell::Cell;

use proptest::prelude::*;
use support::{module, run, zeros};
use twofour_emulator::{Fault, Schedule};

/// The threads that do something: three lanes of each of two warps, which are whole.
const THREADS: [u32; 6] = [0, 1, 2, 32, 33, 34];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Load,
    Store,
    Atomic,
}

/// A step of all threads' program, most by one of them.
#[derive(Debug, Clone, Copy)]
enum Step {
    Touch {
        thread: usize,
        kind: Kind,
        first: u32,
        bytes: u32,
        global: bool,
    },
    Barrier,
    /// Of these lanes of a warp.
    Warp {
        warp: u32,
        lanes: u32,
    },
}

impl Step {
    fn text(self, number: usize) -> String {
        match self {
            Step::Barrier => "barrier.sync.aligned 0;\n".to_owned(),
            Step::Warp { warp, lanes } => {
                let [first, second] = if warp == 0 { [lanes, 0] } else { [0, lanes] };
                format!(
                    "selp.u32 %w2, {first}, {second}, %p11; mov.u32 %w3, %lanemask_eq; and.b32 %w2, %w2, %w3;
                    setp.ne.s32 %p0, %w2, 0; @%p0 bar.warp.sync {lanes};\n"
                )
            }
            Step::Touch { thread, kind, first, bytes, global } => {
                let (space, base) = if global { ("global", "%to") } else { ("shared", "%w10") };
                let (bits, at) = (8 * bytes, format!("[{base}+{}]", 1024 + first));
                let what = match kind {
                    Kind::Load => format!("ld.{space}.u{bits} %w1, {at};"),
                    Kind::Store => format!("st.{space}.u{bits} {at}, %w{};", number % 8),
                    Kind::Atomic if global => format!("red.global.add.u32 {at}, 1;"),
                    Kind::Atomic => format!("atom.shared.add.u32 %w1, {at}, 1;"),
                };
                format!("setp.eq.s32 %p0, %lane, {}; @%p0 {what}\n", THREADS[thread])
            }
        }
    }

    /// Is this thread one of those that wait for each other?
    fn joins(self, thread: u32) -> bool {
        match self {
            Step::Touch { .. } => false,
            Step::Barrier => true,
            Step::Warp { warp, lanes } => thread / 32 == warp && lanes >> (thread % 32) & 1 == 1,
        }
    }
}

/// The oracle: who is reached from the first access by the second's turn.
fn races(steps: &[Step]) -> bool {
    (0..steps.len()).any(|i| {
        let Step::Touch { thread, kind, first, bytes, global } = steps[i] else { return false };
        let mut reached = vec![THREADS[thread]];
        steps[i + 1..].iter().any(|&later| match later {
            Step::Touch { thread: t, kind: k, first: f, bytes: b, global: g } => {
                let meet = g == global && f < first + bytes && first < f + b;
                let conflict = (kind, k) != (Kind::Load, Kind::Load) && (kind, k) != (Kind::Atomic, Kind::Atomic);
                meet && conflict && !reached.contains(&THREADS[t])
            }
            sync => {
                if reached.iter().any(|&thread| sync.joins(thread)) {
                    reached.extend(THREADS.into_iter().filter(|&thread| sync.joins(thread)));
                }
                false
            }
        })
    })
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![3 => Just(Kind::Load), 2 => Just(Kind::Store), 1 => Just(Kind::Atomic)];
    let touch =
        (0..THREADS.len(), kind, 0..8u32, 0..3u32, any::<bool>()).prop_map(|(thread, kind, first, size, global)| {
            let bytes = if kind == Kind::Atomic { 4 } else { 1 << size };
            Step::Touch { thread, kind, first: first / bytes * bytes, bytes, global }
        });
    let lanes = prop::sample::select(vec![u32::MAX, u32::MAX, 0b1, 0b11, 0b110, 0b101]);
    let warp = (0..2u32, lanes).prop_map(|(warp, lanes)| Step::Warp { warp, lanes });
    prop_oneof![5 => touch, 1 => Just(Step::Barrier), 5 => warp]
}

#[test]
fn a_race_is_found_exactly_if_there_is_one() {
    let counts = [Cell::new(0), Cell::new(0)];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 1500, ..Default::default() });
    let strategy = (prop::collection::vec(step(), 2..16), any::<u64>());
    runner
        .run(&strategy, |(steps, seed)| {
            let body: String = steps.iter().enumerate().map(|(number, step)| step.text(number)).collect();
            // Cells are written first, so that no load is of nothing.
            let fill = "@%p10 st.shared.v2.u32 [%w10+1024], {%w10, %w10}; barrier.sync.aligned 0;\n";
            let module = module(&format!("{fill}{body}"));
            let expected = races(&steps);
            let count = &counts[usize::from(expected)];
            count.set(count.get() + 1);
            for schedule in [Schedule::RoundRobin, Schedule::Solo(seed), Schedule::Random(seed)] {
                let found = match run(&module, &zeros(), 1, 64, schedule) {
                    Ok(()) => false,
                    Err(Fault::Race { .. }) => true,
                    Err(other) => panic!("{other}"),
                };
                prop_assert_eq!(found, expected, "{:?}\n{}", schedule, body);
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(counts.iter().all(|count| count.get() > 100), "right and with a race: {counts:?}");
}

/// Three lanes hand a word on in pairs, and the two of the last pair know different things.
#[test]
fn order_goes_on_from_lane_to_lane() {
    let touch = |thread, kind| Step::Touch { thread, kind, first: 0, bytes: 4, global: false };
    let meet = |lanes| Step::Warp { warp: 0, lanes };
    let chain = [touch(2, Kind::Store), meet(0b110), meet(0b011), touch(0, Kind::Load)];
    for missing in [None, Some(1), Some(2)] {
        let mut steps = chain.to_vec();
        missing.map(|missing| steps.remove(missing));
        let body: String = steps.iter().enumerate().map(|(number, step)| step.text(number)).collect();
        let module = module(&format!("@%p10 st.shared.u32 [%w10+1024], 0; barrier.sync.aligned 0;\n{body}"));
        for schedule in Schedule::several(3) {
            let found = run(&module, &zeros(), 1, 64, schedule).is_err();
            assert_eq!((found, races(&steps)), (missing.is_some(), missing.is_some()), "{missing:?} {schedule:?}");
        }
    }
}
