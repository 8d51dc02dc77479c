//! Every way to a part of a layer, in turn, round after round, and cuBLASLt's dense product with them: what ratios are
//! made of, for both sides of one saw the same machine.

use super::super::matmul::Case;
use super::matmul::{Arena, Part, Way};
use super::{Cache, Replay, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use twofour::mask::Kind;
use twofour::matmul::{Dense, InputPath, Keep, LogitPath, OutputPath, Plan};

/// How a way is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What the plan takes by itself.
    Chosen,
    /// What it could have taken.
    Rival,
    /// Nothing but the dense product, by our kernels.
    OwnDense,
    /// The same with another [`Keep`]: no rival, for it needs other memory.
    Aside,
    /// cuBLASLt's dense product.
    Dense,
}

/// A way, and how long it took in each round, in nanoseconds of a run.
pub struct Runner {
    pub name: String,
    pub role: Role,
    pub samples: Vec<f64>,
}

/// All ways through one part.
pub struct Race {
    pub case: Case,
    pub cache: Cache,
    pub part: Part,
    pub runners: Vec<Runner>,
    /// Of each runner, as long as its memory is there.
    replays: Vec<Replay>,
}

impl Race {
    /// Runs it, in another order each round.
    pub fn run(arena: &mut dyn Arena, case: Case, cache: Cache, part: Part, rounds: usize) -> Result<Self> {
        let ways = ways(arena, &case, part)?;
        let bytes = ways.iter().filter_map(|(.., way)| match way {
            Way::Planned(plan) | Way::Ready(plan) => Some(plan.workspace_bytes()),
            Way::Dense => None,
        });
        arena.reserve(bytes.max().unwrap_or(0))?;
        let (mut runners, mut replays) = (Vec::new(), Vec::new());
        for (name, role, way) in ways {
            replays.push(arena.capture(part, way).map_err(|error| format!("{name}: {error}"))?);
            runners.push(Runner { name, role, samples: Vec::with_capacity(rounds) });
        }
        let (mut order, mut rng): (Vec<usize>, _) = ((0..runners.len()).collect(), StdRng::seed_from_u64(24));
        for _ in 0..rounds {
            order.shuffle(&mut rng);
            for &at in &order {
                runners[at].samples.push(replays[at].once()?);
            }
        }
        Ok(Self { case, cache, part, runners, replays })
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

    /// The fastest of the ways between which the plan chooses.
    pub fn best(&self) -> Option<&Runner> {
        let ways = self.runners.iter().filter(|runner| matches!(runner.role, Role::Chosen | Role::Rival));
        ways.min_by(|a, b| a.median().total_cmp(&b.median()))
    }

    pub fn operations(&self) -> f64 {
        self.part.products() * self.case.problem().operations()
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

type Named = (String, Role, Way);

fn ways(arena: &dyn Arena, case: &Case, part: Part) -> Result<Vec<Named>> {
    let mut ways = match part {
        Part::Y => outputs(arena)?,
        Part::Dx => inputs(arena)?,
        Part::Dlogits => logits(arena)?,
        Part::Step => steps(arena, case)?,
    };
    let of = if part == Part::Step { "three dense, cuBLASLt" } else { "dense, cuBLASLt" };
    ways.push((of.into(), Role::Dense, Way::Dense));
    Ok(ways)
}

/// Those of the paths that are ways for this case.
fn forced<P: Copy + PartialEq + std::fmt::Debug>(
    paths: &[P],
    chosen: P,
    with: impl Fn(P) -> twofour::Result<Plan>,
) -> Vec<Named> {
    let role = |path| if path == chosen { Role::Chosen } else { Role::Rival };
    // The only error is that the path is none for these sizes, types or masks.
    let way = |&path| Some((format!("{path:?}"), role(path), Way::Planned(with(path).ok()?)));
    paths.iter().filter_map(way).collect()
}

fn outputs(arena: &dyn Arena) -> Result<Vec<Named>> {
    use OutputPath::{Codes, Masked, Sampled};
    let plan = arena.plan(Keep::Nothing)?;
    let paths = [Sampled, Codes, Masked(Dense::BlasLt), Masked(Dense::Own)];
    let mut ways = forced(&paths, plan.output().path, |path| plan.with_output(path));
    if let Ok(own) = arena.plan(Keep::Masked)?.with_output(Masked(Dense::Own)) {
        ways.push(("dense, own".into(), Role::OwnDense, Way::Ready(own)));
    }
    Ok(ways)
}

fn inputs(arena: &dyn Arena) -> Result<Vec<Named>> {
    use InputPath::{Codes, Masked};
    let plan = arena.plan(Keep::Nothing)?;
    let paths = [Codes, Masked(Dense::BlasLt), Masked(Dense::Own)];
    let mut ways = forced(&paths, plan.input_gradient().path, |path| plan.with_input_gradient(path));
    if let Ok(own) = arena.plan(Keep::Masked)?.with_input_gradient(Masked(Dense::Own)) {
        ways.push(("dense, own".into(), Role::OwnDense, Way::Ready(own)));
    }
    Ok(ways)
}

fn logits(arena: &dyn Arena) -> Result<Vec<Named>> {
    use LogitPath::{Fused, Panels};
    let plan = arena.plan(Keep::Nothing)?;
    let paths = [Fused, Panels(Dense::BlasLt), Panels(Dense::Own)];
    Ok(forced(&paths, plan.logit_gradient().path, |path| plan.with_logit_gradient(path)))
}

/// The plans that keep something or nothing, and for the first of them all that cuBLASLt and our kernels would do alone.
fn steps(arena: &dyn Arena, case: &Case) -> Result<Vec<Named>> {
    let keeps: &[Keep] = match case.kind {
        Kind::Soft => &[Keep::Masked, Keep::Nothing],
        _ => &[Keep::Codes, Keep::Masked, Keep::Nothing],
    };
    let mut ways = Vec::new();
    for &keep in keeps {
        let role = if keep == keeps[0] { Role::Chosen } else { Role::Aside };
        ways.push((format!("plan, keep {keep:?}"), role, Way::Planned(arena.plan(keep)?)));
    }
    let plan = arena.plan(keeps[0])?;
    for (dense, logits) in [(Dense::BlasLt, LogitPath::Panels(Dense::BlasLt)), (Dense::Own, LogitPath::Fused)] {
        let all = plan.with_output(OutputPath::Masked(dense));
        let all = all.and_then(|plan| plan.with_input_gradient(InputPath::Masked(dense)));
        if let Ok(all) = all.and_then(|plan| plan.with_logit_gradient(logits)) {
            ways.push((format!("all {dense:?}, keep {:?}", keeps[0]), Role::Rival, Way::Planned(all)));
        }
    }
    Ok(ways)
}
