//! The README's step of a masked layer: one function for every executor, and the same with what users have.

use crate::case::{Adds, Case, Outputs, Spec};
use crate::common::everywhere_tests;
use crate::oracle::compare;
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{Keep, Layer};
use twofour::{Cpu, Executor, Result, Shape, bf16};
#[cfg(feature = "cuda")]
use {
    std::sync::Arc,
    twofour::Gpu,
    twofour::cudarc::driver::{CudaSlice, CudaStream},
};

const KIND: Kind = Kind::Soft;

/// What a step reads, where it lies.
struct Given<'a, E: Executor> {
    shape: Shape,
    tokens: usize,
    sampling: Sampling,
    logits: &'a E::Buffer<f32>,
    weight: &'a E::Buffer<bf16>,
    x: &'a E::Buffer<bf16>,
    dy: &'a E::Buffer<bf16>,
}

/// What it writes.
struct Written<'a, E: Executor> {
    y: &'a mut E::Buffer<bf16>,
    dx: &'a mut E::Buffer<bf16>,
    dlogits: &'a mut E::Buffer<f32>,
}

/// Forward and backward, and the masked weight that the one left for the other.
fn step<E: Executor>(on: &mut E, given: &Given<'_, E>, written: Written<'_, E>) -> Result<Vec<bf16>> {
    let Given { shape, tokens, sampling, .. } = *given;
    let Written { y, dx, dlogits } = written;
    let layer = Layer::sampled(shape, KIND, sampling, E::input(given.logits), E::input(given.weight));
    let plan = layer.plan(on, tokens, Keep::Masked)?;
    let mut scratch = on.scratch(&plan)?;
    on.run(plan.forward(&layer, E::input(given.x), E::output(y), &mut scratch))?;
    let backward = plan.backward(&layer, E::input(given.dy), &mut scratch).input_gradient(E::output(dx));
    on.run(backward.logit_gradient(E::input(given.x), E::output(dlogits)))?;
    scratch.masked().map_or(Ok(Vec::new()), |masked| on.download(masked))
}

fn a_step_is_one_function<E: Adds>(on: &mut E) {
    let spec = Spec { regulariser: 0.0, ..Spec::new(70, 40, 64, KIND) };
    let case = Case::<f32, bf16>::new(spec);
    let (logits, weight) = (on.upload(&case.logits).unwrap(), on.upload(&case.weight).unwrap());
    let (x, dy) = (on.upload(&case.x).unwrap(), on.upload(&case.dy).unwrap());
    let (mut y, mut dx) = (on.poisoned(case.dy.len()), on.poisoned(case.x.len()));
    let mut dlogits = on.poisoned(case.logits.len());
    let (logits, weight, x, dy) = (&logits, &weight, &x, &dy);
    let given = Given { shape: spec.shape, tokens: spec.tokens, sampling: spec.sampling, logits, weight, x, dy };
    let masked = step(on, &given, Written { y: &mut y, dx: &mut dx, dlogits: &mut dlogits }).unwrap();
    let out = Outputs {
        masked,
        y: on.download(&y).unwrap(),
        dx: on.download(&dx).unwrap(),
        logit_gradient: on.download(&dlogits).unwrap(),
        ..Outputs::default()
    };
    compare(&case, &out, E::UNIT);
}

everywhere_tests!(a_step_is_one_function);

/// As the README has it, on vectors.
fn step_on_vectors(case: &Case<f32, bf16>) -> Result<[Vec<bf16>; 2]> {
    let Case { spec: Spec { shape, tokens, sampling, .. }, logits, weight, x, dy, .. } = case;
    let (mut y, mut dx) = (vec![bf16::ZERO; dy.len()], vec![bf16::ZERO; x.len()]);
    let mut dlogits = vec![0.0; logits.len()];

    let layer = Layer::sampled(*shape, KIND, *sampling, logits, weight);
    let plan = layer.plan(&Cpu, *tokens, Keep::Masked)?;
    let mut scratch = Cpu.scratch(&plan)?;
    Cpu.run(plan.forward(&layer, x, &mut y, &mut scratch))?;
    let backward = plan.backward(&layer, dy, &mut scratch);
    Cpu.run(backward.input_gradient(&mut dx).logit_gradient(x, &mut dlogits))?;
    Ok([y, dx])
}

/// And on cudarc's slices: compiled everywhere, run where there is a device.
#[cfg(feature = "cuda")]
fn step_on_slices(
    stream: &Arc<CudaStream>,
    spec: &Spec,
    [weight, x, dy]: [&CudaSlice<bf16>; 3],
    logits: &CudaSlice<f32>,
    [y, dx]: [&mut CudaSlice<bf16>; 2],
    dlogits: &mut CudaSlice<f32>,
) -> Result<()> {
    let mut gpu = Gpu::new(stream)?;
    let layer = Layer::sampled(spec.shape, KIND, spec.sampling, logits, weight);
    let plan = layer.plan(&gpu, spec.tokens, Keep::Masked)?;
    let mut scratch = gpu.scratch(&plan)?;
    gpu.run(plan.forward(&layer, x, y, &mut scratch))?;
    gpu.run(plan.backward(&layer, dy, &mut scratch).input_gradient(dx).logit_gradient(x, dlogits))
}

#[test]
fn a_step_takes_what_users_have() {
    let case = Case::<f32, bf16>::new(Spec { keep: Keep::Masked, ..Spec::new(70, 40, 64, KIND) });
    let [y, dx] = step_on_vectors(&case).unwrap();
    let expected = case.run(&mut Cpu);
    assert!(y == expected.y && dx == expected.dx);
    #[cfg(feature = "cuda")]
    if let Some(mut gpu) = crate::common::gpu() {
        let stream = Arc::clone(gpu.stream());
        let expected = case.run(&mut gpu);
        let of = |values: &[bf16]| stream.clone_htod(values).unwrap();
        let (weight, x, dy) = (of(&case.weight), of(&case.x), of(&case.dy));
        let logits = stream.clone_htod(&case.logits).unwrap();
        let (mut y, mut dx, mut dlogits) = (of(&case.dy), of(&case.x), logits.clone());
        step_on_slices(&stream, &case.spec, [&weight, &x, &dy], &logits, [&mut y, &mut dx], &mut dlogits).unwrap();
        assert!(stream.clone_dtoh(&y).unwrap() == expected.y && stream.clone_dtoh(&dx).unwrap() == expected.dx);
    }
}
