//! Timing on the first GPU: runs captured in a graph, so that the host does not matter, between two events.

pub mod matmul;
pub mod memory;
pub mod routes;
pub mod sparse;

use super::{Cache, Op, Result, Run, Timed, data};
use std::sync::Arc;
use std::time::{Duration, Instant};
use twofour::Gpu;
use twofour::cudarc::driver::{CudaEvent, CudaGraph, CudaStream, sys};

/// Operands that take turns so that none is in the level-2 cache when its turn comes: bytes of all together.
const COLD_BYTES: u64 = 192 << 20;

/// The least number of runs in a graph: what a launch of the graph costs is not seen.
const RUNS: usize = 64;

/// Where runs take long, a graph has fewer, that take about so long together.
const SPAN: Duration = Duration::from_millis(4);

/// Runs in a graph.
pub struct Replay {
    stream: Arc<CudaStream>,
    begin: CudaEvent,
    end: CudaEvent,
    graph: CudaGraph,
    runs: u64,
}

impl Replay {
    /// Captures `run(0)`, `run(1)` and so on up to at most [`RUNS`], a multiple of `sets`.
    fn lasting(stream: &Arc<CudaStream>, sets: usize, mut run: impl FnMut(usize) -> Result<()>) -> Result<Self> {
        // Loads what has to be.
        (0..sets).try_for_each(&mut run)?;
        stream.synchronize()?;
        let begun = Instant::now();
        (0..sets).try_for_each(&mut run)?;
        stream.synchronize()?;
        let each = begun.elapsed().as_secs_f64() / sets as f64;
        let runs = (SPAN.as_secs_f64() / each).clamp(1.0, RUNS as f64) as usize;
        Self::capture(stream, runs.next_multiple_of(sets), run)
    }

    /// Nanoseconds of a run on average, over all runs of the graph.
    pub fn once(&mut self) -> Result<f64> {
        Ok(self.time(self.runs)?.as_secs_f64() * 1e9 / self.runs as f64)
    }

    fn capture(stream: &Arc<CudaStream>, runs: usize, mut run: impl FnMut(usize) -> Result<()>) -> Result<Self> {
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let captured = (0..runs).try_for_each(&mut run);
        // Ends the capture in any case, so that the stream is of use again.
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        captured?;
        let graph = graph?.ok_or("nothing was captured")?;
        graph.upload()?;
        let event = || stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let (begin, end) = (event()?, event()?);
        Ok(Self { stream: Arc::clone(stream), begin, end, graph, runs: runs as u64 })
    }
}

impl Timed for Replay {
    /// Runs whole graphs, and gives the share of their time that so many runs took.
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        let launches = iterations.div_ceil(self.runs);
        self.begin.record(&self.stream)?;
        for _ in 0..launches {
            self.graph.launch()?;
        }
        self.end.record(&self.stream)?;
        let seconds = f64::from(self.begin.elapsed_ms(&self.end)?) / 1e3;
        Ok(Duration::from_secs_f64(seconds * iterations as f64 / (launches * self.runs) as f64))
    }
}

/// A stream of its own on the first GPU: the default stream cannot be captured.
fn stream() -> Result<Arc<CudaStream>> {
    let context = twofour::device::context(0)?;
    // SAFETY: all that is allocated here is used on the one stream below, and dropped after it has been waited for.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;
    twofour::device::prepare(&stream)?;
    Ok(stream)
}

/// A copy of so many bytes on the device.
pub fn copy(bytes: usize, cache: Cache) -> Result<Box<dyn Timed>> {
    let stream = stream()?;
    let numbers = |set| stream.clone_htod(&data::normal::<f32>(bytes / size_of::<f32>(), 1.0, set));
    let pair = |set| Ok((numbers(2 * set)?, numbers(2 * set + 1)?));
    let operands = (0..sets(cache, 2 * bytes as u64)).map(pair).collect::<Result<Vec<_>>>()?;
    let on = Arc::clone(&stream);
    replayed(&stream, operands, move |(from, to), _| Ok(on.memcpy_dtod(from, to)?))
}

/// How many sets of operands take turns, when a run moves so many bytes.
fn sets(cache: Cache, bytes: u64) -> usize {
    match cache {
        Cache::Hot => 1,
        Cache::Cold if super::smoke() => 2,
        Cache::Cold => COLD_BYTES.div_ceil(bytes.max(1)).clamp(1, 4096) as usize,
    }
}

/// An op on sets of operands in turn, captured.
pub fn captured<O: Op>(op: &O, cache: Cache) -> Result<Box<dyn Timed>> {
    let mut gpu = Gpu::new(&stream()?)?;
    let operands: Result<Vec<_>> = (0..sets(cache, op.bytes())).map(|set| op.ready(&mut gpu, set)).collect();
    replayed(&Arc::clone(gpu.stream()), operands?, move |set, number| Ok(set.run(&mut gpu, number)?))
}

/// Runs on sets of operands in turn, captured; `run` also gets the number of the run.
fn replayed<O: 'static, F: FnMut(&mut O, u64) -> Result<()> + 'static>(
    stream: &Arc<CudaStream>,
    mut sets: Vec<O>,
    mut run: F,
) -> Result<Box<dyn Timed>> {
    let count = sets.len();
    let replay = Replay::lasting(stream, count, |i| run(&mut sets[i % count], i as u64))?;
    Ok(Box::new(With { replay, _operands: sets, _run: run }))
}

/// A graph, the memory that it reads and writes, and what has run it, whose workspaces are in the graph too: both go
/// after it.
struct With<O, F> {
    replay: Replay,
    _operands: Vec<O>,
    _run: F,
}

impl<O, F> Timed for With<O, F> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        self.replay.time(iterations)
    }
}
