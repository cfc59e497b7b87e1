//! What the HTTP edge asks and reports: the limits in force, and the refusals that never became a
//! request of Pingora's.
//!
//! `connection.rs` knows bytes; this knows snapshot, metrics and access log. Invariant: every
//! refusal at the edge is counted and recorded once, with `route="-"`.

use std::net::SocketAddr;
use std::time::Duration;

use crate::error::Reason;
use crate::server::edge::http1::connection::{Edge, EdgeLimits, RefusedRequest};
use crate::snapshot::SnapshotHandle;
use crate::telemetry::{ClientAddress, Record, Reporter, RequestEnd};

/// The edge of one HTTP listener.
pub struct HttpEdge {
    /// Read for the limits of each head, so a reload holds from the next one on.
    pub snapshots: SnapshotHandle,
    /// Where the refusals of this edge are counted and logged.
    pub reporter: Reporter,
    /// The admin listener is not in the metrics of traffic.
    pub counted: bool,
}

impl HttpEdge {
    /// A client that came over `max_connections`.
    pub fn turned_away(&self, client: SocketAddr, listener: &str) {
        let end = RequestEnd {
            status: 503,
            reason: Reason::TooManyConnections,
            total: Duration::ZERO,
        };
        let snapshot = self.snapshots.load();
        self.reporter
            .request(Some(&snapshot.unrouted), end, || Record {
                client: ClientAddress::Peer(client),
                route: "-",
                status: end.status,
                ..Record::new(listener, end.reason)
            });
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
        let end = RequestEnd {
            status: request.status,
            reason: request.reason,
            total,
        };
        let snapshot = self.snapshots.load();
        self.reporter
            .request(Some(&snapshot.unrouted), end, || Record {
                client: ClientAddress::Peer(request.client),
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
