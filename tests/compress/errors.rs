//! Every error that the arguments of `compress` can give.

use twofour::compress::{
    Compressed, Layout, MinTileK, Pack, Reorder, Sparsity, Unpack, check_codes, convert, first_violation,
};
use twofour::mask::{Kind, Sampling};
use twofour::{Cpu, DType, Error, Executor, Shape, f16};

fn what(result: twofour::Result<()>) -> &'static str {
    match result.unwrap_err() {
        Error::Length { what, .. } | Error::Missing { what, .. } => what,
        other => panic!("{other}"),
    }
}

#[test]
fn every_length_is_checked() {
    let shape = Shape::new(2, 8);
    let (dense, codes) = ([1i8; 16], [0x44; 2]);
    let short = |dense: &[i8], codes: &[u8]| what(Compressed::with_codes(shape, dense, codes).map(|_| ()));
    assert_eq!((short(&dense[1..], &codes), short(&dense, &codes[1..])), ("dense", "codes"));
    assert_eq!(what(Compressed::from_sparse(shape, &dense[..15]).map(|_| ())), "dense");
    assert_eq!(what(Compressed::by_magnitude(shape, &[1i8; 17]).map(|_| ())), "dense");
    assert_eq!(what(Compressed::new(shape, vec![1i8; 7], codes.to_vec()).map(|_| ())), "values");
    assert_eq!(what(Compressed::new(shape, vec![1i8; 8], vec![0x44; 3]).map(|_| ())), "codes");
    assert_eq!(what(first_violation(shape, &dense[1..]).map(|_| ())), "dense");
    // A macro, for each use borrows its output for another time.
    macro_rules! pack {
        () => {
            Pack::with_codes(shape, &dense, &codes)
        };
    }
    assert_eq!(what(Cpu.run(pack!().values(&mut [0; 9]))), "values");
    assert_eq!(what(Cpu.run(pack!().metadata(&mut [0; 3]))), "metadata");
    assert_eq!(what(Cpu.run(pack!().layout(Layout::CutlassSm80).metadata(&mut [0; 2]))), "metadata");
    assert_eq!(what(Cpu.run(pack!().codes(&mut [0; 1]))), "codes");
    assert_eq!(what(Cpu.run(pack!())), "compression");

    let layout = Layout::CutlassSm90(MinTileK::K64);
    let unpack = |values: &[i8], metadata: &[u8], dense: &mut [i8]| {
        what(Cpu.run(Unpack::new(shape, layout, values, metadata, dense)))
    };
    assert_eq!(unpack(&[0; 8], &[0; 512], &mut [0; 16]), "values");
    assert_eq!(unpack(&[0; 32], &[0; 511], &mut [0; 16]), "metadata");
    assert_eq!(unpack(&[0; 32], &[0; 512], &mut [0; 15]), "dense");

    let compressed = Compressed::with_codes(shape, &dense, &codes).unwrap();
    assert_eq!(what(compressed.metadata_into(layout, &mut [0; 511])), "metadata (to)");
    assert_eq!(what(compressed.buffer_into(layout, &mut [0; 543])), "buffer");
    assert_eq!(what(compressed.decompress_into(&mut [0; 15])), "dense");
    assert_eq!(what(Compressed::<i8>::from_buffer(shape, layout, &[0; 545]).map(|_| ())), "buffer");
    assert_eq!(what(Compressed::<i8>::from_layout(shape, layout, &[0; 8], &[0; 512]).map(|_| ())), "values");
    assert_eq!(what(Compressed::<i8>::from_layout(shape, layout, &[0; 32], &[0; 2]).map(|_| ())), "metadata");
    let mut plain = [0; 2];
    let reorder = Reorder::new(shape, DType::I8, (layout, &[0; 3]), (Layout::Plain, &mut plain));
    assert_eq!(what(Cpu.run(reorder)), "metadata (from)");
}

#[test]
fn logits_choose_among_four_values_alone() {
    let shape = Shape::new(2, 8);
    let (logits, sampling) = (vec![0.0f32; shape.logits()], Sampling { seed: 1, draw: 0, kappa: 1.0, tau: 1.0 });
    let refused = |error: Error| matches!(error, Error::Unsupported { what: "compression from logits", because } if because.contains("f32"));
    let dense = vec![1.0f32; shape.weights()];
    assert!(refused(Compressed::from_logits(shape, Kind::Argmax, sampling, &logits, &dense).unwrap_err()));
    let mut codes = vec![0; shape.weights() / 4];
    let pack = Pack::from_logits(shape, Kind::Hard, sampling, &logits, &dense).codes(&mut codes);
    assert!(refused(Cpu.run(pack).unwrap_err()));
    assert!(Compressed::from_logits(shape, Kind::Argmax, sampling, &logits, &vec![1i8; shape.weights()]).is_ok());
}

#[test]
fn sums_are_no_values() {
    let (shape, sums) = (Shape::new(2, 8), [1i32; 16]);
    let refused = |error: Error| matches!(error, Error::Layout { dtype: "i32", .. });
    for layout in Layout::ALL {
        assert!(!layout.supports(DType::I32), "{layout}");
        assert!(refused(layout.sizes(Shape::new(256, 256), DType::I32).unwrap_err()), "{layout}");
    }
    assert!(refused(Compressed::by_magnitude(shape, &sums).unwrap_err()));
    assert!(refused(Compressed::new(shape, vec![1i32; 8], vec![0x44; 2]).unwrap_err()));
}

#[test]
fn lengths_of_conversions_are_checked() {
    let (shape, sparsity) = (Shape::new(2, 8), Sparsity::TwoFour);
    assert_eq!(what(convert::codes_from_mask(sparsity, shape, &[true; 15]).map(|_| ())), "mask");
    assert_eq!(what(convert::codes_from_mask_into(sparsity, shape, &[true; 16], &mut [0; 3])), "codes");
    assert_eq!(what(convert::mask_from_codes::<u8>(sparsity, shape, &[0x44; 3]).map(|_| ())), "codes");
    assert_eq!(what(convert::mask_from_codes_into(sparsity, shape, &[0x44; 2], &mut [0u8; 17])), "mask");
    assert_eq!(what(convert::codes_from_patterns(shape, &[0; 5]).map(|_| ())), "patterns");
    assert_eq!(what(convert::codes_from_patterns_into(shape, &[0; 4], &mut [0; 1])), "codes");
    assert_eq!(what(convert::patterns_from_codes(shape, &[0x44; 1]).map(|_| ())), "codes");
    assert_eq!(what(convert::patterns_from_codes_into(shape, &[0x44; 2], &mut [0; 3])), "patterns");
}

#[test]
fn shapes_are_checked_before_memory_is_asked_for() {
    let ragged = Shape::new(2, 6);
    let huge = Shape::new(usize::MAX / 2, 8);
    // They fit, but not when padded to tiles.
    let tall = Shape::new(isize::MAX as usize / 32, 4);
    let wide = Shape::new(1, isize::MAX as usize / 32 * 4);
    for shape in [ragged, huge] {
        let expected = |error: &Error| matches!(error, Error::NotGrouped { .. } | Error::Overflow { .. });
        assert!(expected(&Compressed::<f32>::from_sparse(shape, &[]).unwrap_err()));
        assert!(expected(&Compressed::<i8>::new(shape, vec![], vec![]).unwrap_err()));
        assert!(expected(&Compressed::<i8>::from_buffer(shape, Layout::Plain, &[]).unwrap_err()));
        assert!(expected(&first_violation::<i8>(shape, &[]).unwrap_err()));
        assert!(expected(&convert::codes_from_patterns_into(shape, &[], &mut []).unwrap_err()));
        assert!(expected(&check_codes(Sparsity::OneTwo, shape, &[]).unwrap_err()));
        for layout in Layout::ALL {
            assert!(expected(&layout.sizes(shape, DType::F16).unwrap_err()), "{layout}");
        }
    }
    let overflows = |layout: Layout, value_type, shape| {
        let error = layout.sizes(shape, value_type).unwrap_err();
        assert!(matches!(error, Error::Overflow { what: "metadata", .. }), "{error}");
    };
    overflows(Layout::CutlassSm90(MinTileK::K128), DType::F32, tall);
    for layout in [Layout::CutlassSm90(MinTileK::K32), Layout::CutlassSm100] {
        overflows(layout, DType::Bf16, wide);
    }
    assert!(convert::codes_from_mask::<bool>(Sparsity::TwoFour, huge, &[]).is_err());
    assert!(convert::codes_from_patterns(huge, &[]).is_err());
}

#[test]
fn layouts_say_what_they_do_not_hold() {
    let error = |layout: Layout, value_type, rows, cols| {
        let error = layout.check(Shape::new(rows, cols), value_type).unwrap_err();
        assert!(matches!(error, Error::Layout { .. }), "{error}");
        error.to_string()
    };
    assert_eq!(
        error(Layout::CusparseltMma, DType::F16, 320, 128),
        "layout cusparselt-mma does not hold a f16 weight of 320 x 128: from 256 rows on it is known for multiples of 128 \
         rows and 64 columns alone"
    );
    error(Layout::CusparseltMma, DType::Bf16, 256, 96);
    error(Layout::CusparseltMma, DType::I8, 64, 64);
    error(Layout::CusparseltSm86Int8, DType::I8, 256, 64);
    error(Layout::CusparseltSm86Int8, DType::E4m3, 64, 64);
    error(Layout::CusparseltSm90, DType::F16, 64, 96);
    error(Layout::CusparseltSm90, DType::F32, 64, 64);
    error(Layout::CutlassSm90(MinTileK::K16), DType::F16, 64, 64);
    error(Layout::CutlassSm90(MinTileK::K32), DType::E5m2, 64, 64);
    let dense = [f16::ZERO; 96 * 64];
    let compressed = Compressed::from_sparse(Shape::new(96, 64), &dense).unwrap();
    assert!(matches!(compressed.buffer(Layout::CusparseltSm90), Err(Error::Layout { rows: 96, cols: 64, .. })));
}

/// Metadata from elsewhere is not believed.
#[test]
fn illegal_codes_in_a_layout_are_found() {
    let shape = Shape::new(40, 64);
    let dense: Vec<i8> = (0..shape.weights()).map(|i| (i % 251) as i8).collect();
    let compressed = Compressed::by_magnitude(shape, &dense).unwrap();
    for layout in Layout::ALL.into_iter().filter(|layout| layout.check(shape, DType::I8).is_ok()) {
        let mut metadata = compressed.metadata(layout).unwrap();
        let place = layout.map(shape, DType::I8).unwrap().place(33, 5).unwrap();
        metadata[place.byte] &= !(15 << place.shift);
        let values = vec![0; layout.sizes(shape, DType::I8).unwrap().values];
        let expected = |error| matches!(error, Error::IllegalCode { what: "code", row: 33, group: 5, value: 0, .. });
        assert!(expected(Compressed::from_layout(shape, layout, &values, &metadata).unwrap_err()), "{layout}");
        let mut dense = dense.clone();
        let args = Unpack::new(shape, layout, &values, &metadata, &mut dense);
        assert!(expected(Cpu.run(args).unwrap_err()), "{layout}");
        let mut out = vec![0; Layout::CutlassSm80.sizes(shape, DType::I8).unwrap().metadata];
        let args = Reorder::new(shape, DType::I8, (layout, &metadata), (Layout::CutlassSm80, &mut out));
        let result = Cpu.run(args);
        assert!(expected(result.unwrap_err()), "{layout}");
    }
}
