//! How the program's allocator treats memory that was freed.
//!
//! `mallopt(3)`, which no crate wraps. It holds for the whole process, so only the command line
//! calls it, never a gateway that is part of another program. The program itself has an allocator
//! of its own; this is for those who call [`cli::main_with`](super::main_with).
#![allow(unsafe_code)]

/// Keeps a few megabytes that were freed for the next buffer. glibc gives back what is free above
/// 128 KiB, and each body's buffers of 64 KiB are then taken and cleared by the kernel anew: a body
/// of 1 MB cost 650 µs of CPU, and 415 with this. Call it before any thread begins.
pub(super) fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (option, bytes) in [
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
        (libc::M_TOP_PAD, MORE_BYTES),
        (libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES),
    ] {
        // SAFETY: takes two numbers; what it does not know it refuses, and all goes on as before.
        let _refused = unsafe { libc::mallopt(option, bytes) };
    }
}

/// At the end of each thread's heap.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: i32 = 8 << 20;
/// Asked of the kernel beyond what is needed.
#[cfg(target_env = "gnu")]
const MORE_BYTES: i32 = 128 << 10;
/// What is larger is mapped by itself, and given back when it is freed.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_BYTES: i32 = 1 << 20;
