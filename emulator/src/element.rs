//! The plain numbers that buffers and arguments are made of. 16-bit floats travel as `u16` bits.

/// A number with a fixed size and no padding.
pub trait Element: Copy + Default {
    /// Appends the number's bytes, in the machine's order.
    fn append_to(self, bytes: &mut Vec<u8>);
    /// The number that these bytes are; zero if there are too few.
    fn from_start_of(bytes: &[u8]) -> Self;
}

macro_rules! element {
    ($($number:ty),*) => {$(
        impl Element for $number {
            fn append_to(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_ne_bytes());
            }
            fn from_start_of(bytes: &[u8]) -> Self {
                bytes.first_chunk().map_or_else(Self::default, |chunk| Self::from_ne_bytes(*chunk))
            }
        }
    )*};
}
element!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

pub(crate) fn to_bytes<T: Element>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of_val(values));
    values.iter().for_each(|value| value.append_to(&mut bytes));
    bytes
}

pub(crate) fn from_bytes<T: Element>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(T::from_start_of).collect()
}
