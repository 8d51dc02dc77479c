//! What the C++ twins call (`include/emulator.hpp`). Each runs on the fiber of the thread that it is given.
//!
//! A fault, and the end of the run, leave these functions suspended for ever, and their stack is used again without
//! unwinding: so nothing here owns anything while it waits.

use std::ffi::{c_char, c_void};

use crate::access::Request;
use crate::copies::Copy;
use crate::fault::{Access, Fault};
use crate::tensor::{self, Element};
use crate::thread::{Site, Thread, text};
use crate::warp::Combine;

/// The thread that C++ says it runs.
///
/// # Safety
///
/// `thread` is `twofour_emulator_current`, set by `twofour_emulator_enter`.
unsafe fn current<'a>(thread: *const Thread) -> &'a Thread {
    // SAFETY: the caller's promise; `Block` keeps its threads in place while any runs.
    unsafe { &*thread }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn twofour_emulator_barrier(thread: *const Thread, site: Site) {
    // SAFETY: `barrier` in emulator.hpp passes the current thread.
    let (block, index) = unsafe { current(thread) }.host();
    block.barrier(index, site);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn twofour_emulator_collective(
    thread: *const Thread,
    what: *const c_char,
    brought: *mut c_void,
    combine: Combine,
    site: Site,
) {
    // SAFETY: `collective` in emulator.hpp passes the current thread.
    let (block, index) = unsafe { current(thread) }.host();
    block.collective(index, what, brought, combine, site);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn twofour_emulator_access(
    thread: *const Thread,
    address: usize,
    bytes: u32,
    align: u32,
    access: u32,
    site: Site,
) {
    // SAFETY: `check` in emulator.hpp passes the current thread.
    let thread = unsafe { current(thread) };
    let (block, index) = thread.host();
    let request = Request { address, bytes, align, access: Access::from_cxx(access), site };
    match block.allow(index, request) {
        Ok(range) => {
            if let Some(allowed) = thread.allowed.get(access as usize) {
                allowed.set(range);
            }
        }
        Err(fault) => block.raise(index, fault),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn twofour_emulator_not_shared(
    thread: *const Thread,
    what: *const c_char,
    address: usize,
    bytes: u32,
    align: u32,
    site: Site,
) {
    // SAFETY: `check_shared` in emulator.hpp passes the current thread.
    let (block, index) = unsafe { current(thread) }.host();
    let (place, what) = (block.place(index, site), text(what));
    let fault = if address.is_multiple_of(align as usize) {
        Fault::NotShared { place, what, address: address as u64, bytes, near: block.near(address) }
    } else {
        Fault::Misaligned { place, what, address: address as u64, align }
    };
    block.raise(index, fault);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn twofour_emulator_copy(
    thread: *const Thread,
    shared: *mut u8,
    from: *const u8,
    bytes: u32,
    valid: u32,
) {
    // SAFETY: `checked_copy` in twins_memory.hpp passes the current thread.
    let (block, index) = unsafe { current(thread) }.host();
    block.copy(index, Copy { shared, from, bytes: bytes as usize, valid: valid as usize });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn twofour_emulator_copy_commit(thread: *const Thread) {
    // SAFETY: `cp_async_commit` in twins_memory.hpp passes the current thread.
    let (block, index) = unsafe { current(thread) }.host();
    block.fibers[index].copies.borrow_mut().commit();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn twofour_emulator_copy_wait(thread: *const Thread, newest: u32) {
    // SAFETY: `cp_async_wait` in twins_memory.hpp passes the current thread.
    let (block, index) = unsafe { current(thread) }.host();
    block.fibers[index].copies.borrow_mut().wait(newest);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn twofour_emulator_copy_wait_all(thread: *const Thread) {
    // SAFETY: `cp_async_wait_all` in twins_memory.hpp passes the current thread.
    let (block, index) = unsafe { current(thread) }.host();
    block.fibers[index].copies.borrow_mut().wait_all();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn twofour_emulator_unordered(thread: *const Thread, metadata: u32, site: Site) {
    // SAFETY: `check_ordered` in twins_tensor.hpp passes the current thread.
    let (block, index) = unsafe { current(thread) }.host();
    block.raise(index, Fault::UnorderedMetadata { place: block.place(index, site), metadata });
}

/// d += a b as the launch's tensor cores do it; the matrices and `columns` as in [`tensor::multiply`]: 16 x `terms`,
/// K x 8 and 16 x 8. `columns` is null if A is dense, so that K is `terms`, and otherwise K is twice that.
#[unsafe(no_mangle)]
unsafe extern "C" fn twofour_emulator_multiply(
    thread: *const Thread,
    element: Element,
    a: *const f32,
    terms: u32,
    b: *const [f32; 8],
    columns: *const u8,
    sums: *mut [[f32; 8]; 16],
) {
    // SAFETY: `multiply` in twins_tensor.hpp passes the current thread.
    let arithmetic = unsafe { current(thread) }.arithmetic;
    let terms = terms as usize;
    let rows = if columns.is_null() { terms } else { 2 * terms };
    // SAFETY: `multiply` passes its whole array of 16 rows of `terms`.
    let a = unsafe { std::slice::from_raw_parts(a, 16 * terms) };
    // SAFETY: and that of as many rows of 8.
    let b = unsafe { std::slice::from_raw_parts(b, rows) };
    // SAFETY: and, unless it is null, one of a column's number for each element of A.
    let columns = (!columns.is_null()).then(|| unsafe { std::slice::from_raw_parts(columns, 16 * terms) });
    // SAFETY: and that of its 16 rows of 8 sums, which nothing else refers to.
    let sums = unsafe { &mut *sums };
    tensor::multiply(arithmetic, element, a, b, columns, sums);
}
