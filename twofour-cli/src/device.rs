//! The device that a command runs a model on.

use crate::Failure;
use candle_core::Device;

/// The CPU, or with the feature `cuda` the device that is asked for.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct DeviceArgs {
    /// Run on this CUDA device
    #[cfg(feature = "cuda")]
    #[arg(long)]
    device: Option<usize>,
}

impl DeviceArgs {
    #[cfg(feature = "cuda")]
    pub(crate) fn open(self) -> Result<Device, Failure> {
        Ok(self.device.map_or(Ok(Device::Cpu), Device::new_cuda)?)
    }

    #[cfg(not(feature = "cuda"))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "with the feature `cuda` it can fail")]
    pub(crate) fn open(self) -> Result<Device, Failure> {
        Ok(Device::Cpu)
    }
}
