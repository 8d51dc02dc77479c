//! The `compress` op as PyTorch has it, timed on the CPU: a dense weight that is 2:4 to values and metadata.

use super::{Result, Run, Timed, data};
use twofour::compress::{Compressed, Layout, Value, ValueType, cpu};
use twofour::{Element, Shape, bf16, f16};

/// A weight to be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub values: ValueType,
    pub layout: Layout,
    pub shape: Shape,
}

/// A case on the CPU, on the threads of rayon's current pool.
pub fn on_cpu(case: Case) -> Result<Box<dyn Timed>> {
    fn normal<T: Element + Value>(Case { layout, shape, .. }: Case) -> Result<Box<dyn Timed>> {
        sparse(shape, layout, &data::normal::<T>(shape.weights(), 0.02, 0))
    }
    match case.values {
        ValueType::F32 => normal::<f32>(case),
        ValueType::F16 => normal::<f16>(case),
        ValueType::Bf16 => normal::<bf16>(case),
        other => Err(format!("packing {other} is not timed here").into()),
    }
}

/// Packs a weight that is 2:4 (`f32`: 1:2): `dense` with zeros for all but the largest of each group.
pub fn sparse<T: Value>(shape: Shape, layout: Layout, dense: &[T]) -> Result<Box<dyn Timed>> {
    let sizes = layout.sizes(shape, T::TYPE)?;
    let dense = Compressed::by_magnitude(shape, dense)?.decompress();
    let (mut values, mut metadata) = (vec![T::zeroed(); sizes.values], vec![0; sizes.metadata]);
    Ok(Box::new(Run(move || {
        let args = cpu::Pack::sparse(shape, &dense).layout(layout);
        cpu::pack_into(args.values(&mut values).metadata(&mut metadata))
    })))
}
