//! The executors of the suite: the CPU's, the emulator's, and the GPU's where there is one. Each runs the same cases.

use crate::any::Wide;
use crate::array::Array;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use twofour::compress::{Layout, Pack, Reorder, Sparsity, Unpack, cpu, cuda};
use twofour::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
use twofour::device::Limits;
use twofour::device::launch::Launch;
use twofour::mask::{Kind, Sampling};
use twofour::space::Raw;
use twofour::{DType, Error, Logit, Shape, Shard, device};
use twofour_emulator::{Kernel, Options, Schedule};

/// How often each kernel has run in this process.
pub(crate) static RUNS: LazyLock<Mutex<HashMap<&'static str, usize>>> = LazyLock::new(Mutex::default);

/// A device so small that its blocks take more than one patch.
pub(crate) const SMALL: Limits = Limits { multiprocessors: 0, ..Limits::A100 };

#[derive(Debug, Clone)]
pub(crate) enum Executor {
    Cpu,
    Emulator(Schedule, Limits),
    Gpu(Arc<CudaStream>),
}

/// What to keep, but for logits.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    Codes(Vec<u8>),
    Magnitude,
    NonZeros,
}

/// What to keep, by logits.
#[derive(Debug, Clone)]
pub(crate) struct Draw<L> {
    pub(crate) logits: Vec<L>,
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) shard: Shard,
}

/// A weight to compress, and which outputs are wanted: values, metadata, codes, masked.
#[derive(Debug, Clone)]
pub(crate) struct Dense<T> {
    pub(crate) shape: Shape,
    pub(crate) layout: Layout,
    pub(crate) dense: Vec<T>,
    pub(crate) wants: [bool; 4],
}

/// What was written; empty where nothing was wanted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outputs<T> {
    pub(crate) values: Vec<T>,
    pub(crate) metadata: Vec<u8>,
    pub(crate) codes: Vec<u8>,
    pub(crate) masked: Vec<T>,
    pub(crate) faults: u32,
}

/// What a count is before it is added to.
const BEFORE: u32 = 7;

impl<T: Wide> Dense<T> {
    /// Elements of the outputs.
    fn sizes(&self) -> [usize; 4] {
        let sizes = self.layout.sizes(self.shape, T::DTYPE).unwrap();
        [sizes.values, sizes.metadata, Sparsity::of(T::DTYPE).packed_codes(self.shape), self.shape.weights()]
    }
}

/// The GPU's executor, or `None` after saying that there is no GPU; fails instead if `TWOFOUR_REQUIRE_GPU=1`.
pub(crate) fn gpu() -> Option<Executor> {
    match device::context(0) {
        Ok(context) => Some(Executor::Gpu(context.default_stream())),
        Err(error) if std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some_and(|value| value == "1") => {
            panic!("TWOFOUR_REQUIRE_GPU=1, but {error}")
        }
        Err(error) => {
            println!("skipped: no CUDA device ({error})");
            None
        }
    }
}

/// Gives the arguments the outputs that a case wants.
macro_rules! outputs {
    ($args:expr, $case:expr, $values:expr, $metadata:expr, $codes:expr, $masked:expr, $faults:expr) => {{
        let mut args = $args.layout($case.layout).faults($faults);
        let [values, metadata, codes, masked] = $case.wants;
        if values {
            args = args.values($values);
        }
        if metadata {
            args = args.metadata($metadata);
        }
        if codes {
            args = args.codes($codes);
        }
        if masked {
            args = args.masked($masked);
        }
        args
    }};
}

/// Runs arguments on the CPU. Their lifetime is also that of the outputs, so that this is no function.
macro_rules! on_cpu {
    ($case:expr, $args:expr) => {{
        let case = $case;
        let [of_values, of_metadata, of_codes, of_masked] = wanted(case);
        let (mut values, mut masked) = (vec![T::from_bits(0x55); of_values], vec![T::from_bits(0x55); of_masked]);
        let (mut metadata, mut codes) = (vec![0x55; of_metadata], vec![0x55; of_codes]);
        let mut faults = [BEFORE];
        let args = outputs!($args, case, &mut values, &mut metadata, &mut codes, &mut masked, &mut faults);
        cpu::pack_into(args)?;
        Ok(Outputs { values, metadata, codes, masked, faults: faults[0] - BEFORE })
    }};
}

/// The same on a GPU.
macro_rules! on_gpu {
    ($case:expr, $stream:expr, $args:expr) => {{
        let (case, stream) = ($case, $stream);
        let [of_values, of_metadata, of_codes, of_masked] = wanted(case);
        let mut values = Device::<T>::poisoned(stream, of_values);
        let mut metadata = Device::<u8>::poisoned(stream, of_metadata);
        let mut codes = Device::<u8>::poisoned(stream, of_codes);
        let mut masked = Device::<T>::poisoned(stream, of_masked);
        let mut faults = Device::new(stream, &[BEFORE]);
        let [to_metadata, to_codes] = [metadata.view_mut(), codes.view_mut()];
        let [to_values, to_masked] = [values.view_mut(), masked.view_mut()];
        let args = outputs!($args, case, to_values, to_metadata, to_codes, to_masked, faults.view_mut());
        cuda::pack_into(stream, args)?;
        Ok(Outputs {
            values: values.read(stream),
            metadata: metadata.read(stream),
            codes: codes.read(stream),
            masked: masked.read(stream),
            faults: faults.read(stream)[0] - BEFORE,
        })
    }};
}

impl Executor {
    pub(crate) fn pack<T: Wide>(&self, case: &Dense<T>, choice: &Choice) -> Result<Outputs<T>, Error> {
        let Dense { shape, dense, .. } = case;
        match self {
            Self::Cpu => on_cpu!(
                case,
                match choice {
                    Choice::Codes(codes) => cpu::Pack::with_codes(*shape, dense, codes),
                    Choice::Magnitude => cpu::Pack::by_magnitude(*shape, dense),
                    Choice::NonZeros => cpu::Pack::sparse(*shape, dense),
                }
            ),
            Self::Emulator(schedule, limits) => {
                let dense = Array::input("dense", dense);
                let given = Array::input("given", if let Choice::Codes(codes) = choice { codes } else { &[] });
                emulated(
                    case,
                    *schedule,
                    limits,
                    match choice {
                        Choice::Codes(_) => Pack::<Raw, T>::with_codes(*shape, dense.raw(), given.raw()),
                        Choice::Magnitude => Pack::<Raw, T>::by_magnitude(*shape, dense.raw()),
                        Choice::NonZeros => Pack::<Raw, T>::sparse(*shape, dense.raw()),
                    },
                )
            }
            Self::Gpu(stream) => {
                let on_device = Device::new(stream, dense);
                let given = Device::new(stream, if let Choice::Codes(codes) = choice { codes } else { &[] });
                on_gpu!(
                    case,
                    stream,
                    match choice {
                        Choice::Codes(_) => cuda::Pack::with_codes(*shape, on_device.view(), given.view()),
                        Choice::Magnitude => cuda::Pack::by_magnitude(*shape, on_device.view()),
                        Choice::NonZeros => cuda::Pack::sparse(*shape, on_device.view()),
                    }
                )
            }
        }
    }

    pub(crate) fn sample<T: Wide, L: Logit>(&self, case: &Dense<T>, draw: &Draw<L>) -> Result<Outputs<T>, Error> {
        let (Dense { shape, dense, .. }, Draw { logits, kind, sampling, shard }) = (case, draw);
        match self {
            Self::Cpu => on_cpu!(case, cpu::Pack::from_logits(*shape, *kind, *sampling, logits, dense).shard(*shard)),
            Self::Emulator(schedule, limits) => {
                let (dense, logits) = (Array::input("dense", dense), Array::input("logits", logits));
                let args = Pack::<Raw, T, L>::from_logits(*shape, *kind, *sampling, logits.raw(), dense.raw());
                emulated(case, *schedule, limits, args.shard(*shard))
            }
            Self::Gpu(stream) => {
                let (dense, logits) = (Device::new(stream, dense), Device::new(stream, logits));
                let args = cuda::Pack::from_logits(*shape, *kind, *sampling, logits.view(), dense.view());
                on_gpu!(case, stream, args.shard(*shard))
            }
        }
    }

    /// The dense weight, and the number of faults.
    pub(crate) fn unpack<T: Wide>(
        &self,
        shape: Shape,
        layout: Layout,
        values: &[T],
        metadata: &[u8],
    ) -> Result<(Vec<T>, u32), Error> {
        match self {
            Self::Cpu => {
                let mut dense = vec![T::from_bits(0x55); shape.weights()];
                cpu::unpack_into(cpu::Unpack::new(shape, layout, values, metadata, &mut dense))?;
                Ok((dense, 0))
            }
            Self::Emulator(schedule, limits) => {
                let (values, metadata) = (Array::input("values", values), Array::input("metadata", metadata));
                let (dense, faults) = (Array::output("dense", shape.weights()), Array::in_place("faults", &[BEFORE]));
                let args = Unpack::<Raw, T>::new(shape, layout, values.raw(), metadata.raw(), dense.raw());
                emulate(&args.faults(faults.raw()).launch(limits)?, *schedule);
                Ok((dense.read(), faults.read()[0] - BEFORE))
            }
            Self::Gpu(stream) => {
                let (values, metadata) = (Device::new(stream, values), Device::new(stream, metadata));
                let mut dense = Device::poisoned(stream, shape.weights());
                let mut faults = Device::new(stream, &[BEFORE]);
                let args = cuda::Unpack::new(shape, layout, values.view(), metadata.view(), dense.view_mut());
                cuda::unpack_into(stream, args.faults(faults.view_mut()))?;
                Ok((dense.read(stream), faults.read(stream)[0] - BEFORE))
            }
        }
    }

    /// The metadata in another layout, and the number of faults.
    pub(crate) fn reorder(
        &self,
        shape: Shape,
        value_type: DType,
        from: (Layout, &[u8]),
        to: Layout,
    ) -> Result<(Vec<u8>, u32), Error> {
        let bytes = to.sizes(shape, value_type)?.metadata;
        match self {
            Self::Cpu => {
                let mut out = vec![0x55; bytes];
                cpu::reorder_into(cpu::Reorder::new(shape, value_type, from, (to, &mut out)))?;
                Ok((out, 0))
            }
            Self::Emulator(schedule, limits) => {
                let (source, out) = (Array::input("from", from.1), Array::<u8>::output("to", bytes));
                let faults = Array::in_place("faults", &[BEFORE]);
                let args = Reorder::<Raw>::new(shape, value_type, (from.0, source.raw()), (to, out.raw()));
                emulate(&args.faults(faults.raw()).launch(limits)?, *schedule);
                Ok((out.read(), faults.read()[0] - BEFORE))
            }
            Self::Gpu(stream) => {
                let (source, mut out) = (Device::new(stream, from.1), Device::poisoned(stream, bytes));
                let mut faults = Device::new(stream, &[BEFORE]);
                let args = cuda::Reorder::new(shape, value_type, (from.0, source.view()), (to, out.view_mut()));
                cuda::reorder_into(stream, args.faults(faults.view_mut()))?;
                Ok((out.read(stream), faults.read(stream)[0] - BEFORE))
            }
        }
    }
}

/// Elements of the outputs that are wanted.
fn wanted<T: Wide>(case: &Dense<T>) -> [usize; 4] {
    let sizes = case.sizes();
    std::array::from_fn(|i| if case.wants[i] { sizes[i] } else { 0 })
}

fn emulated<T: Wide, L: Logit>(
    case: &Dense<T>,
    schedule: Schedule,
    limits: &Limits,
    args: Pack<'_, Raw, T, L>,
) -> Result<Outputs<T>, Error> {
    let [of_values, of_metadata, of_codes, of_masked] = wanted(case);
    let (values, masked) = (Array::<T>::output("values", of_values), Array::<T>::output("masked", of_masked));
    let (metadata, codes) = (Array::<u8>::output("metadata", of_metadata), Array::<u8>::output("codes", of_codes));
    let faults = Array::in_place("faults", &[BEFORE]);
    let args = outputs!(args, case, values.raw(), metadata.raw(), codes.raw(), masked.raw(), faults.raw());
    emulate(&args.launch(limits)?, schedule);
    Ok(Outputs {
        values: values.read(),
        metadata: metadata.read(),
        codes: codes.read(),
        masked: masked.read(),
        faults: faults.read()[0] - BEFORE,
    })
}

/// Runs a launch as the driver would. A grid without blocks is nothing to do.
pub(crate) fn emulate<A: bytemuck::Pod>(launch: &Launch<A>, schedule: Schedule) {
    if launch.grid.contains(&0) {
        return;
    }
    *RUNS.lock().unwrap().entry(launch.symbol.name).or_default() += 1;
    let of_emulator = twofour_emulator::Launch {
        kernel: Kernel::find(launch.symbol.name).unwrap(),
        grid: launch.grid,
        block: launch.block,
        shared_bytes: launch.shared_bytes,
        args: bytemuck::bytes_of(&launch.args),
    };
    let options = Options { schedule, workers: 1, ..Options::default() };
    if let Err(fault) = twofour_emulator::run(&of_emulator, &options) {
        panic!("{}: {fault}", launch.symbol.name);
    }
}

/// An array on the device. The driver gives no empty one: there is always an element more than its views show.
struct Device<T>(CudaSlice<T>);

impl<T: DeviceRepr + bytemuck::Pod> Device<T> {
    fn new(stream: &Arc<CudaStream>, values: &[T]) -> Self {
        let mut values = values.to_vec();
        values.push(T::zeroed());
        Self(stream.clone_htod(&values).unwrap())
    }

    /// Full of bytes that no kernel writes so.
    fn poisoned(stream: &Arc<CudaStream>, elements: usize) -> Self {
        let mut values = vec![T::zeroed(); elements];
        bytemuck::cast_slice_mut::<T, u8>(&mut values).fill(0xff);
        Self::new(stream, &values)
    }

    fn view(&self) -> twofour::cudarc::driver::CudaView<'_, T> {
        self.0.slice(..self.0.len() - 1)
    }

    fn view_mut(&mut self) -> twofour::cudarc::driver::CudaViewMut<'_, T> {
        let elements = self.0.len() - 1;
        self.0.slice_mut(..elements)
    }

    fn read(&self, stream: &Arc<CudaStream>) -> Vec<T> {
        let mut values = stream.clone_dtoh(&self.0).unwrap();
        stream.synchronize().unwrap();
        values.pop();
        values
    }
}
