//! Asks the running gateway where its admin listener is.
//!
//! For callers that do not want to take over. The upgrade socket leads to the process that runs
//! now, whatever has become of its file since: a port that the system chose, an address that a
//! reload changed and the successor of an upgrade are all reported by the process that has them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::control::connect;
use super::protocol::{Channel, Message};
use super::trusts;

/// What a running gateway says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its process id, as it reports it.
    pub pid: u32,
    /// The file that it was started with.
    pub config: PathBuf,
    /// Where its admin listeners are bound; empty when it has none.
    pub admin: Vec<SocketAddr>,
}

/// Asks who listens on `path`. `None`: nobody whom we trust does, or it does not know the question.
pub fn ask(path: &Path) -> Option<Whereabouts> {
    let mut channel = Channel::new(connect(path).ok()?);
    if !channel.peer_uid().is_ok_and(trusts) {
        return None;
    }
    channel.send(&Message::Where, &[]).ok()?;
    match channel.receive(Instant::now() + PATIENCE) {
        Ok((Message::Here { pid, config, admin }, _)) => Some(Whereabouts {
            pid,
            config: config.into(),
            admin,
        }),
        _ => None,
    }
}

/// A gateway that has not begun to serve says nothing yet.
const PATIENCE: Duration = Duration::from_millis(1500);
