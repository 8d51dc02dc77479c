use super::*;
use crate::element::DType;

fn problem(operand: DType, result: DType) -> Problem {
    let types = Types::new(operand, result).unwrap_or_else(|e| panic!("{e}"));
    Problem::new(types, 64, Shape::new(96, 160))
}

fn bf16() -> Problem {
    problem(DType::Bf16, DType::Bf16)
}

/// The field that is complained about, with its value and the rule.
fn complaint(problem: Problem) -> (&'static str, f64, &'static str) {
    match problem.check() {
        Err(Error::Scalar { what, value, must }) => (what, value, must),
        other => panic!("{other:?}"),
    }
}

#[test]
fn good_problems_are_good() {
    for (operand, result) in [
        (DType::F32, DType::F32),
        (DType::F16, DType::F16),
        (DType::Bf16, DType::Bf16),
        (DType::I8, DType::I32),
        (DType::E4m3, DType::Bf16),
    ] {
        assert_eq!(problem(operand, result).check(), Ok(()), "{operand} {result}");
    }
    let mut transposed = bf16();
    (transposed.input_transposed, transposed.output_transposed) = (true, true);
    assert_eq!(transposed.check(), Ok(()));
}

#[test]
fn sizes_follow_the_format() {
    for (operand, result, weight, dense) in [
        (DType::F32, DType::F32, 8, 4),
        (DType::F16, DType::F16, 16, 8),
        (DType::I8, DType::I8, 32, 16),
        (DType::E4m3, DType::F32, 32, 16),
    ] {
        let at = |tokens, n, k| Problem { tokens, shape: Shape::new(n, k), ..problem(operand, result) };
        assert_eq!(at(dense, weight, weight).check(), Ok(()), "{operand}");
        assert_eq!(complaint(at(dense, weight / 2, weight)).0, "rows of the weight");
        assert_eq!(complaint(at(dense, weight, weight / 2)).0, "columns of the weight");
        let (what, value, must) = complaint(at(dense / 2, weight, weight));
        assert_eq!((what, value), ("rows of the input", (dense / 2) as f64));
        assert_eq!(must, format!("a multiple of {dense} for this format"));
        for empty in [at(0, weight, weight), at(dense, 0, weight), at(dense, weight, 0)] {
            assert_eq!(complaint(empty).2, "positive");
        }
    }
    let mut problem = bf16();
    problem.batches = 0;
    assert_eq!(complaint(problem).0, "batches");
}

#[test]
fn pitches_and_batches_are_checked() {
    let pitch = |pitch| Placement { pitch: Some(pitch), batch: None };
    let with = |set: &dyn Fn(&mut Problem)| {
        let mut problem = bf16();
        set(&mut problem);
        problem
    };
    assert_eq!(complaint(with(&|p| p.weight = pitch(168))).0, "weight.pitch");
    assert_eq!(complaint(with(&|p| p.weight = pitch(144))).2, "at least as many elements as a row has");
    assert_eq!(complaint(with(&|p| p.input = pitch(164))).0, "input.pitch");
    assert_eq!(complaint(with(&|p| p.output = pitch(88))).0, "output.pitch");
    assert_eq!(with(&|p| (p.input, p.output) = (pitch(168), pitch(104))).check(), Ok(()));

    let batch = |batch| Placement { pitch: None, batch: Some(batch) };
    let batched = |set: &dyn Fn(&mut Problem)| {
        let mut problem = Problem { batches: 3, ..bf16() };
        set(&mut problem);
        problem
    };
    assert_eq!(batched(&|_| ()).check(), Ok(()));
    assert_eq!(batched(&|p| (p.weight, p.input) = (batch(0), batch(0))).check(), Ok(()));
    assert_eq!(complaint(batched(&|p| p.input = batch(12))).0, "input.batch");
    assert_eq!(complaint(batched(&|p| p.output = batch(0))).0, "output.batch");
    assert_eq!(complaint(batched(&|p| p.output = batch(64 * 96 - 8))).0, "output.batch");
    let huge = batched(&|p| p.weight = batch(usize::MAX - 7));
    assert!(matches!(huge.check(), Err(Error::Overflow { what: "weight.batch", .. })), "{:?}", huge.check());
}

#[test]
fn what_is_too_large_is_an_overflow() {
    let at = |tokens, n, k| Problem { tokens, shape: Shape::new(n, k), ..bf16() };
    assert_eq!(at(64, (1 << 15) - 16, 1 << 16).check(), Ok(()));
    assert!(matches!(at(64, 1 << 15, 1 << 16).check(), Err(Error::Overflow { what: "weight", .. })));
    assert!(matches!(at(1 << 60, 64, 64).check(), Err(Error::Overflow { what: "input", .. })));
    assert!(matches!(at(1 << 20, 1 << 16, 64).check(), Err(Error::Overflow { what: "output", .. })));
    assert!(at(64, usize::MAX & !15, usize::MAX & !15).check().is_err());
}

#[test]
fn the_librarys_own_limits_are_known() {
    let transposed = Problem { input_transposed: true, ..problem(DType::I8, DType::I8) };
    assert!(matches!(transposed.check(), Err(Error::Unsupported { .. })));
    let gelu = |operand, result| Problem { activation: Activation::Gelu { scaling: 1.0 }, ..problem(operand, result) };
    assert_eq!(gelu(DType::I8, DType::I8).check(), Ok(()));
    assert!(matches!(gelu(DType::I8, DType::I32).check(), Err(Error::Unsupported { .. })));
    assert!(matches!(gelu(DType::F16, DType::F16).check(), Err(Error::Unsupported { .. })));
}

#[test]
fn numbers_of_activations_are_numbers() {
    let relu = |threshold, upper_bound| Problem { activation: Activation::Relu { threshold, upper_bound }, ..bf16() };
    assert_eq!(Problem { activation: Activation::RELU, ..bf16() }.check(), Ok(()));
    assert_eq!(relu(-1.0, 6.0).check(), Ok(()));
    assert_eq!(complaint(relu(f32::NEG_INFINITY, 6.0)).0, "threshold");
    for bound in [f32::NAN, 1.0, 0.5] {
        assert_eq!(complaint(relu(1.0, bound)).0, "upper_bound");
    }
    let scaling = Activation::Gelu { scaling: f32::NAN };
    assert_eq!(complaint(Problem { activation: scaling, ..problem(DType::I8, DType::I8) }).0, "scaling");
}

#[test]
fn elements_reach_to_the_last_value() {
    let mut problem = Problem { batches: 2, ..bf16() };
    problem.output = Placement { pitch: Some(104), batch: Some(8192) };
    assert_eq!((problem.y().span(), problem.y().stride()), (63 * 104 + 96, 8192));
    assert_eq!(problem.y().elements(2), 8192 + 63 * 104 + 96);
    problem.input = Placement { pitch: None, batch: Some(0) };
    assert_eq!(problem.x().elements(2), 64 * 160);
    problem.bias = Some(Bias::PerBatch);
    assert_eq!(problem.bias_elements(), 192);
}
