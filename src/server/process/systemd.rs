//! Reports to the service manager: the protocol of sd_notify(3), one datagram for each report.
//!
//! Invariant: where no manager listens, and where it does not receive, nothing happens.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use log::debug;
use nix::time::{ClockId, clock_gettime};

/// Tells the manager `state`: assignments of sd_notify(3), one a line.
pub fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        debug!("{}: nobody heard {state:?}: {error}", socket.display());
    }
}

/// What is reported when a reload begins: with the time, so that the manager knows which `READY=1`
/// belongs to it.
pub fn reloading() -> String {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    let micros = now.map_or(0, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000);
    format!("RELOADING=1\nMONOTONIC_USEC={micros}")
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let to = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    // A manager that does not read must not stop us.
    from.set_nonblocking(true)?;
    from.send_to_addr(state.as_bytes(), &to)?;
    Ok(())
}
