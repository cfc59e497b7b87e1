//! A TCP route in a Pingora server of your own.
//!
//! The other way in: where [`Gateway`](crate::server::Gateway) owns the process, here Pingora's
//! [`Server`](pingora_core::server::Server) does, with its listeners, runtimes and signals. What
//! happens to a connection is the same: the session runs in our own relay, with the route's limits,
//! queue, warm sockets, health and refusals. Invariants: what is counted comes back by Drop, as in
//! a gateway; nothing but plain TCP is carried.
//!
//! ```no_run
//! use harbr_router::pingora::prelude::*;
//! use harbr_router::pingora::services::listening::Service;
//! use harbr_router::server::adapter::TcpApp;
//!
//! fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//!     let config = harbr_router::config::load(std::path::Path::new("config.yml"))?;
//!     let orders = TcpApp::new(config, "orders")?;
//!
//!     let mut server = Server::new(None)?;
//!     server.bootstrap();
//!     let background = server.add_service(background_service("orders background", orders.background_tasks()));
//!     let mut service = Service::new("orders".to_string(), orders);
//!     service.add_tcp("0.0.0.0:5432");
//!     server.add_service(service).add_dependency(background);
//!     server.run_forever()
//! }
//! ```

mod descriptor;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::ServiceReadyNotifier;
use pingora_core::services::background::BackgroundService;

use self::descriptor::{NotTaken, Taken};
use crate::config::Config;
use crate::error::{Error, Reason};
use crate::route::{TcpRoute, TcpTable};
use crate::server::drain::{Connections, Drain};
use crate::server::edge::accept::MAX_REFUSING;
use crate::server::edge::listener::{Kind, wanted};
use crate::server::open_access_log;
use crate::snapshot::{Additions, Snapshot};
use crate::tcp::{Accepted, Sessions};
use crate::telemetry::{AccessLog, ListenerMetrics, Metrics, Reporter};
use crate::upstream::discovery::{Discovery, SystemResolver};
use crate::upstream::health::Prober;
use crate::upstream::probe::BeginSession;
use crate::upstream::warm::Warm;
use crate::upstream::{Upstream, UpstreamSource, tune};

/// One TCP route as an app of Pingora's.
///
/// It takes everything that its listeners accept; `max_connections` of the configuration counts
/// its connections alone. When Pingora shuts down, sessions may go on for
/// `server.drain_timeout_secs`, then they receive a goodbye: Pingora's own `grace_period_seconds`
/// must be a second longer.
pub struct TcpApp {
    snapshot: Arc<Snapshot>,
    table: Arc<TcpTable>,
    upstream: Arc<Upstream>,
    /// The listener's address as the configuration has it.
    listener: Arc<str>,
    listener_metrics: ListenerMetrics,
    metrics: Metrics,
    access_log: Arc<AccessLog>,
    warm: Arc<Warm>,
    sessions: Sessions,
    drain: Drain,
    refusing: Connections,
}

impl TcpApp {
    /// The route `route` of `config`. Nothing of the rest is served, and its address is not bound:
    /// listeners are Pingora's.
    ///
    /// # Errors
    /// There is no such TCP route, or a file that the configuration names cannot be opened.
    pub fn new(config: Config, route: &str) -> Result<TcpApp, Error> {
        let config = of_one_route(config, route)?;
        let metrics = Metrics::new();
        let access_log = Arc::new(open_access_log(&config, &metrics)?);
        let mut wanted = wanted(&config).into_iter();
        let listener = wanted.find(|wanted| wanted.identity.kind == Kind::Tcp);
        let listener: Arc<str> = listener
            .map_or_else(String::new, |wanted| wanted.listen.text)
            .into();
        let snapshot = Snapshot::build(config.into(), &Additions::default(), &metrics, None)?;
        let snapshot = Arc::new(snapshot);
        // The one route, which may have several addresses.
        let table = snapshot.tcp.values().next();
        let routes: Vec<Arc<TcpRoute>> = table.map_or(Vec::new(), |table| table.routes().to_vec());
        let Some(upstream) = routes.first().map(|route| route.upstream.clone()) else {
            return Err(no_route(route));
        };
        let drain = Drain::default();
        let ahead = snapshot.clone();
        let warm = Warm::new(Arc::new(move || ahead.warm()));
        let warm = Arc::new(warm.asking(Arc::new(BeginSession)));
        Ok(TcpApp {
            table: Arc::new(TcpTable::new(routes, &metrics)),
            upstream,
            listener_metrics: metrics.listener(&listener),
            listener,
            sessions: Sessions::new(
                Reporter::new(access_log.clone()),
                warm.clone(),
                drain.cut_off(),
            ),
            access_log,
            warm,
            snapshot,
            metrics,
            drain,
            refusing: Connections::default(),
        })
    }

    /// What goes on beside sessions: names, health checks, sockets connected ahead, the access log.
    /// Without it there is none of that, and an upstream that is a name has no address. Its service
    /// is ready when the names have been asked for once.
    pub fn background_tasks(&self) -> BackgroundTasks {
        let upstream = self.upstream.clone();
        BackgroundTasks {
            upstreams: Arc::new(move || vec![upstream.clone()]),
            warm: self.warm.clone(),
            access_log: self.access_log.clone(),
        }
    }

    /// The metrics of this app; nobody else renders them.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The upstream, with the health and the load of its endpoints.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    async fn serve(&self, taken: Taken) {
        let Taken {
            stream,
            client,
            first,
        } = taken;
        // Fails only for a socket that is gone, which the next read reports.
        let _ = tune(&stream);
        let accepted = Accepted {
            stream: stream.into(),
            client,
            first,
            listener: self.listener.clone(),
            table: self.table.clone(),
            snapshot: self.snapshot.clone(),
            carried: None,
        };
        let most = self.snapshot.config.max_connections;
        let Some(_open) = self.drain.connections.open(most) else {
            self.listener_metrics.rejected(Reason::TooManyConnections);
            self.sessions.record_turned_away(client, &self.listener);
            if let Some(_place) = self.refusing.open(MAX_REFUSING) {
                self.sessions.turn_away(accepted).await;
            }
            return;
        };
        let _active = self.listener_metrics.active();
        let reason = self.sessions.serve(accepted).await;
        log::debug!("connection from {client} ended: {reason}");
    }
}

#[async_trait]
impl ServerApp for TcpApp {
    async fn process_new(self: &Arc<Self>, stream: Stream, _: &ShutdownWatch) -> Option<Stream> {
        match descriptor::take(stream).await {
            Ok(taken) => self.serve(taken).await,
            Err(NotTaken::Gone(error)) => log::debug!("a connection was gone at once: {error}"),
            Err(NotTaken::Unfit(why)) => log::error!(
                "{}: a connection cannot be carried: {why}",
                self.table.alone().map_or("-", |route| &route.label)
            ),
        }
        None
    }

    async fn cleanup(&self) {
        let patience = self.snapshot.config.server.drain_timeout;
        self.drain.run(Duration::ZERO, patience).await;
        self.drain.cut().await;
        let access_log = self.access_log.clone();
        let flushed = tokio::task::spawn_blocking(move || access_log.flush(FLUSH_TIMEOUT));
        let _ = flushed.await;
    }
}

/// The work in the background of one [`TcpApp`].
pub struct BackgroundTasks {
    upstreams: UpstreamSource,
    warm: Arc<Warm>,
    access_log: Arc<AccessLog>,
}

#[async_trait]
impl BackgroundService for BackgroundTasks {
    async fn start_with_ready_notifier(
        &self,
        shutdown: ShutdownWatch,
        ready: ServiceReadyNotifier,
    ) {
        // Here and not before: Pingora may have forked meanwhile, which no thread survives.
        if let Err(error) = self.access_log.start() {
            log::warn!("access log: cannot start its writer: {error}");
        }
        let discovery = Discovery::new(self.upstreams.clone(), Arc::new(SystemResolver));
        discovery.resolve_all_once(RESOLVE_TIMEOUT).await;
        ready.notify_ready();
        let prober = Prober::new(self.upstreams.clone());
        tokio::join!(
            discovery.run(shutdown.clone()),
            prober.run(shutdown.clone()),
            self.warm.run(shutdown),
        );
    }
}

/// `config` with this TCP route and no other.
fn of_one_route(mut config: Config, route: &str) -> Result<Config, Error> {
    config.http_routes.clear();
    config.admin = None;
    config
        .tcp_routes
        .retain(|candidate| candidate.name == route);
    match config.tcp_routes.is_empty() {
        true => Err(no_route(route)),
        false => Ok(config),
    }
}

fn no_route(route: &str) -> Error {
    Error::config(format!(
        "routes.{route}: there is no TCP route of this name that is served (is it an HTTP route, \
         or is `tcp_proxy.enabled: true` missing?)"
    ))
}

/// How long names may take before traffic is served without them.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
