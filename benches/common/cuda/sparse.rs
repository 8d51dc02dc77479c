//! `sparse` on the first GPU: every way to a product in turn, round after round, and cuBLASLt's dense product with them.

use super::super::sparse::{Case, Inputs, Number, for_values};
use super::ways::{Role, Runner};
use super::{Cache, Replay, Result, Timed, sets, stream};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::sync::Arc;
use std::time::Duration;
use twofour::compress::Layout;
use twofour::cudarc::driver::{CudaSlice, CudaStream};
use twofour::device::{self, Limits};
use twofour::sparse::cuda::{BlasLt, Multiply, Weight, With, multiply_into};
use twofour::sparse::library::{Library, LibraryWeight};
use twofour::sparse::{Given, Libraries, Packing, Path, Plan};
use twofour::{Error, sparse};

/// Iterations of cuSPARSELt's search.
const SEARCH: u32 = 10;

/// All ways through one product.
pub struct Race {
    pub case: Case,
    pub cache: Cache,
    pub runners: Vec<Runner>,
    /// Of each runner, with its memory, which goes last.
    replays: Vec<Replay>,
    _memory: Box<dyn std::any::Any>,
}

impl Race {
    /// Runs it, in another order each round.
    pub fn run(case: Case, cache: Cache, rounds: usize) -> Result<Self> {
        for_values!(case, run(case, cache, rounds))
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
    pub fn done(self) -> Done {
        Done { case: self.case, cache: self.cache, runners: self.runners }
    }
}

/// What a race came to.
pub struct Done {
    pub case: Case,
    pub cache: Cache,
    pub runners: Vec<Runner>,
}

/// A case's product as the plan would have it.
pub fn on_cuda(case: Case, cache: Cache) -> Result<Box<dyn Timed>> {
    for_values!(case, alone(case, cache))
}

fn alone<T: Number>(case: Case, cache: Cache) -> Result<Box<dyn Timed>> {
    let mut arena = Arena::<T>::new(case, cache)?;
    let ways = arena.ways()?;
    let (.., way) = ways.into_iter().find(|(_, role, _)| *role == Role::Chosen).ok_or("no way serves")?;
    let replay = arena.capture(&way)?;
    Ok(Box::new(Alone { replay, _arena: arena }))
}

/// A graph and the memory that it reads and writes, which goes after it.
struct Alone<T: Number> {
    replay: Replay,
    _arena: Arena<T>,
}

impl<T: Number> Timed for Alone<T> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        self.replay.time(iterations)
    }
}

fn run<T: Number>(case: Case, cache: Cache, rounds: usize) -> Result<Race> {
    let mut arena = Arena::<T>::new(case, cache)?;
    let (mut runners, mut replays) = (Vec::new(), Vec::new());
    for (name, role, way) in arena.ways()? {
        replays.push(arena.capture(&way).map_err(|error| format!("{name}: {error}"))?);
        runners.push(Runner { name, role, samples: Vec::with_capacity(rounds) });
    }
    let (mut order, mut rng): (Vec<usize>, _) = ((0..runners.len()).collect(), StdRng::seed_from_u64(24));
    for _ in 0..rounds {
        order.shuffle(&mut rng);
        for &at in &order {
            runners[at].samples.push(replays[at].once()?);
        }
    }
    Ok(Race { case, cache, runners, replays, _memory: Box::new(arena) })
}

/// A way: its plan, and who packed the weight for cuSPARSELt.
struct Way {
    plan: Plan,
    ours: bool,
}

struct Arena<T: Number> {
    // Plans of the library go before the context.
    library: Option<Library>,
    blas: Option<BlasLt>,
    case: Case,
    stream: Arc<CudaStream>,
    limits: Limits,
    /// Take turns.
    sets: Vec<Set<T>>,
    workspace: CudaSlice<u8>,
}

struct Set<T: Number> {
    values: CudaSlice<T>,
    metadata: CudaSlice<u8>,
    dense: CudaSlice<T>,
    x: CudaSlice<T>,
    y: CudaSlice<T::Output>,
    /// For cuSPARSELt, packed by us and by itself.
    packed: [Option<LibraryWeight<T>>; 2],
}

/// What is not there is no error here.
fn there<T>(found: twofour::Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::LibraryUnavailable { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl<T: Number> Arena<T> {
    fn new(case: Case, cache: Cache) -> Result<Self> {
        let stream = stream()?;
        let problem = case.problem();
        let (library, blas) = (there(Library::new(stream.context()))?, there(BlasLt::new(&stream))?);
        // The least that any way reads and writes.
        let size = size_of::<T>();
        let least =
            (problem.shape.weights() / 2 + problem.inputs()) * size + problem.outputs() * size_of::<T::Output>();
        let sets = (0..sets(cache, least as u64)).map(|number| Set::new(&stream, library.as_ref(), &case, number));
        Ok(Self {
            sets: sets.collect::<Result<_>>()?,
            workspace: stream.alloc_zeros(1)?,
            limits: device::limits(stream.context())?,
            case,
            library,
            blas,
            stream,
        })
    }

    /// Every way that serves, the plan's own marked, and work space for all of them.
    fn ways(&mut self) -> Result<Vec<(String, Role, Way)>> {
        let (limits, problem) = (self.limits, self.case.problem());
        let libraries = Libraries { cublaslt: self.blas.is_some(), cusparselt: self.library.is_some() };
        let chosen = Plan::new::<T>(&limits, problem, Given::WEIGHT, libraries)?;
        let role = |path| if path == chosen.path() { Role::Chosen } else { Role::Rival };
        let mut ways = Vec::new();
        for (name, path) in
            [("own, few tokens", Path::Small), ("own, tiles", Path::Tile), ("unpack, cuBLASLt", Path::Dense)]
        {
            // The only error is that the path is none for this case.
            if let Ok(plan) = chosen.with_path(path) {
                ways.push((name.to_owned(), role(path), Way { plan, ours: false }));
            }
        }
        if let (Some(library), Ok(plan)) = (&mut self.library, chosen.with_path(Path::Cusparselt)) {
            let set = &self.sets[0];
            let theirs = set.packed[1].as_ref().ok_or("the library packed nothing")?;
            let plan = library.search(&self.stream, plan, theirs, &set.x.as_view(), &set.dense.as_view(), SEARCH)?;
            let ours = matches!(plan.packing(), Some(Packing::Ours(_)));
            if ours {
                ways.push(("cuSPARSELt, packed by us".into(), role(Path::Cusparselt), Way { plan, ours: true }));
            }
            let role = if ours { Role::Rival } else { role(Path::Cusparselt) };
            ways.push(("cuSPARSELt, packed by it".into(), role, Way { plan, ours: false }));
        }
        let given = Given { dense: true, ..Given::WEIGHT };
        if let Ok(plan) = Plan::by::<T>(Path::Dense, &limits, problem, given, libraries) {
            ways.push(("dense, cuBLASLt".into(), Role::Dense, Way { plan, ours: false }));
        }
        let bytes = ways.iter().map(|(.., way)| way.plan.workspace_bytes()).max().unwrap_or(0);
        self.workspace = self.stream.alloc_zeros(bytes.max(1))?;
        Ok(ways)
    }

    fn capture(&mut self, way: &Way) -> Result<Replay> {
        let Self { stream, sets, library, blas, workspace, .. } = self;
        let count = sets.len();
        Replay::lasting(stream, count, |run| {
            let with = With { blas: blas.as_mut(), library: library.as_mut() };
            sets[run % count].queue(stream, with, workspace, way)
        })
    }
}

impl<T: Number> Set<T> {
    fn new(stream: &Arc<CudaStream>, library: Option<&Library>, case: &Case, number: usize) -> Result<Self> {
        let Inputs { weight, x } = Inputs::<T>::new(case.problem(), number)?;
        let dense = stream.clone_htod(&weight.decompress())?;
        let mut packed = [None, None];
        let serves =
            Plan::by::<T>(Path::Cusparselt, &Limits::H200, case.problem(), Given::WEIGHT, Libraries::ALL).is_ok();
        if let (Some(library), true) = (library, serves) {
            let ours = library.pack_host(stream, &weight)?;
            packed[0] = matches!(ours.packing(), Packing::Ours(_)).then_some(ours);
            packed[1] = Some(library.pack_dense(stream, case.shape, &dense.as_view())?);
        }
        let y = vec![bytemuck::Zeroable::zeroed(); case.problem().outputs()];
        Ok(Self {
            values: stream.clone_htod(weight.values())?,
            metadata: stream.clone_htod(&weight.metadata(Layout::CutlassSm80)?)?,
            dense,
            x: stream.clone_htod(&x)?,
            y: stream.clone_htod::<T::Output, _>(&y)?,
            packed,
        })
    }

    fn queue(&mut self, on: &Arc<CudaStream>, with: With<'_>, workspace: &mut CudaSlice<u8>, way: &Way) -> Result<()> {
        let problem = way.plan.problem();
        let packed = if way.ours { &self.packed[0] } else { &self.packed[1] };
        let weight = match (way.plan.path(), packed) {
            (Path::Cusparselt, Some(packed)) => packed.as_weight(),
            _ => Weight::new(problem.shape, Layout::CutlassSm80, self.values.as_view(), self.metadata.as_view()),
        };
        let args: sparse::cuda::Multiply<'_, '_, T> =
            Multiply::new(weight, problem.tokens, self.x.as_view(), self.y.as_view_mut());
        let args = if way.plan.given().dense { args.dense(self.dense.as_view()) } else { args };
        Ok(multiply_into(on, with, &way.plan, args.workspace(workspace.as_view_mut()))?)
    }
}

/// What the races come to, as Markdown.
pub fn print(races: &[Done]) {
    if races.is_empty() {
        return;
    }
    println!(
        "\nEvery way, and its time over that of cuBLASLt's dense product in the same rounds (median, p20 to p80)\n"
    );
    println!("| shape | T | values | cache | way | µs | TFLOP/s, dense | over dense | p20 to p80 |");
    println!("| --- | ---: | --- | --- | --- | ---: | ---: | ---: | --- |");
    for Done { case, cache, runners } in races {
        let dense = runners.iter().find(|runner| runner.role == Role::Dense);
        for runner in runners {
            let name = if runner.role == Role::Chosen { format!("**{}**", runner.name) } else { runner.name.clone() };
            let (twofour::Shape { rows, cols, .. }, nanoseconds) = (case.shape, runner.median());
            let over = dense.map_or_else(
                || " | ".to_owned(),
                |dense| {
                    let [low, median, high] = runner.over(dense);
                    format!("{median:.3} | {low:.3} to {high:.3}")
                },
            );
            println!(
                "| {rows}x{cols} | {} | {} | {cache:?} | {name} | {:.2} | {:.1} | {over} |",
                case.tokens,
                case.values,
                nanoseconds / 1e3,
                case.operations() as f64 / nanoseconds / 1e3,
            );
        }
    }
}
