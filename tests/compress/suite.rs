//! Properties that hold on every executor: each output bit for bit what the oracle lists, padding included, whatever comes
//! in. Where something comes in that has no legal code, the CPU says so, and a device does what the module promises.

use crate::any::{Wide, for_type, same, values};
use crate::case::{Choice, Dense, Draw, Outputs, names_what_is_wrong, reorder, unpack};
use crate::common::TestExecutor;
use crate::oracle;
use crate::properties::{Case, known};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use twofour::compress::Layout;
use twofour::mask::{Forward, Kind, Sampling};
use twofour::{Cpu, DType, E4m3, E5m2, Element, Error, Executor, Logit, Pattern, Shape, Shard, bf16, f16};

/// What decides on what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Codes,
    Magnitude,
    NonZeros,
    F32Logits,
    Bf16Logits,
}

impl By {
    pub(crate) const ALL: [Self; 5] = [Self::Codes, Self::Magnitude, Self::NonZeros, Self::F32Logits, Self::Bf16Logits];

    fn serves(self, value_type: DType) -> bool {
        value_type != DType::F32 || !matches!(self, Self::F32Logits | Self::Bf16Logits)
    }
}

/// Half of the cases are as they should be.
fn is_bad(rng: &mut StdRng) -> bool {
    rng.random()
}

pub(crate) fn check_pack(on: &mut impl TestExecutor, case: &Case, by: By) {
    if !by.serves(case.value_type) {
        return;
    }
    match (by, case.value_type) {
        (By::F32Logits, value_type) => match value_type {
            DType::F16 => check_sample::<f16, f32>(on, case),
            DType::Bf16 => check_sample::<bf16, f32>(on, case),
            DType::I8 => check_sample::<i8, f32>(on, case),
            DType::E4m3 => check_sample::<E4m3, f32>(on, case),
            _ => check_sample::<E5m2, f32>(on, case),
        },
        (By::Bf16Logits, value_type) => match value_type {
            DType::F16 => check_sample::<f16, bf16>(on, case),
            DType::Bf16 => check_sample::<bf16, bf16>(on, case),
            DType::I8 => check_sample::<i8, bf16>(on, case),
            DType::E4m3 => check_sample::<E4m3, bf16>(on, case),
            _ => check_sample::<E5m2, bf16>(on, case),
        },
        (_, value_type) => for_type!(value_type, check_choice(on, case, by)),
    }
}

fn check_choice<T: Wide>(on: &mut impl TestExecutor, case: &Case, by: By) {
    let mut rng = StdRng::seed_from_u64(case.data);
    let width = oracle::width::<T>();
    let mut dense = values::<T>(&mut rng, case.shape.weights());
    let bad = is_bad(&mut rng);
    let (choice, codes): (_, Vec<Option<u8>>) = match by {
        By::Codes => {
            let (given, codes) = some_codes(&mut rng, case.shape.weights() / width, width, bad);
            // What the unused half of the last byte holds does not matter.
            let mut packed = oracle::packed(&given);
            if let (1, Some(last)) = (given.len() % 2, packed.last_mut()) {
                *last |= 0x50;
            }
            (Choice::Codes(packed), codes)
        }
        By::Magnitude => {
            let codes = dense.chunks(width).map(|group| Some(oracle::code(&oracle::largest(group)))).collect();
            (Choice::Magnitude, codes)
        }
        _ => {
            for group in dense.chunks_mut(width) {
                let kept = oracle::largest(group);
                for (j, value) in group.iter_mut().enumerate() {
                    let stays = kept.contains(&j) && rng.random_ratio(3, 4);
                    let too_much = bad && rng.random_ratio(1, 16);
                    if !(stays || too_much) {
                        *value = T::from_bits(0);
                    }
                }
            }
            let codes = dense.chunks(width).map(|group| Some(oracle::code(&oracle::non_zeros(group)?))).collect();
            (Choice::NonZeros, codes)
        }
    };
    let case = wanted(case, dense, &mut rng);
    let got = case.pack(on, &choice);
    compare(on, &case, &codes, got, choice_error(&case, &codes, by));
}

/// What the CPU says of the first group without a legal code, but for the code.
fn choice_error<T: Wide>(case: &Dense<T>, codes: &[Option<u8>], by: By) -> Option<Error> {
    let width = oracle::width::<T>();
    if by == By::Magnitude {
        return oracle::halved(&case.dense, case.shape.cols);
    }
    let at = codes.iter().position(Option::is_none)?;
    let row_groups = case.shape.cols / width;
    let [row, group] = [(at / row_groups) as u64, (at % row_groups) as u64];
    if by == By::NonZeros {
        let values = &case.dense[at * width..(at + 1) * width];
        let kept = values.iter().filter(|value| value.to_f64() != 0.0).count() as u32;
        return Some(Error::NotTwoFour { row, group, kept, width: width as u32 });
    }
    Some(Error::IllegalCode { what: "code", row, group, value: 0, legal: "" })
}

fn check_sample<T: Wide, L: Logit>(on: &mut impl TestExecutor, case: &Case) {
    let mut rng = StdRng::seed_from_u64(case.data);
    let dense = values::<T>(&mut rng, case.shape.weights());
    let bad = is_bad(&mut rng);
    let logit = |rng: &mut StdRng| match rng.random_range(0..40) {
        0 if bad => L::from_f32(f32::NAN),
        1 if bad => L::from_f32(f32::INFINITY),
        2 => L::from_f32(f32::NEG_INFINITY),
        3..8 => L::from_f32(0.01),
        _ => L::from_f32(rng.sample::<f32, _>(StandardNormal) * 0.02),
    };
    let cols = case.shape.cols;
    let shard = match rng.random_range(0..3) {
        0 => Shard::whole(cols as u64),
        1 => Shard { row_offset: rng.random_range(0..1 << 33), col_offset: 0, global_cols: cols as u64 },
        _ => {
            // Many rows, or rows of so many groups that 32 bits hold no number of one.
            let [rows, groups] = [[33, 20], [20, 40]][rng.random_range(0..2)];
            let [before, after] = [rng.random_range(0..1 << groups), rng.random_range(0..3)];
            let global_cols = 4 * (before + after) + cols as u64;
            Shard { row_offset: rng.random_range(0..1 << rows), col_offset: 4 * before, global_cols }
        }
    };
    let draw = Draw {
        logits: (0..case.shape.logits()).map(|_| logit(&mut rng)).collect(),
        kind: if rng.random_ratio(1, 4) { Kind::Argmax } else { Kind::Hard },
        sampling: Sampling {
            seed: rng.random(),
            draw: rng.random(),
            kappa: [0.0, 1.0, 100.0, 500.0][rng.random_range(0..4)],
            tau: 1.0,
        },
        shard,
    };
    let codes = codes_of_mask(case.shape, &draw);
    let case = wanted(case, dense, &mut rng);
    let got = case.sample(on, &draw);
    compare(on, &case, &codes, got, choice_error(&case, &codes, By::F32Logits));
}

/// What `mask` chooses.
fn codes_of_mask<L: Logit>(shape: Shape, draw: &Draw<L>) -> Vec<Option<u8>> {
    let mut patterns = vec![0; shape.groups()];
    let pass = Forward::<_, L, f32>::new(shape, draw.kind, draw.sampling, &draw.logits);
    Cpu.run(pass.shard(draw.shard).patterns(&mut patterns)).unwrap();
    patterns.iter().map(|&index| Pattern::from_index(index).map(Pattern::code)).collect()
}

/// With any of the outputs; all, most often.
fn wanted<T: Wide>(case: &Case, dense: Vec<T>, rng: &mut StdRng) -> Dense<T> {
    let mut wants = [true; 4];
    if rng.random() {
        wants = rng.random();
        wants[rng.random_range(0..4)] = true;
    }
    Dense { shape: case.shape, layout: case.layout, dense, wants }
}

/// A NaN of the device's own; zero where there is none.
fn poison<T: Wide>() -> T {
    T::from_bits(match T::DTYPE {
        DType::F16 | DType::Bf16 => 0x7fff,
        DType::F32 => 0x7fff_ffff,
        DType::E4m3 | DType::E5m2 => 0x7f,
        _ => 0,
    })
}

fn compare<T: Wide>(
    on: &impl TestExecutor,
    case: &Dense<T>,
    codes: &[Option<u8>],
    got: Result<Outputs<T>, Error>,
    error: Option<Error>,
) {
    let got = match (error, got) {
        (Some(error), got) if names_what_is_wrong(on) => {
            return assert!(same_error(&got, &error), "{got:?}, not {error}");
        }
        (_, got) => got.unwrap(),
    };
    let expected = expected(case, codes);
    let of = |what| format!("{what} of {:?} {} {:?} in {}, {on:?}", case.shape, T::DTYPE, case.wants, case.layout);
    equal(&got.values, &expected.values, || of("values"));
    equal(&bytes(&got.metadata), &bytes(&expected.metadata), || of("metadata"));
    equal(&bytes(&got.codes), &bytes(&expected.codes), || of("codes"));
    equal(&got.masked, &expected.masked, || of("masked"));
    assert_eq!(got.faults, expected.faults, "{}", of("faults"));
}

/// Bytes as values, to be compared as these are.
fn bytes(bytes: &[u8]) -> Vec<i8> {
    bytes.iter().map(|&byte| byte as i8).collect()
}

/// The same bits; says where the first others are.
fn equal<T: Element>(got: &[T], expected: &[T], what: impl Fn() -> String) {
    if same(got, expected) {
        return;
    }
    assert_eq!(got.len(), expected.len(), "{}", what());
    let mut both = got.iter().zip(expected).enumerate();
    let first = both.find(|(_, (got, expected))| !same(&[**got], &[**expected]));
    panic!("{}: first difference {first:x?}", what());
}

fn same_error<T>(got: &Result<T, Error>, expected: &Error) -> bool {
    match (got, expected) {
        (Err(Error::IllegalCode { row, group, .. }), Error::IllegalCode { row: of_row, group: of_group, .. }) => {
            (row, group) == (of_row, of_group)
        }
        (Err(error), expected) => error == expected,
        _ => false,
    }
}

/// By hand, from the codes.
fn expected<T: Wide>(case: &Dense<T>, codes: &[Option<u8>]) -> Outputs<T> {
    let Dense { shape, layout, dense, wants } = case;
    let (width, zero) = (oracle::width::<T>(), T::from_bits(0));
    let sizes = layout.sizes(*shape, T::DTYPE).unwrap();
    let mut out = Outputs {
        values: vec![zero; sizes.values],
        metadata: vec![],
        codes: vec![],
        masked: vec![zero; dense.len()],
        faults: codes.iter().filter(|code| code.is_none()).count() as u32,
    };
    let (row_groups, kept) = ((shape.cols / width).max(1), width / 2);
    for (g, (group, code)) in dense.chunks(width).zip(codes).enumerate() {
        let at = g / row_groups * sizes.pitch + g % row_groups * kept;
        let (kept, masked) = (&mut out.values[at..at + kept], &mut out.masked[g * width..(g + 1) * width]);
        let Some(code) = code else {
            kept.fill(poison());
            masked.fill(poison());
            continue;
        };
        for (kept, j) in kept.iter_mut().zip(oracle::positions(*code, width)) {
            (*kept, masked[j]) = (group[j], group[j]);
        }
    }
    let mended: Vec<u8> = codes.iter().map(|code| code.unwrap_or(4)).collect();
    out.codes = oracle::packed(&mended);
    out.metadata = metadata(*layout, *shape, T::DTYPE, &mended, 0xe);
    for (i, wanted) in wants.iter().enumerate() {
        match i {
            _ if *wanted => {}
            0 => out.values.clear(),
            1 => out.metadata.clear(),
            2 => out.codes.clear(),
            _ => out.masked.clear(),
        }
    }
    out
}

/// The oracle's metadata, with any code for padding.
fn metadata(layout: Layout, shape: Shape, value_type: DType, codes: &[u8], padding: u8) -> Vec<u8> {
    if layout == Layout::Plain {
        return oracle::packed(codes);
    }
    let (order, bytes) = known(&Case { layout, value_type, shape, data: 0 });
    let groups = shape.cols / if value_type == DType::F32 { 2 } else { 4 };
    oracle::padded_metadata(order, shape.rows, groups, codes, bytes, padding)
}

/// Codes, some of them not legal if `bad`; those, and what is to be read of them.
fn some_codes(rng: &mut StdRng, count: usize, width: usize, bad: bool) -> (Vec<u8>, Vec<Option<u8>>) {
    let legal: &[u8] = if width == 2 { &[4, 14] } else { &[4, 8, 12, 9, 13, 14] };
    let mut code = || match bad && rng.random_ratio(1, 8) {
        true => rng.random_range(0..16),
        false => legal[rng.random_range(0..legal.len())],
    };
    let given: Vec<u8> = (0..count).map(|_| code()).collect();
    let codes = given.iter().map(|code| legal.contains(code).then_some(*code)).collect();
    (given, codes)
}

pub(crate) fn check_unpack(on: &mut impl TestExecutor, case: &Case) {
    for_type!(case.value_type, check_unpack_of(on, case));
}

fn check_unpack_of<T: Wide>(on: &mut impl TestExecutor, case: &Case) {
    let Case { shape, layout, .. } = *case;
    let mut rng = StdRng::seed_from_u64(case.data);
    let width = oracle::width::<T>();
    let bad = is_bad(&mut rng);
    let (given, codes) = some_codes(&mut rng, shape.weights() / width, width, bad);
    let sizes = layout.sizes(shape, T::DTYPE).unwrap();
    // Padding, too, is any bits.
    let values = values::<T>(&mut rng, sizes.values);
    let metadata = metadata(layout, shape, T::DTYPE, &given, 0);
    let mut dense = vec![T::from_bits(0); shape.weights()];
    let row_groups = (shape.cols / width).max(1);
    for (g, (group, code)) in dense.chunks_mut(width).zip(&codes).enumerate() {
        let at = g / row_groups * sizes.pitch + g % row_groups * width / 2;
        match code {
            None => group.fill(poison()),
            Some(code) => {
                oracle::positions(*code, width).into_iter().enumerate().for_each(|(i, j)| group[j] = values[at + i]);
            }
        }
    }
    let got = unpack(on, shape, layout, &values, &metadata);
    let faults = codes.iter().filter(|code| code.is_none()).count() as u32;
    if names_what_is_wrong(on) && faults > 0 {
        return assert!(matches!(got, Err(Error::IllegalCode { .. })));
    }
    let (got, counted) = got.unwrap();
    equal(&got, &dense, || format!("dense of {case:?}, {on:?}"));
    assert_eq!(counted, faults, "faults of {case:?}");
}

pub(crate) fn check_reorder(on: &mut impl TestExecutor, case: &Case) {
    let Case { shape, layout, value_type, .. } = *case;
    let mut rng = StdRng::seed_from_u64(case.data);
    let width = if value_type == DType::F32 { 2 } else { 4 };
    let bad = is_bad(&mut rng);
    let (given, codes) = some_codes(&mut rng, shape.weights() / width, width, bad);
    let from = metadata(layout, shape, value_type, &given, 0);
    let faults = codes.iter().filter(|code| code.is_none()).count() as u32;
    let mended: Vec<u8> = codes.iter().map(|code| code.unwrap_or(4)).collect();
    let all: Vec<Layout> = Layout::ALL.into_iter().filter(|to| to.check(shape, value_type).is_ok()).collect();
    // The canonical form and one other.
    for to in [Layout::Plain, all[rng.random_range(0..all.len())]] {
        let got = reorder(on, shape, value_type, (layout, &from), to);
        if names_what_is_wrong(on) && faults > 0 {
            assert!(matches!(got, Err(Error::IllegalCode { .. })));
            continue;
        }
        let (got, counted) = got.unwrap();
        equal(&bytes(&got), &bytes(&metadata(to, shape, value_type, &mended, 0xe)), || {
            format!("{case:?} to {to}, {on:?}")
        });
        assert_eq!(counted, faults, "faults of {case:?}");
    }
}
