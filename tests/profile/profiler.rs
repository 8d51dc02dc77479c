//! An executor that profiles: a launch's first block is executed from the PTX that nvcc makes, then its first two, so
//! that what they share counts once. Blocks of a launch do alike.

use crate::common::{At, Op, Result, Run, Timed};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::path::Path;
use std::time::{Duration, Instant};
use twofour::Executor;
use twofour::device::{Launch, Limits, Symbol};
use twofour::pass::{Binder, Checked, Libraries, Names, Pass, Plan, Queue, Work};
use twofour::space::{Plain, Raw, RawSlice};
use twofour_emulator::ptx::{self, Compiler, Kind, Module, Profile};
use twofour_emulator::{Buffer, Options};

/// What nvcc is told, as `build.rs` tells it.
mod targets {
    #![allow(dead_code)]
    include!("../../build/targets.rs");
}

/// An executor that runs kernels from their PTX.
struct Profiler {
    compiler: Compiler,
    modules: HashMap<&'static str, Module>,
    /// Whether launches are profiled, or run whole.
    profiles: bool,
    /// A line for each launch.
    lines: Vec<String>,
}

/// Makes an op ready, runs it once, and prints what it asked of a GPU.
pub(crate) struct Profiled<'a> {
    pub(crate) compiler: &'a Compiler,
    pub(crate) name: String,
}

impl At for Profiled<'_> {
    fn ready(self, op: &impl Op) -> Result<Box<dyn Timed>> {
        let compiler = self.compiler.clone();
        let mut on = Profiler { compiler, modules: HashMap::new(), profiles: false, lines: Vec::new() };
        let ready = op.ready(&mut on, 0)?;
        on.profiles = true;
        Ok(Box::new(Once { on, ready, name: self.name, bytes: op.bytes() }))
    }
}

struct Once<R> {
    on: Profiler,
    ready: R,
    name: String,
    bytes: u64,
}

impl<R: Run<Profiler>> Timed for Once<R> {
    fn time(&mut self, _: u64) -> Result<Duration> {
        let begun = Instant::now();
        self.ready.run(&mut self.on, 1)?;
        let Self { name, bytes, .. } = self;
        assert!(!self.on.lines.is_empty(), "{name} launches nothing");
        println!("{{\"case\":\"{name}\",\"bytes\":{bytes},\"launches\":[{}]}}", self.on.lines.join(","));
        Ok(begun.elapsed())
    }
}

impl Profiler {
    fn module(&mut self, symbol: &Symbol) -> &Module {
        let compiler = &self.compiler;
        self.modules.entry(symbol.file()).or_insert_with(|| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let source = root.join("cuda").join(symbol.file()).with_extension("cu");
            let options: Vec<_> = targets::OPTIONS.into_iter().chain(targets::NVCC_OPTIONS).collect();
            let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
            let text = compiler.ptx(&source, "compute_80", &options, root, &root.join("cuda"), cache).unwrap();
            if let Some(folder) = std::env::var_os("TWOFOUR_PROFILE_PTX") {
                let to = Path::new(&folder).join(symbol.file()).with_extension("ptx");
                std::fs::write(to, &text).unwrap();
            }
            Module::new(&text).unwrap()
        })
    }

    fn launch(&mut self, launch: &Launch) {
        if launch.grid.contains(&0) {
            return;
        }
        let blocks = launch.grid.iter().map(|&blocks| u64::from(blocks)).product::<u64>();
        let profiles = self.profiles;
        let module = self.module(&launch.symbol);
        let launch_ptx = ptx::Launch {
            kernel: launch.symbol.name(),
            grid: launch.grid,
            block: [launch.threads, 1, 1],
            shared_bytes: launch.shared_bytes,
            args: launch.args.bytes(),
        };
        if !profiles {
            module.run(&launch_ptx, &Options::default()).unwrap();
            return;
        }
        let profile = |count: u64| {
            let options = Options { blocks: Some(0..count.min(blocks)), ..Options::default() };
            module.profile(&launch_ptx, &options).unwrap()
        };
        let line = line(launch, blocks, &[profile(1), profile(2)]);
        self.lines.push(line);
    }
}

/// What one block asks for, then two, as JSON.
fn line(launch: &Launch, blocks: u64, [one, two]: &[Profile; 2]) -> String {
    let mut global = ptx::Global::default();
    [Kind::Load, Kind::Store, Kind::Atomic, Kind::Copy].iter().for_each(|&kind| global.add(&two.global(kind)));
    let mut shared = ptx::Shared::default();
    two.sites.iter().for_each(|site| shared.add(&site.counts.shared));
    let fields = [
        ("blocks", blocks),
        ("profiled", blocks.min(2)),
        ("threads", launch.threads.into()),
        ("shared", launch.shared_bytes.into()),
        ("first_bytes", one.read_bytes + one.written_bytes),
        ("both_bytes", two.read_bytes + two.written_bytes),
        ("sectors", global.sectors),
        ("ideal_sectors", global.ideal),
        ("lines", global.lines),
        ("wavefronts", shared.wavefronts),
        ("ideal_wavefronts", shared.ideal),
        ("chain", two.chain),
        ("first_barrier", two.first_barrier),
    ];
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    let issued: Vec<_> = two.sites.iter().map(|site| format!("[{},{}]", site.line, site.counts.issued)).collect();
    let (file, kernel, issued) = (launch.symbol.file(), launch.symbol.name(), issued.join(","));
    format!("{{\"file\":\"{file}\",\"kernel\":\"{kernel}\",{},\"issued\":[{issued}]}}", fields.join(","))
}

impl Executor for Profiler {
    type Space = Raw;
    type Buffer<T: Plain> = Array<T>;

    fn run<P: Pass<Raw>>(&mut self, pass: P) -> twofour::Result<()> {
        let (mut pass, mut queue, mut names) = (Checked::new(pass)?, Queue::new(self.limits()), Names::new());
        // SAFETY: the executor of PTX checks every access.
        let mut binder = unsafe { Binder::naming(&mut names) };
        P::queue(&mut pass, &mut binder, &mut queue)?;
        let works: Vec<Work> = queue.works().copied().collect();
        for work in &works {
            match work {
                Work::Kernel(launch) => self.launch(launch),
                Work::Dense(_) | Work::Cusparselt(_) => {}
            }
        }
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits::H200
    }

    fn libraries(&self) -> Libraries {
        // What they would do has no PTX.
        Libraries::NONE
    }

    fn zeros<T: Plain>(&self, elements: usize) -> twofour::Result<Array<T>> {
        Ok(Array(Buffer::reserve("zeros", elements * size_of::<T>()).unwrap(), PhantomData))
    }

    fn upload<T: Plain>(&self, values: &[T]) -> twofour::Result<Array<T>> {
        Ok(Array(Buffer::in_place::<u8>("values", bytemuck::cast_slice(values)).unwrap(), PhantomData))
    }

    fn download<T: Plain>(&self, buffer: &Array<T>) -> twofour::Result<Vec<T>> {
        let bytes = buffer.0.values::<u8>();
        Ok(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
    }

    fn input<T: Plain>(buffer: &Array<T>) -> RawSlice<T> {
        buffer.raw()
    }

    fn output<T: Plain>(buffer: &mut Array<T>) -> RawSlice<T> {
        buffer.raw()
    }

    fn workspace(&self, bytes: usize) -> twofour::Result<Option<Array<u8>>> {
        if bytes == 0 { Ok(None) } else { self.zeros(bytes).map(Some) }
    }

    fn prepare<P: Plan>(&mut self, _: &P) -> twofour::Result<()> {
        Ok(())
    }
}

/// Memory of the executor, with a type.
struct Array<T>(Buffer, PhantomData<T>);

impl<T> Array<T> {
    fn raw(&self) -> RawSlice<T> {
        RawSlice::new(self.0.address(), self.0.len() / size_of::<T>())
    }
}
