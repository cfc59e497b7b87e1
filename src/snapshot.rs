//! The immutable table that one configuration is compiled into, and the one pointer to it.
//!
//! A layer of its own, because start and reload are the same path: text, config,
//! [`Snapshot::build`], [`SnapshotHandle::swap`]. Invariants: a snapshot never changes; a request
//! loads it once and lives in it to its end; an upstream whose spec is equal to the one before
//! keeps its `Arc` and with it health, counts and connections.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::account::Account;
use crate::config::{Config, UpstreamSpec};
use crate::error::Error;
use crate::filter::{Chains, Registry};
use crate::route::{Route, Table, TcpRoute, TcpTable};
use crate::telemetry::{HttpRouteMetrics, Metrics};
use crate::tls::{ServerTls, TlsHandle};
use crate::upstream::warm::{Policy, Wanted};
use crate::upstream::{Balancers, Upstream, key};

/// What code outside of this crate adds to the words of a configuration.
#[derive(Debug, Default)]
pub struct Additions {
    /// For `filters: [{type: …}]`.
    pub filters: Registry,
    /// For `balance`.
    pub balancers: Balancers,
}

/// Everything that serves requests, compiled from one configuration.
pub struct Snapshot {
    /// What it was compiled from.
    pub config: Arc<Config>,
    /// Counts up from 1 with each snapshot that served.
    pub generation: u64,
    /// Of the configuration's text: equal texts have equal hashes.
    pub hash: u64,
    /// The HTTP routes, by host pattern and path prefix.
    pub routes: Table<Arc<Route>>,
    /// The TCP routes of each listener, by its configured address.
    pub tcp: BTreeMap<SocketAddr, Arc<TcpTable>>,
    /// Each upstream once, in the order of the routes.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The certificates of the `tls` section; `None` without one.
    pub tls: Option<Arc<TlsHandle>>,
    /// The filters of the routes.
    pub chains: Chains,
    /// Where requests are counted that matched no route (`route="-"`).
    pub unrouted: HttpRouteMetrics,
    /// An upstream of an HTTP route has `max_connections`: unused connections to servers must be
    /// found by every thread, so that they are not opened a second time.
    pub counts_http_connections: bool,
}

impl Snapshot {
    /// Compiles `config`. Reads the files it names; resolves nothing and binds nothing.
    pub fn build(
        config: Arc<Config>,
        additions: &Additions,
        metrics: &Metrics,
        previous: Option<&Snapshot>,
    ) -> Result<Snapshot, Error> {
        let before = previous.map(|snapshot| &snapshot.chains);
        let chains = additions.filters.compile(&config, before);
        let chains = both(additions.balancers.check(&config), chains);
        let tls = tls(&config, metrics, previous);
        let (tls, ((), chains)) = both(tls, chains)?;
        Account::look_up(&config)?;
        let mut upstreams = Upstreams::new(&additions.balancers, previous);
        let mut routes = Vec::with_capacity(config.http_routes.len());
        for route in &config.http_routes {
            let upstream = upstreams.of(&route.upstream);
            let chain = chains.http(&route.key.text);
            let compiled = Route::new(route, upstream, chain, metrics);
            routes.push((route.key.clone(), Arc::new(compiled)));
        }
        let mut tcp: BTreeMap<SocketAddr, Vec<Arc<TcpRoute>>> = BTreeMap::new();
        for route in &config.tcp_routes {
            let upstream = upstreams.of(&route.upstream);
            let compiled = TcpRoute::new(route, upstream, chains.tcp(&route.name), metrics);
            let compiled = Arc::new(compiled);
            for address in &route.listen {
                tcp.entry(*address).or_default().push(compiled.clone());
            }
        }
        let counts_http_connections = routes.iter().any(|(_, route)| route.upstream.is_limited());
        Ok(Snapshot {
            generation: previous.map_or(1, |snapshot| snapshot.generation + 1),
            hash: key::fnv1a(config.text.as_bytes()),
            routes: Table::build(routes)?,
            tcp: tcp
                .into_iter()
                .map(|(address, routes)| (address, Arc::new(TcpTable::new(routes, metrics))))
                .collect(),
            upstreams: upstreams.all,
            tls,
            chains,
            unrouted: metrics.http_route("-"),
            counts_http_connections,
            config,
        })
    }

    /// What of the files that it names is probably wrong; what the file itself says is in
    /// [`Config::warnings`].
    pub fn warnings(&self) -> Vec<String> {
        let tls = self.tls.as_ref().map(|tls| tls.load().warnings.clone());
        tls.unwrap_or_default()
    }

    /// The TCP routes of the listener with this configured address.
    pub fn tcp_table(&self, address: SocketAddr) -> Option<&Arc<TcpTable>> {
        self.tcp.get(&address)
    }

    /// The upstreams that sockets are connected ahead for, and how.
    pub fn warm(&self) -> Vec<Wanted> {
        let settings = &self.config.tcp_proxy;
        if !settings.connection_pooling {
            return Vec::new();
        }
        // A route may have several addresses.
        let mut seen = HashSet::new();
        let routes = self.tcp.values().flat_map(|table| table.routes());
        routes
            .filter(|route| seen.insert(Arc::as_ptr(route)))
            .filter_map(|route| {
                let policy = Policy::of(route.db_type, settings.max_idle_time)?;
                Some(Wanted {
                    upstream: route.upstream.clone(),
                    policy,
                    metrics: route.metrics.clone(),
                })
            })
            .collect()
    }
}

/// The upstreams of a snapshot in the making: each spec once, and the one before where it is equal.
struct Upstreams<'p> {
    balancers: &'p Balancers,
    before: HashMap<&'p str, &'p Arc<Upstream>>,
    by_spec: HashMap<*const UpstreamSpec, Arc<Upstream>>,
    all: Vec<Arc<Upstream>>,
}

impl<'p> Upstreams<'p> {
    fn new(balancers: &'p Balancers, previous: Option<&'p Snapshot>) -> Upstreams<'p> {
        let before = previous
            .map(|snapshot| snapshot.upstreams.iter().map(|u| (u.label(), u)).collect())
            .unwrap_or_default();
        Upstreams {
            balancers,
            before,
            by_spec: HashMap::new(),
            all: Vec::new(),
        }
    }

    /// The upstream for `spec`, which routes share by its `Arc`.
    fn of(&mut self, spec: &Arc<UpstreamSpec>) -> Arc<Upstream> {
        if let Some(upstream) = self.by_spec.get(&Arc::as_ptr(spec)) {
            return upstream.clone();
        }
        let upstream = match self.before.get(spec.name.as_str()) {
            Some(same) if **same.spec() == **spec => (*same).clone(),
            changed => {
                let changed = changed.map(|upstream| upstream.as_ref());
                Upstream::balanced(spec.clone(), self.balancers, changed)
            }
        };
        self.by_spec.insert(Arc::as_ptr(spec), upstream.clone());
        self.all.push(upstream.clone());
        upstream
    }
}

/// The certificates that `config` names, or those of `previous` where the files are the same.
fn tls(
    config: &Config,
    metrics: &Metrics,
    previous: Option<&Snapshot>,
) -> Result<Option<Arc<TlsHandle>>, Error> {
    let Some(tls) = &config.tls else {
        return Ok(None);
    };
    let before = previous.and_then(|snapshot| snapshot.tls.as_ref());
    let in_force = before.map(|handle| handle.load());
    match ServerTls::load(config, tls, in_force.as_deref())? {
        Some(new) => Ok(Some(Arc::new(TlsHandle::new(new, metrics)))),
        None => Ok(before.cloned()),
    }
}

/// What both made, or what both say is wrong.
fn both<S, T>(first: Result<S, Error>, second: Result<T, Error>) -> Result<(S, T), Error> {
    match (first, second) {
        (Ok(first), Ok(second)) => Ok((first, second)),
        (Ok(_), Err(second)) => Err(second),
        (Err(first), Ok(_)) => Err(first),
        (Err(first), Err(second)) => Err(Error::config(format!("{first}\n{second}"))),
    }
}

/// The one pointer to the snapshot in force. Cloning shares it.
#[derive(Clone)]
pub struct SnapshotHandle {
    current: Arc<ArcSwap<Snapshot>>,
}

impl SnapshotHandle {
    /// Puts the first snapshot in force.
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
