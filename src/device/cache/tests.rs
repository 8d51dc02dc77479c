#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;
use std::thread;

use super::*;

/// A cache in a fresh folder that is deleted with it.
struct Scratch(Cache);

impl Scratch {
    fn new(test: &str) -> Self {
        let root = env::temp_dir().join(format!("twofour-cache-{}-{test}", process::id()));
        let _ = fs::remove_dir_all(&root);
        Self(Cache { root })
    }

    fn file(&self) -> PathBuf {
        self.0.path(&key())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0.root);
    }
}

fn key() -> Key {
    Key::new([0xab; 32])
}

/// Content that tells which writer it is from, too long to be written in one go.
fn content(writer: u8) -> Vec<u8> {
    vec![writer; 300_000 + usize::from(writer)]
}

#[test]
fn what_was_put_comes_back() {
    let scratch = Scratch::new("round-trip");
    assert_eq!(scratch.0.get(&key()), None);
    for content in [content(1), Vec::new(), content(2)] {
        scratch.0.put(&key(), &content);
        assert_eq!(scratch.0.get(&key()), Some(content));
    }
    assert_eq!(scratch.0.get(&Key::new([0xcd; 32])), None);
}

#[test]
fn a_damaged_file_is_no_file() {
    let scratch = Scratch::new("damage");
    scratch.0.put(&key(), b"machine code");
    let good = fs::read(scratch.file()).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(scratch.file(), &bad).unwrap();
        assert_eq!(scratch.0.get(&key()), None, "byte {at} changed");
        fs::write(scratch.file(), &good[..at]).unwrap();
        assert_eq!(scratch.0.get(&key()), None, "cut to {at} bytes");
    }
    fs::write(scratch.file(), [&good[..], b"!"].concat()).unwrap();
    assert_eq!(scratch.0.get(&key()), None, "one byte too many");
    // And is mended by the next writer.
    scratch.0.put(&key(), b"machine code");
    assert_eq!(scratch.0.get(&key()).as_deref(), Some(&b"machine code"[..]));
}

#[test]
fn a_folder_in_the_way_is_a_miss() {
    let scratch = Scratch::new("folder");
    fs::create_dir_all(scratch.file()).unwrap();
    scratch.0.put(&key(), b"machine code");
    assert_eq!(scratch.0.get(&key()), None);
    let left: Vec<_> = fs::read_dir(scratch.file().parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file stays behind: {left:?}");
}

/// A file under the name of a temporary one is somebody else's, or a link to something else: it is not written to.
#[test]
fn what_is_there_already_is_not_written_over() {
    let scratch = Scratch::new("taken");
    let folder = scratch.file().parent().unwrap().to_path_buf();
    create_private(&folder).unwrap();
    let other = folder.join("other");
    fs::write(&other, "precious").unwrap();
    // Whatever number the writer has: other tests write meanwhile.
    for writer in 0..10_000 {
        fs::hard_link(&other, folder.join(format!(".{}.{}.{writer}", key().0, process::id()))).unwrap();
    }
    scratch.0.put(&key(), b"machine code");
    assert_eq!(fs::read(&other).unwrap(), b"precious");
    assert_eq!(scratch.0.get(&key()), None, "it could not be stored");
    let file = folder.join("new");
    write_new(&file, b"machine code").unwrap();
    assert!(write_new(&file, b"other").is_err());
    assert_eq!(unseal(&fs::read(&file).unwrap()).as_deref(), Some(&b"machine code"[..]));
}

#[test]
fn a_file_for_a_folder_is_a_miss() {
    let scratch = Scratch::new("file");
    fs::write(&scratch.0.root, b"").unwrap();
    scratch.0.put(&key(), b"machine code");
    assert_eq!(scratch.0.get(&key()), None);
    fs::remove_file(&scratch.0.root).unwrap();
}

#[cfg(unix)]
mod unix {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn folders_and_files_are_private() {
        let scratch = Scratch::new("private");
        scratch.0.put(&key(), b"machine code");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&scratch.0.root), 0o700);
        assert_eq!(mode(scratch.file().parent().unwrap()), 0o700);
        assert_eq!(mode(&scratch.file()), 0o600);
    }

    #[test]
    fn what_others_can_write_is_not_trusted() {
        let scratch = Scratch::new("writable");
        scratch.0.put(&key(), b"machine code");
        for (path, closed) in [(scratch.file(), 0o600), (scratch.0.root.clone(), 0o700)] {
            for open in [0o020, 0o002] {
                set_mode(&path, closed | open);
                assert_eq!(scratch.0.get(&key()), None, "{} with {open:o}", path.display());
            }
            set_mode(&path, closed);
            assert!(scratch.0.get(&key()).is_some());
        }
    }

    #[test]
    fn nothing_is_put_where_others_can_write() {
        let scratch = Scratch::new("world");
        fs::create_dir(&scratch.0.root).unwrap();
        set_mode(&scratch.0.root, 0o777);
        scratch.0.put(&key(), b"machine code");
        assert!(!scratch.file().exists());
    }

    #[test]
    fn a_folder_without_write_permission_is_a_miss() {
        let scratch = Scratch::new("read-only");
        fs::create_dir(&scratch.0.root).unwrap();
        set_mode(&scratch.0.root, 0o500);
        // The superuser may write all the same; then it is a hit.
        scratch.0.put(&key(), b"machine code");
        assert_eq!(scratch.0.get(&key()).is_some(), scratch.file().exists());
    }
}

#[test]
fn a_place_that_cannot_be_is_a_miss() {
    let cache = Cache { root: PathBuf::from("/proc/twofour/none") };
    cache.put(&key(), b"machine code");
    assert_eq!(cache.get(&key()), None);
}

/// Rewrites the same key again and again, reading in between; every read is whole.
fn hammer(cache: &Cache, writer: u8) {
    for _ in 0..40 {
        cache.put(&key(), &content(writer));
        let read = cache.get(&key()).expect("a rename leaves no gap");
        assert_eq!(read, content(read[0]));
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    let scratch = Scratch::new("threads");
    thread::scope(|scope| {
        for writer in 0..4 {
            let cache = &scratch.0;
            scope.spawn(move || hammer(cache, writer));
        }
    });
    let files = fs::read_dir(scratch.file().parent().unwrap()).unwrap().count();
    assert_eq!(files, 1, "no temporary file stays behind");
}

#[test]
fn processes_do_not_disturb_each_other() {
    let scratch = Scratch::new("processes");
    let spawn = |writer: u8| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "device::cache::tests::one_process_of_several", "--ignored"]);
        command.env("TWOFOUR_TEST_WRITER", writer.to_string()).env("TWOFOUR_CACHE_DIR", &scratch.0.root);
        command.stdout(process::Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = (0..3).map(spawn).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert!(scratch.0.get(&key()).is_some());
}

#[test]
#[ignore = "run by processes_do_not_disturb_each_other"]
fn one_process_of_several() {
    let writer = env::var("TWOFOUR_TEST_WRITER").unwrap().parse().unwrap();
    hammer(&Cache::from_environment().unwrap(), writer);
}
