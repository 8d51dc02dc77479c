//! What may be wrong with a file. Every message names the file and says what is wrong with it.

/// What went wrong. Nothing that a file holds makes this crate panic; it returns one of these.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape, a length or a code, as `twofour` finds it.
    #[error(transparent)]
    Core(#[from] twofour::Error),
    /// A file is not what it says it is, cannot be read or written, or cannot hold what it is to hold.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A weight, a mask or a layer in a file is wrong.
    #[error("{path}: weight `{name}`: {error}")]
    InWeight {
        /// The file.
        path: String,
        /// The weight's name.
        name: String,
        /// What is wrong with it.
        error: Box<Error>,
    },
    /// A bitmask of `f32` values keeps two of a group of two. As compressed weights they are kept 1:2.
    #[error(
        "group {group} of row {row} keeps 2 of 2 values: under a bitmask f32 is kept 2:4, and compressed 1:2, for so \
         sparse tensor cores read it; make it dense, and convert it to bf16 or f16"
    )]
    NotOneTwo {
        /// The group's row.
        row: u64,
        /// Of two values, within the row.
        group: u64,
    },
    /// Values were asked for in a type that they are not of.
    #[error("its values are {held}, and {asked} was asked for: ask for {held}")]
    DType {
        /// The type they are of.
        held: &'static str,
        /// The type asked for.
        asked: &'static str,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
