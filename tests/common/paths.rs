//! The CPU executor has paths for processors of several kinds, and one result.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::Command;

/// Says to a process that it is to print what it makes.
const PRINTS: &str = "TWOFOUR_TEST_PRINTS_PATH";

/// Compares what `made` gives for many seeds on the processor's best path and on those below it. They are chosen once a
/// process, so the test that calls this is run again for each, in processes of their own.
pub fn same_on_every_path(made: impl Fn(u64) -> String) {
    let hashes: Vec<u64> = (0..240).map(|seed| hash(&made(seed))).collect();
    if std::env::var_os(PRINTS).is_some() {
        println!("made {hashes:?}");
        return;
    }
    let name = std::thread::current().name().unwrap().to_owned();
    for path in ["avx2", "portable"] {
        let mut again = Command::new(std::env::current_exe().unwrap());
        let output = again.args([&name, "--exact", "--nocapture"]).env(PRINTS, "1").env("TWOFOUR_CPU", path).output();
        let output = String::from_utf8(output.unwrap().stdout).unwrap();
        let (_, printed) = output.split_once("made [").unwrap();
        let printed: Vec<u64> =
            printed.split_once(']').unwrap().0.split(", ").map(|hash| hash.parse().unwrap()).collect();
        let differing = hashes.iter().zip(&printed).position(|(one, other)| one != other);
        assert_eq!((differing, printed.len()), (None, hashes.len()), "the first seed that {path} makes otherwise");
    }
}

fn hash(made: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    made.hash(&mut hasher);
    hasher.finish()
}
