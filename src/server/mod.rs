//! Assembly and lifecycle: one [`Gateway`] from one [`Config`].
//!
//! The builder binds sockets, compiles the snapshot, and hands both to a Pingora server with three
//! services: the [`listener`]s, the health checks and the name resolution. Invariant: nothing is
//! global, so several gateways run in one process; what can fail (a taken port, a bad filter) fails
//! before anything runs.

pub mod admin;
pub mod connection;
pub mod drain;
pub mod edge;
pub mod io;
pub mod listener;
pub mod refusal;
pub mod reload;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use log::{info, warn};
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownWatch};
use pingora_core::services::background::{BackgroundService, background_service};
use pingora_proxy::http_proxy;
use tokio::sync::oneshot;

use crate::config::{self, Config};
use crate::error::Error;
use crate::filter::Registry;
use crate::http::Proxy;
use crate::server::admin::Admin;
use crate::server::drain::{Drain, Stop, StopWatch};
use crate::server::edge::HttpEdge;
use crate::server::listener::{Bound, Listener, Listeners, bind};
use crate::server::reload::{OnHangup, Reload};
use crate::snapshot::{Snapshot, SnapshotHandle};
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::UpstreamSource;
use crate::upstream::discovery::{Discovery, SystemResolver};
use crate::upstream::health::Prober;

/// A gateway that is not running yet.
pub struct Gateway {
    config: Arc<Config>,
    registry: Registry,
}

impl Gateway {
    /// A gateway for one configuration.
    pub fn new(config: Config) -> Gateway {
        Gateway {
            config: Arc::new(config),
            registry: Registry::default(),
        }
    }

    /// Compiles the configuration without resolving or binding anything: what `--test` does.
    pub fn check(&self) -> Result<(), Error> {
        Snapshot::build(self.config.clone(), &self.registry, &Metrics::new(), None).map(drop)
    }

    /// Runs until `stop` is done, then drains; `again` ends the drain at once. Blocks the thread.
    pub fn run_until(self, stop: Stop, again: Stop) -> Result<(), Error> {
        self.assemble(Signals::Ignore)?.run(stop, again, || {});
        Ok(())
    }

    /// Runs until TERM or INT, then drains; a second one ends the drain at once. HUP reloads.
    pub fn run(self) -> Result<(), Error> {
        let assembled = self.assemble(Signals::Heed)?;
        let (stop, again) = signals();
        assembled.run(stop, again, || info!("serving"));
        Ok(())
    }

    /// Runs in threads of its own; returns once it serves.
    pub fn spawn(self) -> Result<Running, Error> {
        let assembled = self.assemble(Signals::Ignore)?;
        let http = assembled.http.addr;
        let admin = assembled.admin.as_ref().map(|admin| admin.addr);
        let (stop, stopped) = oneshot::channel::<()>();
        let (serving, is_serving) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("harbr-router".to_string())
            .spawn(move || {
                let stop = Box::pin(async move {
                    let _ = stopped.await;
                });
                assembled.run(stop, Box::pin(std::future::pending()), move || {
                    let _ = serving.send(());
                });
            })
            .map_err(|source| Error::io("cannot start a thread").because(source))?;
        is_serving
            .recv_timeout(START_TIMEOUT)
            .map_err(|_| Error::io("the gateway did not come up"))?;
        Ok(Running {
            http,
            admin,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    fn assemble(self, signals: Signals) -> Result<Assembled, Error> {
        let metrics = Metrics::new();
        let snapshot = Snapshot::build(self.config.clone(), &self.registry, &metrics, None)?;
        let access_log = open_access_log(&self.config, &metrics)?;
        let http = bind(&self.config.listen_addr, "listen_addr")?;
        let admin = match &self.config.admin {
            Some(admin) => Some(bind(&admin.listen_addr, "admin.listen_addr")?),
            None => None,
        };
        raise_descriptor_limit(self.config.max_connections);
        warn_of_idle_keys(&self.config);
        metrics.config_generation(snapshot.generation);
        Ok(Assembled {
            config: self.config,
            registry: self.registry,
            signals,
            snapshots: SnapshotHandle::new(snapshot),
            metrics,
            access_log: Arc::new(access_log),
            http,
            admin,
        })
    }
}

/// A gateway in threads of its own. Stops, draining, when dropped.
pub struct Running {
    http: SocketAddr,
    admin: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// The address of the HTTP listener, with the real port where 0 was configured.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// The address of the admin listener, where there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Drains, at most for `server.drain_timeout_secs`, and returns when nothing runs any more.
    pub fn stop(self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether the process's signals are this gateway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signals {
    Heed,
    Ignore,
}

/// Everything that can fail has not; only threads are missing.
struct Assembled {
    config: Arc<Config>,
    registry: Registry,
    signals: Signals,
    snapshots: SnapshotHandle,
    metrics: Metrics,
    access_log: Arc<AccessLog>,
    http: Bound,
    admin: Option<Bound>,
}

impl Assembled {
    fn run(self, stop: Stop, again: Stop, serving: impl FnOnce() + Send + Sync + 'static) {
        if let Err(error) = self.access_log.start() {
            warn!("access log: cannot start its writer: {error}");
        }
        let threads = self.config.server.threads.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        });
        let conf = server_conf(&self.config, threads);
        let mut server = Server::new_with_opt_and_conf(None, conf);
        let drain = Arc::new(Drain::default());
        let edge = |counted| {
            Arc::new(HttpEdge {
                snapshots: self.snapshots.clone(),
                access_log: self.access_log.clone(),
                counted,
            })
        };
        let proxy = http_proxy(
            &server.configuration,
            Proxy::new(
                self.snapshots.clone(),
                self.access_log.clone(),
                drain.announce(),
                drain.cut_off(),
            ),
        );
        let source: UpstreamSource = {
            let snapshots = self.snapshots.clone();
            Arc::new(move || snapshots.upstreams())
        };
        let discovery = Arc::new(Discovery::new(source.clone(), Arc::new(SystemResolver)));
        let resolve = {
            let discovery = discovery.clone();
            Box::new(move || {
                Box::pin(async move { discovery.resolve_all_once(RESOLVE_TIMEOUT).await }) as _
            })
        };
        let reload = Arc::new(Reload {
            snapshots: self.snapshots.clone(),
            registry: self.registry,
            metrics: self.metrics.clone(),
            running: Mutex::new(()),
        });
        server.add_service(Listeners {
            threads,
            drain: drain.clone(),
            traffic: vec![Listener {
                metrics: self.metrics.listener(&self.http.text),
                bound: self.http,
                app: Arc::new(proxy),
                edge: edge(true),
            }],
            admin: self.admin.map(|bound| Listener {
                metrics: self.metrics.listener(&bound.text),
                bound,
                app: Arc::new(Admin::new(
                    self.snapshots.clone(),
                    self.metrics.clone(),
                    drain.clone(),
                    reload.clone(),
                )),
                edge: edge(false),
            }),
            before: Some(resolve),
            serving: Some(Box::new(serving)),
        });
        server.add_service(background_service("health", Prober::new(source)));
        server.add_service(background_service("names", Names { discovery }));
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

fn open_access_log(config: &Config, metrics: &Metrics) -> Result<AccessLog, Error> {
    let dropped = metrics.access_log_dropped();
    match &config.server.access_log {
        config::AccessLog::Off => Ok(AccessLog::off()),
        config::AccessLog::Stdout => Ok(AccessLog::stdout(dropped)),
        config::AccessLog::File(path) => AccessLog::file(path, dropped).map_err(|source| {
            Error::io(format!("server.access_log: cannot open {}", path.display())).because(source)
        }),
    }
}

/// A key that is accepted and does nothing is said to do nothing.
fn warn_of_idle_keys(config: &Config) {
    let server = &config.server;
    for (key, asked) in [
        ("server.pid_file", server.pid_file.is_some()),
        ("server.upgrade_sock", server.upgrade_sock.is_some()),
        ("server.watch_config", server.watch_config),
    ] {
        if asked {
            warn!("{key} has no effect in this version");
        }
    }
}

/// The soft limit of open files is raised to the hard one: a connection through the gateway needs
/// two.
fn raise_descriptor_limit(max_connections: usize) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let wanted = (max_connections as u64).saturating_mul(2);
    if limit < wanted {
        warn!(
            "at most {limit} files may be open (RLIMIT_NOFILE), but max_connections: \
             {max_connections} can need {wanted}: raise the limit (ulimit -Hn, LimitNOFILE=)"
        );
    }
}

/// Done at the first TERM or INT, and at the second. Both listen from when the first is awaited, so
/// that none is missed in between.
fn signals() -> (Stop, Stop) {
    use tokio::signal::unix::{Signal, SignalKind, signal};
    type Streams = Option<(Signal, Signal)>;
    let streams: Arc<tokio::sync::Mutex<Streams>> = Arc::default();
    let next = |streams: Arc<tokio::sync::Mutex<Streams>>| async move {
        let mut streams = streams.lock().await;
        if streams.is_none() {
            let term = signal(SignalKind::terminate());
            *streams = term.ok().zip(signal(SignalKind::interrupt()).ok());
        }
        let Some((term, int)) = streams.as_mut() else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => info!("TERM received"),
            _ = int.recv() => info!("INT received"),
        }
    };
    (Box::pin(next(streams.clone())), Box::pin(next(streams)))
}

/// How long names may take at start before traffic is served without them.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
const START_TIMEOUT: Duration = Duration::from_secs(60);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
