//! Recovery after pruning: a small network learns a made-up task, its layers are pruned to 2:4 by magnitude, and what
//! that cost is won back in two ways: the weight trains on under the mask, which stays as it is ([`FrozenMaskLinear`]);
//! or the pruned weight is frozen, and a low-rank delta beside it trains (a LoRA, arXiv 2106.09685), which no mask
//! keeps from anything. `cargo run --example recover` (seconds).

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{AdamW, Linear, Optimizer, ParamsAdamW};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::StandardNormal;
use twofour_candle::{Engine, FrozenMaskLinear};

const IN: usize = 32;
const HIDDEN: usize = 64;
const OUT: usize = 16;
/// Of deltas.
const RANK: usize = 2;

fn main() -> Result<()> {
    let rng = &mut StdRng::seed_from_u64(24);
    let task = Task::new(rng)?;

    let layers = [variable(rng, &[HIDDEN, IN])?, variable(rng, &[OUT, HIDDEN])?];
    let dense = layers.each_ref().map(|weight| Linear::new(weight.as_tensor().clone(), None));
    report("dense, trained", task.learn(&dense, &layers, 600)?);

    // The weights as they are now: the dense ones do not move any more.
    let engine = Engine::default();
    let weights = layers.each_ref().map(|weight| weight.as_tensor().copy());
    let pruned = weights.map(|weight| FrozenMaskLinear::by_magnitude(&Linear::new(weight?, None), &engine));
    let [first, second] = pruned;
    let pruned = [first?, second?];
    report("2:4 by magnitude", task.loss(&pruned)?);

    let mut deltas = Vec::new();
    for layer in pruned.clone() {
        deltas.push(WithDelta::new(layer, rng)?);
    }
    let vars: Vec<Var> = deltas.iter().flat_map(|layer| [layer.down.clone(), layer.up.clone()]).collect();
    report("its weight frozen, a delta of rank 2 beside it", task.learn(&deltas, &vars, 300)?);

    let vars = [Var::from_tensor(pruned[0].weight())?, Var::from_tensor(pruned[1].weight())?];
    let mut trained = Vec::new();
    for (layer, weight) in pruned.iter().zip(&vars) {
        // A variable for its weight: now it trains, under the same mask.
        let linear = Linear::new(weight.as_tensor().clone(), None);
        trained.push(FrozenMaskLinear::new(&linear, layer.mask().clone(), &engine)?);
    }
    report("its weight trained under the mask", task.learn(&trained, &vars, 300)?);

    // What is shipped: kept values and codes, bf16.
    let mut bytes = 0;
    for layer in &trained {
        let weight = layer.compressed_as(DType::BF16)?;
        bytes += 2 * layer.shape().weights() / 2 + weight.codes().len();
    }
    println!("compressed: {bytes} bytes instead of {}", 2 * (IN * HIDDEN + HIDDEN * OUT));
    Ok(())
}

fn report(what: &str, loss: f32) {
    println!("{what:<48} loss {loss:.5}");
}

/// A layer under its mask, frozen, and `x Aᵀ Bᵀ` beside it.
struct WithDelta {
    layer: FrozenMaskLinear,
    down: Var,
    up: Var,
}

impl WithDelta {
    fn new(layer: FrozenMaskLinear, rng: &mut StdRng) -> Result<Self> {
        let (rows, cols) = (layer.shape().rows, layer.shape().cols);
        // The delta begins as nothing.
        let up = Var::zeros((rows, RANK), DType::F32, &Device::Cpu)?;
        Ok(Self { layer, down: variable(rng, &[RANK, cols])?, up })
    }
}

impl Module for WithDelta {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layer.forward(x)? + x.matmul(&self.down.t()?)?.matmul(&self.up.t()?)?
    }
}

/// Inputs, and what a larger network of random weights makes of them.
struct Task {
    x: Tensor,
    target: Tensor,
}

impl Task {
    fn new(rng: &mut StdRng) -> Result<Self> {
        let (first, second) = (variable(rng, &[2 * HIDDEN, IN])?, variable(rng, &[OUT, 2 * HIDDEN])?);
        let x = normal(rng, 1.0, &[512, IN])?;
        let target = x.matmul(&first.t()?)?.tanh()?.matmul(&second.t()?)?.detach();
        Ok(Self { x, target })
    }

    fn of<M: Module>(&self, layers: &[M]) -> Result<Tensor> {
        let mut x = self.x.clone();
        for (at, layer) in layers.iter().enumerate() {
            x = layer.forward(&if at > 0 { x.tanh()? } else { x })?;
        }
        (x - &self.target)?.sqr()?.mean_all()
    }

    fn loss<M: Module>(&self, layers: &[M]) -> Result<f32> {
        self.of(layers)?.to_scalar()
    }

    /// Moves the variables by so many steps of AdamW; the loss then.
    fn learn<M: Module>(&self, layers: &[M], vars: &[Var], steps: usize) -> Result<f32> {
        let params = ParamsAdamW { lr: 0.01, weight_decay: 0.0, ..Default::default() };
        let mut optimiser = AdamW::new(vars.to_vec(), params)?;
        for _ in 0..steps {
            optimiser.backward_step(&self.of(layers)?)?;
        }
        self.loss(layers)
    }
}

/// A weight of normal numbers that keeps the size of what goes through.
fn variable(rng: &mut StdRng, dims: &[usize; 2]) -> Result<Var> {
    Var::from_tensor(&normal(rng, 1.0 / (dims[1] as f32).sqrt(), dims)?)
}

fn normal(rng: &mut StdRng, scale: f32, dims: &[usize; 2]) -> Result<Tensor> {
    let values = (0..dims[0] * dims[1]).map(|_| scale * rng.sample::<f32, _>(StandardNormal)).collect();
    Tensor::from_vec::<_, f32>(values, dims.as_slice(), &Device::Cpu)
}
