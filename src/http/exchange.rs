//! The state of one request from its head to its log line: Pingora's `CTX`.
//!
//! Its own file so that `proxy.rs` shows the phases and this the bookkeeping. Invariant: what was
//! taken for the request (in-flight count, lease, retry permit) is given back when this drops.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora_core::{Error, ErrorType};

use crate::config::Target;
use crate::error::Reason;
use crate::http::arrival::Arrival;
use crate::http::client::Client;
use crate::http::end::{End, classify};
use crate::http::fields::Fields;
use crate::http::filtering::Filtering;
use crate::http::retry::{self, Decision, Failure, Situation};
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::telemetry::InFlight;
use crate::upstream::budget::RetryPermit;
use crate::upstream::peer::HopByHop;
use crate::upstream::{Endpoint, EndpointId, Lease, Outcome};

/// One request on its way.
pub struct Exchange {
    pub arrival: Option<Arrival>,
    /// When the head was whole.
    pub started: Instant,
    pub snapshot: Option<Arc<Snapshot>>,
    pub route: Option<Arc<Route>>,
    pub in_flight: Option<InFlight>,
    /// Path and query as matched, to be sent behind the endpoint's own path.
    pub target: String,
    pub client: Client,
    /// The peer is in `trusted_proxies`.
    pub trusted: bool,
    pub upgrade: bool,
    /// What its head has, as its filters left it.
    pub fields: Fields,
    pub hash: Option<u64>,
    /// Whether its head, as its filters left it, has fields that end here.
    pub hop_by_hop: HopByHop,
    /// `timeout_ms` ends here; moves once, when the body is in.
    pub deadline: Instant,
    /// The body is still coming from the client.
    pub uploading: bool,
    /// The client may wait for `100 Continue` before it sends its body, and none came yet.
    pub expects_continue: bool,
    /// Body bytes of this try so far.
    pub body_bytes: u64,
    pub next: Next,
    /// Tries that count: all but the resend after a stale connection and the one elsewhere.
    pub tries: u32,
    pub tried: Vec<EndpointId>,
    pub resent: bool,
    /// The one uncounted try at another endpoint is used up.
    pub moved: bool,
    pub lease: Option<Lease>,
    pub retry_permit: Option<RetryPermit>,
    /// The connection of this try was not used: its endpoint may be closing it.
    pub keep_alive_over: bool,
    /// The descriptor of this try's connection.
    pub socket: RawFd,
    /// How long the endpoint keeps that connection open after its response, if it says so.
    pub keeps: Option<Duration>,
    /// A retry was decided before the response went out; the error is only its messenger.
    pub retry_decided: bool,
    pub end: Option<End>,
    pub try_started: Instant,
    /// When an endpoint was last asked for, or will be at once.
    pub asked: Option<Instant>,
    pub queued: Option<Duration>,
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    /// The last endpoint tried.
    pub endpoint: Option<Arc<Endpoint>>,
    pub filters: Filtering,
}

/// How the next try begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
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

impl Exchange {
    /// One that [begins](Exchange::begin) as soon as it is known how its request arrived. `past` is
    /// any time before: a clock is not read for what is replaced before it is used.
    pub fn new(past: Instant) -> Exchange {
        Exchange {
            arrival: None,
            started: past,
            snapshot: None,
            route: None,
            in_flight: None,
            target: String::new(),
            client: Client::Unknown,
            trusted: false,
            upgrade: false,
            fields: Fields::default(),
            hash: None,
            hop_by_hop: HopByHop::Present,
            deadline: past,
            uploading: false,
            expects_continue: false,
            body_bytes: 0,
            next: Next::First,
            tries: 0,
            tried: Vec::new(),
            resent: false,
            moved: false,
            lease: None,
            retry_permit: None,
            keep_alive_over: false,
            socket: -1,
            keeps: None,
            retry_decided: false,
            end: None,
            try_started: past,
            asked: None,
            queued: None,
            connect: None,
            first_byte: None,
            endpoint: None,
            filters: Filtering::default(),
        }
    }

    /// The time of the request begins.
    pub fn begin(&mut self, now: Instant) {
        self.started = now;
        self.deadline = now;
        self.try_started = now;
        self.asked = Some(now);
    }

    /// What is left of `timeout_ms`.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// When this try's response header must be there.
    pub fn try_deadline(&self, route: &Route) -> Instant {
        match route.tries.try_timeout {
            Some(timeout) => self.deadline.min(Instant::now() + timeout),
            None => self.deadline,
        }
    }

    /// Neither has the endpoint asked for the body nor has the client begun it: the clock of
    /// `timeout_ms` runs, although the body is not in.
    pub fn awaits_continue(&self) -> bool {
        self.uploading && self.expects_continue && self.body_bytes == 0
    }

    /// Whose silence it is that a read timed out on, before a response header and while the body is
    /// not in. The client's, unless it waits for the endpoint itself.
    pub fn silence(&self, error: &Error) -> Option<Silence> {
        let during_upload = self.uploading && self.first_byte.is_none();
        if *error.etype() != ErrorType::ReadTimedout || !during_upload {
            return None;
        }
        Some(match self.awaits_continue() {
            true => Silence::OfEndpoint,
            false => Silence::OfClient,
        })
    }

    /// The body is in: the clock of `timeout_ms` starts anew.
    pub fn upload_ended(&mut self, route: &Route) {
        self.uploading = false;
        self.deadline = Instant::now() + route.tries.timeout;
    }

    /// Asks the retry decision about a failed try and prepares the next one.
    pub fn failed(&mut self, failure: Failure, request: Sendable) -> bool {
        let Some(route) = self.route.clone() else {
            return false;
        };
        let lease = self.lease.take();
        let endpoint = lease.as_ref().map(|lease| lease.endpoint().id());
        if let Some(lease) = lease {
            lease.finish(match failure {
                Failure::Connect => Outcome::ConnectFailed,
                // The endpoint closed an idle connection, which is its right; or it never heard of us.
                Failure::Stale | Failure::KeepAliveOver | Failure::NoSocket => Outcome::Neutral,
                Failure::Broken | Failure::TryTimeout => Outcome::Failed,
                Failure::Status(status) => Outcome::Answered(status),
            });
        }
        let tried_before = self.tried.len();
        self.tried.extend(endpoint);
        let pause = retry::backoff(self.tries);
        let now = Situation {
            idempotent: request.idempotent,
            replayable: request.replayable,
            responded: request.responded,
            // A retry that could not begin in time is none: what is in hand passes through.
            out_of_time: self.remaining() <= pause,
            tries: self.tries,
            retry_count: route.tries.retry_count,
            resent: self.resent,
            another: failure == Failure::Connect
                && route.upstream.has_another(Target::Any, &self.tried),
            moved: self.moved,
        };
        let upstream = &route.upstream;
        let mut permit = self.retry_permit.take();
        let decision = retry::decide(failure, &now, || {
            if permit.is_none() {
                permit = upstream.retry_budget().take(upstream.in_flight());
            }
            permit.is_some()
        });
        self.retry_permit = permit;
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
                self.tried.truncate(tried_before);
            }
            Decision::Elsewhere => self.moved = true,
            Decision::Retry | Decision::GiveUp => {}
        }
        if failure != Failure::KeepAliveOver {
            route.metrics.retried(failure.reason());
        }
        true
    }

    /// Counts a wait in the queue.
    pub fn waited(&mut self, route: &Route, queued: Duration) {
        *self.queued.get_or_insert_default() += queued;
        route.metrics.queue_waited(queued.as_secs_f64());
    }

    /// Counts a wait that ended without a place.
    pub fn waited_in_vain(&mut self, route: &Route) {
        if let Some(asked) = self.asked.take() {
            self.waited(route, asked.elapsed());
        }
    }

    /// Gives the lease back with what became of it.
    pub fn finish_lease(&mut self, outcome: Outcome) {
        if let Some(lease) = self.lease.take() {
            lease.finish(outcome);
        }
    }

    /// The end that was decided, or the one that Pingora's error tells.
    pub fn end_with(&self, error: Option<&Error>) -> End {
        match (self.end, error) {
            (Some(end), _) => end,
            (None, Some(error)) => classify(error),
            (None, None) => Reason::Ok.into(),
        }
    }
}

/// Who has said nothing for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    OfClient,
    OfEndpoint,
}

/// What the session tells about sending its request again.
#[derive(Clone, Copy, Debug)]
pub struct Sendable {
    pub idempotent: bool,
    pub replayable: bool,
    pub responded: bool,
}
