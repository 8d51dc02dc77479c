//! Every error that the arguments of a decode can give.

use crate::common::emulator::launches;
use twofour::device::Limits;
use twofour::glu::{Activation, Axis, Decode, FeedForward, MAX_NEURONS, Neurons, Plan, Route};
use twofour::space::{Host, Raw, RawSlice};
use twofour::{Cpu, Error, Executor, Result, bf16};

const BY: Activation = Activation::DRelu;
const ONES: [bf16; 64] = [bf16::ONE; 64];
const CODES: [u8; 8] = [0x44; 8];

fn what(result: Result<()>) -> &'static str {
    match result.unwrap_err() {
        Error::Length { what, .. }
        | Error::Scalar { what, .. }
        | Error::Overflow { what, .. }
        | Error::Unsupported { what, .. } => what,
        other => panic!("{other}"),
    }
}

fn dense(elements: usize) -> Neurons<'static, Host, bf16> {
    Neurons::dense(&ONES[..elements])
}

fn kept(along: Axis, values: usize, codes: usize) -> Neurons<'static, Host, bf16> {
    Neurons::kept(along, &ONES[..values], &CODES[..codes])
}

type Weight = Neurons<'static, Host, bf16>;

/// Of width 8 and two neurons.
fn with(gate: Weight, up: Weight, down: Weight) -> Result<()> {
    let weights = FeedForward::new([8, 2], gate, up, down);
    Cpu.run(Decode::new(&weights, 1, BY, &ONES[..8], &mut [bf16::ZERO; 8]))
}

#[test]
fn weights_are_checked() {
    assert_eq!(with(dense(16), dense(16), dense(16)), Ok(()));
    let along = Axis::Width;
    assert_eq!(with(kept(along, 8, 2), kept(along, 8, 2), kept(along, 8, 2)), Ok(()));
    assert_eq!(what(with(dense(15), dense(16), dense(16))), "gate");
    assert_eq!(what(with(dense(16), dense(17), dense(16))), "up");
    assert_eq!(what(with(dense(16), dense(16), dense(8))), "down");
    assert_eq!(what(with(kept(along, 16, 2), dense(16), dense(16))), "values of the gate");
    assert_eq!(what(with(dense(16), kept(along, 8, 1), dense(16))), "codes of up");
    assert_eq!(what(with(dense(16), dense(16), kept(along, 8, 3))), "codes of down");
    // 2:4 along the neurons, as a stock down projection is.
    let Err(error) = with(dense(16), dense(16), kept(Axis::Neurons, 8, 2)) else { panic!("it ran") };
    assert!(error.to_string().contains("2:4 along its rows"), "{error}");
    let odd =
        FeedForward::<Host, bf16>::new([6, 2], dense(12), Neurons::kept(along, &ONES[..6], &CODES[..2]), dense(12));
    let error = Cpu.run(Decode::new(&odd, 1, BY, &ONES[..6], &mut [bf16::ZERO; 6]));
    assert!(matches!(error, Err(Error::NotGrouped { .. })), "{error:?}");
    let ones = [1.0f32; 16];
    let single = FeedForward::new(
        [8, 2],
        Neurons::dense(&ones),
        Neurons::kept(along, &ones[..8], &CODES[..2]),
        Neurons::dense(&ones),
    );
    let error = Cpu.run(Decode::new(&single, 1, BY, &ones[..8], &mut [0.0; 8]));
    assert_eq!(what(error), "decode with f32 weights that are compressed");
}

#[test]
fn a_code_that_is_not_legal_is_named_and_nothing_is_written() {
    const BAD: [u8; 2] = [0x44, 0x4f];
    let parts = || (Neurons::<Host, bf16>::kept(Axis::Width, &ONES[..8], &BAD), || dense(16));
    for which in 0..3 {
        let (bad, good) = parts();
        let weights = match which {
            0 => FeedForward::new([8, 2], bad, good(), good()),
            1 => FeedForward::new([8, 2], good(), bad, good()),
            _ => FeedForward::new([8, 2], good(), good(), bad),
        };
        let (mut y, mut mask) = ([bf16::ZERO; 8], [7]);
        let error = Cpu.run(Decode::new(&weights, 1, BY, &ONES[..8], &mut y).mask(&mut mask)).unwrap_err();
        assert!(matches!(error, Error::IllegalCode { .. }), "{which}: {error}");
        assert_eq!((y, mask), ([bf16::ZERO; 8], [7]));
    }
}

#[test]
fn lengths_and_tokens_are_checked() {
    let weights = FeedForward::new([8, 2], dense(16), dense(16), dense(16));
    let of = |tokens, x: usize, y: usize| {
        let mut to = vec![bf16::ZERO; y];
        what(Cpu.run(Decode::new(&weights, tokens, BY, &ONES[..x], to.as_mut_slice())))
    };
    assert_eq!(of(2, 8, 16), "x");
    assert_eq!(of(2, 16, 8), "y");
    assert_eq!(of(9, 64, 64), "decode of more than 8 tokens");
    let mut y = [bf16::ZERO; 8];
    let mut two = [0; 2];
    let pass = Decode::new(&weights, 1, BY, &ONES[..8], &mut y).given(&[0; 2]);
    assert_eq!(what(Cpu.run(pass)), "given");
    let pass = Decode::new(&weights, 1, BY, &ONES[..8], &mut y).mask(&mut two);
    assert_eq!(what(Cpu.run(pass)), "mask");
    let pass = Decode::new(&weights, 1, BY, &ONES[..8], &mut y).lost(&mut two);
    assert_eq!(what(Cpu.run(pass)), "lost");
    let pass = Decode::new(&weights, 1, BY, &ONES[..8], &mut y).rows(&mut two);
    assert_eq!(what(Cpu.run(pass)), "rows");
    let error = Cpu.run(Decode::new(&weights, 1, Activation::Cats(-1.0), &ONES[..8], &mut y));
    assert_eq!(what(error), "threshold");
    assert_eq!(what(Plan::<bf16>::new(9, [8, 2], BY).map(drop)), "decode of more than 8 tokens");
    assert_eq!(what(Plan::<bf16>::new(1, [usize::MAX, 2], BY).map(drop)), "neurons");
}

#[test]
fn a_plan_is_for_its_sizes() {
    let weights = FeedForward::new([8, 2], dense(16), dense(16), dense(16));
    for plan in [Plan::new(2, [8, 2], BY), Plan::new(1, [8, 3], BY), Plan::new(1, [16, 1], BY)] {
        let error = Cpu.run(Decode::new(&weights, 1, BY, &ONES[..8], &mut [bf16::ZERO; 8]).plan(plan.unwrap()));
        assert!(matches!(error, Err(Error::Unplanned { .. })), "{error:?}");
    }
    // Whichever rows it has read.
    let plan = Plan::new(1, [8, 2], BY).unwrap().with_route(Route::Whole);
    assert_eq!(Cpu.run(Decode::new(&weights, 1, BY, &ONES[..8], &mut [bf16::ZERO; 8]).plan(plan)), Ok(()));
}

#[test]
fn devices_have_further_needs() {
    fn at<T>(address: u64, elements: usize) -> RawSlice<T> {
        RawSlice::new(address, elements)
    }
    fn run<L: twofour::Float + twofour::glu::Factor>(neurons: usize, x: u64, workspace: Option<usize>) -> Result<()> {
        let of = || Neurons::<Raw, L>::dense(at(64, 8 * neurons));
        let weights = FeedForward::new([8, neurons], of(), of(), of());
        let pass = Decode::new(&weights, 1, BY, at(x, 8), at(128, 8));
        let pass = match workspace {
            Some(bytes) => pass.plan(Plan::new(1, [8, neurons], BY).unwrap()).workspace(at(256, bytes)),
            None => pass,
        };
        launches(Limits::A100, pass).map(drop)
    }
    let bytes = Plan::<bf16>::new(1, [8, 2], BY).unwrap().workspace_bytes();
    assert_eq!(run::<bf16>(2, 64, Some(bytes)), Ok(()));
    assert!(matches!(run::<bf16>(2, 64, None), Err(Error::Missing { .. })));
    let [needed, got] = [bytes, bytes - 1].map(|bytes| bytes as u64);
    assert_eq!(run::<bf16>(2, 64, Some(bytes - 1)), Err(Error::Workspace { needed, got }));
    assert_eq!(run::<bf16>(2, 66, Some(bytes)), Err(Error::Misaligned { what: "x", address: 66, align: 16 }));
    assert_eq!(what(run::<f32>(2, 64, Some(bytes))), "decode of f32 on a device");
    assert_eq!(what(run::<bf16>(MAX_NEURONS + 1, 64, Some(1 << 30))), "neurons of a decode");
    assert_eq!(run::<bf16>(MAX_NEURONS, 64, Some(1 << 30)), Ok(()));
}
