//! Offsets that 32 bits do not hold, in every operand: weights of which only the end is in memory, and the last block
//! alone. It must do what the same groups do as a weight of their own.

use crate::any::{Wide, same, values};
use crate::case::{Choice, Dense, Draw, Outputs};
use crate::common::Emulator;
use crate::common::emulator::{Array, launches};
use rand::SeedableRng;
use rand::rngs::StdRng;
use twofour::compress::{Layout, Pack, Reorder, Unpack};
use twofour::device::Limits;
use twofour::mask::{Kind, Sampling};
use twofour::pass::Pass;
use twofour::space::{Input, Output, Raw, RawSlice};
use twofour::{Cpu, DType, E4m3, Logit, Shape, Shard, bf16, f16};
use twofour_emulator::Schedule;

/// 2³⁶ weights: 32 bits hold no numbers of bytes of metadata.
const SHAPE: Shape = Shape::new(1 << 19, 1 << 17);
/// Rows that begin in the middle of a byte of canonical codes.
const ODD: Shape = Shape::new(1 << 19, (1 << 17) + 4 * 35);
const LAYOUTS: [Layout; 5] =
    [Layout::Plain, Layout::CutlassSm80, Layout::CusparseltMma, Layout::CusparseltSm90, Layout::CutlassSm100];
/// Weights at the end: in the last patch of every layout.
const END: usize = 128;
const SAMPLING: Sampling = Sampling { seed: 5, draw: 6, kappa: 1.0, tau: 1.0 };

/// Runs a pass's last block alone, on a device of so many processors that each block takes one patch.
fn run_last(pass: impl Pass<Raw>) {
    let wide = Limits { multiprocessors: 1 << 23, ..Limits::H200 };
    let launch = launches(wide, pass).unwrap()[0];
    Emulator::new(Schedule::RoundRobin).launch_last(&launch, launch.grid[0] as usize);
}

/// Weights that a code is of.
fn width(of: DType) -> usize {
    if of == DType::F32 { 2 } else { 4 }
}

fn code(codes: &[u8], group: usize) -> u8 {
    codes[group / 2] >> (4 * (group % 2)) & 15
}

/// A weight's outputs, and the ends of its inputs.
struct Far<T> {
    shape: Shape,
    layout: Layout,
    dense: Array<T>,
    values: Array<T>,
    metadata: Array<u8>,
    codes: Array<u8>,
    masked: Array<T>,
    /// Where the layout has the code of each of the last groups of the last row.
    places: Vec<(usize, usize)>,
}

fn places(shape: Shape, layout: Layout, of: DType) -> Vec<(usize, usize)> {
    let (map, groups) = (layout.map(shape, of).unwrap(), shape.cols / width(of));
    let place = |group| map.place(shape.rows - 1, group).unwrap();
    (groups - END / width(of)..groups).map(place).map(|place| (place.byte, place.shift as usize)).collect()
}

impl<T: Wide> Far<T> {
    fn new(shape: Shape, layout: Layout, dense: &[T]) -> Self {
        let sizes = layout.sizes(shape, T::DTYPE).unwrap();
        Self {
            shape,
            layout,
            dense: Array::ending(shape.weights(), dense),
            values: Array::reserved(sizes.values),
            metadata: Array::reserved(sizes.metadata),
            codes: Array::reserved(shape.weights() / width(T::DTYPE) / 2),
            masked: Array::reserved(shape.weights()),
            places: places(shape, layout, T::DTYPE),
        }
    }

    fn pack<L: Logit>(&mut self, pass: impl FnOnce(RawSlice<T>) -> Pack<'static, Raw, T, L>) {
        let pass = pass((&self.dense).input())
            .layout(self.layout)
            .values(self.values.output())
            .metadata(self.metadata.output());
        run_last(pass.codes(self.codes.output()).masked(self.masked.output()));
    }

    /// The outputs, and the way back; `near` is what the last weights are packed to alone.
    fn check(&self, near: &Outputs<T>, what: &str) {
        let (shape, layout, groups) = (self.shape, self.layout, END / width(T::DTYPE));
        let what = format!("{what} {} {layout} {shape:?}", T::DTYPE);
        // Where rows of values are padded, these shapes leave nothing to pad.
        assert!(same(&self.values.read_end(END / 2), &near.values), "{what}: values");
        assert!(same(&self.masked.read_end(END), &near.masked), "{what}: masked");
        let all = shape.weights() / width(T::DTYPE);
        for i in 0..groups {
            let (expected, group) = (code(&near.codes, i), all - groups + i);
            assert_eq!(code(&self.codes.read_at(group / 2, 1), group % 2), expected, "{what}: code {i}");
            assert_eq!(self.in_layout(&self.metadata, i), expected, "{what}: metadata {i}");
        }
        let mut dense = Array::<T>::reserved(shape.weights());
        run_last(Unpack::<Raw, T>::new(shape, layout, &self.values, &self.metadata, &mut dense));
        assert!(same(&dense.read_end(END), &near.masked), "{what}: unpacked");
    }

    fn in_layout(&self, metadata: &Array<u8>, i: usize) -> u8 {
        let (byte, shift) = self.places[i];
        metadata.read_at(byte, 1)[0] >> shift & 15
    }
}

/// The last weights alone.
fn near<T: Wide>(dense: &[T]) -> Dense<T> {
    Dense { shape: Shape::new(1, END), layout: Layout::Plain, dense: dense.to_vec(), wants: [true; 4] }
}

fn choices<T: Wide>(shape: Shape, layout: Layout) {
    let dense = values::<T>(&mut StdRng::seed_from_u64(1), END);
    let by_magnitude = near(&dense).pack(&mut Cpu, &Choice::Magnitude).unwrap();
    let mut far = Far::new(shape, layout, &dense);
    far.pack::<f32>(|dense| Pack::by_magnitude(shape, dense));
    far.check(&by_magnitude, "magnitude");

    // Codes that are not those of the largest.
    let other = near(&values::<T>(&mut StdRng::seed_from_u64(2), END)).pack(&mut Cpu, &Choice::Magnitude).unwrap();
    let by_codes = near(&dense).pack(&mut Cpu, &Choice::Codes(other.codes.clone())).unwrap();
    let (mut far, all) = (Far::new(shape, layout, &dense), shape.weights() / width(T::DTYPE));
    let given = Array::<u8>::reserved(all / 2);
    for i in 0..END / width(T::DTYPE) {
        let group = all - END / width(T::DTYPE) + i;
        given.put_code(group / 2, 4 * (group % 2), code(&other.codes, i));
    }
    far.pack::<f32>(|dense| Pack::with_codes(shape, dense, (&given).input()));
    far.check(&by_codes, "codes");

    let sparse = &by_magnitude.masked;
    let mut far = Far::new(shape, layout, sparse);
    far.pack::<f32>(|dense| Pack::sparse(shape, dense));
    far.check(&near(sparse).pack(&mut Cpu, &Choice::NonZeros).unwrap(), "sparse");
}

fn sampled<T: Wide, L: Logit>(shape: Shape, layout: Layout, kind: Kind) {
    let dense = values::<T>(&mut StdRng::seed_from_u64(3), END);
    let logits: Vec<L> = (0..END / 4 * 6).map(|i| L::from_f32((i * 37 % 101) as f32 * 0.02)).collect();
    let (cols, row_offset) = (shape.cols as u64, shape.rows as u64 - 1);
    let shard = Shard { row_offset, col_offset: cols - END as u64, global_cols: cols };
    let draw = Draw { logits, kind, sampling: SAMPLING, shard };
    let expected = near(&dense).sample(&mut Cpu, &draw).unwrap();
    let (mut far, logits) = (Far::new(shape, layout, &dense), Array::ending(shape.logits(), &draw.logits));
    far.pack(|dense| Pack::from_logits(shape, kind, SAMPLING, (&logits).input(), dense));
    far.check(&expected, "sampled");
}

#[test]
fn packing_beyond_32_bits_is_right() {
    for layout in LAYOUTS {
        choices::<bf16>(SHAPE, layout);
    }
    for layout in [Layout::Plain, Layout::CutlassSm80] {
        choices::<f16>(ODD, layout);
        choices::<i8>(SHAPE, layout);
        choices::<E4m3>(SHAPE, layout);
    }
    choices::<f32>(SHAPE, Layout::Plain);
}

#[test]
fn sampled_codes_beyond_32_bits_are_right() {
    for kind in [Kind::Hard, Kind::Argmax] {
        for layout in [Layout::Plain, Layout::CutlassSm80, Layout::CusparseltSm90] {
            sampled::<bf16, f32>(SHAPE, layout, kind);
        }
        sampled::<E4m3, bf16>(SHAPE, Layout::Plain, kind);
        sampled::<E4m3, f32>(SHAPE, Layout::Plain, kind);
        sampled::<bf16, bf16>(ODD, Layout::CutlassSm80, kind);
    }
}

/// From each layout to each other, into memory that holds nothing.
#[test]
fn reordering_beyond_32_bits_is_right() {
    let dense = values::<bf16>(&mut StdRng::seed_from_u64(4), END);
    let near = near(&dense).pack(&mut Cpu, &Choice::Magnitude).unwrap();
    for from in LAYOUTS {
        let metadata = Array::<u8>::reserved(from.sizes(SHAPE, DType::Bf16).unwrap().metadata);
        for (i, (byte, shift)) in places(SHAPE, from, DType::Bf16).into_iter().enumerate() {
            metadata.put_code(byte, shift, code(&near.codes, i));
        }
        for to in LAYOUTS {
            let mut out = Array::<u8>::reserved(to.sizes(SHAPE, DType::Bf16).unwrap().metadata);
            run_last(Reorder::<Raw>::new(SHAPE, DType::Bf16, (from, &metadata), (to, &mut out)));
            for (i, (byte, shift)) in places(SHAPE, to, DType::Bf16).into_iter().enumerate() {
                assert_eq!(out.read_at(byte, 1)[0] >> shift & 15, code(&near.codes, i), "{from} to {to}: {i}");
            }
        }
    }
}

/// Where rows begin in the middle of a byte, a block makes the code of the next row's first group, too.
#[test]
fn codes_of_the_next_row_beyond_32_bits_are_right() {
    let (row, all) = (ODD.cols / 4, ODD.groups());
    let four = [1.0f32, 4.0, -3.0, 2.0].map(bf16::from_f32);
    for layout in [Layout::CutlassSm80, Layout::CutlassSm100] {
        let mut far = Far::<bf16>::new(ODD, layout, &[]);
        far.dense.write_at(4 * (all - row), &four);
        far.pack::<f32>(|dense| Pack::by_magnitude(ODD, dense));
        assert_eq!((all - row) % 2, 1);
        assert_eq!(far.codes.read_at((all - row) / 2, 1), [0x94], "{layout}: of nothing, and of (1, 2)");
        let given = Array::<u8>::reserved(all / 2);
        given.put_code((all - row) / 2, 0, 0xd);
        given.put_code((all - row) / 2, 4, 0xe);
        far.pack::<f32>(|dense| Pack::with_codes(ODD, dense, (&given).input()));
        assert_eq!(far.codes.read_at((all - row) / 2, 1), [0xed], "{layout}");
        let (logits, mut shards) = (Array::<f32>::reserved(ODD.logits()), [0u8; 2]);
        // The first group of the last row is sure of its pattern.
        let sure = [0.0, 0.0, 0.0, 0.0, 99.0, 0.0];
        logits.write_at(6 * (all - row), &sure);
        far.pack(|dense| Pack::from_logits(ODD, Kind::Hard, SAMPLING, (&logits).input(), dense));
        for (group, code) in [all - row - 1, all - row].into_iter().zip(&mut shards) {
            let shard = Shard { row_offset: group as u64, col_offset: 0, global_cols: 4 };
            let of_group = if group == all - row { sure } else { [0.0f32; 6] };
            let draw = Draw { logits: of_group.to_vec(), kind: Kind::Hard, sampling: SAMPLING, shard };
            let near = Dense { shape: Shape::new(1, 4), ..near(&four) };
            *code = near.sample(&mut Cpu, &draw).unwrap().codes[0] & 15;
        }
        assert_eq!(far.codes.read_at((all - row) / 2, 1), [shards[0] | shards[1] << 4], "{layout}: sampled");
    }
}
