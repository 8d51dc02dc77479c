//! One block: its threads as fibers, run in the order that the schedule picks.
//!
//! Everything that the fibers and the loop over them both touch is in cells of [`Block`]: they all run on one OS
//! thread, so a shared reference is enough.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::sync::Arc;

use corosensei::trap::CoroutineTrapHandler;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use crate::Kernel;
use crate::copies::{Copies, Copy};
use crate::fault::{Fault, Near, Place, Source};
use crate::memory::Region;
use crate::report::Counts;
use crate::schedule::{Picker, Random, Schedule};
use crate::shared::Shared;
use crate::stack::FiberStack;
use crate::tensor::Arithmetic;
use crate::thread::{Range, Site, Thread};
use crate::warp::{Barrier, Warp};

/// What all blocks of a launch have in common.
pub(crate) struct Context {
    pub(crate) kernel: Kernel,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    /// The argument struct, in words for its alignment.
    pub(crate) args: Vec<u128>,
    pub(crate) schedule: Schedule,
    pub(crate) arithmetic: Arithmetic,
    /// The live buffers, lowest address first.
    pub(crate) regions: Vec<Arc<Region>>,
}

/// How a fiber ends.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Returned,
    /// A signal handler sent it home; see `Block::trap`.
    Trapped,
}

pub(crate) type TrapHandler = CoroutineTrapHandler<End>;
type Fiber = Coroutine<(), (), End, FiberStack>;

/// What the signal handler saw.
#[derive(Clone, Copy)]
pub(crate) struct Trap {
    pub(crate) signal: i32,
    pub(crate) address: usize,
    pub(crate) code_address: usize,
    pub(crate) stores: bool,
}

thread_local! {
    /// The block that this OS thread runs, for the signal handler (signals.rs); null between blocks.
    pub(crate) static BLOCK: Cell<*const Block> = const { Cell::new(std::ptr::null()) };
}

/// Runs `body` with signals of the block's fibers turned into traps.
fn with_block<T>(block: &Block, body: impl FnOnce() -> T) -> T {
    BLOCK.set(block);
    let result = body();
    BLOCK.set(std::ptr::null());
    result
}

/// What the emulator keeps of one thread, beside `Thread`.
pub(crate) struct FiberState {
    pub(crate) copies: RefCell<Copies>,
    pub(crate) stack: Cell<Range>,
    pub(crate) trap_handler: Cell<Option<TrapHandler>>,
}

/// The block that an OS thread runs; used again for one after another.
pub(crate) struct Block {
    pub(crate) context: Arc<Context>,
    pub(crate) shared: Shared,
    threads: Vec<Thread>,
    pub(crate) fibers: Vec<FiberState>,
    pub(crate) warps: Vec<Warp>,
    pub(crate) barrier: Barrier,
    pub(crate) ended: Cell<u32>,
    /// The thread that runs now, for the signal handler.
    pub(crate) running: Cell<usize>,
    pub(crate) trap: Cell<Option<Trap>>,
    fault: Cell<Option<Box<Fault>>>,
    random: RefCell<Random>,
    pub(crate) counts: Counts,
}

impl Block {
    /// For blocks on the calling OS thread.
    pub(crate) fn new(context: Arc<Context>) -> Result<Block, Fault> {
        let shared =
            Shared::new(context.shared_bytes).map_err(|source| Fault::Host { what: "map shared memory", source })?;
        let [x, y, z] = context.block;
        let count = x * y * z;
        let threads = (0..count).map(|i| new_thread(&context, &shared, i)).collect();
        let warps = (0..count.div_ceil(32)).map(|w| Warp::new(u32::MAX >> (32 - (count - 32 * w).min(32)))).collect();
        let random = RefCell::new(context.schedule.random(0));
        Ok(Block {
            context,
            shared,
            threads,
            fibers: (0..count).map(|_| FiberState::new()).collect(),
            warps,
            barrier: Barrier::new(),
            ended: Cell::new(0),
            running: Cell::new(0),
            trap: Cell::new(None),
            fault: Cell::new(None),
            random,
            counts: Counts::default(),
        })
    }

    /// Runs the block of this number (x fastest) on stacks that it takes and puts back.
    pub(crate) fn run(&self, number: u64, stacks: &mut Vec<FiberStack>) -> Result<(), Fault> {
        self.start(number);
        let mut fibers: Vec<Fiber> = self
            .fibers
            .iter()
            .enumerate()
            .zip(stacks.drain(..))
            .map(|((i, _), stack)| self.new_fiber(i, stack))
            .collect();
        let result = with_block(self, || self.run_fibers(number, &mut fibers));
        for mut fiber in fibers {
            // SAFETY: a fiber's frames hold nothing that needs dropping: kernels are compiled without exceptions and
            // own nothing, and the Rust frames below them (calls.rs) keep no guard or allocation across a suspension.
            unsafe { fiber.force_reset() };
            stacks.push(fiber.into_stack());
        }
        self.counts.blocks.set(self.counts.blocks.get() + 1);
        result?;
        self.overrun()
    }

    fn start(&self, number: u64) {
        let [gx, gy, _] = self.context.grid.map(u64::from);
        let index = [number % gx, number / gx % gy, number / gx / gy].map(|i| i as u32);
        for (thread, fiber) in self.threads.iter().zip(&self.fibers) {
            thread.block.set(index);
            thread.host.set(std::ptr::from_ref(self).cast());
            fiber.copies.borrow_mut().start();
        }
        self.warps.iter().for_each(Warp::start);
        self.barrier.start();
        self.ended.set(0);
        *self.random.borrow_mut() = self.context.schedule.random(!number);
        self.shared.poison();
    }

    fn new_fiber(&self, index: usize, stack: FiberStack) -> Fiber {
        let thread: *const Thread = &self.threads[index];
        let kernel = self.context.kernel;
        let args: *const c_void = self.context.args.as_ptr().cast();
        self.fibers[index].stack.set(stack.usable());
        let fiber = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
            // SAFETY: the fiber runs only inside `Block::run`, during which the block and its vectors stay in place.
            let shared = unsafe { &*thread };
            shared.yielder.set(std::ptr::from_ref(yielder).cast());
            // SAFETY: `args` are the launch's, checked for size and kept in 16-byte words; this is `thread`'s fiber.
            unsafe { kernel.enter(args, thread) };
            End::Returned
        });
        self.fibers[index].trap_handler.set(Some(fiber.trap_handler()));
        fiber
    }

    fn run_fibers(&self, number: u64, fibers: &mut [Fiber]) -> Result<(), Fault> {
        let mut picker = Picker::new(self.context.schedule, number, self.warps.len());
        let mut switches = 0;
        while let Some(thread) = picker.pick(&self.warps) {
            self.running.set(thread);
            switches += 1;
            match fibers[thread].resume(()) {
                CoroutineResult::Yield(()) => {
                    if let Some(fault) = self.fault.take() {
                        return Err(*fault);
                    }
                }
                CoroutineResult::Return(End::Returned) => self.end(thread)?,
                CoroutineResult::Return(End::Trapped) => return Err(self.trapped(thread)),
            }
        }
        self.counts.switches.set(self.counts.switches.get() + switches);
        self.stuck().map_or(Ok(()), Err)
    }

    /// Ends the run with a fault. The thread never goes on.
    #[cold]
    #[inline(never)]
    pub(crate) fn raise(&self, thread: usize, fault: Fault) -> ! {
        self.fault.set(Some(Box::new(fault)));
        loop {
            self.suspend(thread);
        }
    }

    /// Suspends a thread until the schedule picks it again.
    #[inline]
    pub(crate) fn suspend(&self, thread: usize) {
        let yielder = self.threads[thread].yielder.get().cast::<Yielder<(), ()>>();
        // SAFETY: only the running thread comes here, and its yielder lives at the bottom of its own stack.
        let yielder = unsafe { &*yielder };
        yielder.suspend(());
    }

    /// A thread issues an asynchronous copy.
    pub(crate) fn copy(&self, thread: usize, copy: Copy) {
        self.counts.copies.set(self.counts.copies.get() + 1);
        if self.copies_land_at_once() {
            return copy.land();
        }
        self.fibers[thread].copies.borrow_mut().add(copy);
    }

    fn copies_land_at_once(&self) -> bool {
        self.context.schedule != Schedule::RoundRobin && self.random.borrow_mut().next().is_multiple_of(2)
    }

    /// Names a thread and a line for a message.
    pub(crate) fn place(&self, thread: usize, site: Site) -> Box<Place> {
        let source = match site.line() {
            0 => Source::Unknown,
            line => Source::Line(site.file_name(), line),
        };
        self.place_at(thread, source)
    }

    pub(crate) fn place_at(&self, thread: usize, source: Source) -> Box<Place> {
        let of = &self.threads[thread];
        Box::new(Place { kernel: self.context.kernel.name(), block: of.block.get(), thread: of.thread, source })
    }

    /// A raw store just outside of dynamic shared memory, where no guard page is.
    fn overrun(&self) -> Result<(), Fault> {
        let Some(offset) = self.shared.overrun() else {
            return Ok(());
        };
        let dynamic = self.shared.dynamic();
        let near = Near::DynamicShared { bytes: (dynamic.end - dynamic.start) as u64, offset };
        Err(Fault::Overwritten { kernel: self.context.kernel.name(), near })
    }
}

impl Thread {
    /// The block this thread is of, and its number there.
    #[inline]
    pub(crate) fn host(&self) -> (&Block, usize) {
        let block = self.host.get().cast::<Block>();
        // SAFETY: a thread runs only inside `Block::run`, which sets `host` to itself first and outlives the thread.
        let block = unsafe { &*block };
        (block, self.index as usize)
    }
}

impl FiberState {
    fn new() -> FiberState {
        FiberState {
            copies: RefCell::new(Copies::default()),
            stack: Cell::new(Range::default()),
            trap_handler: Cell::new(None),
        }
    }
}

fn new_thread(context: &Context, shared: &Shared, index: u32) -> Thread {
    let [x, y, _] = context.block;
    Thread {
        thread: [index % x, index / x % y, index / x / y],
        block: Cell::new([0; 3]),
        block_size: context.block,
        block_count: context.grid,
        arithmetic: context.arithmetic,
        kernel: context.kernel.symbol(),
        dynamic_shared: shared.dynamic(),
        static_shared: shared.fixed(),
        allowed: Default::default(),
        host: Cell::new(std::ptr::null()),
        yielder: Cell::new(std::ptr::null()),
        index,
    }
}
