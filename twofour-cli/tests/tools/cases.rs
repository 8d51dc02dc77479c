//! What users reported, and others of the kind, as they meet it: each test is named after its report.

use super::make::{folder, is_refused, numbers, run, save, succeeds};
use std::fs;
use std::path::Path;
use twofour::bf16;
use twofour_formats::masks::Masks;
use twofour_formats::{Index, Model, Reader, TensorType};

pub(crate) const LAYERS: [&str; 2] = ["experts.0.w1.weight", "experts.1.w1.weight"];

fn experts(folder: &Path) {
    let of = |(seed, name)| (name, TensorType::F32, vec![8, 16], numbers(128, seed));
    save(&folder.join("model.safetensors"), &[of((1, LAYERS[0])), of((2, LAYERS[1]))]);
}

/// Inputs of both layers, each column times a number.
fn calibrate(folder: &Path, columns: [&dyn Fn(usize) -> f32; 2]) {
    let of = |layer: usize| {
        let values = numbers(40 * 16, layer + 5).into_iter().enumerate();
        let values = values.map(|(i, x)| x * columns[layer](i % 16)).collect();
        (LAYERS[layer], TensorType::F32, vec![40, 16], values)
    };
    save(&folder.join("act.safetensors"), &[of(0), of(1)]);
}

/// The methods that look at inputs.
const METHODS: &[&str] = &["wanda", "sparsegpt"];

/// A layer that met no token; whichever layer it is, nothing is written.
#[test]
fn zeroed_expert() {
    let folder = folder("zeroed-expert");
    experts(&folder);
    for (method, empty) in METHODS.iter().flat_map(|method| [0, 1].map(|empty| (method, empty))) {
        let arguments =
            format!("model.safetensors --method {method} --activations act.safetensors --out m --weights w");
        let columns: [&dyn Fn(usize) -> f32; 2] = if empty == 0 { [&|_| 0.0, &|_| 1.0] } else { [&|_| 1.0, &|_| 0.0] };
        calibrate(&folder, columns);
        let words = [LAYERS[empty], "saw no input in calibration", "--exclude", "act.safetensors"];
        is_refused("prune", &folder, &arguments, &words);
        succeeds("prune", &folder, &format!("{arguments} --exclude {}", LAYERS[empty]));
        for file in ["m", "w"] {
            fs::remove_file(folder.join(file)).unwrap();
        }
        // No tokens at all; sums and Hessians of them.
        let of = |name: String, shape: &[usize], value: f32| {
            (name, shape.to_vec(), vec![value; shape.iter().product::<usize>()])
        };
        let files = [
            [of(LAYERS[0].into(), &[0, 16], 0.0), of(LAYERS[1].into(), &[3, 16], 1.0)],
            [
                of(format!("{}.hessian", LAYERS[0]), &[16, 16], 0.0),
                of(format!("{}.hessian", LAYERS[1]), &[16, 16], 1.0),
            ],
        ];
        for tensors in files {
            let tensors: Vec<_> = tensors
                .iter()
                .map(|(name, shape, v)| (name.as_str(), TensorType::F32, shape.clone(), v.clone()))
                .collect();
            save(&folder.join("act.safetensors"), &tensors);
            is_refused("prune", &folder, &arguments, &[LAYERS[0], "saw no input in calibration"]);
        }
        // Some columns that saw nothing: magnitude chooses among them, and it is said.
        calibrate(&folder, [&|column| f32::from(u8::from(column > 5)), &|_| 1.0]);
        let printed = succeeds("prune", &folder, &arguments);
        let said = format!("{}: 6 of 16 columns saw no input, and magnitude chose among them", LAYERS[0]);
        assert!(printed.contains(&said) && printed.matches("saw no input").count() == 1, "{printed}");
        let mask: Vec<bool> = Masks::open(folder.join("m")).unwrap().read(LAYERS[0]).unwrap().flags().unwrap();
        for (four, kept) in numbers(128, 1).chunks(4).zip(mask.chunks(4)).step_by(4) {
            let least = (0..4).filter(|&j| kept[j]).map(|j| four[j].abs()).fold(f32::INFINITY, f32::min);
            assert!((0..4).filter(|&j| !kept[j]).all(|j| four[j].abs() <= least), "{four:?} {kept:?}");
        }
        for file in ["m", "w"] {
            fs::remove_file(folder.join(file)).unwrap();
        }
    }
}

/// Norms and Hessians that nothing can have been: found for the last layer before the first is worked on.
#[test]
fn calibration_that_is_none() {
    let folder = folder("calibration");
    experts(&folder);
    let refuses = |method: &str, kind: &str, shape: &[usize], values: Vec<f32>, words: &[&str]| {
        let right: Vec<f32> = match shape.len() {
            1 => vec![1.0; 16],
            _ => (0..256).map(|i| if i % 17 == 0 { 1.0 } else { 0.1 }).collect(),
        };
        let names = LAYERS.map(|layer| format!("{layer}{kind}"));
        let tensors = [(&names[0], right), (&names[1], values)];
        let tensors = tensors.map(|(name, values)| (name.as_str(), TensorType::F32, shape.to_vec(), values));
        save(&folder.join("act.safetensors"), &tensors);
        let arguments = format!("model.safetensors --method {method} --activations act.safetensors --out m");
        is_refused("prune", &folder, &arguments, &[&[LAYERS[1]], words].concat());
    };
    for wild in [f32::NAN, f32::INFINITY, -1.0] {
        let squares = (0..16).map(|j| if j == 3 { wild } else { 1.0 }).collect();
        refuses("wanda", ".squares", &[16], squares, &["at column 3: it must be finite and not negative"]);
    }
    for method in METHODS {
        let hessian = |of: &dyn Fn(usize, usize) -> f32| (0..256).map(|i| of(i / 16, i % 16)).collect::<Vec<f32>>();
        let refuses = |of: &dyn Fn(usize, usize) -> f32, words: &str| {
            refuses(method, ".hessian", &[16, 16], hessian(of), &[words]);
        };
        refuses(&|r, c| if r >= c { 1.0 / (1 + r - c) as f32 } else { 0.0 }, "not symmetric");
        refuses(
            &|r, c| {
                if r == c && r != 4 {
                    1.0
                } else if r == c {
                    0.0
                } else {
                    0.1
                }
            },
            "no sum of products",
        );
        refuses(&|r, c| if r == c { -1.0 } else { 0.0 }, "the Hessian's diagonal is -1 at column 0");
        refuses(&|r, c| if r == c { 1.0 } else { f32::NAN }, "finite");
    }
}

/// `f32` weights that are 2:4 lose nothing without a word.
#[test]
fn f32_already_24() {
    let folder = folder("f32-already-24");
    let model = |dtype| {
        let mut values = numbers(128, 3);
        values.iter_mut().enumerate().filter(|(i, _)| i % 4 > 1).for_each(|(_, value)| *value = 0.0);
        let dense = ("a.weight", dtype, vec![8, 16], numbers(128, 4));
        save(&folder.join("model.safetensors"), &[dense, ("q.weight", dtype, vec![8, 16], values)]);
    };
    model(TensorType::F32);
    let words = ["q.weight", "2:4 already", "group 0 of row 0", "Convert it to bf16 or f16"];
    is_refused("compress", &folder, "model.safetensors --out out", &words);
    model(TensorType::Bf16);
    let printed = succeeds("compress", &folder, "model.safetensors --out out");
    let line = printed.lines().find(|line| line.starts_with("q.weight")).unwrap();
    assert!(line.ends_with("100.00 %"), "{line}");
}

/// Shards: `b` is in both, and `old` is listed nowhere.
fn shards(folder: &Path, other: &[usize], of_b: usize) {
    let files = [1, 2].map(|number| format!("model-0000{number}-of-00002.safetensors"));
    let tensor = |name, value: f32, shape: &[usize]| {
        (name, TensorType::Bf16, shape.to_vec(), vec![value; shape.iter().product()])
    };
    let [first, second] = [of_b == 1, of_b == 2].map(|counts| if counts { &[4, 8] } else { other });
    save(&folder.join(&files[0]), &[tensor("a.weight", 3.0, &[4, 8]), tensor("b.weight", 1.0, first)]);
    let old = tensor("old.weight", 9.0, &[4, 8]);
    save(&folder.join(&files[1]), &[tensor("b.weight", -7.0, second), tensor("c.weight", 5.0, &[4, 8]), old]);
    let mut index = Index::new();
    index.add(&files[0], ["a.weight"], 64).unwrap();
    index.add(&files[of_b - 1], ["b.weight"], 64).unwrap();
    index.add(&files[1], ["c.weight"], 64).unwrap();
    index.save(folder.join("model.safetensors.index.json")).unwrap();
}

/// The index decides which copy of a tensor counts.
#[test]
fn shard_wrong_copy() {
    let folder = folder("shard-wrong-copy");
    let model = folder.join("model");
    fs::create_dir(&model).unwrap();
    for (of_b, value) in [(1, 1.0), (2, -7.0)] {
        shards(&model, &[4, 8], of_b);
        for (name, arguments) in [("compress", "model --out out"), ("prune", "model --out masks --weights out")] {
            let printed = succeeds(name, &folder, arguments);
            assert!(
                printed.contains("left out: b.weight in") && printed.contains("left out: old.weight in"),
                "{printed}"
            );
            let out = Model::find(folder.join("out")).unwrap();
            let file = format!("model-0000{of_b}-of-00002.safetensors");
            let (_, index) = out.index().unwrap();
            let [name, old] = match name {
                "prune" => ["b.weight", "old.weight"],
                _ => ["b.weight.values", "old.weight.values"],
            };
            assert_eq!((index.file(name), index.file(old)), (Some(file.as_str()), None));
            let readers = out.open_all().unwrap();
            assert!(readers.iter().all(|(_, reader)| reader.left_out().len() == 0));
            let reader = Reader::open(folder.join("out").join(&file)).unwrap();
            let values = reader.elements::<bf16>(name).unwrap();
            assert!(
                values.iter().all(|v| v.to_f32() == value || v.to_f32() == 0.0) && values.len() >= 16,
                "{values:?}"
            );
            fs::remove_dir_all(folder.join("out")).unwrap();
        }
        assert_eq!(Masks::open(folder.join("masks")).unwrap().names().len(), 3);
        fs::remove_file(folder.join("masks")).unwrap();
        // A copy of another shape is of another model: it names both files.
        shards(&model, &[8, 16], of_b);
        let words = ["`b.weight`", "model-00001-of-00002", "model-00002-of-00002", "[4, 8]", "[8, 16]"];
        is_refused("compress", &folder, "model --out out", &words);
        is_refused("prune", &folder, "model --out masks --weights out", &words);
    }
    // What is wrong in the last layer leaves nothing of the first.
    shards(&model, &[4, 8], 1);
    let last = model.join("model-00002-of-00002.safetensors");
    save(&last, &[("c.weight", TensorType::Bf16, vec![4, 8], vec![f32::NAN; 32])]);
    is_refused("prune", &folder, "model --out masks --weights out", &["c.weight", "NaN"]);
}

/// What is no regular file is left alone, before any work.
#[cfg(unix)]
#[test]
fn out_special_file() {
    use std::os::unix::fs::FileTypeExt;
    let folder = folder("out-special-file");
    experts(&folder);
    let made = std::process::Command::new("mkfifo").arg(folder.join("fifo")).status().unwrap();
    assert!(made.success());
    std::os::unix::fs::symlink("fifo", folder.join("link")).unwrap();
    for out in ["fifo", "link"] {
        let words = [out, "it is a FIFO, and only regular files are replaced"];
        is_refused("prune", &folder, &format!("model.safetensors --out {out}"), &words);
        is_refused("prune", &folder, &format!("model.safetensors --form patch --out {out}"), &words);
        is_refused("prune", &folder, &format!("model.safetensors --out m --weights {out}"), &words);
        is_refused("compress", &folder, &format!("model.safetensors --out {out}"), &words);
        assert!(fs::metadata(folder.join(out)).unwrap().file_type().is_fifo());
    }
    // And as a file that is read it is not waited for.
    is_refused("prune", &folder, "fifo --out m", &["fifo", "is not a file"]);
}

/// Columns that are nearly the same and weights near the end of their type.
#[test]
fn f16_update_overflow() {
    let folder = folder("f16-update-overflow");
    for (dtype, largest) in [(TensorType::F16, 65_504.0), (TensorType::Bf16, 3.3e38), (TensorType::F32, 3.3e38)] {
        let weight = numbers(128, 1).iter().map(|w| largest * (0.9 + 0.05 * w)).collect();
        let small = (0..128).map(|i| (1 + i % 7) as f32).collect();
        let tensors = [("a.weight", dtype, vec![8, 16], small), ("b.weight", dtype, vec![8, 16], weight)];
        save(&folder.join("model.safetensors"), &tensors);
        let alike: Vec<f32> =
            numbers(40 * 16, 2).iter().enumerate().map(|(i, x)| (i / 16) as f32 - 20.0 + 0.01 * x).collect();
        let inputs = ["a.weight", "b.weight"].map(|name| (name, TensorType::F32, vec![40, 16], alike.clone()));
        save(&folder.join("act.safetensors"), &inputs);
        let arguments =
            "model.safetensors --method sparsegpt --damping 0.0001 --activations act.safetensors --out m --weights w";
        let words = ["`b.weight`", "left the range of", &dtype.name().to_lowercase()];
        is_refused("prune", &folder, arguments, &words);
    }
}

/// What was made before a failure is kept where that was asked for, and the run goes on from there.
#[test]
fn a_failure_keeps_what_was_done() {
    let folder = folder("kept");
    experts(&folder);
    calibrate(&folder, [&|_| 1.0, &|_| 1.0]);
    let sound = fs::read(folder.join("model.safetensors")).unwrap();
    let arguments = "model.safetensors --method sparsegpt --activations act.safetensors --out m --weights w";
    succeeds("prune", &folder, arguments);
    let expected = ["m", "w"].map(|file| fs::read(folder.join(file)).unwrap());
    // A NaN in the second layer.
    let mut values = numbers(128, 2);
    values[77] = f32::NAN;
    let of = |name, values| (name, TensorType::F32, vec![8, 16], values);
    save(&folder.join("model.safetensors"), &[of(LAYERS[0], numbers(128, 1)), of(LAYERS[1], values)]);
    let kept = format!("{arguments} --keep kept");
    let (code, printed) = run("prune", &folder, &kept);
    assert_eq!(code, Some(2), "{printed}");
    assert!(
        printed.contains(LAYERS[1]) && printed.contains("NaN") && printed.contains("are kept in kept"),
        "{printed}"
    );
    let of_kept = || fs::read_dir(folder.join("kept")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(of_kept().len(), 1);
    // It goes on: what is there is not made again, which is seen by changing it under its name.
    fs::write(folder.join("model.safetensors"), &sound).unwrap();
    let file = &of_kept()[0];
    let mut bytes = fs::read(file).unwrap();
    let updated = bytes.len() - 128 * 4;
    let place = bytes[updated..].iter().position(|&byte| byte == 0x3f).unwrap() + updated;
    bytes[place] = 0x40;
    fs::write(file, &bytes).unwrap();
    succeeds("prune", &folder, &kept);
    assert!(!folder.join("kept").exists());
    let [m, w] = ["m", "w"].map(|file| fs::read(folder.join(file)).unwrap());
    assert_eq!(m, expected[0]);
    assert_eq!(w.iter().zip(&expected[1]).filter(|(a, b)| a != b).count(), 1);
    // Of another weight or by another method it is made again, and what is no result is none.
    for (wrong, other) in [(&bytes[..], " --damping 0.02"), (&bytes[..100], ""), (b"x", "")] {
        fs::create_dir(folder.join("kept")).unwrap();
        fs::write(file, wrong).unwrap();
        succeeds("prune", &folder, &format!("{kept}{other}"));
        let same = fs::read(folder.join("w")).unwrap() == expected[1];
        assert_eq!(same, other.is_empty());
    }
    save(&folder.join("model.safetensors"), &[of(LAYERS[0], numbers(128, 8)), of(LAYERS[1], numbers(128, 2))]);
    succeeds("prune", &folder, arguments);
    let expected = fs::read(folder.join("w")).unwrap();
    fs::create_dir(folder.join("kept")).unwrap();
    fs::write(file, &bytes).unwrap();
    succeeds("prune", &folder, &kept);
    assert_eq!(fs::read(folder.join("w")).unwrap(), expected);
}

/// A Hessian of 4 TiB is an error, before anything is worked on.
#[test]
fn huge_hessian() {
    let folder = folder("huge-hessian");
    let wide = 1 << 20;
    let tensor = |name, rows, cols| (name, TensorType::F32, vec![rows, cols], numbers(rows * cols, 1));
    save(&folder.join("model.safetensors"), &[tensor("a.weight", 8, 16), tensor("b.weight", 1, wide)]);
    save(&folder.join("act.safetensors"), &[tensor("a.weight", 40, 16), tensor("b.weight", 1, wide)]);
    let arguments = "model.safetensors --method sparsegpt --activations act.safetensors --out m";
    let words = ["`b.weight`", "there is no memory for the Hessian, 4398046511104 bytes"];
    is_refused("prune", &folder, arguments, &words);
    succeeds("prune", &folder, &arguments.replace("sparsegpt", "wanda"));
}
