//! 32 lanes of a register.

pub(super) type Words = [u32; 32];
pub(super) type Doubles = [u64; 32];

/// All lanes of a row.
#[inline(always)]
pub(super) fn each<T: Copy + Default>(f: impl Fn(usize) -> T) -> [T; 32] {
    let mut values = [T::default(); 32];
    for (i, value) in values.iter_mut().enumerate() {
        *value = f(i);
    }
    values
}

/// Sets the values of these lanes.
#[inline(always)]
pub(super) fn keep<T: Copy>(row: &mut [T; 32], lanes: u32, values: &[T; 32]) {
    if lanes == u32::MAX {
        *row = *values;
        return;
    }
    for (i, (kept, value)) in row.iter_mut().zip(values).enumerate() {
        *kept = if lanes >> i & 1 == 1 { *value } else { *kept };
    }
}

/// The numbers of set bits.
pub(super) struct Lanes(pub(super) u32);

impl Iterator for Lanes {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        let lane = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (lane < 32).then_some(lane)
    }
}
