//! Assembly and lifecycle: one [`Gateway`] from one [`Config`].
//!
//! The builder binds sockets, compiles the snapshot, and hands both to a Pingora server with one
//! service for all [`listener`]s and small ones for health checks, names and warm sockets. Invariant: nothing is
//! global, so several gateways run in one process; what can fail (a taken port, a bad filter) fails
//! before anything runs.

pub mod admin;
mod assembled;
pub mod connection;
pub mod drain;
pub mod edge;
pub mod io;
pub mod listener;
pub mod refusal;
pub mod reload;

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use log::{info, warn};
use tokio::sync::oneshot;

use crate::config::{self, Config};
use crate::error::Error;
use crate::filter::Registry;
use crate::server::assembled::Assembled;
use crate::server::drain::Stop;
use crate::server::listener::{Identity, Kind, Listener, wanted};
use crate::snapshot::{Snapshot, SnapshotHandle};
use crate::telemetry::{AccessLog, Metrics};

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
        let listening = assembled
            .listeners
            .iter()
            .map(|listener| (listener.identity, listener.bound.addr))
            .collect();
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
            listening,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    fn assemble(self, signals: Signals) -> Result<Assembled, Error> {
        let metrics = Metrics::new();
        let snapshot = Snapshot::build(self.config.clone(), &self.registry, &metrics, None)?;
        let access_log = open_access_log(&self.config, &metrics)?;
        let listeners = wanted(&self.config)
            .iter()
            .map(|wanted| Listener::bind(wanted, &metrics))
            .collect::<Result<Vec<_>, Error>>()?;
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
            listeners,
        })
    }
}

/// A gateway in threads of its own. Stops, draining, when dropped.
pub struct Running {
    listening: Vec<(Identity, SocketAddr)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// The address of the HTTP listener, with the real port where 0 was configured.
    pub fn http_addr(&self) -> SocketAddr {
        // A configuration always has one.
        self.of(Kind::Http)
            .next()
            .unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// The address of the admin listener, where there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.of(Kind::Admin).next()
    }

    /// The addresses of the TCP listeners, in the order of the routes.
    pub fn tcp_addrs(&self) -> Vec<SocketAddr> {
        self.of(Kind::Tcp).collect()
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = SocketAddr> {
        self.listening
            .iter()
            .filter(move |(identity, _)| identity.kind == kind)
            .map(|(_, addr)| *addr)
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

const START_TIMEOUT: Duration = Duration::from_secs(60);
