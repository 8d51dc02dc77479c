//! `sparse` on the first GPU: every way to a product in turn, round after round, and with them cuBLASLt's dense product
//! and, for few tokens, a plain copy of as many bytes as the packed weight and the activations have.

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
use twofour::sparse::{Given, Libraries, MAX_SMALL_TOKENS, Packing, Path, Plan};
use twofour::{Error, sparse};

/// Iterations of cuSPARSELt's search.
const SEARCH: u32 = 10;

/// All ways through one product.
pub struct Race {
    pub case: Case,
    pub cache: Cache,
    pub ran: Vec<Ran>,
    /// Of each, with its memory, which goes last.
    replays: Vec<Replay>,
    _memory: Box<dyn std::any::Any>,
}

impl Race {
    /// Runs it, in another order each round.
    pub fn run(case: Case, cache: Cache, rounds: usize) -> Result<Self> {
        for_values!(case, run(case, cache, rounds))
    }

    /// What the plan takes, to be timed once more.
    pub fn chosen(&mut self) -> Option<&mut Replay> {
        let at = self.ran.iter().position(|ran| ran.runner.role == Role::Chosen)?;
        self.replays.get_mut(at)
    }

    /// The results alone: the memory may go.
    pub fn done(self) -> Done {
        Done { case: self.case, cache: self.cache, ran: self.ran }
    }
}

/// A way, how long it took, and the bytes that it reads and writes, each operand once a launch. The copy is
/// [aside](Role::Aside).
pub struct Ran {
    pub runner: Runner,
    pub bytes: usize,
}

/// What a race came to.
pub struct Done {
    pub case: Case,
    pub cache: Cache,
    pub ran: Vec<Ran>,
}

impl Done {
    fn find(&self, role: Role) -> Option<&Ran> {
        self.ran.iter().find(|ran| ran.runner.role == role)
    }

    /// The fastest of the ways between which the plan chooses.
    fn best(&self) -> Option<&Runner> {
        let ways = self.ran.iter().map(|ran| &ran.runner);
        let ways = ways.filter(|way| matches!(way.role, Role::Chosen | Role::Rival));
        ways.min_by(|a, b| a.median().total_cmp(&b.median()))
    }
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
    let (mut ran, mut replays) = (Vec::new(), Vec::new());
    for (name, role, way) in arena.ways()? {
        replays.push(arena.capture(&way).map_err(|error| format!("{name}: {error}"))?);
        let bytes = way.bytes(&arena.bytes);
        ran.push(Ran { runner: Runner { name, role, samples: Vec::with_capacity(rounds) }, bytes });
    }
    let (mut order, mut rng): (Vec<usize>, _) = ((0..ran.len()).collect(), StdRng::seed_from_u64(24));
    for _ in 0..rounds {
        order.shuffle(&mut rng);
        for &at in &order {
            ran[at].runner.samples.push(replays[at].once()?);
        }
    }
    Ok(Race { case, cache, ran, replays, _memory: Box::new(arena) })
}

enum Way {
    /// Its plan, and who packed the weight for cuSPARSELt.
    Product { plan: Plan, ours: bool },
    /// As many bytes as the packed weight and the activations have, half of them read and half written.
    Copy,
}

impl Way {
    fn bytes(&self, Bytes { packed, dense, activations }: &Bytes) -> usize {
        activations
            + match self {
                Self::Product { plan, .. } if plan.path() == Path::Dense && plan.given().dense => *dense,
                // The weight is written decompressed, and read again.
                Self::Product { plan, .. } if plan.path() == Path::Dense => packed + 2 * dense,
                _ => *packed,
            }
    }

    fn workspace_bytes(&self) -> usize {
        if let Self::Product { plan, .. } = self { plan.workspace_bytes() } else { 0 }
    }
}

type Named = (String, Role, Way);

/// Of a case's operands: kept values and codes, the weight decompressed, `X` and `Y`.
struct Bytes {
    packed: usize,
    dense: usize,
    activations: usize,
}

impl Bytes {
    fn new<T: Number>(case: &Case) -> Result<Self> {
        let (problem, size) = (case.problem(), size_of::<T>());
        let sizes = Layout::CutlassSm80.sizes(case.shape, T::DTYPE)?;
        Ok(Self {
            packed: sizes.values * size + sizes.metadata,
            dense: case.shape.weights() * size,
            activations: problem.inputs() * size + problem.outputs() * size_of::<T::Output>(),
        })
    }
}

struct Arena<T: Number> {
    // Plans of the library go before the context.
    library: Option<Library>,
    blas: Option<BlasLt>,
    case: Case,
    bytes: Bytes,
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
    /// From the first to the second, where there is a copy.
    copy: Option<[CudaSlice<u8>; 2]>,
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
        let (library, blas) = (there(Library::new(stream.context()))?, there(BlasLt::new(&stream))?);
        let (limits, bytes) = (device::limits(stream.context())?, Bytes::new::<T>(&case)?);
        // The least that any way reads and writes.
        let least = bytes.packed + bytes.activations;
        // Many tokens are not bound by memory.
        let copied = if case.tokens <= MAX_SMALL_TOKENS { least } else { 0 };
        let set = |number| Set::new(&stream, library.as_ref(), &limits, &case, copied, number);
        Ok(Self {
            sets: (0..sets(cache, least as u64)).map(set).collect::<Result<_>>()?,
            workspace: stream.alloc_zeros(1)?,
            limits,
            case,
            bytes,
            library,
            blas,
            stream,
        })
    }

    /// Every way that serves, the plan's own marked, and work space for all of them; and the copy.
    fn ways(&mut self) -> Result<Vec<Named>> {
        let (limits, problem) = (self.limits, self.case.problem());
        let mut libraries = Libraries { cublaslt: self.blas.is_some(), cusparselt: self.library.is_some() };
        let by_library = self.searched(libraries)?;
        // The plan is to be one of what runs.
        libraries.cusparselt &= !by_library.is_empty();
        let chosen = Plan::new::<T>(&limits, problem, Given::WEIGHT, libraries)?;
        let role = |path| if path == chosen.path() { Role::Chosen } else { Role::Rival };
        let mut ways = Vec::new();
        for (name, path) in
            [("own, few tokens", Path::Small), ("own, tiles", Path::Tile), ("unpack, cuBLASLt", Path::Dense)]
        {
            // The only error is that the path is none for this case.
            if let Ok(plan) = chosen.with_path(path) {
                ways.push((name.to_owned(), role(path), Way::Product { plan, ours: false }));
            }
        }
        for (at, (name, way)) in by_library.into_iter().enumerate() {
            // A caller would have the first of them.
            let role = if at == 0 { role(Path::Cusparselt) } else { Role::Rival };
            ways.push((name.to_owned(), role, way));
        }
        let given = Given { dense: true, ..Given::WEIGHT };
        if let Ok(plan) = Plan::by::<T>(Path::Dense, &limits, problem, given, libraries) {
            ways.push(("dense, cuBLASLt".into(), Role::Dense, Way::Product { plan, ours: false }));
        }
        if self.sets[0].copy.is_some() {
            ways.push(("copy of as many bytes".into(), Role::Aside, Way::Copy));
        }
        let bytes = ways.iter().map(|(.., way)| way.workspace_bytes()).max().unwrap_or(0);
        self.workspace = self.stream.alloc_zeros(bytes.max(1))?;
        Ok(ways)
    }

    /// cuSPARSELt's ways, our packer's first; none where it does not serve, or where its search fails, which is said.
    fn searched(&mut self, libraries: Libraries) -> Result<Vec<(&'static str, Way)>> {
        let plan = Plan::by::<T>(Path::Cusparselt, &self.limits, self.case.problem(), Given::WEIGHT, libraries);
        let (Some(library), Ok(plan)) = (&mut self.library, plan) else { return Ok(Vec::new()) };
        let set = &self.sets[0];
        let theirs = set.packed[1].as_ref().ok_or("the library packed nothing")?;
        let found = library.search(&self.stream, plan, theirs, &set.x.as_view(), &set.dense.as_view(), SEARCH);
        let plan = match found {
            Ok(plan) => plan,
            Err(error) => {
                // Not among the answers of `benches/peer.rs`.
                eprintln!("{}: without cuSPARSELt, whose search failed: {error}", self.case.name());
                return Ok(Vec::new());
            }
        };
        let mut ways = vec![("cuSPARSELt, packed by it", Way::Product { plan, ours: false })];
        if matches!(plan.packing(), Some(Packing::Ours(_))) {
            ways.insert(0, ("cuSPARSELt, packed by us", Way::Product { plan, ours: true }));
        }
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
    /// Of operands with these numbers, and of a copy that reads and writes so many bytes.
    fn new(
        stream: &Arc<CudaStream>,
        library: Option<&Library>,
        limits: &Limits,
        case: &Case,
        copied: usize,
        number: usize,
    ) -> Result<Self> {
        let Inputs { weight, x } = Inputs::<T>::new(case.problem(), number)?;
        let dense = stream.clone_htod(&weight.decompress())?;
        let mut packed = [None, None];
        let serves = Plan::by::<T>(Path::Cusparselt, limits, case.problem(), Given::WEIGHT, Libraries::ALL).is_ok();
        if let (Some(library), true) = (library, serves) {
            let ours = library.pack_host(stream, &weight)?;
            packed[0] = matches!(ours.packing(), Packing::Ours(_)).then_some(ours);
            packed[1] = Some(library.pack_dense(stream, case.shape, &dense.as_view())?);
        }
        let y = vec![bytemuck::Zeroable::zeroed(); case.problem().outputs()];
        let copy = match copied / 2 {
            0 => None,
            half => {
                // No zeros: a device clocks higher on them.
                let bytes = bytemuck::cast_slice::<T, u8>(weight.values()).iter().copied();
                let from: Vec<u8> = bytes.cycle().take(half).collect();
                Some([stream.clone_htod(&from)?, stream.alloc_zeros(half)?])
            }
        };
        Ok(Self {
            values: stream.clone_htod(weight.values())?,
            metadata: stream.clone_htod(&weight.metadata(Layout::CutlassSm80)?)?,
            dense,
            x: stream.clone_htod(&x)?,
            y: stream.clone_htod::<T::Output, _>(&y)?,
            packed,
            copy,
        })
    }

    fn queue(&mut self, on: &Arc<CudaStream>, with: With<'_>, workspace: &mut CudaSlice<u8>, way: &Way) -> Result<()> {
        let (plan, ours) = match (way, &mut self.copy) {
            (Way::Product { plan, ours }, _) => (plan, *ours),
            (Way::Copy, Some([from, to])) => return Ok(on.memcpy_dtod(from, to)?),
            (Way::Copy, None) => return Err("there is nothing to copy".into()),
        };
        let problem = plan.problem();
        let packed = if ours { &self.packed[0] } else { &self.packed[1] };
        let weight = match (plan.path(), packed) {
            (Path::Cusparselt, Some(packed)) => packed.as_weight(),
            _ => Weight::new(problem.shape, Layout::CutlassSm80, self.values.as_view(), self.metadata.as_view()),
        };
        let args: sparse::cuda::Multiply<'_, '_, T> =
            Multiply::new(weight, problem.tokens, self.x.as_view(), self.y.as_view_mut());
        let args = if plan.given().dense { args.dense(self.dense.as_view()) } else { args };
        Ok(multiply_into(on, with, plan, args.workspace(workspace.as_view_mut()))?)
    }
}

/// What the races come to, as Markdown.
pub fn print(races: &[Done]) {
    if races.is_empty() {
        return;
    }
    println!(
        "\nEvery way, and its time over that of cuBLASLt's dense product in the same rounds (median, p20 to p80). For \
         few tokens, the speed at which it reads and writes each operand once, and what that is of a copy's in the same \
         rounds. For the way of the plan (bold), its time over that of the best of the ways between which it chooses.\n"
    );
    println!(
        "| shape | T | values | cache | way | µs | TFLOP/s, dense | GB/s | of copy | over dense | p20 to p80 | \
         plan / best |"
    );
    println!("| --- | ---: | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |");
    for race in races {
        race.ran.iter().for_each(|ran| println!("{}", race.line(ran)));
    }
}

impl Done {
    fn line(&self, ran: &Ran) -> String {
        let (Case { values, tokens, shape }, Ran { runner, bytes }) = (self.case, ran);
        let (twofour::Shape { rows, cols, .. }, nanoseconds) = (shape, runner.median());
        let copy = self.find(Role::Aside);
        let name = if runner.role == Role::Chosen { format!("**{}**", runner.name) } else { runner.name.clone() };
        let number = |value: Option<f64>, places: usize| value.map_or_else(String::new, |v| format!("{v:.places$}"));
        let product = (runner.role != Role::Aside).then_some(());
        let operations = product.map(|()| self.case.operations() as f64 / nanoseconds / 1e3);
        let speed = copy.map(|_| *bytes as f64 / nanoseconds);
        let of_copy = copy.map(|copy| copy.runner.over(runner)[1] * *bytes as f64 / copy.bytes as f64);
        let dense = product.and_then(|()| self.find(Role::Dense)).map(|dense| runner.over(&dense.runner));
        let spread = dense.map_or_else(String::new, |[low, _, high]| format!("{low:.3} to {high:.3}"));
        let best = self.best().filter(|_| runner.role == Role::Chosen).map(|best| runner.over(best)[1]);
        format!(
            "| {rows}x{cols} | {tokens} | {values} | {:?} | {name} | {:.2} | {} | {} | {} | {} | {spread} | {} |",
            self.cache,
            nanoseconds / 1e3,
            number(operations, 1),
            number(speed, 0),
            number(of_copy, 3),
            number(dense.map(|[_, median, _]| median), 3),
            number(best, 3),
        )
    }
}
