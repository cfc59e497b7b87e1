//! Who is at fault when a connect fails.

use std::io;

use nix::errno::Errno;

/// Whether a connect failed for want of something here, a descriptor, a port or memory: no endpoint
/// would have been reached.
pub fn is_ours(error: &io::Error) -> bool {
    use Errno::*;
    let wanting = [EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL];
    error
        .raw_os_error()
        .is_some_and(|errno| wanting.contains(&Errno::from_raw(errno)))
}
