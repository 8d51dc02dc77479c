//! Functions of rows as candle operations on the CPU: rows are dealt out to threads, and nothing else is written to
//! memory.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor};

/// Values that are worth a thread.
const WORTH_A_THREAD: usize = 1 << 15;

/// A function of (row number, a row of each input, the output's row), as an operation without gradient.
pub(crate) struct Pass<F> {
    name: &'static str,
    one_column: bool,
    row: F,
}

impl<F> Pass<F> {
    pub(crate) fn new<const N: usize>(name: &'static str, row: F) -> Self
    where
        F: Fn(usize, [&[f32]; N], &mut [f32]) + Sync,
    {
        Self { name, one_column: false, row }
    }

    /// The output has one value a row; otherwise it has the shape of the first input.
    pub(crate) fn with_one_column(self) -> Self {
        Self { one_column: true, ..self }
    }

    pub(crate) fn of_one(self, x: &Tensor) -> Result<Tensor>
    where
        F: Fn(usize, [&[f32]; 1], &mut [f32]) + Sync,
    {
        x.contiguous()?.apply_op1_no_bwd(&self)
    }

    pub(crate) fn of_two(self, x: &Tensor, y: &Tensor) -> Result<Tensor>
    where
        F: Fn(usize, [&[f32]; 2], &mut [f32]) + Sync,
    {
        x.contiguous()?.apply_op2_no_bwd(&y.contiguous()?, &self)
    }

    pub(crate) fn of_three(self, x: &Tensor, y: &Tensor, z: &Tensor) -> Result<Tensor>
    where
        F: Fn(usize, [&[f32]; 3], &mut [f32]) + Sync,
    {
        x.contiguous()?.apply_op3_no_bwd(&y.contiguous()?, &z.contiguous()?, &self)
    }

    /// Of one input, with a gradient made of (input, output, output's gradient).
    pub(crate) fn differentiable<B>(self, x: &Tensor, backward: B) -> Result<Tensor>
    where
        F: Fn(usize, [&[f32]; 1], &mut [f32]) + Send + Sync + 'static,
        B: Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
    {
        x.contiguous()?.apply_op1(Differentiable { pass: self, backward })
    }

    /// Of two inputs, with their gradients made of (input, input, output's gradient).
    pub(crate) fn differentiable_in_two<B>(self, x: &Tensor, y: &Tensor, backward: B) -> Result<Tensor>
    where
        F: Fn(usize, [&[f32]; 2], &mut [f32]) + Send + Sync + 'static,
        B: Fn(&Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)> + Send + Sync + 'static,
    {
        x.contiguous()?.apply_op2(&y.contiguous()?, Differentiable { pass: self, backward })
    }

    fn run<const N: usize>(&self, inputs: [(&CpuStorage, &Layout); N]) -> Result<(CpuStorage, Shape)>
    where
        F: Fn(usize, [&[f32]; N], &mut [f32]) + Sync,
    {
        let mut slices: [&[f32]; N] = [&[]; N];
        for (slice, (storage, layout)) in slices.iter_mut().zip(inputs) {
            let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: self.name })?;
            *slice = &storage.as_slice::<f32>()?[start..end];
        }
        let mut dims = inputs[0].1.dims().to_vec();
        let Some(last) = dims.last_mut() else { candle_core::bail!("{} of a scalar", self.name) };
        let rows = slices[0].len() / (*last).max(1);
        if self.one_column {
            *last = 1;
        }
        let mut out = vec![0.0; rows * *last];
        deal_out(rows, slices, &mut out, &self.row);
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }
}

/// Runs of rows, a thread each.
fn deal_out<const N: usize, F>(rows: usize, inputs: [&[f32]; N], out: &mut [f32], row: &F)
where
    F: Fn(usize, [&[f32]; N], &mut [f32]) + Sync,
{
    if rows == 0 {
        return;
    }
    let width = out.len() / rows;
    let run = |first: usize, out: &mut [f32]| {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let of_row = inputs.map(|x| &x[(first + i) * (x.len() / rows)..][..x.len() / rows]);
            row(first + i, of_row, out);
        }
    };
    let worth = inputs[0].len().div_ceil(WORTH_A_THREAD);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(worth).max(1);
    let each = rows.div_ceil(threads);
    std::thread::scope(|scope| {
        let mut parts = out.chunks_mut(each * width).enumerate();
        let own = parts.next();
        for (part, out) in parts {
            scope.spawn(move || run(part * each, out));
        }
        if let Some((_, out)) = own {
            run(0, out);
        }
    });
}

/// A pass and its gradient.
struct Differentiable<F, B> {
    pass: Pass<F>,
    backward: B,
}

impl<F: Fn(usize, [&[f32]; 1], &mut [f32]) + Sync> CustomOp1 for Pass<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run([(x, layout)])
    }
}

impl<F: Fn(usize, [&[f32]; 2], &mut [f32]) + Sync> CustomOp2 for Pass<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, xs: &Layout, y: &CpuStorage, ys: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run([(x, xs), (y, ys)])
    }
}

impl<F: Fn(usize, [&[f32]; 3], &mut [f32]) + Sync> CustomOp3 for Pass<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xs: &Layout,
        y: &CpuStorage,
        ys: &Layout,
        z: &CpuStorage,
        zs: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run([(x, xs), (y, ys), (z, zs)])
    }
}

impl<F, B> CustomOp1 for Differentiable<F, B>
where
    F: Fn(usize, [&[f32]; 1], &mut [f32]) + Sync,
    B: Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
{
    fn name(&self) -> &'static str {
        self.pass.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.pass.run([(x, layout)])
    }

    fn bwd(&self, x: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(x, result, grad).map(Some)
    }
}

impl<F, B> CustomOp2 for Differentiable<F, B>
where
    F: Fn(usize, [&[f32]; 2], &mut [f32]) + Sync,
    B: Fn(&Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)>,
{
    fn name(&self) -> &'static str {
        self.pass.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, xs: &Layout, y: &CpuStorage, ys: &Layout) -> Result<(CpuStorage, Shape)> {
        self.pass.run([(x, xs), (y, ys)])
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (to_x, to_y) = (self.backward)(x, y, grad)?;
        Ok((Some(to_x), Some(to_y)))
    }
}
