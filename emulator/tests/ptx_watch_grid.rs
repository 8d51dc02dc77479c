//! Random programs of threads of several blocks, with fences and atomics: a watched launch finds a race exactly if two
//! accesses have no path between them in the graph of what the PTX memory model orders.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/watch.rs"]
mod support;

use std::cell::Cell;

use proptest::prelude::*;
use support::{module, run, zeros};
use twofour_emulator::{Fault, Schedule};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Load(u32),
    Store(u32),
    Atomic(u32),
    Fence,
    /// `bar.warp.sync` of all of the block.
    Meet,
}

/// A step of one thread, but for a meeting, which is of both of its block.
#[derive(Debug, Clone, Copy)]
struct Step {
    block: u32,
    lane: u32,
    what: What,
}

impl Step {
    fn text(&self) -> String {
        let at = |cell: u32| format!("[%to+{}]", 1024 + 4 * cell);
        let what = match self.what {
            What::Meet => return format!("setp.eq.s32 %p0, %w14, {}; @%p0 bar.warp.sync -1;\n", self.block),
            What::Load(cell) => format!("ld.global.u32 %w1, {};", at(cell)),
            What::Store(cell) => format!("st.global.u32 {}, 1;", at(cell)),
            What::Atomic(cell) => format!("red.global.add.u32 {}, 1;", at(cell)),
            What::Fence => "fence.acq_rel.gpu;".to_owned(),
        };
        format!("setp.eq.s32 %p0, %w15, {}; @%p0 {what}\n", 32 * self.block + self.lane)
    }

    /// Is the other a later step of the same thread, or of the same meeting?
    fn leads_to(&self, other: &Step) -> bool {
        let meet = self.what == What::Meet || other.what == What::Meet;
        self.block == other.block && (self.lane == other.lane || meet)
    }
}

/// The oracle, of a run that takes block after block. Steps are in order of the program.
fn races(steps: &[Step]) -> bool {
    let mut run: Vec<&Step> = steps.iter().collect();
    run.sort_by_key(|step| step.block);
    let count = run.len();
    let mut before = vec![vec![false; count]; count];
    for i in 0..count {
        for j in i + 1..count {
            before[i][j] |= run[i].leads_to(run[j]);
            // i and j are atomics of one place: a fence before the one is before a fence after the other.
            let (What::Atomic(a), What::Atomic(b)) = (run[i].what, run[j].what) else { continue };
            let fences = |of: usize| {
                let own = |&at: &usize| {
                    run[at].what == What::Fence && run[at].block == run[of].block && run[at].lane == run[of].lane
                };
                (0..count).filter(own).collect::<Vec<_>>()
            };
            for from in fences(i).into_iter().filter(|&from| from < i && a == b) {
                for to in fences(j).into_iter().filter(|&to| to > j) {
                    before[from][to] = true;
                }
            }
        }
    }
    for k in 0..count {
        for i in 0..count {
            for j in 0..count {
                before[i][j] |= before[i][k] && before[k][j];
            }
        }
    }
    let conflict = |a: What, b: What| match (a, b) {
        (What::Store(a), What::Store(b) | What::Load(b) | What::Atomic(b)) => a == b,
        (What::Load(a) | What::Atomic(a), What::Store(b)) => a == b,
        (What::Load(a), What::Atomic(b)) | (What::Atomic(a), What::Load(b)) => a == b,
        _ => false,
    };
    (0..count).any(|i| (i + 1..count).any(|j| conflict(run[i].what, run[j].what) && !before[i][j]))
}

fn step() -> impl Strategy<Value = Step> {
    let cell = 0..3u32;
    let what = prop_oneof![
        2 => cell.clone().prop_map(What::Load),
        2 => cell.clone().prop_map(What::Store),
        4 => cell.prop_map(What::Atomic),
        6 => Just(What::Fence),
        1 => Just(What::Meet),
    ];
    (0..3u32, 0..2u32, what).prop_map(|(block, lane, what)| Step { block, lane, what })
}

#[test]
fn blocks_are_ordered_by_fences_and_atomics_alone() {
    let counts = [Cell::new(0), Cell::new(0)];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 2000, ..Default::default() });
    runner
        .run(&prop::collection::vec(step(), 3..20), |steps| {
            let body: String = steps.iter().map(Step::text).collect();
            let expected = races(&steps);
            let count = &counts[usize::from(expected)];
            count.set(count.get() + 1);
            let found = match run(&module(&body), &zeros(), 3, 32, Schedule::RoundRobin) {
                Ok(()) => false,
                Err(Fault::Race { .. }) => true,
                Err(other) => panic!("{other}"),
            };
            prop_assert_eq!(found, expected, "{}", body);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(counts.iter().all(|count| count.get() > 200), "right and with a race: {counts:?}");
}

/// Three blocks hand a word on by flags, each with fence, atomic, fence.
#[test]
fn order_goes_on_from_block_to_block() {
    let step = |block, what| Step { block, lane: 0, what };
    let chain = [
        step(0, What::Store(0)),
        step(0, What::Fence),
        step(0, What::Atomic(1)),
        step(1, What::Atomic(1)),
        step(1, What::Fence),
        step(1, What::Atomic(2)),
        step(2, What::Atomic(2)),
        step(2, What::Fence),
        step(2, What::Store(0)),
    ];
    let run = |steps: &[Step]| {
        let body: String = steps.iter().map(Step::text).collect();
        run(&module(&body), &zeros(), 3, 32, Schedule::RoundRobin)
    };
    assert!(!races(&chain));
    run(&chain).unwrap();
    for missing in [1, 4, 7] {
        let mut broken = chain.to_vec();
        broken.remove(missing);
        assert!(races(&broken) && matches!(run(&broken), Err(Fault::Race { .. })), "without step {missing}");
    }
}
