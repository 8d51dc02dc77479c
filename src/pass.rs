//! What all operations have in common: arguments that are checked once ([`Pass`], [`Checked`]), what a device is given
//! for them ([`Queue`]), and whoever executes them ([`Executor`]).
//!
//! ```text
//! arguments  →  checks  →  plan  →  launches
//! ```
//!
//! A pass is one operation's argument struct, over any [`Space`]. `run` of an executor checks it; from
//! there on [`Checked`] is the proof that lengths and scalars are right, and nobody looks again.

use crate::error::Result;
use crate::space::{Host, HostSpace, Raw, Space};

mod executor;
mod libraries;
mod queue;

pub use executor::{Executor, Plan};
pub use libraries::Libraries;
pub use queue::{Queue, Work};

pub use crate::device::{Binder, DeviceSpace, Names};

mod sealed {
    /// Of this crate's operations: what a pass queues is run as it is, so nobody else may make one.
    pub trait Sealed {}
}
pub(crate) use sealed::Sealed;

/// The arguments of an operation, which executors run. Sealed: this crate's operations alone.
pub trait Pass<S: Space>: Sized + Sealed {
    /// Checks shapes, lengths and scalars. Executors do it first.
    ///
    /// # Errors
    /// Those that the operation's argument struct names.
    fn check(&self) -> Result<()>;

    /// Computes it on the host, on all threads of rayon's pool.
    ///
    /// # Errors
    /// What only the operands' values show, as the operation's page says.
    #[doc(hidden)]
    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace;

    /// Says what a device is to do, in order.
    ///
    /// # Errors
    /// [`Error::Misaligned`](crate::Error::Misaligned), [`Error::ForeignContext`](crate::Error::ForeignContext),
    /// [`Error::ForeignHandle`](crate::Error::ForeignHandle), and [`Error::Overflow`](crate::Error::Overflow) for sizes
    /// beyond what kernels count.
    #[doc(hidden)]
    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace;
}

/// A pass whose arguments have been checked.
#[derive(Debug)]
pub struct Checked<P>(P);

impl<P> Checked<P> {
    /// Checks a pass.
    ///
    /// # Errors
    /// What [`Pass::check`] finds.
    pub fn new<S: Space>(pass: P) -> Result<Self>
    where
        P: Pass<S>,
    {
        pass.check()?;
        Ok(Self(pass))
    }

    /// A pass made of one that was checked, of parts of its operands.
    pub(crate) const fn part(pass: P) -> Self {
        Self(pass)
    }

    pub(crate) fn into_inner(self) -> P {
        self.0
    }

    pub(crate) fn inner(&mut self) -> &mut P {
        &mut self.0
    }
}

/// Checks a pass over slices and computes it.
///
/// # Errors
/// What [`Pass::check`] finds, and what only the operands' values show.
pub(crate) fn run_on_host<P: Pass<Host>>(pass: P) -> Result<()> {
    P::execute(Checked::new(pass)?)
}

impl Queue {
    /// Adds what another operation does on parts of a checked pass's operands, which are addresses by now.
    pub(crate) fn pass<P: Pass<Raw>>(&mut self, part: P) -> Result<()> {
        // SAFETY: the addresses are parts of operands that the whole pass's binder has found.
        let mut binder = unsafe { Binder::bare() };
        P::queue(&mut Checked::part(part), &mut binder, self)
    }
}
