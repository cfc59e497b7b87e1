//! The life of one HTTP/2 connection: preface, streams, GOAWAY.
//!
//! Bounds, each with what becomes of it: the preface (`header_timeout_ms`), a head (`max_header_bytes`
//! and 256 fields: 431), streams at once (`max_concurrent_streams`, and `max_streams` of the whole
//! gateway: REFUSED_STREAM, which a client may send again), malformed requests and streams that are
//! reset before a response (a hundred in ten seconds: ENHANCE_YOUR_CALM), silence without streams
//! (`idle_timeout_secs`: GOAWAY first), a client that is gone (`ping_interval_secs`), age
//! (`max_connection_age_secs`), a drain (GOAWAY, then a cut). Invariant: polling the connection is what
//! drives all its streams, so nothing here waits for anything else. Long because all bounds are clocks and
//! counts of one loop.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason as Http2Reason, RecvStream};
use http::{Request, Response, StatusCode, header};
use log::debug;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::{Digest, SocketDigest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::head::{self, RefusedStream};
use super::stream::StreamSession;
use crate::config::Http2;
use crate::error::Reason;
use crate::http::arrival::{Arrival, Connection};
use crate::http::deadline::{self, Clock, Cutoff};
use crate::http::respond::problem;
use crate::server::drain::Connections;
use crate::server::drain::stages::Stage;
use crate::server::edge::http1::connection::{Edge, EdgeLimits, RefusedRequest, Stop};
use crate::telemetry::ListenerMetrics;
use crate::tls::ClientTls;

/// A connection whose client speaks HTTP/2.
pub(in crate::server::edge) struct Http2Accepted<T> {
    /// From the preface on.
    pub(in crate::server::edge) io: T,
    /// The descriptor below it.
    pub(in crate::server::edge) descriptor: std::os::fd::RawFd,
    pub(in crate::server::edge) client: SocketAddr,
    pub(in crate::server::edge) local: SocketAddr,
    pub(in crate::server::edge) tls: Option<Arc<ClientTls>>,
    /// The listener's address as it is written in the configuration.
    pub(in crate::server::edge) listener: Arc<str>,
}

impl Http2Accepted<()> {
    /// Over this.
    pub(in crate::server::edge) fn with<T>(self, io: T) -> Http2Accepted<T> {
        Http2Accepted {
            io,
            descriptor: self.descriptor,
            client: self.client,
            local: self.local,
            tls: self.tls,
            listener: self.listener,
        }
    }
}

/// What bounds it.
pub(in crate::server::edge) struct Http2Bounds<'e> {
    pub(in crate::server::edge) http2: Http2,
    /// Where refused streams are counted.
    pub(in crate::server::edge) metrics: &'e ListenerMetrics,
    /// Streams of the whole gateway.
    pub(in crate::server::edge) streams: &'e Connections,
}

/// Serves one connection until it is closed, and returns why it ended.
pub(in crate::server::edge) async fn serve<A, E, T>(
    app: &Arc<A>,
    edge: &E,
    accepted: Http2Accepted<T>,
    bounds: Http2Bounds<'_>,
    stop: Stop,
) -> Reason
where
    A: HttpServerApp + Send + Sync + 'static,
    E: Edge + ?Sized,
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let limits = edge.limits();
    let builder = builder(&bounds.http2, &limits);
    let io = accepted.io;
    let shaking = builder.handshake::<T, Bytes>(io);
    let io = match timeout(limits.header_timeout, shaking).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            debug!(
                "{}: no HTTP/2 with {}: {error}",
                accepted.listener, accepted.client
            );
            return Reason::BadRequest;
        }
        Err(_) => return Reason::HeaderTimeout,
    };
    let shared = ConnectionShared {
        arrival: Template {
            client: accepted.client,
            local: accepted.local,
            listener: accepted.listener,
            connection: Arc::new(Connection::http2(accepted.client, accepted.tls)),
        },
        digest: Arc::new(digest(accepted.descriptor, accepted.client, accepted.local)),
        running: Arc::default(),
    };
    let now = Instant::now();
    let age = bounds.http2.max_connection_age.map(jittered);
    let mut connection = Http2Connection {
        io,
        streams: 0,
        idle_since: Some(now),
        leaving: None,
        too_old: age.and_then(|age| now.checked_add(age)),
        pinging: Pinging::None,
        strikes: Strikes::default(),
        limits,
    };
    connection.run(app, edge, &shared, &bounds, stop).await
}

fn builder(http2: &Http2, limits: &EdgeLimits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    // A list counts 32 bytes more for each field (RFC 9113, section 6.5.2) than the head has in
    // HTTP/1; what is between the two limits is answered by us, and logged.
    let list = limits.max_header_bytes.saturating_add(MAX_FIELDS * 32);
    builder
        .max_concurrent_streams(http2.max_concurrent_streams)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET);
    builder
}

/// What all streams of a connection have in common.
struct ConnectionShared {
    arrival: Template,
    digest: Arc<Digest>,
    running: Arc<RunningStreams>,
}

struct Template {
    client: SocketAddr,
    local: SocketAddr,
    listener: Arc<str>,
    connection: Arc<Connection>,
}

/// The streams that run, as their tasks leave word of it.
#[derive(Default)]
struct RunningStreams {
    count: AtomicUsize,
    /// Given up by the client before a response, since this was looked at.
    reset_early: AtomicU32,
    ended: Notify,
}

/// Counts a stream until it is dropped.
struct RunningStream(Arc<RunningStreams>);

impl RunningStream {
    fn new(running: &Arc<RunningStreams>) -> RunningStream {
        running.count.fetch_add(1, Ordering::Relaxed);
        RunningStream(running.clone())
    }
}

impl Drop for RunningStream {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Release);
        self.0.ended.notify_one();
    }
}

struct Http2Connection<T> {
    io: h2::server::Connection<T, Bytes>,
    /// How many there were.
    streams: u64,
    /// Since when no stream runs.
    idle_since: Option<Instant>,
    /// GOAWAY was sent then.
    leaving: Option<Instant>,
    /// GOAWAY is sent then.
    too_old: Option<Instant>,
    pinging: Pinging,
    strikes: Strikes,
    limits: EdgeLimits,
}

/// Whether the client is there.
enum Pinging {
    /// Nobody asks.
    None,
    /// It is asked at this time.
    At(Instant),
    /// It was asked, and has until then.
    Asked(Instant),
}

/// What a client does that costs us more than it.
#[derive(Default)]
struct Strikes {
    since: Option<Instant>,
    count: u32,
}

impl Strikes {
    /// Whether these are too many in too short a time.
    fn add(&mut self, more: u32) -> bool {
        let now = Instant::now();
        if self.since.is_none_or(|since| now - since > STRIKES_WITHIN) {
            self.since = Some(now);
            self.count = 0;
        }
        self.count = self.count.saturating_add(more);
        self.count > MAX_STRIKES
    }
}

/// What happened to the connection.
#[expect(
    clippy::large_enum_variant,
    reason = "moved once; a box would be one for each request"
)]
enum ConnectionEvent {
    Cut,
    Announced,
    StreamEnded,
    Pong,
    Time,
    Stream(Request<RecvStream>, SendResponse<Bytes>),
    Broken(h2::Error),
    Over,
}

impl<T> Http2Connection<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    async fn run<A, E>(
        &mut self,
        app: &Arc<A>,
        edge: &E,
        shared: &ConnectionShared,
        bounds: &Http2Bounds<'_>,
        stop: Stop,
    ) -> Reason
    where
        A: HttpServerApp + Send + Sync + 'static,
        E: Edge + ?Sized,
    {
        let mut announce = stop.announce.clone();
        let mut ping_pong = self.io.ping_pong();
        loop {
            let event = {
                let next = self.next_time(&bounds.http2);
                let asked = matches!(self.pinging, Pinging::Asked(_));
                let leaving = self.leaving.is_some();
                tokio::select! {
                    biased;
                    () = poll_fn(|cx| stop.stages.poll(Stage::Cut, cx)) => ConnectionEvent::Cut,
                    _ = announce.wait_for(|closing| *closing), if !leaving => ConnectionEvent::Announced,
                    () = shared.running.ended.notified() => ConnectionEvent::StreamEnded,
                    event = poll_fn(|cx| poll_accept(&mut self.io, cx)) => event,
                    () = poll_fn(|cx| poll_pong(&mut ping_pong, cx)), if asked => ConnectionEvent::Pong,
                    () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => ConnectionEvent::Time,
                }
            };
            match event {
                ConnectionEvent::Cut => {
                    self.end(Http2Reason::NO_ERROR).await;
                    return Reason::Drained;
                }
                ConnectionEvent::Announced => self.leave(),
                ConnectionEvent::StreamEnded => {
                    let resets = shared.running.reset_early.swap(0, Ordering::Relaxed);
                    if resets > 0 && self.strikes.add(resets) {
                        self.end(Http2Reason::ENHANCE_YOUR_CALM).await;
                        return Reason::BadRequest;
                    }
                }
                ConnectionEvent::Pong => self.pinging = Pinging::None,
                ConnectionEvent::Time => {
                    if let Some(reason) = self.on_time(&bounds.http2, ping_pong.as_mut()) {
                        self.end(Http2Reason::NO_ERROR).await;
                        return reason;
                    }
                }
                ConnectionEvent::Stream(request, respond) => {
                    self.streams += 1;
                    if self.open(app, edge, shared, bounds, &stop, request, respond) {
                        self.end(Http2Reason::ENHANCE_YOUR_CALM).await;
                        return Reason::BadRequest;
                    }
                }
                ConnectionEvent::Broken(error) => {
                    debug!("connection from {} broke: {error}", shared.arrival.client);
                    return match error.is_io() || error.is_remote() {
                        true => Reason::ClientClosed,
                        false => Reason::BadRequest,
                    };
                }
                ConnectionEvent::Over => return Reason::Ok,
            }
            let is_idle = shared.running.count.load(Ordering::Acquire) == 0;
            self.idle_since = match (is_idle, self.idle_since) {
                (false, _) => None,
                (true, None) => Some(Instant::now()),
                (true, since) => since,
            };
            self.pinging = match (is_idle, &self.pinging) {
                (true, _) => Pinging::None,
                (false, Pinging::None) => Pinging::At(Instant::now() + bounds.http2.ping_interval),
                (false, Pinging::At(at)) => Pinging::At(*at),
                (false, Pinging::Asked(until)) => Pinging::Asked(*until),
            };
        }
    }

    /// When something is to be done although nothing happens.
    fn next_time(&self, http2: &Http2) -> Option<Instant> {
        let idle = self.idle_since.map(|since| match self.leaving {
            Some(left) => since.max(left) + LEAVING,
            None => since + http2.idle_timeout,
        });
        let ping = match self.pinging {
            Pinging::None => None,
            Pinging::At(at) | Pinging::Asked(at) => Some(at),
        };
        let age = self.too_old.filter(|_| self.leaving.is_none());
        [idle, ping, age].into_iter().flatten().min()
    }

    /// Does what is due. `Some`: the connection is over.
    fn on_time(&mut self, http2: &Http2, ping_pong: Option<&mut PingPong>) -> Option<Reason> {
        let now = Instant::now();
        if let Some(since) = self.idle_since {
            match self.leaving {
                Some(left) if since.max(left) + LEAVING <= now => return Some(Reason::IdleTimeout),
                None if since + http2.idle_timeout <= now => self.leave(),
                _ => {}
            }
        }
        match self.pinging {
            Pinging::Asked(until) if until <= now => return Some(Reason::PeerTimeout),
            Pinging::At(at) if at <= now => {
                let sent = ping_pong.map(|ping| ping.send_ping(Ping::opaque()));
                self.pinging = match sent {
                    Some(Ok(())) => Pinging::Asked(now + PONG_WITHIN),
                    _ => Pinging::At(now + http2.ping_interval),
                };
            }
            _ => {}
        }
        if self.too_old.is_some_and(|at| at <= now) {
            self.leave();
        }
        None
    }

    /// Asks the client to open no more streams (RFC 9113, section 6.8); those that run go on.
    fn leave(&mut self) {
        if self.leaving.is_none() {
            self.leaving = Some(Instant::now());
            self.io.graceful_shutdown();
        }
    }

    /// Ends the connection and what runs on it.
    async fn end(&mut self, reason: Http2Reason) {
        self.io.abrupt_shutdown(reason);
        let closed = poll_fn(|cx| self.io.poll_closed(cx));
        // Over time is as good: it closes either way.
        let _ = timeout(LAST_WORDS, closed).await;
    }

    /// Begins a stream. True when the client is to be calmed down.
    #[allow(clippy::too_many_arguments)]
    fn open<A, E>(
        &mut self,
        app: &Arc<A>,
        edge: &E,
        shared: &ConnectionShared,
        bounds: &Http2Bounds<'_>,
        stop: &Stop,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> bool
    where
        A: HttpServerApp + Send + Sync + 'static,
        E: Edge + ?Sized,
    {
        let read = std::time::Instant::now();
        let Some(counted) = bounds.streams.open(bounds.http2.max_streams) else {
            bounds.metrics.rejected(Reason::TooManyConnections);
            respond.send_reset(Http2Reason::REFUSED_STREAM);
            return false;
        };
        let (parts, body) = request.into_parts();
        let max_bytes = self.limits.max_header_bytes;
        let mut request = match head::checked(parts, body.is_end_stream(), max_bytes) {
            Ok(request) => request,
            Err(refused) => {
                report(edge, shared, &refused, read);
                refuse(&mut respond, &refused);
                return self.strikes.add(1);
            }
        };
        let cutoff = Arc::new(Cutoff::default());
        let from = &shared.arrival;
        request.extensions_mut().insert(Arrival {
            client: from.client,
            local: from.local,
            listener: from.listener.clone(),
            head_read: read,
            requests_before: self.streams - 1,
            last: false,
            cutoff: cutoff.clone(),
            connection: from.connection.clone(),
        });
        let session = StreamSession::new(request, body, respond, shared.digest.clone());
        let watch = session.watch();
        let running = RunningStream::new(&shared.running);
        let (app, announce) = (app.clone(), stop.announce.clone());
        tokio::spawn(async move {
            let _counted = counted;
            let mut clock = Clock::default();
            let session = ServerSession::new_custom(Box::new(session));
            let request = app.process_new_http(session, &announce);
            let reads = || watch.client_reads();
            deadline::watch(&cutoff, &mut clock, reads, request).await;
            if watch.was_reset_early() {
                running.0.reset_early.fetch_add(1, Ordering::Relaxed);
            }
        });
        false
    }
}

fn poll_accept<T>(
    io: &mut h2::server::Connection<T, Bytes>,
    cx: &mut Context<'_>,
) -> Poll<ConnectionEvent>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    io.poll_accept(cx).map(|accepted| match accepted {
        Some(Ok((request, respond))) => ConnectionEvent::Stream(request, respond),
        Some(Err(error)) => ConnectionEvent::Broken(error),
        None => ConnectionEvent::Over,
    })
}

fn poll_pong(ping_pong: &mut Option<PingPong>, cx: &mut Context<'_>) -> Poll<()> {
    match ping_pong {
        // An error is the connection's end, too.
        Some(ping_pong) => ping_pong.poll_pong(cx).map(|_| ()),
        None => Poll::Pending,
    }
}

fn report<E: Edge + ?Sized>(
    edge: &E,
    shared: &ConnectionShared,
    refused: &RefusedStream,
    read: std::time::Instant,
) {
    edge.refused(&RefusedRequest {
        client: shared.arrival.client,
        local: shared.arrival.local,
        listener: &shared.arrival.listener,
        status: refused.refusal.status,
        reason: refused.refusal.reason,
        why: refused.refusal.why,
        head_started: read,
        bytes: 0,
        method: Some(refused.method.as_str()),
        target: Some(&refused.target),
    });
}

/// Answers a request that does not pass.
fn refuse(respond: &mut SendResponse<Bytes>, refused: &RefusedStream) {
    let refusal = &refused.refusal;
    let body = problem(refusal.status, refusal.reason, Some(refusal.why));
    let mut response = Response::new(());
    *response.status_mut() =
        StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    let fields = response.headers_mut();
    let json = header::HeaderValue::from_static("application/problem+json");
    fields.insert(header::CONTENT_TYPE, json);
    fields.insert(header::CONTENT_LENGTH, body.len().into());
    let no_body = refused.method == http::Method::HEAD;
    // A client that is gone reads nothing.
    if let Ok(mut send) = respond.send_response(response, no_body)
        && !no_body
    {
        let _ = send.send_data(Bytes::from(body), true);
    }
}

fn digest(descriptor: std::os::fd::RawFd, client: SocketAddr, local: SocketAddr) -> Digest {
    let socket = SocketDigest::from_raw_fd(descriptor);
    let _ = socket.peer_addr.set(Some(client.into()));
    let _ = socket.local_addr.set(Some(local.into()));
    Digest {
        socket_digest: Some(Arc::new(socket)),
        ..Digest::default()
    }
}

/// A tenth more or less, so that clients do not come back all at once.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(rand::random_range(0.9..1.1))
}

/// As the HTTP/1 scanner.
const MAX_FIELDS: usize = 256;

/// What one stream may send ahead, and all together.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// Of one stream, on its way to a client that does not read.
const SEND_BUFFER: usize = 64 * 1024;

/// Charged for small DATA frames that wait to be read: ten thousand small messages pass.
const DATA_FRAME_BUDGET: usize = 4 << 20;

/// More malformed or abandoned streams than these in that time are an attack.
const MAX_STRIKES: u32 = 100;
const STRIKES_WITHIN: Duration = Duration::from_secs(10);

/// How long a client may take to close after GOAWAY.
const LEAVING: Duration = Duration::from_secs(5);

/// How long it may take to answer a PING.
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// For a last GOAWAY to be sent.
const LAST_WORDS: Duration = Duration::from_secs(1);
