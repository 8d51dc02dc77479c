//! What cuBLASLt would do.

use twofour::dense::{Call, Product};
use twofour::space::Plain;
use twofour::{DType, Float, bf16, f16};

/// A product in `f32`, the bias added last, one rounding at the end; of integers, one that wraps.
pub(super) fn multiply(call: &Call) {
    let Product { operands, result, .. } = call.form.product;
    assert_eq!(call.form.bias, call.bias.is_some());
    match (operands, result) {
        (DType::I8, _) => in_order(call, |a: i8, b: i8| i32::from(a) * i32::from(b), i32::wrapping_add, |sum, _| sum),
        (DType::F32, _) => floats::<f32, f32>(call),
        (DType::F16, DType::F32) => floats::<f16, f32>(call),
        (DType::F16, _) => floats::<f16, f16>(call),
        (_, DType::F32) => floats::<bf16, f32>(call),
        _ => floats::<bf16, bf16>(call),
    }
}

fn floats<T: Float, C: Float>(call: &Call) {
    let bias = call.bias.map(|bias| {
        // SAFETY: the work under test says that there is a value for each column; a guard page ends the test if not.
        unsafe { std::slice::from_raw_parts(bias as *const C, call.form.product.cols) }
    });
    let finish = |sum: f32, col: usize| C::from_f32(bias.map_or(sum, |bias| sum + bias[col].to_f32()));
    in_order(call, |a: T, b: T| a.to_f32() * b.to_f32(), |sum, term| sum + term, finish);
}

/// Sums of terms in order.
fn in_order<T: Plain, S: Copy + Default, C: Plain>(
    call: &Call,
    term: impl Fn(T, T) -> S,
    add: impl Fn(S, S) -> S,
    finish: impl Fn(S, usize) -> C,
) {
    let Product { rows, depth, cols, a_transposed, b_transposed, a_pitch, .. } = call.form.product;
    if rows == 0 || cols == 0 {
        return;
    }
    let (a_rows, a_cols) = if a_transposed { (depth, rows) } else { (rows, depth) };
    let a_elements = if a_rows == 0 { 0 } else { (a_rows - 1) * a_pitch + a_cols };
    let b_pitch = if b_transposed { depth } else { cols };
    // SAFETY: the work under test says that there is a buffer of so many elements; a guard page ends the test if not.
    let a = unsafe { std::slice::from_raw_parts(call.a as *const T, a_elements) };
    // SAFETY: as above.
    let b = unsafe { std::slice::from_raw_parts(call.b as *const T, depth * cols) };
    // SAFETY: as above; it is an output or a part of the workspace, apart from the other two.
    let c = unsafe { std::slice::from_raw_parts_mut(call.c as *mut C, rows * cols) };
    for (i, c) in c.iter_mut().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let term = |d: usize| {
            let a = a[if a_transposed { d * a_pitch + row } else { row * a_pitch + d }];
            term(a, b[if b_transposed { col * b_pitch + d } else { d * b_pitch + col }])
        };
        *c = finish((0..depth).map(term).fold(S::default(), &add), col);
    }
    twofour_emulator::written(call.c, rows * cols * size_of::<C>());
}
