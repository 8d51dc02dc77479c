//! The emulator as an executor: it is given the works that a device would be given, and runs the kernels as they are.
//! Products by cuBLASLt are done here, naively, at the very addresses that the library would be given.

use super::executor::TestExecutor;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{LazyLock, Mutex};
use twofour::dense::{Call, Product};
use twofour::device::{Launch, Limits};
use twofour::pass::{Binder, Checked, Libraries, Pass, Plan, Queue, Work};
use twofour::space::{Input, Output, Plain, Raw, RawSlice};
use twofour::{DType, Executor, Float, Result, bf16, f16};
use twofour_emulator::{Buffer, Kernel, Options, Schedule};

/// How often each kernel has run in this process.
pub static RUNS: LazyLock<Mutex<HashMap<String, usize>>> = LazyLock::new(Mutex::default);

/// A device so small that tests' sizes are many steps of its grid.
pub const SMALL: Limits = Limits { multiprocessors: 1, ..Limits::A100 };

/// The kernels compiled as C++.
#[derive(Debug, Clone)]
pub struct Emulator {
    pub schedule: Schedule,
    pub limits: Limits,
    pub libraries: Libraries,
}

impl Emulator {
    /// On this schedule, as a small device.
    pub fn new(schedule: Schedule) -> Self {
        Self { schedule, limits: SMALL, libraries: Libraries::CUBLASLT }
    }

    /// On any schedule and one of two devices, by a number.
    pub fn numbered(number: u64) -> Self {
        let schedule = [Schedule::RoundRobin, Schedule::Solo(number), Schedule::Random(number)][number as usize % 3];
        Self { limits: [SMALL, Limits::H200][number as usize / 3 % 2], ..Self::new(schedule) }
    }

    /// With the limits of another device.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs a launch as the driver would. A grid without blocks is nothing to do.
    pub fn launch(&self, launch: &Launch) {
        let name = launch.symbol.name();
        if launch.grid.contains(&0) {
            return;
        }
        *RUNS.lock().unwrap().entry(name.to_owned()).or_default() += 1;
        assert!(launch.shared_bytes <= self.limits.max_shared_bytes, "{name}");
        let of_emulator = twofour_emulator::Launch {
            kernel: Kernel::find(name).unwrap(),
            grid: launch.grid,
            block: [launch.threads, 1, 1],
            shared_bytes: launch.shared_bytes,
            args: launch.args.bytes(),
        };
        let options = Options { schedule: self.schedule, workers: 1, ..Options::default() };
        if let Err(fault) = twofour_emulator::run(&of_emulator, &options) {
            panic!("{name}: {fault}");
        }
    }

    /// What a pass would give a device to do.
    pub fn works<P: Pass<Raw>>(&self, pass: P) -> Result<Vec<Work>> {
        let (mut pass, mut queue) = (Checked::new(pass)?, Queue::new(self.limits));
        P::queue(&mut pass, &mut Binder::bare(), &mut queue)?;
        Ok(queue.works().copied().collect())
    }
}

impl TestExecutor for Emulator {
    fn has_tensor_cores(&self) -> bool {
        true
    }
}

impl Executor for Emulator {
    type Space = Raw;
    type Buffer<T: Plain> = Array<T>;

    fn run<P: Pass<Raw>>(&mut self, pass: P) -> Result<()> {
        for work in self.works(pass)? {
            match work {
                Work::Kernel(launch) => self.launch(&launch),
                Work::Dense(call) => multiply(&call),
                other => panic!("the emulator has no {other:?}"),
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
        let buffer = Buffer::input("input", bytemuck::cast_slice::<T, u8>(values)).unwrap();
        Ok(Array { buffer, read_only: true, elements: values.len(), of: PhantomData })
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
        Ok((bytes > 0).then(|| Array::writable(&vec![0xff; bytes])))
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
pub struct Array<T> {
    buffer: Buffer,
    read_only: bool,
    elements: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Array<T> {
    fn writable(values: &[T]) -> Self {
        let buffer = Buffer::in_place("output", bytemuck::cast_slice::<T, u8>(values)).unwrap();
        Self { buffer, read_only: false, elements: values.len(), of: PhantomData }
    }

    pub fn read(&self) -> Vec<T> {
        self.buffer.values::<u8>().chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    /// Sets every byte.
    pub fn fill(&self, byte: u8) {
        self.buffer.fill(byte);
    }
}

impl<'a, T: Plain> Input<'a> for &'a Array<T> {
    type Space = Raw;
    type Element = T;
    fn input(self) -> RawSlice<T> {
        RawSlice::new(self.buffer.address(), self.elements)
    }
}

impl<'a, T: Plain> Output<'a> for &'a mut Array<T> {
    type Space = Raw;
    type Element = T;
    fn output(self) -> RawSlice<T> {
        if self.read_only {
            *self = Self::writable(&self.read());
        }
        RawSlice::new(self.buffer.address(), self.elements)
    }
}

/// A product in `f32`, one rounding at the end; of integers, one that wraps.
fn multiply(call: &Call) {
    match (call.form.product.operands, call.form.product.result) {
        (DType::I8, _) => multiply_as::<i8, i32, i32>(call, 0, |a, b| i32::from(a) * i32::from(b), i32::wrapping_add, |sum| sum),
        (DType::F32, _) => multiply_floats::<f32, f32>(call),
        (DType::F16, DType::F32) => multiply_floats::<f16, f32>(call),
        (DType::F16, _) => multiply_floats::<f16, f16>(call),
        (_, DType::F32) => multiply_floats::<bf16, f32>(call),
        _ => multiply_floats::<bf16, bf16>(call),
    }
}

fn multiply_floats<T: Float, C: Float>(call: &Call) {
    let bias = call.bias.map(|bias| {
        // SAFETY: the work under test says that there is a buffer of so many elements; a guard page ends the test if not.
        unsafe { std::slice::from_raw_parts(bias as *const C, call.form.product.cols) }
    });
    let col = std::cell::Cell::new(0);
    multiply_as::<T, C, f32>(call, 0.0, |a, b| a.to_f32() * b.to_f32(), |a, b| a + b, |sum| {
        let at = col.replace((col.get() + 1) % call.form.product.cols);
        C::from_f32(sum + bias.map_or(0.0, |bias| bias[at].to_f32()))
    });
}

fn multiply_as<T: Plain, C: Plain, Sum>(
    call: &Call,
    zero: Sum,
    times: impl Fn(T, T) -> Sum,
    add: impl Fn(Sum, Sum) -> Sum,
    finish: impl Fn(Sum) -> C,
) where
    Sum: Copy,
{
    let Product { rows, depth, cols, a_transposed, b_transposed, a_pitch, .. } = call.form.product;
    if rows == 0 || cols == 0 {
        return;
    }
    let (a_rows, a_cols) = if a_transposed { (depth, rows) } else { (rows, depth) };
    let a_elements = if a_rows == 0 { 0 } else { (a_rows - 1) * a_pitch + a_cols };
    let b_pitch = if b_transposed { depth } else { cols };
    // SAFETY: the work under test says that there is a buffer of so many elements; a guard page ends the test if not.
    let a = unsafe { std::slice::from_raw_parts(call.a as *const T, a_elements) };
    // SAFETY: as above.
    let b = unsafe { std::slice::from_raw_parts(call.b as *const T, depth * cols) };
    // SAFETY: as above; it is an output or a part of the workspace, apart from the other two.
    let c = unsafe { std::slice::from_raw_parts_mut(call.c as *mut C, rows * cols) };
    for (i, c) in c.iter_mut().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let term = |d: usize| {
            let a = a[if a_transposed { d * a_pitch + row } else { row * a_pitch + d }];
            times(a, b[if b_transposed { col * b_pitch + d } else { d * b_pitch + col }])
        };
        *c = finish((0..depth).map(term).fold(zero, &add));
    }
}
