//! What runs in a child process, on the fake driver and library; the parent reads the log.

use std::sync::Arc;

use twofour::cudarc::driver::CudaStream;
use twofour::cusparselt::{
    self, Addend, Algorithm, Alpha, Bias, Compressor, Handle, Operands, Plan, SplitKMode, Types, Version,
};
use twofour::{DType, Error, Shape, bf16, device};

use crate::product::{Case, cases, check, numbered, problem, weight};

fn stream() -> Arc<CudaStream> {
    device::context(0).unwrap().default_stream()
}

fn handle(stream: &Arc<CudaStream>) -> Handle {
    Handle::new(stream.context()).unwrap()
}

const SHAPE: Shape = Shape::new(64, 96);

#[path = "sparse.rs"]
mod sparse;

fn unavailable() -> String {
    let error = cusparselt::available().unwrap_err();
    assert!(error.to_string().starts_with("cuSPARSELt is not available: "), "{error}");
    assert!(error.to_string().contains("TWOFOUR_CUSPARSELT"), "{error}");
    assert_eq!(cusparselt::available(), Err(error.clone()), "and stays so");
    match error {
        Error::LibraryUnavailable { library: "cuSPARSELt", reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[test]
#[ignore = "run by its parent"]
fn switched_off() {
    assert_eq!(unavailable(), "TWOFOUR_CUSPARSELT=off");
}

#[test]
#[ignore = "run by its parent"]
fn not_found() {
    assert!(unavailable().contains("none"));
}

#[test]
#[ignore = "run by its parent"]
fn another_library() {
    assert!(unavailable().contains("lacks cusparseLtGetProperty"));
}

#[test]
#[ignore = "run by its parent"]
fn refused_version() {
    let found = std::env::var("FAKE_CUSPARSELT_VERSION").unwrap();
    assert_eq!(unavailable(), format!("version {found} was found, and this crate works with 0.7 to 0.10"));
    let stream = stream();
    assert!(matches!(Handle::new(stream.context()), Err(Error::LibraryUnavailable { .. })));
}

#[test]
#[ignore = "run by its parent"]
fn no_version() {
    assert!(unavailable().contains("cusparseLtGetProperty returned 7"));
}

#[test]
#[ignore = "run by its parent"]
fn found() {
    assert_eq!(cusparselt::available(), Ok(Version { major: 0, minor: 10, patch: 0 }));
}

#[test]
#[ignore = "run by its parent"]
fn names_of_statuses() {
    // The one name that the fake library has, ours where it has none, and a number where neither has one.
    assert_eq!(cusparselt::status_name(6).unwrap(), std::env::var("EXPECTED").unwrap());
    assert_eq!(cusparselt::status_name(10).unwrap(), "CUSPARSE_STATUS_NOT_SUPPORTED");
    assert_eq!(cusparselt::status_name(99).unwrap(), "status 99");
}

#[test]
#[ignore = "run by its parent"]
fn the_real_library() {
    let stream = stream();
    let error = Handle::new(stream.context()).map(drop).unwrap_err();
    let name = "CUSPARSE_STATUS_NOT_INITIALIZED".into();
    assert_eq!(error, Error::Cuda { call: "cusparseLtInit", name, code: 1 });
}

#[test]
#[ignore = "run by its parent"]
fn one_product() {
    let stream = stream();
    let mut with_bias = problem::<f32, f32>(32, SHAPE);
    with_bias.bias = Some(Bias::Shared);
    check::<f32, f32>(&handle(&stream), &stream, Case::new(with_bias), false).unwrap();
}

#[test]
#[ignore = "run by its parent"]
fn every_product() {
    let stream = stream();
    let handle = handle(&stream);
    for case in cases::<f32, f32>() {
        check::<f32, f32>(&handle, &stream, case, false).unwrap();
        check::<f32, f32>(&handle, &stream, case, true).unwrap();
    }
    for case in cases::<i8, i8>() {
        check::<i8, i8>(&handle, &stream, case, false).unwrap();
    }
    for case in cases::<i8, i32>() {
        check::<i8, i32>(&handle, &stream, case, true).unwrap();
    }
}

#[test]
#[ignore = "run by its parent"]
fn searches() {
    let stream = stream();
    let handle = handle(&stream);
    let case = Case::new(problem::<f32, f32>(32, SHAPE));
    assert_eq!(cusparselt::remembered(&handle, &case.problem, false), None);
    let first = check::<f32, f32>(&handle, &stream, case, true).unwrap().unwrap();
    let (id, split_k, buffers) = (first.algorithm.id, first.algorithm.split_k, first.algorithm.split_k_buffers);
    assert_eq!((id, split_k, buffers, first.algorithm.split_k_mode), (Some(3), Some(2), Some(1), None));
    assert!(!first.remembered);
    assert_eq!(cusparselt::remembered(&handle, &case.problem, false), Some(first.algorithm));

    // The same again, on another handle: from memory. With an addend, or one token block more: anew.
    let other = Handle::new(stream.context()).unwrap();
    let second = check::<f32, f32>(&other, &stream, case, true).unwrap().unwrap();
    assert_eq!((second.algorithm, second.remembered), (first.algorithm, true));
    let adds = Case { add: crate::product::Add::Output(1.0), ..case };
    assert!(!check::<f32, f32>(&handle, &stream, adds, true).unwrap().unwrap().remembered);
    let mut larger = case;
    larger.problem.tokens += 8;
    assert!(!check::<f32, f32>(&handle, &stream, larger, true).unwrap().unwrap().remembered);

    let plan = Plan::with_algorithm(&handle, &stream, case.problem, first.algorithm).unwrap();
    assert_eq!((plan.algorithm().id, plan.algorithms(), plan.workspace_bytes()), (Some(3), 4, 512));
}

#[test]
#[ignore = "run by its parent"]
fn settings() {
    let stream = stream();
    let handle = handle(&stream);
    let problem = problem::<f32, f32>(32, SHAPE);
    let mut algorithm = numbered(2);
    (algorithm.split_k, algorithm.split_k_mode) = (Some(4), Some(SplitKMode::TwoKernels));
    algorithm.split_k_buffers = Some(3);
    let plan = Plan::with_algorithm(&handle, &stream, problem, algorithm).unwrap();
    assert_eq!(plan.algorithm(), algorithm);
    let error = Plan::with_algorithm(&handle, &stream, problem, numbered(4)).map(drop).unwrap_err();
    assert!(matches!(error, Error::Scalar { what: "algorithm.id", value: 4.0, .. }), "{error}");
    let mut refused = Algorithm::default();
    refused.split_k_mode = Some(SplitKMode::OneKernel);
    let error = Plan::with_algorithm(&handle, &stream, problem, refused).map(drop).unwrap_err();
    let name = "CUSPARSE_STATUS_NOT_SUPPORTED".into();
    assert_eq!(error, Error::Cuda { call: "cusparseLtMatmulAlgSetAttribute", name, code: 10 });
}

#[test]
#[ignore = "run by its parent"]
fn failing() {
    let (call, code) = std::env::var("FAKE_CUSPARSELT_FAIL")
        .unwrap()
        .split_once('=')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let stream = stream();
    let error = Handle::new(stream.context()).and_then(|handle| {
        let mut problem = problem::<f32, f32>(32, SHAPE);
        (problem.bias, problem.batches) = (Some(Bias::Shared), 2);
        check::<f32, f32>(&handle, &stream, Case::new(problem), true)?;
        let compressor = Compressor::<f32>::new(&handle, SHAPE, None)?;
        compressor.probe(&stream, &weight::<f32>(SHAPE.rows, SHAPE.cols, SHAPE.cols))
    });
    let Error::Cuda { call: failed, code: status, .. } = error.map(drop).unwrap_err() else { panic!("not a status") };
    assert_eq!((failed.to_owned(), status.to_string()), (call, code));
}

#[test]
#[ignore = "run by its parent"]
fn bad_operands() {
    let stream = stream();
    let handle = handle(&stream);
    let mut problem = problem::<f32, f32>(32, SHAPE);
    problem.bias = Some(Bias::Shared);
    let mut plan = Plan::new(&handle, &stream, problem).unwrap();
    let size = plan.compressed_size();
    let weight = stream.alloc_zeros::<u8>(size.bytes).unwrap();
    let input = stream.alloc_zeros::<f32>(32 * 96).unwrap();
    let wide = stream.alloc_zeros::<f32>(32 * 96 + 1).unwrap();
    let mut output = stream.alloc_zeros::<f32>(32 * 64).unwrap();
    let [mut workspace, mut little] = [256, 16].map(|bytes| stream.alloc_zeros::<u8>(bytes).unwrap());
    let bias = stream.alloc_zeros::<f32>(64).unwrap();
    macro_rules! refused {
        ($operands:ident => $change:expr) => {{
            let (output, workspace) = (output.as_view_mut(), workspace.as_view_mut());
            let mut $operands = Operands::new(&weight, &input, output).workspace(workspace);
            $change;
            plan.run(&stream, $operands).unwrap_err()
        }};
    }
    assert!(matches!(refused!(o => o.alpha = Alpha::Scalar(2.0)), Error::Missing { what: "a run with a bias", .. }));
    let short = plan.set_bias(&stream, bias.slice(..63)).unwrap_err();
    assert_eq!(short, Error::Length { what: "bias", expected: 64, got: 63 });
    let halves = stream.alloc_zeros::<bf16>(64).unwrap();
    assert!(matches!(plan.set_bias(&stream, &halves), Err(Error::Unplanned { .. })));
    plan.set_bias(&stream, &bias).unwrap();

    let length = |what, expected, got| Error::Length { what, expected, got };
    let (all, most) = (size.bytes as u64, size.bytes - 1);
    assert_eq!(refused!(o => o.weight = weight.slice(..most)), length("weight", all, all - 1));
    assert_eq!(refused!(o => o.input = input.slice(4..)), length("input", 32 * 96, 32 * 96 - 4));
    assert_eq!(refused!(o => o.workspace = None), Error::Workspace { needed: 256, got: 0 });
    let small = Error::Workspace { needed: 256, got: 16 };
    assert_eq!(refused!(o => o.workspace = Some(little.as_view_mut())), small);
    let beta = refused!(o => o.addend = Addend::Output { beta: f32::NAN });
    assert!(matches!(beta, Error::Scalar { what: "beta", .. }), "{beta}");
    let alpha = refused!(o => o.alpha = Alpha::Scalar(f32::INFINITY));
    assert!(matches!(alpha, Error::Scalar { what: "alpha", .. }), "{alpha}");
    let alphas = refused!(o => o.alpha = Alpha::PerRow(bias.as_view()));
    assert_eq!(
        alphas,
        Error::Unplanned { planned: "an alpha for all rows".into(), given: "an alpha for each row".into() }
    );
    let askew = refused!(o => o.input = wide.slice(1..));
    assert!(matches!(askew, Error::Misaligned { what: "input", align: 16, .. }), "{askew}");

    let mut other = stream.alloc_zeros::<bf16>(32 * 64).unwrap();
    let operands = Operands::new(&weight, &input, &mut other);
    let error = plan.run(&stream, operands).unwrap_err();
    assert_eq!(error, Error::Unplanned { planned: "the output in f32".into(), given: "bf16".into() });
}

#[test]
#[ignore = "run by its parent"]
fn bad_factors() {
    let stream = stream();
    let mut per_row = problem::<f32, f32>(32, SHAPE);
    per_row.alpha_per_row = true;
    let mut plan = Plan::new(&handle(&stream), &stream, per_row).unwrap();
    let weight = stream.alloc_zeros::<u8>(plan.compressed_size().bytes).unwrap();
    let [input, alphas] = [32 * 96, 64].map(|elements| stream.alloc_zeros::<f32>(elements).unwrap());
    let mut output = stream.alloc_zeros::<f32>(32 * 64).unwrap();
    let operands = Operands::new(&weight, &input, &mut output);
    let error = plan.run(&stream, operands).unwrap_err();
    assert_eq!(
        error,
        Error::Unplanned { planned: "an alpha for each row".into(), given: "an alpha for all rows".into() }
    );
    let mut both = Operands::new(&weight, &input, &mut output);
    (both.alpha, both.addend) = (Alpha::PerRow(alphas.as_view()), Addend::Output { beta: 1.0 });
    assert!(matches!(plan.run(&stream, both), Err(Error::Scalar { what: "beta", value: 1.0, .. })));
    assert!(matches!(plan.set_bias(&stream, &alphas), Err(Error::Missing { what: "set_bias", .. })));
}

#[test]
#[ignore = "run by its parent"]
fn bad_problems() {
    let stream = stream();
    let handle = handle(&stream);
    let problem = problem::<f32, f32>(32, Shape::new(64, 100));
    let error = Plan::new(&handle, &stream, problem).map(drop).unwrap_err();
    let must = "a multiple of 8 for this format";
    assert_eq!(error, Error::Scalar { what: "columns of the weight", value: 100.0, must });
    let error = Compressor::<i8>::new(&handle, Shape::new(48, 64), None).map(drop).unwrap_err();
    assert!(matches!(error, Error::Scalar { what: "rows of the weight", value: 48.0, .. }), "{error}");
    assert!(matches!(Types::new(DType::Bf16, DType::F32), Err(Error::Unsupported { .. })));
}

#[test]
#[ignore = "run by its parent"]
fn probe() {
    let stream = stream();
    let handle = handle(&stream);
    let compressor = Compressor::<i8>::new(&handle, SHAPE, None).unwrap();
    let dense = weight::<i8>(SHAPE.rows, SHAPE.cols, SHAPE.cols);
    let compressed = compressor.probe(&stream, &dense).unwrap();
    let kept: Vec<u8> = dense.iter().filter(|value| **value != 0).map(|value| value.cast_unsigned()).collect();
    assert_eq!(compressed.values(), kept);
    // The fake library's own layout: a byte a group, the second position in the high half.
    let first: Vec<u8> = (0..4).filter(|&i| dense[i] != 0).map(|i| i as u8).collect();
    assert_eq!(compressed.metadata()[0], first[0] | first[1] << 4);
    assert_eq!(compressed.metadata().len(), SHAPE.groups());
    assert_eq!(compressed.bytes().len(), compressor.size().bytes);
    let error = compressor.probe(&stream, &dense[1..]).unwrap_err();
    assert_eq!(error, Error::Length { what: "weight", expected: 64 * 96, got: 64 * 96 - 1 });

    let mut full = dense;
    full[..3].fill(1);
    let full = stream.clone_htod(&full).unwrap();
    let mut verdict = stream.clone_htod(&[0]).unwrap();
    compressor.check_pruned(&stream, &full, &mut verdict).unwrap();
    let mut read = [0];
    stream.memcpy_dtoh(&verdict, &mut read).unwrap();
    assert_ne!(read, [0]);
}

#[test]
#[ignore = "run by its parent"]
fn old_device() {
    let stream = stream();
    let error = Handle::new(stream.context()).map(drop).unwrap_err();
    assert_eq!(error, Error::UnsupportedDevice { have: (7, 5), need: (8, 0) });
}
