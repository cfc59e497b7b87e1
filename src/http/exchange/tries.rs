//! The tries of a request so far, and how the next one begins.

use std::time::Duration;

use crate::config::Target;
use crate::http::retry::{self, Decision, Failure, Situation};
use crate::route::Route;
use crate::upstream::budget::RetryPermit;
use crate::upstream::{EndpointId, Lease, Outcome};

/// What was tried. The retry permit is given back when this drops.
pub(in crate::http) struct TryHistory {
    pub(in crate::http) next: Next,
    /// Those that count: all but the resend after a stale connection and the one elsewhere.
    pub(in crate::http) counted: u32,
    /// Endpoints that the next try avoids.
    pub(in crate::http) endpoints: Vec<EndpointId>,
    resent: bool,
    /// The one uncounted try at another endpoint is used up.
    moved: bool,
    permit: Option<RetryPermit>,
    /// A retry was decided before the response went out; the error is only its messenger.
    pub(in crate::http) decided: bool,
}

/// How the next try begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Next {
    First,
    /// After a pause, on another endpoint where there is one.
    Retry {
        pause: Duration,
    },
    /// At once, on a fresh connection.
    Resend,
    /// At once, on another endpoint.
    Elsewhere,
}

/// What the session says about sending its request again.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Sendable {
    /// Its method is idempotent (RFC 9110, section 9.2.2).
    pub(in crate::http) idempotent: bool,
    /// What was read of its body is still in memory.
    pub(in crate::http) replayable: bool,
    /// The client has part of a response.
    pub(in crate::http) responded: bool,
}

impl TryHistory {
    pub(in crate::http) fn new() -> TryHistory {
        TryHistory {
            next: Next::First,
            counted: 0,
            endpoints: Vec::new(),
            resent: false,
            moved: false,
            permit: None,
            decided: false,
        }
    }

    /// All of them, also those that do not count.
    pub(in crate::http) fn total(&self) -> u32 {
        self.counted + u32::from(self.resent) + u32::from(self.moved)
    }

    /// Asks the retry decision about a failed try and prepares the next one. `false` where there is
    /// none.
    pub(in crate::http) fn failed(
        &mut self,
        route: &Route,
        lease: Option<Lease>,
        failure: Failure,
        request: Sendable,
        remaining: impl FnOnce() -> Duration,
    ) -> bool {
        let endpoint = lease.as_ref().map(|lease| lease.endpoint().id());
        if let Some(lease) = lease {
            lease.finish(match failure {
                Failure::Connect => Outcome::ConnectFailed,
                // The endpoint closed an idle connection, which is its right; or nothing reached it.
                Failure::Stale | Failure::KeepAliveOver | Failure::NoSocket => Outcome::Neutral,
                Failure::Broken | Failure::TryTimeout => Outcome::Failed,
                Failure::Status(status) => Outcome::Answered(status),
            });
        }
        let tried_before = self.endpoints.len();
        self.endpoints.extend(endpoint);
        let pause = retry::backoff(self.counted);
        let now = Situation {
            idempotent: request.idempotent,
            replayable: request.replayable,
            responded: request.responded,
            // A retry that could not begin in time is none: what is in hand passes through.
            out_of_time: remaining() <= pause,
            tries: self.counted,
            retry_count: route.tries.retry_count,
            resent: self.resent,
            another: failure == Failure::Connect
                && route.upstream.has_another(Target::Any, &self.endpoints),
            moved: self.moved,
        };
        let upstream = &route.upstream;
        let mut permit = self.permit.take();
        let decision = retry::decide(failure, &now, || {
            if permit.is_none() {
                permit = upstream.retry_budget().take(upstream.in_flight());
            }
            permit.is_some()
        });
        self.permit = permit;
        self.next = match decision {
            Decision::GiveUp => return false,
            Decision::Resend => Next::Resend,
            Decision::Elsewhere => Next::Elsewhere,
            Decision::Retry => Next::Retry { pause },
        };
        match decision {
            Decision::Resend => {
                // Where the connection was not even used, nothing was sent that could be sent again.
                self.resent |= failure != Failure::KeepAliveOver;
                // It is no worse than others.
                self.endpoints.truncate(tried_before);
            }
            Decision::Elsewhere => self.moved = true,
            Decision::Retry | Decision::GiveUp => {}
        }
        if failure != Failure::KeepAliveOver {
            route.metrics.retried(failure.reason());
        }
        true
    }
}
