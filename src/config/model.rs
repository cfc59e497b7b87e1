//! A configuration that is known to make sense.
//!
//! Its own file because it is what every floor above reads, while how it came from text is nobody
//! else's business. Invariant: valid by construction; only `parse` makes a [`Config`], and
//! defaults are already filled in. Durations and sizes carry their unit in the type.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::problem::{Mark, Problem, did_you_mean, shown};
use super::settings::FilterSpec;
use super::upgrades::Upgrades;
use super::value::{ListenAddrs, RouteKey, Secret, StatusSet, UpstreamUrl, Weight};

/// Everything one YAML file says. Its `Debug` leaves out the text, which may hold secrets.
#[derive(Clone)]
pub struct Config {
    /// The file it was read from; relative paths in it mean this file's folder.
    pub file: PathBuf,
    pub listen_addr: ListenAddrs,
    pub global_timeout: Duration,
    /// Client connections, HTTP and TCP together; the admin listener is not counted.
    pub max_connections: usize,
    pub trusted_proxies: Vec<IpNet>,
    pub max_header_bytes: usize,
    pub max_body_bytes: Option<u64>,
    pub header_timeout: Duration,
    pub keepalive_timeout: Duration,
    pub tcp_proxy: TcpProxy,
    /// `None`: `admin: false`.
    pub admin: Option<Admin>,
    pub server: Server,
    /// In the order of the file. TCP routes are in `tcp_routes`.
    pub http_routes: Vec<HttpRoute>,
    pub tcp_routes: Vec<TcpRoute>,
    /// Where `balance` names one that is not built in. Whether it is there is found out when a
    /// snapshot is built.
    pub balancers: Vec<BalancerRef>,
    /// What is legal but probably not meant, each `file:line:column: path: text`.
    pub warnings: Vec<String>,
    /// The text, for `/config` and the hash of a generation.
    pub text: String,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("file", &self.file)
            .field("listen_addr", &self.listen_addr)
            .field("global_timeout", &self.global_timeout)
            .field("max_connections", &self.max_connections)
            .field("trusted_proxies", &self.trusted_proxies)
            .field("max_header_bytes", &self.max_header_bytes)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("header_timeout", &self.header_timeout)
            .field("keepalive_timeout", &self.keepalive_timeout)
            .field("tcp_proxy", &self.tcp_proxy)
            .field("admin", &self.admin)
            .field("server", &self.server)
            .field("http_routes", &self.http_routes)
            .field("tcp_routes", &self.tcp_routes)
            .field("balancers", &self.balancers)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Whether what `peer` says of its client is believed. An IPv4 address that came as IPv6
    /// counts as IPv4.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}

/// The `tcp_proxy` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpProxy {
    /// TCP routes are served only when this is true.
    pub enabled: bool,
    pub listen_addr: ListenAddrs,
    pub connection_pooling: bool,
    pub max_idle_time: Duration,
    pub sniff_timeout: Duration,
}

/// The `admin` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    pub listen_addr: ListenAddrs,
    pub token: Option<Secret>,
}

/// The `server` section: what cannot change without a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `None`: one for each core.
    pub threads: Option<usize>,
    pub pid_file: Option<PathBuf>,
    pub upgrade_sock: Option<PathBuf>,
    pub user: Option<String>,
    pub group: Option<String>,
    pub log_file: Option<PathBuf>,
    pub access_log: AccessLog,
    pub drain_timeout: Duration,
    pub drain_delay: Duration,
    pub watch_config: bool,
}

/// Where `server.access_log` goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

/// How long and how often one route tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tries {
    pub timeout: Duration,
    /// Extra tries after the first: 0 to 20.
    pub retry_count: u32,
    pub connect_timeout: Duration,
    pub try_timeout: Option<Duration>,
}

/// One HTTP route.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    pub key: RouteKey,
    pub upstream: Arc<UpstreamSpec>,
    pub tries: Tries,
    pub strip_prefix: bool,
    pub preserve_host: bool,
    pub upgrade: Upgrades,
    /// The endpoint gets one slash where the client sent several.
    pub merge_slashes: bool,
    pub filters: Vec<FilterSpec>,
    /// Where the route stands in the file: line and column, from 1.
    pub at: (usize, usize),
}

/// One TCP route.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpRoute {
    /// The key as written: the `route` label.
    pub name: String,
    pub upstream: Arc<UpstreamSpec>,
    pub tries: Tries,
    pub db_type: DbType,
    /// Routes with an equal address share that listener. Never empty, none twice.
    pub listen: Vec<SocketAddr>,
    pub default: bool,
    pub matches: TcpMatch,
    pub target: Target,
    pub idle_timeout: Option<Duration>,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub filters: Vec<FilterSpec>,
    pub at: (usize, usize),
}

/// A group of endpoints behind one or several routes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamSpec {
    /// Its name in `upstreams`, or the key of the one route that has it: the `upstream` label.
    pub name: String,
    /// Never empty.
    pub endpoints: Vec<EndpointSpec>,
    pub balance: Balance,
    pub max_connections: Option<usize>,
    pub queue_timeout: Duration,
    /// How long an unused HTTP connection is kept; zero: none is.
    pub keepalive_idle: Duration,
    pub health_check: Option<HealthCheck>,
    /// `None`: `ejection: false`.
    pub ejection: Option<Ejection>,
}

/// One endpoint of an upstream as the file names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSpec {
    pub url: UpstreamUrl,
    pub weight: Weight,
    /// Used only while no endpoint without this flag is healthy.
    pub backup: bool,
    pub max_connections: Option<usize>,
}

/// How an endpoint is picked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Balance {
    RoundRobin,
    LeastRequests,
    Random,
    Hash(HashOn),
    /// One that the embedder of the gateway registered.
    Custom {
        name: String,
        hash_on: Option<HashOn>,
    },
}

impl Balance {
    /// What of a request is hashed, if anything.
    pub fn hash_on(&self) -> Option<&HashOn> {
        match self {
            Balance::Hash(on) => Some(on),
            Balance::Custom { hash_on, .. } => hash_on.as_ref(),
            Balance::RoundRobin | Balance::LeastRequests | Balance::Random => None,
        }
    }
}

/// A place where `balance` names one that is not built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalancerRef {
    pub name: String,
    pub at: Mark,
    /// The key, as in `routes./api.balance`.
    pub path: String,
}

impl BalancerRef {
    /// Whether a balancer can have this name: letters, digits, `_`, `-` and `.`, at most 64 of
    /// them, and no word that is built in.
    pub fn can_be(name: &str) -> bool {
        (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
            && !BALANCE_WORDS.contains(&name)
    }

    /// That nothing of this name is there. `known`: those that are, beside the built-in words.
    pub fn unknown<'a>(&self, file: &Path, known: impl IntoIterator<Item = &'a str>) -> Problem {
        let words: Vec<&str> = BALANCE_WORDS.iter().copied().chain(known).collect();
        let meant = did_you_mean(&self.name, words.iter().copied());
        let hint = match meant {
            Some(meant) if meant.contains("`hash`") => {
                "write `balance: hash`, and on what: `hash_on: client_ip`".to_owned()
            }
            Some(meant) => meant,
            None => format!("one of {}", words.join(", ")),
        };
        Problem {
            file: file.to_path_buf(),
            line: self.at.line,
            column: self.at.column,
            path: self.path.clone(),
            message: format!("`{}` is not a value of `balance`", shown(&self.name)),
            hint: Some(hint),
        }
    }
}

/// The words of `balance` that are built in.
pub const BALANCE_WORDS: &[&str] = &["round_robin", "least_requests", "random", "hash"];

/// What `balance: hash` hashes. Header names are lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashOn {
    ClientIp,
    Path,
    Header(String),
    Cookie(String),
}

/// An active check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    /// Passed checks in a row until an endpoint is in again.
    pub healthy_after: usize,
    /// Failed checks in a row until an endpoint is out.
    pub unhealthy_after: usize,
}

impl HealthCheck {
    /// Whether it finds out who is primary and who replica: with a login for Postgres and MySQL,
    /// without one for Redis and MongoDB.
    pub fn tells_role(&self) -> bool {
        match &self.probe {
            Probe::Http { .. } => false,
            Probe::Tcp { db_type, user, .. } => match db_type {
                DbType::Postgres | DbType::Mysql => user.is_some(),
                DbType::Redis | DbType::Mongodb => true,
                _ => false,
            },
        }
    }
}

/// What an active check does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// `GET path`, healthy when the status is in the set.
    Http { path: String, status: StatusSet },
    /// The protocol's own probe; a bare connect for [`DbType::Tcp`].
    Tcp {
        db_type: DbType,
        user: Option<String>,
        password: Option<Secret>,
    },
}

/// Passive ejection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ejection {
    pub consecutive_failures: u32,
    pub base: Duration,
    /// Of the endpoints of one upstream, 0 to 100; at least one may always be ejected.
    pub max_percent: u32,
    /// The HTTP statuses that count as failures.
    pub statuses: StatusSet,
}

/// The protocol that a TCP route carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DbType {
    Postgres,
    Mysql,
    Mongodb,
    Redis,
    Oracle,
    Sqlserver,
    Cassandra,
    Couchdb,
    Influxdb,
    Elasticsearch,
    /// Nothing is known: carried as it is.
    Tcp,
}

/// What a TCP route on a shared listener answers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpMatch {
    pub sni: Option<String>,
    pub database: Option<String>,
    pub user: Option<String>,
}

/// The role an endpoint must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Primary,
    Replica,
    Any,
    PreferReplica,
}

/// The PROXY protocol header sent to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    V1,
    V2,
}
