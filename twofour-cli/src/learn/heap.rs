//! Memory that a step frees is wanted again by the next one.

/// Asks the allocator to keep it. Left to itself, glibc gives large blocks back to the kernel, which zeroes and maps
/// them anew for each tensor.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn keep() {
    const M_TRIM_THRESHOLD: i32 = -1;
    const M_MMAP_THRESHOLD: i32 = -3;
    unsafe extern "C" {
        fn mallopt(parameter: i32, value: i32) -> i32;
    }
    // The most that every glibc takes as the size from which blocks are the kernel's.
    const LARGE: i32 = 32 << 20;
    for (parameter, value) in [(M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, i32::MAX)] {
        // SAFETY: mallopt(3) takes any two numbers at any time, and says 0 to those it does not take; the signature
        // is that of glibc's header.
        unsafe { mallopt(parameter, value) };
    }
}

/// Other allocators keep memory by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn keep() {}
