//! The `harbr-router` program: the command line of the library.
//!
//! Not `#[tokio::main]`: the runtimes are Pingora's, and no thread may exist before it forks.

use std::process::ExitCode;

fn main() -> ExitCode {
    harbr_router::cli::main()
}
