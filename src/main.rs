//! The `harbr-router` program: the command line of the library.
//!
//! Not `#[tokio::main]`: the runtimes are Pingora's, and no thread may exist before it forks.

use std::process::ExitCode;

/// Each connection stays in its thread, and so does what it allocates: an allocator with a heap for
/// each thread takes a tenth off a small request. The library leaves the choice to its embedder.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    harbr_router::cli::main()
}
