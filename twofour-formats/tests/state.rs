//! A run's state: what it takes in memory, and in a file, from which a run goes on to the bit. Alone in its program, so
//! that the allocations it counts are its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../tests/common/counted.rs"]
mod counted;
#[allow(dead_code, reason = "the other suite's")]
#[path = "hostile/mutate.rs"]
mod mutate;
#[path = "state/run.rs"]
mod run;

use mutate::Mutator;
use run::{Layer, STEPS, Training};
use std::path::Path;
use twofour::learn::{Recipe, Schedule};
use twofour::{DType, Logit, Shape, bf16};
use twofour_formats::Error;
use twofour_formats::state::{Manifest, Moments, Reader, Run};

#[test]
fn state_in_memory_and_in_files() {
    // rayon's threads keep what they allocate when they start.
    rayon::broadcast(|_| ());
    a_weight_takes::<f32>(false, 20.0);
    a_weight_takes::<bf16>(true, 8.04);
    a_run_goes_on_to_the_bit::<f32>(false);
    a_run_goes_on_to_the_bit::<bf16>(true);
    writing_is_checked();
    versions_and_layers_are_checked();
    values_are_checked();
    mutated_files_are_refused_or_read();
}

/// What a layer of a million weights allocates: weight, logits, moments; and what a step takes besides, which is a
/// list of pieces.
fn a_weight_takes<L: Logit>(eight: bool, bytes: f64) {
    let shape = Shape::new(1024, 1024);
    let count = shape.weights() as f64;
    let (mut layer, allocated) = counted::peak(|| Layer::<L>::new(shape, eight, 1));
    let per_weight = allocated as f64 / count;
    let gradient: Vec<bf16> = layer.gradient(0);
    let ((), more) = counted::peak(|| layer.step(&Recipe::maskllm(STEPS), 0, &gradient));
    println!("{} logits, {} moments: {per_weight:.3} bytes a weight", L::DTYPE, if eight { "8-bit" } else { "f32" });
    assert!(per_weight <= bytes, "{per_weight} bytes a weight");
    assert!((more as f64) < 0.05 * count, "{more} bytes for a step");
}

/// A run, and one that is saved half way, dropped, and loaded.
fn a_run_goes_on_to_the_bit<L: Logit>(eight: bool) {
    let mut whole = Training::<L>::new(eight);
    whole.steps(0..STEPS);
    let mut first = Training::<L>::new(eight);
    first.steps(0..STEPS / 2);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("learn-state-{}.safetensors", L::DTYPE));
    first.save(&path).unwrap();
    drop(first);
    let mut second = Training::<L>::load(&path);
    second.steps(STEPS / 2..STEPS);
    assert!(whole == second, "the run that was interrupted came to something else");
    assert!(whole != Training::<L>::new(eight));
    // A file cut short is none.
    let bytes = std::fs::read(&path).unwrap();
    assert!(matches!(Reader::from_bytes(&bytes[..bytes.len() - 1]), Err(Error::File { .. })));
    std::fs::remove_file(path).unwrap();
}

/// A recipe none of whose numbers is round.
fn odd_recipe() -> Recipe {
    Recipe {
        rate: Schedule::cosine(0.1 + 0.2, 1.0 / 3.0e5).warmup(17),
        tau: Schedule::constant(std::f64::consts::PI),
        beta2: 0.1 + 0.85,
        epsilon: 1e-17 / 3.0,
        ..Recipe::maskllm(u64::MAX)
    }
}

fn small_file(run: &Run) -> Vec<u8> {
    let shape = Shape::new(2, 8);
    let mut manifest = Manifest::new(run).unwrap();
    manifest.layer("a", shape, DType::F32, false).unwrap();
    manifest.layer("b.w", shape, DType::Bf16, true).unwrap();
    let full = Moments::F32 { m: vec![-0.5; 24].into(), v: vec![0.25; 24].into() };
    let eight = Moments::Eight { m: vec![0x85; 24].into(), v: vec![3; 24].into(), scales: vec![1.0, 2.0].into() };
    let bytes = manifest.to_bytes(|file| {
        file.layer("b.w", &[bf16::ONE; 24], &eight)?;
        file.layer("a", &[f32::NAN; 24], &full)
    });
    let bytes = bytes.map_err(|error: Error| error).unwrap();
    let reader = Reader::from_bytes(&bytes).unwrap();
    assert_eq!(reader.run(), run);
    assert_eq!(reader.layers().map(|layer| layer.name()).collect::<Vec<_>>(), ["a", "b.w"]);
    assert_eq!((reader.moments("a").unwrap(), reader.moments("b.w").unwrap()), (full, eight));
    assert_eq!(reader.logits::<bf16>("b.w").unwrap(), [bf16::ONE; 24]);
    assert!(reader.logits::<f32>("a").unwrap().iter().all(|l| l.is_nan()));
    bytes
}

fn writing_is_checked() {
    let run = Run { step: u64::MAX, seed: 1 << 63, recipe: Some(odd_recipe()), caller: Some("[1, \"two\"]".into()) };
    small_file(&run);
    small_file(&Run { recipe: None, caller: None, ..run.clone() });
    let problem = |result: twofour_formats::Result<()>| match result.unwrap_err() {
        Error::File { problem, .. } => problem,
        other => panic!("{other}"),
    };
    let with = |caller: &str| Run { caller: Some(caller.into()), ..run.clone() };
    assert!(problem(Manifest::new(&with("{")).map(drop)).contains("not JSON"));
    let recipe = Some(Recipe { beta1: 1.0, ..odd_recipe() });
    assert!(matches!(
        Manifest::new(&Run { recipe, ..run.clone() }),
        Err(Error::Core(twofour::Error::Scalar { what: "beta1", .. }))
    ));
    let mut manifest = Manifest::new(&run).unwrap();
    let shape = Shape::new(1, 8);
    assert!(problem(manifest.layer("a", shape, DType::F16, false)).contains("f16 logits"));
    assert!(matches!(
        manifest.layer("a", Shape::new(1, 6), DType::F32, false),
        Err(Error::Core(twofour::Error::NotGrouped { .. }))
    ));
    manifest.layer("a", shape, DType::F32, false).unwrap();
    assert!(problem(manifest.layer("a", shape, DType::F32, false)).contains("already"));
    let moments = Moments::F32 { m: vec![0.0; 12].into(), v: vec![0.0; 12].into() };
    let eight = Moments::Eight { m: vec![0; 12].into(), v: vec![0; 12].into(), scales: vec![0.0; 2].into() };
    let logits = [0.0f32; 12];
    assert!(problem(manifest.to_bytes(|_| Ok(())).map(drop)).contains("not written"));
    assert!(problem(manifest.to_bytes(|file| file.layer("b", &logits, &moments)).map(drop)).contains("not planned"));
    assert!(problem(manifest.to_bytes(|file| file.layer("a", &logits, &eight)).map(drop)).contains("8-bit moments"));
    let of_bf16 = manifest.to_bytes(|file| file.layer("a", &[bf16::ONE; 12], &moments));
    assert!(problem(of_bf16.map(drop)).contains("bf16 logits"));
    assert!(problem(manifest.to_bytes(|file| file.layer("a", &logits[1..], &moments)).map(drop)).contains("44 bytes"));
    // After an error the old file is as it was.
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("learn-state-atomic.safetensors");
    std::fs::write(&path, "old").unwrap();
    assert!(manifest.save(&path, |_| Err(Error::Core(twofour::Error::NoDevice { detail: String::new() }))).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

fn versions_and_layers_are_checked() {
    let run = Run { step: 3, seed: 4, recipe: Some(Recipe::maskllm(9)), caller: None };
    let good = small_file(&run);
    let text = String::from_utf8_lossy(&good).into_owned();
    let header = &text[8..text.find("}}").map(|_| text.rfind("]}}").unwrap() + 3).unwrap()];
    let data = &good[8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize..];
    let problem = |from: &str, to: &str| {
        assert!(header.contains(from), "{from} in {header}");
        let bytes = mutate::with_header(&header.replace(from, to), data);
        Reader::from_bytes(&bytes).map(drop).unwrap_err().to_string()
    };
    for (from, to, expected) in [
        ("twofour-state.version\":\"1", "twofour-state.version\":\"2", "is state of version 2"),
        ("twofour-state.version", "other", "no file of a run's state"),
        ("twofour-state.step\":\"3", "twofour-state.step\":\"-3", "no such number"),
        ("twofour-state.seed", "other", "there is no entry `twofour-state.seed`"),
        ("recipe.steps", "recipe.other", "there is no entry `twofour-state.recipe.steps`"),
        ("linear 100 500 0", "linear 100 500", "which is no schedule"),
        ("linear 100 500 0", "linear 100 500 0 0", "which is no schedule"),
        ("linear 100 500 0", "square 100 500 0", "which is no schedule"),
        ("linear 100 500 0", "linear 100 NaN 0", "its recipe: `kappa` is NaN"),
        ("state.layer.a\":\"2 8", "state.layer.a\":\"2 12", "[2, 3, 6] is needed"),
        ("state.layer.a\":\"2 8", "state.layer.a\":\"2", "which is no shape"),
        ("state.layer.a\":\"2 8", "state.layer.a\":\"4 6", "not a multiple of 4"),
        ("state.layer.a\"", "state.layer.c\"", "there is no tensor `c.logits`"),
    ] {
        let problem = problem(from, to);
        assert!(problem.contains(expected), "{problem}");
    }
    let reader = Reader::from_bytes(&good).unwrap();
    assert!(reader.moments("c").unwrap_err().to_string().contains("no layer `c`"));
    assert!(reader.logits::<f32>("b.w").unwrap_err().to_string().contains("BF16"));
}

/// Moments that no step writes.
fn values_are_checked() {
    let mut manifest = Manifest::new(&Run { step: 1, seed: 2, recipe: None, caller: None }).unwrap();
    manifest.layer("f", Shape::new(1, 4), DType::F32, false).unwrap();
    manifest.layer("e", Shape::new(1, 4), DType::F32, true).unwrap();
    let read = |m: f32, v: f32, scale: f32| {
        let full = Moments::F32 { m: vec![m; 6].into(), v: vec![v; 6].into() };
        let eight = Moments::Eight { m: vec![1; 6].into(), v: vec![1; 6].into(), scales: vec![0.0, scale].into() };
        let bytes = manifest.to_bytes(|file| {
            file.layer("f", &[0.0f32; 6], &full)?;
            file.layer("e", &[0.0f32; 6], &eight)
        });
        let bytes = bytes.map_err(|error: Error| error).unwrap();
        let reader = Reader::from_bytes(&bytes).unwrap();
        [reader.moments("f").is_ok(), reader.moments("e").is_ok()]
    };
    assert_eq!(read(-1.0, 0.0, 1.0), [true; 2]);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(
            [read(bad, 0.0, 0.0), read(0.0, bad, 0.0), read(0.0, 0.0, bad)].concat(),
            [false, true, false, true, true, false]
        );
    }
    assert_eq!([read(0.0, -1.0, 0.0), read(0.0, 0.0, -1.0)].concat(), [false, true, true, false]);
    // Its square is infinite.
    assert_eq!(read(f32::MIN, f32::MAX, f32::MAX), [true, false]);
}

/// 60,000 bad files: none panics, or takes more memory than a small multiple of its size.
fn mutated_files_are_refused_or_read() {
    let run = Run { step: 3, seed: 4, recipe: Some(odd_recipe()), caller: Some("{}".into()) };
    let seeds = [small_file(&run), small_file(&Run { recipe: None, caller: None, ..run })];
    let mut mutator = Mutator::new(9);
    let (mut refused, mut read) = (0, 0);
    for round in 0..60_000 {
        let bytes = mutator.file(&seeds);
        let (outcome, peak) = counted::peak(|| std::panic::catch_unwind(|| read_all(&bytes)));
        assert!(peak < 16 * bytes.len() + (1 << 16), "round {round}: {peak} bytes for {}", bytes.len());
        match outcome.unwrap_or_else(|_| panic!("round {round}: {:?}", String::from_utf8_lossy(&bytes))) {
            true => read += 1,
            false => refused += 1,
        }
    }
    println!("60000 mutated files: {refused} refused, {read} read");
    assert!(refused > 20_000 && read > 500, "{refused} {read}");
}

fn read_all(bytes: &[u8]) -> bool {
    let Ok(reader) = Reader::from_bytes(bytes) else { return false };
    reader.layers().all(|layer| {
        let logits = match layer.logits() {
            DType::Bf16 => reader.logits::<bf16>(layer.name()).map(|logits| logits.len()),
            _ => reader.logits::<f32>(layer.name()).map(|logits| logits.len()),
        };
        logits.unwrap() == layer.shape().logits() && reader.moments(layer.name()).is_ok()
    })
}
