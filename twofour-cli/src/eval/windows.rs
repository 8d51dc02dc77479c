//! Cutting tokens into windows.

use crate::Failure;
use std::ops::Range;

/// A window, and which of its tokens are predicted: not its first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The tokens that are read.
    pub tokens: Range<usize>,
    /// Those that are predicted.
    pub predicted: Range<usize>,
}

/// Windows without overlap, and how many tokens are left out at the end: those of a last window that is not full,
/// unless it is the only one.
///
/// # Errors
/// Nothing could be predicted.
pub fn apart(tokens: usize, window: usize) -> Result<(Vec<Window>, usize), Failure> {
    check(tokens, window)?;
    let window = window.min(tokens);
    let of = |start: usize| Window { tokens: start..start + window, predicted: start + 1..start + window };
    let windows: Vec<Window> = (0..tokens / window).map(|i| of(i * window)).collect();
    Ok((windows, tokens % window))
}

/// Windows that slide by `stride`, as Hugging Face's guide to perplexity has them: each token but the first of all is
/// predicted once, from the window where it has the fewest tokens before it that are at least `window - stride`.
///
/// # Errors
/// Nothing could be predicted; the stride is 0 or longer than a window.
pub fn sliding(tokens: usize, window: usize, stride: usize) -> Result<Vec<Window>, Failure> {
    check(tokens, window)?;
    if stride == 0 || stride > window {
        return Err(format!("--stride {stride} must be from 1 to --window, {window}: else tokens are skipped").into());
    }
    let (mut windows, mut done) = (Vec::new(), 0);
    for start in (0..).step_by(stride) {
        let end = (start + window).min(tokens);
        let predicted = done.max(start + 1)..end;
        if !predicted.is_empty() {
            windows.push(Window { tokens: start..end, predicted });
        }
        done = end;
        if end == tokens {
            return Ok(windows);
        }
    }
    Ok(windows)
}

fn check(tokens: usize, window: usize) -> Result<(), Failure> {
    if window < 2 {
        return Err(format!("--window {window} is too short: of two tokens one is predicted").into());
    }
    if tokens < 2 {
        return Err(format!("there are {tokens} tokens, and of two one is predicted").into());
    }
    Ok(())
}
