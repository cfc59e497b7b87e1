//! A new configuration for a running gateway: the same path as at start, then one pointer swap.
//!
//! The only writer of the snapshot pointer. Invariants: reloads happen one after another; one that
//! fails changes nothing and its reason is logged; what was asked for but needs a restart is named.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use log::{error, info, warn};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::config::{self, Changed, Config, HttpRoute, TcpRoute};
use crate::error::Error;
use crate::http::outbound::OutboundClients;
use crate::server::edge::change::Change;
use crate::server::edge::listener::{Listener, Wanted, wanted};
use crate::server::lifecycle::lowered::lowered;
use crate::server::process::systemd;
use crate::snapshot::{Additions, Snapshot, SnapshotHandle};
use crate::telemetry::{Metrics, ReloadResult};
use crate::tls::ServerTls;

/// What it takes to reload one gateway.
pub struct Reload {
    /// Where a successful reload stores the new snapshot.
    pub snapshots: SnapshotHandle,
    /// The embedder's filters and balancers, which every new snapshot is compiled with.
    pub additions: Arc<Additions>,
    /// Of the filters that call upstreams.
    pub outbound: Arc<OutboundClients>,
    /// Where background tasks of filters run, once the gateway serves.
    pub background: OnceLock<Handle>,
    /// Where each reload is counted, as `ok` or `failed`.
    pub metrics: Metrics,
    /// To the service that owns the sockets.
    pub changes: mpsc::Sender<Change>,
    /// Held while one runs.
    pub running: Mutex<()>,
    /// Told when one begins and ends, in systemd's words.
    pub supervisor: fn(&str),
    /// Set while an upgrade is under way, and after it.
    pub frozen: AtomicBool,
}

/// Why a reload changed nothing.
#[derive(Debug)]
pub enum Refused {
    /// An upgrade is under way. When it fails, the same may be asked for again.
    ForNow,
    /// What was asked for cannot be put in force.
    Wrong(Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::ForNow => f.write_str("an upgrade is under way: reload again when it is over"),
            Refused::Wrong(error) => error.fmt(f),
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Wrong(error)
    }
}

/// No reload happens while this is held.
#[derive(Debug)]
pub struct Frozen<'r> {
    frozen: &'r AtomicBool,
    ends: bool,
}

impl Frozen<'_> {
    /// Nor does one afterwards: another process has taken over.
    pub fn for_good(mut self) {
        self.ends = false;
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if self.ends {
            self.frozen.store(false, Ordering::Release);
        }
    }
}

impl Reload {
    /// Reads the file of the configuration in force again and puts it in force. Blocks. Returns
    /// what changed.
    pub fn run(&self) -> Result<Value, Refused> {
        let _running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshots.load();
        (self.supervisor)(&systemd::reloading());
        let result = self.apply(&before);
        // Also after a refusal: the gateway serves as before.
        (self.supervisor)("READY=1");
        match &result {
            Ok(report) => {
                self.metrics.config_reloaded(ReloadResult::Ok);
                info!("reloaded: {report}");
            }
            Err(problem) => {
                self.metrics.config_reloaded(ReloadResult::Failed);
                error!("reload refused, nothing changed:\n{problem}");
            }
        }
        result
    }

    /// Reads the certificates of the configuration in force again, and puts them in force if they are
    /// others. Broken ones change nothing. Blocks.
    pub fn renew_certificates(&self) {
        let _running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.snapshots.load();
        let (Some(tls), Some(handle)) = (&snapshot.config.tls, &snapshot.tls) else {
            return;
        };
        match ServerTls::load(&snapshot.config, tls, Some(&handle.load())) {
            Ok(None) => {}
            Ok(Some(renewed)) => {
                for line in &renewed.warnings {
                    warn!("{line}");
                }
                let count = renewed.certificates.len();
                handle.renew(renewed);
                self.metrics.certificates_reloaded(ReloadResult::Ok);
                info!("certificates read again: {count} in force");
            }
            Err(problem) => {
                self.metrics.certificates_reloaded(ReloadResult::Failed);
                error!(
                    "certificates have changed and cannot be used, the old ones stay:\n{problem}"
                );
            }
        }
    }

    /// The file of the configuration in force.
    pub fn file(&self) -> PathBuf {
        self.snapshots.load().config.file.clone()
    }

    /// The gateway serves: begins what its filters do in the background, in `runtime`.
    pub fn start_filter_tasks(&self, runtime: Handle) {
        let runtime = self.background.get_or_init(|| runtime);
        self.snapshots.load().chains.start_tasks(runtime);
    }

    /// Waits for a reload under way, then lets none begin. `None`: it is so already. Blocks.
    pub fn freeze(&self) -> Option<Frozen<'_>> {
        let _running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.frozen.swap(true, Ordering::AcqRel);
        (!before).then_some(Frozen {
            frozen: &self.frozen,
            ends: true,
        })
    }

    /// Whether a reload would be refused because of an upgrade.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Everything that can fail comes before the swap: reading, compiling, binding.
    fn apply(&self, before: &Snapshot) -> Result<Value, Refused> {
        if self.is_frozen() {
            return Err(Refused::ForNow);
        }
        let after = self.build(before)?;
        let (old, new) = (wanted(&before.config), wanted(&after.config));
        let is_in = |all: &[Wanted], one: &Wanted| all.iter().any(|w| w.is(one));
        let gone: Vec<&Wanted> = old.iter().filter(|wanted| !is_in(&new, wanted)).collect();
        let mut add = Vec::new();
        for wanted in new.iter().filter(|wanted| !is_in(&old, wanted)) {
            if let Some(bar) = gone.iter().find(|gone| wanted.is_barred_by(gone)) {
                return Err(in_the_way(wanted, bar).into());
            }
            add.push(Listener::bind(wanted, None, &self.metrics)?);
        }
        let mut report = report(before, &after);
        let lowered = lowered(before, &after);
        for line in &lowered {
            warn!("{line}");
        }
        let of_files = after.warnings();
        for line in &of_files {
            warn!("{line}");
        }
        let warnings = after.config.warnings.iter().chain(&of_files);
        let warnings: Vec<&String> = warnings.chain(&lowered).collect();
        report["warnings"] = json!(warnings);
        let texts = |all: &[&str]| json!(all);
        report["listeners"] = json!({
            "added": texts(&add.iter().map(|l| &*l.bound.text).collect::<Vec<_>>()),
            "removed": texts(&gone.iter().map(|w| w.listen.text.as_str()).collect::<Vec<_>>()),
        });
        self.metrics.config_generation(after.generation);
        self.outbound.follow(&after);
        let chains = after.chains.clone();
        self.snapshots.swap(after);
        if let Some(runtime) = self.background.get() {
            chains.start_tasks(runtime);
        }
        drop(chains);
        let (done, is_done) = oneshot::channel();
        let change = Change {
            add,
            remove: gone.iter().map(|wanted| wanted.identity).collect(),
            done,
        };
        // Both fail only when the gateway is stopping, and then listeners are going anyway.
        if self.changes.blocking_send(change).is_ok() {
            let _ = is_done.blocking_recv();
        }
        Ok(report)
    }

    fn build(&self, before: &Snapshot) -> Result<Snapshot, Error> {
        let config = config::load(&before.config.file)
            .map_err(|problems| Error::config(problems.to_string()))?;
        for warning in &config.warnings {
            warn!("{warning}");
        }
        Snapshot::build(
            Arc::new(config),
            &self.additions,
            &self.metrics,
            Some(before),
        )
    }
}

/// New sockets are bound before old ones are closed, so that a reload can still be refused.
fn in_the_way(wanted: &Wanted, bar: &Wanted) -> Error {
    Error::bind(format!(
        "{}: cannot bind {} while this gateway itself listens on {} (`{}`): \
         this change needs a restart, or two reloads with another port between them",
        wanted.key, wanted.listen.text, bar.listen.text, bar.key
    ))
}

/// What is different between two snapshots, in keys of the configuration.
fn report(before: &Snapshot, after: &Snapshot) -> Value {
    let (old, new) = (&before.config, &after.config);
    json!({
        "generation": after.generation,
        "hash": format!("{:016x}", after.hash),
        "routes": shown(changed_routes(old, new)),
        "upstreams": shown(new.changed_upstreams(old)),
        "keys": shown(new.changed_globals(old)),
        "needs_restart": needs_restart(old, new),
    })
}

fn shown(changed: Changed) -> Value {
    json!({
        "added": changed.added,
        "removed": changed.removed,
        "changed": changed.changed,
    })
}

/// Of both kinds, by their keys.
fn changed_routes(before: &Config, after: &Config) -> Changed {
    let (old, new) = (by_key(before), by_key(after));
    let names = |these: &BTreeMap<&str, Route>, others: &BTreeMap<&str, Route>| {
        let only = these.keys().filter(|key| !others.contains_key(*key));
        only.map(|key| (*key).to_owned()).collect()
    };
    Changed {
        added: names(&new, &old),
        removed: names(&old, &new),
        changed: new
            .iter()
            .filter(|(key, route)| old.get(*key).is_some_and(|old| !route.is_as(old)))
            .map(|(key, _)| (*key).to_owned())
            .collect(),
    }
}

enum Route<'c> {
    Http(&'c HttpRoute),
    Tcp(&'c TcpRoute),
}

impl Route<'_> {
    /// Whether it says the same, wherever it stands in the file.
    fn is_as(&self, other: &Route) -> bool {
        match (self, other) {
            (Route::Http(a), Route::Http(b)) => {
                **a == HttpRoute {
                    at: a.at,
                    ..(*b).clone()
                }
            }
            (Route::Tcp(a), Route::Tcp(b)) => {
                **a == TcpRoute {
                    at: a.at,
                    ..(*b).clone()
                }
            }
            _ => false,
        }
    }
}

fn by_key(config: &Config) -> BTreeMap<&str, Route<'_>> {
    let http = config.http_routes.iter();
    let http = http.map(|route| (route.key.text.as_str(), Route::Http(route)));
    let tcp = config.tcp_routes.iter();
    let tcp = tcp.map(|route| (route.name.as_str(), Route::Tcp(route)));
    http.chain(tcp).collect()
}

/// The keys whose new value is not in force before the next start.
fn needs_restart(before: &Config, after: &Config) -> Vec<&'static str> {
    let (old, new) = (&before.server, &after.server);
    [
        ("server.threads", old.threads != new.threads),
        ("server.access_log", old.access_log != new.access_log),
        ("server.log_file", old.log_file != new.log_file),
        ("server.pid_file", old.pid_file != new.pid_file),
        ("server.upgrade_sock", old.upgrade_sock != new.upgrade_sock),
        ("server.user", old.user != new.user),
        ("server.group", old.group != new.group),
        (
            "server.drain_timeout_secs",
            old.drain_timeout != new.drain_timeout,
        ),
        (
            "server.drain_delay_secs",
            old.drain_delay != new.drain_delay,
        ),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}
