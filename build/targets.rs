// For what and how the kernels are compiled: build.rs compiles them so, `cargo xtask cost` measures them so.

/// Ampere to Blackwell. `90a` and `100a` are the full instruction sets of those devices (wgmma, tcgen05).
pub(crate) const ARCHS: [&str; 6] = ["80", "86", "89", "90a", "100a", "120"];

/// What nvcc and NVRTC must agree on. Contraction is off because noise and choices are promised bit for bit.
pub(crate) const OPTIONS: [&str; 2] = ["-std=c++17", "--fmad=false"];

/// What nvcc is told besides, in the package's root.
pub(crate) const NVCC_OPTIONS: [&str; 2] = ["-O3", "-Icuda"];
