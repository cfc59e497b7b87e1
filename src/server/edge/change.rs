//! Which listeners a reload adds and removes.

use tokio::sync::oneshot;

use crate::server::edge::listener::{Identity, Listener};

/// Listeners to serve and to close while running.
pub struct Change {
    /// Bound already, so that nothing can fail any more; accepted on once `remove` is closed.
    pub add: Vec<Listener>,
    /// Closed first; their open connections go on.
    pub remove: Vec<Identity>,
    /// Sent when all of it is done: the reload waits for it.
    pub done: oneshot::Sender<()>,
}
