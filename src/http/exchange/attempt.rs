//! The current try of a request: its endpoint and its connection.
//!
//! Invariant: the lease is given back when this drops, or with an outcome before.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::upstream::{Endpoint, Lease, Outcome};

/// One try at one endpoint.
pub(in crate::http) struct CurrentTry {
    pub(in crate::http) lease: Option<Lease>,
    /// The last endpoint tried; stays when the lease is given back.
    pub(in crate::http) endpoint: Option<Arc<Endpoint>>,
    pub(in crate::http) started: Instant,
    /// How long the connect took; `None` on a connection that was used before.
    pub(in crate::http) connect: Option<Duration>,
    /// The descriptor of its connection.
    pub(in crate::http) socket: RawFd,
    /// How long the endpoint keeps that connection open after its response, if it says so.
    pub(in crate::http) keeps: Option<Duration>,
    /// The connection was not used: its endpoint may be closing it.
    pub(in crate::http) keep_alive_over: bool,
}

impl CurrentTry {
    /// None yet. `past` is any time before.
    pub(in crate::http) fn new(past: Instant) -> CurrentTry {
        CurrentTry {
            lease: None,
            endpoint: None,
            started: past,
            connect: None,
            socket: -1,
            keeps: None,
            keep_alive_over: false,
        }
    }

    /// Gives the lease back with what became of it.
    pub(in crate::http) fn finish(&mut self, outcome: Outcome) {
        if let Some(lease) = self.lease.take() {
            lease.finish(outcome);
        }
    }
}
