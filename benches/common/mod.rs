//! What the benches share: normal-distributed operands, and each op in a form that can be timed on every executor.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    dead_code,
    unreachable_pub,
    reason = "every bench is a program of its own and uses a part"
)]

pub mod compress;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
pub mod decode;
pub mod distil;
pub mod glu;
pub mod learn;
pub mod level;
pub mod mask;
pub mod matmul;
pub mod select;
pub mod sparse;
#[cfg(feature = "cuda")]
pub mod table;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use level::{Level, Levels};
use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};
use twofour::{Cpu, Executor, Shape};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// An op as it is timed, written once for every executor.
pub trait Op: 'static {
    /// Its operands on one.
    type On<E: Executor + 'static>: Run<E> + 'static;
    /// The least number of bytes a run moves, each operand once.
    fn bytes(&self) -> u64;
    /// Makes them; other numbers for another `set`.
    fn ready<E: Executor + 'static>(&self, on: &mut E, set: usize) -> Result<Self::On<E>>;
}

/// Operands that an op can be run on again and again.
pub trait Run<E: Executor> {
    /// Runs it once. No two runs have the same `number`.
    fn run(&mut self, on: &mut E, number: u64) -> twofour::Result<()>;
}

/// Who makes an op ready to run: a [`Place`] here.
pub trait At {
    fn ready(self, op: &impl Op) -> Result<Box<dyn Timed>>;
}

/// Where an op is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the threads of rayon's current pool.
    Cpu,
    /// On the first GPU, in a captured graph.
    Gpu(Cache),
}

impl Place {
    /// Those of this machine: the CPU and, if there is one, the first GPU.
    pub fn all() -> Vec<Self> {
        [Self::Cpu].into_iter().chain(Self::caches().iter().map(|&cache| Self::Gpu(cache))).collect()
    }

    /// On the first GPU, hot and cold; none where there is none, which is said.
    pub fn caches() -> &'static [Cache] {
        #[cfg(feature = "cuda")]
        match twofour::device::available() {
            Ok(_) if Level::asked() == Level::Quick => return &[Cache::Cold],
            Ok(_) => return &[Cache::Hot, Cache::Cold],
            Err(error) => println!("on the CPU alone: no CUDA device ({error})"),
        }
        &[]
    }
}

impl At for Place {
    fn ready(self, op: &impl Op) -> Result<Box<dyn Timed>> {
        match self {
            Self::Cpu => Ok(Box::new(OnCpu { ready: op.ready(&mut Cpu, 0)?, number: 0 })),
            #[cfg(feature = "cuda")]
            Self::Gpu(cache) => cuda::captured(op, cache),
            #[cfg(not(feature = "cuda"))]
            Self::Gpu(_) => Err("built without the feature `cuda`".into()),
        }
    }
}

/// As names of benches end.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Gpu(Cache::Hot) => "hot",
            Self::Gpu(Cache::Cold) => "cold",
        })
    }
}

/// An op with its operands, ready to run.
pub trait Timed {
    /// How long so many runs take.
    fn time(&mut self, iterations: u64) -> Result<Duration>;
}

struct OnCpu<R> {
    ready: R,
    number: u64,
}

impl<R: Run<Cpu>> Timed for OnCpu<R> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        let begun = Instant::now();
        for _ in 0..iterations {
            self.number += 1;
            self.ready.run(&mut Cpu, self.number)?;
        }
        Ok(begun.elapsed())
    }
}

/// Anything on the CPU that can be run again and again.
pub struct Again<F>(pub F);

impl<F: FnMut() -> twofour::Result<()>> Timed for Again<F> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        let begun = Instant::now();
        for _ in 0..iterations {
            (self.0)()?;
        }
        Ok(begun.elapsed())
    }
}

/// Whether a GPU's operands lie in its level-2 cache from run to run as far as they fit, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    Hot,
    Cold,
}

/// Whether everything is only tried, in tiny shapes.
pub fn smoke() -> bool {
    Level::asked() == Level::Smoke
}

type Sides = &'static [(usize, usize)];

/// Out and in features of the weights that ops other than products are timed on.
const WEIGHTS: Levels<Sides> = Levels {
    smoke: &[],
    quick: &[(2048, 4096)],
    usual: &[(2048, 4096)],
    full: &[(256, 512), (2048, 4096), (4096, 4096)],
};
/// Those on a GPU alone.
const LARGE: Levels<Sides> = Levels {
    smoke: &[],
    quick: &[(4096, 14336)],
    usual: &[(4096, 14336)],
    full: &[(4096, 14336), (14336, 4096), (28672, 8192)],
};

/// Weights with the places where they are timed, of all those there are; in a smoke run a tiny one.
pub fn weights(tiny: Shape, places: &[Place]) -> Vec<(Shape, Vec<Place>)> {
    if smoke() {
        return vec![(tiny, places.to_vec())];
    }
    let of = |sides: Sides, places: Vec<Place>| {
        sides.iter().map(move |&(rows, cols)| (Shape::new(rows, cols), places.clone()))
    };
    of(WEIGHTS.asked(), places.to_vec()).chain(of(LARGE.asked(), on_gpu(places))).collect()
}

/// Those that are not the CPU.
pub fn on_gpu(places: &[Place]) -> Vec<Place> {
    places.iter().copied().filter(|&place| place != Place::Cpu).collect()
}

/// How much criterion measures.
pub fn config() -> Criterion {
    let criterion = Criterion::default();
    let (warm_up, measurement) = match Level::asked() {
        Level::Smoke => (1, 10),
        Level::Quick => (100, 300),
        Level::Usual | Level::Full => return criterion.sample_size(30).warm_up_time(Duration::from_secs(1)),
    };
    let [warm_up, measurement] = [warm_up, measurement].map(Duration::from_millis);
    let criterion = criterion.sample_size(10).warm_up_time(warm_up).measurement_time(measurement);
    criterion.nresamples(10_000).without_plots()
}

pub type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// A bench of a group on each of these places, `<name>/<place>`. Operands are made only if it is not filtered out.
pub fn bench(
    group: &mut Group<'_>,
    name: &str,
    places: &[Place],
    throughput: Throughput,
    ready: impl Fn(Place) -> Result<Box<dyn Timed>>,
) {
    group.throughput(throughput);
    for &place in places {
        let mut timed = None;
        group.bench_function(format!("{name}/{place}"), |bencher| {
            // A bench that cannot be set up or run is a fault of this program.
            let timed = timed.get_or_insert_with(|| ready(place).unwrap());
            bencher.iter_custom(|iterations| timed.time(iterations).unwrap());
        });
    }
}

/// What only the CPU does.
pub fn on_cpu<F: FnMut() -> twofour::Result<()> + 'static>(
    group: &mut Group<'_>,
    name: &str,
    throughput: Throughput,
    run: impl Fn() -> F,
) {
    bench(group, name, &[Place::Cpu], throughput, |_| Ok(Box::new(Again(run()))));
}

/// What memory gives at best: a plain copy of 256 MiB, from no cache.
pub fn copy(group: &mut Group<'_>, places: &[Place]) {
    let bytes = if smoke() { 1 << 17 } else { 512 << 20 };
    let places: Vec<Place> = places.iter().copied().filter(|&place| place != Place::Gpu(Cache::Hot)).collect();
    copy_moving(group, bytes, &places);
}

/// A plain copy that reads and writes so many bytes together: `copy/512MiB`.
pub fn copy_moving(group: &mut Group<'_>, bytes: u64, places: &[Place]) {
    let name = if bytes < 1 << 20 { format!("copy/{}KiB", bytes >> 10) } else { format!("copy/{}MiB", bytes >> 20) };
    bench(group, &name, places, Throughput::Bytes(bytes), |place| match place {
        Place::Cpu => {
            let [from, mut to] = [0, 1].map(|set| data::normal::<f32>(bytes as usize / 8, 1.0, set));
            Ok(Box::new(Again(move || {
                to.copy_from_slice(black_box(&from));
                Ok(())
            })))
        }
        #[cfg(feature = "cuda")]
        Place::Gpu(cache) => cuda::copy(bytes as usize / 2, cache),
        #[cfg(not(feature = "cuda"))]
        Place::Gpu(_) => Err("built without the feature `cuda`".into()),
    });
}
