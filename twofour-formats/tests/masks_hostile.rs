//! The body of the fuzz target `masks` over mutations of good files: it never panics, and never allocates more than a
//! small multiple of what it was given. Alone in its program, so that the allocations it counts are its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../fuzz/masks.rs"]
mod body;
#[path = "../../tests/common/counted.rs"]
mod counted;
#[allow(dead_code)]
#[path = "masks/make.rs"]
mod make;
#[allow(dead_code)]
#[path = "hostile/mutate.rs"]
mod mutate;

use make::{Member, archive, bits, npy};
use mutate::Mutator;
use std::path::Path;
use twofour::Shape;
use twofour_formats::masks::{Form, Manifest, Mask, Masks, Shapes};

/// Bytes of memory for a byte of a file, at most: a directory of nothing but short entries, and reading each.
const FILE: usize = 16;
/// What inflating takes, of whatever file, and an error message.
const CONSTANT: usize = 3 << 16;

/// Runs the body and checks what it allocated.
fn within_bounds(bytes: &[u8], beside: usize) -> Option<usize> {
    let (result, peak) = counted::peak(|| body::file(bytes));
    assert!(peak <= FILE * bytes.len() + CONSTANT + beside, "{peak} bytes allocated for {}", bytes.len());
    result
}

fn golden() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/masks");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut archives, mut tensors) = (Vec::new(), Vec::new());
    for path in files {
        let bytes = std::fs::read(&path).unwrap();
        // Small ones, of which every byte is changed often.
        match path.extension().unwrap().to_str().unwrap() {
            "npz" if bytes.len() < 2000 => archives.push(bytes),
            "safetensors" => tensors.push(bytes),
            _ => {}
        }
    }
    // Across, and of more dimensions.
    let mask = Mask::new(Shape::new(4, 8), vec![0x48, 0x9c, 0xde, 0x84]).unwrap();
    for (sizes, across) in [(&[8, 4][..], true), (&[2, 8, 2], true), (&[2, 2, 8], false), (&[4, 2, 2, 2], false)] {
        let mut manifest = Manifest::new(Form::Flags);
        manifest.layer_as("w", mask.shape(), sizes, across).unwrap();
        tensors.push(manifest.to_bytes(|file| file.mask("w", &mask)).unwrap());
    }
    (archives, tensors)
}

#[test]
fn nothing_panics_or_takes_much_memory() {
    // rayon's threads keep what they allocate when they start.
    rayon::broadcast(|_| ());
    let (archives, tensors) = golden();
    mutated("archives", 60_000, |mutator| {
        let seed = &archives[mutator.below(archives.len())];
        (0..=mutator.below(3)).fold(seed.clone(), |bytes, _| mutator.bytes(&bytes))
    });
    mutated("arrays in archives that are right", 60_000, array);
    mutated("members that lie", 60_000, members);
    mutated("safetensors", 60_000, |mutator| mutator.file(&tensors));
    greedy_directories();
    bombs();
    a_file_need_not_fit_the_memory();
}

/// A mutation opens or not, is read or not; of each there are many, or this tests little.
fn mutated(what: &str, rounds: usize, mut make: impl FnMut(&mut Mutator) -> Vec<u8>) {
    let mut mutator = Mutator::new(7);
    let (mut refused, mut opened, mut read) = (0, 0, 0);
    for round in 0..rounds {
        let bytes = make(&mut mutator);
        let result = std::panic::catch_unwind(|| within_bounds(&bytes, 0));
        match result.unwrap_or_else(|_| panic!("{what}, round {round}: {:?}", String::from_utf8_lossy(&bytes))) {
            None => refused += 1,
            Some(0) => opened += 1,
            Some(_) => read += 1,
        }
    }
    println!(
        "{rounds} mutated {what}: {refused} refused, {opened} opened without a mask that can be read, {read} with"
    );
    assert!(read > rounds / 100 && refused + opened > rounds / 10);
}

/// Headers and data of arrays, changed, under right checksums.
fn array(mutator: &mut Mutator) -> Vec<u8> {
    let shape = make::shape([2, 8]);
    let text = npy("{'descr': '<U2', 'fortran_order': False, 'shape': (), }", &[b'h', 0, 0, 0, b'i', 0, 0, 0]);
    let bools = npy("{'descr': '|b1', 'fortran_order': False, 'shape': (2, 8), }", &[1, 1, 0, 0].repeat(4));
    let wide = npy("{'descr': '<i2', 'fortran_order': False, 'shape': (2, 8), }", &[1, 0, 1, 0, 0, 0, 0, 0].repeat(4));
    let mut arrays = match mutator.below(4) {
        0 => vec![("w.mask.npy", bits(&[0xcc, 0xa5]))],
        1 => vec![("w.mask.npy", bools)],
        2 => vec![("w_mask.npy", wide)],
        _ => vec![("w.npy", bits(&[0xcc, 0xa5])), ("w.__shape__.npy", shape), ("__meta__.npy", text)],
    };
    let chosen = mutator.below(arrays.len());
    for _ in 0..=mutator.below(2) {
        let data = &arrays[chosen].1;
        arrays[chosen].1 = if mutator.below(2) == 0 { mutator.bytes(data) } else { mutator.number(data) };
    }
    let deflated = mutator.below(8) == 0;
    let member = |(name, data): &(&str, Vec<u8>)| match deflated {
        true => Member::deflated(name, data),
        false => Member::stored(name, data.clone()),
    };
    archive(&arrays.iter().map(member).collect::<Vec<_>>())
}

/// Members of which a field is another.
fn members(mutator: &mut Mutator) -> Vec<u8> {
    const SIZES: [u64; 10] = [0, 1, 2, 79, 1 << 16, u32::MAX as u64, 1 << 32, i64::MAX as u64, u64::MAX - 30, u64::MAX];
    let data = bits(&[0xcc, 0xa5]);
    let mut members = vec![Member::stored("v.mask.npy", data.clone()), Member::deflated("w.mask.npy", &data)];
    let count = members.len();
    let member = &mut members[mutator.below(count)];
    member.wide = mutator.below(2) == 0;
    let size = SIZES[mutator.below(SIZES.len())];
    match mutator.below(7) {
        0 => member.packed = size,
        1 => member.bytes = size,
        2 => member.offset = Some(size),
        3 => member.crc = size as u32,
        4 => member.method = size as u16,
        5 => {
            member.name = ["", ".npy", "w.mask.npy", "v.npy", "../v.mask.npy", "__meta__.npy"][mutator.below(6)].into()
        }
        _ => member.flags = size as u16,
    }
    let bytes = archive(&members);
    if mutator.below(4) == 0 { mutator.bytes(&bytes) } else { bytes }
}

/// Directories that are nothing but entries, or claim to be.
fn greedy_directories() {
    let many: Vec<_> = (0..5000).map(|i| Member::stored(&format!("{i:x}.mask.npy"), vec![])).collect();
    let bytes = archive(&many);
    assert_eq!(within_bounds(&bytes, 0), Some(0));
    let one = archive(&[Member::stored("w.mask.npy", bits(&[0xcc, 0xa5]))]);
    let end = one.len() - 22;
    // A claim of as many members, and of as large a directory, as there may be.
    let mut claims = one.clone();
    claims[end + 8..end + 12].fill(0xff);
    assert_eq!(within_bounds(&claims, 0), None);
    claims[end + 12..end + 16].fill(0xff);
    assert_eq!(within_bounds(&claims, 0), None);
    // Ends of directories, one in another.
    assert_eq!(within_bounds(&b"PK\x05\x06".repeat(30_000), 0), None);
    assert_eq!(within_bounds(&[&b"PK\x03\x04\x14\x00"[..], &b"PK\x05\x06".repeat(30_000)].concat(), 0), None);
    // An array of bytes that are nothing but a number's, or a parenthesis.
    for unit in ["(", "1, ", "'", "{", "True", "9"] {
        let header = format!("{{'descr': '|u1', 'shape': ({}", unit.repeat(9000 / unit.len()));
        assert_eq!(within_bounds(&archive(&[Member::stored("w.mask.npy", npy(&header, &[]))]), 0), Some(0));
    }
}

/// Members that inflate to a thousand times what they are.
fn bombs() {
    const BYTES: usize = 32 << 20;
    // Nothing of it is a mask: it is refused at the first group, before it has been inflated.
    let zeros = Member::deflated("w.npy", &bits(&vec![0; BYTES]));
    let shape = Member::stored("w.__shape__.npy", make::shape([8192, BYTES as i64 / 1024]));
    let bytes = archive(&[zeros.clone(), shape.clone()]);
    assert!(bytes.len() < BYTES / 900);
    assert_eq!(within_bounds(&bytes, 1 << 20), Some(0));
    // It says that it is small, and is not: no more is inflated than it says.
    for header in [bits(&[0; 2]).len() as u64, 1 << 16] {
        let lies = Member { bytes: header, ..zeros.clone() };
        assert_eq!(within_bounds(&archive(&[lies, shape.clone()]), 0), Some(0));
    }
    // A mask of a million equal bytes is a mask. It takes the memory of one, and of the copies that the body makes.
    let mask = Member::deflated("w.npy", &bits(&vec![0x33; BYTES]));
    let bytes = archive(&[mask, shape]);
    let (result, peak) = counted::peak(|| Masks::from_bytes(&bytes).unwrap().read("w").map(|mask| mask.codes().len()));
    assert_eq!(result, Ok(BYTES));
    assert!(peak <= 2 * BYTES + FILE * bytes.len() + CONSTANT, "{peak} bytes to read {BYTES}");
    // A text as long as may be, and one longer.
    for (characters, fits) in [(1 << 20, true), (1 << 22, false)] {
        let header = format!("{{'descr': '<U{characters}', 'fortran_order': False, 'shape': (), }}");
        let text = Member::deflated("__meta__.npy", &npy(&header, &b"x\0\0\0".repeat(characters)));
        let bytes = archive(&[text]);
        let (text, peak) = counted::peak(|| Masks::from_bytes(&bytes).unwrap().text());
        assert_eq!(text.is_ok(), fits);
        assert!(peak < (4 << 20) + CONSTANT, "{peak} bytes for a text");
    }
}

/// Writing and reading take the memory of a mask or a few, whatever the file holds.
fn a_file_need_not_fit_the_memory() {
    const LAYERS: usize = 24;
    let shape = Shape::new(1024, 4096);
    let mask = make::random(shape, 1);
    let shapes: Shapes = (0..LAYERS).map(|i| (i.to_string(), shape)).collect();
    for form in Form::ALL {
        let path = make::path(&format!("large-{form}"));
        let mut manifest = Manifest::new(form);
        shapes.iter().for_each(|(name, shape)| manifest.layer(name, shape).unwrap());
        let save = || {
            manifest.save::<twofour_formats::Error>(&path, |file| {
                shapes.iter().try_for_each(|(name, _)| file.mask(name, &mask))
            })
        };
        let (saved, peak) = counted::peak(save);
        assert_eq!(saved, Ok(()));
        // Zeros and ones take eight times the bits, and a copy each way.
        let one = if form == Form::Flags { shape.weights() } else { shape.packed_codes() };
        assert!(peak < one + (3 << 20), "{form}: {peak} bytes to write");
        let (read, peak) = counted::peak(|| {
            let masks = Masks::open(&path).unwrap().with_shapes(shapes.clone());
            masks.iter().filter(|read| read.as_ref().is_ok_and(|(_, read)| *read == mask)).count()
        });
        assert_eq!(read, LAYERS, "{form}");
        assert!(peak < one + shape.packed_codes() + (1 << 20), "{form}: {peak} bytes to read");
        std::fs::remove_file(path).unwrap();
    }
}
