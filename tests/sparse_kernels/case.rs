//! A product with its operands, its run in the emulator, and what it must give.

use crate::number::Number;
use bytemuck::Pod;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use twofour::compress::{Compressed, Layout};
use twofour::device::launch::Launch;
use twofour::matmul::Problem;
use twofour::sparse::launch::{Kernel, Operands, partial_bytes, product, sum};
use twofour::{Pattern, Shape};
use twofour_emulator::{Buffer, Options, Schedule};

/// How often each kernel has run in this process.
pub(crate) static RUNS: LazyLock<Mutex<HashMap<&'static str, usize>>> = LazyLock::new(Mutex::default);

/// Everything of a case but its operands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) kernel: Kernel,
    pub(crate) tokens: usize,
    pub(crate) shape: Shape,
    pub(crate) splits: u32,
    pub(crate) bias: bool,
    /// Seed of the operands.
    pub(crate) data: u64,
}

impl Spec {
    pub(crate) fn new(kernel: Kernel, tokens: usize, rows: usize, cols: usize) -> Self {
        Self { kernel, tokens, shape: Shape::new(rows, cols), splits: 1, bias: false, data: 1 }
    }

    pub(crate) fn problem(&self) -> Problem {
        Problem::new(self.tokens, self.shape)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Case<T: Number> {
    pub(crate) spec: Spec,
    /// The two columns that each group keeps, row-major.
    pub(crate) kept: Vec<[usize; 2]>,
    /// The weight `[N, K]`, zeros where it is dropped.
    pub(crate) dense: Vec<T>,
    pub(crate) x: Vec<T>,
    pub(crate) bias: Vec<T::Y>,
}

impl<T: Number> Case<T> {
    pub(crate) fn new(spec: Spec) -> Self {
        let mut case = Self::with(spec, T::random);
        let mut rng = StdRng::seed_from_u64(spec.data ^ 0xb1a5);
        case.bias.fill_with(|| T::y_of(rng.random_range(-40..40)));
        case
    }

    /// With values from -2 to 2: sums of few are exact.
    pub(crate) fn integers(spec: Spec) -> Self {
        let mut case = Self::with(spec, |rng| T::of(rng.random_range(-2..=2)));
        case.bias.iter_mut().enumerate().for_each(|(i, bias)| *bias = T::y_of(i as i32 % 9 - 4));
        case
    }

    fn with(spec: Spec, number: impl Fn(&mut StdRng) -> T) -> Self {
        let mut rng = StdRng::seed_from_u64(spec.data);
        let kept: Vec<[usize; 2]> =
            (0..spec.shape.groups()).map(|_| positions(Pattern::ALL[rng.random_range(0..6)].code())).collect();
        let mut dense = vec![T::of(0); spec.shape.weights()];
        for (group, &[first, second]) in kept.iter().enumerate() {
            dense[4 * group + first] = number(&mut rng);
            dense[4 * group + second] = number(&mut rng);
        }
        let x = (0..spec.problem().inputs()).map(|_| number(&mut rng)).collect();
        Self { spec, kept, dense, x, bias: vec![T::y_of(0); spec.shape.rows] }
    }

    /// What the kernels read of the weight.
    pub(crate) fn compressed(&self) -> Compressed<T> {
        let mut codes = vec![0u8; self.spec.shape.packed_codes()];
        for (group, &[first, second]) in self.kept.iter().enumerate() {
            codes[group / 2] |= ((first + 4 * second) as u8) << (group % 2 * 4);
        }
        Compressed::with_codes(self.spec.shape, &self.dense, &codes).unwrap()
    }

    /// Runs it in the emulator.
    pub(crate) fn run(&self, schedule: Schedule) -> Vec<T::Y> {
        let compressed = self.compressed();
        let metadata = compressed.metadata(Layout::CutlassSm80).unwrap();
        self.run_with(compressed.values(), &metadata, schedule)
    }

    /// Runs it on these kept values and codes.
    pub(crate) fn run_with(&self, values: &[T], metadata: &[u8], schedule: Schedule) -> Vec<T::Y> {
        let Spec { kernel, splits, bias, .. } = self.spec;
        let problem = self.spec.problem();
        let [x, values] = [("x", &self.x[..]), ("values", values)].map(|(name, from)| input(name, from));
        let (metadata, bias_buffer) = (input("metadata", metadata), input("bias", &self.bias));
        let y = Buffer::output::<u8>("y", problem.outputs() * size_of::<T::Y>()).unwrap();
        let partial = Buffer::output::<u8>("partial", partial_bytes(problem, splits)).unwrap();
        let at = Operands {
            x: x.address(),
            values: values.address(),
            metadata: metadata.address(),
            bias: bias.then(|| bias_buffer.address()),
            y: y.address(),
            partial: partial.address(),
        };
        emulate(&product(kernel, problem, T::DTYPE, &at, splits).unwrap(), schedule);
        if splits > 1 {
            emulate(&sum(problem, T::DTYPE, &at, splits).unwrap(), schedule);
        }
        y.values::<u8>().chunks_exact(size_of::<T::Y>()).map(bytemuck::pod_read_unaligned).collect()
    }

    /// Compares `Y` with the sums of the terms of kept weights, in `f64`, which it must meet within the errors of sums in
    /// `f32`: tensor cores truncate, so each of `n` additions errs by up to 2⁻²³ of the terms' magnitudes, whatever the
    /// order (Higham, section 3.5), and one rounding more. Integers must be equal modulo 2³².
    pub(crate) fn compare(&self, y: &[T::Y]) {
        let [tokens, rows, cols] = [self.spec.tokens, self.spec.shape.rows, self.spec.shape.cols];
        assert_eq!(y.len(), tokens * rows);
        let error = (cols / 2 + self.spec.splits as usize + 1) as f64 * 2f64.powi(-23);
        for (at, &got) in y.iter().enumerate() {
            let (token, row) = (at / rows, at % rows);
            let bias = if self.spec.bias { T::y_wide(self.bias[row]) } else { 0.0 };
            let (sum, size) =
                self.terms(token, row).fold((bias, bias.abs()), |(sum, size), term| (sum + term, size + term.abs()));
            let bound = error / (1.0 - error) * size;
            let bound = bound + T::rounding(sum.abs() + bound);
            let got = T::y_wide(got);
            let same = match T::rounding(1.0) == 0.0 {
                // Sums of integers below 2⁵³ are exact in f64.
                true => got == f64::from(sum as i64 as i32),
                false => got == sum || got.is_nan() && sum.is_nan() || (got - sum).abs() <= bound,
            };
            assert!(same, "y[{token}, {row}] is {got}, expected {sum} within {bound:e}: {} {:?}", T::DTYPE, self.spec);
        }
        // The loop above is no test of a bound so wide that anything meets it.
        assert!(cols > 1 << 20 || error < 0.1);
    }

    fn terms(&self, token: usize, row: usize) -> impl Iterator<Item = f64> {
        let cols = self.spec.shape.cols;
        (0..cols / 4).flat_map(move |group| {
            self.kept[row * cols / 4 + group].map(|position| {
                let col = 4 * group + position;
                self.x[token * cols + col].wide() * self.dense[row * cols + col].wide()
            })
        })
    }

    /// Runs it and compares.
    pub(crate) fn check(&self, schedule: Schedule) {
        self.compare(&self.run(schedule));
    }
}

/// The columns that a code keeps.
pub(crate) fn positions(code: u8) -> [usize; 2] {
    [usize::from(code & 3), usize::from(code >> 2)]
}

/// Runs a launch as the driver would. A grid without blocks is nothing to do.
fn emulate<A: Pod>(launch: &Launch<A>, schedule: Schedule) {
    if launch.grid.contains(&0) {
        return;
    }
    *RUNS.lock().unwrap().entry(launch.symbol.name).or_default() += 1;
    // What every device has.
    assert!(launch.shared_bytes <= 99 << 10, "{}", launch.symbol.name);
    let of_emulator = twofour_emulator::Launch {
        kernel: twofour_emulator::Kernel::find(launch.symbol.name).unwrap(),
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

fn input<V: Pod>(name: &str, values: &[V]) -> Buffer {
    Buffer::input(name, bytemuck::cast_slice::<V, u8>(values)).unwrap()
}
