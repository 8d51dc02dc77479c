//! The twins of `ptx.cuh` do what the hardware does: conversions against the crate `half` at every value or at every
//! point where the rounding changes, the rest against plain Rust.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use half::{bf16, f16};
use support::{Numbers, SEEDS, launch, launch_with_shared};
use twofour_emulator::{Args, Buffer, Schedule};

fn blocks_of(count: usize) -> u32 {
    u32::try_from(count.div_ceil(256)).unwrap()
}

/// Every 16-bit value to float.
#[test]
fn widening_is_exact_for_every_value() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let input = Buffer::input("in", &all).unwrap();
    let from_f16 = Buffer::output::<f32>("f16", all.len()).unwrap();
    let from_bf16 = Buffer::output::<f32>("bf16", all.len()).unwrap();
    let args = Args::new().pointer(&input).pointer(&from_f16).pointer(&from_bf16).value(all.len() as u64).finish();
    launch("twofour_test_widen", blocks_of(all.len()), 256, &args, Schedule::RoundRobin).unwrap();
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    for ((bits, from_f16), from_bf16) in all.into_iter().zip(from_f16.values()).zip(from_bf16.values()) {
        assert!(same(from_f16, f16::from_bits(bits).to_f32()), "f16 {bits:#06x}: {from_f16}");
        assert!(same(from_bf16, bf16::from_bits(bits).to_f32()), "bf16 {bits:#06x}: {from_bf16}");
    }
}

/// The floats around every point where the rounded result changes: for each two neighbouring 16-bit values themselves,
/// their middle, and the floats next to these. Rounding is monotone, so between them nothing can differ. And noise.
fn interesting_floats() -> Vec<f32> {
    let mut floats = Vec::new();
    let mut around = |bits: u32| {
        for bits in [bits.wrapping_sub(1), bits, bits.wrapping_add(1)] {
            floats.extend([f32::from_bits(bits), f32::from_bits(bits ^ 0x8000_0000)]);
        }
    };
    for bits in 0..=0x7c00u16 {
        let (here, next) = (f16::from_bits(bits).to_f64(), f16::from_bits(bits + 1).to_f64());
        around((here as f32).to_bits());
        around(if bits == 0x7bff { 65520f32 } else { ((here + next) / 2.0) as f32 }.to_bits());
    }
    for bits in 0..=0x7f80u32 {
        around(bits << 16);
        around(bits << 16 | 0x8000);
    }
    let mut numbers = Numbers(1);
    floats.extend(numbers.many(200_000).into_iter().map(f32::from_bits));
    floats.extend([f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)]);
    if floats.len() % 2 == 1 {
        floats.push(0.0);
    }
    floats
}

/// To tf32: the nearest with 10 fraction bits, ties away from zero.
fn to_tf32(x: f32) -> u32 {
    if x.is_nan() { 0x7fff_ffff } else { (x.to_bits() + 0x1000) & !0x1fff }
}

#[test]
fn narrowing_rounds_as_cvt_does() {
    let floats = interesting_floats();
    let count = floats.len();
    let input = Buffer::input("in", &floats).unwrap();
    let f16s = Buffer::output::<u16>("f16", count).unwrap();
    let bf16s = Buffer::output::<u16>("bf16", count).unwrap();
    let f16_pairs = Buffer::output::<u32>("f16 pairs", count).unwrap();
    let bf16_pairs = Buffer::output::<u32>("bf16 pairs", count).unwrap();
    let tf32s = Buffer::output::<u32>("tf32", count).unwrap();
    let outputs = [&f16s, &bf16s, &f16_pairs, &bf16_pairs, &tf32s];
    let args = outputs.into_iter().fold(Args::new().pointer(&input), Args::pointer).value(count as u64).finish();
    launch("twofour_test_narrow", blocks_of(count), 256, &args, Schedule::RoundRobin).unwrap();

    let f16_of = |x: f32| {
        if x.is_nan() { 0x7fff } else { f16::from_f32(x).to_bits() }
    };
    let bf16_of = |x: f32| {
        if x.is_nan() { 0x7fff } else { bf16::from_f32(x).to_bits() }
    };
    let pair = |lo: u16, hi: u16| u32::from(hi) << 16 | u32::from(lo);
    let (f16s, bf16s) = (f16s.values::<u16>(), bf16s.values::<u16>());
    let (f16_pairs, bf16_pairs) = (f16_pairs.values::<u32>(), bf16_pairs.values::<u32>());
    let tf32s = tf32s.values::<u32>();
    for (i, &x) in floats.iter().enumerate() {
        let (bits, other) = (x.to_bits(), floats[i ^ 1]);
        assert_eq!(f16s[i], f16_of(x), "f16 of {bits:#010x}");
        assert_eq!(bf16s[i], bf16_of(x), "bf16 of {bits:#010x}");
        assert_eq!(f16_pairs[i], pair(f16_of(x), f16_of(other)), "f16x2 of {bits:#010x}");
        assert_eq!(bf16_pairs[i], pair(bf16_of(x), bf16_of(other)), "bf16x2 of {bits:#010x}");
        assert_eq!(tf32s[i], to_tf32(x), "tf32 of {bits:#010x}");
    }
}

fn byte_permute(lo: u32, hi: u32, selector: u32) -> u32 {
    let bytes = (u64::from(hi) << 32 | u64::from(lo)).to_le_bytes();
    let pick = |i: u32| {
        let nibble = (selector >> (4 * i)) & 15;
        let byte = bytes[(nibble & 7) as usize];
        if nibble < 8 { byte } else { ((byte as i8) >> 7) as u8 }
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// The results of `twofour_test_math`, in its order, and how many units in the last place each may be off.
fn math(a: u32, b: u32, c: u32) -> Vec<(&'static str, u32, u32)> {
    let (x, y, z) = (f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
    let wide = u64::from(a) * u64::from(b);
    let large = f64::from_bits(u64::from(a) << 32 | u64::from(b)).mul_add(3.0, f64::from_bits(u64::from(c) << 32));
    let ratio = f64::from_bits(u64::from(a) << 32 | u64::from(b)) / f64::from_bits(u64::from(c) << 32 | u64::from(a));
    let root = f64::from_bits(u64::from(a) << 32 | u64::from(b)).sqrt();
    let extreme = |pick: fn(f32, f32) -> f32, zeros: fn(u32, u32) -> u32| match (x, y) {
        _ if x.is_nan() || y.is_nan() => 0x7fff_ffff,
        _ if x == 0.0 && y == 0.0 => zeros(a, b),
        _ => pick(x, y).to_bits(),
    };
    vec![
        ("mul_wide low", wide as u32, 0),
        ("mul_wide high", (wide >> 32) as u32, 0),
        ("mul_hi", (wide >> 32) as u32, 0),
        ("popcount", a.count_ones(), 0),
        ("leading_zeros", a.leading_zeros(), 0),
        ("funnel_shift_right", ((u64::from(b) << 32 | u64::from(a)) >> (c % 32)) as u32, 0),
        ("byte_permute", byte_permute(a, b, c), 0),
        ("fma", x.mul_add(y, z).to_bits(), 0),
        ("divide", (x / y).to_bits(), 0),
        ("square_root", x.sqrt().to_bits(), 0),
        ("min_nan", extreme(f32::min, |a, b| a | b), 0),
        ("max_nan", extreme(f32::max, |a, b| a & b), 0),
        ("ex2_approx", flushed(f64::from(flushed(x)).exp2() as f32).to_bits(), 2),
        ("rcp_approx", flushed(1.0 / flushed(x)).to_bits(), 1),
        ("fma f64 low", large.to_bits() as u32, 0),
        ("fma f64 high", (large.to_bits() >> 32) as u32, 0),
        ("two roundings", (x * y + z).to_bits(), 0),
        ("absolute", x.abs().to_bits(), 0),
        ("divide f64 low", ratio.to_bits() as u32, 0),
        ("divide f64 high", (ratio.to_bits() >> 32) as u32, 0),
        ("square_root f64 low", root.to_bits() as u32, 0),
        ("square_root f64 high", (root.to_bits() >> 32) as u32, 0),
    ]
}

#[test]
fn arithmetic_is_that_of_rust() {
    const RESULTS: usize = 24;
    let mut numbers = Numbers(3);
    let special = [0, 0x8000_0000, 1, 0x8000_0001, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x3f80_0000, 0x0080_0000, !0];
    let mut column = |turn: u64| -> Vec<u32> {
        let mut column: Vec<u32> = (0..1000).map(|i| special[(i / 10u64.pow(turn as u32) % 10) as usize]).collect();
        column.extend(numbers.many(20_000));
        // Ordinary numbers, so that the sums do not all overflow.
        column.extend(numbers.many(20_000).into_iter().map(|bits| bits & 0x87ff_ffff | 0x3800_0000));
        column
    };
    let columns = [column(0), column(1), column(2)];
    let count = columns[0].len();
    let inputs: Vec<Buffer> = columns.iter().map(|column| Buffer::input("in", column).unwrap()).collect();
    let output = Buffer::output::<u32>("out", count * RESULTS).unwrap();
    let args = inputs.iter().fold(Args::new(), Args::pointer).pointer(&output).value(count as u64).finish();
    launch("twofour_test_math", blocks_of(count), 256, &args, Schedule::RoundRobin).unwrap();
    let is_float = |name: &str| !["mul", "pop", "lea", "fun", "byt"].contains(&&name[..3]) && !name.contains("f64");
    for (i, results) in output.values::<u32>().chunks(RESULTS).enumerate() {
        let (a, b, c) = (columns[0][i], columns[1][i], columns[2][i]);
        for ((name, expected, off), &got) in math(a, b, c).into_iter().zip(results) {
            let both_nan = is_float(name) && f32::from_bits(expected).is_nan() && f32::from_bits(got).is_nan();
            let close =
                expected.abs_diff(got) <= off || both_nan || name.contains("f64") && (expected ^ got) == 1 << 19;
            assert!(close, "{name} of {a:#010x} {b:#010x} {c:#010x}: {got:#010x}, not {expected:#010x}");
        }
    }
}

#[test]
fn every_load_and_store_moves_its_bytes() {
    let mut numbers = Numbers(5);
    let bytes: Vec<u8> = (0..64 * 300).map(|_| numbers.next() as u8).collect();
    let input = Buffer::input("in", &bytes).unwrap();
    let output = Buffer::output::<u8>("out", bytes.len()).unwrap();
    let args = Args::new().pointer(&input).pointer(&output).value(bytes.len() as u64).finish();
    launch("twofour_test_copy", 2, 256, &args, Schedule::Random(1)).unwrap();
    assert!(output.values::<u8>() == bytes);
}

#[test]
fn plain_accesses_reach_tables_shared_memory_and_locals() {
    let output = Buffer::output::<u32>("out", 256).unwrap();
    let args = Args::new().pointer(&output).finish();
    launch("twofour_test_places", 1, 256, &args, Schedule::Random(2)).unwrap();
    let expected = [3, 1 + 2, 4 + 1, 9];
    assert!(output.values::<u32>().into_iter().eq((0..256).map(|i| expected[i % 4])));
}

#[test]
fn asynchronous_copies_land_and_fill_with_zeros() {
    let bytes: Vec<u8> = (0..64 * 256).map(|i| (i % 251) as u8 + 1).collect();
    for (valid, schedule) in [16, 11, 4, 3, 0].into_iter().zip(Schedule::several(2)) {
        let input = Buffer::input("in", &bytes).unwrap();
        let output = Buffer::output::<u8>("out", bytes.len()).unwrap();
        let args = Args::new().pointer(&input).pointer(&output).value(valid as u32).finish();
        let report = launch_with_shared("twofour_test_async", 1, 256, 64 * 256, &args, schedule).unwrap();
        assert_eq!(report.copies, 6 * 256);
        for (i, (out, part)) in output.values::<u8>().chunks(64).zip(bytes.chunks(64)).enumerate() {
            let cut = |range: std::ops::Range<usize>, valid: usize| {
                range.clone().map(|j| if j < range.start + valid { part[j] } else { 0 }).collect::<Vec<u8>>()
            };
            let mut expected = part[..28].to_vec();
            expected.extend([0xff; 4]);
            expected.extend(cut(32..48, valid));
            expected.extend(cut(48..56, valid));
            expected.extend(cut(56..60, valid));
            expected.extend([0xff; 4]);
            assert_eq!(out, expected, "thread {i}, {valid} bytes, {schedule:?}");
        }
    }
}

#[test]
fn atomics_count_every_thread_of_every_block() {
    for workers in [1, 4] {
        let sum = Buffer::in_place("sum", &[0u32]).unwrap();
        let wide = Buffer::in_place("wide", &[1u64]).unwrap();
        let places = Buffer::output::<u32>("places", 20 * 256).unwrap();
        let args = Args::new().pointer(&sum).pointer(&wide).pointer(&places).finish();
        let kernel = twofour_emulator::Kernel::find("twofour_test_count").unwrap();
        let launch =
            twofour_emulator::Launch { kernel, grid: [20, 1, 1], block: [256, 1, 1], shared_bytes: 0, args: &args };
        let options = twofour_emulator::Options { workers, ..Default::default() };
        twofour_emulator::run(&launch, &options).unwrap();
        assert_eq!(sum.values::<u32>(), [20 * 256]);
        assert_eq!(wide.values::<u64>(), [1 + ((20 * 256) << 33)]);
        let mut places = places.values::<u32>();
        places.sort_unstable();
        assert!(places.into_iter().eq(0..20 * 256));
    }
}

/// What `twofour_test_warp` computes for lane `l` of a warp with these values, in its order.
fn warp_results(x: &[u32], which: &[u32], l: usize, warp: u32) -> Vec<u32> {
    let at = |w: u32| (w % 32) as usize;
    let xor = |w: u32| l ^ at(w);
    let down = |w: u32| if l + at(w) < 32 { l + at(w) } else { l };
    let w = which[l];
    let sources = [xor(w), down(w), at(w)];
    let wide = |s: usize| u64::from(x[s]) << 32 | u64::from(!x[s]);
    let halves = |v: u64| [v as u32, (v >> 32) as u32];
    let mut results: Vec<u32> = sources.iter().chain(&sources).map(|&s| x[s]).collect();
    results.extend(sources.iter().flat_map(|&s| halves(wide(s))));
    results.extend(halves(wide(xor(5))));
    results.extend(halves(wide(down(5)).wrapping_add(wide(5))));
    results.push((0..32).map(|s| (x[s] % 2) << s).sum());
    results.push(0b1010);
    results.push(!0);
    results.push(1 + warp);
    results
}

#[test]
fn shuffles_and_votes() {
    let mut numbers = Numbers(11);
    let (x, which) = (numbers.many(512), numbers.many(512));
    for schedule in Schedule::several(SEEDS) {
        let inputs = [Buffer::input("x", &x).unwrap(), Buffer::input("which", &which).unwrap()];
        let output = Buffer::output::<u32>("out", 512 * 20).unwrap();
        let args = inputs.iter().fold(Args::new(), Args::pointer).pointer(&output).finish();
        launch("twofour_test_warp", 2, 256, &args, schedule).unwrap();
        for (i, results) in output.values::<u32>().chunks(20).enumerate() {
            let warp = i / 32 * 32..i / 32 * 32 + 32;
            let expected = warp_results(&x[warp.clone()], &which[warp], i % 32, i as u32 / 32 % 8);
            assert_eq!(results, expected, "thread {i} under {schedule:?}");
        }
    }
}

/// The names that `ptx.cuh` gives to PTX, and those that `wrappers.cu` calls.
#[test]
fn every_wrapper_is_called_for_both_sides() {
    const BOTH: &str = include_str!("../../cuda/common/ptx.cuh");
    const CALLS: &str = include_str!("../kernels/wrappers.cu");
    // What comes after is made of these, the same for a GPU and the emulator.
    let (ptx, _) = BOTH.split_once("#endif  // TWOFOUR_EMULATED").unwrap();
    // Behind to_float, to_f16, pack_f16x2 and the like, which are called.
    const INNER: [&str; 5] = ["f16_bits", "bf16_bits", "float_of_f16_bits", "f16x2_high_low", "bf16x2_high_low"];
    let by_hand =
        ptx.lines().filter_map(|line| line.strip_prefix("TWOFOUR_DEVICE ")?.split('(').next()?.rsplit(' ').next());
    let by_table = ptx.lines().filter_map(|line| line.strip_prefix("TWOFOUR_")?.split_once('(')?.1.split(',').next());
    let by_table = by_table.filter(|name| name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')));
    let mut count = 0;
    for name in by_hand.chain(by_table).filter(|name| !INNER.contains(name)) {
        let name = name.split('<').next().unwrap();
        let called = CALLS.contains(&format!("{name}(")) || CALLS.contains(&format!("{name}<"));
        assert!(called, "{name} is not called in wrappers.cu");
        count += 1;
    }
    assert!(count > 50, "{count} names found: has the file's form changed?");
}
