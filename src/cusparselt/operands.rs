//! What a plan runs on, and from that to the addresses that the library is called with.

use crate::check::{finite, scalar};
use std::ffi::c_void;

use cudarc::driver::{CudaView, CudaViewMut};

use super::problem::Problem;
use crate::device::Binder;
use crate::error::{Error, Result};
use crate::space::{Cuda, Input, Output, RawSlice};

/// α: what the product is multiplied by.
#[derive(Debug)]
pub enum Alpha<'a> {
    /// One number.
    Scalar(f32),
    /// One number for each out feature, N of them; for a plan with [`Problem::alpha_per_row`].
    PerRow(CudaView<'a, f32>),
}

/// C, which is added to the product, of the output's shape and placement, times β.
#[derive(Debug)]
pub enum Addend<'a, Y> {
    /// None: the output is overwritten.
    Nothing,
    /// What is in the output: it is accumulated into.
    Output {
        /// β.
        beta: f32,
    },
    /// Another matrix.
    Other {
        /// C.
        view: CudaView<'a, Y>,
        /// β.
        beta: f32,
    },
}

/// What a plan runs on.
#[derive(Debug)]
#[non_exhaustive]
pub struct Operands<'a, X, Y> {
    /// `W` as the library has compressed it, of [`CompressedSize::bytes`](super::CompressedSize::bytes); or as another
    /// has, in the very same layout.
    pub weight: CudaView<'a, u8>,
    /// `X`.
    pub input: CudaView<'a, X>,
    /// `Y`; overwritten, unless the addend says otherwise.
    pub output: CudaViewMut<'a, Y>,
    /// α, 1 if not set.
    pub alpha: Alpha<'a>,
    /// C, nothing if not set.
    pub addend: Addend<'a, Y>,
    /// At least [`Plan::workspace_bytes`](super::Plan::workspace_bytes); overwritten.
    pub workspace: Option<CudaViewMut<'a, u8>>,
}

impl<'a, X, Y> Operands<'a, X, Y> {
    /// `Y = f(X Wᵀ + b)`, without a workspace.
    #[must_use]
    pub fn new(
        weight: impl Input<'a, Space = Cuda, Element = u8>,
        input: impl Input<'a, Space = Cuda, Element = X>,
        output: impl Output<'a, Space = Cuda, Element = Y>,
    ) -> Self {
        let (weight, input, output) = (weight.input(), input.input(), output.output());
        Self { weight, input, output, alpha: Alpha::Scalar(1.0), addend: Addend::Nothing, workspace: None }
    }

    /// With memory to work in.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Output<'a, Space = Cuda, Element = u8>) -> Self {
        self.workspace = Some(workspace.output());
        self
    }
}

/// Where operands are.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub(super) weight: u64,
    pub(super) input: u64,
    /// C; that of the output where nothing is added.
    pub(super) addend: u64,
    pub(super) output: u64,
    pub(super) workspace: u64,
}

impl Addresses {
    /// A, B, C, D and the workspace.
    pub(super) fn pointers(&self) -> [*mut c_void; 5] {
        [self.weight, self.input, self.addend, self.output, self.workspace].map(|address| address as *mut c_void)
    }
}

/// α and β that were checked.
pub(super) struct Factors {
    alpha: f32,
    /// The device address of an α for each row, or 0.
    alphas: u64,
    beta: f32,
}

const ONE: &str = "an alpha for all rows";
const EACH: &str = "an alpha for each row";

impl Factors {
    /// The product as it is, and nothing added.
    pub(super) const ONE: Self = Self { alpha: 1.0, alphas: 0, beta: 0.0 };

    pub(super) fn new<'g>(
        binder: &mut Binder<'g, Cuda>,
        alpha: &'g Alpha<'_>,
        beta: f32,
        problem: &Problem,
    ) -> Result<Self> {
        let (alpha, alphas) = match (alpha, problem.alpha_per_row) {
            (Alpha::Scalar(alpha), false) => (*alpha, 0),
            (Alpha::PerRow(view), true) => {
                (1.0, long("alpha", binder.input("alpha", view)?, problem.shape.rows as u64)?)
            }
            (Alpha::Scalar(_), true) => return Err(Error::Unplanned { planned: EACH.into(), given: ONE.into() }),
            (Alpha::PerRow(_), false) => return Err(Error::Unplanned { planned: ONE.into(), given: EACH.into() }),
        };
        finite("alpha", alpha)?;
        finite("beta", beta)?;
        if problem.alpha_per_row && beta != 0.0 {
            let must = "0 beside an alpha for each row, where the library ignores it";
            return scalar("beta", f64::from(beta), must);
        }
        Ok(Self { alpha, alphas, beta })
    }

    /// Whether there is an addend, which costs time.
    pub(super) fn adds(&self) -> bool {
        self.beta != 0.0
    }

    /// Where the library finds α and β: on the host, or α on the device.
    pub(super) fn addresses(&self) -> (*const c_void, *const c_void) {
        let alpha = match self.alphas {
            0 => (&raw const self.alpha).cast(),
            address => address as *const c_void,
        };
        (alpha, (&raw const self.beta).cast())
    }
}

/// An operand that is long enough.
pub(super) fn long<T>(what: &'static str, slice: RawSlice<T>, needed: u64) -> Result<u64> {
    let got = slice.elements as u64;
    if got < needed { Err(Error::Length { what, expected: needed, got }) } else { Ok(slice.address) }
}

/// The address of a workspace, or 0 where none is needed and none is given.
pub(super) fn within<'g>(
    binder: &mut Binder<'g, Cuda>,
    workspace: Option<&'g mut CudaViewMut<'_, u8>>,
    needed: u64,
) -> Result<u64> {
    let given = workspace.map(|workspace| binder.output("workspace", workspace)).transpose()?;
    let got = given.map_or(0, |given| given.elements as u64);
    if got < needed { Err(Error::Workspace { needed, got }) } else { Ok(given.map_or(0, |given| given.address)) }
}
