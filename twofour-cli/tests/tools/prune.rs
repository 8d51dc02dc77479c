//! `prune` over models of one file and of shards, with and without activations, and `convert`.

use super::{command, file, is_refusal, printed};
use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use twofour::select::Hessian;
use twofour::{Cpu, Executor, Shape};
use twofour_formats::masks::{Fewer, Form, Mask, Masks, Shapes};
use twofour_formats::{Index, Model, Reader};

/// Runs `prune`, or `convert` if that is the first argument.
fn run(arguments: &[&str]) -> Output {
    match arguments {
        ["convert", arguments @ ..] => command("convert").args(arguments).output().unwrap(),
        _ => command("prune").args(arguments).output().unwrap(),
    }
}

/// Runs it and returns what it printed.
#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    printed(&run(arguments), "masks are as they should be")
}

#[track_caller]
fn is_refused(arguments: &[&str], words: &[&str]) {
    is_refusal(&run(arguments), words);
}

const UP: Shape = Shape::new(12, 20);
const DOWN: Shape = Shape::new(20, 12);
const LAYERS: [(&str, Shape); 2] = [("layers.0.down.weight", DOWN), ("layers.0.up.weight", UP)];

/// Made-up numbers, all of them different from each other.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i * 40503 + seed * 977) % 1009) as f32 - 504.3) / 300.0).collect()
}

fn save(path: &Path, tensors: &[(&str, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<_> = tensors.iter().map(|(.., values)| bytemuck::cast_slice::<f32, u8>(values)).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn weight(name: &str, shape: Shape) -> Vec<f32> {
    numbers(shape.weights(), name.len())
}

/// A model in a folder of its own: two layers, and what is left dense.
fn model(name: &str) -> PathBuf {
    let folder = file(&format!("one-shot-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    let mut tensors: Vec<_> = LAYERS.iter().map(|(name, s)| (*name, vec![s.rows, s.cols], weight(name, *s))).collect();
    tensors.push(("embed.weight", vec![8, 8], numbers(64, 1)));
    tensors.push(("layers.0.norm.weight", vec![12], numbers(12, 2)));
    tensors.push(("layers.0.odd.weight", vec![4, 6], numbers(24, 3)));
    save(&folder.join("model.safetensors"), &tensors);
    folder.join("model.safetensors")
}

fn open(path: impl AsRef<Path>) -> Masks<'static> {
    Masks::open(path).unwrap().with_shapes(LAYERS.into_iter().collect::<Shapes>())
}

/// The mask by score, of the scales of columns if there are any.
fn by_score(name: &str, shape: Shape, scale: Option<&[f32]>) -> Mask {
    let weight = weight(name, shape);
    // Two of four, by sorting.
    let flags: Vec<bool> = weight
        .chunks(4)
        .enumerate()
        .flat_map(|(group, four)| {
            let score = |j: usize| four[j].abs() * scale.map_or(1.0, |scale| scale[(4 * group + j) % shape.cols]);
            let mut order = [0, 1, 2, 3];
            order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
            (0..4).map(move |j| order[..2].contains(&j))
        })
        .collect();
    Mask::from_flags(shape, &flags, Fewer::Refuse).unwrap()
}

#[test]
fn a_model_is_made_up() {
    let printed = succeeds(&[]);
    assert_eq!(printed.matches("model.layers.0.mlp.up_proj.weight").count(), 2);
    assert!(printed.contains("14 masks, base6: ") && printed.contains("14 masks, patch: "), "{printed}");
    assert_eq!(printed.lines().filter(|line| line.contains("embed")).count(), 2);
    assert_eq!(printed.matches("left dense: model.embed_tokens.weight [256 x 64] BF16: an embedding").count(), 2);
    let printed = succeeds(&["convert"]);
    assert!(printed.contains("14 masks, maskllm: ") && printed.contains("14 masks, base6: "), "{printed}");
}

#[test]
fn by_magnitude_in_every_form() {
    let path = model("forms");
    let name = path.to_str().unwrap();
    let printed = succeeds(&[name]);
    let out = path.with_file_name("model.masks.safetensors");
    assert!(printed.contains(&out.display().to_string()) && printed.contains("2 masks, base6"), "{printed}");
    assert_eq!(open(&out).form(), Form::Base6);
    for form in Form::ALL {
        let out = path.with_file_name(format!("out-{form}"));
        succeeds(&[name, "--form", form.name(), "--out", out.to_str().unwrap()]);
        let masks = open(&out);
        assert_eq!((masks.form(), masks.names().len()), (form, 2));
        LAYERS.iter().for_each(|(name, shape)| assert_eq!(masks.read(name).unwrap(), by_score(name, *shape, None)));
    }
    let npz = path.with_file_name("out.npz");
    let printed = succeeds(&[name, "--out", npz.to_str().unwrap()]);
    assert_eq!(open(&npz).form(), Form::Patch);
    // The shares of one layer, by hand.
    let dense = weight(LAYERS[0].0, DOWN);
    let flags: Vec<bool> = by_score(LAYERS[0].0, DOWN, None).flags().unwrap();
    let share = |of: &dyn Fn(f64) -> f64| {
        let all = dense.iter().map(|&value| of(f64::from(value)));
        let kept: f64 = all.clone().zip(&flags).filter_map(|(value, kept)| kept.then_some(value)).sum();
        format!("{:.2} %", 100.0 * kept / all.sum::<f64>())
    };
    let line = printed.lines().find(|line| line.starts_with(LAYERS[0].0)).unwrap();
    assert!(line.contains("20 x 12   f32"), "{line}");
    assert!(line.ends_with(&format!("{}  {}", share(&f64::abs), share(&|value| value * value))), "{line}");
}

#[test]
fn layers_by_name() {
    let path = model("names");
    let (name, out) = (path.to_str().unwrap(), path.with_file_name("out"));
    let chosen = |arguments: &[&str]| {
        succeeds(&[&[name, "--out", out.to_str().unwrap()], arguments].concat());
        open(&out).names().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(chosen(&["--include", "*up*"]), [LAYERS[1].0]);
    assert_eq!(chosen(&["--exclude", "*up*"]), [LAYERS[0].0]);
    assert_eq!(chosen(&["--include", "*", "--exclude", "*.up.*"]), ["embed.weight", LAYERS[0].0]);
    assert_eq!(chosen(&["--include", "e*d*t", "--include", LAYERS[1].0]), ["embed.weight", LAYERS[1].0]);
    is_refused(&[name, "--include", "up"], &["the pattern up matches none of embed.weight"]);
    is_refused(
        &[name, "--include", "*odd*"],
        &["the pattern *odd* matches nothing that has a mask: layers.0.odd.weight [4 x 6] F32: a row of its groups"],
    );
    is_refused(&[name, "--exclude", "*"], &["no layer to make a mask for"]);
}

/// From sums of squares, from a Hessian and from inputs, which agree.
#[test]
fn by_wanda() {
    let path = model("wanda");
    let folder = path.parent().unwrap();
    let tokens = 40;
    // Some columns are larger than others.
    let uneven = |(i, x): (usize, f32), cols: usize| x * (1 + i % cols * 7 % 5) as f32;
    let inputs = |(name, shape): &(&str, Shape)| -> Vec<f32> {
        let even = numbers(tokens * shape.cols, name.len() + 5);
        even.into_iter().enumerate().map(|x| uneven(x, shape.cols)).collect()
    };
    let squares = |layer: &(&str, Shape)| {
        let cols = layer.1.cols;
        let inputs = inputs(layer);
        (0..cols).map(|j| (0..tokens).map(|t| inputs[t * cols + j].powi(2)).sum()).collect::<Vec<f32>>()
    };
    let names: Vec<_> = LAYERS.iter().map(|(name, _)| [format!("{name}.squares"), format!("{name}.hessian")]).collect();
    let files = ["squares", "hessian", "inputs"].map(|kind| folder.join(format!("{kind}.safetensors")));
    let (mut tensors, mut hessians, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    for (layer, [s, h]) in LAYERS.iter().zip(&names) {
        let cols = layer.1.cols;
        tensors.push((s.as_str(), vec![cols], squares(layer)));
        let diagonal = squares(layer).into_iter().map(|sum| 2.0 * sum / tokens as f32).collect::<Vec<_>>();
        let of = |i: usize| if i.is_multiple_of(cols + 1) { diagonal[i / cols] } else { 0.1 };
        hessians.push((h.as_str(), vec![cols, cols], (0..cols * cols).map(of).collect()));
        raw.push((layer.0, vec![tokens, cols], inputs(layer)));
    }
    save(&files[0], &tensors);
    save(&files[1], &hessians);
    save(&files[2], &raw);
    let (name, out, dense) = (path.to_str().unwrap(), folder.join("out"), folder.join("masked.safetensors"));
    let arguments = |from: &'static str| [name, "--method", from, "--out", out.to_str().unwrap(), "--activations"];
    for from in &files {
        let weights = ["--weights", dense.to_str().unwrap()];
        succeeds(&[&arguments("wanda")[..], &[from.to_str().unwrap()], &weights].concat());
        for layer in &LAYERS {
            let norms: Vec<f32> = squares(layer).into_iter().map(f32::sqrt).collect();
            let mask = open(&out).read(layer.0).unwrap();
            assert_eq!(mask, by_score(layer.0, layer.1, Some(&norms)), "{}", from.display());
            assert_ne!(mask, by_score(layer.0, layer.1, None));
            // The masked model: kept weights as they were, and all else as it was.
            let written = Reader::open(&dense).unwrap();
            let flags: Vec<bool> = mask.flags().unwrap();
            let expected: Vec<f32> = weight(layer.0, layer.1)
                .iter()
                .zip(flags)
                .map(|(&value, kept)| if kept { value } else { 0.0 })
                .collect();
            assert_eq!(written.elements::<f32>(layer.0).unwrap(), expected);
            assert_eq!(written.elements::<f32>("embed.weight").unwrap(), numbers(64, 1));
        }
    }
    is_refused(&[name, "--method", "wanda"], &["--calibration FILE, or --activations FILE"]);
    is_refused(&[name, "--activations", name], &["magnitude does not look at activations"]);
    save(&files[0], &tensors[..1]);
    let missing = ["squares.safetensors: nothing is known of the inputs of `layers.0.up.weight`", "--exclude"];
    is_refused(&[&arguments("wanda")[..], &[files[0].to_str().unwrap()]].concat(), &missing);
    tensors[0].1 = vec![1, 12];
    save(&files[0], &tensors);
    let shape = ["`layers.0.down.weight.squares` is [1, 12], and the layer needs [12]"];
    is_refused(&[&arguments("wanda")[..], &[files[0].to_str().unwrap()]].concat(), &shape);
    tensors[0].1 = vec![12];
    tensors[0].2[3] = f32::NAN;
    save(&files[0], &tensors);
    let nan = ["squares.safetensors: inputs of `layers.0.down.weight`: the norm is NaN at column 3"];
    is_refused(&[&arguments("wanda")[..], &[files[0].to_str().unwrap()]].concat(), &nan);
    sparsegpt(&path, &files);
}

/// What the crate makes.
fn sparsegpt(path: &Path, files: &[PathBuf; 3]) {
    let (name, out) = (path.to_str().unwrap(), path.with_file_name("out"));
    let updated = path.with_file_name("updated.safetensors");
    let inputs = ["--activations", files[2].to_str().unwrap()];
    let arguments = [&[name, "--method", "sparsegpt", "--out", out.to_str().unwrap()][..], &inputs].concat();
    succeeds(&[&arguments[..], &["--weights", updated.to_str().unwrap()]].concat());
    let written = Reader::open(&updated).unwrap();
    for (layer, shape) in LAYERS {
        let x = Reader::open(&files[2]).unwrap().elements::<f32>(layer).unwrap();
        let mut hessian = vec![0.0; shape.cols * shape.cols];
        Cpu.run(Hessian::new(x.len() / shape.cols, shape.cols, &x, 0, &mut hessian)).unwrap();
        // The loss of the update is below that of leaving weights as they were.
        let weight = weight(layer, shape);
        let found = written.elements::<f32>(layer).unwrap();
        let flags: Vec<bool> = open(&out).read(layer).unwrap().flags().unwrap();
        let loss = |new: &dyn Fn(usize) -> f32| -> f64 {
            let difference: Vec<f64> = (0..weight.len()).map(|i| f64::from(weight[i] - new(i))).collect();
            let quadratic = |row: &[f64]| -> f64 {
                let h = |i: usize, j: usize| f64::from(hessian[i * shape.cols + j]);
                (0..shape.cols).map(|i| (0..shape.cols).map(|j| row[i] * h(i, j) * row[j]).sum::<f64>()).sum()
            };
            difference.chunks(shape.cols).map(quadratic).sum()
        };
        assert!(found.iter().zip(&flags).all(|(value, kept)| *kept || *value == 0.0));
        let left = loss(&|i| if flags[i] { weight[i] } else { 0.0 });
        assert!(loss(&|i| found[i]) < 0.9 * left, "{layer}");
    }
    let squares = ["--activations", files[0].to_str().unwrap()];
    let only = [name, "--method", "sparsegpt", "--out", out.to_str().unwrap()];
    is_refused(&[&only[..], &squares].concat(), &["is enough for Wanda, and SparseGPT needs"]);
    let before = open(&out).read(LAYERS[0].0).unwrap();
    succeeds(&[&arguments[..], &["--as-is"]].concat());
    assert_ne!(open(&out).read(LAYERS[0].0).unwrap(), before);
}

#[test]
fn shards() {
    let folder = file("one-shot-shards");
    let (to, out) = (file("one-shot-shards-masked"), file("one-shot-shards.npz"));
    for folder in [&folder, &to] {
        let _ = fs::remove_dir_all(folder);
    }
    fs::create_dir(&folder).unwrap();
    let mut index = Index::new();
    for (i, (name, shape)) in LAYERS.iter().enumerate() {
        let shard = format!("model-0000{i}.safetensors");
        save(&folder.join(&shard), &[(name, vec![shape.rows, shape.cols], weight(name, *shape))]);
        index.add(&shard, [*name], 0).unwrap();
    }
    index.save(folder.join("model.safetensors.index.json")).unwrap();
    let arguments = [folder.to_str().unwrap(), "--out", out.to_str().unwrap(), "--weights", to.to_str().unwrap()];
    succeeds(&arguments);
    let masks = open(&out);
    LAYERS.iter().for_each(|(name, shape)| assert_eq!(masks.read(name).unwrap(), by_score(name, *shape, None)));
    let masked = Model::find(&to).unwrap();
    assert_eq!(masked.index().unwrap().1.file(LAYERS[1].0), Some("model-00001.safetensors"));
    let written = masked.open("model-00001.safetensors").unwrap().elements::<f32>(LAYERS[1].0).unwrap();
    assert_eq!(written.iter().filter(|value| **value == 0.0).count(), UP.weights() / 2);
    let over = [folder.to_str().unwrap(), "--weights", folder.to_str().unwrap()];
    is_refused(&over, &["model-00000.safetensors would be written over"]);
    let index = folder.join("model.safetensors.index.json");
    is_refused(&[folder.to_str().unwrap(), "--out", index.to_str().unwrap()], &["index.json would be written over"]);
}

#[test]
fn conversions() {
    let path = model("convert");
    let (name, folder) = (path.to_str().unwrap(), path.parent().unwrap());
    let llm = folder.join("mask_compressed.npz");
    succeeds(&[name, "--form", "maskllm", "--out", llm.to_str().unwrap()]);
    let llm = llm.to_str().unwrap();
    is_refused(&["convert", llm], &["is MaskLLM's, which holds no shapes: name the model too, with --model"]);
    succeeds(&["convert", llm, "--model", name]);
    let beside = folder.join("mask_compressed.masks.safetensors");
    for form in Form::ALL {
        let out = folder.join(format!("to-{form}"));
        let printed =
            succeeds(&["convert", beside.to_str().unwrap(), "--form", form.name(), "--out", out.to_str().unwrap()]);
        assert!(printed.contains(&format!("2 masks, {form}: ")), "{printed}");
        let masks = open(&out);
        LAYERS.iter().for_each(|(name, shape)| assert_eq!(masks.read(name).unwrap(), by_score(name, *shape, None)));
    }
    is_refused(&["convert", llm, "--out", llm, "--model", name], &["would be written over"]);
    let before = fs::read(&path).unwrap();
    is_refused(&["convert", llm, "--out", name, "--model", name], &["model.safetensors would be written over"]);
    assert_eq!(fs::read(&path).unwrap(), before);
    is_refused(&["convert", name], &["has no masks"]);
    assert_eq!(run(&["convert", llm, "--form", "npz"]).status.code(), Some(2));

    // One group that keeps one: refused with its place, or filled.
    let fewer = folder.join("fewer.safetensors");
    let flags: Vec<f32> = [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0].into();
    save(&fewer, &[("w.mask", vec![1, 8], flags)]);
    let (fewer, out) = (fewer.to_str().unwrap(), folder.join("filled"));
    let arguments = ["convert", fewer, "--out", out.to_str().unwrap()];
    is_refused(&arguments, &["weight `w`: group 1 of row 0 keeps 1 of 4"]);
    assert!(!out.exists());
    succeeds(&[&arguments[..], &["--fill"]].concat());
    assert_eq!(Masks::open(&out).unwrap().read("w").unwrap().codes(), [0xd4]);
}

#[test]
fn models_that_are_wrong() {
    let path = model("wrong");
    let name = path.to_str().unwrap();
    is_refused(&[name, "--out", name], &["would be written over"]);
    is_refused(&[name, "--out", "x", "--weights", "./x"], &["x would be written twice"]);
    is_refused(&[name, "--as-is"], &["--as-is is of --method sparsegpt"]);
    // What is known before the work: calibration is not looked at.
    let wanda = [name, "--method", "wanda", "--activations", name, "--out"];
    for nowhere in [&format!("{name}/m"), "/proc/m"] {
        is_refused(&[&wanda[..], &[nowhere]].concat(), &[nowhere, "cannot be written"]);
        is_refused(&[name, "--out", "y", "--weights", nowhere], &[nowhere, "cannot be written"]);
    }
    for damping in ["NaN", "inf", "-1"] {
        let damping = format!("--damping={damping}");
        is_refused(&[name, "--method", "sparsegpt", "--activations", name, &damping], &["--damping is", "finite"]);
    }
    is_refused(&["no-such-model.safetensors"], &["no-such-model.safetensors", "cannot be read"]);
    // NaN weights have no mask, and nothing is left behind.
    let mut values = weight(LAYERS[1].0, UP);
    values[20 + 5] = f32::NAN;
    save(&path, &[(LAYERS[1].0, vec![12, 20], values)]);
    is_refused(&[name], &["`layers.0.up.weight` has weights or activations that are NaN: group 1 of row 1"]);
    assert!(!path.with_file_name("model.masks.safetensors").exists());
    save(&path, &[("odd.weight", vec![3, 4], numbers(12, 1))]);
    is_refused(&[name, "--form", "maskllm"], &["3 x 4 weights are not a multiple of 8"]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    is_refused(&[name], &["cut short"]);
}
