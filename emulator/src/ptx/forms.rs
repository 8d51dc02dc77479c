//! The list of forms that the executor knows, with the tests of each.
//!
//! It is checked in (`tests/data/ptx_forms.txt`). A form that is not in it is refused, though it may be made of known
//! parts; a test holds the list against what is decoded, and finds a test of its own for each.

use std::collections::HashSet;
use std::sync::OnceLock;

const LIST: &str = include_str!("../../tests/data/ptx_forms.txt");

/// Is the form in the list?
pub(super) fn is_known(form: &str) -> bool {
    static FORMS: OnceLock<HashSet<&str>> = OnceLock::new();
    FORMS.get_or_init(|| listed().collect()).contains(form)
}

/// All forms of the list. A line that begins with a letter begins with a form; others are comments and cases.
pub(super) fn listed() -> impl Iterator<Item = &'static str> {
    let lines = LIST.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()));
    lines.filter_map(|line| line.split_whitespace().next())
}
