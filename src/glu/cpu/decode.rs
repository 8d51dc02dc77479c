//! The CPU's decode: rows of neurons that are off are not read. Results do not depend on how many threads there are.

use super::super::bounds::Bounds;
use super::super::neurons::{Form, Neurons};
use super::super::{Decode, Route, words};
use super::{BLOCK, silu};
use crate::compress::{Sparsity, check_codes};
use crate::element::{Factor, Float};
use crate::error::{Result, unsupported};
use crate::shape::Shape;
use crate::space::HostSpace;
use crate::sparse::{Rows, Wide};
use crate::threads;

/// Neurons of a task.
const BAND: usize = 64;
/// The least spans of columns of a task.
const SPANS: usize = 4;

/// Neurons of which something was worked out, and of each a bit a token.
#[derive(Default)]
struct Picked {
    neurons: Vec<u32>,
    on: Vec<u8>,
    lost: Vec<u8>,
}

impl Picked {
    /// Those of which `keep` is true of the bits that are on; `values [neurons, tokens]` of them.
    fn kept(&self, keep: impl Fn(u8) -> bool, values: &[f32], tokens: usize) -> (Self, Vec<f32>) {
        let (mut kept, mut of_kept) = (Self::default(), Vec::new());
        for (i, neuron) in self.neurons.iter().enumerate().filter(|(i, _)| keep(self.on[*i])) {
            kept.neurons.push(*neuron);
            kept.on.push(self.on[i]);
            of_kept.extend_from_slice(&values[i * tokens..][..tokens]);
        }
        kept.lost = vec![0; kept.neurons.len()];
        (kept, of_kept)
    }
}

/// Of the pass.
pub(in super::super) fn decode<S: HostSpace, L: Float + Factor>(pass: Decode<'_, S, L>) -> Result<()> {
    let (tokens, [width, neurons]) = (pass.tokens, pass.weights.size);
    if tokens == 0 {
        return Ok(());
    }
    let bounds = Bounds::new(pass.activation);
    let is_whole = pass.plan.is_some_and(|plan| plan.route() == Route::Whole);
    let x = S::slice(pass.x);
    let x: Vec<Wide> = (0..tokens).map(|token| Wide::of(&x[token * width..][..width])).collect();
    let given = pass.given.map(S::slice);
    let all = u8::MAX >> (8 - tokens);

    // The gate: a bit for each token that has it on.
    let bits = |neuron: u32| given.map_or(all, |given| bits_of(given, words(neurons), tokens, neuron));
    let neurons_of_gate = (0..neurons as u32).filter(|neuron| is_whole || bits(*neuron) != 0);
    let mut picked = Picked { neurons: neurons_of_gate.collect(), ..Picked::default() };
    let mut lost = vec![0; tokens];
    let gate = products(&pass.weights.gate, [width, neurons], &picked.neurons, &x)?;
    for (neuron, gate) in picked.neurons.iter().zip(gate.chunks(tokens)) {
        let of = |holds: &dyn Fn(f32) -> bool| gate.iter().rev().fold(0, |all, g| all << 1 | u8::from(holds(*g)));
        picked.on.push(bits(*neuron) & of(&|g| bounds.is_inside(g)));
        picked.lost.push(bits(*neuron) & of(&|g| g.is_nan()));
    }
    count(&mut lost, &picked.lost);
    let mut rows = [picked.neurons.len(), 0, 0];

    // Up, of neurons whose gate is on for a token.
    let (mut picked, mut h) = picked.kept(|on| is_whole || on != 0, &gate, tokens);
    rows[1] = picked.neurons.len();
    let up = products(&pass.weights.up, [width, neurons], &picked.neurons, &x)?;
    activate(&bounds, &mut picked, &mut h, &up, tokens);
    count(&mut lost, &picked.lost);

    // Down, of neurons that are on for a token.
    let (picked, h) = picked.kept(|on| is_whole || on != 0, &h, tokens);
    rows[2] = picked.neurons.len();
    let made = sums(&pass.weights.down, [width, neurons], &picked.neurons, &h, tokens)?;
    for (y, made) in S::slice_mut(pass.y).chunks_mut(width.max(1)).zip(made) {
        for (y, sum) in y.iter_mut().zip(made) {
            *y = L::from_f32(if pass.accumulate { L::to_f32(*y) + sum } else { sum });
        }
    }
    if let Some(mask) = pass.mask {
        write_mask(&picked, words(neurons), tokens, S::slice_mut(mask));
    }
    if let Some(to) = pass.lost {
        S::slice_mut(to).copy_from_slice(&lost);
    }
    if let Some(to) = pass.rows {
        S::slice_mut(to).copy_from_slice(&rows.map(|rows| rows as u32));
    }
    Ok(())
}

/// A bit for each token whose mask has a neuron.
fn bits_of(mask: &[u32], words: usize, tokens: usize, neuron: u32) -> u8 {
    let word = |token: usize| mask[token * words + neuron as usize / 32];
    (0..tokens).fold(0, |bits, token| bits | ((word(token) >> (neuron % 32) & 1) as u8) << token)
}

/// Writes which neurons are on, of each token.
fn write_mask(picked: &Picked, words: usize, tokens: usize, mask: &mut [u32]) {
    mask.fill(0);
    for (neuron, on) in picked.neurons.iter().zip(&picked.on) {
        for token in (0..tokens).filter(|token| on >> token & 1 == 1) {
            mask[token * words + *neuron as usize / 32] |= 1 << (neuron % 32);
        }
    }
}

/// Adds bits to their tokens' counts.
fn count(counts: &mut [u32], bits: &[u8]) {
    for (token, count) in counts.iter_mut().enumerate() {
        *count += bits.iter().map(|bits| u32::from(bits >> token & 1)).sum::<u32>();
    }
}

/// From gates to `h`, in place, and the bits of what is on.
fn activate(bounds: &Bounds, picked: &mut Picked, h: &mut [f32], up: &[f32], tokens: usize) {
    for (block, (h, up)) in h.chunks_mut(BLOCK).zip(up.chunks(BLOCK)).enumerate() {
        let (mut gate, mut a) = ([0.0; BLOCK], [0.0; BLOCK]);
        gate[..h.len()].copy_from_slice(h);
        if bounds.smooth {
            silu(&gate, &mut a, None);
        } else {
            a = gate;
        }
        for (i, (h, up)) in h.iter_mut().zip(up).enumerate() {
            let (neuron, bit) = ((block * BLOCK + i) / tokens, 1 << ((block * BLOCK + i) % tokens));
            let (is_lost, is_on) = ((gate[i] * up).is_nan(), bounds.is_on(gate[i], *up));
            if picked.on[neuron] & bit != 0 && is_lost {
                picked.lost[neuron] |= bit;
            }
            if !is_on {
                picked.on[neuron] &= !bit;
            }
            *h = if picked.on[neuron] & bit != 0 { a[i] * up } else { 0.0 };
        }
    }
}

impl<S: HostSpace, L: Float + Factor> Neurons<'_, S, L> {
    fn rows(&self) -> Rows<'_, L> {
        match &self.form {
            Form::Dense(weight) => Rows::Dense(S::slice(S::share(weight))),
            Form::Kept { values, codes, .. } => Rows::Kept(S::slice(S::share(values)), S::slice(S::share(codes))),
        }
    }

    /// What all parts of the rows gave, each nothing if it met a code that is not legal: an error that says which one.
    fn all<R>(&self, [width, neurons]: [usize; 2], parts: Vec<Option<R>>) -> Result<Vec<R>> {
        let codes = match self.rows() {
            Rows::Kept(_, codes) => codes,
            Rows::Dense(_) => &[],
        };
        parts.into_iter().collect::<Option<_>>().ok_or_else(|| {
            let checked = check_codes(Sparsity::TwoFour, Shape::new(neurons, width), codes);
            checked.err().unwrap_or(unsupported("a weight of this form", "a code of it is not legal"))
        })
    }
}

/// Of some neurons' rows with each token: `[neurons, tokens]`.
fn products<S: HostSpace, L: Float + Factor>(
    weight: &Neurons<'_, S, L>,
    size: [usize; 2],
    neurons: &[u32],
    x: &[Wide],
) -> Result<Vec<f32>> {
    let rows = weight.rows();
    let made = threads::map(neurons.chunks(BAND), |band| rows.dots(size[0], band, x));
    Ok(weight.all(size, made)?.concat())
}

/// `h [neurons, tokens]` times some neurons' rows, summed up in their order: of each token a row.
fn sums<S: HostSpace, L: Float + Factor>(
    weight: &Neurons<'_, S, L>,
    size: [usize; 2],
    neurons: &[u32],
    h: &[f32],
    tokens: usize,
) -> Result<Vec<Vec<f32>>> {
    let (rows, spans) = (weight.rows(), Wide::spans(size[0]));
    let band = spans.div_ceil(threads::count()).max(SPANS);
    let bands = threads::map((0..spans).step_by(band), |first| {
        let columns = Wide::columns(band.min(spans - first));
        let mut to: Vec<Wide> = (0..tokens).map(|_| Wide::zeros(columns)).collect();
        rows.add(size[0], neurons, h, first, &mut to).then_some(to)
    });
    let bands = weight.all(size, bands)?;
    Ok((0..tokens).map(|token| bands.iter().flat_map(|band| band[token].elements()).take(size[0]).collect()).collect())
}
