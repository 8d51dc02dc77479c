//! Where files are written to and read from: what is there already, shards, and errors that name the file.

use std::fs;
use std::path::{Path, PathBuf};
use twofour::compress::Compressed;
use twofour::{DType, Shape, bf16};
use twofour_formats::masks::{Form, Mask, Masks};
use twofour_formats::{Error, Index, Manifest, Model, Reader, Result, Staged, TensorType, masks, state};

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("places-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    folder
}

const SHAPE: Shape = Shape::new(4, 8);

/// A kind of file, and what writes one to a path.
type Kind = (&'static str, Box<dyn Fn(&Path) -> Result<()>>);

/// Every kind of file.
fn every_kind() -> Vec<Kind> {
    let dense: Vec<bf16> = (0..32).map(|i| bf16::from_f32(i as f32)).collect();
    let weights = move |path: &Path| {
        let mut manifest = Manifest::new();
        manifest.weight("w", DType::Bf16, SHAPE)?;
        manifest.save(path, |file| file.weight("w", &Compressed::by_magnitude(SHAPE, &dense)?))
    };
    let of_form = |form| {
        move |path: &Path| {
            let mut manifest = masks::Manifest::new(form);
            manifest.layer("w", SHAPE)?;
            manifest.save(path, |file| file.mask("w", &Mask::new(SHAPE, vec![0x44; 4])?))
        }
    };
    let run = state::Run { step: 1, seed: 2, recipe: None, caller: None };
    let of_run = move |path: &Path| {
        let mut manifest = state::Manifest::new(&run)?;
        manifest.layer("w", SHAPE, DType::F32, false)?;
        let six = vec![0.5_f32; SHAPE.logits()];
        manifest.save(path, |file| {
            let moments = state::Moments::F32 { m: six.as_slice().into(), v: six.as_slice().into() };
            file.layer("w", &six, &moments)
        })
    };
    let index = |path: &Path| {
        let mut index = Index::new();
        index.add("a.safetensors", ["w"], 64)?;
        index.save(path)
    };
    let mut all: Vec<Kind> = vec![
        ("weights", Box::new(weights)),
        ("base6", Box::new(of_form(Form::Base6))),
        ("flags", Box::new(of_form(Form::Flags))),
        ("state", Box::new(of_run)),
        ("index", Box::new(index)),
    ];
    if cfg!(feature = "npz") {
        all.push(("patch", Box::new(of_form(Form::Patch))));
    }
    all
}

/// A save onto what is no regular file is an error and leaves it as it is; permissions and links are kept.
#[cfg(unix)]
#[test]
fn out_special_file() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    let folder = folder("special");
    let at = |name: &str| folder.join(name);
    assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    let _socket = UnixListener::bind(at("socket")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::create_dir(at("elsewhere")).unwrap();
    symlink("fifo", at("to-fifo")).unwrap();
    symlink("loop", at("loop")).unwrap();
    let count = || fs::read_dir(&folder).unwrap().count();
    for (kind, save) in every_kind() {
        for (name, what) in [("fifo", "a FIFO"), ("to-fifo", "a FIFO"), ("socket", "a socket"), ("folder", "a folder")]
        {
            let (before, error) = (count(), save(&at(name)).unwrap_err().to_string());
            assert!(error.contains(name) && error.contains(&format!("it is {what}, and only")), "{kind}: {error}");
            assert_eq!(count(), before, "{kind}");
        }
        assert!(save(&at("loop")).is_err());
        assert!(fs::symlink_metadata(at("fifo")).unwrap().file_type().is_fifo());
        assert!(fs::symlink_metadata(at("socket")).unwrap().file_type().is_socket());
        // Of a link, what it leads to is written, in its own folder: there already or not, and by a link to a link.
        let (target, link, second) = (at("elsewhere").join(kind), at(&format!("{kind}-1")), at(&format!("{kind}-2")));
        symlink(Path::new("elsewhere").join(kind), &link).unwrap();
        symlink(&link, &second).unwrap();
        for path in [&link, &second, &target] {
            save(path).unwrap();
            assert!(
                fs::symlink_metadata(&link).unwrap().is_symlink()
                    && fs::symlink_metadata(&second).unwrap().is_symlink()
            );
            let written = fs::read(&target).unwrap();
            assert!(fs::symlink_metadata(&target).unwrap().is_file() && written.len() > 8);
            // What was there is replaced, and not written over.
            fs::write(&target, "old").unwrap();
            for mode in [0o600, 0o640, 0o444] {
                fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
                fs::hard_link(&target, at("kept")).unwrap();
                save(path).unwrap();
                assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, mode, "{kind}");
                assert_eq!(fs::read(&target).unwrap(), written);
                assert_ne!(fs::read(at("kept")).unwrap(), written[..3]);
                fs::remove_file(at("kept")).unwrap();
            }
            fs::remove_file(&target).unwrap();
        }
        assert_eq!(fs::read_dir(at("elsewhere")).unwrap().count(), 0, "nothing is left beside");
    }
}

/// Staged files take their places when they are told to; what is not committed is gone.
#[test]
fn staged_files_wait() {
    let folder = folder("staged");
    let mut manifest = Manifest::new();
    manifest.tensor("a", TensorType::U8, &[4]).unwrap();
    let stage = || manifest.stage::<Error>(folder.join("a"), |file| file.tensor("a", &[1; 4])).unwrap();
    fs::write(folder.join("a"), "old").unwrap();
    drop(stage());
    assert_eq!((fs::read(folder.join("a")).unwrap(), fs::read_dir(&folder).unwrap().count()), (b"old".to_vec(), 1));
    let staged = stage();
    assert_eq!((fs::read(folder.join("a")).unwrap(), fs::read_dir(&folder).unwrap().count()), (b"old".to_vec(), 2));
    staged.commit().unwrap();
    assert_eq!(&*Reader::open(folder.join("a")).unwrap().tensor("a").unwrap(), [1; 4]);
    let bytes = fs::read(folder.join("a")).unwrap();
    Staged::of_bytes(folder.join("a"), b"new").unwrap().commit().unwrap();
    assert_eq!(fs::read(folder.join("a")).unwrap(), b"new");
    drop(Staged::of_bytes(folder.join("a"), &bytes).unwrap());
    assert_eq!((fs::read(folder.join("a")).unwrap(), fs::read_dir(&folder).unwrap().count()), (b"new".to_vec(), 1));
    let error = Staged::of_bytes(folder.join("none/a"), &bytes).unwrap_err().to_string();
    assert!(error.contains("none/a") && error.contains("cannot be written"), "{error}");
    // A folder that has come there meanwhile.
    let staged = stage();
    fs::remove_file(folder.join("a")).unwrap();
    fs::create_dir(folder.join("a")).unwrap();
    let error = staged.commit().unwrap_err().to_string();
    assert!(error.contains("it is a folder"), "{error}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

/// The index decides which copy counts, of compressed weights too.
#[test]
fn shard_wrong_copy() {
    let folder = folder("shards");
    let of = |sign: f32| {
        let dense: Vec<bf16> = (0..32).map(|i| bf16::from_f32(sign * (1 + i) as f32)).collect();
        Compressed::by_magnitude(SHAPE, &dense).unwrap()
    };
    for (file, sign) in [("1.safetensors", 1.0), ("2.safetensors", -1.0)] {
        let mut manifest = Manifest::new();
        manifest.weight("w", DType::Bf16, SHAPE).unwrap();
        manifest.tensor("b", TensorType::U8, &[2]).unwrap();
        let fill = |to: &mut twofour_formats::Writer<'_>| {
            to.weight("w", &of(sign))?;
            to.tensor("b", &[sign as i8 as u8; 2])
        };
        manifest.save::<Error>(folder.join(file), fill).unwrap();
    }
    let mut index = Index::new();
    index.add("2.safetensors", ["w.values", "w.codes"], 1).unwrap();
    index.add("1.safetensors", ["b"], 1).unwrap();
    let twice = index.add("2.safetensors", ["b"], 1).unwrap_err().to_string();
    assert!(twice.contains("`b` is in 1.safetensors and in 2.safetensors"), "{twice}");
    let mut index = Index::new();
    index.add("2.safetensors", ["w.values", "w.codes"], 1).unwrap();
    index.add("1.safetensors", ["b"], 1).unwrap();
    index.save(folder.join("model.safetensors.index.json")).unwrap();
    let model = Model::find(&folder).unwrap();
    let readers = model.open_all().unwrap();
    let [(_, first), (_, second)] = readers.as_slice() else { panic!("two files") };
    assert_eq!((first.weights().len(), second.weights().len()), (0, 1));
    assert_eq!(second.compressed::<bf16>("w").unwrap(), of(-1.0));
    assert!(second.tensor("b").is_err() && first.tensor("w.codes").is_err());
    assert_eq!(&*first.tensor("b").unwrap(), [1; 2]);
    let out: Vec<_> = first.left_out().map(twofour_formats::TensorInfo::name).collect();
    assert_eq!(out, ["w.codes", "w.values"]);
    // The whole file, by its own name, is another matter.
    assert_eq!(Reader::open(model.path("1.safetensors")).unwrap().weights().len(), 1);
    // A copy of another shape.
    let mut manifest = Manifest::new();
    manifest.tensor("w.codes", TensorType::U8, &[5]).unwrap();
    manifest.tensor("b", TensorType::U8, &[2]).unwrap();
    let fill = |to: &mut twofour_formats::Writer<'_>| to.tensor("w.codes", &[0; 5]).and(to.tensor("b", &[0; 2]));
    manifest.save::<Error>(folder.join("1.safetensors"), fill).unwrap();
    let error = Model::find(&folder).unwrap().open_all().unwrap_err().to_string();
    for word in ["`w.codes`", "U8 [4] in 2.safetensors", "U8 [5] in 1.safetensors", "index.json"] {
        assert!(error.contains(word), "no `{word}` in: {error}");
    }
}

/// Wherever a file is cut short, the error says which file it is.
#[test]
fn a_truncated_file_is_named() {
    let folder = folder("truncated");
    for (kind, save) in every_kind() {
        let path = folder.join(format!("{kind}.cut"));
        save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        let read = |path: &Path| -> Result<()> {
            match kind {
                "state" => state::Reader::open(path)?.moments("w").map(drop),
                "index" => Index::open(path).map(drop),
                "weights" => Reader::open(path)?.weight("w").map(drop),
                _ => Masks::open(path)?.read("w").map(drop),
            }
        };
        read(&path).unwrap();
        for length in (0..whole.len() - 2).step_by(7).chain([whole.len() - 2]) {
            fs::write(&path, &whole[..length]).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("{kind}.cut")), "{kind} of {length} bytes: {error}");
        }
    }
}
