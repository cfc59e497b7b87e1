//! Which listeners a reload adds and removes.

use tokio::sync::oneshot;

use crate::server::edge::listener::{Identity, Listener};

/// Listeners to serve and to close while running.
pub struct Change {
    pub add: Vec<Listener>,
    pub remove: Vec<Identity>,
    /// Told when all of it is done.
    pub done: oneshot::Sender<()>,
}
