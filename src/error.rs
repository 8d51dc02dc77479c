//! The one error type of the crate. Every variant carries the numbers, and its message says what was expected, what
//! came, and what to do about it.

/// What went wrong. No public function panics on its input or on a missing library; it returns one of these.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The contraction dimension cannot be cut into groups of four.
    #[error("{what} is {cols} columns wide, which is not a multiple of 4: pad the weight or leave this layer dense")]
    NotGrouped {
        /// Which matrix.
        what: &'static str,
        /// Its number of columns.
        cols: u64,
    },
    /// A slice does not hold as many elements as the shape says.
    #[error("`{what}` holds {got} elements, but the shape needs {expected}")]
    Length {
        /// The operand's name in the argument struct.
        what: &'static str,
        /// Elements needed.
        expected: u64,
        /// Elements given.
        got: u64,
    },
    /// A product of dimensions does not fit the address space.
    #[error("the size of `{what}` overflows: {rows} x {cols}")]
    Overflow {
        /// The operand whose size was computed.
        what: &'static str,
        /// Rows.
        rows: u64,
        /// Columns.
        cols: u64,
    },
    /// A device pointer is not aligned for 16-byte accesses.
    #[error(
        "`{what}` starts at device address {address:#x}, which is not a multiple of {align}: \
         pass a view that starts on a {align}-byte boundary, or copy it to one"
    )]
    Misaligned {
        /// The operand's name.
        what: &'static str,
        /// Its address.
        address: u64,
        /// The alignment needed.
        align: u64,
    },
    /// A scalar argument lies outside its domain.
    #[error("`{what}` is {value}: it must be {must}")]
    Scalar {
        /// The argument's name.
        what: &'static str,
        /// The value given.
        value: f64,
        /// The domain, in words.
        must: &'static str,
    },
    /// The shard does not lie inside the whole weight.
    #[error(
        "the shard [{row_offset}.., {col_offset}..{col_end}] does not fit a weight with {global_cols} columns on \
         4-column boundaries: check the offsets and `global_cols`"
    )]
    Shard {
        /// First row.
        row_offset: u64,
        /// First column.
        col_offset: u64,
        /// One past the last column.
        col_end: u64,
        /// Columns of the whole weight.
        global_cols: u64,
    },
    /// An output was asked for that the other arguments cannot give.
    #[error("`{what}` was asked for, but {missing}")]
    Missing {
        /// What was asked for.
        what: &'static str,
        /// What it needs, in words.
        missing: &'static str,
    },
    /// A group that keeps another number of values than its sparsity allows.
    #[error(
        "group {group} of row {row} keeps {kept} of {width} values, and a compressed group keeps {}: {}", width / 2,
        if *width == 2 { F32_KEEPS } else { "prune it first, or let compression choose by magnitude" }
    )]
    NotTwoFour {
        /// The row.
        row: u64,
        /// The group in its row.
        group: u64,
        /// Values it keeps.
        kept: u32,
        /// Values in a group: 4, or 2 where values are `f32`.
        width: u32,
    },
    /// An `f32` weight that is 2:4, which would lose values by magnitude without having been asked to be pruned.
    #[error(
        "the weight is 2:4 already, and compression would drop one of the two values that group {group} of row {row} \
         keeps: {F32_KEEPS}"
    )]
    TwoFourOfF32 {
        /// The row.
        row: u64,
        /// The group of two in its row.
        group: u64,
    },
    /// A code, or a pattern index, that stands for no way of keeping half a group.
    #[error(
        "group {group} of row {row} has {what} {value:#x}, and only {legal} are legal: a mask sampled from NaN logits \
         has such groups, and other bytes than metadata nearly always"
    )]
    IllegalCode {
        /// `code` or `pattern`.
        what: &'static str,
        /// The row.
        row: u64,
        /// The group in its row.
        group: u64,
        /// The code or index.
        value: u8,
        /// Those that are legal, in words.
        legal: &'static str,
    },
    /// A layout of compressed weights that does not hold such values or such a shape.
    #[error("layout {layout} does not hold a {dtype} weight of {rows} x {cols}: {because}")]
    Layout {
        /// The layout's name.
        layout: &'static str,
        /// Type of the values.
        dtype: &'static str,
        /// Rows.
        rows: u64,
        /// Columns.
        cols: u64,
        /// Why not, and what would be.
        because: &'static str,
    },
    /// The CUDA driver library is not there.
    #[error(
        "no CUDA driver: {reason}. Install the NVIDIA driver (libcuda.so.1 must be on the loader's path), \
         or use the CPU executor"
    )]
    DriverUnavailable {
        /// What the loader said.
        reason: String,
    },
    /// The driver is there, but no device.
    #[error(
        "the CUDA driver reports no device{detail}: check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use the CPU executor"
    )]
    NoDevice {
        /// More of what the driver said, or empty.
        detail: String,
    },
    /// The device is too old for sparse tensor cores.
    #[error(
        "the device has compute capability {}.{}, and 2:4 kernels need {}.{} (Ampere) or later: use another device \
         or the CPU executor", have.0, have.1, need.0, need.1
    )]
    UnsupportedDevice {
        /// Compute capability of the device.
        have: (u32, u32),
        /// The least that is needed.
        need: (u32, u32),
    },
    /// Neither an embedded image nor NVRTC can serve the device.
    #[error(
        "no kernels for compute capability {}.{}: this build embeds {embedded}, and NVRTC cannot step in ({nvrtc}). \
         Build with nvcc on the path (see TWOFOUR_NVCC, TWOFOUR_CUDA_ARCHS), or install NVRTC (libnvrtc.so)",
        device.0, device.1
    )]
    NoKernelImage {
        /// Compute capability of the device.
        device: (u32, u32),
        /// The architectures embedded at build time, in words.
        embedded: String,
        /// Why NVRTC was no help.
        nvrtc: String,
    },
    /// The kernel's file has no kernel of this name.
    #[error(
        "cuda/{module}.cu has no kernel `{name}` for this device ({origin}): rebuild with the device's architecture in \
         TWOFOUR_CUDA_ARCHS, or install NVRTC"
    )]
    UnknownKernel {
        /// The source's stem.
        module: &'static str,
        /// The kernel's symbol.
        name: String,
        /// Where the loaded code is from.
        origin: String,
    },
    /// NVRTC rejected a kernel source.
    #[error("NVRTC could not compile cuda/{module}.cu for {arch}:\n{log}")]
    Compile {
        /// The source's stem.
        module: &'static str,
        /// The architecture asked for.
        arch: String,
        /// The compiler's log.
        log: String,
    },
    /// A CUDA library that an operation needs is not there.
    #[error("{library} is not available: {reason}. {remedy}")]
    LibraryUnavailable {
        /// The library's name.
        library: &'static str,
        /// What the loader or the library said.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A call into CUDA failed.
    #[error("{call} failed: {name} ({code})")]
    Cuda {
        /// The call.
        call: &'static str,
        /// The status' name.
        name: String,
        /// The status' number.
        code: i64,
    },
    /// Two operands live on different devices or contexts.
    #[error("`{what}` belongs to another CUDA context than the stream: allocate it on the stream's device")]
    ForeignContext {
        /// The operand's name.
        what: &'static str,
    },
    /// An operand and the stream are of one context, through two of cudarc's handles to it. Each handle counts its own
    /// streams, and by an operand's own cudarc decides whether work waits for what is queued for it elsewhere.
    #[error(
        "`{what}` was allocated through another `CudaContext` of device {device} than the stream's, so the work might \
         not wait for it: allocate it on a stream of `Gpu::stream().context()`, one `Arc` of which serves all streams"
    )]
    ForeignHandle {
        /// The operand's name.
        what: &'static str,
        /// The device's number.
        device: usize,
    },
    /// What was asked for, or a route to it, is not possible for these arguments.
    #[error("{what} is not possible here: {because}")]
    Unsupported {
        /// What was asked for, in words.
        what: &'static str,
        /// Why not.
        because: &'static str,
    },
    /// What must be loaded or chosen first is met while the stream is captured into a CUDA graph.
    #[error(
        "{what} is not ready, and the stream is being captured: prepare the plan and run the pass once before that"
    )]
    Unprepared {
        /// What is not ready.
        what: String,
    },
    /// Arguments that their plan was not made for.
    #[error("the plan is for {planned}, but the arguments are {given}: make a plan for them")]
    Unplanned {
        /// What the plan was made for.
        planned: String,
        /// What came.
        given: String,
    },
    /// A work space given by the caller is too small.
    #[error("the work space holds {got} bytes, and this problem needs {needed}: ask the plan for its size")]
    Workspace {
        /// Bytes needed.
        needed: u64,
        /// Bytes given.
        got: u64,
    },
    /// There is no memory for what was asked for.
    #[error("there is no memory for {what}, {bytes} bytes: use a machine with more, or smaller layers or batches")]
    Memory {
        /// What it is for.
        what: &'static str,
        /// Bytes that were asked for.
        bytes: u64,
    },
    /// Calibration in which a layer saw nothing.
    #[error(
        "{what} is 0 in all {cols} columns: the layer saw no input in calibration. Give it tokens, leave it out, or \
         choose by magnitude"
    )]
    NoInput {
        /// What is 0.
        what: &'static str,
        /// Columns.
        cols: u64,
    },
    /// Calibration of a column that no input can have.
    #[error("{what} is {value} at column {column}: it must be {must}")]
    Column {
        /// Which array.
        what: &'static str,
        /// The column.
        column: u64,
        /// What it has.
        value: f64,
        /// The domain, in words.
        must: &'static str,
    },
    /// A Hessian that is not symmetric.
    #[error(
        "the Hessian is not symmetric: {value} at [{row}, {column}] and {mirrored} at [{column}, {row}]: give all of \
         it, not one triangle"
    )]
    NotSymmetric {
        /// A row.
        row: u64,
        /// A column left of the diagonal.
        column: u64,
        /// The element there.
        value: f64,
        /// Its mirror image.
        mirrored: f64,
    },
    /// A Hessian that is no sum of products.
    #[error(
        "the Hessian is no sum of products: {value} at [{row}, {column}], where its diagonal has {} and {}. Is the \
         diagonal set, and is it that of these activations?", diagonal[0], diagonal[1]
    )]
    NotProducts {
        /// A row.
        row: u64,
        /// A column left of the diagonal.
        column: u64,
        /// The element there.
        value: f64,
        /// The diagonal at that row and that column.
        diagonal: [f64; 2],
    },
    /// Results that the type they are written in cannot hold, of arguments that are finite.
    #[error(
        "{count} values of `{what}` left the range of {dtype}, the first in row {row}, column {column}: take a type \
         with a larger range (bf16, f32), more damping, or a smaller weight"
    )]
    LeftRange {
        /// The output.
        what: &'static str,
        /// Its type.
        dtype: &'static str,
        /// How many.
        count: u64,
        /// The first one's row.
        row: u64,
        /// And column.
        column: u64,
    },
    /// A token that is not in the vocabulary.
    #[error(
        "`{what}` has token {token} in row {row}, and the vocabulary has {vocab}: a label without cross-entropy is the \
         one that `ignored` names, a padded vocabulary is as wide as its logits"
    )]
    Token {
        /// The operand.
        what: &'static str,
        /// The row.
        row: u64,
        /// The token.
        token: u32,
        /// Columns of the logits.
        vocab: u64,
    },
    /// A top-k teacher with a token more than once.
    #[error("row {row} of the teacher has token {token} twice: give each token once, with all of its probability")]
    TokenTwice {
        /// The row.
        row: u64,
        /// The token.
        token: u32,
    },
    /// A Hessian that cannot be factorised.
    #[error(
        "the Hessian is not positive definite at column {column}: raise the damping (0.01 is usual), and see that it \
         is symmetric and made of enough activations"
    )]
    NotPositiveDefinite {
        /// The column where factorisation stopped, which goes from the last to the first.
        column: u64,
    },
}

/// What to do with an `f32` weight that is 2:4.
const F32_KEEPS: &str = "f32 keeps 1 of 2. Convert it to bf16 or f16, which keep 2 of 4, or prune it to 1:2 first";

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What is not possible.
pub(crate) fn unsupported(what: &'static str, because: &'static str) -> Error {
    Error::Unsupported { what, because }
}
