//! `sparse` on the first GPU: every route to a product in turn, round after round, and with them cuBLASLt's dense product
//! and, for few tokens, a plain copy of as many bytes as the packed weight and the activations have.

use super::super::data::{Number, for_values};
use super::super::sparse::{Bytes, Case, Inputs, Operands};
use super::routes::{Role, Runner};
use super::{Cache, Replay, Result, Timed, sets, stream};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::time::Duration;
use twofour::compress::Layout;
use twofour::gpu::library::LibraryWeight;
use twofour::sparse::{Given, MAX_SMALL_TOKENS, Multiply, Packing, Plan, Route, Weight};
use twofour::{Buffer, Executor, Gpu, Libraries};

/// Iterations of cuSPARSELt's search.
const SEARCH: u32 = 10;

/// All routes to one product.
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

/// A route, how long it took, and the bytes that it reads and writes, each operand once a launch. The copy is
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

    /// The fastest of the routes between which the plan chooses.
    fn best(&self) -> Option<&Runner> {
        let routes = self.ran.iter().map(|ran| &ran.runner);
        let routes = routes.filter(|route| matches!(route.role, Role::Chosen | Role::Rival));
        routes.min_by(|a, b| a.median().total_cmp(&b.median()))
    }
}

/// A case's product as the plan would have it.
pub fn ready(case: Case, cache: Cache) -> Result<Box<dyn Timed>> {
    for_values!(case, alone(case, cache))
}

fn alone<T: Number>(case: Case, cache: Cache) -> Result<Box<dyn Timed>> {
    let mut arena = Arena::<T>::new(case, cache)?;
    let entries = arena.entries()?;
    let (.., entry) = entries.into_iter().find(|(_, role, _)| *role == Role::Chosen).ok_or("no route serves")?;
    let replay = arena.capture(&entry)?;
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
    for (name, role, entry) in arena.entries()? {
        replays.push(arena.capture(&entry).map_err(|error| format!("{name}: {error}"))?);
        let bytes = entry.bytes(&arena.bytes);
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

/// What is raced.
enum Entry<T> {
    /// Its plan, and who packed the weight for cuSPARSELt.
    Product { plan: Plan<T>, ours: bool },
    /// As many bytes as the packed weight and the activations have, half of them read and half written.
    Copy,
}

impl<T: Number> Entry<T> {
    fn bytes(&self, Bytes { packed, dense, activations }: &Bytes) -> usize {
        activations
            + match self {
                Self::Product { plan, .. } if plan.route() == Route::Dense && plan.given().dense => *dense,
                // The weight is written decompressed, and read again.
                Self::Product { plan, .. } if plan.route() == Route::Dense => packed + 2 * dense,
                _ => *packed,
            }
    }

    fn workspace_bytes(&self) -> usize {
        if let Self::Product { plan, .. } = self { plan.workspace_bytes() } else { 0 }
    }
}

type Named<T> = (String, Role, Entry<T>);

struct Arena<T: Number> {
    gpu: Gpu,
    case: Case,
    bytes: Bytes,
    /// Take turns.
    sets: Vec<Set<T>>,
    workspace: Buffer<u8>,
}

struct Set<T: Number> {
    operands: Operands<Gpu, T>,
    dense: Buffer<T>,
    /// For cuSPARSELt, packed by us and by itself.
    packed: [Option<LibraryWeight<T>>; 2],
    /// From the first to the second, where there is a copy.
    copy: Option<[Buffer<u8>; 2]>,
}

impl<T: Number> Arena<T> {
    fn new(case: Case, cache: Cache) -> Result<Self> {
        let (mut gpu, bytes) = (Gpu::new(&stream()?)?, Bytes::new::<T>(&case)?);
        // Many tokens are not bound by memory.
        let copied = if case.tokens <= MAX_SMALL_TOKENS { bytes.least() } else { 0 };
        let sets = (0..sets(cache, bytes.least() as u64)).map(|number| Set::new(&mut gpu, &case, copied, number));
        let sets = sets.collect::<Result<_>>()?;
        Ok(Self { sets, workspace: gpu.zeros(0)?, case, bytes, gpu })
    }

    /// Every route that serves, the plan's own marked, and a workspace for all of them; and the copy.
    fn entries(&mut self) -> Result<Vec<Named<T>>> {
        let (limits, problem, mut libraries) = (self.gpu.limits(), self.case.problem(), self.gpu.libraries());
        let by_library = self.searched(libraries)?;
        // The plan is to be one of what runs.
        libraries.cusparselt &= !by_library.is_empty();
        let chosen = Plan::<T>::new(&limits, problem, Given::WEIGHT, libraries)?;
        let role = |route| if route == chosen.route() { Role::Chosen } else { Role::Rival };
        let mut entries = Vec::new();
        for (name, route) in
            [("own, few tokens", Route::Small), ("own, tiles", Route::Tile), ("unpack, cuBLASLt", Route::Dense)]
        {
            // The only error is that the route is none for this case.
            if let Ok(plan) = chosen.with_route(route) {
                entries.push((name.to_owned(), role(route), Entry::Product { plan, ours: false }));
            }
        }
        for (at, (name, entry)) in by_library.into_iter().enumerate() {
            // A caller would have the first of them.
            let role = if at == 0 { role(Route::Cusparselt) } else { Role::Rival };
            entries.push((name.to_owned(), role, entry));
        }
        let given = Given { dense: true, ..Given::WEIGHT };
        if let Ok(plan) = Plan::by(Route::Dense, &limits, problem, given, libraries) {
            entries.push(("dense, cuBLASLt".into(), Role::Dense, Entry::Product { plan, ours: false }));
        }
        if self.sets[0].copy.is_some() {
            entries.push(("copy of as many bytes".into(), Role::Aside, Entry::Copy));
        }
        let bytes = entries.iter().map(|(.., entry)| entry.workspace_bytes()).max().unwrap_or(0);
        self.workspace = self.gpu.zeros(bytes)?;
        Ok(entries)
    }

    /// cuSPARSELt's entries, our packer's first; none where it does not serve, or where its search fails, which is said.
    fn searched(&mut self, libraries: Libraries) -> Result<Vec<(&'static str, Entry<T>)>> {
        let Self { gpu, case, sets, .. } = self;
        let plan = Plan::<T>::by(Route::Cusparselt, &gpu.limits(), case.problem(), Given::WEIGHT, libraries);
        let Ok(plan) = plan else { return Ok(Vec::new()) };
        let set = &sets[0];
        let theirs = set.packed[1].as_ref().ok_or("the library packed nothing")?;
        let plan = match plan.search(gpu, theirs, &set.operands.x, &set.dense, SEARCH) {
            Ok(plan) => plan,
            Err(error) => {
                // Not among the answers of `benches/peer.rs`.
                eprintln!("{}: without cuSPARSELt, whose search failed: {error}", case.name());
                return Ok(Vec::new());
            }
        };
        let mut entries = vec![("cuSPARSELt, packed by it", Entry::Product { plan, ours: false })];
        if matches!(plan.packing(), Some(Packing::Ours(_))) {
            entries.insert(0, ("cuSPARSELt, packed by us", Entry::Product { plan, ours: true }));
        }
        Ok(entries)
    }

    fn capture(&mut self, entry: &Entry<T>) -> Result<Replay> {
        let Self { gpu, sets, workspace, .. } = self;
        let (count, stream) = (sets.len(), gpu.stream().clone());
        Replay::lasting(&stream, count, |run| sets[run % count].queue(gpu, workspace, entry))
    }
}

impl<T: Number> Set<T> {
    /// Of operands with these numbers, and of a copy that reads and writes so many bytes.
    fn new(gpu: &mut Gpu, case: &Case, copied: usize, number: usize) -> Result<Self> {
        let inputs = Inputs::<T>::new(case.problem(), number)?;
        let dense = gpu.upload(&inputs.weight.decompress())?;
        let (limits, libraries) = (gpu.limits(), gpu.libraries());
        let mut packed = [None, None];
        if Plan::<T>::by(Route::Cusparselt, &limits, case.problem(), Given::WEIGHT, libraries).is_ok() {
            let ours = LibraryWeight::pack_host(gpu, &inputs.weight)?;
            packed[0] = matches!(ours.packing(), Packing::Ours(_)).then_some(ours);
            packed[1] = Some(LibraryWeight::pack_dense(gpu, case.shape, &dense)?);
        }
        let copy = match copied / 2 {
            0 => None,
            half => {
                // No zeros: a device clocks higher on them.
                let bytes = bytemuck::cast_slice::<T, u8>(inputs.weight.values()).iter().copied();
                let from: Vec<u8> = bytes.cycle().take(half).collect();
                Some([gpu.upload(&from)?, gpu.zeros(half)?])
            }
        };
        Ok(Self { operands: Operands::new(gpu, Layout::CutlassSm80, &inputs)?, dense, packed, copy })
    }

    fn queue(&mut self, gpu: &mut Gpu, workspace: &mut Buffer<u8>, entry: &Entry<T>) -> Result<()> {
        let (plan, ours) = match (entry, &mut self.copy) {
            (Entry::Product { plan, ours }, _) => (plan, *ours),
            (Entry::Copy, Some([from, to])) => {
                return Ok(gpu.stream().memcpy_dtod(&Gpu::input(from), &mut Gpu::output(to))?);
            }
            (Entry::Copy, None) => return Err("there is nothing to copy".into()),
        };
        let Self { operands: Operands { shape, layout, values, metadata, x, y }, dense, packed, .. } = self;
        let weight = match (plan.route(), &packed[usize::from(!ours)]) {
            (Route::Cusparselt, Some(packed)) => packed.as_weight(),
            _ => Weight::new(*shape, *layout, &*values, &*metadata),
        };
        let pass = Multiply::new(&weight, plan.problem().tokens, &*x, y).plan(plan).workspace(workspace);
        Ok(gpu.run(if plan.given().dense { pass.dense(&*dense) } else { pass })?)
    }
}

/// What the races come to, as Markdown.
pub fn print(races: &[Done]) {
    if races.is_empty() {
        return;
    }
    println!(
        "\nEvery route, and its time over that of cuBLASLt's dense product in the same rounds (median, p20 to p80). For \
         few tokens, the speed at which it reads and writes each operand once, and what that is of a copy's in the same \
         rounds. For the plan's route (bold), its time over that of the best of those between which it chooses.\n"
    );
    println!(
        "| shape | T | values | cache | route | µs | TFLOP/s, dense | GB/s | of copy | over dense | p20 to p80 | \
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
