//! Three groups a byte: a bijection, and what is none of it.

use crate::make;
use proptest::prelude::*;
use twofour::{Pattern, Shape};
use twofour_formats::Error;
use twofour_formats::masks::{Form, Manifest, Mask, Masks, base6};

/// Byte by byte, by the description.
fn naive(mask: &Mask) -> Vec<u8> {
    let groups = mask.shape().groups();
    let index = |group: usize| match twofour::code_at(mask.codes(), group) {
        Ok(code) if group < groups => Pattern::from_code(code).unwrap().index(),
        _ => 0,
    };
    (0..groups.div_ceil(3)).map(|i| index(3 * i) + 6 * index(3 * i + 1) + 36 * index(3 * i + 2)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn packing_is_a_bijection(rows in 0..9usize, groups in 0..23usize, seed in any::<u64>()) {
        let shape = Shape::new(rows, 4 * groups);
        let mask = make::random(shape, seed);
        let packed = mask.base6().unwrap();
        prop_assert_eq!(&packed, &naive(&mask));
        prop_assert_eq!(packed.len(), base6::packed_len(shape));
        prop_assert_eq!(base6::unpack(shape, &packed).unwrap(), mask.codes());
        // Into memory that holds something else.
        let mut codes = vec![0xff; shape.packed_codes()];
        base6::unpack_into(shape, &packed, &mut codes).unwrap();
        prop_assert_eq!(codes, mask.codes());
    }
}

/// All bytes, alone and as the first and second of two, of each number of groups.
#[test]
fn bytes_that_are_none() {
    for byte in 0..=255u8 {
        for groups in 1..=3 {
            let most = [6, 36, 216][groups - 1];
            let unpacked = base6::unpack(Shape::new(1, 4 * groups), &[byte]);
            assert_eq!(unpacked.is_ok(), u32::from(byte) < most, "{byte} of {groups}");
            if let Ok(codes) = unpacked {
                assert_eq!(base6::pack(Shape::new(1, 4 * groups), &codes).unwrap(), [byte]);
            }
        }
        for (packed, at) in [([byte, 0], 0), ([0, byte], 1)] {
            match base6::unpack(Shape::new(3, 8), &packed) {
                Ok(codes) => {
                    assert_eq!((byte < 216, base6::pack(Shape::new(3, 8), &codes).unwrap()), (true, packed.into()))
                }
                Err(error) => {
                    // Group 3 is the second of row 1.
                    let [row, group] = [[0, 0], [1, 1]][at];
                    let twofour::Error::IllegalCode { row: r, group: g, value, .. } = error else { panic!("{error}") };
                    assert_eq!((byte >= 216, r, g, value), (true, row, group, byte));
                }
            }
        }
    }
}

#[test]
fn codes_and_lengths_that_are_wrong() {
    // Of each group of seven, six of which go through the table, each illegal code.
    let shape = Shape::new(1, 28);
    let good = make::random(shape, 1);
    for group in 0..7 {
        for code in 0..16u8 {
            let mut codes = good.codes().to_vec();
            codes[group / 2] &= !(15 << (4 * (group % 2)));
            codes[group / 2] |= code << (4 * (group % 2));
            match base6::pack(shape, &codes) {
                Ok(packed) => assert_eq!(base6::unpack(shape, &packed).unwrap(), codes),
                Err(twofour::Error::IllegalCode { row: 0, group: g, value, .. }) => {
                    assert_eq!((g, value, Pattern::from_code(code)), (group as u64, code, None));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    let error = base6::pack(shape, &[0x44; 3]).unwrap_err();
    assert_eq!(error, twofour::Error::Length { what: "codes", expected: 4, got: 3 });
    let error = base6::unpack(shape, &[0; 4]).unwrap_err();
    assert_eq!(error, twofour::Error::Length { what: "packed", expected: 3, got: 4 });
    let error = base6::unpack_into(shape, &[0; 3], &mut [0; 5]).unwrap_err();
    assert_eq!(error, twofour::Error::Length { what: "codes", expected: 4, got: 5 });
    assert!(matches!(base6::pack(Shape::new(1, 6), &[0x4]), Err(twofour::Error::NotGrouped { .. })));
    assert!(matches!(
        base6::unpack(Shape::new(usize::MAX, 8), &[]),
        Err(twofour::Error::Length { .. } | twofour::Error::Overflow { .. })
    ));
}

/// What it is for: two thirds of a bit a weight. `cargo test --release --test masks base6 -- --nocapture`
/// prints how fast.
#[test]
fn a_large_mask() {
    let shape = Shape::new(1024, 4096);
    let mask = make::random(shape, 5);
    let packed = mask.base6().unwrap();
    assert_eq!(packed.len(), (shape.weights() / 4).div_ceil(3));
    let mut manifest = Manifest::new(Form::Base6);
    manifest.layer("w", shape).unwrap();
    let file = manifest.to_bytes::<Error>(|file| file.mask("w", &mask)).unwrap();
    assert!((file.len() as f64) < 0.668 / 8.0 * shape.weights() as f64);
    assert_eq!(Masks::from_bytes(&file).unwrap().read("w").unwrap(), mask);
    let (mut out, mut codes) = (packed.clone(), mask.codes().to_vec());
    let best = |run: &mut dyn FnMut()| {
        let time = |_| {
            let start = std::time::Instant::now();
            run();
            start.elapsed()
        };
        (0..10).map(time).min().unwrap().as_secs_f64()
    };
    let pack = best(&mut || base6::pack_into(shape, mask.codes(), &mut out).unwrap());
    let unpack = best(&mut || base6::unpack_into(shape, &packed, &mut codes).unwrap());
    assert_eq!((out, codes.as_slice()), (packed, mask.codes()));
    let rate = |seconds: f64| mask.codes().len() as f64 / seconds / 1e9;
    println!("base 6: packs {:.2} and unpacks {:.2} GB of codes a second", rate(pack), rate(unpack));
}
