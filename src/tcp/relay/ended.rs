//! How a relay ended, and what is left of its session.

use bytes::Bytes;

use crate::error::Reason;
use crate::transport::Transport;

/// How a session ended.
#[derive(Debug)]
pub struct Ended {
    /// `ok`: both sides ended in order, or the client did and the server, which had answered, then
    /// reset: it does so when a client's last words (Terminate, TLS's close_notify) come too late
    /// for it to read. `client_closed`: the client reset, or left without a byte.
    /// `upstream_reset`: the server reset, took no more, or left without a byte.
    /// `upstream_error`: the server spoke and left before the client had sent anything, or without
    /// reading what the session began with.
    /// `peer_timeout`: one side was lost because it did not answer. `idle_timeout`, `half_open`,
    /// `drained`.
    pub reason: Reason,
    /// Bytes written to the server, those given to begin with and before included.
    pub up: u64,
    /// Bytes written to the client.
    pub down: u64,
    /// The sockets that the caller has still to close, by protocol.
    pub rest: Rest,
}

/// What is left of a session.
#[derive(Debug)]
pub enum Rest {
    /// Both sides are closed, by reset where one was due.
    Closed,
    /// Both are open (`drained`, `idle_timeout`), so that the client can be notified in its
    /// own protocol.
    Open {
        /// For a goodbye in its protocol, unless `cut`.
        client: Transport,
        /// Dropped by the caller, or left by a login that is refused (MySQL, `silent`).
        server: Transport,
        /// Bytes of the server were lost on the way to the client: it is in the middle of a
        /// message and can receive nothing else.
        cut: bool,
        /// The last six bytes of the server; `None` when they were spliced.
        last: Option<[u8; 6]>,
        /// The client has not sent a byte.
        silent: bool,
    },
    /// The server said something and closed without reading what it was sent first. The client has
    /// its words, and is to be closed in order.
    LastWords {
        /// It may still read.
        client: Transport,
    },
    /// The client left without a byte; the server has not received its end.
    Abandoned {
        /// It carried no byte of the client.
        server: Transport,
    },
    /// The server went before it sent a byte. `sent` is all that came from the client.
    Unanswered {
        /// It waits for an answer.
        client: Transport,
        /// All that it sent.
        sent: Bytes,
    },
}
