//! What is done with a hostile file of masks: everything that can be. Shared by the fuzz target and
//! `tests/masks_hostile.rs`.

use twofour::Shape;
use twofour_formats::masks::{Fewer, Mask, Masks, Shapes, base6};

/// Shapes that masks without one are tried with: those of the golden files are among them.
const SHAPES: [Shape; 4] = [Shape::new(2, 8), Shape::new(16, 64), Shape::new(3, 8), Shape::new(0, 8)];

/// Opens a file and reads all of it, with every shape. Whether it is one, and how many masks could be read.
pub(crate) fn file(bytes: &[u8]) -> Option<usize> {
    let masks = Masks::from_bytes(bytes).ok()?;
    let names: Vec<String> = masks.names().map(str::to_owned).collect();
    assert!(names.is_sorted());
    if let Err(error) = masks.text() {
        assert!(!error.to_string().is_empty());
    }
    let mut read = 0;
    for name in &names {
        read += usize::from(one(&masks, name).is_some());
    }
    let mut masks = masks;
    for shape in SHAPES {
        let shapes: Shapes = names.iter().map(|name| (name.as_str(), shape)).collect();
        masks = masks.with_shapes(shapes).fewer(Fewer::Fill);
        for name in &names {
            match one(&masks, name) {
                Some(found) => {
                    assert_eq!(found, shape);
                    read += 1;
                }
                None => continue,
            }
        }
    }
    Some(read)
}

/// Reads a mask, which then agrees with itself.
fn one(masks: &Masks<'_>, name: &str) -> Option<Shape> {
    let mask = match masks.read(name) {
        Ok(mask) => mask,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    let shape = mask.shape();
    assert_eq!(masks.shape(name), Ok(shape));
    assert_eq!(mask.codes().len(), shape.packed_codes());
    // Codes are legal, or these would be refused.
    assert_eq!(Mask::from_bits(shape, &mask.bits(), Fewer::Refuse).as_ref(), Ok(&mask));
    let packed = mask.base6().expect("a mask's codes are legal");
    assert_eq!(base6::unpack(shape, &packed).as_deref(), Ok(mask.codes()));
    Some(shape)
}
