//! How long a step is beside candle's dense forward and backward pass with gradients of the weights, in one run. Asked
//! for by name: `TWOFOUR_MODEL=FILE cargo test --release --workspace --test learning speed -- --ignored --nocapture`.

use candle_core::{Device, Var};
use candle_nn::Linear;
use std::time::Instant;
use twofour_cli::learn::{Learning, Prior, Settings};
use twofour_cli::model::{Model, Network};

const ROUNDS: u32 = 5;

/// Two windows of 256 tokens; the least of some rounds, by turns. What lies between linear layers is the same in both.
#[test]
#[ignore = "needs a model of some size, and a machine that does nothing else"]
fn of_a_step_beside_a_dense_one() {
    let Ok(path) = std::env::var("TWOFOUR_MODEL") else { return };
    let model = Model::open(path, &Device::Cpu).unwrap();
    let settings = Settings::few_steps(u64::from(ROUNDS));
    let mut learning = Learning::new(&model, &settings, &Prior::Magnitude).unwrap();
    let dense = Network::new(&model, |_, linear| {
        Ok(Linear::new(Var::from_tensor(linear.weight())?.into_inner(), linear.bias().cloned()))
    });
    let dense = dense.unwrap();
    let windows: Vec<u32> = (0..514).map(|i| i * 89 % 1000).collect();
    let mut least = [f64::INFINITY; 3];
    for step in 0..ROUNDS {
        let timed = |work: &mut dyn FnMut()| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        };
        let now = [
            timed(&mut || _ = learning.step(step, std::slice::from_ref(&windows), 256).unwrap()),
            timed(&mut || _ = dense.backward(&windows, 256, &mut |_, _| Ok(())).unwrap()),
            timed(&mut || _ = dense.states(&windows[..512], 256).unwrap()),
        ];
        println!("step {:.3} s, dense {:.3} s, of which blocks forward {:.3} s", now[0], now[1], now[2]);
        for (least, now) in least.iter_mut().zip(now) {
            *least = least.min(now);
        }
    }
    println!("least: step {:.3} s, dense {:.3} s: {:.3} times", least[0], least[1], least[0] / least[1]);
}
