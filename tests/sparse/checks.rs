//! What is not a valid problem: every error, with its numbers, before anything is written; and metadata that is no
//! metadata.

use crate::case::{Case, Spec};
use crate::number::{Number, for_all_types};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use twofour::compress::{Layout, Sparsity};
use twofour::device::Limits;
use twofour::matmul::Problem;
use twofour::space::{Raw, RawSlice};
use twofour::sparse::cpu::{Multiply, Weight, multiply, multiply_into};
use twofour::sparse::{self, Given, Libraries, Path, Plan};
use twofour::{E4m3, Error, Shape, bf16, f16};

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
        let args = Multiply::new(weight, self.tokens, &self.x, &mut self.y);
        multiply_into(args.bias(&self.bias).dense(&self.dense))
    }
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
    let weight = Weight::new(Shape::new(2, 8), Layout::Plain, &[1.0_f32; 8], &[0x44; 4]);
    assert_eq!(multiply(weight, 3, &[1.0; 23], None), Err(length("x", 24, 23)));
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
            let error = multiply(weight, 3, &case.x, None).unwrap_err();
            assert!(
                matches!(error, Error::IllegalCode { what: "code", row: 20, group: 5, value, .. } if value == illegal)
            );
        }
    }
}

/// Any bytes give an error or a product, and never anything else; what lies in gaps does not matter.
#[test]
fn hostile_metadata_does_no_harm() {
    fn hostile<T: Number, E>(_: &E) {
        let mut rng = StdRng::seed_from_u64(7);
        let [mut good, mut bad] = [0, 0];
        for shape in
            [Shape::new(1, 4), Shape::new(3, 12), Shape::new(70, 64), Shape::new(128, 128), Shape::new(256, 64)]
        {
            for layout in Layout::ALL.into_iter().filter(|layout| layout.check(shape, T::DTYPE).is_ok()) {
                for tokens in [1, 30] {
                    let case = Case::<T>::new(Spec { shape, layout, ..Spec::new(tokens, 0, 0) });
                    let (values, metadata) = case.packed();
                    let run = |metadata: &[u8]| {
                        multiply(Weight::new(shape, layout, &values, metadata), tokens, &case.x, None)
                    };
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
                    assert!(crate::cpu::same::<T>(&run(&bytes).unwrap(), &clean));
                }
            }
        }
        assert!(bad > 10, "{good} {bad}");
    }
    for_all_types!(hostile(&()));
}

/// What the lists of steps refuse, before a device is asked for anything.
#[test]
fn steps() {
    let (problem, at) = (Problem::new(256, Shape::new(64, 128)), |elements| RawSlice { address: 1 << 20, elements });
    let given = Given { dense: true, bias: true, ..Given::WEIGHT };
    let plan = Plan::by::<bf16>(Path::Dense, &Limits::A100, problem, given, Libraries::CUBLASLT).unwrap();
    let weight = |layout: Layout| {
        let sizes = layout.sizes(problem.shape, twofour::DType::Bf16).unwrap();
        sparse::Weight::<Raw, bf16>::new(problem.shape, layout, at(sizes.values), at(sizes.metadata))
    };
    let own = weight(Layout::CutlassSm80);
    let args = |weight| sparse::Multiply::<Raw, bf16>::new(weight, 256, at(256 * 128), at(256 * 64));
    let whole = |weight| args(weight).bias(at(64)).dense(at(64 * 128));
    assert_eq!(whole(own).steps(&plan).unwrap().len(), 1);
    let unplanned = |result: Result<_, Error>| assert!(matches!(result, Err(Error::Unplanned { .. })), "{result:?}");
    unplanned(args(own).dense(at(64 * 128)).steps(&plan));
    unplanned(args(own).bias(at(64)).steps(&plan));
    unplanned(whole(weight(Layout::Plain)).steps(&plan));
    unplanned(sparse::Multiply::<Raw, bf16>::new(own, 255, at(255 * 128), at(255 * 64)).bias(at(64)).steps(&plan));
    assert_eq!(args(own).bias(at(63)).steps(&plan), Err(length("bias", 64, 63)));

    let small = Plan::by::<bf16>(Path::Dense, &Limits::A100, problem, Given::WEIGHT, Libraries::CUBLASLT).unwrap();
    assert_eq!(small.workspace_bytes(), 64 * 128 * 2);
    let error = args(own).workspace(at(64 * 128 * 2 - 1)).steps(&small).unwrap_err();
    assert_eq!(error, Error::Workspace { needed: 64 * 128 * 2, got: 64 * 128 * 2 - 1 });
    assert_eq!(args(own).steps(&small).unwrap_err(), Error::Workspace { needed: 64 * 128 * 2, got: 0 });
    let all = Plan::by::<bf16>(Path::Cusparselt, &Limits::A100, problem, Given::WEIGHT, Libraries::ALL).unwrap();
    assert!(matches!(args(own).steps(&all), Err(Error::Path { because, .. }) if because.contains("Library::pack")));
}
