//! Assembly and lifecycle: one [`Gateway`] from one [`Config`].
//!
//! A [`Gateway`] binds sockets, compiles the snapshot, and hands both to a Pingora server with one
//! service that [accepts](edge::accept) on all [listeners](edge::listener) and small ones for
//! health checks, names and warm sockets. Invariant: nothing is global, so several gateways run in
//! one process; what can fail (a taken port, a bad filter) fails before anything runs.

pub mod adapter;
mod builder;
pub mod drain;
pub mod edge;
pub mod lifecycle;
pub mod process;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use log::{error, info, warn};
use pingora_core::services::ServiceWithDependents;
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;

use crate::account::Account;
use crate::config::{self, Config};
use crate::error::Error;
use crate::filter::Registry;
use crate::http::outbound::OutboundClients;
use crate::server::drain::Stop;
use crate::server::edge::listener::{Identity, Kind, Listener, wanted};
use crate::server::lifecycle::assembled::Assembled;
use crate::server::lifecycle::handoff::Control;
use crate::server::lifecycle::handoff::new::Takeover;
use crate::server::process::paths::{Mode, Paths};
use crate::server::process::pid_file::PidFile;
use crate::server::process::signals::{self, Signals};
use crate::server::process::{systemd, writable};
use crate::snapshot::{Additions, Snapshot, SnapshotHandle};
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::discovery::Resolvers;

/// A gateway that is not running yet.
pub struct Gateway {
    config: Arc<Config>,
    additions: Additions,
    resolvers: Resolvers,
    services: Vec<Box<dyn ServiceWithDependents>>,
    start: Start,
    pid_file: Option<PathBuf>,
    serving: Box<dyn FnOnce() + Send + Sync>,
    reopen: Box<dyn Fn() + Send + Sync>,
}

impl Gateway {
    /// A gateway for one configuration.
    pub fn new(config: Config) -> Gateway {
        Gateway {
            pid_file: config.server.pid_file.clone(),
            config: Arc::new(config),
            additions: Additions {
                filters: Registry::built_in(),
                ..Additions::default()
            },
            resolvers: Resolvers::default(),
            services: Vec::new(),
            start: Start::Fresh,
            serving: Box::new(|| {}),
            reopen: Box::new(|| {}),
        }
    }

    /// Compiles the configuration without resolving, binding or writing anything: what `--test`
    /// does. That its log files can be opened is looked at, too.
    ///
    /// Returns warnings about the files that it names.
    pub fn check(&self) -> Result<Vec<String>, Error> {
        let metrics = Metrics::new();
        let snapshot = Snapshot::build(self.config.clone(), &self.additions, &metrics, None)?;
        writable::check(&self.config)?;
        Ok(snapshot.warnings())
    }

    /// What serves requests, without the gateway. Reads the files that filters name; what is of the
    /// machine (accounts, logs) is not looked at.
    pub fn compiled(&self) -> Result<Snapshot, Error> {
        let mut config = Config::clone(&self.config);
        (config.server.user, config.server.group) = (None, None);
        Snapshot::build(Arc::new(config), &self.additions, &Metrics::new(), None)
    }

    /// That everything the configuration names in `balance` is there: the part of
    /// [`check`](Gateway::check) that looks at nothing outside of it.
    pub fn check_names(&self) -> Result<(), Error> {
        self.additions.balancers.check(&self.config)
    }

    /// Runs until `stop` is done, then drains; `again` ends the drain at once. Blocks the thread.
    /// The process stays its owner's: no pid file, no change of account, no signals.
    pub fn run_until(self, stop: Stop, again: Stop) -> Result<(), Error> {
        self.embedded()?.run(stop, again, || {})
    }

    /// Runs until TERM or INT, then drains; a second one ends the drain at once. HUP reloads, USR1
    /// reopens log files, QUIT waits for a process that takes over, which may come without it as
    /// well. This process is the gateway's: its pid file is written, its account changed to
    /// `server.user` once all is bound and open, its supervisor notified.
    pub fn run(mut self) -> Result<(), Error> {
        let heard = signals::listen()?;
        let serving = std::mem::replace(&mut self.serving, Box::new(|| {}));
        let stop = Box::pin(async {
            heard.stop.await;
            systemd::notify("STOPPING=1");
        });
        let mut takeover = self.begin()?;
        let made = self.for_this_process(takeover.as_mut(), heard.signals, heard.quit);
        let (mut assembled, pid_file) = or_tell(made, &mut takeover)?;
        assembled.takeover = takeover;
        let named = pid_file.clone();
        assembled.run(stop, heard.again, move || {
            if let Some(named) = &named {
                named.settle();
            }
            info!("serving");
            systemd::notify("READY=1");
            serving();
        })
    }

    /// Runs in threads of its own; returns once it serves. The process stays its owner's, as in
    /// [`run_until`](Gateway::run_until).
    pub fn spawn(self) -> Result<Running, Error> {
        let assembled = self.embedded()?;
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
                let ended = assembled.run(stop, Box::pin(std::future::pending()), move || {
                    let _ = serving.send(());
                });
                if let Err(error) = ended {
                    error!("{error}");
                }
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

    /// Before anything else: room for descriptors, and the sockets of who is to be replaced.
    fn begin(&self) -> Result<Option<Takeover>, Error> {
        raise_descriptor_limit(self.config.max_connections);
        if self.start == Start::Fresh {
            return Ok(None);
        }
        let path = self.upgrade_sock();
        let takeover = Takeover::begin(&path)?;
        if takeover.is_none() {
            let path = path.display();
            info!("upgrade: nothing runs here ({path} is silent), starting normally");
        }
        Ok(takeover)
    }

    /// Without a signal, a pid file or a successor: those are the process's, and that is not ours.
    fn embedded(self) -> Result<Assembled, Error> {
        let mut takeover = self.begin()?;
        let made = self.assemble(None, takeover.as_mut());
        let assembled = or_tell(made, &mut takeover)?;
        Ok(Assembled {
            takeover,
            ..assembled
        })
    }

    fn for_this_process(
        mut self,
        mut takeover: Option<&mut Takeover>,
        signals: Signals,
        quit: Signal,
    ) -> Result<(Assembled, Option<Arc<PidFile>>), Error> {
        let account = Account::look_up(&self.config)?;
        account.within_reach()?;
        let pid_file = match self.pid_file.take() {
            Some(path) => {
                let held = takeover.as_mut().and_then(|takeover| takeover.pid_file());
                let inherited = held.and_then(|held| PidFile::inherit(&path, held));
                Some(Arc::new(match inherited {
                    Some(inherited) => inherited,
                    None => PidFile::claim(&path)?,
                }))
            }
            None => None,
        };
        let descriptor = pid_file.as_ref().map(|held| held.descriptor()).transpose();
        let descriptor = descriptor.map_err(|source| {
            Error::io("server.pid_file: no room for its descriptor").because(source)
        })?;
        let (config, path) = (self.config.clone(), self.upgrade_sock());
        // What is taken over comes with its upgrade socket, at the very end.
        let begins = takeover.is_none();
        let assembled = self.assemble(Some(signals), takeover)?;
        let control = match begins {
            true => listen_for_successors(&config, &path)?,
            false => None,
        };
        account.assume()?;
        let assembled = Assembled {
            quit: Some(quit),
            pid_file: descriptor,
            control,
            ..assembled
        };
        Ok((assembled, pid_file))
    }

    fn upgrade_sock(&self) -> PathBuf {
        Paths::of(&self.config, Mode::Foreground).upgrade_sock
    }

    fn assemble(
        mut self,
        signals: Option<Signals>,
        mut takeover: Option<&mut Takeover>,
    ) -> Result<Assembled, Error> {
        let metrics = Metrics::new();
        let outbound = Arc::new(OutboundClients::default());
        self.additions.filters.call_through(outbound.clone());
        let snapshot = Snapshot::build(self.config.clone(), &self.additions, &metrics, None)?;
        for warning in snapshot.warnings() {
            warn!("{warning}");
        }
        outbound.follow(&snapshot);
        if signals.is_none()
            && (self.config.server.user.is_some() || self.config.server.group.is_some())
        {
            warn!(
                "server.user and server.group are left to the process that this gateway is part of"
            );
        }
        let access_log = open_access_log(&self.config, &metrics)?;
        let mut listeners = Vec::new();
        for wanted in wanted(&self.config) {
            let socket = takeover.as_mut().and_then(|t| t.socket(&wanted.identity));
            listeners.push(Listener::bind(&wanted, socket, &metrics)?);
        }
        if let Some(takeover) = takeover {
            takeover.close_the_rest();
        }
        metrics.config_generation(snapshot.generation);
        Ok(Assembled {
            config: self.config,
            additions: Arc::new(self.additions),
            outbound,
            resolvers: Arc::new(self.resolvers),
            services: self.services,
            signals,
            reopen: self.reopen,
            snapshots: SnapshotHandle::new(snapshot),
            metrics,
            access_log: Arc::new(access_log),
            listeners,
            takeover: None,
            quit: None,
            pid_file: None,
            control: None,
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
    /// The address of the HTTP listener, the first where there are several, with the real port
    /// where 0 was configured.
    pub fn http_addr(&self) -> SocketAddr {
        // A configuration always has one.
        self.of(Kind::Http)
            .next()
            .unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// The addresses of all HTTP listeners, as the configuration has them in order.
    pub fn http_addrs(&self) -> Vec<SocketAddr> {
        self.of(Kind::Http).collect()
    }

    /// The addresses of all HTTPS listeners, as the configuration has them in order.
    pub fn https_addrs(&self) -> Vec<SocketAddr> {
        self.of(Kind::Https).collect()
    }

    /// The address of the admin listener, the first where there are several.
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

/// Whose listening sockets a gateway begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Its own.
    Fresh,
    /// Those of a running one.
    Upgrade,
}

/// Tells the process that was to be replaced why it is not.
fn or_tell<T>(made: Result<T, Error>, takeover: &mut Option<Takeover>) -> Result<T, Error> {
    made.inspect_err(|error| {
        if let Some(takeover) = takeover.take() {
            takeover.failed(error);
        }
    })
}

/// A gateway that cannot be replaced serves all the same, unless a path was asked for.
fn listen_for_successors(config: &Config, path: &Path) -> Result<Option<Control>, Error> {
    match Control::bind(path) {
        Ok(control) => Ok(Some(control)),
        Err(error) if config.server.upgrade_sock.is_some() => Err(error),
        Err(error) => {
            warn!("this process cannot be upgraded: {error}");
            Ok(None)
        }
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

const START_TIMEOUT: Duration = Duration::from_secs(60);
