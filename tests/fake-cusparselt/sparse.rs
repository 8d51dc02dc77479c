//! What runs in a child process, on the fake driver and library; the parent reads the log.

use twofour::compress::{Compressed, Layout, Sparsity};
use twofour::cusparselt::{self, Types};
use twofour::device::{self, Limits};
use twofour::gpu::library::{LibraryWeight, packing};
use twofour::sparse::{Given, Multiply, Packing, Plan, Problem, Route, Weight};
use twofour::{Cpu, E4m3, Element, Error, Executor, Factor, Gpu, Libraries, Result, Shape, bf16, f16};

/// The one small, the other from 256 rows on, where layouts change.
const SMALL: Shape = Shape::new(64, 64);
const TALL: Shape = Shape::new(512, 768);

fn gpu() -> Gpu {
    Gpu::new(&device::context(0).unwrap().default_stream()).unwrap()
}

/// A type that the fake library multiplies.
trait Small: Factor {
    fn of(value: i8) -> Self;
    fn output(value: i8) -> Self::Output;
}

macro_rules! small {
    ($($type:ty: $of:expr, $output:expr;)*) => {$(
        impl Small for $type {
            fn of(value: i8) -> Self {
                $of(value)
            }
            fn output(value: i8) -> Self::Output {
                $output(value)
            }
        }
    )*};
}
small! {
    bf16: |v| bf16::from_f32(f32::from(v)), |v| bf16::from_f32(f32::from(v));
    f32: f32::from, f32::from;
    i8: |v| v, i32::from;
}

/// From -2 to 2, without a pattern.
fn numbers(count: usize, seed: u64) -> impl Iterator<Item = i8> {
    (0..count as u64).map(move |i| {
        let mixed = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed.wrapping_mul(0xd1b5_4a32_d192_ed03));
        ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as i8 % 3
    })
}

/// A weight, some of whose kept values are zero.
fn weight<T: Small>(shape: Shape) -> Compressed<T> {
    let sparsity = Sparsity::of(T::DTYPE);
    let kept = numbers(shape.weights() / 2, 1).map(T::of).collect();
    let legal: &[u8] = if size_of::<T>() == 4 { &[0x4, 0xe] } else { &[0x4, 0x8, 0xc, 0x9, 0xd, 0xe] };
    let code = |at: usize| legal[(at * 7 + at / 5) % legal.len()];
    let codes = (0..sparsity.packed_codes(shape)).map(|i| code(2 * i) | code(2 * i + 1) << 4).collect();
    Compressed::new(shape, kept, codes).unwrap()
}

fn plan<T: Factor>(tokens: usize, shape: Shape, given: Given) -> Plan<T> {
    Plan::by(Route::Cusparselt, &Limits::H200, Problem::new(tokens, shape), given, Libraries::ALL).unwrap()
}

const BIAS: Given = Given { bias: true, ..Given::WEIGHT };

fn packings<T: Small>(expected: impl Fn(Packing)) {
    let mut gpu = gpu();
    for shape in [SMALL, TALL, SMALL, TALL] {
        expected(packing::<T>(&mut gpu, shape).unwrap());
    }
    // Other shapes of the class, and another handle.
    expected(packing::<T>(&mut self::gpu(), Shape::new(1024, 1024)).unwrap());
    let packed: Vec<LibraryWeight<T>> =
        [SMALL, TALL].iter().map(|shape| LibraryWeight::pack_host(&mut gpu, &weight::<T>(*shape)).unwrap()).collect();
    packed.iter().for_each(|weight| expected(weight.packing()));
    assert_eq!((packed[0].shape(), packed[0].bytes() >= 64 * 32 * 2 + 512), (SMALL, true));
}

#[test]
#[ignore = "run by its parent"]
fn packed_by_us() {
    let name = std::env::var("EXPECTED").unwrap();
    packings::<bf16>(|packing| match packing {
        Packing::Ours(layout) => assert_eq!(layout.name(), name),
        Packing::Library => panic!("not ours"),
    });
}

#[test]
#[ignore = "run by its parent"]
fn packed_by_the_library() {
    packings::<bf16>(|packing| assert_eq!(packing, Packing::Library));
}

/// Sees that a result is what it should be, to the bit.
#[track_caller]
fn same<T: Element, F: Factor>(got: &[T], expected: &[T], plan: &Plan<F>) {
    let bytes = |value: &T| bytemuck::bytes_of(value).to_vec();
    let wrong = (0..expected.len()).find(|&i| bytes(&got[i]) != bytes(&expected[i]));
    if let Some(i) = wrong {
        panic!("{plan}, {:?}: y[{i}] is {:?}, not {:?}", plan.problem(), got[i], expected[i]);
    }
    assert_eq!(got.len(), expected.len());
}

/// A product of a packed weight, as users have it.
fn run<T: Factor>(
    gpu: &mut Gpu,
    plan: &Plan<T>,
    packed: &LibraryWeight<T>,
    x: &[T],
    bias: Option<&[T::Output]>,
) -> Result<Vec<T::Output>> {
    let (x, mut y) = (gpu.upload(x)?, gpu.zeros(plan.problem().outputs())?);
    let bias = bias.map(|bias| gpu.upload(bias)).transpose()?;
    let (weight, mut scratch) = (packed.as_weight(), gpu.scratch(plan)?);
    let pass = plan.multiply(&weight, &x, &mut y, &mut scratch);
    gpu.run(match &bias {
        Some(bias) => pass.bias(bias),
        None => pass,
    })?;
    gpu.download(&y)
}

fn product<T: Small>(gpu: &mut Gpu, tokens: usize, shape: Shape, given: Given) {
    let weight = weight::<T>(shape);
    let x: Vec<T> = numbers(tokens * shape.cols, 2).map(T::of).collect();
    let bias: Vec<T::Output> = numbers(shape.rows, 3).map(T::output).collect();
    let bias = given.bias.then_some(&*bias);
    let mut expected = vec![T::output(77); tokens * shape.rows];
    let host = Weight::new(shape, Layout::Plain, weight.values(), weight.codes());
    let pass = Multiply::new(&host, tokens, &x, &mut expected);
    Cpu.run(match bias {
        Some(bias) => pass.bias(bias),
        None => pass,
    })
    .unwrap();

    let dense = gpu.upload(&weight.decompress()).unwrap();
    let from_host = LibraryWeight::pack_host(gpu, &weight).unwrap();
    let from_dense = LibraryWeight::pack_dense(gpu, shape, &dense).unwrap();
    for packed in [from_host, from_dense] {
        // What a weight chooses by itself, complete or not, and what is asked for.
        let chosen = packed.as_weight().plan(gpu, tokens, given).unwrap();
        for plan in [chosen, chosen.complete(gpu).unwrap(), plan::<T>(tokens, shape, given)] {
            same(&run(gpu, &plan, &packed, &x, bias).unwrap(), &expected, &plan);
        }
    }
    // On the device in the layout that the library reads: copied.
    let packing = packing::<T>(gpu, shape).unwrap();
    let layout = if let Packing::Ours(layout) = packing { layout } else { Layout::CutlassSm80 };
    let [values, metadata] = {
        let sizes = layout.sizes(shape, T::DTYPE).unwrap();
        let buffer = weight.buffer(layout).unwrap();
        let (values, metadata) = buffer.split_at(sizes.metadata_offset);
        [values.to_vec(), metadata.to_vec()]
    };
    let values: Vec<T> = values.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect();
    let (values, metadata) = (gpu.upload(&values).unwrap(), gpu.upload(&metadata).unwrap());
    let on_device = Weight::new(shape, layout, &values, &metadata);
    match LibraryWeight::pack(gpu, &on_device) {
        Ok(packed) => {
            assert_eq!(packed.packing(), packing);
            let plan = plan::<T>(tokens, shape, given).complete(gpu).unwrap();
            same(&run(gpu, &plan, &packed, &x, bias).unwrap(), &expected, &plan);
        }
        // There are no kernels here to decompress with.
        Err(error) => assert!(packing == Packing::Library, "{error}"),
    }
}

#[test]
#[ignore = "run by its parent"]
fn products() {
    let mut gpu = gpu();
    for shape in [SMALL, Shape::new(32, 64), Shape::new(96, 32), Shape::new(256, 128), Shape::new(320, 96)] {
        for tokens in [16, 48] {
            for given in [Given::WEIGHT, BIAS] {
                product::<bf16>(&mut gpu, tokens, shape, given);
                product::<f32>(&mut gpu, tokens, shape, given);
            }
            product::<i8>(&mut gpu, tokens, shape, Given::WEIGHT);
        }
    }
}

#[test]
#[ignore = "run by its parent"]
fn completing() {
    let mut gpu = gpu();
    let draft = plan::<bf16>(16, SMALL, Given::WEIGHT);
    assert_eq!((draft.packing(), draft.workspace_bytes()), (None, 0));
    assert!(draft.to_string().ends_with("asked for; the library was not asked yet"), "{draft}");
    let plan = draft.complete(&mut gpu).unwrap();
    assert_eq!((plan.packing(), plan.workspace_bytes()), (Some(Packing::Ours(Layout::CusparseltSm90)), 256));
    assert!(plan.to_string().ends_with("packed in layout cusparselt-sm90, as the library packs a probe"), "{plan}");
    let plan = self::plan::<f32>(16, SMALL, Given::WEIGHT).complete(&mut gpu).unwrap();
    assert!(plan.to_string().ends_with("packed by the library, whose probe is in no known layout"), "{plan}");
    gpu.prepare(&plan).unwrap();
    // Another route knows itself all that is to be known.
    let own = draft.with_route(Route::Tile).unwrap();
    assert_eq!(own.complete(&mut gpu), Ok(own));
}

#[test]
#[ignore = "run by its parent"]
fn searching() {
    let mut gpu = gpu();
    let weight = weight::<bf16>(SMALL);
    let x: Vec<bf16> = numbers(16 * SMALL.cols, 2).map(bf16::of).collect();
    let (on_device, dense) = (gpu.upload(&x).unwrap(), gpu.upload(&weight.decompress()).unwrap());
    let packed = LibraryWeight::pack_host(&mut gpu, &weight).unwrap();
    for given in [Given::WEIGHT, BIAS, Given::WEIGHT] {
        let draft = plan::<bf16>(16, SMALL, given);
        let before = draft.complete(&mut gpu).unwrap();
        let mut scratch = gpu.scratch(&before).unwrap();
        let plan = draft.search(&mut gpu, &packed, &on_device, &dense, 2).unwrap();
        assert_eq!(plan.workspace_bytes(), 512, "the fake's fastest algorithm");
        assert_eq!(draft.complete(&mut gpu), Ok(plan));
        // One that comes later, with a handle of its own, has it from memory.
        assert_eq!(draft.complete(&mut self::gpu()), Ok(plan));
        // What was allocated for a plan from before is too little workspace, and is said to be.
        if before.workspace_bytes() < 512 && !given.bias {
            let (weight, mut y) = (packed.as_weight(), gpu.zeros(16 * SMALL.rows).unwrap());
            let error = gpu.run(before.multiply(&weight, &on_device, &mut y, &mut scratch)).unwrap_err();
            assert_eq!(error, Error::Workspace { needed: 512, got: 256 });
            run(&mut gpu, &before, &packed, &x, None).unwrap();
        }
    }
}

#[test]
#[ignore = "run by its parent"]
fn refused() {
    let mut gpu = gpu();
    let weight = weight::<bf16>(SMALL);
    let packed = LibraryWeight::pack_host(&mut gpu, &weight).unwrap();
    let draft = plan::<bf16>(16, SMALL, Given::WEIGHT);
    let plan = draft.complete(&mut gpu).unwrap();
    let stream = gpu.stream().clone();
    let x = stream.alloc_zeros::<bf16>(16 * 64 + 8).unwrap();
    let mut y = stream.alloc_zeros::<bf16>(16 * 64).unwrap();
    let mut workspace = stream.alloc_zeros::<u8>(256).unwrap();
    let (values, codes) = (stream.clone_htod(weight.values()).unwrap(), stream.clone_htod(weight.codes()).unwrap());
    let plain = Weight::new(SMALL, Layout::Plain, &values, &codes);
    macro_rules! error {
        ($weight:expr, $plan:expr, $x:expr, $workspace:expr) => {{
            let weight = &$weight;
            let args = Multiply::new(weight, 16, $x, &mut y).plan(&$plan);
            gpu.run(args.workspace(workspace.slice_mut(..$workspace))).unwrap_err()
        }};
    }
    let whole = || x.slice(..16 * 64);
    let error = gpu.run(Multiply::new(&packed.as_weight(), 16, whole(), &mut y)).unwrap_err();
    assert!(matches!(error, Error::Missing { missing: "no plan was given", .. }), "{error}");
    // A plan that is not complete does not say how much workspace there must be; the library does.
    for plan in [plan, draft] {
        let error = error!(packed.as_weight(), plan, whole(), 255);
        assert_eq!(error, Error::Workspace { needed: 256, got: 255 });
    }
    let error = error!(packed.as_weight(), plan, x.slice(1..16 * 64 + 1), 256);
    assert!(matches!(error, Error::Misaligned { what: "x", align: 16, .. }), "{error}");
    // Each form of a weight is for its route alone.
    let of_plain = Given { layout: Layout::Plain, ..Given::WEIGHT };
    let plan_of_plain = self::plan::<bf16>(16, SMALL, of_plain).complete(&mut gpu).unwrap();
    let error = error!(plain, plan_of_plain, whole(), 256);
    assert!(matches!(error, Error::Unsupported { because, .. } if because.contains("LibraryWeight::pack")), "{error}");
    let own = plan.with_route(Route::Dense).unwrap();
    let mut large = stream.alloc_zeros::<u8>(own.workspace_bytes()).unwrap();
    let weight = packed.as_weight();
    let args = Multiply::new(&weight, 16, whole(), &mut y).plan(&own).workspace(&mut large);
    let error = gpu.run(args).unwrap_err();
    assert!(matches!(error, Error::Unsupported { because, .. } if because.contains("packed for it")), "{error}");
    // A weight of another shape, of which there are bytes enough.
    let other = LibraryWeight::pack_host(&mut gpu, &self::weight::<bf16>(Shape::new(64, 128))).unwrap();
    let long = stream.alloc_zeros::<bf16>(16 * 128).unwrap();
    let error = error!(other.as_weight(), plan, &long, 256);
    assert!(matches!(error, Error::Unplanned { .. }), "{error}");
    let short = LibraryWeight::pack_dense(&mut gpu, SMALL, &stream.alloc_zeros::<bf16>(3).unwrap());
    assert_eq!(short.map(drop), Err(Error::Length { what: "dense", expected: 64 * 64, got: 3 }));
    assert!(matches!(LibraryWeight::pack(&mut gpu, &packed.as_weight()), Err(Error::Unsupported { .. })));
}

/// A handle may go to another thread, but what it has of the library may not be used there, and is leaked there.
#[test]
#[ignore = "run by its parent"]
fn another_thread() {
    let mut gpu = gpu();
    let weight = weight::<bf16>(SMALL);
    let x: Vec<bf16> = numbers(16 * SMALL.cols, 2).map(bf16::of).collect();
    let packed = LibraryWeight::pack_host(&mut gpu, &weight).unwrap();
    let plan = packed.as_weight().plan(&gpu, 16, Given::WEIGHT).unwrap();
    let expected = run(&mut gpu, &plan, &packed, &x, None).unwrap();
    let elsewhere = |error: Error| assert!(matches!(error, Error::Unsupported { what: "cuSPARSELt", .. }), "{error}");
    let (mut gpu, packed, x) = std::thread::spawn(move || {
        elsewhere(run(&mut gpu, &plan, &packed, &x, None).unwrap_err());
        elsewhere(packing::<bf16>(&mut gpu, SMALL).unwrap_err());
        elsewhere(plan.complete(&mut gpu).unwrap_err());
        // Another `Gpu` has a library of its own, on the same weight.
        run(&mut Gpu::new(gpu.stream()).unwrap(), &plan, &packed, &x, None).unwrap();
        (gpu, packed, x)
    })
    .join()
    .unwrap();
    assert_eq!(run(&mut gpu, &plan, &packed, &x, None), Ok(expected));
    std::thread::spawn(move || drop(gpu)).join().unwrap();
}

/// What a plan says that the library takes, and what the library's own problem says.
#[test]
#[ignore = "run by its parent"]
fn rules() {
    fn agree<T: Factor>() {
        let types = Types::new(T::DTYPE, T::Output::DTYPE).unwrap();
        let mut both = [0, 0];
        let sizes = [0, 4, 8, 16, 24, 32, 48, 64, 4096, 1 << 15, 1 << 16, 1 << 17, (1 << 17) + 32];
        for tokens in [0, 1, 4, 8, 12, 16, 32, 33, 1 << 13, 1 << 15, 1 << 16] {
            for (rows, cols) in sizes.iter().flat_map(|rows| sizes.map(|cols| (*rows, cols))) {
                let shape = Shape::new(rows, cols);
                let theirs = cusparselt::Problem::new(types, tokens, shape).check();
                let problem = Problem::new(tokens, shape);
                let ours = Plan::<T>::by(Route::Cusparselt, &Limits::H200, problem, Given::WEIGHT, Libraries::ALL);
                assert_eq!(ours.is_ok(), theirs.is_ok(), "{} {tokens} {shape:?}: {ours:?} {theirs:?}", T::DTYPE);
                both[usize::from(theirs.is_ok())] += 1;
            }
        }
        assert!(both.iter().all(|count| *count > 100), "{both:?}");
    }
    agree::<f16>();
    agree::<bf16>();
    agree::<f32>();
    agree::<i8>();
    agree::<E4m3>();
}

#[test]
#[ignore = "run by its parent"]
fn failing() {
    let wanted = std::env::var("FAKE_CUSPARSELT_FAIL").unwrap();
    let all = || -> Result<()> {
        let mut gpu = gpu();
        let plan = plan::<bf16>(16, SMALL, Given::WEIGHT).complete(&mut gpu)?;
        let packed = LibraryWeight::pack_host(&mut gpu, &weight::<bf16>(SMALL))?;
        run(&mut gpu, &plan, &packed, &[bf16::ZERO; 16 * 64], None).map(drop)
    };
    let Error::Cuda { call, code, .. } = all().unwrap_err() else { panic!("not a status") };
    assert_eq!(format!("{call}={code}"), wanted);
}

#[test]
#[ignore = "run by its parent"]
fn unavailable() {
    let mut gpu = gpu();
    let error = LibraryWeight::pack_host(&mut gpu, &weight::<bf16>(SMALL)).map(drop).unwrap_err();
    assert!(matches!(error, Error::LibraryUnavailable { library: "cuSPARSELt", .. }), "{error}");
    assert!(!Libraries::find().cusparselt && !gpu.libraries().cusparselt);
}
