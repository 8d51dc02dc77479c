//! What layers compute with. On the CPU that is nothing; on a CUDA device it is one `twofour::Gpu` on candle's stream.

/// What the ops of a model share on each device that they meet: a handle to it (`twofour::Gpu`, which opens cuBLASLt).
/// Cloning it gives another handle of the same. On the CPU it is empty.
///
/// A workspace is allocated from the device's memory pool for each product and given back in the stream's order.
#[derive(Clone, Default)]
pub struct Engine {
    #[cfg(feature = "cuda")]
    devices: std::sync::Arc<std::sync::Mutex<cuda::Devices>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

#[cfg(feature = "cuda")]
mod cuda;
