//! The `compress` op as PyTorch has it, timed on the CPU: a dense weight that is 2:4 to values and metadata.

use super::{Result, Run, Timed, data};
use twofour::compress::{Compressed, Layout, cpu};
use twofour::{DType, Element, Float, Shape, bf16, f16};

/// A weight to be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub values: DType,
    pub layout: Layout,
    pub shape: Shape,
}

/// A case on the CPU, on the threads of rayon's current pool.
pub fn on_cpu(case: Case) -> Result<Box<dyn Timed>> {
    fn normal<T: Float>(Case { layout, shape, .. }: Case) -> Result<Box<dyn Timed>> {
        sparse(shape, layout, &data::normal::<T>(shape.weights(), 0.02, 0))
    }
    match case.values {
        DType::F32 => normal::<f32>(case),
        DType::F16 => normal::<f16>(case),
        DType::Bf16 => normal::<bf16>(case),
        other => Err(format!("packing {other} is not timed here").into()),
    }
}

/// Packs a weight that is 2:4 (`f32`: 1:2): `dense` with zeros for all but the largest of each group.
pub fn sparse<T: Element>(shape: Shape, layout: Layout, dense: &[T]) -> Result<Box<dyn Timed>> {
    let sizes = layout.sizes(shape, T::DTYPE)?;
    let dense = Compressed::by_magnitude(shape, dense)?.decompress();
    let (mut values, mut metadata) = (vec![T::zeroed(); sizes.values], vec![0; sizes.metadata]);
    Ok(Box::new(Run(move || {
        let args = cpu::Pack::sparse(shape, &dense).layout(layout);
        cpu::pack_into(args.values(&mut values).metadata(&mut metadata))
    })))
}
