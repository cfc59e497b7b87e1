//! A filter of TCP sessions: user code at their beginning and their end.
//!
//! Invariant: it sees what the first bytes said and never a session's payload.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;

use super::Result;
use crate::error::Reason;

/// One step at the beginning of a TCP route's sessions. Every method does nothing unless it is
/// written.
#[async_trait]
pub trait TcpFilter: Send + Sync + 'static {
    /// A client's route is chosen, and no endpoint is picked yet.
    async fn connect(&self, _session: &TcpContext<'_>) -> Result<TcpVerdict> {
        Ok(TcpVerdict::Allow)
    }

    /// The session is over. What it does with it must not wait.
    fn close(&self, _session: &TcpContext<'_>, _end: &TcpEnd) {}
}

/// What becomes of a session after a filter saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpVerdict {
    /// It goes on.
    Allow,
    /// The client gets its protocol's refusal. The reason is `filter_refused`.
    Refuse,
    /// It goes on to the TCP route of this name, past that route's own filters. An unknown one, or
    /// one of another protocol, is this filter's error.
    Route(String),
}

/// What is known of a session when it begins.
#[derive(Clone, Copy, Debug)]
pub struct TcpContext<'a> {
    /// The peer, or the client that a trusted proxy named by a PROXY header.
    pub client: SocketAddr,
    /// The listener's address as written.
    pub listener: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// The upstream's name, or the route's.
    pub upstream: &'a str,
    /// The protocol word: `postgres`, `mysql`, …
    pub protocol: &'a str,
    /// From a TLS ClientHello that was read.
    pub sni: Option<&'a str>,
    /// From a Postgres StartupMessage that was read.
    pub database: Option<&'a str>,
    /// From a Postgres StartupMessage that was read.
    pub user: Option<&'a str>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug)]
pub struct TcpEnd {
    /// The word of the access log and of the `reason` label; `ok` where nothing went wrong.
    pub reason: Reason,
    /// Bytes from the client to the server.
    pub bytes_up: u64,
    /// Bytes from the server to the client.
    pub bytes_down: u64,
    /// From the accepted connection to here.
    pub duration: Duration,
}
