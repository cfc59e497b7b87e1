//! Two-way copy between a client and a server.
//!
//! Its own file because it is where every byte of every database passes. Invariants: what one side
//! wrote before it ended reaches the other, in order and once; an end is passed on as an end (and
//! the other direction goes on), a reset as a reset, which may overtake what a slow peer has not
//! received, as it does without a gateway, but for one that only our own first bytes have caused; neither direction can starve the other, nor the relay
//! its runtime; a session at rest holds no buffer, pipe or timer. Called by a session once both
//! sides are connected.
//!
//! One task moves both directions: `pair` is both with their sockets, `flow` one of them, `socket`
//! what it needs of a socket, `pipe` holds the pipes for bulk, `clock` is the one timer.

mod clock;
mod flow;
mod pair;
mod pipe;
mod socket;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::pipe::Pipes;
pub use self::socket::close_with_reset;

use self::pair::Pair;
use crate::error::Reason;
use crate::telemetry::Carried;
use crate::telemetry::Direction;
use crate::transport::Transport;

/// How one session is to be relayed. [`Relay::new`] fills in what most want; then [`Relay::run`].
pub struct Relay<'a> {
    /// Ends a session that is idle and in which nothing has moved for so long. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// The same, from when one side has ended: 30 s.
    pub half_open_timeout: Duration,
    /// Where bulk gets its pipes from, if both sides are plain. `None`: everything is copied.
    pub pipes: Option<Arc<Pipes>>,
    /// Hears how many bytes went where, often, but not for each read.
    pub count: &'a (dyn Fn(Direction, u64) + Send + Sync),
    /// Not of the client: written to the server before anything of the client's.
    pub preface: Bytes,
    /// Of the client, read already: written to the server before anything else of its.
    pub to_server: Bytes,
    /// Of the server, read already: written to the client before anything else.
    pub to_client: Bytes,
    /// Bytes of the client that the server was given before the relay began.
    pub passed_up: u64,
    /// Bytes of the server that the client was given before the relay began.
    pub passed_down: u64,
    /// Sees what is read from the client.
    pub on_client_bytes: Option<Observer<'a>>,
    /// Sees what is read from the server.
    pub on_server_bytes: Option<Observer<'a>>,
    pub silent_client: SilentClient,
    /// Dropped when one side has ended: what is left is little work for the thread.
    pub carried: Option<Carried>,
    pub manners: &'a Manners<'a>,
    /// While the server has not sent a byte, so many of the client's are kept. If the server goes
    /// before it sends one and all of them fit, the session ends as [`Rest::Unanswered`] and the
    /// client has noticed nothing. 0: none.
    pub keep_unanswered: usize,
}

/// What is known of the protocol that is spoken.
pub struct Manners<'a> {
    pub idle: Idle<'a>,
    /// What is done for a session that is stopped while an answer is due.
    pub parting: Option<Parting<'a>>,
    /// The server was sent bytes of ours before those of the client, also by others than the relay.
    pub was_prefaced: bool,
    /// Whether a server whose first words end like this may have said all it wanted to. Asked where
    /// it closed without reading what it was sent before it spoke.
    pub are_whole: fn([u8; 6]) -> bool,
}

impl Manners<'_> {
    /// Nothing.
    pub const NONE: Manners<'static> = Manners {
        idle: Idle::Silent,
        parting: None,
        was_prefaced: false,
        are_whole: |_| false,
    };
}

/// When a session in which nothing moves is idle.
#[derive(Clone, Copy)]
pub enum Idle<'a> {
    /// Always.
    Silent,
    /// Unless the client spoke last, or has not taken all of its answer: it waits for one. Where each
    /// request has one.
    Answered,
    /// When this says so.
    When(&'a (dyn Fn() -> bool + Send + Sync)),
}

/// How a server is asked to come to an end before its session is stopped. Bytes move on meanwhile.
#[derive(Clone, Copy)]
pub struct Parting<'a> {
    /// Whether the server waits for the client when these are its last bytes.
    pub is_over: fn([u8; 6]) -> bool,
    /// Asks it, and is done when that has taken long enough. `None`: it cannot be asked.
    pub ask: &'a (dyn Fn() -> Option<Asking> + Send + Sync),
}

/// See [`Parting::ask`].
pub type Asking = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sees bytes on their way, never those of [`Relay::to_server`] and [`Relay::to_client`]. They are
/// not spliced before it has seen enough; without one a relay pays nothing.
pub type Observer<'a> = Box<dyn FnMut(&[u8]) -> Seen + Send + 'a>;

/// What an [`Observer`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Shows the next bytes, too.
    More,
    /// Is dropped.
    Enough,
}

/// What becomes of the server of a client that ends or breaks before its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SilentClient {
    /// It hears of it, like any other.
    PassEnd,
    /// It hears nothing and is handed back ([`Rest::Abandoned`]). For MySQL and MariaDB, which
    /// count a handshake that ends, however it ends, against our address.
    HandBack,
}

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
    pub rest: Rest,
}

/// What is left of a session.
#[derive(Debug)]
pub enum Rest {
    /// Both sides are closed, by reset where one was due.
    Closed,
    /// Both are open (`drained`, `idle_timeout`), so that the client can be told in its own
    /// protocol.
    Open {
        client: Transport,
        server: Transport,
        /// Bytes of the server were lost on the way to the client: it is in the middle of a
        /// message and cannot be told anything.
        cut: bool,
        /// The last six bytes of the server; `None` when they were spliced.
        last: Option<[u8; 6]>,
        /// The client has not sent a byte.
        silent: bool,
    },
    /// The server said something and closed without reading what it was sent first. The client has
    /// its words, and is to be closed in order.
    LastWords { client: Transport },
    /// The client left without a byte; the server has not been told.
    Abandoned { server: Transport },
    /// The server went before it sent a byte. `sent` is all that came from the client.
    Unanswered { client: Transport, sent: Bytes },
}

impl<'a> Relay<'a> {
    /// Half-open sessions end after 30 s, nothing else is limited, observed or sent first.
    pub fn new(count: &'a (dyn Fn(Direction, u64) + Send + Sync)) -> Relay<'a> {
        Relay {
            idle_timeout: None,
            half_open_timeout: HALF_OPEN_TIMEOUT,
            pipes: None,
            count,
            preface: Bytes::new(),
            to_server: Bytes::new(),
            to_client: Bytes::new(),
            passed_up: 0,
            passed_down: 0,
            on_client_bytes: None,
            on_server_bytes: None,
            silent_client: SilentClient::PassEnd,
            carried: None,
            manners: &Manners::NONE,
            keep_unanswered: 0,
        }
    }

    /// Relays until both sides have ended, one breaks, time is up, or `stop` is ready (`pin!` it: a
    /// future that is moved in would be stored twice). Both streams should be
    /// [tuned](crate::upstream::tune).
    ///
    /// Less than 500 bytes while it runs. A task that keeps the [`Relay`] in a block which ends before the
    /// `await` has no room for that, too.
    pub fn run<S>(
        self,
        client: Transport,
        server: Transport,
        mut stop: S,
    ) -> impl Future<Output = Ended> + use<'a, S>
    where
        S: Future<Output = ()> + Unpin,
    {
        let mut pair = Pair::new(self, client, server);
        async move {
            let end = poll_fn(|cx| pair.poll(cx, Pin::new(&mut stop))).await;
            pair.close(end)
        }
    }
}

/// How long a session of which one side has ended may be silent.
const HALF_OPEN_TIMEOUT: Duration = Duration::from_secs(30);
