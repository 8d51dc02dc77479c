//! What can go wrong, and how it is told.

use std::fmt;

/// Where in a kernel something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The kernel's symbol.
    pub kernel: String,
    /// The block's index.
    pub block: [u32; 3],
    /// The thread's index in its block.
    pub thread: [u32; 3],
    /// The line of the kernel's source, as far as it is known.
    pub source: Source,
}

/// Which line of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// File name and line of a call into `ptx.cuh`.
    Line(String, u32),
    /// An address of the running program's file, for `addr2line -ie <program> <address>`.
    Code(u64),
    /// Not known.
    Unknown,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(f, "{}, block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})", self.kernel)?;
        match &self.source {
            Source::Line(file, line) => write!(f, ", {file}:{line}"),
            Source::Code(address) => write!(f, ", code address {address:#x} (addr2line -ie <program> names the line)"),
            Source::Unknown => Ok(()),
        }
    }
}

/// What a memory access wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A plain load.
    Load,
    /// A load through the read-only path (`load_16` and the like).
    LoadReadOnly,
    /// A plain store.
    Store,
    /// A store to global memory (`store_16`, atomics).
    StoreGlobal,
    /// The source of an asynchronous copy.
    CopySource,
    /// What an asynchronous copy writes.
    CopyTarget,
    /// An atomic operation.
    Atomic,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Load => "load",
            Access::LoadReadOnly => "read-only load",
            Access::Store => "store",
            Access::StoreGlobal => "global store",
            Access::CopySource => "cp.async",
            Access::CopyTarget => "write by cp.async",
            Access::Atomic => "atomic",
        })
    }
}

/// The memory that an address belongs to, or is closest to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Near {
    /// A buffer, by name: its bytes, and the address's offset from its start.
    Buffer {
        /// The buffer's name.
        name: String,
        /// Its length.
        bytes: u64,
        /// Where the address is, counted from the buffer's start; negative in front of it.
        offset: i64,
    },
    /// The block's dynamic shared memory.
    DynamicShared {
        /// Its length.
        bytes: u64,
        /// Where the address is, counted from its start.
        offset: i64,
    },
    /// The static shared memory of all kernels.
    StaticShared,
    /// A variable in shared memory, of a kernel whose PTX is executed.
    Shared {
        /// The variable's name.
        name: String,
        /// Its length.
        bytes: u64,
        /// Where the address is, counted from its start.
        offset: i64,
    },
    /// Nothing: a null pointer, an index gone wild, or a buffer that was dropped.
    Nothing,
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Near::Buffer { name, bytes, offset } => {
                write!(f, "offset {offset} of buffer `{name}`, which has {bytes} bytes")
            }
            Near::DynamicShared { bytes, offset } => {
                write!(f, "offset {offset} of dynamic shared memory, which has {bytes} bytes")
            }
            Near::StaticShared => write!(f, "static shared memory"),
            Near::Shared { name, bytes, offset } => {
                write!(f, "offset {offset} of shared `{name}`, which has {bytes} bytes")
            }
            Near::Nothing => write!(f, "near no buffer"),
        }
    }
}

fn sized(access: Access, bytes: Option<u32>) -> String {
    bytes.map_or_else(|| format!("a raw {access}"), |bytes| format!("{access} of {bytes} bytes"))
}

/// A place without its kernel, which the message has named.
fn without_kernel(place: &Place) -> String {
    let whole = place.to_string();
    whole.strip_prefix(&format!("{}, ", place.kernel)).map_or(whole.clone(), str::to_owned)
}

/// Why a launch did not run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// No kernel of that name was compiled in.
    #[error("no kernel `{name}`: compiled in are {}", known.join(", "))]
    UnknownKernel {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The argument bytes are not one argument struct.
    #[error("{kernel} takes {expected} bytes of arguments, got {got}: compare the struct's fields, order and padding")]
    ArgsSize {
        /// The kernel's symbol.
        kernel: String,
        /// `sizeof` the struct.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A grid that CUDA would refuse.
    #[error("{kernel}: grid {grid:?} must be 1 to 2147483647 x 65535 x 65535 blocks")]
    Grid {
        /// The kernel's symbol.
        kernel: String,
        /// The grid asked for.
        grid: [u32; 3],
    },
    /// A block that CUDA, or the kernel's launch bounds, would refuse.
    #[error("{kernel}: block {block:?} must have 1 to {max} threads, at most 64 along z")]
    BlockSize {
        /// The kernel's symbol.
        kernel: String,
        /// The block asked for.
        block: [u32; 3],
        /// The kernel's launch bound.
        max: u32,
    },
    /// More dynamic shared memory than any GPU has.
    #[error("{kernel}: {bytes} bytes of dynamic shared memory, a block can have {max}")]
    SharedBytes {
        /// The kernel's symbol.
        kernel: String,
        /// Bytes asked for.
        bytes: u32,
        /// Bytes there are.
        max: u32,
    },
    /// The operating system refused memory, a stack or a signal handler.
    #[error("the emulator could not {what}: {source}")]
    Host {
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// An access outside every buffer.
    #[error("{place}: {} at {address:#x}, {near}: check the index and its bound", sized(*access, *bytes))]
    OutOfBounds {
        /// Where.
        place: Box<Place>,
        /// What was attempted.
        access: Access,
        /// The address.
        address: u64,
        /// How many bytes; not known when a raw dereference ran into a guard page.
        bytes: Option<u32>,
        /// What the address is close to.
        near: Near,
    },
    /// A store to an input.
    #[error("{place}: {access} to {near}, an input: a buffer that is written must be an output or in place")]
    ReadOnly {
        /// Where.
        place: Box<Place>,
        /// What was attempted.
        access: Access,
        /// Which buffer, and where in it.
        near: Near,
    },
    /// An address that the access's width does not divide.
    #[error("{place}: {what} at {address:#x} must be aligned to {align} bytes")]
    Misaligned {
        /// Where.
        place: Box<Place>,
        /// The operation.
        what: String,
        /// The address.
        address: u64,
        /// The alignment it needs.
        align: u32,
    },
    /// An operation on shared memory was given something else, or ran over the end.
    #[error("{place}: {what} of {bytes} bytes at {address:#x} is not inside shared memory, but {near}")]
    NotShared {
        /// Where.
        place: Box<Place>,
        /// The operation.
        what: String,
        /// The address.
        address: u64,
        /// How many bytes.
        bytes: u32,
        /// What the address is close to.
        near: Near,
    },
    /// A raw store (not through `ptx.cuh`) hit the few bytes around a buffer that no guard page covers.
    #[error("{kernel}: something stored to {near}, just outside: use store(), which is checked, or a watchpoint")]
    Overwritten {
        /// The kernel's symbol.
        kernel: String,
        /// Where the first changed byte is.
        near: Near,
    },
    /// Some threads are at a barrier that others can no longer reach.
    #[error("{place}: has ended, but other threads wait at sync_threads ({barrier}): each must reach every barrier")]
    BarrierDivergence {
        /// The thread that ended or, if it ended before others came to the barrier, the one that came.
        place: Box<Place>,
        /// The barrier's line.
        barrier: String,
    },
    /// Threads of a block wait at different barriers.
    #[error("{place}: waits at this sync_threads while others wait at {barrier}: take the barrier out of the branch")]
    BarrierMismatch {
        /// The thread that came last.
        place: Box<Place>,
        /// The line of the other barrier.
        barrier: String,
    },
    /// Some lanes of a warp wait in a collective that others do not reach.
    #[error("{place}: waits in {what}, but {missing}: all 32 lanes must reach it; take it out of the branch")]
    CollectiveDivergence {
        /// One of the lanes that wait.
        place: Box<Place>,
        /// The collective.
        what: String,
        /// A lane that does not come, and what it does instead.
        missing: String,
    },
    /// Lanes of a warp are in different collectives.
    #[error("{place}: is in {what} while other lanes of its warp are in {other}: they must all be in the same one")]
    CollectiveMismatch {
        /// The lane that came last.
        place: Box<Place>,
        /// Its collective.
        what: String,
        /// The other collective and its line.
        other: String,
    },
    /// Metadata of a sparse mma with a code that is not of the six ordered ones.
    #[error("{place}: metadata {metadata:#010x} has a code other than 4 8 9 C D E: check packing, lane and selector")]
    UnorderedMetadata {
        /// Where.
        place: Box<Place>,
        /// The lane's metadata register.
        metadata: u32,
    },
    /// More stack than the emulator gives a thread.
    #[error("{place}: used more than {bytes} bytes of stack: local arrays that large would spill on a GPU")]
    StackOverflow {
        /// Where.
        place: Box<Place>,
        /// Bytes a thread has.
        bytes: usize,
    },
    /// A PTX text that cannot be executed.
    #[error("PTX, line {line}: {what}")]
    Ptx {
        /// The line of the text.
        line: u32,
        /// The form or word, and what is wrong with it.
        what: String,
    },
    /// An instruction of PTX did what the PTX ISA leaves undefined.
    #[error("{place}: undefined in the PTX ISA: {what}")]
    UndefinedPtx {
        /// Where.
        place: Box<Place>,
        /// The instruction and what it was given.
        what: String,
    },
    /// Two threads touched the same bytes, at least one of them wrote, and nothing orders the two.
    #[error(
        "{place}: {} at {near} races with the {other_access} by {}: {missing}",
        sized(*access, Some(*bytes)), without_kernel(other)
    )]
    Race {
        /// The access that came later in this run.
        place: Box<Place>,
        /// What it was.
        access: Access,
        /// How many bytes.
        bytes: u32,
        /// Where.
        near: Near,
        /// The access that came first in this run.
        other: Box<Place>,
        /// What that was.
        other_access: Access,
        /// What would order them.
        missing: &'static str,
    },
    /// Memory that an asynchronous copy reads or writes was touched before the copy was waited for.
    #[error(
        "{place}: {} at {near}, where the cp.async of {} is under way: wait for its group first, then a barrier",
        sized(*access, Some(*bytes)), without_kernel(other)
    )]
    CopyUnderWay {
        /// The access.
        place: Box<Place>,
        /// What it was.
        access: Access,
        /// How many bytes.
        bytes: u32,
        /// Where.
        near: Near,
        /// Where the copy was issued.
        other: Box<Place>,
    },
    /// A thread ended without waiting for an asynchronous copy of its own.
    #[error("{place}: never waits for its cp.async to {near}: wait for all groups before the end, or copy less")]
    CopyNeverWaitedFor {
        /// Where the copy was issued.
        place: Box<Place>,
        /// Where it writes.
        near: Near,
    },
    /// A load through the read-only path of bytes that the same launch writes.
    #[error(
        "{place}: {} at {near}, which this launch also {} ({other_access} by {}): load it with ld.global, not .nc",
        sized(*access, Some(*bytes)), if *access == Access::LoadReadOnly { "writes" } else { "loads by .nc" },
        without_kernel(other)
    )]
    Stale {
        /// Whichever of the two came later in this run.
        place: Box<Place>,
        /// What it was.
        access: Access,
        /// How many bytes.
        bytes: u32,
        /// Where.
        near: Near,
        /// The other one.
        other: Box<Place>,
        /// What that was.
        other_access: Access,
    },
    /// A load of bytes that nothing has written.
    #[error("{place}: {} at {near}, where nothing was written: write it first, or do not load it",
        sized(*access, Some(*bytes)))]
    Uninitialised {
        /// Where.
        place: Box<Place>,
        /// What it was.
        access: Access,
        /// How many bytes.
        bytes: u32,
        /// What was loaded.
        near: Near,
    },
    /// A compiler check failed: an index beyond a static array, a shift by 32 or more, a signed overflow, a raw
    /// misaligned dereference or a division by zero.
    #[error("{place}: undefined behaviour in C++ (array bound, shift, signed overflow, alignment or division by zero)")]
    Undefined {
        /// Where.
        place: Box<Place>,
    },
}

impl Fault {
    /// Which thread it was, and where; none if the launch did not start, or the thread is not known.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        match self {
            Fault::OutOfBounds { place, .. }
            | Fault::ReadOnly { place, .. }
            | Fault::Misaligned { place, .. }
            | Fault::NotShared { place, .. }
            | Fault::BarrierDivergence { place, .. }
            | Fault::BarrierMismatch { place, .. }
            | Fault::CollectiveDivergence { place, .. }
            | Fault::CollectiveMismatch { place, .. }
            | Fault::UnorderedMetadata { place, .. }
            | Fault::StackOverflow { place, .. }
            | Fault::UndefinedPtx { place, .. }
            | Fault::Race { place, .. }
            | Fault::CopyUnderWay { place, .. }
            | Fault::CopyNeverWaitedFor { place, .. }
            | Fault::Stale { place, .. }
            | Fault::Uninitialised { place, .. }
            | Fault::Undefined { place } => Some(place),
            _ => None,
        }
    }
}
