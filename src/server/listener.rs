//! The one Pingora service that owns every listening socket.
//!
//! Its own implementation because Pingora's gives each service a runtime, cannot change listeners
//! while it runs, and panics in a task when a bind fails. Invariants: sockets are bound by
//! [`bind`] before any runtime exists, so a taken port is an ordinary error; all accept loops and
//! connections run in this service's one multi-thread runtime; a connection is counted before it
//! is spawned and uncounted by Drop. `server/mod.rs` adds it to the Pingora server.

use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use log::{debug, info, warn};
use pingora_core::apps::HttpServerApp;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::{ServiceReadyNotifier, ServiceWithDependents};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::config::ListenAddr;
use crate::error::{Error, Reason};
use crate::http::respond::RETRY_AFTER_SECS;
use crate::server::connection::{self, Stop};
use crate::server::drain::{Connections, Drain};
use crate::server::edge::HttpEdge;
use crate::server::io::GateStream;
use crate::server::refusal::refuse;
use crate::telemetry::ListenerMetrics;

/// A bound socket and what it is for.
pub struct Bound {
    pub text: Arc<str>,
    pub addr: SocketAddr,
    socket: StdListener,
}

/// Binds `listen`; `key` is the configuration key that asked for it.
pub fn bind(listen: &ListenAddr, key: &str) -> Result<Bound, Error> {
    let failed = |source: std::io::Error| {
        let hint = match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                "the port is taken: stop the other program or choose another port"
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE"
            }
            std::io::ErrorKind::AddrNotAvailable => "no interface here has this address",
            _ => "cannot listen",
        };
        Error::bind(format!(
            "{key}: cannot bind {} (port {}): {hint}",
            listen.text,
            listen.addr.port()
        ))
        .because(source)
    };
    let socket = open(listen.addr).map_err(failed)?;
    let addr = socket.local_addr().map_err(failed)?;
    Ok(Bound {
        text: Arc::from(listen.text.as_str()),
        addr,
        socket,
    })
}

fn open(addr: SocketAddr) -> std::io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners, as the configuration writes them.
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// An application behind a bound socket.
pub struct Listener<A> {
    pub bound: Bound,
    pub app: Arc<A>,
    pub edge: Arc<HttpEdge>,
    pub metrics: ListenerMetrics,
}

/// Made when the service starts, awaited before it accepts. A function, because a service must be
/// `Sync` and a future seldom is.
pub type Before = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The service: an HTTP listener for traffic, and one for the admin where there is one.
pub struct Listeners<A, B> {
    pub threads: usize,
    pub drain: Arc<Drain>,
    pub traffic: Vec<Listener<A>>,
    pub admin: Option<Listener<B>>,
    /// Awaited before the first accept: names are resolved.
    pub before: Option<Before>,
    /// Called once, when every listener accepts.
    pub serving: Option<Box<dyn FnOnce() + Send + Sync>>,
}

#[async_trait]
impl<A, B> ServiceWithDependents for Listeners<A, B>
where
    A: HttpServerApp + Send + Sync + 'static,
    B: HttpServerApp + Send + Sync + 'static,
{
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        if let Some(before) = self.before.take() {
            before().await;
        }
        let mut loops = JoinSet::new();
        for listener in self.traffic.drain(..) {
            loops.spawn(accept_traffic(listener, self.drain.clone()));
        }
        if let Some(admin) = self.admin.take() {
            loops.spawn(accept_admin(admin, self.drain.clone()));
        }
        self.drain.set_ready();
        ready.notify_ready();
        if let Some(serving) = self.serving.take() {
            serving();
        }
        while loops.join_next().await.is_some() {}
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
        let addresses = self.traffic.iter().map(|l| l.bound.text.to_string());
        let admin = self.admin.iter().map(|l| l.bound.text.to_string());
        Some(addresses.chain(admin).collect())
    }
}

async fn accept_traffic<A>(listener: Listener<A>, drain: Arc<Drain>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let Listener {
        bound,
        app,
        edge,
        metrics,
    } = listener;
    let _accepting = drain.accept_loop();
    let Some(socket) = into_tokio(bound.socket, &bound.text) else {
        return;
    };
    let mut stop = drain.stop_accepting();
    let stops = Stop {
        announce: drain.announce(),
        close_idle: drain.close_idle(),
        cut: drain.cut_off(),
    };
    let refusing = Connections::default();
    info!("listening on {}", bound.addr);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = socket.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error, &bound.text).await;
                continue;
            }
        };
        let Some(open) = drain.connections.open(edge.max_connections()) else {
            metrics.rejected(Reason::TooManyConnections);
            turn_away(stream, client, &edge, &bound.text, &refusing);
            continue;
        };
        let active = metrics.active();
        let (app, edge, stops, text) =
            (app.clone(), edge.clone(), stops.clone(), bound.text.clone());
        tokio::spawn(async move {
            let _counted = (open, active);
            match GateStream::new(stream, client) {
                Ok(stream) => {
                    let reason = connection::serve(&app, edge.as_ref(), stream, text, stops).await;
                    debug!("connection from {client} ended: {reason}");
                }
                Err(error) => debug!("connection from {client} was gone at once: {error}"),
            }
        });
    }
}

/// The admin listener answers until the very end, so that a drain can be watched.
async fn accept_admin<B>(listener: Listener<B>, drain: Arc<Drain>)
where
    B: HttpServerApp + Send + Sync + 'static,
{
    let Some(socket) = into_tokio(listener.bound.socket, &listener.bound.text) else {
        return;
    };
    let stops = Stop {
        announce: drain.announce(),
        close_idle: drain.close_idle(),
        cut: drain.cut_off(),
    };
    let open = Connections::default();
    info!("admin on {}", listener.bound.addr);
    loop {
        let (stream, client) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error, &listener.bound.text).await;
                continue;
            }
        };
        let Some(open) = open.open(MAX_ADMIN_CONNECTIONS) else {
            continue;
        };
        let (app, edge, stops, text) = (
            listener.app.clone(),
            listener.edge.clone(),
            stops.clone(),
            listener.bound.text.clone(),
        );
        tokio::spawn(async move {
            let _open = open;
            if let Ok(stream) = GateStream::new(stream, client) {
                connection::serve(&app, edge.as_ref(), stream, text, stops).await;
            }
        });
    }
}

fn into_tokio(socket: StdListener, text: &str) -> Option<TcpListener> {
    TcpListener::from_std(socket)
        .inspect_err(|error| log::error!("{text}: cannot be watched for connections: {error}"))
        .ok()
}

/// A client over `max_connections` hears 503, as long as not too many hear it at once.
fn turn_away(
    stream: TcpStream,
    client: SocketAddr,
    edge: &HttpEdge,
    listener: &str,
    refusing: &Connections,
) {
    edge.turned_away(client, listener);
    let Some(place) = refusing.open(MAX_REFUSING) else {
        return;
    };
    tokio::spawn(async move {
        let _place = place;
        refuse(stream, 503, Some(RETRY_AFTER_SECS)).await;
    });
}

/// Out of descriptors or memory: accepting again at once would only spin.
async fn pause_after(error: &std::io::Error, listener: &str) {
    use std::io::ErrorKind::*;
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    ) {
        return;
    }
    warn!("{listener}: cannot accept: {error}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// As nginx and HAProxy ask for; the kernel caps it at `somaxconn`.
const BACKLOG: i32 = 65_535;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Clients that are being told 503 at the same time; others are closed unheard.
const MAX_REFUSING: usize = 1024;
const MAX_ADMIN_CONNECTIONS: usize = 256;
