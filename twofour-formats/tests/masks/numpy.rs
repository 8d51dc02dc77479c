//! Against NumPy: the files of `tests/data/masks`, which `numpy_check.py` wrote, and, where there is a Python with
//! NumPy, fresh ones and its opinion of those that Rust writes.

use crate::make;
use std::path::{Path, PathBuf};
use std::process::Command;
use twofour::Shape;
use twofour_formats::Error;
use twofour_formats::masks::{Form, Manifest, Mask, Masks, Shapes};

/// As in `numpy_check.py`.
const LAYERS: [(&str, Shape); 4] = [
    ("model.layers.0.mlp.up_proj.weight", Shape::new(16, 64)),
    ("model.layers.0.mlp.down_proj.weight", Shape::new(3, 8)),
    ("model.layers.0.self_attn.q_proj.weight", Shape::new(128, 352)),
    ("model.layers.1.empty.weight", Shape::new(0, 8)),
];
const ODD: [(&str, Shape); 2] =
    [("model.layers.1.odd.weight", Shape::new(5, 4)), ("model.layers.1.größe.weight", Shape::new(7, 12))];
const META: &str = r#"{"repo": "someone/a \"mask\"", "pattern": "2:4", "sparsity": 0.5, "note": "größe 😀"}"#;

fn all() -> Vec<(&'static str, Shape)> {
    [&LAYERS[..], &ODD].concat()
}

fn shapes() -> Shapes {
    all().into_iter().collect()
}

/// The mask that `numpy_check.py` makes of a layer.
fn made(name: &str, shape: Shape) -> Mask {
    make::of_patterns(shape, |group| ((group * 5 + group / 7 + name.chars().count()) % 6) as u8)
}

/// Every file of a folder that NumPy wrote is read, or refused.
fn is_read(folder: &Path) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 19, "{files:?}");
    let mut read = 0;
    for path in &files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let bytes = std::fs::read(path).unwrap();
        // From the disk and from memory alike.
        let both: [Masks<'_>; 2] = [Masks::from_bytes(&bytes).unwrap(), Masks::open(path).unwrap()];
        for masks in both {
            let masks = masks.with_shapes(shapes());
            match name.split(['-', '.']).next().unwrap() {
                "refused" => is_refused(name, &masks),
                kind => {
                    assert_eq!(masks.form().name(), kind, "{name}");
                    read += holds(&masks, name);
                }
            }
        }
    }
    // 7 archives without shapes, 2 with, 5 files of flags, 1 in base 6, each twice.
    assert_eq!(read, 2 * (6 * 4 + 6 + 2 * 6 + 5 * 5 + 6));
}

/// Every mask is that of its name. How many there are.
fn holds(masks: &Masks<'_>, file: &str) -> usize {
    let mut count = 0;
    for (name, shape) in all() {
        if masks.names().any(|known| known == name) {
            assert_eq!(masks.shape(name).unwrap(), shape, "{file}: {name}");
            assert_eq!(masks.read(name).unwrap(), made(name, shape), "{file}: {name}");
            count += 1;
        }
    }
    assert_eq!(masks.names().len(), count, "{file}");
    assert_eq!(masks.text().unwrap().as_deref(), (file == "patch").then_some(META));
    count
}

fn is_refused(file: &str, masks: &Masks<'_>) {
    let error = masks.read(LAYERS[0].0).unwrap_err();
    let words = match file {
        "refused-fortran" => "the array is in Fortran's order: save `numpy.ascontiguousarray`",
        "refused-floats" => "elements of type `<f4` are not supported",
        "refused-pickled" => "elements of type `|O` are not supported",
        // Bits 8 to 15 of row 2: groups 2 and 3.
        "refused-hybrid" => "group 2 of row 2 keeps 4 of 4 values: this is a hybrid mask with dense tiles",
        _ => panic!("{file}"),
    };
    assert!(matches!(error, Error::File { .. }) && error.to_string().contains(words), "{error}");
    assert!(error.to_string().contains(LAYERS[0].0), "{error}");
}

/// Writes every form, with the names that `numpy_check.py` reads.
fn write(folder: &Path) {
    for (file, form) in [("maskllm.npz", Form::MaskLlm), ("patch.npz", Form::Patch), ("flags.safetensors", Form::Flags)]
        .into_iter()
        .chain([("bools.safetensors", Form::Flags), ("base6.safetensors", Form::Base6)])
    {
        let layers = if form == Form::MaskLlm { LAYERS.to_vec() } else { all() };
        let mut manifest = Manifest::new(form);
        manifest.text(META);
        if file.starts_with("bools") {
            manifest.bools();
        }
        layers.iter().for_each(|(name, shape)| manifest.layer(name, *shape).unwrap());
        let fill = |file: &mut twofour_formats::masks::Writer<'_>| {
            layers.iter().try_for_each(|(name, shape)| file.mask(name, &made(name, *shape)))
        };
        manifest.save::<Error>(folder.join(file), fill).unwrap();
        let masks = Masks::open(folder.join(file)).unwrap().with_shapes(shapes());
        assert_eq!(masks.form(), form);
        assert_eq!(masks.names().len(), layers.len());
        assert!(layers.iter().all(|(name, shape)| masks.read(name).unwrap() == made(name, *shape)), "{file}");
    }
}

#[test]
fn files_that_numpy_wrote_once() {
    is_read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/masks"));
}

/// A Python with NumPy, or why there is none.
fn python() -> Result<PathBuf, String> {
    let python = std::env::var_os("TWOFOUR_NUMPY_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    match Command::new(&python).args(["-c", "import numpy"]).output() {
        Ok(output) if output.status.success() => Ok(python),
        Ok(_) => Err(format!("{} has no numpy", python.display())),
        Err(e) => Err(format!("{}: {e}", python.display())),
    }
}

#[test]
fn numpy_agrees() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            assert!(std::env::var_os("TWOFOUR_REQUIRE_NUMPY").is_none_or(|set| set != "1"), "{why}");
            println!("skipped: no NumPy ({why}); set TWOFOUR_NUMPY_PYTHON to a Python that has it");
            return;
        }
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/masks/numpy_check.py");
    let run = |what: &str, folder: &Path| {
        let output = Command::new(&python).arg(&script).arg(what).arg(folder).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{what}: {printed}{}", String::from_utf8_lossy(&output.stderr));
        printed
    };
    let [from, to] = ["from-numpy", "to-numpy"].map(|name| {
        let folder = make::path(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    });
    run("write", &from);
    is_read(&from);
    write(&to);
    let printed = run("read", &to);
    assert!(printed.starts_with("28 masks written by Rust are as they should be, bit for bit"), "{printed}");
    println!("{}", printed.trim_end());
}

/// Without NumPy: what is written can be read, and is what it was when NumPy last looked at it.
#[test]
fn what_is_written_is_what_numpy_read() {
    let folder = make::path("written");
    std::fs::create_dir(&folder).unwrap();
    write(&folder);
    // Tensors are laid out alike, so the bytes of the masks are the same.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/masks");
    for (file, of) in [("flags", "flags-u8"), ("bools", "flags-bool"), ("base6", "base6")] {
        let [ours, theirs] =
            [folder.join(file), golden.join(of)].map(|path| path.with_extension("safetensors")).map(|path| {
                let reader = twofour_formats::Reader::open(path).unwrap();
                let tensors: Vec<_> = reader.all_tensors().cloned().collect();
                let tensor = |name: &str| reader.tensor(name).unwrap().into_owned();
                tensors.iter().map(|t| (t.name().to_owned(), t.dtype(), t.shape().to_vec(), tensor(t.name()))).collect()
            }) as [Vec<_>; 2];
        assert!(theirs.iter().all(|tensor| ours.contains(tensor)), "{file}");
    }
}
