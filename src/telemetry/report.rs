//! The one place where the end of a request or a session is reported: counted and recorded.
//!
//! The caller says how it ended; what follows from that is here. Invariant: a record is made only
//! where the access log is on.

use std::sync::Arc;
use std::time::Duration;

use super::{AccessLog, HttpRouteMetrics, Record, TcpSession};
use crate::error::Reason;

/// Reports ends, for one gateway. Clones report to the same places.
#[derive(Clone)]
pub struct Reporter {
    access_log: Arc<AccessLog>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct RequestEnd {
    /// What was sent to the client; 0 when nothing was.
    pub status: u16,
    /// Why it ended, for the access log and the `reason` label.
    pub reason: Reason,
    /// From the start to here.
    pub total: Duration,
}

impl Reporter {
    /// One that records in `access_log`.
    pub fn new(access_log: Arc<AccessLog>) -> Reporter {
        Reporter { access_log }
    }

    /// A request has ended. `metrics` are its route's, or those of no route.
    pub fn request<'a>(
        &self,
        metrics: Option<&HttpRouteMetrics>,
        end: RequestEnd,
        record: impl FnOnce() -> Record<'a>,
    ) {
        if let Some(metrics) = metrics {
            metrics.finished(end.status, end.reason, end.total.as_secs_f64());
        }
        if self.access_log.is_on() {
            self.access_log.log(&record());
        }
    }

    /// A connection of a TCP listener has ended. `session` counts it, unless it was none of a route.
    pub fn session<'a>(
        &self,
        session: Option<TcpSession>,
        reason: Reason,
        record: impl FnOnce() -> Record<'a>,
    ) {
        if let Some(session) = session {
            session.finished(reason);
        }
        if self.access_log.is_on() {
            self.access_log.log(&record());
        }
    }
}
