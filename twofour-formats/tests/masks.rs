//! The suite of masks: files that NumPy wrote, files that NumPy reads, every form into every other, and what
//! goes wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "masks/archives.rs"]
mod archives;
#[path = "masks/base6.rs"]
mod base6;
#[path = "masks/forms.rs"]
mod forms;
#[path = "masks/groups.rs"]
mod groups;
#[path = "masks/make.rs"]
mod make;
#[path = "masks/numpy.rs"]
mod numpy;
#[path = "masks/tensors.rs"]
mod tensors;
#[path = "masks/writing.rs"]
mod writing;
