//! candle's custom operations, each made of one that is written over any [`Place`].

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor};
use twofour::Cpu;

use crate::place::{Operand, Place};

/// An operation of `N` tensors.
pub(crate) trait Op<const N: usize>: Send + Sync {
    const NAME: &'static str;

    /// What it makes of them, and its shape.
    fn forward<P: Place>(&self, operands: [Operand<'_, P>; N]) -> Result<(P::Storage, Shape)>;

    /// Their gradients, of that of what it made.
    fn backward(&self, _operands: [&Tensor; N], _gradient: &Tensor) -> Result<[Option<Tensor>; N]> {
        Err(Error::BackwardNotSupported { op: Self::NAME })
    }
}

/// An operation as candle's.
pub(crate) struct Custom<O>(pub(crate) O);

/// candle's names for an operation of one, two or three tensors.
macro_rules! custom {
    ($trait:ident, $n:literal, $(($storage:ident, $layout:ident)),+ => $gradients:ty) => {
        impl<O: Op<$n>> $trait for Custom<O> {
            fn name(&self) -> &'static str {
                O::NAME
            }

            fn cpu_fwd(&self, $($storage: &CpuStorage, $layout: &Layout),+) -> Result<(CpuStorage, Shape)> {
                self.0.forward::<Cpu>([$(Operand::new($storage, $layout)),+])
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(&self, $($storage: &CudaStorage, $layout: &Layout),+) -> Result<(CudaStorage, Shape)> {
                self.0.forward::<twofour::Gpu>([$(Operand::new($storage, $layout)),+])
            }

            fn bwd(&self, $($storage: &Tensor),+, _made: &Tensor, gradient: &Tensor) -> Result<$gradients> {
                let [$($storage),+] = self.0.backward([$($storage),+], gradient)?;
                Ok(($($storage),+))
            }
        }
    };
}
type Gradient = Option<Tensor>;
custom!(CustomOp1, 1, (a, a_layout) => Gradient);
custom!(CustomOp2, 2, (a, a_layout), (b, b_layout) => (Gradient, Gradient));
custom!(CustomOp3, 3, (a, a_layout), (b, b_layout), (c, c_layout) => (Gradient, Gradient, Gradient));
