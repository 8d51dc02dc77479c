//! Every route to a part of a layer, in turn, round after round, and cuBLASLt's dense product with them: what ratios
//! are made of, for both sides of one saw the same machine.

use super::super::level::Levels;
use super::super::matmul::{Case, Part};
use super::super::{Cache, Group, Place, Result, Timed, smoke};
use super::Replay;
use super::matmul::{Route, Sets};
use criterion::Throughput;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::time::Duration;
use twofour::cudarc::cublaslt::{CudaBlasLT, Matmul};
use twofour::mask::Kind;
use twofour::matmul::{Dense, InputRoute, Keep, LogitRoute, OutputRoute, Plan};
use twofour::{Float, Logit};

const ROUNDS: Levels<usize> = Levels { smoke: 2, quick: 15, usual: 30, full: 30 };

/// A race of some rounds, and then what was chosen in it, which criterion times. None if it is filtered out.
pub fn bench<R>(
    group: &mut Group<'_>,
    name: &str,
    cache: Cache,
    throughput: Throughput,
    mut run: impl FnMut(usize) -> Result<R>,
    chosen: impl Fn(&mut R) -> Option<&mut Replay>,
) -> Option<R> {
    if !smoke() {
        // The comparison has rounds of its own; criterion's own time is for its records.
        group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
    }
    group.throughput(throughput);
    let mut race = None;
    group.bench_function(format!("{name}/{}", Place::Gpu(cache)), |bencher| {
        // A bench that cannot be set up or run is a fault of this program.
        let race = race.get_or_insert_with(|| run(ROUNDS.asked()).unwrap());
        let chosen = chosen(race).unwrap();
        bencher.iter_custom(|iterations| chosen.time(iterations).unwrap());
    });
    race
}

/// How a route is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What the plan takes by itself.
    Chosen,
    /// What it could have taken.
    Rival,
    /// Nothing but the dense product, by own kernels.
    OwnDense,
    /// The same with another [`Keep`]: no rival, for it needs other memory.
    Aside,
    /// cuBLASLt's dense product.
    Dense,
}

/// A route, and how long it took in each round, in nanoseconds of a run.
pub struct Runner {
    pub name: String,
    pub role: Role,
    pub samples: Vec<f64>,
}

/// All routes through one part.
pub struct Race {
    pub case: Case,
    pub cache: Cache,
    pub runners: Vec<Runner>,
    /// Of each runner, as long as its memory is there.
    replays: Vec<Replay>,
}

impl Race {
    /// Runs it, in another order each round.
    pub fn run<L: Logit, W: Float>(sets: &mut Sets<L, W>, part: Part, rounds: usize) -> Result<Self>
    where
        CudaBlasLT: Matmul<W>,
    {
        let (case, cache, routes) = (Case { part, ..sets.case }, sets.cache, routes(sets, part)?);
        let bytes = routes.iter().filter_map(|(.., route)| match route {
            Route::Planned(plan) | Route::Ready(plan) | Route::Apart(plan) => Some(plan.workspace_bytes()),
            Route::Dense => None,
        });
        sets.reserve(bytes.max().unwrap_or(0))?;
        let (mut runners, mut replays) = (Vec::new(), Vec::new());
        for (name, role, route) in routes {
            replays.push(sets.capture(part, route).map_err(|error| format!("{name}: {error}"))?);
            runners.push(Runner { name, role, samples: Vec::with_capacity(rounds) });
        }
        let (mut order, mut rng): (Vec<usize>, _) = ((0..runners.len()).collect(), StdRng::seed_from_u64(24));
        for _ in 0..rounds {
            order.shuffle(&mut rng);
            for &at in &order {
                runners[at].samples.push(replays[at].once()?);
            }
        }
        Ok(Self { case, cache, runners, replays })
    }

    pub fn find(&self, role: Role) -> Option<&Runner> {
        self.runners.iter().find(|runner| runner.role == role)
    }

    /// What the plan takes, to be timed once more.
    pub fn chosen(&mut self) -> Option<&mut Replay> {
        let at = self.runners.iter().position(|runner| runner.role == Role::Chosen)?;
        self.replays.get_mut(at)
    }

    /// The results alone: the memory may go.
    pub fn done(mut self) -> Self {
        self.replays.clear();
        self
    }

    /// The fastest of the routes between which the plan chooses.
    pub fn best(&self) -> Option<&Runner> {
        let routes = self.runners.iter().filter(|runner| matches!(runner.role, Role::Chosen | Role::Rival));
        routes.min_by(|a, b| a.median().total_cmp(&b.median()))
    }

    pub fn operations(&self) -> f64 {
        self.case.operations() as f64
    }
}

impl Runner {
    pub fn median(&self) -> f64 {
        quantiles(self.samples.clone())[1]
    }

    /// How much longer this took than the other, round by round: 20th percentile, median and 80th percentile.
    pub fn over(&self, other: &Self) -> [f64; 3] {
        quantiles(self.samples.iter().zip(&other.samples).map(|(ours, theirs)| ours / theirs).collect())
    }
}

fn quantiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get(((values.len() as f64 - 1.0) * share).round() as usize).copied();
    [0.2, 0.5, 0.8].map(|share| at(share).unwrap_or(f64::NAN))
}

type Named<L, W> = (String, Role, Route<L, W>);

fn routes<L: Logit, W: Float>(sets: &Sets<L, W>, part: Part) -> Result<Vec<Named<L, W>>>
where
    CudaBlasLT: Matmul<W>,
{
    let plan = |keep| sets.plan(keep);
    let mut routes = match part {
        Part::Y => outputs(plan(Keep::Nothing)?, plan(Keep::Masked)?),
        Part::Dx => inputs(plan(Keep::Nothing)?, plan(Keep::Masked)?),
        Part::Dlogits => logits(plan(Keep::Nothing)?),
        Part::Step => steps(plan, &sets.case)?,
        Part::Learn | Part::LearnApart => learns(plan(Case { part, ..sets.case }.keep(Place::Gpu(sets.cache)))?),
    };
    let of = match part {
        Part::Step => "three dense, cuBLASLt",
        Part::Learn | Part::LearnApart => "two dense, cuBLASLt",
        _ => "dense, cuBLASLt",
    };
    routes.push((of.into(), Role::Dense, Route::Dense));
    Ok(routes)
}

/// Those of the routes that are possible for this case.
fn forced<R: Copy + PartialEq + std::fmt::Debug, L: Logit, W: Float>(
    routes: &[R],
    chosen: R,
    with: impl Fn(R) -> twofour::Result<Plan<L, W>>,
) -> Vec<Named<L, W>> {
    let role = |route| if route == chosen { Role::Chosen } else { Role::Rival };
    // The only error is that the route is none for these sizes, types or masks.
    let planned = |&route| Some((format!("{route:?}"), role(route), Route::Planned(with(route).ok()?)));
    routes.iter().filter_map(planned).collect()
}

fn outputs<L: Logit, W: Float>(plan: Plan<L, W>, keeping: Plan<L, W>) -> Vec<Named<L, W>> {
    use OutputRoute::{Codes, Masked, Sampled};
    let all = [Sampled, Codes, Masked(Dense::Cublaslt), Masked(Dense::Own)];
    let mut routes = forced(&all, plan.output().route, |route| plan.with_output(route));
    if let Ok(own) = keeping.with_output(Masked(Dense::Own)) {
        routes.push(("dense, own".into(), Role::OwnDense, Route::Ready(own)));
    }
    routes
}

fn inputs<L: Logit, W: Float>(plan: Plan<L, W>, keeping: Plan<L, W>) -> Vec<Named<L, W>> {
    use InputRoute::{Codes, Masked};
    let all = [Codes, Masked(Dense::Cublaslt), Masked(Dense::Own)];
    let mut routes = forced(&all, plan.input_gradient().route, |route| plan.with_input_gradient(route));
    if let Ok(own) = keeping.with_input_gradient(Masked(Dense::Own)) {
        routes.push(("dense, own".into(), Role::OwnDense, Route::Ready(own)));
    }
    routes
}

fn logits<L: Logit, W: Float>(plan: Plan<L, W>) -> Vec<Named<L, W>> {
    use LogitRoute::{Fused, Panels};
    let all = [Fused, Panels(Dense::Cublaslt), Panels(Dense::Own)];
    forced(&all, plan.logit_gradient().route, |route| plan.with_logit_gradient(route))
}

/// The step in one pass, and the backward pass with the step after it.
fn learns<L: Logit, W: Float>(plan: Plan<L, W>) -> Vec<Named<L, W>> {
    use LogitRoute::{Fused, Panels};
    let all = [Fused, Panels(Dense::Cublaslt), Panels(Dense::Own)];
    let mut routes = forced(&all, plan.step_route().route, |route| plan.with_step(route));
    routes.push(("backward, then learn".into(), Role::Rival, Route::Apart(plan)));
    routes
}

/// The plans that keep something or nothing, and for the first of them all that cuBLASLt and own kernels would do
/// alone.
fn steps<L: Logit, W: Float>(plan: impl Fn(Keep) -> Result<Plan<L, W>>, case: &Case) -> Result<Vec<Named<L, W>>> {
    let keeps: &[Keep] = match case.kind {
        Kind::Soft => &[Keep::Masked, Keep::Nothing],
        _ => &[Keep::Codes, Keep::Masked, Keep::Nothing],
    };
    let mut routes = Vec::new();
    for &keep in keeps {
        let role = if keep == keeps[0] { Role::Chosen } else { Role::Aside };
        routes.push((format!("plan, keep {keep:?}"), role, Route::Planned(plan(keep)?)));
    }
    let plan = plan(keeps[0])?;
    for (dense, logits) in [(Dense::Cublaslt, LogitRoute::Panels(Dense::Cublaslt)), (Dense::Own, LogitRoute::Fused)] {
        let all = plan.with_output(OutputRoute::Masked(dense));
        let all = all.and_then(|plan| plan.with_input_gradient(InputRoute::Masked(dense)));
        if let Ok(all) = all.and_then(|plan| plan.with_logit_gradient(logits)) {
            routes.push((format!("all {dense:?}, keep {:?}", keeps[0]), Role::Rival, Route::Planned(all)));
        }
    }
    Ok(routes)
}
