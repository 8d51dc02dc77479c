//! The executors, each with its memory: an op of `learn` is set up once for all of them.

use crate::array::Array;
use bytemuck::Pod;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use twofour::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use twofour::device::launch::Launch;
use twofour::device::{self, Limits};
use twofour::learn::launch::Pass;
use twofour::learn::{self, Clip, Fused, Initial, Measure, Norm, Prior, Update};
use twofour::mask::{self, GradientOf};
use twofour::space::{Cuda, Host, Raw, RawSlice, Space};
use twofour::{Float, Logit};
use twofour_emulator::{Kernel, Options, Schedule};

/// What operands are made of.
pub(crate) trait Plain: Pod + DeviceRepr + ValidAsZeroBits {}
impl<T: Pod + DeviceRepr + ValidAsZeroBits> Plain for T {}
/// An executor and its memory.
pub(crate) trait Memory {
    type S: Space;
    type Held<T: Plain>;

    fn input<T: Plain>(&self, name: &str, values: &[T]) -> Self::Held<T>;
    fn in_place<T: Plain>(&self, name: &str, values: &[T]) -> Self::Held<T>;
    fn read<T: Plain>(&self, held: &Self::Held<T>) -> Vec<T>;
    fn get<T: Plain>(held: &Self::Held<T>) -> <Self::S as Space>::Ref<'_, T>;
    fn get_mut<T: Plain>(held: &mut Self::Held<T>) -> <Self::S as Space>::Mut<'_, T>;

    fn initial<L: Logit>(&self, args: Initial<'_, Self::S, L>);
    fn prior<L: Logit>(&self, args: Prior<'_, Self::S, L>);
    fn update<L: Logit>(&self, args: Update<'_, Self::S, L>);
    fn fused<L: Logit, W: Float, G: GradientOf<W>>(&self, args: Fused<'_, Self::S, L, W, G>);
    fn measure<L: Logit, W: Float, G: GradientOf<W>>(&self, args: Measure<'_, Self::S, L, W, G>);
    fn norm(&self, args: Norm<'_, Self::S>);
    fn clip(&self, args: Clip<'_, Self::S>);
    fn backward<L: Logit, W: Float, G: GradientOf<W>>(&self, args: mask::Backward<'_, Self::S, L, W, G>);
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu;

impl Memory for Cpu {
    type S = Host;
    type Held<T: Plain> = Vec<T>;

    fn input<T: Plain>(&self, _: &str, values: &[T]) -> Vec<T> {
        values.to_vec()
    }
    fn in_place<T: Plain>(&self, _: &str, values: &[T]) -> Vec<T> {
        values.to_vec()
    }
    fn read<T: Plain>(&self, held: &Vec<T>) -> Vec<T> {
        held.clone()
    }
    fn get<T: Plain>(held: &Vec<T>) -> &[T] {
        held
    }
    fn get_mut<T: Plain>(held: &mut Vec<T>) -> &mut [T] {
        held
    }

    fn initial<L: Logit>(&self, args: Initial<'_, Host, L>) {
        learn::cpu::initial_into(args).unwrap();
    }
    fn prior<L: Logit>(&self, args: Prior<'_, Host, L>) {
        learn::cpu::prior_into(args).unwrap();
    }
    fn update<L: Logit>(&self, args: Update<'_, Host, L>) {
        learn::cpu::update_into(args).unwrap();
    }
    fn fused<L: Logit, W: Float, G: GradientOf<W>>(&self, args: Fused<'_, Host, L, W, G>) {
        learn::cpu::fused_into(args).unwrap();
    }
    fn measure<L: Logit, W: Float, G: GradientOf<W>>(&self, args: Measure<'_, Host, L, W, G>) {
        learn::cpu::measure_into(args).unwrap();
    }
    fn norm(&self, args: Norm<'_, Host>) {
        learn::cpu::norm_into(args).unwrap();
    }
    fn clip(&self, args: Clip<'_, Host>) {
        learn::cpu::clip_into(args).unwrap();
    }
    fn backward<L: Logit, W: Float, G: GradientOf<W>>(&self, args: mask::Backward<'_, Host, L, W, G>) {
        mask::cpu::backward_into(args).unwrap();
    }
}

/// How often each kernel has run in this process.
pub(crate) static RUNS: LazyLock<Mutex<HashMap<&'static str, usize>>> = LazyLock::new(Mutex::default);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Emulator {
    schedule: Schedule,
    limits: Limits,
}

impl Emulator {
    /// On any schedule, by a number; on a device so small that large tests are many steps of its grid, or on a large one.
    pub(crate) fn new(number: u64) -> Self {
        let schedule = [Schedule::RoundRobin, Schedule::Solo(number), Schedule::Random(number)][number as usize % 3];
        let small = Limits { multiprocessors: 1, ..Limits::A100 };
        Self { schedule, limits: [small, Limits::H200][number as usize / 3 % 2] }
    }

    /// Runs a launch as the driver would.
    fn run<A: Pod>(&self, launch: &Launch<A>) {
        *RUNS.lock().unwrap().entry(launch.symbol.name).or_default() += 1;
        let of_emulator = twofour_emulator::Launch {
            kernel: Kernel::find(launch.symbol.name).unwrap(),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            args: bytemuck::bytes_of(&launch.args),
        };
        let options = Options { schedule: self.schedule, workers: 1, ..Options::default() };
        if let Err(fault) = twofour_emulator::run(&of_emulator, &options) {
            panic!("{}: {fault}", launch.symbol.name);
        }
    }

    fn pass<A: Pod>(&self, pass: &Pass<A>) {
        self.run(&pass.pass);
        pass.finish.iter().for_each(|finish| self.run(finish));
    }
}

impl Memory for Emulator {
    type S = Raw;
    type Held<T: Plain> = Array<T>;

    fn input<T: Plain>(&self, name: &str, values: &[T]) -> Array<T> {
        Array::input(name, values)
    }
    fn in_place<T: Plain>(&self, name: &str, values: &[T]) -> Array<T> {
        Array::in_place(name, values)
    }
    fn read<T: Plain>(&self, held: &Array<T>) -> Vec<T> {
        held.read()
    }
    fn get<T: Plain>(held: &Array<T>) -> RawSlice {
        held.raw()
    }
    fn get_mut<T: Plain>(held: &mut Array<T>) -> RawSlice {
        held.raw()
    }

    fn initial<L: Logit>(&self, args: Initial<'_, Raw, L>) {
        self.run(&args.launch(&self.limits).unwrap());
    }
    fn prior<L: Logit>(&self, args: Prior<'_, Raw, L>) {
        self.run(&args.launch(&self.limits).unwrap());
    }
    fn update<L: Logit>(&self, args: Update<'_, Raw, L>) {
        self.pass(&args.launch(&self.limits).unwrap());
    }
    fn fused<L: Logit, W: Float, G: GradientOf<W>>(&self, args: Fused<'_, Raw, L, W, G>) {
        self.pass(&args.launch(&self.limits).unwrap());
    }
    fn measure<L: Logit, W: Float, G: GradientOf<W>>(&self, args: Measure<'_, Raw, L, W, G>) {
        self.pass(&args.launch(&self.limits).unwrap());
    }
    fn norm(&self, args: Norm<'_, Raw>) {
        self.pass(&args.launch(&self.limits).unwrap());
    }
    fn clip(&self, args: Clip<'_, Raw>) {
        self.run(&args.launch().unwrap());
    }
    fn backward<L: Logit, W: Float, G: GradientOf<W>>(&self, args: mask::Backward<'_, Raw, L, W, G>) {
        self.run(&args.launch(&self.limits).unwrap());
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Gpu(Arc<CudaStream>);

/// The GPU's executor, or `None` after saying that there is no GPU; fails instead if `TWOFOUR_REQUIRE_GPU=1`.
pub(crate) fn gpu() -> Option<Gpu> {
    match device::context(0) {
        Ok(context) => Some(Gpu(context.default_stream())),
        Err(error) if std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some_and(|v| v == "1") => {
            panic!("TWOFOUR_REQUIRE_GPU=1, but {error}")
        }
        Err(error) => {
            println!("skipped: no CUDA device ({error})");
            None
        }
    }
}

impl Memory for Gpu {
    type S = Cuda;
    type Held<T: Plain> = CudaSlice<T>;

    fn input<T: Plain>(&self, _: &str, values: &[T]) -> CudaSlice<T> {
        self.0.clone_htod(values).unwrap()
    }
    fn in_place<T: Plain>(&self, _: &str, values: &[T]) -> CudaSlice<T> {
        self.0.clone_htod(values).unwrap()
    }
    fn read<T: Plain>(&self, held: &CudaSlice<T>) -> Vec<T> {
        let values = self.0.clone_dtoh(held).unwrap();
        self.0.synchronize().unwrap();
        values
    }
    fn get<T: Plain>(held: &CudaSlice<T>) -> twofour::cudarc::driver::CudaView<'_, T> {
        held.as_view()
    }
    fn get_mut<T: Plain>(held: &mut CudaSlice<T>) -> twofour::cudarc::driver::CudaViewMut<'_, T> {
        held.as_view_mut()
    }

    fn initial<L: Logit>(&self, args: Initial<'_, Cuda, L>) {
        learn::cuda::initial_into(&self.0, args).unwrap();
    }
    fn prior<L: Logit>(&self, args: Prior<'_, Cuda, L>) {
        learn::cuda::prior_into(&self.0, args).unwrap();
    }
    fn update<L: Logit>(&self, args: Update<'_, Cuda, L>) {
        learn::cuda::update_into(&self.0, args).unwrap();
    }
    fn fused<L: Logit, W: Float, G: GradientOf<W>>(&self, args: Fused<'_, Cuda, L, W, G>) {
        learn::cuda::fused_into(&self.0, args).unwrap();
    }
    fn measure<L: Logit, W: Float, G: GradientOf<W>>(&self, args: Measure<'_, Cuda, L, W, G>) {
        learn::cuda::measure_into(&self.0, args).unwrap();
    }
    fn norm(&self, args: Norm<'_, Cuda>) {
        learn::cuda::norm_into(&self.0, args).unwrap();
    }
    fn clip(&self, args: Clip<'_, Cuda>) {
        learn::cuda::clip_into(&self.0, args).unwrap();
    }
    fn backward<L: Logit, W: Float, G: GradientOf<W>>(&self, args: mask::Backward<'_, Cuda, L, W, G>) {
        mask::cuda::backward_into(&self.0, args).unwrap();
    }
}
