//! A gateway that only lacks its threads: from bound sockets to a running Pingora server.
//!
//! Its own file because it is the one place where all parts meet. Nothing here can fail any more.
//! Called by `mod.rs`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use log::warn;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownWatch};
use pingora_core::services::background::{BackgroundService, background_service};
use pingora_proxy::http_proxy;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::filter::Registry;
use crate::http::Proxy;
use crate::server::Signals;
use crate::server::admin::Admin;
use crate::server::drain::{Drain, Stop, StopWatch};
use crate::server::edge::HttpEdge;
use crate::server::listener::{Edges, Listener, Listeners};
use crate::server::reload::{OnHangup, Reload};
use crate::snapshot::SnapshotHandle;
use crate::tcp::cancel::Cancels;
use crate::tcp::probe;
use crate::tcp::relay::Pipes;
use crate::tcp::session::Sessions;
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::UpstreamSource;
use crate::upstream::discovery::{Discovery, SystemResolver};
use crate::upstream::health::Prober;
use crate::upstream::warm::Warm;

/// Everything that can fail has not; only threads are missing.
pub(super) struct Assembled {
    pub config: Arc<Config>,
    pub registry: Registry,
    pub signals: Signals,
    pub snapshots: SnapshotHandle,
    pub metrics: Metrics,
    pub access_log: Arc<AccessLog>,
    pub listeners: Vec<Listener>,
}

impl Assembled {
    /// Runs until `stop`, drains, and returns when nothing runs any more. Blocks.
    pub fn run(self, stop: Stop, again: Stop, serving: impl FnOnce() + Send + Sync + 'static) {
        if let Err(error) = self.access_log.start() {
            warn!("access log: cannot start its writer: {error}");
        }
        let threads = self.config.server.threads.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        });
        let conf = server_conf(&self.config, threads);
        let mut server = Server::new_with_opt_and_conf(None, conf);
        let drain = Arc::new(Drain::default());
        let source: UpstreamSource = {
            let snapshots = self.snapshots.clone();
            Arc::new(move || snapshots.upstreams())
        };
        let discovery = Arc::new(Discovery::new(source.clone(), Arc::new(SystemResolver)));
        let warm = Arc::new(Warm::new({
            let snapshots = self.snapshots.clone();
            Arc::new(move || snapshots.load().warm())
        }));
        let (changes, changed) = mpsc::channel(1);
        let reload = Arc::new(Reload {
            snapshots: self.snapshots.clone(),
            registry: self.registry.clone(),
            metrics: self.metrics.clone(),
            changes,
            running: Mutex::new(()),
        });
        let edges = self.edges(&server, &drain, &reload, &warm);
        let resolve = {
            let discovery = discovery.clone();
            Box::new(move || {
                Box::pin(async move { discovery.resolve_all_once(RESOLVE_TIMEOUT).await }) as _
            })
        };
        server.add_service(Listeners {
            threads,
            edges: Arc::new(edges),
            listeners: self.listeners,
            changes: changed,
            before: Some(resolve),
            serving: Some(Box::new(serving)),
        });
        let prober = Prober::new(source).probing_with(probe::factory());
        server.add_service(background_service("health", prober));
        server.add_service(background_service("names", Names { discovery }));
        server.add_service(background_service("warm", ConnectAhead { warm }));
        if self.signals == Signals::Heed {
            server.add_service(background_service("reload", OnHangup { reload }));
        }
        server.run(RunArgs {
            shutdown_signal: Box::new(StopWatch {
                stop: Mutex::new(Some(stop)),
                again: Mutex::new(Some(again)),
                drain,
                delay: self.config.server.drain_delay,
                timeout: self.config.server.drain_timeout,
            }),
        });
        self.access_log.flush(FLUSH_TIMEOUT);
    }

    fn edges(
        &self,
        server: &Server,
        drain: &Arc<Drain>,
        reload: &Arc<Reload>,
        warm: &Arc<Warm>,
    ) -> Edges {
        let edge = |counted| {
            Arc::new(HttpEdge {
                snapshots: self.snapshots.clone(),
                access_log: self.access_log.clone(),
                counted,
            })
        };
        let proxy = Proxy::new(
            self.snapshots.clone(),
            self.access_log.clone(),
            drain.announce(),
            drain.cut_off(),
        );
        Edges {
            snapshots: self.snapshots.clone(),
            drain: drain.clone(),
            http: Arc::new(http_proxy(&server.configuration, proxy)),
            http_edge: edge(true),
            admin: Arc::new(Admin::new(
                self.snapshots.clone(),
                self.metrics.clone(),
                drain.clone(),
                reload.clone(),
            )),
            admin_edge: edge(false),
            sessions: Arc::new(Sessions {
                access_log: self.access_log.clone(),
                warm: warm.clone(),
                pipes: Pipes::new(MAX_PIPES),
                cancels: Cancels::default(),
                cut: drain.cut_off(),
            }),
        }
    }
}

/// The background resolution of endpoint names.
struct Names {
    discovery: Arc<Discovery>,
}

#[async_trait]
impl BackgroundService for Names {
    async fn start(&self, shutdown: ShutdownWatch) {
        self.discovery.run(shutdown).await;
    }
}

/// The background filling of the pools of never-used sockets.
struct ConnectAhead {
    warm: Arc<Warm>,
}

#[async_trait]
impl BackgroundService for ConnectAhead {
    async fn start(&self, shutdown: ShutdownWatch) {
        self.warm.run(shutdown).await;
    }
}

/// Pingora's own settings. Its retry loop counts tries and 0 answers nothing: it gets more than
/// the retry decision ever allows (21 counted tries and one resend).
fn server_conf(config: &Config, threads: usize) -> ServerConf {
    ServerConf {
        threads,
        max_retries: 64,
        upstream_keepalive_pool_size: config.max_connections.div_ceil(threads).max(128),
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}

/// How long names may take at start before traffic is served without them.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Pipes that splicing may hold at a time, two descriptors each; what comes above is copied.
const MAX_PIPES: usize = 64;
