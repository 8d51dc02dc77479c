//! What is not a valid problem: every error, with its numbers, before anything is written; and metadata that is no
//! metadata.

use crate::case::{Case, Spec};
use crate::common::emulator::works;
use crate::number::{Number, for_all_types, same};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use twofour::compress::{Layout, Sparsity};
use twofour::device::Limits;
use twofour::pass::Work;
use twofour::space::{Host, Raw, RawSlice};
use twofour::sparse::{Given, Multiply, Plan, Problem, Route, Weight};
use twofour::{Cpu, Error, Executor, Factor, Libraries, Shape, bf16, f16};

/// A valid problem of 3 tokens by [2, 8], to be spoilt.
struct Operands {
    tokens: usize,
    shape: Shape,
    layout: Layout,
    values: Vec<f32>,
    metadata: Vec<u8>,
    x: Vec<f32>,
    bias: Vec<f32>,
    dense: Vec<f32>,
    y: Vec<f32>,
}

impl Operands {
    fn new() -> Self {
        Self {
            tokens: 3,
            shape: Shape::new(2, 8),
            layout: Layout::Plain,
            values: vec![1.0; 8],
            metadata: vec![0x44; 4],
            x: vec![1.0; 24],
            bias: vec![0.0; 2],
            dense: vec![1.0; 16],
            y: vec![7.0; 6],
        }
    }

    fn run(&mut self) -> Result<(), Error> {
        let weight = Weight::new(self.shape, self.layout, &self.values, &self.metadata);
        let args = Multiply::new(&weight, self.tokens, &self.x, &mut self.y);
        Cpu.run(args.bias(&self.bias).dense(&self.dense))
    }
}

/// `Y` on the CPU.
fn multiply<T: Factor>(weight: &Weight<'_, Host, T>, tokens: usize, x: &[T]) -> Result<Vec<T::Output>, Error> {
    let mut y = vec![bytemuck::Zeroable::zeroed(); tokens * weight.shape().rows];
    Cpu.run(Multiply::new(weight, tokens, x, &mut y))?;
    Ok(y)
}

#[track_caller]
fn refused(spoil: impl Fn(&mut Operands), expected: &Error) {
    let mut operands = Operands::new();
    spoil(&mut operands);
    assert_eq!(operands.run().as_ref(), Err(expected));
    assert!(operands.y.iter().all(|&y| y == 7.0));
}

fn length(what: &'static str, expected: u64, got: u64) -> Error {
    Error::Length { what, expected, got }
}

#[test]
fn the_unspoilt_problem_is_valid() {
    let mut operands = Operands::new();
    assert_eq!(operands.run(), Ok(()));
    assert_eq!(operands.y, [4.0; 6]);
}

#[test]
fn lengths() {
    refused(|o| o.values.truncate(7), &length("values", 8, 7));
    refused(|o| o.metadata.push(0x44), &length("metadata", 4, 5));
    refused(|o| o.x.truncate(16), &length("x", 24, 16));
    refused(|o| o.bias.truncate(1), &length("bias", 2, 1));
    refused(|o| o.dense.push(0.0), &length("dense", 16, 17));
    refused(|o| o.y.truncate(5), &length("y", 6, 5));
}

#[test]
fn shapes_and_layouts() {
    refused(|o| o.shape = Shape::new(2, 6), &Error::NotGrouped { what: "the weight", cols: 6 });
    let huge = usize::MAX / 8;
    refused(|o| o.shape = Shape::new(huge, 8), &Error::Overflow { what: "logits", rows: huge as u64, cols: 8 });
    refused(|o| o.tokens = huge, &Error::Overflow { what: "x", rows: huge as u64, cols: 8 });
    let spoil = |o: &mut Operands| (o.tokens, o.shape) = (huge, Shape::new(8, 0));
    refused(spoil, &Error::Overflow { what: "y", rows: huge as u64, cols: 8 });
    let mut operands = Operands { layout: Layout::CusparseltSm90, ..Operands::new() };
    assert!(matches!(operands.run(), Err(Error::Layout { layout: "cusparselt-sm90", dtype: "f32", .. })));
}

#[test]
fn codes_that_are_not_legal_are_named() {
    for (layout, at) in [(Layout::Plain, None), (Layout::CutlassSm80, Some(Layout::CutlassSm80))] {
        let case = Case::<f16>::new(Spec { layout, ..Spec::new(3, 33, 36) });
        let (values, mut metadata) = case.packed();
        let map = at.map(|layout| layout.map(case.spec.shape, twofour::DType::F16).unwrap());
        let group = 20 * 9 + 5;
        let (byte, shift) = match map {
            Some(map) => map.place(20, 5).map(|place| (place.byte, place.shift)).unwrap(),
            None => (group / 2, 4 * (group as u32 % 2)),
        };
        for illegal in [0x0, 0x1, 0x5, 0x6, 0xa, 0xf] {
            metadata[byte] = metadata[byte] & !(15 << shift) | illegal << shift;
            let weight = Weight::new(case.spec.shape, layout, &values, &metadata);
            let error = multiply(&weight, 3, &case.x).unwrap_err();
            assert!(
                matches!(error, Error::IllegalCode { what: "code", row: 20, group: 5, value, .. } if value == illegal)
            );
        }
    }
}

/// Any bytes give an error or a product, and never anything else; what lies in gaps does not matter.
#[test]
fn hostile_metadata_does_no_harm() {
    fn hostile<T: Number>() {
        let mut rng = StdRng::seed_from_u64(7);
        let [mut good, mut bad] = [0, 0];
        for shape in
            [Shape::new(1, 4), Shape::new(3, 12), Shape::new(70, 64), Shape::new(128, 128), Shape::new(256, 64)]
        {
            for layout in Layout::ALL.into_iter().filter(|layout| layout.check(shape, T::DTYPE).is_ok()) {
                for tokens in [1, 30] {
                    let case = Case::<T>::new(Spec { shape, layout, ..Spec::new(tokens, 0, 0) });
                    let (values, metadata) = case.packed();
                    let run =
                        |metadata: &[u8]| multiply(&Weight::new(shape, layout, &values, metadata), tokens, &case.x);
                    let clean = run(&metadata).unwrap();
                    let mut bytes = vec![0; metadata.len()];
                    rng.fill_bytes(&mut bytes);
                    match run(&bytes) {
                        Ok(_) => good += 1,
                        Err(Error::IllegalCode { row, group, .. }) => {
                            bad += 1;
                            assert!((row as usize) < shape.rows && (group as usize) < shape.cols / 2);
                        }
                        Err(error) => panic!("{error}"),
                    }
                    // Where there is no code, anything may lie.
                    let map = layout.map(shape, T::DTYPE).unwrap();
                    let groups = Sparsity::of(T::DTYPE).row_groups(shape.cols);
                    for group in 0..shape.rows * groups {
                        let place = map.place(group / groups, group % groups).unwrap();
                        let of = 15 << place.shift;
                        bytes[place.byte] = bytes[place.byte] & !of | metadata[place.byte] & of;
                    }
                    assert!(same::<T>(&run(&bytes).unwrap(), &clean));
                }
            }
        }
        assert!(bad > 10, "{good} {bad}");
    }
    for_all_types!(hostile());
}

/// What is refused before a device is asked for anything.
#[test]
fn what_a_device_is_not_asked_for() {
    fn at<T>(elements: usize) -> RawSlice<T> {
        RawSlice::new(1 << 20, elements)
    }
    let problem = Problem::new(256, Shape::new(64, 128));
    let given = Given { dense: true, bias: true, ..Given::WEIGHT };
    let plan = Plan::by(Route::Dense, &Limits::A100, problem, given, Libraries::CUBLASLT).unwrap();
    let weight = |layout: Layout| {
        let sizes = layout.sizes(problem.shape, twofour::DType::Bf16).unwrap();
        Weight::<Raw, bf16>::new(problem.shape, layout, at(sizes.values), at(sizes.metadata))
    };
    let (own, plain) = (weight(Layout::CutlassSm80), weight(Layout::Plain));
    let works = |pass| -> Result<Vec<Work>, Error> { works(Limits::A100, pass) };
    macro_rules! args {
        ($weight:expr, $plan:expr) => {
            Multiply::new($weight, 256, at(256 * 128), at(256 * 64)).plan($plan)
        };
    }
    macro_rules! whole {
        ($weight:expr, $plan:expr) => {
            args!($weight, $plan).bias(at(64)).dense(at(64 * 128))
        };
    }
    assert_eq!(works(whole!(&own, &plan)).unwrap().len(), 1);
    let unplanned = |result: Result<_, Error>| assert!(matches!(result, Err(Error::Unplanned { .. })), "{result:?}");
    unplanned(works(args!(&own, &plan).dense(at(64 * 128))));
    unplanned(works(args!(&own, &plan).bias(at(64))));
    unplanned(works(whole!(&plain, &plan)));
    unplanned(works(Multiply::new(&own, 255, at(255 * 128), at(255 * 64)).plan(&plan).bias(at(64))));
    assert_eq!(works(args!(&own, &plan).bias(at(63))), Err(length("bias", 64, 63)));
    let none = works(Multiply::new(&own, 256, at(256 * 128), at(256 * 64)));
    assert!(matches!(none, Err(Error::Missing { missing: "no plan was given", .. })), "{none:?}");

    let small = Plan::by(Route::Dense, &Limits::A100, problem, Given::WEIGHT, Libraries::CUBLASLT).unwrap();
    assert_eq!(small.workspace_bytes(), 64 * 128 * 2);
    let error = works(args!(&own, &small).workspace(at(64 * 128 * 2 - 1))).unwrap_err();
    assert_eq!(error, Error::Workspace { needed: 64 * 128 * 2, got: 64 * 128 * 2 - 1 });
    assert_eq!(works(args!(&own, &small)).unwrap_err(), Error::Workspace { needed: 64 * 128 * 2, got: 0 });
    let all = Plan::by(Route::Cusparselt, &Limits::A100, problem, Given::WEIGHT, Libraries::ALL).unwrap();
    let error = works(args!(&own, &all)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { because, .. } if because.contains("LibraryWeight::pack")), "{error}");
}
