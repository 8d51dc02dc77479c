//! The writer: what it refuses, and that a file is there whole or as it was.

use crate::make;
use std::path::Path;
use twofour::Shape;
use twofour_formats::Error;
use twofour_formats::masks::{Form, Manifest, Masks, Writer};

const SHAPE: Shape = Shape::new(4, 8);

fn manifest(form: Form) -> Manifest {
    let mut manifest = Manifest::new(form);
    manifest.layer("v", SHAPE).unwrap();
    manifest.layer("w", SHAPE).unwrap();
    manifest
}

fn fill(file: &mut Writer<'_>) -> Result<(), Error> {
    ["w", "v"].iter().try_for_each(|name| file.mask(name, &make::random(SHAPE, 1)))
}

#[test]
fn what_was_not_planned() {
    for form in Form::ALL {
        let refuses = |words: &str, fill: &dyn Fn(&mut Writer<'_>) -> Result<(), Error>| {
            let error = manifest(form).to_bytes(fill).unwrap_err().to_string();
            assert!(error.contains(" bytes: ") && error.contains(words), "{form}: {error}");
        };
        let mask = make::random(SHAPE, 1);
        refuses("mask `x` was not planned", &|file| file.mask("x", &mask));
        refuses("mask `v` was written before", &|file| file.mask("v", &mask).and_then(|()| file.mask("v", &mask)));
        let other = make::random(Shape::new(8, 4), 1);
        refuses("mask `v` is 8 x 4, and 4 x 8 was planned", &|file| file.mask("v", &other));
        refuses("2 planned masks were not written, `v` the first", &|_| Ok(()));
        refuses("1 planned masks were not written, `w` the first", &|file| file.mask("v", &mask));
        refuses("1 planned masks were not written, `w` the first", &|file| {
            assert!(file.mask("v", &other).is_err() && file.mask("v", &mask).is_ok());
            Ok(())
        });
    }
}

#[test]
fn what_a_form_cannot_hold() {
    for form in Form::ALL {
        let mut manifest = manifest(form);
        let mut fails = |name: &str, shape: Shape, words: &str| match manifest.layer(name, shape) {
            Ok(()) => assert!(words.is_empty(), "{form}: {name}"),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    !words.is_empty() && error.contains(words) && error.starts_with("the planned file: "),
                    "{error}"
                );
            }
        };
        fails("v", SHAPE, "mask `v`: is there already");
        let eight = "3 x 4 weights are not a multiple of 8, and MaskLLM's reader unpacks bytes of 8";
        fails("odd", Shape::new(3, 4), if form == Form::MaskLlm { eight } else { "" });
        let other = if form == Form::Patch { "means something else" } else { "" };
        fails("__meta__", SHAPE, other);
        fails("x.__shape__", SHAPE, other);
        assert!(matches!(manifest.layer("x", Shape::new(4, 6)), Err(Error::Core(twofour::Error::NotGrouped { .. }))));
        assert!(matches!(
            manifest.layer("x", Shape::new(usize::MAX, 8)),
            Err(Error::Core(twofour::Error::Overflow { .. }))
        ));
        assert_eq!(
            manifest.layers().count(),
            if form == Form::MaskLlm {
                4
            } else if form == Form::Patch {
                3
            } else {
                5
            }
        );
    }
}

/// Names that an archive would hold wrongly, so that masks are lost or are another weight's.
#[test]
fn names_that_archives_cannot_hold() {
    for form in Form::ALL {
        for name in ["n".repeat(70_000), "w\0x".into()] {
            let layer = Manifest::new(form).layer(&name, SHAPE).map_err(|error| error.to_string());
            match form {
                Form::MaskLlm | Form::Patch => assert!(layer.unwrap_err().contains("too long for an archive")),
                _ => assert_eq!(layer, Ok(())),
            }
        }
        let long = "n".repeat(65_000);
        let mut manifest = Manifest::new(form);
        manifest.layer(&long, SHAPE).unwrap();
        let mask = make::random(SHAPE, 1);
        let bytes = manifest.to_bytes::<Error>(|file| file.mask(&long, &mask)).unwrap();
        let masks = Masks::from_bytes(&bytes).unwrap().with_shapes([(long.as_str(), SHAPE)].into_iter().collect());
        assert_eq!(masks.read(&long), Ok(mask), "{form}");
    }
}

/// What is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    for form in Form::ALL {
        let folder = make::path(&format!("failed-{form}"));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("masks");
        std::fs::write(&path, "old").unwrap();
        let is_old = || {
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
            assert_eq!(names(&folder), ["masks"]);
        };
        let missing = manifest(form).save::<Error>(&path, |file| file.mask("v", &make::random(SHAPE, 1))).unwrap_err();
        assert!(missing.to_string().starts_with(&path.display().to_string()), "{missing}");
        is_old();
        let panicked =
            std::panic::catch_unwind(|| manifest(form).save::<Error>(&path, |_| panic!("while it is written")));
        assert!(panicked.is_err());
        is_old();
        // A file may be made of the one that it replaces.
        manifest(form).save(&path, fill).unwrap();
        let shapes = [("v", SHAPE), ("w", SHAPE)].into_iter().collect();
        let old = Masks::open(&path).unwrap().with_shapes(shapes);
        manifest(form)
            .save::<Error>(&path, |file| {
                assert_eq!(names(&folder).len(), 2);
                ["v", "w"].iter().try_for_each(|name| file.mask(name, &old.read(name)?))
            })
            .unwrap();
        assert_eq!(names(&folder), ["masks"]);
        let missing = manifest(form).save(folder.join("no/such/folder"), fill).unwrap_err().to_string();
        assert!(missing.contains("cannot be written"), "{missing}");
        std::fs::create_dir_all(folder.join("folder/inside")).unwrap();
        assert!(
            manifest(form).save(folder.join("folder"), fill).unwrap_err().to_string().contains("cannot be written")
        );
    }
}

#[test]
fn the_same_masks_make_the_same_bytes() {
    for form in Form::ALL {
        let bytes = manifest(form).to_bytes(fill).unwrap();
        assert_eq!(bytes, manifest(form).to_bytes(fill).unwrap());
        let path = make::path(&format!("same-{form}"));
        manifest(form).save(&path, fill).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

/// What a full disk does: writing fails half way, says so once, and nothing else.
#[cfg(target_os = "linux")]
#[test]
fn a_file_larger_than_may_be_written() {
    let folder = make::path("full");
    std::fs::create_dir(&folder).unwrap();
    // In a process of its own, which may write files of 512 KiB at most (of 256, if the shell counts in half kilobytes).
    if std::env::var_os("TWOFOUR_TEST_SMALL_FILES").is_none() {
        let script = "trap '' XFSZ; ulimit -f 512; exec \"$0\" --exact writing::a_file_larger_than_may_be_written";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).arg(std::env::current_exe().unwrap()).env("TWOFOUR_TEST_SMALL_FILES", "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    for form in Form::ALL {
        // 8 Mi weights: 0.65 MiB where they are fewest.
        let shape = Shape::new(2048, 4096);
        let mut manifest = Manifest::new(form);
        manifest.layer("w", shape).unwrap();
        let path = folder.join("masks");
        std::fs::write(&path, "old").unwrap();
        let error = manifest.save::<Error>(&path, |file| file.mask("w", &make::random(shape, 1))).unwrap_err();
        assert!(error.to_string().contains("cannot be written: File too large"), "{form}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(&folder), ["masks"]);
    }
}
