//! The CPU executor of `glu`: rows on the threads of rayon's pool, in blocks that stay in the first cache.

use super::bounds::Bounds;
use super::{Backward, Forward, Joined, backward, forward, words};
use crate::element::Float;
use crate::sample::lanes::exp2;
use crate::sample::vector::{LANES, by_processor};
use crate::space::HostSpace;
use crate::threads;

mod decode;

pub(super) use decode::decode;

/// Neurons that are worked on at a time: whole words of a mask.
const BLOCK: usize = 256;

/// Neurons of a block in `f32`.
type Block = [f32; BLOCK];

/// A row of gate and up, and where what is made of it goes.
enum Row<'a, L> {
    Apart {
        gate: &'a [L],
        up: &'a [L],
        to: [&'a mut [L]; 2],
    },
    /// What is made of up takes its place.
    OverUp {
        gate: &'a [L],
        up: &'a mut [L],
    },
    /// Both take the places of both.
    Over {
        gate: &'a mut [L],
        up: &'a mut [L],
    },
    Pairs {
        both: &'a [L],
        to: &'a mut [L],
    },
    OverPairs {
        both: &'a mut [L],
    },
}

/// From pairs, and back.
fn apart<L: Float>(pairs: &[L], gate: &mut [f32], up: &mut [f32]) {
    for ((pair, gate), up) in pairs.chunks_exact(2).zip(gate).zip(up) {
        (*gate, *up) = (pair[0].to_f32(), pair[1].to_f32());
    }
}

fn together<L: Float>(gate: &[f32], up: &[f32], pairs: &mut [L]) {
    for ((pair, gate), up) in pairs.chunks_exact_mut(2).zip(gate).zip(up) {
        (pair[0], pair[1]) = (L::from_f32(*gate), L::from_f32(*up));
    }
}

impl<L: Float> Row<'_, L> {
    fn read(&self, first: usize, count: usize, gate: &mut Block, up: &mut Block) {
        let (neurons, pairs) = (first..first + count, 2 * first..2 * (first + count));
        let (from_gate, from_up): (&[L], &[L]) = match self {
            Self::Apart { gate, up, .. } => (gate, up),
            Self::OverUp { gate, up } => (gate, up),
            Self::Over { gate, up } => (gate, up),
            Self::Pairs { both, .. } => return apart(&both[pairs], gate, up),
            Self::OverPairs { both } => return apart(&both[pairs], gate, up),
        };
        L::widen(&from_gate[neurons.clone()], gate);
        L::widen(&from_up[neurons], up);
    }

    /// Of the forward pass the second alone.
    fn write(&mut self, first: usize, count: usize, made: [&Block; 2]) {
        let (neurons, pairs) = (first..first + count, 2 * first..2 * (first + count));
        match self {
            Self::Apart { to: [one, other], .. } => {
                if !one.is_empty() {
                    L::narrow(made[0], &mut one[neurons.clone()]);
                }
                L::narrow(made[1], &mut other[neurons]);
            }
            Self::OverUp { up, .. } => L::narrow(made[1], &mut up[neurons]),
            Self::Over { gate, up } => {
                L::narrow(made[0], &mut gate[neurons.clone()]);
                L::narrow(made[1], &mut up[neurons]);
            }
            // Pairs of inputs, and one output.
            Self::Pairs { both, to } if to.len() < both.len() => L::narrow(made[1], &mut to[neurons]),
            Self::Pairs { to, .. } => together(made[0], made[1], &mut to[pairs]),
            Self::OverPairs { both } => together(made[0], made[1], &mut both[pairs]),
        }
    }
}

by_processor! {
    /// `a`, and its slope by the gate if that is wanted, of SiLU.
    fn silu<V>(gate: &Block, a: &mut Block, slope: Option<&mut Block>) {
        let (one, zero, log2_e) = (V::splat(1.0), V::splat(0.0), V::splat(std::f32::consts::LOG2_E));
        let (least, most) = (V::splat(f32::MIN), V::splat(f32::MAX));
        let mut slopes = slope.map(|slope| slope.as_chunks_mut::<LANES>().0);
        for (i, (gate, a)) in gate.as_chunks::<LANES>().0.iter().zip(a.as_chunks_mut::<LANES>().0).enumerate() {
            let gate = V::from_array(*gate);
            let power = exp2(zero - gate.abs() * log2_e);
            let share = V::select(gate.is_below(zero), power, one) / (one + power);
            // Of -infinity 0, and no product of an infinity and a zero.
            *a = (gate.max(least) * share).to_array();
            if let Some(slopes) = &mut slopes {
                let gate = gate.max(least);
                let gate = V::select(gate.is_below(most), gate, most);
                slopes[i] = (share * (one + gate * (one - share))).to_array();
            }
        }
    }
}

by_processor! {
    /// Bits of the neurons that are on, a word for each 32, and of those whose product is no number.
    fn test<V>(bounds: &Bounds, gate: &Block, up: &Block, on: &mut [u32; BLOCK / 32], lost: &mut [u32; BLOCK / 32]) {
        // Lanes are the compiler's here.
        let _ = V::splat(0.0);
        let Bounds { from, low, high, both, .. } = *bounds;
        for (word, (gate, up)) in gate.as_chunks::<32>().0.iter().zip(up.as_chunks::<32>().0).enumerate() {
            (on[word], lost[word]) = (0, 0);
            for i in 0..32 {
                let (g, u) = (gate[i], up[i]);
                let is_lost = (g * u).is_nan();
                let is_on = (g >= from || (g >= low && g <= high)) && (!both || u > 0.0) && !is_lost;
                on[word] |= u32::from(is_on) << i;
                lost[word] |= u32::from(is_lost) << i;
            }
        }
    }
}

fn is_on(on: &[u32; BLOCK / 32], neuron: usize) -> bool {
    on[neuron / 32] >> (neuron % 32) & 1 == 1
}

/// What is counted of a row.
#[derive(Default)]
struct Counts {
    active: u32,
    lost: u32,
}

/// Calls `block(first, count)` for the blocks of a row.
fn blocks(neurons: usize, mut block: impl FnMut(usize, usize)) {
    (0..neurons).step_by(BLOCK).for_each(|first| block(first, BLOCK.min(neurons - first)));
}

fn forward_row<L: Float>(bounds: &Bounds, neurons: usize, mut row: Row<'_, L>, mut mask: Option<&mut [u32]>) -> Counts {
    let (mut gate, mut up, mut a) = ([0.0; BLOCK], [0.0; BLOCK], [0.0; BLOCK]);
    let (mut on, mut lost, mut counts) = ([0; BLOCK / 32], [0; BLOCK / 32], Counts::default());
    blocks(neurons, |first, count| {
        row.read(first, count, &mut gate, &mut up);
        // What is left of a block before it is neither on nor lost.
        gate[count..].fill(f32::NEG_INFINITY);
        up[count..].fill(-1.0);
        test(bounds, &gate, &up, &mut on, &mut lost);
        if count < BLOCK {
            (count..BLOCK).for_each(|neuron| on[neuron / 32] &= !(1 << (neuron % 32)));
        }
        if bounds.smooth {
            silu(&gate, &mut a, None);
        } else {
            a = gate;
        }
        for (neuron, (a, up)) in a.iter().zip(&mut up).enumerate() {
            *up = if is_on(&on, neuron) { a * *up } else { 0.0 };
        }
        row.write(first, count, [&a, &up]);
        counts.active += on.iter().map(|word| word.count_ones()).sum::<u32>();
        counts.lost += lost.iter().map(|word| word.count_ones()).sum::<u32>();
        if let Some(mask) = &mut mask {
            mask[first / 32..].iter_mut().zip(&on).for_each(|(mask, on)| *mask = *on);
        }
    });
    counts
}

/// Of the forward pass.
pub(super) fn forward<S: HostSpace, L: Float>(pass: Forward<'_, S, L>) {
    let (neurons, bounds) = (pass.neurons, Bounds::new(pass.activation));
    let mut active = pass.active.map(S::slice_mut);
    let mut lost = pass.lost.map(S::slice_mut);
    if neurons == 0 {
        [active, lost].into_iter().flatten().for_each(|counts| counts.fill(0));
        return;
    }
    let rows: Vec<Row<'_, L>> = match pass.operands {
        forward::Operands::Apart { gate, up, h } => {
            let each = S::slice(gate).chunks(neurons).zip(S::slice(up).chunks(neurons));
            let each = each.zip(S::slice_mut(h).chunks_mut(neurons));
            each.map(|((gate, up), h)| Row::Apart { gate, up, to: [&mut [], h] }).collect()
        }
        forward::Operands::OverUp { gate, up } => {
            let each = S::slice(gate).chunks(neurons).zip(S::slice_mut(up).chunks_mut(neurons));
            each.map(|(gate, up)| Row::OverUp { gate, up }).collect()
        }
        forward::Operands::Joined { by, both, h } => {
            let each = S::slice(both).chunks(2 * neurons).zip(S::slice_mut(h).chunks_mut(neurons));
            each.map(|(both, h)| match by {
                Joined::Halves => {
                    let (gate, up) = both.split_at(neurons);
                    Row::Apart { gate, up, to: [&mut [], h] }
                }
                Joined::Pairs => Row::Pairs { both, to: h },
            })
            .collect()
        }
    };
    let mut masks = pass.mask.map(|mask| S::slice_mut(mask).chunks_mut(words(neurons)));
    let rows = rows.into_iter().map(|row| (row, masks.as_mut().and_then(Iterator::next)));
    let counts = threads::map(rows, |(row, mask)| forward_row(&bounds, neurons, row, mask));
    for (row, Counts { active: of_active, lost: of_lost }) in counts.into_iter().enumerate() {
        if let Some(active) = &mut active {
            active[row] = of_active;
        }
        if let Some(lost) = &mut lost {
            lost[row] = of_lost;
        }
    }
}

/// What a row's gradients are made by.
struct Slope {
    bounds: Bounds,
    neurons: usize,
    l1: f32,
}

fn backward_row<L: Float>(by: &Slope, dh: &[L], mut row: Row<'_, L>, mask: Option<&[u32]>) {
    let Slope { bounds, neurons, l1 } = by;
    let (mut gate, mut up, mut a) = ([0.0; BLOCK], [0.0; BLOCK], [0.0; BLOCK]);
    let (mut d, mut slope) = ([0.0; BLOCK], [1.0; BLOCK]);
    let (mut on, mut lost) = ([0; BLOCK / 32], [0; BLOCK / 32]);
    blocks(*neurons, |first, count| {
        row.read(first, count, &mut gate, &mut up);
        L::widen(&dh[first..first + count], &mut d);
        match mask {
            Some(mask) => on.iter_mut().zip(&mask[first / 32..]).for_each(|(on, mask)| *on = *mask),
            None => test(bounds, &gate, &up, &mut on, &mut lost),
        }
        if bounds.smooth {
            silu(&gate, &mut a, Some(&mut slope));
        } else {
            a = gate;
        }
        for neuron in 0..count {
            let (a, u) = (a[neuron], up[neuron]);
            if !is_on(&on, neuron) {
                (gate[neuron], up[neuron]) = (0.0, 0.0);
                continue;
            }
            let sign = if a == 0.0 || u == 0.0 { 0.0 } else { l1.copysign(a.signum() * u.signum()) };
            let d = d[neuron] + sign;
            (gate[neuron], up[neuron]) = (d * slope[neuron] * u, d * a);
        }
        row.write(first, count, [&gate, &up]);
    });
}

/// Of the backward pass.
pub(super) fn backward<S: HostSpace, L: Float>(pass: Backward<'_, S, L>) {
    let neurons = pass.neurons;
    if neurons == 0 {
        return;
    }
    let rows: Vec<Row<'_, L>> = match pass.operands {
        backward::Operands::Apart { gate, up, dgate, dup } => {
            let from = S::slice(gate).chunks(neurons).zip(S::slice(up).chunks(neurons));
            let to = S::slice_mut(dgate).chunks_mut(neurons).zip(S::slice_mut(dup).chunks_mut(neurons));
            from.zip(to).map(|((gate, up), to)| Row::Apart { gate, up, to: to.into() }).collect()
        }
        backward::Operands::Over { gate, up } => {
            let each = S::slice_mut(gate).chunks_mut(neurons).zip(S::slice_mut(up).chunks_mut(neurons));
            each.map(|(gate, up)| Row::Over { gate, up }).collect()
        }
        backward::Operands::Joined { by, both, gradient } => {
            let each = S::slice(both).chunks(2 * neurons).zip(S::slice_mut(gradient).chunks_mut(2 * neurons));
            each.map(|(both, to)| match by {
                Joined::Halves => {
                    let (gate, up) = both.split_at(neurons);
                    Row::Apart { gate, up, to: to.split_at_mut(neurons).into() }
                }
                Joined::Pairs => Row::Pairs { both, to },
            })
            .collect()
        }
        backward::Operands::OverJoined { by, both } => {
            let each = S::slice_mut(both).chunks_mut(2 * neurons);
            each.map(|both| match by {
                Joined::Halves => {
                    let (gate, up) = both.split_at_mut(neurons);
                    Row::Over { gate, up }
                }
                Joined::Pairs => Row::OverPairs { both },
            })
            .collect()
        }
    };
    let by = Slope { bounds: Bounds::new(pass.activation), neurons, l1: pass.l1 };
    let mut masks = pass.mask.map(|mask| S::slice(mask).chunks(words(neurons)));
    let rows = rows.into_iter().zip(S::slice(pass.dh).chunks(neurons));
    let rows = rows.map(|(row, dh)| (row, dh, masks.as_mut().and_then(Iterator::next)));
    threads::map(rows, |(row, dh, mask)| backward_row(&by, dh, row, mask));
}
