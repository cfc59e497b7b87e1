//! A gateway that only lacks its threads: from bound sockets to a running Pingora server.
//!
//! All parts meet here. Invariant: what can fail has not, but for an upgrade, which can until the
//! very end.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use log::warn;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownWatch};
use pingora_core::services::ServiceWithDependents;
use pingora_core::services::background::{BackgroundService, background_service};
use pingora_proxy::http_proxy;
use tokio::runtime::Handle;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::Config;
use crate::error::Error;
use crate::http::Proxy;
use crate::http::outbound::OutboundClients;
use crate::server::drain::{Connections, Drain, Exit, Stop, StopWatch};
use crate::server::edge::accept::{Edges, Launch, Listeners};
use crate::server::edge::http_edge::HttpEdge;
use crate::server::edge::listener::Listener;
use crate::server::edge::workers::Workers;
use crate::server::lifecycle::admin::Admin;
use crate::server::lifecycle::handoff::Control;
use crate::server::lifecycle::handoff::new::Takeover;
use crate::server::lifecycle::handoff::old::{self, ListeningSockets, Offer};
use crate::server::lifecycle::reload::Reload;
use crate::server::lifecycle::reload_triggers::ReloadTriggers;
use crate::server::process::pid_file::name_us;
use crate::server::process::signals::Signals;
use crate::server::process::systemd;
use crate::snapshot::{Additions, SnapshotHandle};
use crate::tcp::Sessions;
use crate::telemetry::{AccessLog, Metrics, Reporter};
use crate::upstream::UpstreamSource;
use crate::upstream::discovery::{Discovery, Resolvers};
use crate::upstream::health::Prober;
use crate::upstream::probe::BeginSession;
use crate::upstream::warm::Warm;

/// Everything that can fail has not; only threads are missing.
pub(in crate::server) struct Assembled {
    pub config: Arc<Config>,
    pub additions: Arc<Additions>,
    /// Of the filters that call upstreams.
    pub outbound: Arc<OutboundClients>,
    pub resolvers: Arc<Resolvers>,
    /// Of the embedder's.
    pub services: Vec<Box<dyn ServiceWithDependents>>,
    /// `None`: the process and its signals are the embedder's.
    pub signals: Option<Signals>,
    /// Opens the logs of whoever runs us again.
    pub reopen: Box<dyn Fn() + Send + Sync>,
    pub snapshots: SnapshotHandle,
    pub metrics: Metrics,
    pub access_log: Arc<AccessLog>,
    pub listeners: Vec<Listener>,
    /// The upgrade under way that this start is.
    pub takeover: Option<Takeover>,
    /// Asks for a successor. `None`: this gateway is not to have one.
    pub quit: Option<Signal>,
    /// What a successor inherits besides sockets.
    pub pid_file: Option<OwnedFd>,
    /// Where this gateway can be asked for its sockets, once nobody else is.
    pub control: Option<Control>,
}

impl Assembled {
    /// Runs until `stop`, drains, and returns when nothing runs any more. Blocks.
    ///
    /// # Errors
    /// The process that this one was to replace goes on.
    pub(crate) fn run(
        self,
        stop: Stop,
        again: Stop,
        serving: impl FnOnce() + Send + Sync + 'static,
    ) -> Result<(), Error> {
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
        let discovery = Arc::new(Discovery::new(source.clone(), self.resolvers.clone()));
        let warm = Warm::new({
            let snapshots = self.snapshots.clone();
            Arc::new(move || snapshots.load().warm())
        });
        let warm = Arc::new(warm.asking(Arc::new(BeginSession)));
        let (changes, changed) = mpsc::channel(1);
        let reload = Arc::new(Reload {
            snapshots: self.snapshots.clone(),
            additions: self.additions.clone(),
            outbound: self.outbound.clone(),
            background: OnceLock::new(),
            metrics: self.metrics.clone(),
            changes,
            running: Mutex::new(()),
            supervisor: match self.signals {
                Some(_) => systemd::notify,
                None => |_| {},
            },
            frozen: AtomicBool::new(false),
        });
        let (workers, carrying) = Workers::start(threads)
            .map_err(|source| Error::io("cannot start the worker threads").because(source))?;
        let edges = self.edges(&server, workers, &drain, &reload, &warm);
        let failure = Arc::new(Mutex::new(None));
        let start = Start {
            discovery: discovery.clone(),
            upstreams: source.clone(),
            takeover: self.takeover,
            control: self.control,
            quit: Mutex::new(self.quit),
            pid_file: self.pid_file,
            accepting: edges.accepting.clone(),
            reload: reload.clone(),
            drain: drain.clone(),
            serving: Some(Box::new(serving)),
            failure: failure.clone(),
        };
        server.add_service(Listeners {
            threads,
            edges: Arc::new(edges),
            listeners: self.listeners,
            changes: changed,
            launch: Box::new(start),
        });
        let prober = Prober::new(source);
        server.add_service(background_service("health", prober));
        server.add_service(background_service("names", Names { discovery }));
        server.add_service(background_service("warm", ConnectAhead { warm }));
        let reload_triggers = ReloadTriggers {
            reload,
            access_log: self.access_log.clone(),
            reopen: self.reopen,
            signals: Mutex::new(self.signals),
        };
        server.add_service(background_service("reload_triggers", reload_triggers));
        server.add_services(self.services);
        server.run(RunArgs {
            shutdown_signal: Box::new(StopWatch {
                stop: Mutex::new(Some(stop)),
                again: Mutex::new(Some(again)),
                drain,
                delay: self.config.server.drain_delay,
                timeout: self.config.server.drain_timeout,
            }),
        });
        drop(carrying);
        self.access_log.flush(FLUSH_TIMEOUT);
        let failure = failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failure.map_or(Ok(()), Err)
    }

    fn edges(
        &self,
        server: &Server,
        workers: Workers,
        drain: &Arc<Drain>,
        reload: &Arc<Reload>,
        warm: &Arc<Warm>,
    ) -> Edges {
        let reporter = Reporter::new(self.access_log.clone());
        let edge = |counted| {
            Arc::new(HttpEdge {
                snapshots: self.snapshots.clone(),
                reporter: reporter.clone(),
                counted,
            })
        };
        let proxy = Proxy::new(
            self.snapshots.clone(),
            reporter.clone(),
            drain.announce(),
            drain.cut_off(),
        );
        let sessions = Sessions::new(reporter.clone(), warm.clone(), drain.cut_off());
        let server_keys = &self.config.server;
        let sessions = match self.takeover {
            Some(_) => sessions.inheriting(server_keys.drain_delay + server_keys.drain_timeout),
            None => sessions,
        };
        Edges {
            snapshots: self.snapshots.clone(),
            drain: drain.clone(),
            accepting: ListeningSockets::default(),
            workers,
            http: Arc::new(http_proxy(&server.configuration, proxy)),
            http_edge: edge(true),
            streams: Connections::default(),
            admin: Arc::new(Admin::new(
                self.snapshots.clone(),
                self.metrics.clone(),
                drain.clone(),
                reload.clone(),
            )),
            admin_edge: edge(false),
            sessions: Arc::new(sessions),
        }
    }
}

/// From the first runtime to the first accept, and what is reported about it.
struct Start {
    discovery: Arc<Discovery>,
    upstreams: UpstreamSource,
    takeover: Option<Takeover>,
    control: Option<Control>,
    /// In a mutex, because a service must be `Sync`.
    quit: Mutex<Option<Signal>>,
    pid_file: Option<OwnedFd>,
    accepting: ListeningSockets,
    reload: Arc<Reload>,
    drain: Arc<Drain>,
    serving: Option<Box<dyn FnOnce() + Send + Sync>>,
    /// Why the gateway ends by itself.
    failure: Arc<Mutex<Option<Error>>>,
}

#[async_trait]
impl Launch for Start {
    async fn before(&mut self) -> bool {
        self.discovery.resolve_all_once(RESOLVE_TIMEOUT).await;
        let Some(takeover) = self.takeover.take() else {
            return true;
        };
        self.first_checks(HEALTH_TIMEOUT).await;
        self.takeover = self.in_upgrade(takeover, Takeover::ready).await;
        self.takeover.is_some()
    }

    async fn accepting(&mut self) {
        if let Some(takeover) = self.takeover.take() {
            if let Some(Err(error)) = self.pid_file.as_ref().map(name_us) {
                warn!("server.pid_file: cannot be written: {error}");
            }
            match self.in_upgrade(takeover, Takeover::serving).await {
                Some(control) => self.control = control,
                None => return,
            }
        }
        self.reload.start_filter_tasks(Handle::current());
        self.await_successor();
        if let Some(serving) = self.serving.take() {
            serving();
        }
    }
}

impl Start {
    /// From here on another process may take over.
    fn await_successor(&mut self) {
        let quit = self.quit.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(quit) = quit.take() else {
            return;
        };
        let offer = self.control.take().map(|control| {
            let (accepting, reload) = (self.accepting.clone(), self.reload.clone());
            let (pid_file, drain) = (self.pid_file.take(), self.drain.clone());
            Arc::new(Offer::new(control, pid_file, accepting, reload, drain))
        });
        tokio::spawn(old::offer(offer, quit, self.drain.clone()));
    }

    /// Waits until every endpoint that is to be checked was, but not longer than `longest`: what
    /// follows must not send clients where nobody is, just because it is new.
    async fn first_checks(&self, longest: Duration) {
        let end = Instant::now() + longest;
        let awaited = || {
            let upstreams = (self.upstreams)();
            let mut endpoints = upstreams.iter().map(|upstream| upstream.endpoints());
            endpoints.any(|endpoints| endpoints.iter().any(|e| e.awaits_first_check()))
        };
        while awaited() && Instant::now() < end {
            tokio::time::sleep(HEALTH_LOOK).await;
        }
    }

    /// Takes the next step of an upgrade, which blocks. `None`: it failed, and this gateway ends.
    async fn in_upgrade<T: Send + 'static>(
        &self,
        takeover: Takeover,
        step: fn(Takeover) -> Result<T, Error>,
    ) -> Option<T> {
        let error = match tokio::task::spawn_blocking(move || step(takeover)).await {
            Ok(Ok(next)) => return Some(next),
            Ok(Err(error)) => error,
            Err(died) => Error::io("upgrade").because(died),
        };
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.drain.leave(Exit::TakeoverFailed);
        None
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
/// the retry decision ever allows (21 counted tries, each of which may find a connection that its
/// endpoint may be closing, one resend, and one try elsewhere).
fn server_conf(config: &Config, threads: usize) -> ServerConf {
    ServerConf {
        threads,
        max_retries: 64,
        upstream_keepalive_pool_size: config.max_connections.max(128),
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}

/// How long names may take at start before traffic is served without them.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an upgrade waits for the first checks of endpoints.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
const HEALTH_LOOK: Duration = Duration::from_millis(10);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
