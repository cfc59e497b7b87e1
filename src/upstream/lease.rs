//! A picked endpoint together with the slot it takes of its limits.
//!
//! What the layers above hold. Invariant: whatever happens to its holder, the slot is given back
//! when the lease is dropped, and the first in the queue is woken.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Upstream;
use super::endpoint::Endpoint;

/// The right to use one endpoint. Dropped without an outcome it says nothing about health.
#[derive(Debug)]
#[must_use = "a lease that is dropped gives its place back"]
pub struct Lease {
    upstream: Arc<Upstream>,
    endpoint: Arc<Endpoint>,
    queued_for: Duration,
}

/// How the use of an endpoint went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, or a connection stands.
    Ok,
    /// It answered with this status: a failure when the upstream counts it as one.
    Answered(u16),
    /// No connection came about.
    ConnectFailed,
    /// A reset, a time-out, no answer.
    Failed,
    /// Says nothing about the endpoint: the client left, or a filter refused.
    Neutral,
}

impl Lease {
    /// `endpoint` and the upstream's limit have been entered.
    pub(super) fn new(upstream: Arc<Upstream>, endpoint: Arc<Endpoint>) -> Lease {
        Lease {
            upstream,
            endpoint,
            queued_for: Duration::ZERO,
        }
    }

    pub(super) fn after(mut self, queued_for: Duration) -> Lease {
        self.queued_for = queued_for;
        self
    }

    /// Whom to connect to. Its count of requests in flight includes this lease.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// In the generation that was picked from, which a reload may have replaced since.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// How long it took to get this lease; zero when it was there at once.
    pub fn queued_for(&self) -> Duration {
        self.queued_for
    }

    /// A connect to the endpoint failed, after `waited`; for the log and for its last error.
    pub fn connect_failed(&self, error: &io::Error, waited: Duration) {
        self.upstream.connect_failed(&self.endpoint, error, waited);
    }

    /// What was sent on a connection failed; for the log and for its last error. `why` is for
    /// operators and holds nothing secret.
    pub fn failed(&self, why: impl fmt::Display) {
        self.upstream.failed(&self.endpoint, why);
    }

    /// The endpoint has said something on a connection.
    pub fn answered(&self) {
        self.upstream.answered(&self.endpoint);
    }

    /// Tells how the endpoint does and keeps the place: for a session that stays after its
    /// connection succeeded.
    pub fn record(&self, outcome: Outcome) {
        if let Outcome::Answered(_) = outcome {
            self.upstream.answered(&self.endpoint);
        }
        match outcome {
            Outcome::Ok => {
                self.upstream.connected(&self.endpoint);
                self.endpoint.ejector().note_success();
            }
            Outcome::Answered(status) if !self.upstream.counts_as_failure(status) => {
                self.endpoint.ejector().note_success();
            }
            Outcome::Answered(status) => {
                let why = format_args!("answered with status {status}");
                self.endpoint.note_error(why);
                self.upstream.note_failure(&self.endpoint);
            }
            Outcome::ConnectFailed | Outcome::Failed => self.upstream.note_failure(&self.endpoint),
            Outcome::Neutral => {}
        }
    }

    /// Tells how it went and gives the place back.
    pub fn finish(self, outcome: Outcome) {
        self.record(outcome);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The endpoint first: leaving the limit wakes who waits for either.
        self.endpoint.leave();
        self.upstream.limit().leave();
    }
}
