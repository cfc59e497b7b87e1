//! The immutable table that one configuration is compiled into, and the one pointer to it.
//!
//! Its own file, on a floor of its own, because start and reload are the same path: text, config,
//! [`Snapshot::build`], [`SnapshotHandle::swap`]. Invariants: a snapshot never changes; a request
//! loads it once and lives in it to its end; an upstream whose spec is equal to the one before
//! keeps its `Arc` and with it health, counts and connections.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::{Config, UpstreamSpec};
use crate::error::Error;
use crate::filter::Registry;
use crate::route::{Route, Table};
use crate::telemetry::{HttpRouteMetrics, Metrics};
use crate::upstream::Upstream;

/// Everything that serves requests, compiled from one configuration.
pub struct Snapshot {
    pub config: Arc<Config>,
    /// Counts up from 1 with each snapshot that served.
    pub generation: u64,
    /// Of the configuration's text: equal texts have equal hashes.
    pub hash: u64,
    pub routes: Table<Arc<Route>>,
    /// Each upstream once, in the order of the routes.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Where requests are counted that matched no route (`route="-"`).
    pub unrouted: HttpRouteMetrics,
}

impl Snapshot {
    /// Compiles `config`. Reads the files it names; resolves nothing and binds nothing.
    pub fn build(
        config: Arc<Config>,
        registry: &Registry,
        metrics: &Metrics,
        previous: Option<&Snapshot>,
    ) -> Result<Snapshot, Error> {
        registry.check(&config)?;
        refuse_tcp(&config)?;
        refuse_accounts(&config)?;
        let before: HashMap<&str, &Arc<Upstream>> = previous
            .map(|snapshot| snapshot.upstreams.iter().map(|u| (u.label(), u)).collect())
            .unwrap_or_default();
        let mut upstreams = Vec::new();
        let mut by_spec: HashMap<*const UpstreamSpec, Arc<Upstream>> = HashMap::new();
        let mut routes = Vec::with_capacity(config.http_routes.len());
        for route in &config.http_routes {
            let upstream = by_spec
                .entry(Arc::as_ptr(&route.upstream))
                .or_insert_with(|| {
                    let upstream = match before.get(route.upstream.name.as_str()) {
                        Some(same) if **same.spec() == *route.upstream => (*same).clone(),
                        changed => Upstream::new(
                            route.upstream.clone(),
                            changed.map(|upstream| upstream.as_ref()),
                        ),
                    };
                    upstreams.push(upstream.clone());
                    upstream
                })
                .clone();
            let compiled = Route::new(route, upstream, metrics);
            routes.push((route.key.clone(), Arc::new(compiled)));
        }
        let mut hasher = DefaultHasher::new();
        config.text.hash(&mut hasher);
        Ok(Snapshot {
            generation: previous.map_or(1, |snapshot| snapshot.generation + 1),
            hash: hasher.finish(),
            routes: Table::build(routes)?,
            upstreams,
            unrouted: metrics.http_route("-"),
            config,
        })
    }
}

/// TCP routes are parsed and checked, but nothing serves them: saying so beats a closed port.
fn refuse_tcp(config: &Config) -> Result<(), Error> {
    if config.tcp_routes.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = config
        .tcp_routes
        .iter()
        .map(|route| {
            format!(
                "{}:{}:{}: routes.{}: TCP routes are not served by this version \
                 (remove the route, or set tcp_proxy.enabled: false)",
                config.file.display(),
                route.at.0,
                route.at.1,
                route.name
            )
        })
        .collect();
    Err(Error::config(lines.join("\n")))
}

/// Who asks for another account must not get a gateway that goes on as root.
fn refuse_accounts(config: &Config) -> Result<(), Error> {
    let asked = [
        ("user", config.server.user.is_some()),
        ("group", config.server.group.is_some()),
    ];
    let lines: Vec<String> = asked
        .into_iter()
        .filter(|(_, asked)| *asked)
        .map(|(key, _)| {
            format!(
                "{}: server.{key}: this version does not change its account (remove the key, and \
                 start the gateway as that account)",
                config.file.display()
            )
        })
        .collect();
    match lines.is_empty() {
        true => Ok(()),
        false => Err(Error::config(lines.join("\n"))),
    }
}

/// The one pointer to the snapshot in force. Cloning shares it.
#[derive(Clone)]
pub struct SnapshotHandle {
    current: Arc<ArcSwap<Snapshot>>,
}

impl SnapshotHandle {
    pub fn new(snapshot: Snapshot) -> SnapshotHandle {
        SnapshotHandle {
            current: Arc::new(ArcSwap::from_pointee(snapshot)),
        }
    }

    /// The snapshot in force. Held for as long as the caller likes.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts `snapshot` in force for whatever comes from now on.
    pub fn swap(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
    }

    /// The upstreams of the snapshot in force.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        let snapshot = self.current.load();
        let mut seen = HashSet::new();
        snapshot
            .upstreams
            .iter()
            .filter(|upstream| seen.insert(Arc::as_ptr(upstream)))
            .cloned()
            .collect()
    }
}
