//! Archives as others write them, and those that are not what they say.

use crate::make::{Member, archive, bits, npy, shape};
use twofour::Shape;
use twofour_formats::Error;
use twofour_formats::masks::{Form, Masks, Shapes};

/// Two rows of 8: all six patterns but two.
const BITS: [u8; 2] = [0b1100_1010, 0b1001_0110];
const CODES: [u8; 2] = [0x84, 0x9c];

fn shapes() -> Shapes {
    [("w", Shape::new(2, 8))].into_iter().collect()
}

fn codes(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(Masks::from_bytes(bytes)?.with_shapes(shapes()).read("w")?.into_codes())
}

#[track_caller]
fn fails(bytes: &[u8], words: &str) {
    let error = codes(bytes).unwrap_err().to_string();
    assert!(error.starts_with("npz bytes: ") && error.contains(words), "{error}");
}

#[track_caller]
fn header_fails(header: &str, words: &str) {
    header_fails_of(header, &BITS, words);
}

#[track_caller]
fn header_fails_of(header: &str, data: &[u8], words: &str) {
    fails(&archive(&[Member::stored("w.mask.npy", npy(header, data))]), words);
}

#[test]
fn members_of_every_kind() {
    let data = bits(&BITS);
    for wide in [false, true] {
        for member in [Member::stored("w.mask.npy", data.clone()), Member::deflated("w.mask.npy", &data)] {
            let other = Member::deflated("v.mask.npy", &data);
            let bytes = archive(&[Member { wide, ..member }, Member { wide, ..other }]);
            assert_eq!(codes(&bytes).unwrap(), CODES);
            // A comment behind the end, as some tools leave one.
            let mut commented = bytes.clone();
            let end = commented.len() - 2;
            commented[end] = 3;
            commented.extend(b"PK!");
            assert_eq!(codes(&commented).unwrap(), CODES);
            // Something behind it that is none, or before the first member.
            fails(&[&bytes[..], b"x"].concat(), "has no directory at its end");
            fails(&[b"PK\x03\x04\x14", &bytes[..]].concat(), "");
        }
    }
}

#[test]
fn headers_that_numpy_can_write() {
    let good = |header: &str, data: &[u8]| {
        let bytes = archive(&[Member::stored("w.mask.npy", npy(header, data))]);
        assert_eq!(codes(&bytes).unwrap(), CODES, "{header}");
    };
    good("{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }          \n", &BITS);
    good("{\"shape\": (2L,), \"fortran_order\": False, \"descr\": \"|u1\"}", &BITS);
    good("{'descr':'|u1','fortran_order':True,'shape':(2,)}", &BITS);
    good(" { 'shape' : ( 2 , ) , 'descr' : '|u1' , 'fortran_order' : False } ", &BITS);
    let bools: Vec<u8> = BITS.iter().flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1)).collect();
    good("{'descr': '|b1', 'fortran_order': False, 'shape': (2, 8), }", &bools);
    good("{'descr': '|b1', 'fortran_order': False, 'shape': (16,), }", &bools);
    // Integers that nobody packed.
    for (descr, size) in
        [("|u1", 1), ("|i1", 1), ("<i2", 2), ("<u2", 2), ("<i4", 4), ("<u4", 4), ("<i8", 8), ("<u8", 8)]
    {
        let wide: Vec<u8> = bools.iter().flat_map(|&flag| [vec![flag], vec![0; size - 1]].concat()).collect();
        good(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2, 8), }}"), &wide);
        good(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (16,), }}"), &wide);
        let mut two = wide.clone();
        *two.last_mut().unwrap() = 2;
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2, 8), }}");
        header_fails_of(&header, &two, "that is neither 0 nor 1");
    }
    // Under the other name.
    let named =
        |names: &[&str]| archive(&names.iter().map(|name| Member::stored(name, bits(&BITS))).collect::<Vec<_>>());
    assert_eq!(codes(&named(&["w_mask.npy"])).unwrap(), CODES);
    fails(&named(&["w_mask.npy", "w.mask.npy"]), "there are two masks of `w`");
    // Bools know their shape; nobody else has to.
    let data = npy("{'descr': '|b1', 'fortran_order': False, 'shape': (4, 4), }", &bools);
    let bytes = archive(&[Member::deflated("w.mask.npy", &data)]);
    let masks = Masks::from_bytes(&bytes).unwrap();
    assert_eq!((masks.shape("w").unwrap(), masks.read("w").unwrap().codes()), (Shape::new(4, 4), &CODES[..]));
    fails(&bytes, "is Bool [4, 4], and a mask of 2 x 8 is U8 [2]");
    let two = [&bools[..15], &[2]].concat();
    let data = npy("{'descr': '|b1', 'fortran_order': False, 'shape': (2, 8), }", &two);
    fails(&archive(&[Member::stored("w.mask.npy", data)]), "holds a bool that is 2");
}

#[test]
fn headers_that_lie() {
    let ok = "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }";
    for cut in 0..ok.len() {
        header_fails(&ok[..cut], "array `w.mask`");
    }
    header_fails(&ok.replace("|u1", "<f2"), "elements of type `<f2` are not supported");
    header_fails(&ok.replace("'|u1'", "[('a', '|u1')]"), "`'` is expected where `[('a', '|u1')], ` is left");
    header_fails(&ok.replace("|u1", "\\x7cu1"), "a string has a backslash");
    header_fails(&ok.replace("(2,)", "(2)"), "the shape is no tuple");
    header_fails(&ok.replace("(2,)", "(3,)"), "is U8 [3], which its");
    header_fails(&ok.replace("(2,)", "(1,)"), "is U8 [1], which its");
    header_fails(&ok.replace("(2,)", "(2, 1)"), "is U8 [2, 1], and a mask of 2 x 8 is U8 [2]");
    header_fails(&ok.replace("(2,)", "()"), "which its");
    header_fails(&ok.replace("(2,)", "(-2,)"), "a size is expected where `-2,)");
    header_fails(&ok.replace("(2,)", "(18446744073709551616,)"), "a size is expected");
    header_fails(&ok.replace("(2,)", "(18446744073709551615, 3)"), "which its");
    header_fails(&ok.replace("(2,)", &format!("({})", "1, ".repeat(65))), "more than 64 dimensions");
    header_fails(&ok.replace("(2,)", &format!("({}", "(".repeat(5000))), "a size is expected");
    header_fails(&ok.replace("(2,)", "(2,), 'shape': (2,)"), "`shape` is there twice");
    header_fails(&ok.replace("(2,)", "(2,), 'x': 1"), "there is no entry `x`");
    header_fails(&ok.replace("False", "0"), "`True` or `False` is expected");
    header_fails(&ok.replace("'descr': '|u1', ", ""), "`descr`, `fortran_order` or `shape` is missing");
    header_fails(&format!("{ok} x"), "something follows it");
    header_fails(&format!("{ok}{}", " ".repeat(10_000)), "and 10000 are the most");
    let raw = |bytes: Vec<u8>| archive(&[Member::stored("w.mask.npy", bytes)]);
    fails(&raw(b"\x93NUMPX\x01\x00\x02\x00{}".to_vec()), "does not begin with");
    fails(&raw(b"\x93NUM".to_vec()), "its header cannot be read");
    fails(&raw(b"\x93NUMPY\x04\x00\x02\x00\x00\x00{}".to_vec()), "version 4.0");
    fails(&raw(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}".to_vec()), "a header of 4294967295 bytes");
    fails(&raw(b"\x93NUMPY\x01\x00\x02\x00\xff\xfe".to_vec()), "not UTF-8");
}

#[test]
fn directories_that_lie() {
    let data = bits(&BITS);
    let good = Member::deflated("w.mask.npy", &data);
    let changed = |change: &dyn Fn(&mut Member)| {
        let mut member = good.clone();
        change(&mut member);
        archive(&[member])
    };
    assert_eq!(codes(&changed(&|_| ())).unwrap(), CODES);
    fails(&changed(&|m| m.crc ^= 1), "cannot be read: Invalid checksum");
    // More than it says, less than it says, more than deflate can.
    fails(&changed(&|m| m.bytes -= 1), "which its");
    fails(&changed(&|m| m.bytes += 1), "which its");
    fails(&changed(&|m| m.bytes = 1 << 31), "they cannot");
    fails(&changed(&|m| (m.wide, m.bytes) = (true, u64::MAX)), "they cannot");
    fails(&changed(&|m| (m.wide, m.packed) = (true, u64::MAX)), "is the file cut short?");
    fails(&changed(&|m| (m.wide, m.offset) = (true, Some(u64::MAX))), "is the file cut short?");
    fails(&changed(&|m| m.offset = Some(1)), "is the file cut short?");
    fails(&changed(&|m| m.packed -= 4), "cannot be");
    fails(&changed(&|m| m.packed += 1), "is the file cut short?");
    fails(&changed(&|m| m.method = 12), "is compressed by method 12: NumPy stores or deflates");
    fails(&changed(&|m| (m.method, m.bytes) = (0, m.packed + 1)), "is stored in");
    fails(&changed(&|m| (m.method, m.bytes) = (0, m.packed)), "is no array of NumPy's");
    fails(&changed(&|m| m.flags = 1), "is encrypted");
    fails(&changed(&|m| m.name = "w.mask.txt".into()), "member `w.mask.txt` is no array");
    fails(
        &changed(&|m| m.name = "w.weight.npy".into()),
        "array `w.weight` is no mask: its name does not end in `.mask`",
    );
    fails(&archive(&[good.clone(), good.clone()]), "there are two members `w.mask.npy`");
    // The same bytes as two members, whole or with the header of one in the data of the other.
    let twin = Member { name: "v.mask.npy".into(), data: vec![], offset: Some(0), ..good.clone() };
    fails(&archive(&[good.clone(), twin]), "overlap");
    let around = Member { packed: 1, bytes: 1, ..Member::stored("v.mask.npy", vec![]) };
    fails(&archive(&[around, good.clone()]), "members `v.mask.npy` and `w.mask.npy` overlap");
    // The name in the member's own header.
    let mut renamed = archive(std::slice::from_ref(&good));
    renamed[30] = b'v';
    fails(&renamed, "contradicts the directory");
    // Data that is none of deflate's.
    fails(&changed(&|m| m.data.iter_mut().for_each(|byte| *byte = 0xff)), "cannot be read");
    // The header is right, and what follows is not all there.
    let long = bits(&[0xcc; 4000]);
    let mut cut = Member::deflated("w.mask.npy", &long);
    cut.data.truncate(cut.data.len() - 4);
    cut.packed -= 4;
    let large = Masks::from_bytes(&archive(&[cut])).map(|_| ());
    assert!(large.is_ok(), "the directory is right");
    let whole = archive(&[good]);
    for cut in 0..whole.len() {
        assert!(codes(&whole[..cut]).is_err(), "{cut}");
    }
    // Numbers of the directory's end.
    let end = whole.len() - 22;
    let set = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[end + at] = value;
        bytes
    };
    fails(&set(4, 1), "several files");
    fails(&set(8, 2), "several files");
    fails(&set(13, 0xff), "members are listed in");
    fails(&set(19, 0xff), "members are listed in");
    let mut many = set(8, 9);
    many[end + 10] = 9;
    fails(&many, "says that 9 members are listed in");
}

#[test]
fn shapes_of_patch() {
    let with =
        |sizes: Vec<u8>| archive(&[Member::stored("w.npy", bits(&BITS)), Member::deflated("w.__shape__.npy", &sizes)]);
    let bytes = with(shape([2, 8]));
    assert_eq!((Masks::from_bytes(&bytes).unwrap().form(), codes(&bytes).unwrap()), (Form::Patch, CODES.to_vec()));
    let short = npy("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", &[2, 0, 0, 0, 8, 0, 0, 0]);
    assert_eq!(codes(&with(short)).unwrap(), CODES);
    fails(&with(shape([4, 4])), "is of 4 x 4, and its weight of 2 x 8");
    fails(&with(shape([-2, 8])), "holds a size that is negative or too large");
    fails(&with(bits(&BITS)), "`w.__shape__` is U8 [2], not two sizes");
    let three = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }", &[0; 24]);
    fails(&with(three), "`w.__shape__` is I64 [3], not two sizes");
    let no_weight = |sizes: [i64; 2], words: &str| {
        let error = Masks::from_bytes(&with(shape(sizes))).and_then(|masks| masks.read("w")).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    no_weight([i64::MAX, 4], "overflows");
    no_weight([2, 6], "not a multiple of 4");
    no_weight([1 << 30, 1 << 20], "packed bits, and a mask of 1073741824 x 1048576 takes");
    let alone = |name: &str| archive(&[Member::stored(name, bits(&BITS)), Member::stored("__meta__.npy", bits(&BITS))]);
    fails(&alone("w.npy"), "there is no array `w.__shape__`");
    fails(&alone("w.__shape__.npy"), "there is no mask `w`, and there is its shape");
    let meta = |data: Vec<u8>| {
        let bytes = archive(&[Member::stored("__meta__.npy", data)]);
        Masks::from_bytes(&bytes).unwrap().text().map_err(|error| error.to_string())
    };
    let text = |count: &str, data: &[u8]| {
        npy(&format!("{{'descr': '<U{count}', 'fortran_order': False, 'shape': (), }}"), data)
    };
    assert_eq!(meta(text("2", &[b'h', 0, 0, 0, b'i', 0, 0, 0])).unwrap().unwrap(), "hi");
    assert!(meta(text("1", &[0, 0, 0x11, 0])).unwrap_err().contains("what is no character"));
    assert!(meta(text("18446744073709551615", &[])).unwrap_err().contains("which its"));
    assert!(meta(bits(&BITS)).unwrap_err().contains("one text is expected"));
}
