//! Upgrade: a new process takes over the listening sockets of a running one, and nobody notices.
//!
//! Its own file because Pingora's transfer ends at 32 listeners, and its old process leaves even
//! when the new one failed. The order, which is the whole idea: the [`old`] process gives its
//! sockets; the [`new`] one binds what is new, resolves names, checks health and says READY; the old
//! one says GO; the new one accepts and says SERVING; only then the old one drains. Invariants:
//! until SERVING the old process accepts as if nothing happened, and whatever fails leaves it so;
//! no accepted connection depends on a process that may still fail. Called by `assembled`, which
//! runs either side.

mod control;
pub mod new;
pub mod old;
mod protocol;

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Config;
use crate::error::Error;

pub use self::control::Control;

/// Where a gateway with this configuration is asked for its sockets: `server.upgrade_sock`, else a
/// file named after the configuration's in the runtime folder.
pub fn socket_path(config: &Config) -> PathBuf {
    if let Some(path) = &config.server.upgrade_sock {
        return path.clone();
    }
    let stem = config.file.file_stem().unwrap_or_default();
    let name = format!("harbr-router-{}.sock", stem.to_string_lossy());
    let folder = match nix::unistd::geteuid().is_root() {
        true => PathBuf::from("/run"),
        false => std::env::var_os("XDG_RUNTIME_DIR")
            .filter(|folder| !folder.is_empty())
            .map_or_else(std::env::temp_dir, PathBuf::from),
    };
    folder.join(name)
}

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
