//! Executes PTX: what compilers really make of the kernels, without a GPU.
//!
//! The emulator runs the kernels' source as C++, with twins in place of the inline PTX. A wrong operand in that PTX, or
//! a surprise of the compiler, it cannot see. Here the text that nvcc or NVRTC makes is read and executed, and what
//! each instruction does is written down anew from the PTX ISA, not from the twins: where the two executors agree, both
//! the wrappers and the twins mean the same.
//!
//! ```
//! use twofour_emulator::{Args, Buffer, Options, ptx};
//!
//! # fn main() -> Result<(), twofour_emulator::Fault> {
//! let module = ptx::Module::new(
//!     ".version 9.0
//!      .target sm_80
//!      .address_size 64
//!      .visible .entry twice(.param .u64 to)
//!      {
//!          .reg .b32 %r<3>;
//!          .reg .b64 %rd<4>;
//!          ld.param.u64 %rd1, [to];
//!          mov.u32 %r1, %tid.x;
//!          add.s32 %r2, %r1, %r1;
//!          mul.wide.u32 %rd2, %r1, 4;
//!          add.s64 %rd3, %rd1, %rd2;
//!          st.global.u32 [%rd3], %r2;
//!          ret;
//!      }",
//! )?;
//! let to = Buffer::output::<u32>("to", 64)?;
//! let args = Args::new().pointer(&to).finish();
//! let launch = ptx::Launch { kernel: "twice", grid: [1, 1, 1], block: [64, 1, 1], shared_bytes: 0, args: &args };
//! module.run(&launch, &Options::default())?;
//! assert_eq!(to.values::<u32>()[63], 126);
//! # Ok(())
//! # }
//! ```
//!
//! **What it executes.** Kernels of one module, from launches, buffers, schedules and faults that are the emulator's
//! own. A module is read whole: an opcode, modifier or directive that is not known is a fault with its line, and
//! nothing is skipped but what cannot run (line tables, debug sections, hints to the compiler and the caches). Each
//! form is in a checked-in list, `tests/data/ptx_forms.txt`, with its tests. `mma` and `mma.sp` are those of
//! [`tensor`](crate::tensor), with the launch's [`Arithmetic`](crate::tensor::Arithmetic).
//!
//! **How.** A warp's 32 lanes execute an instruction together, on rows of 32 values. Lanes part at branches and meet
//! again; at a `.sync` instruction they wait for its members, at a barrier for the block. Under
//! [`Schedule::Random`](crate::Schedule) and [`Schedule::Solo`](crate::Schedule) warps are interleaved and divided, and
//! copies land early or late, by the seed: a missing barrier or `bar.warp.sync` shows as a wrong result.
//!
//! **What is checked.** Bounds and alignment of every access, each variable of shared memory apart; stores to inputs;
//! barriers that not all threads reach; collectives without a member; what the ISA calls undefined where it can be
//! seen. With [`Options::watch`](crate::Options) also races, in shared and global memory, by what the memory model
//! orders; loads of what was never written; asynchronous copies used before their wait, or never waited for; and loads
//! through the read-only path of what the launch writes.
//!
//! **What is not.** Mbarriers, bulk copies, wgmma, `setmaxnreg` and clusters are not read at all; they belong into
//! `Meeting` (op.rs) and meet.rs. Functions and calls, textures, generic addresses of local memory: not built.
//! Registers that are read before they are written are not noticed as such. The order of blocks and the values that a
//! race leaves are those of the processor.
//!
//! **Where the ISA leaves room**: `scalar.rs` says what is taken.

mod block;
mod compare;
mod compile;
mod decode;
mod forms;
mod fused;
mod kinds;
mod lanes;
mod launch;
mod meet;
mod memory;
mod module;
mod op;
mod order;
mod parse;
mod profile;
mod rows;
mod scalar;
mod share;
mod special;
mod statement;
mod structured;
mod table;
mod text;
mod touch;
mod warp;
mod watch;

pub use compare::{Difference, compare};
pub use compile::Compiler;
pub use launch::Launch;
pub use module::Module;
pub use profile::{Counts, Global, Kind, Profile, Shared, Site};
