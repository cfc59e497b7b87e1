//! What the HTTP edge asks and tells: the limits in force, and the refusals that never became a
//! request of Pingora's.
//!
//! Its own file because `connection.rs` knows bytes and this knows snapshot, metrics and access
//! log. Invariant: every refusal at the edge is counted and recorded once, with `route="-"`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::Reason;
use crate::server::connection::{Edge, EdgeLimits, RefusedRequest};
use crate::snapshot::SnapshotHandle;
use crate::telemetry::{AccessLog, Record};

/// The edge of one HTTP listener.
pub struct HttpEdge {
    pub snapshots: SnapshotHandle,
    pub access_log: Arc<AccessLog>,
    /// The admin listener is not in the metrics of traffic.
    pub counted: bool,
}

impl HttpEdge {
    /// A client that came over `max_connections`.
    pub fn turned_away(&self, client: SocketAddr, listener: &str) {
        let (status, reason) = (503, Reason::TooManyConnections);
        self.snapshots.load().unrouted.finished(status, reason, 0.0);
        if self.access_log.is_on() {
            self.access_log.log(&Record {
                client: &client.to_string(),
                route: "-",
                status,
                ..Record::new(listener, reason)
            });
        }
    }
}

impl Edge for HttpEdge {
    fn limits(&self) -> EdgeLimits {
        let snapshot = self.snapshots.load();
        EdgeLimits {
            max_header_bytes: snapshot.config.max_header_bytes,
            header_timeout: snapshot.config.header_timeout,
            keepalive_timeout: snapshot.config.keepalive_timeout,
        }
    }

    fn refused(&self, request: &RefusedRequest<'_>) {
        let total = request.head_started.elapsed();
        log::debug!(
            "refused {} from {}: {} ({})",
            request.status,
            request.client,
            request.why,
            request.reason
        );
        if !self.counted {
            return;
        }
        self.snapshots.load().unrouted.finished(
            request.status,
            request.reason,
            total.as_secs_f64(),
        );
        if self.access_log.is_on() {
            self.access_log.log(&Record {
                time: SystemTime::now(),
                client: &request.client.to_string(),
                route: "-",
                method: request.method.unwrap_or(""),
                path: request.target.unwrap_or("").as_bytes(),
                status: request.status,
                bytes_in: request.bytes as u64,
                total,
                ..Record::new(request.listener, request.reason)
            });
        }
    }
}
