//! How much is timed, which `TWOFOUR_BENCH` says, for every bench alike.

use std::env;
use std::process::exit;

/// From the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Next to nothing, of tiny shapes: to see that everything runs.
    Smoke,
    /// The most important shapes, shortly.
    Quick,
    /// What a change should be judged by.
    Usual,
    /// More shapes, types and numbers of tokens.
    Full,
}

impl Level {
    /// What is asked for. A value that is none ends the program.
    pub fn asked() -> Self {
        let value = env::var_os("TWOFOUR_BENCH").unwrap_or_default();
        match value.to_str() {
            Some("smoke") => Self::Smoke,
            Some("quick") => Self::Quick,
            Some("") => Self::Usual,
            Some("full") => Self::Full,
            _ => {
                eprintln!("error: TWOFOUR_BENCH is {value:?}: give smoke, quick or full, or unset it");
                exit(2)
            }
        }
    }
}

/// Something for each level.
pub struct Levels<T> {
    pub smoke: T,
    pub quick: T,
    pub usual: T,
    pub full: T,
}

impl<T> Levels<T> {
    /// For the one that is asked for.
    pub fn asked(self) -> T {
        match Level::asked() {
            Level::Smoke => self.smoke,
            Level::Quick => self.quick,
            Level::Usual => self.usual,
            Level::Full => self.full,
        }
    }
}
