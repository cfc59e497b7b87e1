//! What is measured of one request, and when its time is over.

use std::time::{Duration, Instant};

use crate::route::Route;

/// The clock of one request.
pub(in crate::http) struct Times {
    /// When the head was whole.
    pub(in crate::http) started: Instant,
    /// `timeout_ms` ends here; moves once, when the body is in.
    pub(in crate::http) deadline: Instant,
    /// When an endpoint was last asked for, or will be at once.
    pub(in crate::http) asked: Option<Instant>,
    /// All waits in the upstream's queue together; `None` where there was none.
    pub(in crate::http) queued: Option<Duration>,
    /// From the head of the request to the head of the response.
    pub(in crate::http) first_byte: Option<Duration>,
}

impl Times {
    /// `past` is any time before: [`begin`](Times::begin) replaces it.
    pub(in crate::http) fn new(past: Instant) -> Times {
        Times {
            started: past,
            deadline: past,
            asked: None,
            queued: None,
            first_byte: None,
        }
    }

    /// The time of the request begins.
    pub(in crate::http) fn begin(&mut self, now: Instant) {
        self.started = now;
        self.deadline = now;
        self.asked = Some(now);
    }

    /// What is left of `timeout_ms`.
    pub(in crate::http) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// When the response header of a try that begins now must be there.
    pub(in crate::http) fn try_deadline(&self, route: &Route) -> Instant {
        match route.tries.try_timeout {
            Some(timeout) => self.deadline.min(Instant::now() + timeout),
            None => self.deadline,
        }
    }

    /// Counts a wait in the queue.
    pub(in crate::http) fn waited(&mut self, route: &Route, queued: Duration) {
        *self.queued.get_or_insert_default() += queued;
        route.metrics.queue_waited(queued.as_secs_f64());
    }

    /// Counts a wait that ended without an endpoint.
    pub(in crate::http) fn gave_up_waiting(&mut self, route: &Route) {
        if let Some(asked) = self.asked.take() {
            self.waited(route, asked.elapsed());
        }
    }
}
