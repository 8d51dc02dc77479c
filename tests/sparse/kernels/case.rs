//! A product with its operands, how it is run, and what it must give.

use crate::common::{Emulator, SMALL, TestExecutor};
use crate::number::Number;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::compress::{Compressed, Layout};
use twofour::device::Limits;
use twofour::sparse::{Given, Multiply, Plan, Problem, Route, Weight};
use twofour::{Libraries, Pattern, Shape};
use twofour_emulator::Schedule;

/// The emulator as a device with the shared memory that every device has.
pub(crate) fn emulator(schedule: Schedule) -> Emulator {
    Emulator::new(schedule).limits(Limits { max_shared_bytes: 99 << 10, ..SMALL })
}

/// Everything of a case but its operands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) route: Route,
    pub(crate) tokens: usize,
    pub(crate) shape: Shape,
    pub(crate) splits: u32,
    pub(crate) bias: bool,
    /// Seed of the operands.
    pub(crate) data: u64,
}

impl Spec {
    pub(crate) fn new(route: Route, tokens: usize, rows: usize, cols: usize) -> Self {
        Self { route, tokens, shape: Shape::new(rows, cols), splits: 1, bias: false, data: 1 }
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
    pub(crate) bias: Vec<T::Output>,
}

impl<T: Number> Case<T> {
    pub(crate) fn new(spec: Spec) -> Self {
        let mut case = Self::with(spec, T::random);
        let mut rng = StdRng::seed_from_u64(spec.data ^ 0xb1a5);
        case.bias.fill_with(|| T::output(rng.random_range(-40..40) as f32));
        case
    }

    /// With values from -2 to 2: sums of few are exact.
    pub(crate) fn integers(spec: Spec) -> Self {
        let mut case = Self::with(spec, |rng| T::of(rng.random_range(-2..=2) as f32));
        case.bias.iter_mut().enumerate().for_each(|(i, bias)| *bias = T::output((i as i32 % 9 - 4) as f32));
        case
    }

    fn with(spec: Spec, number: impl Fn(&mut StdRng) -> T) -> Self {
        let mut rng = StdRng::seed_from_u64(spec.data);
        let kept: Vec<[usize; 2]> =
            (0..spec.shape.groups()).map(|_| positions(Pattern::ALL[rng.random_range(0..6)].code())).collect();
        let mut dense = vec![T::of(0.0); spec.shape.weights()];
        for (group, &[first, second]) in kept.iter().enumerate() {
            dense[4 * group + first] = number(&mut rng);
            dense[4 * group + second] = number(&mut rng);
        }
        let x = (0..spec.problem().inputs()).map(|_| number(&mut rng)).collect();
        Self { spec, kept, dense, x, bias: vec![T::output(0.0); spec.shape.rows] }
    }

    /// What the kernels read of the weight.
    pub(crate) fn compressed(&self) -> Compressed<T> {
        let mut codes = vec![0u8; self.spec.shape.packed_codes()];
        for (group, &[first, second]) in self.kept.iter().enumerate() {
            codes[group / 2] |= ((first + 4 * second) as u8) << (group % 2 * 4);
        }
        Compressed::with_codes(self.spec.shape, &self.dense, &codes).unwrap()
    }

    /// Runs it.
    pub(crate) fn run(&self, on: &mut impl TestExecutor) -> Vec<T::Output> {
        let compressed = self.compressed();
        let metadata = compressed.metadata(Layout::CutlassSm80).unwrap();
        self.run_with(on, compressed.values(), &metadata)
    }

    /// Runs it on these kept values and codes.
    pub(crate) fn run_with<E: TestExecutor>(&self, on: &mut E, values: &[T], metadata: &[u8]) -> Vec<T::Output> {
        let Spec { route, splits, bias, shape, .. } = self.spec;
        let given = Given { bias, ..Given::WEIGHT };
        let plan = Plan::by(route, &on.limits(), self.spec.problem(), given, Libraries::NONE);
        let plan = plan.and_then(|plan| plan.with_splits(splits)).unwrap();
        let (values, metadata) = (on.upload(values).unwrap(), on.upload(metadata).unwrap());
        let (x, of_bias) = (on.upload(&self.x).unwrap(), on.upload(&self.bias).unwrap());
        let (mut y, mut workspace) = (on.poisoned(self.spec.problem().outputs()), on.poisoned(plan.workspace_bytes()));
        let weight = Weight::new(shape, Layout::CutlassSm80, E::input(&values), E::input(&metadata));
        let pass = Multiply::new(&weight, self.spec.tokens, E::input(&x), E::output(&mut y)).plan(&plan);
        let pass = pass.workspace(E::output(&mut workspace));
        on.run(if bias { pass.bias(E::input(&of_bias)) } else { pass }).unwrap();
        on.download(&y).unwrap()
    }

    /// Compares `Y` with the sums of the terms of kept weights, in `f64`, which it must meet within the errors of sums in
    /// `f32`: tensor cores truncate, so each of `n` additions errs by up to 2⁻²³ of the terms' magnitudes, whatever the
    /// order (Higham, section 3.5), and one rounding more. Integers must be equal modulo 2³².
    pub(crate) fn compare(&self, y: &[T::Output]) {
        let [tokens, rows, cols] = [self.spec.tokens, self.spec.shape.rows, self.spec.shape.cols];
        assert_eq!(y.len(), tokens * rows);
        let error = (cols / 2 + self.spec.splits as usize + 1) as f64 * 2f64.powi(-23);
        for (at, &got) in y.iter().enumerate() {
            let (token, row) = (at / rows, at % rows);
            let bias = if self.spec.bias { T::result(self.bias[row]) } else { 0.0 };
            let (sum, size) =
                self.terms(token, row).fold((bias, bias.abs()), |(sum, size), term| (sum + term, size + term.abs()));
            let bound = error / (1.0 - error) * size;
            let bound = bound + T::ROUNDOFF.0 * (sum.abs() + bound) + T::ROUNDOFF.1;
            let got = T::result(got);
            let same = match T::ROUNDOFF.0 == 0.0 {
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
                self.x[token * cols + col].number() * self.dense[row * cols + col].number()
            })
        })
    }

    /// Runs it and compares.
    pub(crate) fn check(&self, on: &mut impl TestExecutor) {
        self.compare(&self.run(on));
    }
}

/// The columns that a code keeps.
pub(crate) fn positions(code: u8) -> [usize; 2] {
    [usize::from(code & 3), usize::from(code >> 2)]
}
