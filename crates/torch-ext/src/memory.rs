unsafe extern "C" {
    fn torch_ext_keep_memory();
}

/// Keeps freed memory in the process instead of giving large blocks back to the system and getting them anew, page by page, for
/// the next tensor. Call it at the start of a program that runs networks on the CPU; where the C library is not glibc it does
/// nothing.
pub fn keep_memory() {
    // SAFETY: sets parameters of malloc, which may be done at any time.
    unsafe { torch_ext_keep_memory() }
}
