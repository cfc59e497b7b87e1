//! The state of one request from its head to its log line: Pingora's `CTX`.
//!
//! What belongs together stands together: `Upload` is the client's body, `TryHistory` what was tried
//! so far, `CurrentTry` the try that runs, `Times` the clock. Invariant: what was taken for the
//! request (in-flight count, lease, retry permit) is given back when this drops.

mod attempt;
mod times;
mod tries;
mod upload;

use std::sync::Arc;
use std::time::Instant;

use pingora_core::{Error, ErrorType};

use crate::error::Reason;
use crate::http::arrival::Arrival;
use crate::http::client::Client;
use crate::http::end::{End, classify};
use crate::http::fields::Fields;
use crate::http::filtering::Filtering;
use crate::http::retry::Failure;
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::telemetry::InFlight;
use crate::upstream::peer::HopByHop;

use attempt::CurrentTry;
use times::Times;
use tries::TryHistory;
pub(super) use tries::{Next, Sendable};
use upload::Upload;

/// One request on its way.
pub struct Exchange {
    pub(super) arrival: Option<Arrival>,
    /// The one configuration that the request is served by.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) route: Option<Arc<Route>>,
    pub(super) in_flight: Option<InFlight>,
    /// Path and query as matched, to be sent behind the endpoint's own path.
    pub(super) target: String,
    pub(super) client: Client,
    /// The peer is in `trusted_proxies`.
    pub(super) trusted: bool,
    /// The request asks for a protocol that the route's `upgrade` names.
    pub(super) upgrade: bool,
    /// What its head has, as its filters left it.
    pub(super) fields: Fields,
    /// What `balance: hash` picks by.
    pub(super) hash: Option<u64>,
    /// Whether its head, as its filters left it, has fields that end here.
    pub(super) hop_by_hop: HopByHop,
    pub(super) upload: Upload,
    pub(super) tries: TryHistory,
    pub(super) attempt: CurrentTry,
    pub(super) times: Times,
    /// How it ends, once that is decided.
    pub(super) end: Option<End>,
    pub(super) filters: Filtering,
}

impl Exchange {
    /// One that [begins](Exchange::begin) as soon as it is known how its request arrived. `past` is
    /// any time before: a clock is not read for what is replaced before it is used.
    pub fn new(past: Instant) -> Exchange {
        Exchange {
            arrival: None,
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
            upload: Upload::default(),
            tries: TryHistory::new(),
            attempt: CurrentTry::new(past),
            times: Times::new(past),
            end: None,
            filters: Filtering::default(),
        }
    }

    /// The time of the request begins.
    pub fn begin(&mut self, now: Instant) {
        self.times.begin(now);
        self.attempt.started = now;
    }

    /// The request is for `route`; its time begins with that route's `timeout_ms`.
    pub fn route_to(&mut self, route: Arc<Route>, target: String) {
        self.in_flight = Some(route.metrics.in_flight());
        self.times.deadline = self.times.started + route.tries.timeout;
        self.target = target;
        self.route = Some(route);
    }

    /// What it matched, if it matched.
    pub fn route(&self) -> Option<&Route> {
        self.route.as_deref()
    }

    /// A connection for the next try is there.
    pub fn begin_try(&mut self) {
        self.upload.bytes = 0;
        self.filters.begin_try();
    }

    /// Whose silence it is that a read timed out on, before a response header and while the body is
    /// not in. The client's, unless it waits for the endpoint itself.
    pub(super) fn silence(&self, error: &Error) -> Option<Silence> {
        let during_upload = self.upload.pending && self.times.first_byte.is_none();
        if *error.etype() != ErrorType::ReadTimedout || !during_upload {
            return None;
        }
        Some(match self.upload.awaits_continue() {
            true => Silence::OfEndpoint,
            false => Silence::OfClient,
        })
    }

    /// The body is in: the clock of `timeout_ms` starts anew.
    pub(super) fn upload_ended(&mut self, route: &Route) {
        self.upload.pending = false;
        self.times.deadline = Instant::now() + route.tries.timeout;
    }

    /// The current try failed. Whether there is another.
    pub(super) fn failed(&mut self, failure: Failure, request: Sendable) -> bool {
        let Some(route) = &self.route else {
            return false;
        };
        let lease = self.attempt.lease.take();
        let remaining = || self.times.remaining();
        self.tries.failed(route, lease, failure, request, remaining)
    }

    /// The end that was decided, or the one that Pingora's error means.
    pub(super) fn end_with(&self, error: Option<&Error>) -> End {
        match (self.end, error) {
            (Some(end), _) => end,
            (None, Some(error)) => classify(error),
            (None, None) => Reason::Ok.into(),
        }
    }
}

/// Who has sent nothing for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    OfClient,
    OfEndpoint,
}
