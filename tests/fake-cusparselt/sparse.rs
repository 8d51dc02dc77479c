//! What runs in a child process, on the fake driver and library; the parent reads the log.

use std::sync::Arc;

use twofour::compress::{Compressed, Layout, Sparsity};
use twofour::cudarc::driver::{CudaStream, DriverError};
use twofour::cusparselt::{self, Types};
use twofour::device::{self, Limits};
use twofour::matmul::Problem;
use twofour::sparse::cuda::{Multiply, Weight, With, multiply, multiply_into, prepare};
use twofour::sparse::library::{Library, LibraryWeight};
use twofour::sparse::{Given, Libraries, Packing, Path, Plan, cpu};
use twofour::{E4m3, Error, Factor, Result, Shape, bf16, f16};

/// The one small, the other from 256 rows on, where layouts change.
const SMALL: Shape = Shape::new(64, 64);
const TALL: Shape = Shape::new(512, 768);

fn stream() -> Arc<CudaStream> {
    device::context(0).unwrap().default_stream()
}

fn library(stream: &Arc<CudaStream>) -> Library {
    Library::new(stream.context()).unwrap()
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

fn plan<T: Factor>(tokens: usize, shape: Shape, given: Given) -> Plan {
    Plan::by::<T>(Path::Cusparselt, &Limits::H200, Problem::new(tokens, shape), given, Libraries::ALL).unwrap()
}

const BIAS: Given = Given { bias: true, ..Given::WEIGHT };

fn packings<T: Small>(expected: impl Fn(Packing)) {
    let stream = stream();
    let library = library(&stream);
    for shape in [SMALL, TALL, SMALL, TALL] {
        expected(library.packing::<T>(&stream, shape).unwrap());
    }
    // Other shapes of the class, and another library object.
    let other = Library::with_handle(library.handle().clone());
    expected(other.packing::<T>(&stream, Shape::new(1024, 1024)).unwrap());
    let packed: Vec<LibraryWeight<T>> =
        [SMALL, TALL].iter().map(|shape| library.pack_host(&stream, &weight::<T>(*shape)).unwrap()).collect();
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
fn same<T: bytemuck::Pod + PartialEq + std::fmt::Debug>(got: &[T], expected: &[T], plan: &Plan) {
    let bytes = |value: &T| bytemuck::bytes_of(value).to_vec();
    let wrong = (0..expected.len()).find(|&i| bytes(&got[i]) != bytes(&expected[i]));
    if let Some(i) = wrong {
        panic!("{plan}, {:?}: y[{i}] is {:?}, not {:?}", plan.problem(), got[i], expected[i]);
    }
    assert_eq!(got.len(), expected.len());
}

fn product<T: Small>(library: &mut Library, stream: &Arc<CudaStream>, tokens: usize, shape: Shape, given: Given) {
    let weight = weight::<T>(shape);
    let x: Vec<T> = numbers(tokens * shape.cols, 2).map(T::of).collect();
    let bias: Vec<T::Output> = numbers(shape.rows, 3).map(T::output).collect();
    let host = cpu::Weight::new(shape, Layout::Plain, weight.values(), weight.codes());
    let expected = cpu::multiply(host, tokens, &x, given.bias.then_some(&*bias)).unwrap();

    let plan = library.complete::<T>(stream, plan::<T>(tokens, shape, given)).unwrap();
    let [dense, on_device] = [weight.decompress(), x].map(|values| stream.clone_htod(&values).unwrap());
    let bias = stream.clone_htod(&bias).unwrap();
    for packed in
        [library.pack_host(stream, &weight).unwrap(), library.pack_dense(stream, shape, &dense.as_view()).unwrap()]
    {
        let bias = given.bias.then(|| bias.as_view());
        let with = With::library(library);
        let y = multiply(stream, with, &plan, packed.as_weight(), on_device.as_view(), bias).unwrap();
        same(&stream.clone_dtoh(&y).unwrap(), &expected, &plan);
    }
    // On the device in the layout that the library reads: copied.
    let packing = library.packing::<T>(stream, shape).unwrap();
    let layout = if let Packing::Ours(layout) = packing { layout } else { Layout::CutlassSm80 };
    let [values, metadata] = {
        let sizes = layout.sizes(shape, T::DTYPE).unwrap();
        let buffer = weight.buffer(layout).unwrap();
        let (values, metadata) = buffer.split_at(sizes.metadata_offset);
        [values.to_vec(), metadata.to_vec()]
    };
    let values: Vec<T> = values.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect();
    let (values, metadata) = (stream.clone_htod(&values).unwrap(), stream.clone_htod(&metadata).unwrap());
    let on_device_weight = Weight::new(shape, layout, values.as_view(), metadata.as_view());
    match library.pack(stream, &on_device_weight) {
        Ok(packed) => {
            assert_eq!(packed.packing(), packing);
            let bias = given.bias.then(|| bias.as_view());
            let with = With::library(library);
            let y = multiply(stream, with, &plan, packed.as_weight(), on_device.as_view(), bias).unwrap();
            same(&stream.clone_dtoh(&y).unwrap(), &expected, &plan);
        }
        // There are no kernels here to decompress with.
        Err(error) => assert!(packing == Packing::Library, "{error}"),
    }
}

#[test]
#[ignore = "run by its parent"]
fn products() {
    let stream = stream();
    let mut library = library(&stream);
    for shape in [SMALL, Shape::new(32, 64), Shape::new(96, 32), Shape::new(256, 128), Shape::new(320, 96)] {
        for tokens in [16, 48] {
            for given in [Given::WEIGHT, BIAS] {
                product::<bf16>(&mut library, &stream, tokens, shape, given);
                product::<f32>(&mut library, &stream, tokens, shape, given);
            }
            product::<i8>(&mut library, &stream, tokens, shape, Given::WEIGHT);
        }
    }
}

#[test]
#[ignore = "run by its parent"]
fn completing() {
    let stream = stream();
    let mut library = library(&stream);
    let draft = plan::<bf16>(16, SMALL, Given::WEIGHT);
    assert_eq!((draft.packing(), draft.workspace_bytes()), (None, 0));
    assert!(draft.to_string().ends_with("asked for; the library was not asked yet"), "{draft}");
    let plan = library.complete::<bf16>(&stream, draft).unwrap();
    assert_eq!((plan.packing(), plan.workspace_bytes()), (Some(Packing::Ours(Layout::CusparseltSm90)), 256));
    assert!(plan.to_string().ends_with("packed in layout cusparselt-sm90, as the library packs a probe"), "{plan}");
    let plan = library.complete::<f32>(&stream, self::plan::<f32>(16, SMALL, Given::WEIGHT)).unwrap();
    assert!(plan.to_string().ends_with("packed by the library, whose probe is in no known layout"), "{plan}");
    prepare::<f32>(&stream, With::library(&mut library), &plan).unwrap();
    // Another way knows itself all that is to be known; and nothing is of another type.
    let own = draft.with_path(Path::Tile).unwrap();
    assert_eq!(library.complete::<bf16>(&stream, own), Ok(own));
    assert!(matches!(library.complete::<f16>(&stream, draft), Err(Error::Unplanned { .. })));
}

#[test]
#[ignore = "run by its parent"]
fn searching() {
    let stream = stream();
    let mut library = library(&stream);
    let weight = weight::<bf16>(SMALL);
    let x: Vec<bf16> = numbers(16 * SMALL.cols, 2).map(bf16::of).collect();
    let (x, dense) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&weight.decompress()).unwrap());
    let packed = library.pack_host(&stream, &weight).unwrap();
    for given in [Given::WEIGHT, BIAS, Given::WEIGHT] {
        let draft = plan::<bf16>(16, SMALL, given);
        let before = library.complete::<bf16>(&stream, draft).unwrap();
        let plan = library.search(&stream, draft, &packed, &x.as_view(), &dense.as_view(), 2).unwrap();
        assert_eq!(plan.workspace_bytes(), 512, "the fake's fastest algorithm");
        assert_eq!(library.complete::<bf16>(&stream, draft), Ok(plan));
        // A thread that comes later, with a handle of its own, has it from memory.
        let mut other = self::library(&stream);
        assert_eq!(other.complete::<bf16>(&stream, draft), Ok(plan));
        // A plan from before has too little work space, and says so.
        if before.workspace_bytes() < 512 && !given.bias {
            let with = With::library(&mut library);
            let error = multiply(&stream, with, &before, packed.as_weight(), x.as_view(), None).unwrap_err();
            assert_eq!(error, Error::Workspace { needed: 512, got: 256 });
        }
    }
}

#[test]
#[ignore = "run by its parent"]
fn refused() {
    let stream = stream();
    let mut library = library(&stream);
    let weight = weight::<bf16>(SMALL);
    let packed = library.pack_host(&stream, &weight).unwrap();
    let plan = library.complete::<bf16>(&stream, plan::<bf16>(16, SMALL, Given::WEIGHT)).unwrap();
    let x = stream.alloc_zeros::<bf16>(16 * 64 + 8).unwrap();
    let mut y = stream.alloc_zeros::<bf16>(16 * 64).unwrap();
    let mut workspace = stream.alloc_zeros::<u8>(256).unwrap();
    let (values, codes) = (stream.clone_htod(weight.values()).unwrap(), stream.clone_htod(weight.codes()).unwrap());
    let plain = || Weight::new(SMALL, Layout::Plain, values.as_view(), codes.as_view());
    macro_rules! error {
        ($weight:expr, $plan:expr, $with:expr, $x:expr, $workspace:expr) => {{
            let args = Multiply::new($weight, 16, $x, y.as_view_mut()).workspace(workspace.slice_mut(..$workspace));
            multiply_into(&stream, $with, $plan, args).unwrap_err()
        }};
    }
    let whole = || x.slice(..16 * 64);
    let missing = |error: Error, of: &str| {
        assert!(matches!(&error, Error::Missing { missing, .. } if missing.contains(of)), "{error}")
    };
    missing(error!(packed.as_weight(), &plan, With::default(), whole(), 256), "no `library`");
    let draft = self::plan::<bf16>(16, SMALL, Given::WEIGHT);
    missing(error!(packed.as_weight(), &draft, With::library(&mut library), whole(), 256), "`Library::complete`");
    let error = error!(packed.as_weight(), &plan, With::library(&mut library), whole(), 255);
    assert_eq!(error, Error::Workspace { needed: 256, got: 255 });
    let error = error!(packed.as_weight(), &plan, With::library(&mut library), x.slice(1..16 * 64 + 1), 256);
    assert!(matches!(error, Error::Misaligned { what: "x", align: 16, .. }), "{error}");
    // Each form of a weight is for its way alone.
    let of_plain = Given { layout: Layout::Plain, ..Given::WEIGHT };
    let plan_of_plain = library.complete::<bf16>(&stream, self::plan::<bf16>(16, SMALL, of_plain)).unwrap();
    let error = error!(plain(), &plan_of_plain, With::library(&mut library), whole(), 256);
    assert!(matches!(error, Error::Path { because, .. } if because.contains("Library::pack")), "{error}");
    let own = plan.with_path(Path::Dense).unwrap();
    let mut large = stream.alloc_zeros::<u8>(own.workspace_bytes()).unwrap();
    let args = Multiply::new(packed.as_weight(), 16, whole(), y.as_view_mut()).workspace(large.as_view_mut());
    let error = multiply_into(&stream, With::default(), &own, args).unwrap_err();
    assert!(matches!(error, Error::Path { because, .. } if because.contains("packed for it")), "{error}");
    // A weight of another shape, of which there are bytes enough.
    let other = library.pack_host(&stream, &self::weight::<bf16>(Shape::new(64, 128))).unwrap();
    let long = stream.alloc_zeros::<bf16>(16 * 128).unwrap();
    let error = error!(other.as_weight(), &plan, With::library(&mut library), long.as_view(), 256);
    assert!(matches!(error, Error::Unplanned { .. }), "{error}");
    let short = library.pack_dense(&stream, SMALL, &stream.alloc_zeros::<bf16>(3).unwrap().as_view());
    assert_eq!(short.map(drop), Err(Error::Length { what: "dense", expected: 64 * 64, got: 3 }));
    assert!(matches!(library.pack(&stream, &packed.as_weight()), Err(Error::Path { .. })));
}

/// What a plan says that the library takes, and what the library's own problem says.
#[test]
#[ignore = "run by its parent"]
fn rules() {
    fn agree<T: Factor>() {
        let types = Types::new(T::DTYPE, <T::Output as twofour::Element>::DTYPE).unwrap();
        let mut both = [0, 0];
        let sizes = [0, 4, 8, 16, 24, 32, 48, 64, 4096, 1 << 15, 1 << 16, 1 << 17, (1 << 17) + 32];
        for tokens in [0, 1, 4, 8, 12, 16, 32, 33, 1 << 13, 1 << 15, 1 << 16] {
            for (rows, cols) in sizes.iter().flat_map(|rows| sizes.map(|cols| (*rows, cols))) {
                let shape = Shape::new(rows, cols);
                let theirs = cusparselt::Problem::new(types, tokens, shape).check();
                let problem = Problem::new(tokens, shape);
                let ours = Plan::by::<T>(Path::Cusparselt, &Limits::H200, problem, Given::WEIGHT, Libraries::ALL);
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
    let stream = stream();
    let all = || -> Result<()> {
        let mut library = Library::new(stream.context())?;
        let plan = library.complete::<bf16>(&stream, plan::<bf16>(16, SMALL, Given::WEIGHT))?;
        let packed = library.pack_host(&stream, &weight::<bf16>(SMALL))?;
        let x = stream.alloc_zeros::<bf16>(16 * 64).map_err(|DriverError(_)| panic!())?;
        multiply(&stream, With::library(&mut library), &plan, packed.as_weight(), x.as_view(), None).map(drop)
    };
    let Error::Cuda { call, code, .. } = all().unwrap_err() else { panic!("not a status") };
    assert_eq!(format!("{call}={code}"), wanted);
}

#[test]
#[ignore = "run by its parent"]
fn unavailable() {
    let stream = stream();
    let error = Library::new(stream.context()).map(drop).unwrap_err();
    assert!(matches!(error, Error::LibraryUnavailable { library: "cuSPARSELt", .. }), "{error}");
    assert!(!Libraries::find().cusparselt);
}
