//! `compress` over models of one file and of shards.

use super::{command, file, is_refusal, printed};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use twofour::compress::{Compressed, Sparsity, convert};
use twofour::{E4m3, Element, Shape, bf16, f16};
use twofour_formats::{Error, Index, Manifest, Model, Reader, TensorType};

fn run(arguments: &[&str]) -> Output {
    command("compress").args(arguments).output().unwrap()
}

/// Runs it and returns what it printed.
#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    printed(&run(arguments), "are as they should be, bit for bit")
}

#[track_caller]
fn is_refused(arguments: &[&str], words: &[&str]) {
    is_refusal(&run(arguments), words);
}

/// Tensors of a model, of several types; some cannot be compressed, some are better not.
const TENSORS: [(&str, TensorType, &[usize]); 12] = [
    ("embed.weight", TensorType::Bf16, &[16, 8]),
    ("layers.0.up.weight", TensorType::Bf16, &[12, 20]),
    ("layers.0.up.bias", TensorType::Bf16, &[12]),
    ("layers.0.down.weight", TensorType::F16, &[20, 12]),
    ("layers.0.norm.weight", TensorType::F32, &[4, 4]),
    ("layers.1.up.weight", TensorType::F32, &[12, 20]),
    ("layers.1.down.weight", TensorType::F8E4m3, &[20, 12]),
    ("layers.1.odd.weight", TensorType::Bf16, &[12, 6]),
    ("layers.1.conv.weight", TensorType::Bf16, &[4, 4, 4]),
    ("layers.1.ids.weight", TensorType::I64, &[4, 4]),
    ("layers.1.empty.weight", TensorType::F16, &[0, 4]),
    ("lm_head.weight", TensorType::Bf16, &[16, 8]),
];
const LAYERS: [&str; 4] = ["layers.0.down.weight", "layers.0.up.weight", "layers.1.down.weight", "layers.1.up.weight"];

/// Bytes of a tensor: made up, no NaN among its values.
fn bytes(name: &str, dtype: TensorType, shape: &[usize]) -> Vec<u8> {
    let seed = name.bytes().map(usize::from).sum::<usize>();
    (0..dtype.bytes(shape).unwrap() as usize).map(|i| (((i + seed) * 40503) >> 5) as u8 & 0x37).collect()
}

/// A model of these tensors in a folder of its own.
fn model(name: &str) -> PathBuf {
    let folder = file(&format!("compress-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    save(&folder.join("model.safetensors"), &TENSORS);
    folder.join("model.safetensors")
}

fn save(path: &Path, tensors: &[(&str, TensorType, &[usize])]) {
    let mut manifest = Manifest::new();
    manifest.metadata("format", "pt").unwrap();
    tensors.iter().for_each(|(name, dtype, shape)| manifest.tensor(name, *dtype, shape).unwrap());
    let fill = |file: &mut twofour_formats::Writer<'_>| -> Result<(), Error> {
        tensors.iter().try_for_each(|(name, dtype, shape)| file.tensor(name, &bytes(name, *dtype, shape)))
    };
    manifest.save(path, fill).unwrap();
}

fn compressed(path: &Path) -> Vec<String> {
    Reader::open(path).unwrap().weights().map(|info| info.name().to_owned()).collect()
}

/// A layer of the new file is what the crate makes of the old one's.
fn is_compressed<T: Element + PartialEq>(old: &Reader<'_>, new: &Reader<'_>, name: &str) {
    let &[rows, cols] = old.tensor_info(name).unwrap().shape() else { panic!("{name}") };
    let dense = old.elements::<T>(name).unwrap();
    let expected = Compressed::by_magnitude(Shape::new(rows, cols), &dense).unwrap();
    assert_eq!(new.compressed::<T>(name).unwrap(), expected, "{name}");
}

#[test]
fn a_model_is_made_up() {
    let printed = succeeds(&[]);
    assert_eq!(printed.matches("14 layers; the model: ").count(), 2);
    assert_eq!(printed.matches("model.layers.0.mlp.up_proj.weight").count(), 2);
    assert!(
        printed.contains("24.00 KiB  13.50 KiB  8") && printed.contains("left dense: model.embed_tokens"),
        "{printed}"
    );
}

#[test]
fn layers_are_compressed_and_all_else_is_kept() {
    let path = model("plain");
    let printed = succeeds(&[path.to_str().unwrap()]);
    let out = path.with_file_name("model.twofour.safetensors");
    assert_eq!(compressed(&out), LAYERS);
    assert!(printed.contains("4 layers") && printed.contains(&out.display().to_string()), "{printed}");
    assert!(printed.contains("1:2") && printed.contains("e4m3"), "{printed}");

    let (old, new) = (Reader::open(&path).unwrap(), Reader::open(&out).unwrap());
    is_compressed::<f16>(&old, &new, LAYERS[0]);
    is_compressed::<bf16>(&old, &new, LAYERS[1]);
    is_compressed::<E4m3>(&old, &new, LAYERS[2]);
    is_compressed::<f32>(&old, &new, LAYERS[3]);
    assert_eq!(new.tensors().count(), TENSORS.len() - LAYERS.len());
    for tensor in new.tensors() {
        assert_eq!(tensor.shape(), old.tensor_info(tensor.name()).unwrap().shape());
        assert_eq!(new.tensor(tensor.name()).unwrap(), old.tensor(tensor.name()).unwrap(), "{}", tensor.name());
    }
    assert_eq!(new.metadata().collect::<Vec<_>>(), [("format", "pt")]);

    // The energy of one layer, by hand.
    let dense: Vec<f64> = old.elements::<f16>(LAYERS[0]).unwrap().iter().map(|value| value.to_f64()).collect();
    let largest = |group: &[f64]| {
        let mut squares: Vec<f64> = group.iter().map(|value| value * value).collect();
        squares.sort_by(f64::total_cmp);
        squares[2] + squares[3]
    };
    let share = dense.chunks(4).map(largest).sum::<f64>() / dense.iter().map(|value| value * value).sum::<f64>();
    let line = printed.lines().find(|line| line.starts_with(LAYERS[0])).unwrap();
    assert!(line.ends_with(&format!("{:.2} %", 100.0 * share)), "{share}: {line}");
    assert!(line.contains("20 x 12   f16   2:4") && line.contains("480 B") && line.contains("270 B"), "{line}");
}

#[test]
fn dense_again() {
    let path = model("dense");
    succeeds(&[path.to_str().unwrap()]);
    let compressed = path.with_file_name("model.twofour.safetensors");
    succeeds(&[compressed.to_str().unwrap(), "--decompress"]);
    let (old, new) =
        (Reader::open(&path).unwrap(), Reader::open(path.with_file_name("model.dense.safetensors")).unwrap());
    assert_eq!((new.weights().len(), new.tensors().count()), (0, TENSORS.len()));
    let dense = old.elements::<bf16>(LAYERS[1]).unwrap();
    let expected = Compressed::by_magnitude(Shape::new(12, 20), &dense).unwrap().decompress();
    assert_eq!(new.elements::<bf16>(LAYERS[1]).unwrap(), expected);
    assert_ne!(dense, expected);
    // The old format's checkpoints too.
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../twofour-formats/tests/data/weights/bitmask.safetensors");
    let out = path.with_file_name("from-bitmask.safetensors");
    let printed = succeeds(&[golden.to_str().unwrap(), "--decompress", "--out", out.to_str().unwrap()]);
    assert!(printed.contains("model.layers.0.mlp.up_proj.weight") && printed.contains("2 layers"), "{printed}");
    let (golden, dense) = (Reader::open(golden).unwrap(), Reader::open(out).unwrap());
    let name = "model.layers.0.mlp.up_proj.weight";
    let expected = golden.compressed::<bf16>(name).unwrap().decompress();
    assert_eq!(dense.elements::<bf16>(name).unwrap(), expected);
}

#[test]
fn layers_by_name() {
    let path = model("names");
    let path = path.to_str().unwrap();
    let out = file("compress-names.safetensors");
    let chosen = |arguments: &[&str]| {
        succeeds(&[&[path, "--out", out.to_str().unwrap()], arguments].concat());
        compressed(&out)
    };
    assert_eq!(chosen(&["--only", "*up*"]), [LAYERS[1], LAYERS[3]]);
    assert_eq!(chosen(&["--only", "layers.0.up.weight", "--only", "lm_*"]), [LAYERS[1], "lm_head.weight"]);
    let all = ["embed.weight", LAYERS[0], "layers.0.norm.weight", LAYERS[1], LAYERS[2], LAYERS[3], "lm_head.weight"];
    let mut all = all.map(str::to_owned);
    all.sort();
    assert_eq!(chosen(&["--all"]), all);
    is_refused(&[path, "--only", "up"], &["--include: the pattern up matches none of", "layers.0.up.weight"]);
    is_refused(
        &[path, "--only", "*odd*"],
        &["the pattern *odd* matches nothing that has a mask: layers.1.odd.weight [12 x 6] BF16: a row of"],
    );
    is_refused(&[path, "--all", "--only", "*"], &["--all"]);
}

#[test]
fn masks_that_are_given() {
    let path = model("codes");
    let path = path.to_str().unwrap();
    let (out, codes) = (file("compress-with-codes.safetensors"), file("compress-codes.safetensors"));
    let shape = Shape::new(12, 20);
    // The first two of each group, for one layer.
    let mut manifest = Manifest::new();
    manifest.tensor("layers.0.up.weight.codes", TensorType::U8, &[30]).unwrap();
    manifest.save::<Error>(&codes, |file| file.tensor("layers.0.up.weight.codes", &[0x44; 30])).unwrap();
    let arguments = [path, "--out", out.to_str().unwrap(), "--codes", codes.to_str().unwrap()];
    assert!(succeeds(&arguments).contains("1 layers"));
    assert_eq!(compressed(&out), [LAYERS[1]]);
    let weight = Reader::open(&out).unwrap().compressed::<bf16>(LAYERS[1]).unwrap();
    let mask: Vec<bool> = convert::mask_from_codes(Sparsity::of(weight.value_type()), shape, weight.codes()).unwrap();
    assert!(mask.iter().enumerate().all(|(i, &kept)| kept == (i % 4 < 2)));
    // What was compressed is a source of codes for the dense model.
    let again = file("compress-again.safetensors");
    let arguments = [path, "--out", again.to_str().unwrap(), "--codes", out.to_str().unwrap()];
    succeeds(&arguments);
    assert_eq!(fs::read(&again).unwrap(), fs::read(&out).unwrap());
    is_refused(&[&arguments[..], &["--only", "*down*"]].concat(), &["masks were given for none of"]);
    let over = [path, "--out", codes.to_str().unwrap(), "--codes", codes.to_str().unwrap()];
    is_refused(&over, &["compress-codes.safetensors would be written over"]);

    let wrong = |bytes: &[u8], words: &[&str]| {
        let mut manifest = Manifest::new();
        manifest.tensor("layers.0.up.weight.codes", TensorType::U8, &[bytes.len()]).unwrap();
        manifest.save::<Error>(&codes, |file| file.tensor("layers.0.up.weight.codes", bytes)).unwrap();
        is_refused(&[path, "--codes", codes.to_str().unwrap()], words);
        assert!(!Path::new(path).with_file_name("model.twofour.safetensors").exists());
    };
    wrong(&[0x44; 29], &["layers.0.up.weight do not fit", "29"]);
    wrong(&[0x54; 30], &["layers.0.up.weight do not fit", "group 1 of row 0 has code 0x5"]);
}

#[test]
fn shards() {
    let folder = file("compress-shards");
    let target = file("compress-shards-twofour");
    for folder in [&folder, &target] {
        let _ = fs::remove_dir_all(folder);
    }
    fs::create_dir(&folder).unwrap();
    let mut index = Index::new();
    let files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    for (name, tensors) in files.into_iter().zip(TENSORS.chunks(5)) {
        save(&folder.join(name), tensors);
        index.add(name, tensors.iter().map(|tensor| tensor.0), 0).unwrap();
    }
    // `chunks` leaves two tensors for a third shard, which this model does not have.
    index.save(folder.join("model.safetensors.index.json")).unwrap();
    let printed = succeeds(&[folder.to_str().unwrap()]);
    assert!(printed.contains("4 layers"), "{printed}");
    let model = Model::find(&target).unwrap();
    assert_eq!(model.files().collect::<Vec<_>>(), files);
    let (_, index) = model.index().unwrap();
    assert_eq!(index.file("layers.0.up.weight.codes"), Some(files[0]));
    assert_eq!(index.file("layers.1.up.weight.values"), Some(files[1]));
    assert_eq!((index.file("layers.1.up.weight"), index.file("embed.weight")), (None, Some(files[0])));
    let tensors = |reader: &Reader<'_>| reader.all_tensors().map(|tensor| tensor.bytes()).sum::<u64>();
    let bytes: u64 = files.into_iter().map(|file| tensors(&model.open(file).unwrap())).sum();
    assert_eq!(index.bytes(), bytes);
    succeeds(&[target.join("model.safetensors.index.json").to_str().unwrap(), "--decompress"]);
    let dense = Model::find(file("compress-shards-dense")).unwrap();
    assert!(dense.open(files[1]).unwrap().tensor_info("layers.1.up.weight").is_some());
    is_refused(&[folder.to_str().unwrap(), "--out", folder.to_str().unwrap()], &["would be written over"]);
    // A folder of shards is made, with those that it is in.
    let deep = file("compress-shards-deep");
    let _ = fs::remove_dir_all(&deep);
    succeeds(&[folder.to_str().unwrap(), "--out", deep.join("er/").to_str().unwrap()]);
    assert_eq!(Model::find(deep.join("er")).unwrap().files().count(), 2);
    fs::remove_file(folder.join(files[1])).unwrap();
    is_refused(&[folder.to_str().unwrap()], &[files[1], "cannot be read"]);
}

#[test]
fn models_that_are_wrong() {
    let path = model("wrong");
    let name = path.to_str().unwrap();
    is_refused(&[name, "--out", name], &["would be written over"]);
    let folder = path.parent().unwrap();
    is_refused(&[name, "--out", folder.to_str().unwrap()], &["is a folder, and a file is to be written"]);
    let missing = folder.join("none/model.safetensors");
    is_refused(&[name, "--out", missing.to_str().unwrap()], &["there is no folder", "none: make it first"]);
    is_refused(&[name, "--decompress"], &["nothing to decompress"]);
    is_refused(&["no-such-model.safetensors"], &["no-such-model.safetensors", "cannot be read"]);
    is_refused(&["--out", name], &["MODEL"]);
    succeeds(&[name]);
    let twofour = path.with_file_name("model.twofour.safetensors");
    is_refused(&[twofour.to_str().unwrap()], &["4 weights are compressed already", "--decompress"]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    is_refused(&[name], &["model.safetensors: ", "cut short"]);
    save(&path, &TENSORS[..1]);
    is_refused(&[name], &["nothing to compress: no linear layer among embed.weight"]);
    save(&path, &TENSORS[2..3]);
    is_refused(&[name], &["no tensors that have groups of four"]);
}
