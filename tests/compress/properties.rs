//! Properties of every layout with every type of values, over ragged shapes.

use crate::any::{Wide, for_type, same, values};
use crate::common::run;
use crate::oracle::{self, Order};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::compress::{
    Compressed, DTYPES, Layout, MinTileK, Pack, Reorder, Sparsity, Unpack, Violation, convert, first_violation,
};
use twofour::{Cpu, DType, Error, Executor, Shape};

/// A weight of random bits in a layout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) layout: Layout,
    pub(crate) value_type: DType,
    pub(crate) shape: Shape,
    pub(crate) data: u64,
}

pub(crate) fn pairs() -> Vec<(Layout, DType)> {
    let all = Layout::ALL.into_iter().flat_map(|layout| DTYPES.map(|value_type| (layout, value_type)));
    all.filter(|(layout, value_type)| layout.supports(*value_type)).collect()
}

/// Shapes that the layout holds: small, ragged, tall, wide and empty.
pub(crate) fn shapes(layout: Layout) -> BoxedStrategy<Shape> {
    let ragged = prop_oneof![
        6 => (1..=80usize, 1..=80usize),
        2 => (120..=300usize, 1..=40usize),
        2 => (1..=20usize, 200..=700usize),
        1 => (0..=3usize, 0..=2usize),
    ]
    .prop_map(|(rows, groups)| Shape::new(rows, 4 * groups));
    match layout {
        Layout::CusparseltMma => {
            let large = (2..=5usize, 1..=9usize).prop_map(|(m, k)| Shape::new(128 * m, 64 * k));
            let ragged = ragged.prop_map(|shape| Shape::new(shape.rows.min(255), shape.cols));
            prop_oneof![ragged, large].boxed()
        }
        Layout::CusparseltSm86Int8 => ragged.prop_map(|shape| Shape::new(shape.rows.min(255), shape.cols)).boxed(),
        Layout::CusparseltSm90 => (0..=6usize, 0..=9usize).prop_map(|(m, k)| Shape::new(64 * m, 64 * k)).boxed(),
        _ => ragged.boxed(),
    }
}

pub(crate) fn cases() -> impl Strategy<Value = Case> {
    (prop::sample::select(pairs()), any::<u64>()).prop_flat_map(|((layout, value_type), data)| {
        shapes(layout).prop_map(move |shape| Case { layout, value_type, shape, data })
    })
}

#[track_caller]
fn for_all(count: u32, property: impl Fn(&Case)) {
    run(count, &cases(), |case| property(&case));
}

/// The layout as the oracle knows it, and bytes of its metadata, by the library's rule where it has one.
pub(crate) fn known(case: &Case) -> (Order, usize) {
    let Shape { rows, cols } = case.shape;
    let (bytewise, f32) = (case.value_type.size() == 1, case.value_type == DType::F32);
    let up = |x: usize, to: usize| x.next_multiple_of(to);
    let order = match case.layout {
        Layout::CutlassSm80 => Order::Ampere { word: if bytewise { 8 } else { 4 } },
        Layout::CusparseltMma if rows < 256 => Order::Ampere { word: 4 },
        Layout::CusparseltMma => Order::CusparseltMma,
        Layout::CusparseltSm86Int8 => Order::Int8,
        Layout::CusparseltSm90 => Order::Hopper,
        Layout::CutlassSm90(k) if bytewise => Order::RowAtom { rows: 64, groups: k.columns() / 4 },
        Layout::CutlassSm90(k) => Order::Atom { rows: 64, blocks: k.columns() / if f32 { 16 } else { 32 } },
        Layout::CutlassSm100 if bytewise => Order::RowAtom { rows: 128, groups: 32 },
        Layout::CutlassSm100 => Order::Atom { rows: 128, blocks: 4 },
        _ => Order::Plain,
    };
    let bytes = match case.layout {
        Layout::CusparseltMma => (up(rows, 32) * up(cols, 64)).max(up(rows, 64) * up(cols, 32)) / 8,
        Layout::CusparseltSm86Int8 => up(rows, 64) * up(cols, 128) / 4,
        _ => {
            let (of_rows, of_groups) = order.multiples();
            (up(rows, of_rows) * up(cols / if f32 { 2 } else { 4 }, of_groups)).div_ceil(2)
        }
    };
    (order, bytes)
}

/// A weight, codes, and by hand the kept values and the weight that is left.
struct Weight<T> {
    dense: Vec<T>,
    codes: Vec<u8>,
    values: Vec<T>,
    masked: Vec<T>,
}

fn weight<T: Wide>(rng: &mut StdRng, shape: Shape) -> Weight<T> {
    let dense = values::<T>(rng, shape.weights());
    let width = oracle::width::<T>();
    let legal: &[u8] = if width == 2 { &[4, 14] } else { &[4, 8, 12, 9, 13, 14] };
    let codes = (0..shape.weights() / width).map(|_| legal[rng.random_range(0..legal.len())]).collect();
    by_codes(dense, codes)
}

fn by_codes<T: Wide>(dense: Vec<T>, codes: Vec<u8>) -> Weight<T> {
    let width = oracle::width::<T>();
    let mut values = Vec::new();
    let mut masked = vec![T::from_bits(0); dense.len()];
    for (g, &code) in codes.iter().enumerate() {
        for j in oracle::positions(code, width) {
            values.push(dense[g * width + j]);
            masked[g * width + j] = dense[g * width + j];
        }
    }
    Weight { dense, codes, values, masked }
}

fn check_layout<T: Wide>(case: &Case) {
    let Case { layout, shape, .. } = *case;
    let weight = weight::<T>(&mut StdRng::seed_from_u64(case.data), shape);
    let compressed = Compressed::with_codes(shape, &weight.dense, &oracle::packed(&weight.codes)).unwrap();
    assert!(same(compressed.values(), &weight.values));
    assert_eq!(compressed.codes(), oracle::packed(&weight.codes));
    assert!(same(&compressed.decompress(), &weight.masked));

    let (order, bytes) = known(case);
    let sizes = layout.sizes(shape, T::DTYPE).unwrap();
    assert_eq!(sizes.metadata, bytes);
    let groups = shape.cols / oracle::width::<T>();
    let mut expected = oracle::metadata(order, shape.rows, groups, &weight.codes, bytes);
    if layout == Layout::Plain {
        expected = oracle::packed(&weight.codes);
    }
    assert_eq!(compressed.metadata(layout).unwrap(), expected);

    // One call from the dense weight, over memory that holds something else; and all the ways back.
    let mut values = vec![T::from_bits(0x55); sizes.values];
    let mut metadata = vec![0x55; bytes];
    let mut codes = vec![0x55; compressed.codes().len()];
    let packed = oracle::packed(&weight.codes);
    let args = Pack::with_codes(shape, &weight.dense, &packed).layout(layout);
    Cpu.run(args.values(&mut values).metadata(&mut metadata).codes(&mut codes)).unwrap();
    assert_eq!((&metadata, codes.as_slice()), (&expected, compressed.codes()));
    let mut dense = vec![T::from_bits(0x55); shape.weights()];
    Cpu.run(Unpack::new(shape, layout, &values, &metadata, &mut dense)).unwrap();
    assert!(same(&dense, &weight.masked));
    let back = Compressed::from_layout(shape, layout, &values, &metadata).unwrap();
    assert!(same(back.values(), &weight.values) && back.codes() == packed);
    for (row, kept) in values.chunks(sizes.pitch.max(1)).zip(weight.values.chunks((shape.cols / 2).max(1))) {
        assert!(same(&row[..kept.len()], kept));
        assert!(row[kept.len()..].iter().all(|value| bytemuck::bytes_of(value).iter().all(|&byte| byte == 0)));
    }

    let mut buffer = bytemuck::cast_slice(&values).to_vec();
    assert_eq!(buffer.len(), sizes.metadata_offset);
    buffer.extend_from_slice(&metadata);
    assert_eq!(compressed.buffer(layout).unwrap(), buffer);
    let back = Compressed::<T>::from_buffer(shape, layout, &buffer).unwrap();
    assert!(same(back.values(), &weight.values) && back.codes() == packed);
}

fn check_choices<T: Wide>(case: &Case) {
    let Case { layout, shape, .. } = *case;
    let mut rng = StdRng::seed_from_u64(case.data);
    let dense = values::<T>(&mut rng, shape.weights());
    let width = oracle::width::<T>();
    let codes = dense.chunks(width).map(|group| oracle::code(&oracle::largest(group))).collect();
    let largest = by_codes(dense.clone(), codes);
    check_choice(case, &largest, false);
    // What is left of it may be any 2:4 weight, if some kept values are made zero.
    let mut sparse = largest.masked;
    sparse.iter_mut().for_each(|value| {
        if rng.random_ratio(1, 4) {
            *value = T::from_bits(0);
        }
    });
    let codes = sparse.chunks(width).map(|group| oracle::code(&oracle::non_zeros(group).unwrap())).collect();
    let sparse = by_codes(sparse, codes);
    assert_eq!(first_violation(shape, &sparse.dense), Ok(None));
    check_choice(case, &sparse, true);
    // And the whole is 2:4 by luck only.
    let bad = dense.chunks(width).position(|group| oracle::non_zeros(group).is_none());
    let expected = bad.map(|at| Violation {
        row: at / (shape.cols / width),
        group: at % (shape.cols / width),
        kept: dense[at * width..(at + 1) * width].iter().filter(|value| value.to_f64() != 0.0).count() as u32,
    });
    assert_eq!(first_violation(shape, &dense), Ok(expected));
    let error = expected.map(|Violation { row, group, kept }| {
        let (row, group) = (row as u64, group as u64);
        Error::NotTwoFour { row, group, kept, width: width as u32 }
    });
    let mut metadata = vec![0; layout.sizes(shape, T::DTYPE).unwrap().metadata];
    let result = Cpu.run(Pack::sparse(shape, &dense).layout(layout).metadata(&mut metadata));
    assert_eq!(result.err(), error);
}

/// Compresses the dense weight and compares with what is expected of it.
fn check_choice<T: Wide>(case: &Case, expected: &Weight<T>, sparse: bool) {
    let Case { layout, shape, .. } = *case;
    let sizes = layout.sizes(shape, T::DTYPE).unwrap();
    let (mut values, mut metadata) = (vec![T::from_bits(0x55); sizes.values], vec![0x55; sizes.metadata]);
    let packed = oracle::packed(&expected.codes);
    for with_codes in [false, true] {
        let mut codes = vec![0x55; packed.len()];
        let args = match sparse {
            true => Pack::sparse(shape, &expected.dense),
            false => Pack::by_magnitude(shape, &expected.dense),
        };
        let mut args = args.layout(layout).values(&mut values).metadata(&mut metadata);
        if with_codes {
            args = args.codes(&mut codes);
        }
        match oracle::halved(&expected.dense, shape.cols).filter(|_| !sparse) {
            Some(error) => return assert_eq!(Cpu.run(args), Err(error)),
            None => Cpu.run(args).unwrap(),
        }
        let back = Compressed::from_layout(shape, layout, &values, &metadata).unwrap();
        assert!(same(back.values(), &expected.values));
        assert_eq!(back.codes(), packed);
        assert!(!with_codes || codes == packed);
    }
    let compressed = match sparse {
        true => Compressed::from_sparse(shape, &expected.dense),
        false => Compressed::by_magnitude(shape, &expected.dense),
    };
    assert!(same(&compressed.unwrap().decompress(), &expected.masked));
}

#[test]
fn every_layout_is_what_the_oracle_lists() {
    for_all(1500, |case| for_type!(case.value_type, check_layout(case)));
}

#[test]
fn choices_are_those_of_sorting() {
    for_all(1000, |case| for_type!(case.value_type, check_choices(case)));
}

/// Groups are chosen in blocks, in pairs and one by one: every number of them that is left over.
#[test]
fn every_length_of_a_row() {
    for (groups, value_type) in (1..=300).chain(2040..=2060).flat_map(|n| DTYPES.map(|t| (n, t))) {
        let shape = Shape::new(1, 4 * groups);
        let case = Case { layout: Layout::Plain, value_type, shape, data: groups as u64 };
        for_type!(value_type, check_choices(&case));
    }
}

/// Every code of the weight and its padding has a place of its own, inside the metadata, and digits say where.
#[test]
fn maps_are_bijections() {
    for_all(500, |case| {
        let map = case.layout.map(case.shape, case.value_type).unwrap();
        let [rows, groups] = map.padded();
        let mut taken = vec![false; 2 * map.bytes()];
        let part = |mut number: usize, digits: [twofour::compress::layout::Digit; 5]| {
            let mut index = 0;
            for digit in digits {
                index += number % digit.size * digit.stride;
                number /= digit.size;
            }
            index
        };
        for (row, group) in (0..rows).flat_map(|row| (0..groups).map(move |group| (row, group))) {
            let place = map.place(row, group).unwrap();
            let index = 2 * place.byte + place.shift as usize / 4;
            assert!(!std::mem::replace(&mut taken[index], true), "{row} {group}");
            assert_eq!(index, part(row, map.row_digits()) + part(group, map.group_digits()));
            assert_eq!(index, map.row_part(row) + map.group_part(group));
        }
        assert_eq!((map.place(rows, 0), map.place(0, groups)), (None, None));
    });
}

/// Metadata goes from any layout to any other that holds the weight.
#[test]
fn layouts_become_one_another() {
    for_all(500, |case| {
        let mut rng = StdRng::seed_from_u64(case.data);
        let sparsity = Sparsity::of(case.value_type);
        let legal: Vec<u8> = (0..16).filter(|&code| sparsity.is_legal(code)).collect();
        let codes: Vec<u8> =
            (0..sparsity.groups(case.shape)).map(|_| legal[rng.random_range(0..legal.len())]).collect();
        let packed = oracle::packed(&codes);
        let reorder = |from: Layout, metadata: &[u8], to: Layout| {
            let mut out = vec![0x55; to.sizes(case.shape, case.value_type).unwrap().metadata];
            Cpu.run(Reorder::new(case.shape, case.value_type, (from, metadata), (to, &mut out))).unwrap();
            out
        };
        let first = reorder(Layout::Plain, &packed, case.layout);
        for to in Layout::ALL.into_iter().filter(|to| to.check(case.shape, case.value_type).is_ok()) {
            let second = reorder(case.layout, &first, to);
            assert_eq!(second, reorder(Layout::Plain, &packed, to), "{to}");
            assert_eq!(reorder(to, &second, Layout::Plain), packed, "{to}");
        }
    });
}

#[test]
fn masks_codes_and_patterns_become_one_another() {
    for_all(300, |case| {
        let (shape, sparsity) = (case.shape, Sparsity::of(case.value_type));
        let mut rng = StdRng::seed_from_u64(case.data);
        let width = sparsity.width();
        let legal: Vec<u8> = (0..16).filter(|&code| sparsity.is_legal(code)).collect();
        let codes: Vec<u8> = (0..sparsity.groups(shape)).map(|_| legal[rng.random_range(0..legal.len())]).collect();
        let mut mask = vec![false; shape.weights()];
        for (group, &code) in mask.chunks_mut(width).zip(&codes) {
            oracle::positions(code, width).into_iter().for_each(|j| group[j] = true);
        }
        let packed = oracle::packed(&codes);
        assert_eq!(convert::codes_from_mask(sparsity, shape, &mask).unwrap(), packed);
        assert_eq!(convert::mask_from_codes::<bool>(sparsity, shape, &packed).unwrap(), mask);
        let numbers = convert::mask_from_codes::<f32>(sparsity, shape, &packed).unwrap();
        assert!(numbers.iter().zip(&mask).all(|(&number, &kept)| number == f32::from(u8::from(kept))));
        assert_eq!(convert::codes_from_mask(sparsity, shape, &numbers).unwrap(), packed);
        let bytes = convert::mask_from_codes::<u8>(sparsity, shape, &packed).unwrap();
        assert_eq!(convert::codes_from_mask(sparsity, shape, &bytes).unwrap(), packed);
        if width == 4 {
            let by_index = [0x4, 0x8, 0xc, 0x9, 0xd, 0xe];
            let index = |code| by_index.iter().position(|&c| c == code).unwrap() as u8;
            let patterns: Vec<u8> = codes.iter().map(|&code| index(code)).collect();
            assert_eq!(convert::codes_from_patterns(shape, &patterns).unwrap(), packed);
            assert_eq!(convert::patterns_from_codes(shape, &packed).unwrap(), patterns);
        }
    });
}

/// The layouts that a list of all leaves out would be tested by nobody.
#[test]
fn every_layout_is_listed_once() {
    let names: std::collections::BTreeSet<&str> = Layout::ALL.iter().map(|layout| layout.name()).collect();
    assert_eq!(names.len(), Layout::ALL.len());
    assert_eq!(pairs().len(), 6 + 6 + 2 + 1 + 2 + 1 + 3 + 6 + 6 + 6);
    assert!(MinTileK::K16.columns() == 16 && MinTileK::K128.columns() == 128);
}
