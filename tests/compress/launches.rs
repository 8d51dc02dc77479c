//! Launches as plain data, addresses beyond 32 bits, and what a device is not asked to do.

use crate::case::names_what_is_wrong;
use crate::common::emulator::launches;
use crate::common::{TestExecutor, everywhere_tests};
use twofour::compress::{DTYPES, Layout, Pack, Reorder, Unpack};
use twofour::device::{Launch, Limits};
use twofour::mask::{Kind, Sampling};
use twofour::pass::Pass;
use twofour::space::{Raw, RawSlice};
use twofour::{DType, Error, Shape, Shard, bf16, f16};

const SAMPLING: Sampling = Sampling { seed: 5, draw: 6, kappa: 1.0, tau: 1.0 };

fn at<T>(elements: usize) -> RawSlice<T> {
    RawSlice::new(1 << 40, elements)
}

/// The one launch of a pass.
fn launch<P: Pass<Raw>>(limits: &Limits, pass: P) -> Result<Launch, Error> {
    let launches = launches(*limits, pass)?;
    assert_eq!(launches.len(), 1);
    Ok(launches[0])
}

#[test]
fn a_block_takes_a_patch() {
    for (layout, shape, blocks) in [
        (Layout::Plain, Shape::new(4096, 4096), 1024),
        // A patch is as wide as tiles are high.
        (Layout::CutlassSm80, Shape::new(4096, 4096), 128 * 8),
        (Layout::CusparseltMma, Shape::new(4096, 4096), 32 * 32),
        (Layout::CusparseltSm90, Shape::new(4096, 4096), 64 * 16),
        (Layout::CutlassSm100, Shape::new(130, 132), 2 * 2),
        (Layout::CutlassSm80, Shape::new(1, 4), 1),
        (Layout::CutlassSm80, Shape::new(32_768, 32_768), 1024 * 64),
        (Layout::CutlassSm80, Shape::new(0, 64), 0),
        (Layout::CutlassSm80, Shape::new(64, 0), 0),
        (Layout::Plain, Shape::new(0, 64), 0),
        (Layout::Plain, Shape::new(64, 0), 0),
    ] {
        let sizes = layout.sizes(shape, DType::Bf16).unwrap();
        let args = Pack::<Raw, bf16>::by_magnitude(shape, at(shape.weights())).layout(layout);
        let args = args.values(at(sizes.values)).metadata(at(sizes.metadata));
        let launch = launch(&Limits::H200, args).unwrap();
        assert_eq!(launch.grid[0], blocks, "{layout} {shape:?}");
        assert_eq!((launch.threads, launch.shared_bytes), (256, 0));
        assert_eq!((launch.symbol.file(), launch.symbol.name()), ("compress", "twofour_compress_magnitude_b16"));
    }
}

/// The noise table is loaded once a block, so there are no more blocks than run at once.
#[test]
fn logits_take_as_many_blocks_as_fit() {
    let shape = Shape::new(4096, 14_336);
    let sampled = |limits: &Limits| {
        let (logits, dense) = (at(shape.logits()), at(shape.weights()));
        let args = Pack::<Raw, bf16, bf16>::from_logits(shape, Kind::Hard, SAMPLING, logits, dense);
        launch(limits, args.codes(at(shape.packed_codes()))).unwrap()
    };
    assert_eq!(sampled(&Limits::H200).grid, [4 * 132, 1, 1]);
    assert_eq!(sampled(&Limits::H200).symbol.name(), "twofour_compress_sampled_bf16_b16");
    // Noise table and codes are 25 KiB of shared memory, and 1 KiB the system's: 3 blocks are in 100 KiB, 1 is always.
    for (kib, blocks) in [(228, 4), (164, 4), (100, 3), (64, 2), (8, 1)] {
        let limits = Limits { shared_bytes_per_multiprocessor: kib << 10, ..Limits::H200 };
        assert_eq!(sampled(&limits).grid, [blocks * 132, 1, 1]);
    }
    // Eight groups of 8-bit values at a time take the registers of a block.
    let (logits, dense) = (at(shape.logits()), at(shape.weights()));
    let args = Pack::<Raw, twofour::E4m3, bf16>::from_logits(shape, Kind::Hard, SAMPLING, logits, dense);
    assert_eq!(launch(&Limits::H200, args.codes(at(shape.packed_codes()))).unwrap().grid, [3 * 132, 1, 1]);
}

#[test]
fn a_soft_mask_cannot_be_compressed() {
    let shape = Shape::new(4, 8);
    let (dense, codes) = (at(shape.weights()), at(shape.packed_codes()));
    let args = Pack::<Raw, bf16, f32>::from_logits(shape, Kind::Soft, SAMPLING, at(shape.logits()), dense);
    let error = args.codes(codes).check().unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("Hard or Argmax"), "{error}");
}

#[test]
fn what_logits_need_is_checked() {
    let shape = Shape::new(4, 8);
    let args = |logits: usize, sampling: Sampling, shard: Shard| {
        let (dense, codes) = (at(shape.weights()), at(shape.packed_codes()));
        let args = Pack::<Raw, f16, f32>::from_logits(shape, Kind::Hard, sampling, at(logits), dense);
        args.shard(shard).codes(codes).check()
    };
    let (logits, whole) = (shape.logits(), Shard::whole(8));
    assert_eq!(args(logits, SAMPLING, whole), Ok(()));
    assert!(matches!(args(logits - 1, SAMPLING, whole), Err(Error::Length { what: "logits", .. })));
    assert!(matches!(args(logits, Sampling { kappa: f32::NAN, ..SAMPLING }, whole), Err(Error::Scalar { .. })));
    let shard = Shard { row_offset: 0, col_offset: 4, global_cols: 8 };
    assert!(matches!(args(logits, SAMPLING, shard), Err(Error::Shard { .. })));
}

#[test]
fn every_length_and_address_is_checked() {
    let shape = Shape::new(32, 32);
    let sizes = Layout::CutlassSm80.sizes(shape, DType::Bf16).unwrap();
    /// Elements that are too many, and bytes that an address is off.
    type Change = (usize, u64);
    fn changed<T>(by: Change, is_changed: bool, elements: usize) -> RawSlice<T> {
        let by = if is_changed { by } else { (0, 0) };
        RawSlice::new((1 << 40) + by.1, elements + by.0)
    }
    let run = |what: &str, by: Change| {
        macro_rules! of {
            ($name:literal, $elements:expr) => {
                changed(by, $name == what, $elements)
            };
        }
        let args = Pack::<Raw, bf16>::with_codes(shape, of!("dense", 1024), of!("given", 128));
        let args = args.layout(Layout::CutlassSm80).values(of!("values", sizes.values)).codes(of!("codes", 128));
        let args = args.metadata(of!("metadata", sizes.metadata)).masked(of!("masked", 1024)).faults(of!("faults", 1));
        let packed = launch(&Limits::A100, args).map(drop);
        let (values, metadata) = (of!("values", sizes.values), of!("metadata", sizes.metadata));
        let args = Unpack::<Raw, bf16>::new(shape, Layout::CutlassSm80, values, metadata, of!("dense", 1024));
        let unpacked = launch(&Limits::A100, args.faults(of!("faults", 1))).map(drop);
        let (from, to) = ((Layout::Plain, of!("codes", 128)), (Layout::CutlassSm80, of!("metadata", sizes.metadata)));
        let args = Reorder::<Raw>::new(shape, DType::Bf16, from, to).faults(of!("faults", 1));
        [packed, unpacked, launch(&Limits::A100, args).map(drop)]
    };
    assert!(run("nothing", (0, 0)).into_iter().all(|result| result.is_ok()));
    for (what, used) in [
        ("dense", [true, true, false]),
        ("given", [true, false, false]),
        ("values", [true, true, false]),
        ("codes", [true, false, true]),
        ("metadata", [true, true, true]),
        ("masked", [true, false, false]),
        ("faults", [true, true, true]),
    ] {
        for (result, used) in run(what, (1, 0)).into_iter().zip(used) {
            assert_eq!(matches!(result, Err(Error::Length { .. })), used, "{what}: {result:?}");
        }
        for (result, used) in run(what, (0, 2)).into_iter().zip(used) {
            assert_eq!(matches!(result, Err(Error::Misaligned { .. })), used, "{what}: {result:?}");
        }
    }
}

#[test]
fn too_many_patches_are_refused() {
    let shape = Shape::new(1 << 31, 1 << 14);
    let (dense, codes) = (at(shape.weights()), at(shape.packed_codes()));
    let error = launch(&Limits::H200, Pack::<Raw, i8>::by_magnitude(shape, dense).codes(codes)).unwrap_err();
    assert!(matches!(error, Error::Overflow { .. }), "{error}");
}

/// No layout has a tile that a patch cannot hold, or no way to cut it.
#[test]
fn every_pair_of_layouts_has_a_launch() {
    let mut pairs = 0;
    for shape in [Shape::new(64, 64), Shape::new(128, 4096), Shape::new(16_384, 128), Shape::new(7, 20)] {
        for (from, to) in Layout::ALL.into_iter().flat_map(|from| Layout::ALL.map(|to| (from, to))) {
            for value_type in DTYPES {
                let bytes = |layout: Layout| Some(layout.sizes(shape, value_type).ok()?.metadata);
                let (Some(of_from), Some(of_to)) = (bytes(from), bytes(to)) else { continue };
                let args = Reorder::<Raw>::new(shape, value_type, (from, at(of_from)), (to, at(of_to)));
                assert!(launch(&Limits::H200, args).unwrap().grid[0] > 0);
                pairs += 1;
            }
        }
    }
    assert!(pairs > 500, "{pairs}");
}

/// Where a device's count is not wanted, none is kept.
fn faults_need_not_be_counted<E: TestExecutor>(on: &mut E) {
    let shape = Shape::new(3, 12);
    let (dense, mut codes) = (on.upload(&[bf16::ONE; 36]).unwrap(), on.poisoned::<u8>(5));
    let packed = on.run(Pack::sparse(shape, E::input(&dense)).codes(E::output(&mut codes)));
    if names_what_is_wrong(on) {
        return assert!(matches!(packed, Err(Error::NotTwoFour { row: 0, group: 0, kept: 4, width: 4 })));
    }
    packed.unwrap();
    assert_eq!(on.download(&codes).unwrap(), [0x44, 0x44, 0x44, 0x44, 0x04]);
}

everywhere_tests!(faults_need_not_be_counted);
