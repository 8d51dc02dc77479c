//! Edge cases by name.

use crate::any::same;
use twofour::compress::{
    Compressed, DTYPES, Evidence, Layout, Pack, Sparsity, Violation, check_codes, convert, first_violation,
};
use twofour::{Cpu, DType, E4m3, E5m2, Error, Executor, Pattern, Shape, bf16, f16};

const GROUP: Shape = Shape::new(1, 4);

/// What a single group keeps: code and values.
fn magnitude(group: [f32; 4]) -> u8 {
    Compressed::by_magnitude(GROUP, &group.map(f16::from_f32)).unwrap().code(0, 0).unwrap()
}

fn sparse(group: [f32; 4]) -> Result<u8, Error> {
    Ok(Compressed::from_sparse(GROUP, &group.map(f16::from_f32))?.code(0, 0).unwrap())
}

#[test]
fn negative_zero_keeps_its_slot_and_its_sign() {
    let dense = [-0.0f32, 1.0, -0.0, 2.0].map(bf16::from_f32);
    let compressed = Compressed::with_codes(GROUP, &dense, &[0x8]).unwrap();
    assert_eq!(compressed.codes(), [0x8]);
    assert!(same(compressed.values(), &[bf16::NEG_ZERO, bf16::NEG_ZERO]));
    let back = [bf16::NEG_ZERO, bf16::ZERO, bf16::NEG_ZERO, bf16::ZERO];
    assert!(same(&compressed.decompress(), &back));
    // Where nobody says what to keep, it is a zero like any other.
    assert_eq!(sparse([-0.0, 1.0, -0.0, 2.0]), Ok(0xd));
    assert_eq!(first_violation(GROUP, &dense), Ok(None));
}

#[test]
fn what_is_dropped_becomes_positive_zero_whatever_it_was() {
    let dense = [f32::NAN, 1.0, f32::NEG_INFINITY, 2.0].map(f16::from_f32);
    let compressed = Compressed::with_codes(GROUP, &dense, &[0xd]).unwrap();
    let bits: Vec<u16> = compressed.decompress().iter().map(|value| value.to_bits()).collect();
    assert_eq!(bits, [0, 0x3c00, 0, 0x4000]);
}

#[test]
fn groups_that_keep_less_fill_up_from_the_highest() {
    for (group, code) in [
        ([0.0, 0.0, 0.0, 0.0], 0xe),
        ([1.0, 0.0, 0.0, 0.0], 0xc),
        ([0.0, 1.0, 0.0, 0.0], 0xd),
        ([0.0, 0.0, 1.0, 0.0], 0xe),
        ([0.0, 0.0, 0.0, 1.0], 0xe),
    ] {
        assert_eq!(sparse(group), Ok(code), "{group:?}");
    }
    let code = |pair: [f32; 2]| {
        let dense = [pair[0], pair[1], 0.0, 1.0];
        Compressed::from_sparse(GROUP, &dense).unwrap().code(0, 0).unwrap()
    };
    assert_eq!([code([0.0, 0.0]), code([1.0, 0.0]), code([0.0, 1.0])], [0xe, 0x4, 0xe]);
}

#[test]
fn groups_that_keep_too_much_are_named() {
    for (group, kept) in [([0.0, 1.0, 1.0, 1.0], 3), ([1.0, 1.0, 1.0, 1.0], 4)] {
        assert_eq!(sparse(group), Err(Error::NotTwoFour { row: 0, group: 0, kept, width: 4 }));
    }
    // The first of several, far in, in a row of its own.
    let shape = Shape::new(3001, 12);
    let mut dense = vec![0i8; shape.weights()];
    dense[12 * 2900 + 4..][..3].fill(-128);
    dense[12 * 2999..].fill(1);
    assert_eq!(first_violation(shape, &dense), Ok(Some(Violation { row: 2900, group: 1, kept: 3 })));
    let error = Compressed::from_sparse(shape, &dense).unwrap_err();
    assert_eq!(error, Error::NotTwoFour { row: 2900, group: 1, kept: 3, width: 4 });
    let pair = Compressed::from_sparse(Shape::new(1, 4), &[1.0f32, 0.0, 1.0, 1.0]).unwrap_err();
    assert_eq!(pair, Error::NotTwoFour { row: 0, group: 1, kept: 2, width: 2 });
}

#[test]
fn nan_infinity_and_subnormal_numbers_are_not_zero() {
    let least = f16::from_bits(1).to_f32();
    assert_eq!(sparse([0.0, f32::NAN, 0.0, f32::INFINITY]), Ok(0xd));
    assert_eq!(sparse([least, 0.0, -least, 0.0]), Ok(0x8));
    assert!(sparse([least, f32::NAN, f32::NEG_INFINITY, 0.0]).is_err());
}

#[test]
fn ties_keep_the_lowest() {
    assert_eq!(magnitude([1.0, 1.0, 1.0, 1.0]), 0x4);
    assert_eq!(magnitude([0.0, -0.0, 0.0, 0.0]), 0x4);
    assert_eq!(magnitude([0.0, 2.0, -2.0, 2.0]), 0x9);
    assert_eq!(magnitude([-1.0, 3.0, 1.0, 0.5]), 0x4);
    assert_eq!(magnitude([0.5, 1.0, -3.0, -1.0]), 0x9);
}

/// `f32` keeps one of two: what is 2:4 is not cut to that unless it was asked for, by whichever way in.
#[test]
fn f32_already_24() {
    let shape = Shape::new(3, 16);
    // The first row is 1:2 as well; in the second the third group of four keeps its first two.
    let mut dense = vec![0.0_f32; shape.weights()];
    for (group, kept) in (0..12).zip([[0, 3], [1, 2], [0, 2], [1, 3]].into_iter().cycle()) {
        kept.iter().for_each(|j| dense[4 * group + j] = 1.0 + group as f32);
    }
    assert!(Compressed::by_magnitude(shape, &dense).is_ok() && Compressed::from_sparse(shape, &dense).is_ok());
    (dense[16 + 8 + 1], dense[16 + 8 + 2]) = (f32::MIN_POSITIVE, 0.0);
    let error = Error::TwoFourOfF32 { row: 1, group: 4 };
    assert_eq!(Compressed::by_magnitude(shape, &dense), Err(error.clone()));
    let (mut values, mut masked) = (vec![0.0; 24], vec![0.0; 48]);
    let pass = || Pack::by_magnitude(shape, &dense);
    assert_eq!(Cpu.run(pass().layout(Layout::Plain).values(&mut values)), Err(error.clone()));
    assert_eq!(Cpu.run(pass().masked(&mut masked)), Err(error.clone()));
    let sparse = Compressed::from_sparse(shape, &dense).unwrap_err();
    assert_eq!(sparse, Error::NotTwoFour { row: 1, group: 4, kept: 2, width: 2 });
    for error in [error, sparse] {
        let message = error.to_string();
        assert!(message.contains("group 4 of row 1") && message.contains("Convert it to bf16 or f16"), "{message}");
    }
    // Of 16 bits nothing is lost; and a dense weight may be pruned, as may what its codes say.
    let narrow: Vec<bf16> = dense.iter().map(|&w| bf16::from_f32(w)).collect();
    assert!(same(&Compressed::by_magnitude(shape, &narrow).unwrap().decompress(), &narrow));
    assert!(Compressed::with_codes(shape, &dense, &[0x44; 12]).is_ok());
    dense[40..43].fill(9.0);
    assert!(Compressed::by_magnitude(shape, &dense).is_ok());
    assert!(Compressed::by_magnitude(shape, &[0.0_f32; 48]).is_ok(), "zeros lose nothing");
}

#[test]
fn nan_is_larger_than_infinity() {
    assert_eq!(magnitude([f32::INFINITY, 1.0, f32::NAN, f32::NEG_INFINITY]), 0x8);
    assert_eq!(magnitude([f32::NAN, f32::NAN, f32::NAN, f32::INFINITY]), 0x4);
    let payloads = [0x7f80_0001u32, 0xffff_ffff, 0x7fc0_0000, 0x3f80_0000].map(f32::from_bits);
    let compressed = Compressed::by_magnitude(Shape::new(1, 4), &payloads).unwrap();
    assert_eq!((compressed.code(0, 0), compressed.code(0, 1)), (Some(0xe), Some(0x4)));
}

#[test]
fn magnitudes_of_bytes() {
    // -128 is larger than 127, though its absolute value is no i8.
    let code = Compressed::by_magnitude(GROUP, &[127i8, 127, -128, 1]).unwrap().code(0, 0);
    assert_eq!(code, Some(0x8));
    // 448, NaN, -448, 0.
    let dense = [0x7e, 0x7f, 0xfe, 0x00].map(E4m3::from_bits);
    assert_eq!(Compressed::by_magnitude(GROUP, &dense).unwrap().code(0, 0), Some(0x4));
    // The least number of all, -0, infinity, NaN.
    let dense = [0x01, 0x80, 0x7c, 0xfd].map(E5m2::from_bits);
    assert_eq!(Compressed::by_magnitude(GROUP, &dense).unwrap().code(0, 0), Some(0xe));
    assert!(Compressed::from_sparse(GROUP, &dense).is_err());
}

#[test]
fn four_columns() {
    // Codes of rows share bytes.
    let shape = Shape::new(3, 4);
    let dense = [1i8, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let compressed = Compressed::with_codes(shape, &dense, &[0xd4, 0xe]).unwrap();
    assert_eq!(compressed.values(), [1, 2, 6, 8, 11, 12]);
    assert_eq!(compressed.decompress(), [1, 2, 0, 0, 0, 6, 0, 8, 0, 0, 11, 12]);
    let metadata = compressed.metadata(Layout::CutlassSm80).unwrap();
    assert_eq!(metadata.len(), 16 * 16 / 2);
    // Row 1 lies four words of 32 bits further, on row 0's other nibbles is padding.
    assert_eq!((metadata[0], metadata[16], metadata[32], metadata[1]), (0xe4, 0xed, 0xee, 0xee));
}

#[test]
fn nothing_at_all() {
    for (layout, value_type) in Layout::ALL.into_iter().flat_map(|l| DTYPES.map(|t| (l, t))) {
        for shape in [Shape::new(0, 64), Shape::new(0, 0), Shape::new(64, 0)] {
            let Ok(sizes) = layout.sizes(shape, value_type) else { continue };
            assert_eq!((sizes.values, sizes.metadata, sizes.buffer), (0, 0, 0), "{layout} {value_type} {shape:?}");
        }
    }
    let empty = Compressed::<f32>::from_sparse(Shape::new(0, 64), &[]).unwrap();
    assert_eq!((empty.buffer(Layout::CutlassSm100), empty.decompress()), (Ok(vec![]), vec![]));
    assert!(Compressed::<i8>::by_magnitude(Shape::new(7, 0), &[]).unwrap().codes().is_empty());
    assert_eq!(convert::patterns_from_codes(Shape::new(0, 4), &[]), Ok(vec![]));
}

#[test]
fn poison_is_an_error_that_names_its_group() {
    let shape = Shape::new(2, 12);
    let dense = [1i8; 24];
    // Groups 0 to 5: the fifth has no mask.
    let codes = [0x44, 0x99, 0x40 | Pattern::POISON_CODE];
    let error = Compressed::with_codes(shape, &dense, &codes).unwrap_err();
    let Error::IllegalCode { what: "code", row: 1, group: 1, value: 0, .. } = error else { panic!("{error}") };
    assert_eq!(
        error.to_string(),
        "group 1 of row 1 has code 0x0, and only 4, 8, 9, C, D and E are legal: a mask sampled from NaN logits has \
         such groups, and other bytes than metadata nearly always"
    );
    let patterns = [0, 1, 2, Pattern::POISON, 6, 0];
    let error = convert::codes_from_patterns(shape, &patterns).unwrap_err();
    assert!(matches!(error, Error::IllegalCode { what: "pattern", row: 1, group: 0, value: 0xff, .. }), "{error}");
    let mut mask = [1.0f32, 0.0, 0.0, 1.0].repeat(6);
    mask[20..].fill(f32::NAN);
    let error = convert::codes_from_mask(Sparsity::TwoFour, shape, &mask).unwrap_err();
    assert_eq!(error, Error::NotTwoFour { row: 1, group: 2, kept: 4, width: 4 });
}

/// Every nibble that is not a code is found, at the start, in the middle and in the last half byte.
#[test]
fn every_illegal_code_is_found() {
    for sparsity in [Sparsity::TwoFour, Sparsity::OneTwo] {
        let shape = Shape::new(7, 4 * 3001);
        let groups = sparsity.groups(shape);
        for (at, code) in [0, 1, 9000, groups - 2, groups - 1].into_iter().flat_map(|at| (0..16).map(move |c| (at, c)))
        {
            let mut codes = vec![0x4e; sparsity.packed_codes(shape)];
            codes[at / 2] = codes[at / 2] & (0xf0 >> (4 * (at % 2))) | code << (4 * (at % 2));
            let legal: &[u8] = if sparsity == Sparsity::TwoFour { &[4, 8, 9, 12, 13, 14] } else { &[4, 14] };
            let row_groups = shape.cols / sparsity.width();
            match check_codes(sparsity, shape, &codes) {
                Ok(()) => assert!(legal.contains(&code)),
                Err(Error::IllegalCode { row, group, value, .. }) => {
                    assert!(!legal.contains(&code));
                    assert_eq!((row as usize * row_groups + group as usize, value), (at, code));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn the_unused_half_of_the_last_byte_is_no_code() {
    let compressed = Compressed::new(GROUP, vec![1i8, 2], vec![0x34]).unwrap();
    assert_eq!(compressed.codes(), [0x4]);
    assert_eq!(compressed, Compressed::new(GROUP, vec![1i8, 2], vec![0x04]).unwrap());
    let mut codes = [0xff];
    let mut values = [0i8; 2];
    Cpu.run(Pack::with_codes(GROUP, &[1i8, 2, 3, 4], &[0x54]).values(&mut values).codes(&mut codes)).unwrap();
    assert_eq!(codes, [0x4]);
}

/// The worked example of the published notes: 64 x 128 f16, row 37, columns 76 to 79.
#[test]
fn a_worked_example() {
    let place = |layout: Layout| {
        let place = layout.map(Shape::new(64, 128), DType::F16).unwrap().place(37, 19).unwrap();
        (place.byte, place.shift)
    };
    assert_eq!(place(Layout::CusparseltMma), (721, 4));
    assert_eq!(place(Layout::CutlassSm80), (721, 4));
    assert_eq!(place(Layout::CusparseltSm90), (686, 0));
    assert_eq!(place(Layout::CutlassSm90(twofour::compress::MinTileK::K64)), (809, 4));
    assert_eq!(place(Layout::CutlassSm90(twofour::compress::MinTileK::K128)), (601, 4));
    let large = |layout: Layout| layout.map(Shape::new(256, 128), DType::F16).unwrap().place(200, 19).unwrap().byte;
    assert_eq!(large(Layout::CutlassSm80), 2819);
    assert_eq!(large(Layout::CusparseltMma), 3331);
    assert_eq!(large(Layout::CusparseltSm90), 3590);
}

/// Sizes that were read off a card.
#[test]
fn buffers_are_as_large_as_the_library_says() {
    let buffer =
        |layout: Layout, value_type, rows, cols| layout.sizes(Shape::new(rows, cols), value_type).unwrap().buffer;
    for (rows, cols, bytes) in [(64, 64, 4608), (16, 32, 768), (64, 32, 2560), (96, 160, 17920), (8, 16, 384)] {
        assert_eq!(buffer(Layout::CusparseltMma, DType::F16, rows, cols), bytes, "{rows} x {cols}");
    }
    assert_eq!(buffer(Layout::CusparseltMma, DType::Bf16, 128, 128), 18432);
    assert_eq!(buffer(Layout::CusparseltMma, DType::Bf16, 1024, 2048), 1024 * 2048 * 2 * 9 / 16);
    for (rows, cols, bytes) in [(64, 64, 4096), (96, 160, 15872), (128, 64, 8192)] {
        assert_eq!(buffer(Layout::CusparseltSm86Int8, DType::I8, rows, cols), bytes, "{rows} x {cols}");
    }
}

#[test]
fn the_layout_for_cusparselt() {
    use DType::{Bf16, E4m3, F16, F32, I8};
    let layout = |capability, value_type, rows| Layout::cusparselt(capability, value_type, Shape::new(rows, 128));
    for capability in [(8, 0), (8, 6), (8, 7), (8, 9), (12, 0), (12, 1)] {
        assert_eq!(layout(capability, F16, 256), Some(Layout::CusparseltMma));
        assert_eq!(layout(capability, Bf16, 96), Some(Layout::CusparseltMma));
        assert_eq!(layout(capability, Bf16, 320), None);
        assert_eq!([F32, E4m3].map(|value_type| layout(capability, value_type, 64)), [None; 2]);
    }
    assert_eq!(layout((9, 0), F16, 320), Some(Layout::CusparseltSm90));
    assert_eq!(layout((9, 0), F16, 96), None);
    assert_eq!(layout((8, 6), I8, 192), Some(Layout::CusparseltSm86Int8));
    assert_eq!([layout((8, 6), I8, 256), layout((8, 0), I8, 64), layout((9, 0), I8, 64)], [None; 3]);
    assert_eq!([(7, 5), (10, 0), (10, 3), (11, 0)].map(|capability| layout(capability, F16, 128)), [None; 4]);
    assert!(Layout::CusparseltSm90.evidence(F16) < Layout::CusparseltMma.evidence(F16));
    assert_eq!(Layout::CutlassSm80.evidence(E4m3), Evidence::Derived);
}

/// A pass of the mask op feeds compression as it is.
#[test]
fn codes_of_the_mask_op() {
    use twofour::mask::{Forward, Kind, Sampling};
    let shape = Shape::new(5, 12);
    let logits: Vec<f32> = (0..shape.logits()).map(|i| (i * 37 % 101) as f32 * 0.01).collect();
    let weight: Vec<bf16> = (0..shape.weights()).map(|i| bf16::from_f32(i as f32 - 20.0)).collect();
    let (mut masked, mut ones) = (vec![bf16::ZERO; 60], vec![bf16::ZERO; 60]);
    let (mut codes, mut patterns) = (vec![0; shape.packed_codes()], vec![0; shape.groups()]);
    let sampling = Sampling { seed: 1, draw: 2, kappa: 1.0, tau: 1.0 };
    let pass = Forward::new(shape, Kind::Hard, sampling, &logits).weight(&weight);
    Cpu.run(pass.masked(&mut masked).mask(&mut ones).codes(&mut codes).patterns(&mut patterns)).unwrap();
    let compressed = Compressed::with_codes(shape, &weight, &codes).unwrap();
    assert!(same(&compressed.decompress(), &masked));
    assert_eq!(convert::codes_from_mask(Sparsity::TwoFour, shape, &ones).unwrap(), codes);
    assert_eq!(convert::codes_from_patterns(shape, &patterns).unwrap(), codes);
}
