//! candle and twofour in one program: their `bf16` is one type, and so, with the feature `cuda`, is their CUDA stream.
//! Run by `.ci/candle-graph`.

use candle_core::{DType, Device, Tensor};
use twofour::{Element, bf16};

fn main() -> candle_core::Result<()> {
    let values = [0.5_f32, -1.0, 3.0, 1.0 / 3.0];
    let tensor = Tensor::new(&values, &Device::Cpu)?.to_dtype(DType::BF16)?;
    // candle's elements, taken as twofour's without a conversion.
    let elements: Vec<bf16> = tensor.to_vec1()?;
    assert_eq!(elements, values.map(bf16::from_f32), "both round the same way");
    assert_eq!(tensor.dtype().size_in_bytes(), <bf16 as Element>::DTYPE.size());
    println!("candle and twofour share {}: {elements:?}", <bf16 as Element>::DTYPE);
    Ok(())
}

/// candle's stream is the one twofour takes. Never called: that it compiles is the test.
#[cfg(feature = "cuda")]
#[allow(dead_code)]
fn prepare(device: &candle_core::CudaDevice) -> twofour::Result<()> {
    twofour::device::prepare(&device.cuda_stream())
}
