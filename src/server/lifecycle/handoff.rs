//! Upgrade: a new process takes over the listening sockets of a running one, unnoticed by clients.
//!
//! Pingora's transfer ends at 32 listeners, and its old process leaves even when the new one
//! failed. The order, which is the whole idea: the [`old`] process gives its sockets; the [`new`]
//! one binds what is new, resolves names, checks health and sends READY; the old one sends GO; the
//! new one accepts and sends SERVING; only then the old one drains. Invariants: until SERVING the
//! old process accepts as if nothing happened, and whatever fails leaves it so; no accepted
//! connection depends on a process that may still fail.

mod asking;
mod control;
pub mod new;
pub mod old;
mod protocol;

use std::time::Duration;

use crate::error::Error;

pub use self::asking::{Whereabouts, ask};
pub use self::control::Control;

/// Whether a process of `uid` may be at the other end: this user's, or root's.
fn trusts(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

/// From GO to SERVING.
const SERVING_TIMEOUT: Duration = Duration::from_secs(10);

/// A start that goes on without the other process, or must not.
fn broken(why: impl std::fmt::Display) -> Error {
    Error::io(format!("upgrade: {why}; the running gateway goes on"))
}
