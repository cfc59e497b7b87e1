//! The HTTPS edge: from an accepted socket to a connection of HTTP/1 in TLS.
//!
//! Invariants: a client that fails is counted by cause and can read why; a handshake is bounded by
//! `header_timeout_ms`, and while draining a client that has sent nothing does not hold the drain up.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use log::debug;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::error::Reason;
use crate::server::drain::stages::{Stage, StageWatch};
use crate::server::edge::first_byte::first_byte;
use crate::server::edge::http_edge::HttpEdge;
use crate::server::edge::http1::connection::{Edge, RefusedRequest};
use crate::server::edge::refusal::{linger, refuse_head};
use crate::telemetry::ListenerMetrics;
use crate::tls::{FailureCause, HandshakeFailed, Handshaken, ServerTls, handshake};
use crate::transport::Transport;
use crate::wire::http1::Refusal;
use crate::wire::tls::{Alert, alert};

/// What the handshakes of one listener count and report.
pub(super) struct HttpsEdge<'e> {
    pub(super) edge: &'e HttpEdge,
    pub(super) metrics: &'e ListenerMetrics,
    /// The listener's address as it is written in the configuration.
    pub(super) listener: &'e str,
}

impl HttpsEdge<'_> {
    /// Shakes hands. `Err`: the connection is over, and why.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        tls: &ServerTls,
        stages: &StageWatch,
    ) -> Result<Handshaken, Reason> {
        let started = Instant::now();
        let local = stream.local_addr().map_err(|_| Reason::ClientClosed)?;
        let within = self.edge.limits().header_timeout;
        if !first_byte(&stream, stages, within).await {
            return Err(Reason::Drained);
        }
        let within = within.saturating_sub(started.elapsed());
        let shaking = handshake(stream, tls, within);
        let Some(shaken) = unless_cut(shaking, stages).await else {
            return Err(Reason::Drained);
        };
        let failed = match shaken {
            Ok(shaken) => {
                self.metrics.handshaken(shaken.client.version);
                return Ok(shaken);
            }
            Err(failed) => failed,
        };
        self.metrics.handshake_failed(failed.cause.as_str());
        debug!(
            "{}: no TLS with {client}: {} ({})",
            self.listener,
            failed.cause.as_str(),
            failed.detail
        );
        let reason = reason(failed.cause);
        if failed.cause == FailureCause::NotTls {
            self.edge.refused(&RefusedRequest {
                client,
                local,
                listener: self.listener,
                status: PLAIN.status,
                reason: PLAIN.reason,
                why: PLAIN.why,
                head_started: started,
                bytes: 0,
                method: None,
                target: None,
            });
        }
        answer(failed).await;
        Err(reason)
    }
}

/// The connection limit is reached: no handshake, an alert.
pub(super) async fn turn_away(stream: TcpStream) {
    let mut socket = Transport::from(stream);
    if socket.write_all(&alert(Alert::InternalError)).await.is_ok() {
        linger(socket).await;
    }
}

/// Lets the client read why.
async fn answer(failed: HandshakeFailed) {
    let Some(socket) = failed.socket else { return };
    let socket = Transport::from(socket);
    match failed.cause {
        FailureCause::NotTls => refuse_head(socket, PLAIN, None).await,
        _ => linger(socket).await,
    }
}

fn reason(cause: FailureCause) -> Reason {
    match cause {
        FailureCause::Timeout => Reason::HeaderTimeout,
        FailureCause::ClientClosed => Reason::ClientClosed,
        _ => Reason::BadRequest,
    }
}

/// The outcome of a handshake, or `None` when the drain cuts it off.
async fn unless_cut<T>(shaking: impl Future<Output = T>, stages: &StageWatch) -> Option<T> {
    let mut shaking = pin!(shaking);
    poll_fn(|cx| {
        if let Poll::Ready(done) = shaking.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        stages.poll(Stage::Cut, cx).map(|()| None)
    })
    .await
}

/// What a client that speaks HTTP without TLS reads.
const PLAIN: Refusal = Refusal {
    status: 400,
    reason: Reason::BadRequest,
    why: "this port speaks TLS: use https",
};
