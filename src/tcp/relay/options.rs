//! How one session is relayed: what bounds it, what sees it, what goes first.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::pipe::Pipes;
use crate::telemetry::{Carried, Direction};

/// How one session is to be relayed. [`Relay::new`] fills in what most want; then [`Relay::run`].
pub struct Relay<'a> {
    /// Ends a session that is idle and in which nothing has moved for so long. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// The same, from when one side has ended: 30 s.
    pub half_open_timeout: Duration,
    /// Where bulk gets its pipes from, if both sides are plain. `None`: everything is copied.
    pub pipes: Option<Arc<Pipes>>,
    /// Called with how many bytes went where, often, but not for each read.
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
    /// What a server gets whose client leaves before its first byte. Default: `PassEnd`.
    pub silent_client: SilentClient,
    /// Dropped when one side has ended: what is left is little work for the thread.
    pub carried: Option<Carried>,
    /// What the protocol of this session allows. Default: `ServerBehavior::NONE`.
    pub behavior: &'a ServerBehavior<'a>,
    /// While the server has not sent a byte, so many of the client's are kept. If the server goes
    /// before it sends one and all of them fit, the session ends as
    /// [`Rest::Unanswered`](super::Rest::Unanswered) and the client has noticed nothing. 0: none.
    pub keep_unanswered: usize,
}

/// What is known of the protocol that is spoken.
pub struct ServerBehavior<'a> {
    /// When `Relay::idle_timeout` may end a session in which nothing moves.
    pub idle: Idle<'a>,
    /// What is done for a session that is stopped while an answer is due.
    pub graceful_end: Option<GracefulEnd<'a>>,
    /// The server was sent bytes of ours before those of the client, also by others than the relay.
    pub was_prefaced: bool,
    /// Whether a server whose first words end like this may have said all it wanted to. Asked where
    /// it closed without reading what it was sent before it spoke.
    pub are_whole: fn([u8; 6]) -> bool,
}

impl ServerBehavior<'_> {
    /// Nothing.
    pub const NONE: ServerBehavior<'static> = ServerBehavior {
        idle: Idle::Silent,
        graceful_end: None,
        was_prefaced: false,
        are_whole: |_| false,
    };
}

/// When a session in which nothing moves is idle.
#[derive(Clone, Copy)]
pub enum Idle<'a> {
    /// Always.
    Silent,
    /// Unless the client spoke last, or has not taken all of its answer: it waits for one. Where
    /// each request has one.
    Answered,
    /// When this returns true.
    When(&'a (dyn Fn() -> bool + Send + Sync)),
}

/// How a server is asked to come to an end before its session is stopped. Bytes move on meanwhile.
#[derive(Clone, Copy)]
pub struct GracefulEnd<'a> {
    /// Whether the server waits for the client when these are its last bytes.
    pub is_over: fn([u8; 6]) -> bool,
    /// Asks it, and is done when that has taken long enough. `None`: it cannot be asked.
    pub ask: &'a (dyn Fn() -> Option<Asking> + Send + Sync),
}

/// See [`GracefulEnd::ask`].
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
    /// It receives the end, like any other.
    PassEnd,
    /// It receives nothing and is handed back ([`Rest::Abandoned`](super::Rest::Abandoned)). For
    /// MySQL and MariaDB, which count a handshake that ends, however it ends, against our address.
    HandBack,
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
            behavior: &ServerBehavior::NONE,
            keep_unanswered: 0,
        }
    }
}

/// How long a session of which one side has ended may be silent.
const HALF_OPEN_TIMEOUT: Duration = Duration::from_secs(30);
