//! The life of one HTTP/1 connection: head, session, head, session, until one side is done.
//!
//! It replaces the loop at the end of Pingora's `ServerApp::process_new` (pingora-core 0.9.1),
//! whose head reading has no deadline, no strictness and no hook. Invariant: a Pingora session is
//! made only for a head that is whole and was scanned, so whatever Pingora would refuse by itself,
//! unlogged, never reaches it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora_core::apps::{HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::timeout;

use super::io::{Gate, GateStream, HeadBounds, RefusedHead, SocketHandle};
use crate::error::Reason;
use crate::http::arrival::{Arrival, Connection};
use crate::http::deadline::{self, Clock, Cutoff};
use crate::server::drain::stages::{Stage, StageWatch};
use crate::server::edge::refusal;

/// What the connection loop asks of whoever owns the configuration and the logs.
pub trait Edge: Send + Sync {
    /// The limits for the next head. Asked at each head, because a reload may change them.
    fn limits(&self) -> EdgeLimits;

    /// A head was refused; there will be no request for it. Called before the answer is sent.
    fn refused(&self, request: &RefusedRequest<'_>);
}

/// Bounds of one head.
#[derive(Clone, Copy, Debug)]
pub struct EdgeLimits {
    /// Size of a head and of a trailer section, at most [`MAX_HEADER_BYTES`].
    pub max_header_bytes: usize,
    /// From a head's first byte to its last; also how long a new connection may say nothing.
    pub header_timeout: Duration,
    /// Between two requests.
    pub keepalive_timeout: Duration,
}

/// A request that never became one.
#[derive(Debug)]
pub struct RefusedRequest<'a> {
    /// The TCP peer, which may be a proxy: no header was trusted yet.
    pub client: SocketAddr,
    /// The address of this gateway that the client connected to.
    pub local: SocketAddr,
    /// The listener's address as it is written in the configuration.
    pub listener: &'a str,
    /// What the client was answered.
    pub status: u16,
    /// The word for metrics and the access log.
    pub reason: Reason,
    /// What was wrong with the head, for the log.
    pub why: &'static str,
    /// When the head's first byte was there.
    pub head_started: Instant,
    /// How many bytes had arrived.
    pub bytes: usize,
    /// As the client sent it; there if the request line was well formed.
    pub method: Option<&'a str>,
    /// As the client sent it; there if the request line was well formed.
    pub target: Option<&'a str>,
}

/// What makes connections end. In steps, because between them clients that keep connections open
/// must have the chance to receive `Connection: close`.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Responses say `Connection: close` from now on.
    pub announce: watch::Receiver<bool>,
    /// When connections between two requests close (one that is inside a head finishes it), and
    /// when requests under way end, because the drain is over.
    pub stages: StageWatch,
}

/// Serves one connection until it is closed, lingering included, and returns why it ended: `Ok`
/// when it ended after a request, as keep-alive connections do.
///
/// Spawns nothing; dropping the future closes the connection.
pub fn serve<A, E>(
    app: &Arc<A>,
    edge: &E,
    stream: GateStream,
    listener: Arc<str>,
    stop: Stop,
) -> impl Future<Output = Reason> + Send
where
    A: HttpServerApp + Send + Sync + 'static,
    E: Edge + ?Sized,
{
    // Boxed out here: an async fn keeps room for its arguments for as long as it lives.
    let (stream, stop) = (Box::new(stream), Box::new(stop));
    run(app, edge, stream, listener, stop)
}

async fn run<A, E>(
    app: &Arc<A>,
    edge: &E,
    mut stream: Box<GateStream>,
    listener: Arc<str>,
    stop: Box<Stop>,
) -> Reason
where
    A: HttpServerApp + Send + Sync + 'static,
    E: Edge + ?Sized,
{
    let socket_handle = stream.socket_handle();
    let mut requests = 0;
    let connection = Arc::new(Connection::new(stream.client(), stream.tls().cloned()));
    // One after the other, its requests share these.
    let cutoff = Arc::new(Cutoff::default());
    let mut clock = Clock::default();
    loop {
        let bounds = bounds(edge, requests);
        let head = match stream.await_head(&bounds, &stop.stages, &mut clock).await {
            Gate::Head(head) => head,
            Gate::Left if requests > 0 => return Reason::Ok,
            Gate::Left => return Reason::ClientClosed,
            Gate::Closed(reason) => return reason,
            Gate::Refused(refused) => {
                report(edge, &refused, &stream, &listener);
                if let Some(socket) = stream.into_socket() {
                    let method = refused.method.as_deref();
                    // Boxed: an idle connection must not keep room for it.
                    Box::pin(refusal::refuse_head(socket, refused.refusal, method)).await;
                }
                return refused.refusal.reason;
            }
        };
        let arrival = Arrival {
            client: stream.client(),
            local: stream.local(),
            listener: listener.clone(),
            head_read: head.read.into_std(),
            requests_before: requests,
            last: head.connection_close,
            cutoff: cutoff.clone(),
            connection: connection.clone(),
        };
        let request = app.process_new_http(session(stream, arrival), &stop.announce);
        let request = deadline::watch(
            &cutoff,
            &mut clock,
            || socket_handle.client_reads(),
            request,
        );
        // Boxed: an idle connection must not keep room for it.
        let reused = Box::pin(until_cut(request, &stop.stages, &socket_handle)).await;
        requests += 1;
        // Pingora itself looks at the first `Connection` field only.
        stream = match reused.and_then(gate_of) {
            Some(stream) if !head.connection_close => stream,
            _ => break,
        };
        // Pingora flushes what it has finished, so this is for applications of another kind.
        if !stream.is_flushed() {
            let _ = timeout(bounds.whole, stream.flush()).await;
        }
        if !stream.is_reusable() {
            drop(stream);
            break;
        }
    }
    if let Some(socket) = socket_handle.take() {
        refusal::linger(socket).await;
    }
    Reason::Ok
}

/// Polls `request` to its end. Whenever nothing more can be done, what it has written so far is
/// sent, so that a small response which comes in pieces does not wait for its last one; one that
/// comes in one piece was sent whole before. When requests are cut off its client's socket is shut
/// down, so that it ends as with any client that leaves, its last record included.
async fn until_cut<F: Future>(
    request: F,
    stages: &StageWatch,
    socket_handle: &SocketHandle,
) -> F::Output {
    let mut request = pin!(request);
    let mut cut = false;
    poll_fn(|cx| {
        let mut output = request.as_mut().poll(cx);
        if output.is_pending() && socket_handle.send_on() {
            output = request.as_mut().poll(cx);
        }
        if output.is_pending() && !cut && stages.poll(Stage::Cut, cx).is_ready() {
            cut = true;
            socket_handle.cut();
            return request.as_mut().poll(cx);
        }
        output
    })
    .await
}

/// The bounds of the next head.
fn bounds(edge: &(impl Edge + ?Sized), requests: u64) -> HeadBounds {
    let limits = edge.limits();
    HeadBounds {
        max_bytes: limits.max_header_bytes.min(MAX_HEADER_BYTES),
        idle: match requests {
            0 => limits.header_timeout,
            _ => limits.keepalive_timeout,
        },
        whole: limits.header_timeout,
    }
}

fn report(
    edge: &(impl Edge + ?Sized),
    refused: &RefusedHead,
    stream: &GateStream,
    listener: &Arc<str>,
) {
    edge.refused(&RefusedRequest {
        client: stream.client(),
        local: stream.local(),
        listener,
        status: refused.refusal.status,
        reason: refused.refusal.reason,
        why: refused.refusal.why,
        head_started: refused.started.into_std(),
        bytes: refused.bytes,
        method: refused.method.as_deref(),
        target: refused.target.as_deref(),
    });
}

/// A session for the head that `stream` holds. Apart from the loop, whose future would keep room
/// for it for as long as the connection is open.
fn session(stream: Box<GateStream>, arrival: Arrival) -> ServerSession {
    let mut session = ServerSession::new_http1(stream);
    // 0 means reusable and without a timeout: the head is here already. Once it is read, Pingora
    // replaces this by what the client's version and `Connection` field ask for.
    session.set_keepalive(Some(0));
    session.set_connection_user_context(Some(Box::new(arrival)));
    session
}

/// The stream that a session was made of. What else Pingora carries over is of no use here: the
/// keep-alive time is the gate's, and no session ever sees a pipelined byte.
fn gate_of(reused: ReusedHttpStream) -> Option<Box<GateStream>> {
    let (stream, _) = reused.consume();
    stream.into_any().downcast().ok()
}

/// Pingora 0.9.1 stops reading a head after 1 MiB.
pub const MAX_HEADER_BYTES: usize = 1_048_575;

#[cfg(test)]
mod proxied;
#[cfg(test)]
mod tests;
