//! Groups that keep two, fewer and more, in flags and in bits, against a naive reading.

use crate::make;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::compress::Compressed;
use twofour::{Error, Shape, bf16, f16};
use twofour_formats::masks::{Fewer, Mask};

/// `numpy.packbits`, position by position.
fn packbits(flags: &[bool]) -> Vec<u8> {
    let byte = |eight: &[bool]| (0..8).fold(0, |byte, i| byte << 1 | u8::from(eight.get(i) == Some(&true)));
    flags.chunks(8).map(byte).collect()
}

fn flags(shape: Shape, seed: u64, choose: &mut dyn FnMut(&mut StdRng) -> u8) -> Vec<bool> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..shape.groups())
        .flat_map(|_| {
            let bits = choose(&mut rng);
            (0..4).map(move |j| bits >> j & 1 == 1)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn bits_and_flags_are_the_mask(rows in 0..7usize, groups in 0..19usize, seed in any::<u64>()) {
        let shape = Shape::new(rows, 4 * groups);
        let mask = make::random(shape, seed);
        let bools: Vec<bool> = mask.flags().unwrap();
        prop_assert_eq!(mask.bits(), packbits(&bools));
        prop_assert_eq!(&Mask::from_bits(shape, &mask.bits(), Fewer::Refuse).unwrap(), &mask);
        prop_assert_eq!(&Mask::from_flags(shape, &bools, Fewer::Fill).unwrap(), &mask);
        prop_assert_eq!(&Mask::from_flags(shape, &mask.flags::<f16>().unwrap(), Fewer::Refuse).unwrap(), &mask);
    }

    /// As a bare weight of the same zeros is filled.
    #[test]
    fn fewer_are_filled_as_compression_does(rows in 0..7usize, groups in 0..19usize, seed in any::<u64>()) {
        let shape = Shape::new(rows, 4 * groups);
        let bools = flags(shape, seed, &mut |rng| [3, 5, 9, 6, 10, 12][rng.random_range(0..6)] & rng.random_range(0..16));
        let values: Vec<bf16> = bools.iter().map(|&kept| if kept { bf16::ONE } else { bf16::ZERO }).collect();
        let filled = Mask::from_flags(shape, &bools, Fewer::Fill).unwrap();
        let bare = Compressed::from_sparse(shape, &values).unwrap();
        prop_assert_eq!(filled.codes(), bare.codes());
        prop_assert_eq!(&Mask::from_bits(shape, &packbits(&bools), Fewer::Fill).unwrap(), &filled);
        let fewer = bools.chunks(4).position(|group| group.iter().filter(|kept| **kept).count() < 2);
        match Mask::from_bits(shape, &packbits(&bools), Fewer::Refuse) {
            Ok(mask) => prop_assert!(fewer.is_none() && mask == filled),
            Err(Error::NotTwoFour { row, group, kept, width: 4 }) => {
                prop_assert_eq!(fewer, Some(row as usize * groups + group as usize));
                prop_assert!(kept < 2);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    /// Any bits at all: the first group that does not keep two is named, by both ways.
    #[test]
    fn more_are_refused(rows in 1..7usize, groups in 1..19usize, seed in any::<u64>(), fill in any::<bool>()) {
        let shape = Shape::new(rows, 4 * groups);
        let mut rare = StdRng::seed_from_u64(!seed);
        let bools = flags(shape, seed, &mut |rng| match rare.random_ratio(1, 20) {
            true => rng.random_range(0..16),
            false => [3, 5, 9, 6, 10, 12][rng.random_range(0..6)],
        });
        let fewer = if fill { Fewer::Fill } else { Fewer::Refuse };
        let bad = |kept: usize| kept > 2 || kept < 2 && !fill;
        let counts = bools.chunks(4).map(|group| group.iter().filter(|kept| **kept).count());
        let first = counts.enumerate().find(|&(_, kept)| bad(kept));
        let expected = first.map(|(i, kept)| Error::NotTwoFour {
            row: (i / groups) as u64, group: (i % groups) as u64, kept: kept as u32, width: 4,
        });
        prop_assert_eq!(Mask::from_bits(shape, &packbits(&bools), fewer).err(), expected.clone());
        prop_assert_eq!(Mask::from_flags(shape, &bools, fewer).err(), expected);
    }
}

#[test]
fn lengths_that_do_not_agree() {
    let shape = Shape::new(3, 4);
    let bits = |bits: &[u8]| Mask::from_bits(shape, bits, Fewer::Refuse);
    assert!(bits(&[0xcc, 0xc0]).is_ok());
    assert_eq!(bits(&[0xcc]).unwrap_err(), Error::Length { what: "packed bits", expected: 2, got: 1 });
    assert_eq!(bits(&[0xcc, 0xc0, 0]).unwrap_err(), Error::Length { what: "packed bits", expected: 2, got: 3 });
    // Behind the last position nothing is set, also where groups are filled.
    for fewer in [Fewer::Refuse, Fewer::Fill] {
        let error = Mask::from_bits(shape, &[0xcc, 0xc1], fewer).unwrap_err();
        assert!(matches!(error, Error::Scalar { value: 1.0, .. }), "{error}");
    }
    let error = Mask::from_flags(shape, &[true; 11], Fewer::Refuse).unwrap_err();
    assert_eq!(error, Error::Length { what: "flags", expected: 12, got: 11 });
    assert!(matches!(Mask::from_flags(Shape::new(1, 6), &[true; 6], Fewer::Fill), Err(Error::NotGrouped { .. })));
    assert!(matches!(Mask::from_bits(Shape::new(usize::MAX, 8), &[], Fewer::Fill), Err(Error::Overflow { .. })));
    // Codes: the unused half is cleared, as in compressed weights.
    assert_eq!(Mask::new(shape, vec![0x44, 0x7e]).unwrap().codes(), [0x44, 0x0e]);
    assert!(matches!(Mask::new(shape, vec![0x47, 0xe]), Err(Error::IllegalCode { row: 0, group: 0, value: 7, .. })));
    assert_eq!(Mask::new(shape, vec![0x44; 3]).unwrap_err(), Error::Length { what: "codes", expected: 2, got: 3 });
    let none = Mask::new(Shape::new(1 << 60, 0), vec![]).unwrap();
    assert!(none.bits().is_empty() && none.base6().unwrap().is_empty());
}
