//! The emulator as an executor: it is given the works that a device would be given, and runs the kernels as they are.
//! Products by cuBLASLt are done here, naively, at the very addresses that the library would be given.

use super::counts::{FAR, MANY_BLOCKS, ran};
use super::executor::TestExecutor;

use std::marker::PhantomData;
use std::ops::Range;
use twofour::device::{Launch, Limits};
use twofour::pass::{Binder, Checked, Libraries, Names, Pass, Plan, Queue, Work};
use twofour::space::{Input, Output, Plain, Raw, RawSlice};
use twofour::{Executor, Result};
use twofour_emulator::tensor::Arithmetic;
use twofour_emulator::{Buffer, Kernel, Options, Schedule, rename, written};

pub mod beside;
mod corner;
mod product;

pub use corner::Corner;

/// A device so small that tests' sizes are many steps of its grid.
pub const SMALL: Limits = Limits { multiprocessors: 1, ..Limits::A100 };

/// What a product by cuBLASLt is called.
pub const CUBLASLT: &str = "cuBLASLt";

/// The kernels compiled as C++.
#[derive(Debug, Clone)]
pub struct Emulator {
    pub schedule: Schedule,
    pub limits: Limits,
    pub libraries: Libraries,
    /// Blocks that run at a time.
    pub workers: usize,
    /// How tensor cores add.
    pub arithmetic: Arithmetic,
    /// Only these blocks of a grid.
    pub blocks: Option<Range<u64>>,
    /// For random problems, of which there are many.
    pub is_random: bool,
}

impl Emulator {
    /// On this schedule, as a small device with cuBLASLt, a block at a time.
    pub fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            limits: SMALL,
            libraries: Libraries::CUBLASLT,
            workers: 1,
            arithmetic: Arithmetic::InOrder,
            blocks: None,
            is_random: false,
        }
    }

    /// By a number: on any schedule, three times of four as a small device and else as an H200, two blocks at a time or
    /// one.
    pub fn numbered(number: u64) -> Self {
        let schedule = [Schedule::RoundRobin, Schedule::Solo(number), Schedule::Random(number)][number as usize % 3];
        let limits = [SMALL, SMALL, SMALL, Limits::H200][number as usize / 3 % 4];
        Self { limits, workers: 1 + number as usize % 2, ..Self::new(schedule).random() }
    }

    /// A few that differ much.
    pub fn several() -> impl Iterator<Item = Self> {
        [
            Self::new(Schedule::RoundRobin),
            Self::new(Schedule::Solo(1)),
            Self::new(Schedule::Random(2)).limits(Limits::H200),
        ]
        .into_iter()
    }

    /// For random problems: see [`beside::enough`].
    pub fn random(mut self) -> Self {
        self.is_random = true;
        self
    }

    /// With the limits of another device.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// With these libraries.
    pub fn libraries(mut self, libraries: Libraries) -> Self {
        self.libraries = libraries;
        self
    }

    /// Runs the last block alone of a launch over more than memory holds: on a grid of so many blocks along x that a
    /// thread has one step to take, whatever the grid was. Kernels step by the grid they find.
    pub fn launch_last(&self, launch: &Launch, blocks: usize) {
        let launch = launch.grid([u32::try_from(blocks).unwrap(), launch.grid[1], launch.grid[2]]);
        let all: u64 = launch.grid.iter().map(|&blocks| u64::from(blocks)).product();
        Self { blocks: Some(all - 1..all), ..self.clone() }.launch(&launch);
    }

    /// Runs a launch as the driver would. A grid without blocks is nothing to do.
    pub fn launch(&self, launch: &Launch) {
        let name = launch.symbol.name();
        if launch.grid.contains(&0) {
            return;
        }
        assert!(launch.shared_bytes <= self.limits.max_shared_bytes, "{name}");
        let of_emulator = twofour_emulator::Launch {
            kernel: Kernel::find(name).unwrap(),
            grid: launch.grid,
            block: [launch.threads, 1, 1],
            shared_bytes: launch.shared_bytes,
            args: launch.args.bytes(),
        };
        if of_emulator.largest_buffer() > u32::MAX as usize {
            ran(name, FAR);
        }
        let blocks = launch.grid.iter().map(|&blocks| u64::from(blocks)).product::<u64>();
        let first = self.blocks.as_ref().map_or(0, |some| some.start);
        if blocks > 256 && (first == 0 || first >= 256 && !leaves_shares(name)) {
            ran(name, MANY_BLOCKS);
        }
        let Self { schedule, workers, arithmetic, ref blocks, .. } = *self;
        let options = Options { schedule, workers, arithmetic, blocks: blocks.clone(), watch: false };
        if let Err(fault) = beside::run(&of_emulator, &options, self.is_random) {
            panic!("{name}: {fault}");
        }
    }
}

/// Whether each block of a kernel leaves a share of sums that another kernel adds up, and must not miss one.
fn leaves_shares(kernel: &str) -> bool {
    let some =
        ["mask_full", "learn_update", "learn_fused", "learn_norm", "select_score", "select_squares", "distil_squares"];
    kernel.strip_prefix("twofour_").is_some_and(|name| some.iter().any(|some| name.starts_with(some)))
}

/// What a pass gives a device with these limits to do.
pub fn works<P: Pass<Raw>>(limits: Limits, pass: P) -> Result<Vec<Work>> {
    named_works(limits, pass, &mut Names::new())
}

/// The kernels' launches of a pass.
pub fn launches<P: Pass<Raw>>(limits: Limits, pass: P) -> Result<Vec<Launch>> {
    let kernel = |work| match work {
        Work::Kernel(launch) => Some(launch),
        _ => None,
    };
    Ok(works(limits, pass)?.into_iter().filter_map(kernel).collect())
}

fn named_works<P: Pass<Raw>>(limits: Limits, pass: P, names: &mut Names) -> Result<Vec<Work>> {
    let (mut pass, mut queue) = (Checked::new(pass)?, Queue::new(limits));
    // SAFETY: the emulator checks every access; what it does not run is only looked at.
    let mut binder = unsafe { Binder::naming(names) };
    P::queue(&mut pass, &mut binder, &mut queue)?;
    Ok(queue.works().copied().collect())
}

impl TestExecutor for Emulator {
    const TENSOR_CORES: bool = true;

    fn poisoned<T: Plain>(&self, elements: usize) -> Array<T> {
        Array::new(Buffer::output::<u8>("output", elements * size_of::<T>()).unwrap(), false)
    }
}

impl Executor for Emulator {
    type Space = Raw;
    type Buffer<T: Plain> = Array<T>;

    fn run<P: Pass<Raw>>(&mut self, pass: P) -> Result<()> {
        let mut names = Names::new();
        let works = named_works(self.limits, pass, &mut names)?;
        // So that a fault says which operand it was.
        names.into_iter().for_each(|(name, address)| rename(address, name));
        for work in works {
            match work {
                Work::Kernel(launch) => self.launch(&launch),
                Work::Dense(call) => {
                    product::multiply(&call);
                }
                Work::Cusparselt(call) => panic!("the emulator has no cuSPARSELt: {call:?}"),
            }
        }
        Ok(())
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn libraries(&self) -> Libraries {
        self.libraries
    }

    fn zeros<T: Plain>(&self, elements: usize) -> Result<Array<T>> {
        Ok(Array::writable(&vec![T::zeroed(); elements]))
    }

    /// An input, to which a store is a fault, until it is borrowed as an output.
    fn upload<T: Plain>(&self, values: &[T]) -> Result<Array<T>> {
        Ok(Array::new(Buffer::input::<u8>("input", bytemuck::cast_slice(values)).unwrap(), true))
    }

    fn download<T: Plain>(&self, buffer: &Array<T>) -> Result<Vec<T>> {
        Ok(buffer.read())
    }

    fn input<T: Plain>(buffer: &Array<T>) -> RawSlice<T> {
        buffer.input()
    }

    fn output<T: Plain>(buffer: &mut Array<T>) -> RawSlice<T> {
        buffer.output()
    }

    /// Full of what no pass may read.
    fn workspace(&self, bytes: usize) -> Result<Option<Array<u8>>> {
        Ok((bytes > 0).then(|| self.poisoned(bytes)))
    }

    fn prepare<P: Plan>(&mut self, plan: &P) -> Result<()> {
        let mut queue = Queue::new(self.limits);
        plan.rehearse(&mut queue)?;
        for work in queue.works() {
            if let Work::Kernel(launch) = work {
                Kernel::find(launch.symbol.name()).unwrap();
            }
        }
        Ok(())
    }
}

/// A buffer of the emulator with a type.
#[derive(Debug)]
pub struct Array<T> {
    buffer: Buffer,
    read_only: bool,
    of: PhantomData<T>,
}

impl<T> Array<T> {
    fn new(buffer: Buffer, read_only: bool) -> Self {
        Self { buffer, read_only, of: PhantomData }
    }

    fn raw(&self) -> RawSlice<T> {
        RawSlice::new(self.buffer.address(), self.buffer.len() / size_of::<T>())
    }

    /// So many elements that take memory only where they are touched, and are zero.
    pub fn reserved(elements: usize) -> Self {
        Self::new(Buffer::reserve("reserved", elements * size_of::<T>()).unwrap(), false)
    }

    /// Elements in the array.
    pub fn elements(&self) -> usize {
        self.buffer.len() / size_of::<T>()
    }

    /// Sets every byte.
    pub fn fill(&self, byte: u8) {
        self.buffer.fill(byte);
    }
}

impl<T: Plain> Array<T> {
    fn writable(values: &[T]) -> Self {
        Self::new(Buffer::in_place::<u8>("output", bytemuck::cast_slice(values)).unwrap(), false)
    }

    /// So many elements that take memory only where they are touched, and are zero but for the last ones.
    pub fn ending(elements: usize, end: &[T]) -> Self {
        let array = Self::reserved(elements);
        array.write_at(elements - end.len(), end);
        array
    }

    /// Overwrites elements from the `first` on.
    pub fn write_at(&self, first: usize, values: &[T]) {
        assert!(!self.read_only && first + values.len() <= self.elements());
        let to = (self.buffer.address() as usize + first * size_of::<T>()) as *mut T;
        written(to as u64, size_of_val(values));
        // SAFETY: the elements are inside the buffer, which is writable and to which there are no references; buffers
        // begin on 16 bytes.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len()) }
    }

    pub fn read(&self) -> Vec<T> {
        of_bytes(&self.buffer.values::<u8>())
    }

    /// The last elements.
    pub fn read_end(&self, elements: usize) -> Vec<T> {
        self.read_at(self.buffer.len() / size_of::<T>() - elements, elements)
    }

    /// So many elements from the `first` on.
    pub fn read_at(&self, first: usize, elements: usize) -> Vec<T> {
        of_bytes(&self.buffer.values_at::<u8>(first * size_of::<T>(), elements * size_of::<T>()))
    }
}

fn of_bytes<T: Plain>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

impl<'a, T: Plain> Input<'a> for &'a Array<T> {
    type Space = Raw;
    type Element = T;
    fn input(self) -> RawSlice<T> {
        self.raw()
    }
}

impl<'a, T: Plain> Output<'a> for &'a mut Array<T> {
    type Space = Raw;
    type Element = T;
    fn output(self) -> RawSlice<T> {
        if self.read_only {
            *self = Array::writable(&self.read());
        }
        self.raw()
    }
}
