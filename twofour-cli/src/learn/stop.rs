//! Ctrl-C.

use crate::Failure;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C asks to stop, and a second one ends at once.
pub(super) fn listen() -> Result<(), Failure> {
    static LISTENING: OnceLock<Result<(), String>> = OnceLock::new();
    let listen = || {
        let asked = || {
            if ASKED.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("stopping after this step (again: at once, without saving)");
        };
        ctrlc::set_handler(asked).map_err(|e| format!("Ctrl-C cannot be listened to: {e}"))
    };
    Ok(LISTENING.get_or_init(listen).clone()?)
}

/// Whether it was.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Was asked to stop, and has saved where it is.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(super) step: u64,
    pub(super) of: u64,
    pub(super) state: String,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, of, state } = self;
        write!(f, "stopped at step {step} of {of}, and saved in {state}; --resume goes on from there")
    }
}

impl std::error::Error for Stopped {}
