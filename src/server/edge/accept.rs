//! The one Pingora service that accepts on every listening socket.
//!
//! Pingora's own gives each service a runtime, cannot change listeners while it runs, and panics in
//! a task when a bind fails. Invariants: each accept loop runs in one of the `workers` and gives
//! its connections to all of them; a connection is counted before it is spawned and uncounted by
//! Drop. In the service's own runtime, whose threads share their work, run the admin listener, so
//! that it answers whatever the workers do, and the HTTP connections of a configuration that limits
//! connections to servers. `assembled.rs` adds it to the Pingora server. Long because the accept
//! loops of traffic and of admin share one set of pauses, counts and refusals.

mod socket;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use log::{debug, info, warn};
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::{ServiceReadyNotifier, ServiceWithDependents};
use pingora_proxy::HttpProxy;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::socket::Watched;
use crate::config::Http2;
use crate::error::Reason;
use crate::http::Proxy;
use crate::http::respond::RETRY_AFTER_SECS;
use crate::server::drain::{Connections, Drain, Exit};
use crate::server::edge::change::Change;
use crate::server::edge::first_byte::first_byte;
use crate::server::edge::http_edge::HttpEdge;
use crate::server::edge::http1::connection::{self, Edge, Stop};
use crate::server::edge::http1::io::GateStream;
use crate::server::edge::http2::{self, FirstBytes, Prefixed};
use crate::server::edge::https::{self, HttpsEdge};
use crate::server::edge::listener::{Identity, Kind, Listener};
use crate::server::edge::refusal::refuse;
use crate::server::edge::workers::{WorkerId, Workers};
use crate::server::lifecycle::admin::Admin;
use crate::server::lifecycle::handoff::old::ListeningSockets;
use crate::snapshot::SnapshotHandle;
use crate::tcp::{Accepted, Sessions};
use crate::telemetry::ListenerMetrics;
use crate::tls::ServerTls;
use crate::upstream::FailureLog;

/// What all listeners of a gateway share.
pub struct Edges {
    /// The snapshot in force, loaded anew for each accepted connection.
    pub snapshots: SnapshotHandle,
    /// The drain that ends the accept loops, and the count for `max_connections`.
    pub drain: Arc<Drain>,
    /// The sockets of the running accept loops, which an upgrade hands to its successor.
    pub accepting: ListeningSockets,
    /// The threads that accept on HTTP and TCP listeners and carry the connections.
    pub workers: Workers,
    /// Pingora's proxy with our hooks: the application of every HTTP listener.
    pub http: Arc<HttpProxy<Proxy>>,
    /// Limits and refusals of the HTTP listeners; counted in the metrics of traffic.
    pub http_edge: Arc<HttpEdge>,
    /// How many streams of HTTP/2 run, on all connections (`http2.max_streams`).
    pub streams: Connections,
    /// The application of the admin listener (`admin.listen_addr`).
    pub admin: Arc<Admin>,
    /// Limits and refusals of the admin listener; not counted in the metrics of traffic.
    pub admin_edge: Arc<HttpEdge>,
    /// Carries the connections of TCP listeners.
    pub sessions: Arc<Sessions>,
}

/// What happens around the first accept.
#[async_trait]
pub trait Launch: Send + Sync {
    /// Awaited before anything is accepted. False: nothing ever is, the gateway is about to end.
    async fn before(&mut self) -> bool;

    /// Awaited once every listener accepts.
    async fn accepting(&mut self);
}

/// The service.
pub struct Listeners {
    /// Threads of the service's own runtime: `server.threads`, by default one for each CPU.
    pub threads: usize,
    /// Handed to each accept loop, those of listeners that a reload adds included.
    pub edges: Arc<Edges>,
    /// Those bound before the start; drained when the service starts.
    pub listeners: Vec<Listener>,
    /// Listeners that reloads add and remove. Its end leaves the running ones as they are.
    pub changes: mpsc::Receiver<Change>,
    /// Runs before the first accept (it may refuse) and after the last listener accepts.
    pub launch: Box<dyn Launch>,
}

#[async_trait]
impl ServiceWithDependents for Listeners {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        if !self.launch.before().await {
            // Nobody depends on this service; the shutdown under way ends it.
            return std::future::pending().await;
        }
        // Every socket is bound, so who connects is answered. Said first: `/readyz` may be asked as
        // soon as the first one accepts, and at an upgrade it must not say no in between.
        self.edges.drain.set_ready();
        let mut running = Vec::new();
        for listener in self.listeners.drain(..) {
            running.extend(start(listener, &self.edges));
        }
        ready.notify_ready();
        self.launch.accepting().await;
        while let Some(change) = self.changes.recv().await {
            for identity in &change.remove {
                while let Some(at) = running.iter().position(|(this, _)| this == identity) {
                    let (_, accepting) = running.swap_remove(at);
                    accepting.abort();
                    // The socket is closed only when the task is gone.
                    let _ = accepting.await;
                }
            }
            for listener in change.add {
                running.extend(start(listener, &self.edges));
            }
            let _ = change.done.send(());
        }
        // Connections still run in this runtime; the drain decides when it ends.
        std::future::pending::<()>().await;
    }

    fn name(&self) -> &str {
        "listeners"
    }

    fn threads(&self) -> Option<usize> {
        Some(self.threads)
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        let addresses = self.listeners.iter().map(|l| l.bound.text.to_string());
        Some(addresses.collect())
    }
}

/// Its accept loops: several for traffic, so that a connection mostly starts where it stays.
fn start(listener: Listener, edges: &Arc<Edges>) -> Vec<(Identity, JoinHandle<()>)> {
    let Listener {
        identity,
        bound,
        metrics,
    } = listener;
    let socket = Arc::new(bound.socket);
    edges.accepting.note(identity, &socket);
    let context = AcceptContext {
        identity,
        text: bound.text,
        addr: bound.addr,
        metrics,
        socket,
        refusing: Connections::default(),
        trouble: Arc::default(),
    };
    if identity.kind == Kind::Admin {
        info!("admin on {}", context.addr);
        let accepting = tokio::spawn(accept_admin(context, edges.clone()));
        return vec![(identity, accepting)];
    }
    info!("listening on {}", context.addr);
    let service = Handle::current();
    let accept_in = |place| {
        let accepting = accept_traffic(context.clone(), edges.clone(), place, service.clone());
        (identity, edges.workers.at(place).spawn(accepting))
    };
    edges.workers.for_listener().map(accept_in).collect()
}

/// A listener in its accept loops.
#[derive(Clone)]
struct AcceptContext {
    identity: Identity,
    text: Arc<str>,
    addr: SocketAddr,
    metrics: ListenerMetrics,
    /// Whoever else looks at it does not keep it.
    socket: Arc<TcpListener>,
    /// Clients that are being refused, at most `MAX_REFUSING`.
    refusing: Connections,
    trouble: Arc<FailureLog>,
}

async fn accept_traffic(
    context: AcceptContext,
    edges: Arc<Edges>,
    here: WorkerId,
    service: Handle,
) {
    let AcceptContext {
        identity,
        text,
        addr: _,
        metrics,
        socket,
        refusing,
        trouble,
    } = context;
    let drain = &edges.drain;
    let _accepting = drain.accept_loop();
    let mut stop = drain.stop_accepting();
    let stops = Stop {
        announce: drain.announce(),
        stages: drain.stages(),
    };
    let Some(socket) = watched(socket, &text) else {
        return;
    };
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = socket.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error, &text, &trouble).await;
                continue;
            }
        };
        accepts(&text, &trouble);
        let snapshot = edges.snapshots.load();
        let table = match identity.kind {
            Kind::Tcp => match snapshot.tcp_table(identity.configured) {
                Some(table) => Some(table.clone()),
                // The snapshot changed a moment before this listener is closed.
                None => continue,
            },
            Kind::Http | Kind::Https | Kind::Admin => None,
        };
        let Some(open) = drain.connections.open(snapshot.config.max_connections) else {
            metrics.rejected(Reason::TooManyConnections);
            match &table {
                None => edges.http_edge.turned_away(client, &text),
                Some(_) => edges.sessions.record_turned_away(client, &text),
            }
            let Some(place) = refusing.open(MAX_REFUSING) else {
                continue;
            };
            let (sessions, text) = (edges.sessions.clone(), text.clone());
            tokio::spawn(async move {
                let _place = place;
                let Some(stream) = served_here(stream, client) else {
                    return;
                };
                match table {
                    None if identity.kind == Kind::Https => https::turn_away(stream).await,
                    None => refuse(stream.into(), 503, Some(RETRY_AFTER_SECS)).await,
                    Some(table) => {
                        let accepted = Accepted {
                            stream: stream.into(),
                            client,
                            first: BytesMut::new(),
                            listener: text,
                            table,
                            snapshot,
                            carried: None,
                        };
                        sessions.turn_away(accepted).await;
                    }
                }
            });
            continue;
        };
        let active = metrics.active();
        // Pingora hands a connection to a server over to another worker only by luck
        // (`connectors/mod.rs:258`: its watcher, woken in its own thread, may not have let go yet).
        let shared = table.is_none() && snapshot.counts_http_connections;
        let (worker, carried) = match shared {
            true => (&service, None),
            false => {
                let (worker, carried) = edges.workers.for_connection(here);
                (worker, Some(carried))
            }
        };
        let (edges, stops, text) = (edges.clone(), stops.clone(), text.clone());
        let metrics = metrics.clone();
        worker.spawn(async move {
            let _counted = (open, active);
            let Some(stream) = served_here(stream, client) else {
                return;
            };
            let reason = match table {
                None => {
                    let _carried = carried;
                    let tls = match identity.kind {
                        Kind::Https => snapshot.tls.as_ref().map(|tls| tls.load()),
                        _ => None,
                    };
                    let http2 = snapshot.config.http2.clone();
                    // Not kept: a connection may live for days.
                    drop(snapshot);
                    let accepted = HttpAccepted {
                        stream,
                        client,
                        text,
                        tls,
                        http2,
                    };
                    serve_http(&edges, accepted, &metrics, stops).await
                }
                Some(table) => {
                    let accepted = Accepted {
                        stream: stream.into(),
                        client,
                        first: BytesMut::new(),
                        listener: text,
                        table,
                        snapshot,
                        carried,
                    };
                    edges.sessions.serve(accepted).await
                }
            };
            let reason = match reason {
                Reason::Drained => edges.drain.reason(),
                reason => reason,
            };
            debug!("connection from {client} ended: {reason}");
        });
    }
}

/// `None`, which is logged: the system has no room for it.
fn watched(socket: Arc<TcpListener>, text: &str) -> Option<Watched> {
    Watched::new(socket)
        .inspect_err(|error| {
            log::error!("{text}: cannot be watched for connections: {error}");
        })
        .ok()
}

/// From here on events of the connection come to this thread.
fn served_here(stream: TcpStream, client: SocketAddr) -> Option<tokio::net::TcpStream> {
    tokio::net::TcpStream::from_std(stream)
        .inspect_err(|error| debug!("connection from {client} cannot be served: {error}"))
        .ok()
}

/// A connection of an HTTP listener.
struct HttpAccepted {
    stream: tokio::net::TcpStream,
    client: SocketAddr,
    /// The listener's address as it is written in the configuration.
    text: Arc<str>,
    /// What to shake hands with; `None`: plain HTTP.
    tls: Option<Arc<ServerTls>>,
    http2: Http2,
}

async fn serve_http(
    edges: &Edges,
    accepted: HttpAccepted,
    metrics: &ListenerMetrics,
    stops: Stop,
) -> Reason {
    let HttpAccepted {
        mut stream,
        client,
        text,
        tls,
        http2,
    } = accepted;
    let as_http2 = |socket: &tokio::net::TcpStream, tls| {
        Ok::<_, std::io::Error>(http2::connection::Http2Accepted {
            io: (),
            descriptor: socket.as_raw_fd(),
            client,
            local: socket.local_addr()?,
            tls,
            listener: text.clone(),
        })
    };
    let edge = edges.http_edge.as_ref();
    let gate = match tls {
        None if http2.h2c => {
            let within = edge.limits().header_timeout;
            if !first_byte(&stream, &stops.stages, within).await {
                return Reason::Drained;
            }
            // Boxed: an idle connection must not keep room for it.
            let reading = FirstBytes::read(&mut stream, within);
            let Ok(first) = Box::pin(reading).await else {
                return Reason::ClientClosed;
            };
            if first.is_http2 {
                let Ok(accepted) = as_http2(&stream, None) else {
                    return Reason::ClientClosed;
                };
                let accepted = accepted.with(Prefixed::new(first.bytes, stream.into()));
                return Box::pin(serve_http2(edges, accepted, http2, metrics, stops)).await;
            }
            GateStream::new(stream, client).map(|gate| gate.after(&first.bytes))
        }
        None => GateStream::new(stream, client),
        Some(tls) => {
            let https = HttpsEdge {
                edge,
                metrics,
                listener: &text,
            };
            match Box::pin(https.accept(stream, client, &tls, &stops.stages)).await {
                Ok(shaken) if shaken.client.is_http2 => {
                    let Ok(accepted) = as_http2(shaken.transport.socket(), Some(shaken.client))
                    else {
                        return Reason::ClientClosed;
                    };
                    let accepted = accepted.with(shaken.transport);
                    return Box::pin(serve_http2(edges, accepted, http2, metrics, stops)).await;
                }
                Ok(shaken) => {
                    let gate = GateStream::new(shaken.transport, client);
                    gate.map(|gate| gate.in_tls(shaken.client))
                }
                Err(reason) => return reason,
            }
        }
    };
    match gate {
        Ok(gate) => connection::serve(&edges.http, edge, gate, text, stops).await,
        Err(error) => {
            debug!("connection from {client} was gone at once: {error}");
            Reason::ClientClosed
        }
    }
}

async fn serve_http2<T>(
    edges: &Edges,
    accepted: http2::connection::Http2Accepted<T>,
    http2: Http2,
    metrics: &ListenerMetrics,
    stops: Stop,
) -> Reason
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let bounds = http2::connection::Http2Bounds {
        http2,
        metrics,
        streams: &edges.streams,
    };
    let edge = edges.http_edge.as_ref();
    http2::connection::serve(&edges.http, edge, accepted, bounds, stops).await
}

/// The admin listener answers until the very end, so that a drain can be watched; but not on a
/// socket that is another process's by then.
async fn accept_admin(context: AcceptContext, edges: Arc<Edges>) {
    let AcceptContext {
        text,
        socket,
        trouble,
        ..
    } = context;
    let mut left = edges.drain.left();
    let stops = Stop {
        announce: edges.drain.announce(),
        stages: edges.drain.stages(),
    };
    let open = Connections::default();
    let Some(socket) = watched(socket, &text) else {
        return;
    };
    loop {
        let accepted = tokio::select! {
            biased;
            _ = left.wait_for(|left| *left != Exit::Stay) => break,
            accepted = socket.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error, &text, &trouble).await;
                continue;
            }
        };
        accepts(&text, &trouble);
        let Some(open) = open.open(MAX_ADMIN_CONNECTIONS) else {
            continue;
        };
        let (edges, stops, text) = (edges.clone(), stops.clone(), text.clone());
        tokio::spawn(async move {
            let _open = open;
            let Some(stream) = served_here(stream, client) else {
                return;
            };
            if let Ok(stream) = GateStream::new(stream, client) {
                let edge = edges.admin_edge.as_ref();
                connection::serve(&edges.admin, edge, stream, text, stops).await;
            }
        });
    }
}

/// Out of descriptors or memory: accepting again at once would only spin.
async fn pause_after(error: &std::io::Error, listener: &str, trouble: &FailureLog) {
    use std::io::ErrorKind::*;
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    ) {
        return;
    }
    if let Some(unsaid) = trouble.failed() {
        warn!("{listener}: cannot accept: {error}{unsaid}");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn accepts(listener: &str, trouble: &FailureLog) {
    if let Some(failures) = trouble.worked() {
        info!("{listener}: accepts again, after {failures} failures");
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Clients that are refused (503) at the same time; others are closed without an answer.
pub(in crate::server) const MAX_REFUSING: usize = 1024;
const MAX_ADMIN_CONNECTIONS: usize = 256;
