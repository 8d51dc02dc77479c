//! Launches as plain data, addresses beyond 32 bits, and what a device is not asked to do.

use crate::executor::emulate;
use twofour::compress::{DTYPES, Layout, Pack, Reorder, Unpack};
use twofour::device::Limits;
use twofour::device::launch::Launch;
use twofour::mask::{Kind, Sampling};
use twofour::space::{Raw, RawSlice};
use twofour::{DType, Error, Pattern, Shape, Shard, bf16, f16, noise};
use twofour_emulator::{Buffer, Kernel, Options, Schedule};

const SAMPLING: Sampling = Sampling { seed: 5, draw: 6, kappa: 1.0, tau: 1.0 };

fn at(elements: usize) -> RawSlice {
    RawSlice { address: 1 << 40, elements }
}

fn raw(buffer: &Buffer, elements: usize) -> RawSlice {
    RawSlice { address: buffer.address(), elements }
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
        let plan = args.values(at(sizes.values)).metadata(at(sizes.metadata)).launch(&Limits::H200).unwrap();
        assert_eq!(plan.grid[0], blocks, "{layout} {shape:?}");
        assert_eq!((plan.block, plan.shared_bytes), ([256, 1, 1], 0));
        assert_eq!((plan.symbol.module, plan.symbol.name), ("compress", "twofour_compress_magnitude_b16"));
    }
}

/// The noise table is loaded once a block, so there are no more blocks than run at once.
#[test]
fn logits_take_as_many_blocks_as_fit() {
    let shape = Shape::new(4096, 14_336);
    let (dense, codes) = (at(shape.weights()), at(shape.packed_codes()));
    let args = Pack::<Raw, bf16, bf16>::from_logits(shape, Kind::Hard, SAMPLING, at(shape.logits()), dense);
    let args = args.codes(codes);
    let plan = args.launch(&Limits::H200).unwrap();
    assert_eq!(plan.grid, [4 * 132, 1, 1]);
    assert_eq!(plan.symbol.name, "twofour_compress_sampled_bf16_b16");
    // Noise table and codes are 25 KiB of shared memory, and 1 KiB the system's: 3 blocks are in 100 KiB, 1 is always.
    for (kib, blocks) in [(228, 4), (164, 4), (100, 3), (64, 2), (8, 1)] {
        let limits = Limits { shared_bytes_per_multiprocessor: kib << 10, ..Limits::H200 };
        assert_eq!(args.launch(&limits).unwrap().grid, [blocks * 132, 1, 1]);
    }
    // Eight groups of 8-bit values at a time take the registers of a block.
    let args = Pack::<Raw, twofour::E4m3, bf16>::from_logits(shape, Kind::Hard, SAMPLING, at(shape.logits()), dense);
    let plan = args.codes(codes).launch(&Limits::H200).unwrap();
    assert_eq!(plan.grid, [3 * 132, 1, 1]);
}

#[test]
fn a_soft_mask_cannot_be_compressed() {
    let shape = Shape::new(4, 8);
    let (dense, codes) = (at(shape.weights()), at(shape.packed_codes()));
    let args = Pack::<Raw, bf16, f32>::from_logits(shape, Kind::Soft, SAMPLING, at(shape.logits()), dense);
    let error = args.codes(codes).check().unwrap_err();
    assert!(matches!(error, Error::Path { .. }), "{error}");
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
    let run = |what: &str, change: fn(&mut RawSlice)| {
        let of = |name: &str, elements| {
            let mut operand = at(elements);
            if name == what {
                change(&mut operand);
            }
            operand
        };
        let args = Pack::<Raw, bf16>::with_codes(shape, of("dense", 1024), of("given", 128));
        let args = args.layout(Layout::CutlassSm80).values(of("values", sizes.values)).codes(of("codes", 128));
        let args = args.metadata(of("metadata", sizes.metadata)).masked(of("masked", 1024)).faults(of("faults", 1));
        let packed = args.launch(&Limits::A100).map(drop);
        let (values, metadata) = (of("values", sizes.values), of("metadata", sizes.metadata));
        let args = Unpack::<Raw, bf16>::new(shape, Layout::CutlassSm80, values, metadata, of("dense", 1024));
        let unpacked = args.faults(of("faults", 1)).launch(&Limits::A100).map(drop);
        let (from, to) = ((Layout::Plain, of("codes", 128)), (Layout::CutlassSm80, of("metadata", sizes.metadata)));
        let args = Reorder::<Raw>::new(shape, DType::Bf16, from, to).faults(of("faults", 1));
        [packed, unpacked, args.launch(&Limits::A100).map(drop)]
    };
    assert!(run("nothing", |_| {}).into_iter().all(|result| result.is_ok()));
    for (what, used) in [
        ("dense", [true, true, false]),
        ("given", [true, false, false]),
        ("values", [true, true, false]),
        ("codes", [true, false, true]),
        ("metadata", [true, true, true]),
        ("masked", [true, false, false]),
        ("faults", [true, true, true]),
    ] {
        for (result, used) in run(what, |operand| operand.elements += 1).into_iter().zip(used) {
            assert_eq!(matches!(result, Err(Error::Length { .. })), used, "{what}: {result:?}");
        }
        for (result, used) in run(what, |operand| operand.address += 2).into_iter().zip(used) {
            assert_eq!(matches!(result, Err(Error::Misaligned { .. })), used, "{what}: {result:?}");
        }
    }
}

#[test]
fn too_many_patches_are_refused() {
    let shape = Shape::new(1 << 31, 1 << 14);
    let (dense, codes) = (at(shape.weights()), at(shape.packed_codes()));
    let error = Pack::<Raw, i8>::by_magnitude(shape, dense).codes(codes).launch(&Limits::H200).unwrap_err();
    assert!(matches!(error, Error::Overflow { .. }), "{error}");
}

fn run_last_block<A: bytemuck::Pod>(plan: &Launch<A>) {
    let last = u64::from(plan.grid[0]) - 1;
    let launch = twofour_emulator::Launch {
        kernel: Kernel::find(plan.symbol.name).unwrap(),
        grid: plan.grid,
        block: plan.block,
        shared_bytes: plan.shared_bytes,
        args: bytemuck::bytes_of(&plan.args),
    };
    twofour_emulator::run(&launch, &Options { blocks: Some(last..last + 1), ..Options::default() }).unwrap();
}

/// A weight of 2³³ elements: the last block of a launch reads and writes beyond 32-bit offsets in every operand.
#[test]
fn addresses_beyond_32_bits_are_right() {
    let shape = Shape::new(1 << 17, 1 << 16);
    // A device of so many processors that each block takes one patch.
    let wide = Limits { multiprocessors: 1 << 23, ..Limits::H200 };
    let (end, patch) = (shape.groups(), 4096);
    let logits = Buffer::reserve("logits", shape.logits() * 4).unwrap();
    let dense = Buffer::reserve("dense", shape.weights() * 2).unwrap();
    let values = Buffer::reserve("values", shape.weights()).unwrap();
    let metadata = Buffer::reserve("metadata", shape.weights() / 8).unwrap();
    let codes = Buffer::reserve("codes", shape.weights() / 8).unwrap();
    let logits_and_dense = (raw(&logits, shape.logits()), raw(&dense, shape.weights()));
    for layout in [Layout::Plain, Layout::CutlassSm80, Layout::CusparseltSm90] {
        let (logits, dense) = logits_and_dense;
        let args = Pack::<Raw, bf16>::from_logits(shape, Kind::Hard, SAMPLING, logits, dense).layout(layout);
        let args = args.values(raw(&values, shape.weights() / 2)).metadata(raw(&metadata, shape.weights() / 8));
        let plan = args.codes(raw(&codes, shape.weights() / 8)).launch(&wide).unwrap();
        assert_eq!(plan.grid[0] as usize, end / patch);
        run_last_block(&plan);
        // All is zero but codes. The last 64 groups of the last row are in the last patch of each of these layouts.
        let got = codes.values_at::<u8>(shape.weights() / 8 - 32, 32);
        let map = layout.map(shape, DType::Bf16).unwrap();
        for (i, group) in (end - 64..end).enumerate() {
            let z = noise::gumbels(SAMPLING.seed, SAMPLING.draw, group as u64);
            let best = (0..6).fold(0, |best, p| if z[p] > z[best] { p } else { best });
            let code = Pattern::ALL[best].code();
            assert_eq!(got[i / 2] >> (4 * (i % 2)) & 15, code, "{layout}: group {group}");
            let place = map.place(shape.rows - 1, group - (shape.rows - 1) * shape.cols / 4).unwrap();
            let byte = metadata.values_at::<u8>(place.byte, 1)[0];
            assert_eq!(byte >> place.shift & 15, code, "{layout}: group {group}");
        }
        let sparse = Unpack::<Raw, bf16>::new(
            shape,
            layout,
            raw(&values, shape.weights() / 2),
            raw(&metadata, shape.weights() / 8),
            dense,
        );
        run_last_block(&sparse.launch(&wide).unwrap());
        let from = (layout, raw(&metadata, shape.weights() / 8));
        let to = (Layout::Plain, raw(&codes, shape.weights() / 8));
        run_last_block(&Reorder::<Raw>::new(shape, DType::Bf16, from, to).launch(&wide).unwrap());
        assert_eq!(codes.values_at::<u8>(shape.weights() / 8 - 32, 32), got, "{layout}");
    }
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
                assert!(args.launch(&Limits::H200).unwrap().grid[0] > 0);
                pairs += 1;
            }
        }
    }
    assert!(pairs > 500, "{pairs}");
}

/// Where a device's count is not wanted, none is kept.
#[test]
fn faults_need_not_be_counted() {
    let shape = Shape::new(3, 12);
    let dense = crate::array::Array::input("dense", &[bf16::ONE; 36]);
    let codes = crate::array::Array::<u8>::output("codes", 5);
    let args = Pack::<Raw, bf16>::sparse(shape, dense.raw()).codes(codes.raw());
    emulate(&args.launch(&Limits::A100).unwrap(), Schedule::RoundRobin);
    assert_eq!(codes.read(), [0x44, 0x44, 0x44, 0x44, 0x04]);
}
