//! Timing on the first GPU: runs captured in a graph, so that the host does not matter, between two events.

use super::mask::{Case, Inputs, Op, for_types};
use super::{Cache, Result, Timed, data};
use std::sync::Arc;
use std::time::Duration;
use twofour::cudarc::driver::{CudaEvent, CudaGraph, CudaSlice, CudaStream, DeviceRepr, sys};
use twofour::mask::{self, GradientOf, Statistics};
use twofour::{Element, Logit};

/// Operands that take turns so that none is in the level-2 cache when its turn comes: bytes of all together.
const COLD_BYTES: u64 = 192 << 20;

/// The least number of runs in a graph: what a launch of the graph costs is not seen.
const RUNS: usize = 64;

/// Runs in a graph.
struct Replay {
    stream: Arc<CudaStream>,
    begin: CudaEvent,
    end: CudaEvent,
    graph: CudaGraph,
    runs: u64,
}

impl Replay {
    /// Captures `run(0)`, `run(1)` and so on up to `runs`. Each is run once before, which loads what has to be.
    fn capture(stream: &Arc<CudaStream>, runs: usize, mut run: impl FnMut(usize) -> Result<()>) -> Result<Self> {
        (0..runs).try_for_each(&mut run)?;
        stream.synchronize()?;
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

/// A copy of so many bytes on the device: what its memory gives at best. It moves each twice.
pub fn copy(bytes: usize) -> Result<Box<dyn Timed>> {
    let stream = stream()?;
    let from = stream.clone_htod(&data::normal::<f32>(bytes / 4, 1.0, 0))?;
    let mut to = stream.clone_htod(&data::normal::<f32>(bytes / 4, 1.0, 1))?;
    let replay = Replay::capture(&stream, 16, |_| Ok(stream.memcpy_dtod(&from, &mut to)?))?;
    Ok(Box::new(With { replay, _operands: (from, to) }))
}

/// A graph and the memory that it reads and writes, which goes after it.
struct With<O> {
    replay: Replay,
    _operands: O,
}

impl<O> Timed for With<O> {
    fn time(&mut self, iterations: u64) -> Result<Duration> {
        self.replay.time(iterations)
    }
}

/// A case of `mask` on the first GPU.
pub fn on_cuda(case: Case, cache: Cache) -> Result<Box<dyn Timed>> {
    for_types!(case, captured(case, cache))
}

fn captured<L, W>(case: Case, cache: Cache) -> Result<Box<dyn Timed>>
where
    L: Logit + DeviceRepr,
    W: Element + DeviceRepr + GradientOf<W>,
{
    let stream = stream()?;
    let count = match cache {
        Cache::Hot => 1,
        Cache::Cold => COLD_BYTES.div_ceil(case.bytes().max(1)).clamp(1, 4096) as usize,
    };
    let sets: Result<Vec<_>> = (0..count).map(|set| Operands::<L, W>::new(&stream, &case, set)).collect();
    let mut sets = sets?;
    let replay = Replay::capture(&stream, RUNS.next_multiple_of(count), |run| {
        let set = &mut sets[run % count];
        if case.op != Op::Backward {
            set.forward(&stream, &case, run as u64)?;
        }
        if case.op != Op::Forward {
            set.backward(&stream, &case, run as u64)?;
        }
        Ok(())
    })?;
    Ok(Box::new(With { replay, _operands: sets }))
}

struct Operands<L, W> {
    logits: CudaSlice<L>,
    weight: CudaSlice<W>,
    gradient: CudaSlice<W>,
    masked: CudaSlice<W>,
    logit_gradient: CudaSlice<f32>,
    codes: [CudaSlice<u8>; 2],
    statistics: CudaSlice<Statistics>,
}

impl<L: Logit + DeviceRepr, W: Element + DeviceRepr + GradientOf<W>> Operands<L, W> {
    fn new(stream: &Arc<CudaStream>, case: &Case, set: usize) -> Result<Self> {
        let inputs = Inputs::<L, W>::new(case.shape, set);
        let codes = || stream.alloc_zeros(case.shape.packed_codes());
        Ok(Self {
            logits: stream.clone_htod(&inputs.logits)?,
            weight: stream.clone_htod(&inputs.weight)?,
            gradient: stream.clone_htod(&inputs.gradient)?,
            masked: stream.clone_htod(&inputs.weight)?,
            logit_gradient: stream.alloc_zeros(case.shape.logits())?,
            codes: [codes()?, codes()?],
            statistics: stream.alloc_zeros(Statistics::SLOTS)?,
        })
    }

    fn forward(&mut self, stream: &Arc<CudaStream>, case: &Case, draw: u64) -> Result<()> {
        let Self { logits, weight, masked, codes, statistics, .. } = self;
        let mut args = mask::cuda::Forward::new(case.shape, case.kind, case.sampling(draw), logits.as_view());
        if case.metrics {
            let [now, before] = codes;
            args = args.codes(now.as_view_mut()).previous_codes(before.as_view()).statistics(statistics.as_view_mut());
        }
        mask::cuda::forward_into(stream, args.weight(weight.as_view()).masked(masked.as_view_mut()))?;
        self.codes.swap(0, 1);
        Ok(())
    }

    fn backward(&mut self, stream: &Arc<CudaStream>, case: &Case, draw: u64) -> Result<()> {
        let Self { logits, weight, gradient, logit_gradient, .. } = self;
        let operands = (logits.as_view(), weight.as_view(), gradient.as_view());
        let sampling = case.sampling(draw);
        let args = mask::cuda::Backward::new(case.shape, case.kind, sampling, operands.0, operands.1, operands.2);
        let args = args.regulariser(case.regulariser()).logit_gradient(logit_gradient.as_view_mut());
        Ok(mask::cuda::backward_into(stream, args)?)
    }
}
