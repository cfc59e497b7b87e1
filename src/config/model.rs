//! A configuration that is known to make sense, as every layer above reads it.
//!
//! Invariant: valid by construction; only `parse` makes a [`Config`], and defaults are already
//! filled in. Durations and sizes carry their unit in the type. It is over 400 lines because it is
//! one table: a type for each section of the file, a line for each key.

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
    /// `listen_addr`: where HTTP clients connect without TLS; required.
    pub listen_addr: ListenAddrs,
    /// `global_timeout_ms`: `timeout_ms` of every route that names none; required.
    pub global_timeout: Duration,
    /// Client connections, HTTP and TCP together; the admin listener is not counted.
    pub max_connections: usize,
    /// `trusted_proxies`: whose X-Forwarded-* and PROXY headers are believed; default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// `max_header_bytes` of one request head; more is 431. Default: 65536.
    pub max_header_bytes: usize,
    /// `max_body_bytes` of one request body; more is 413. `None`, the default: no limit.
    pub max_body_bytes: Option<u64>,
    /// `header_timeout_ms`: first to last byte of a request head, else 408. Default: 10 s.
    pub header_timeout: Duration,
    /// `keepalive_timeout_secs`: idle time of a client between requests. Default: 75 s.
    pub keepalive_timeout: Duration,
    /// `None`: nothing is served in TLS.
    pub tls: Option<Tls>,
    /// HTTP/2 from clients.
    pub http2: Http2,
    /// `tcp_proxy`, with its defaults where the file has no such section.
    pub tcp_proxy: TcpProxy,
    /// `None`: `admin: false`.
    pub admin: Option<Admin>,
    /// `server`, with its defaults where the file has no such section.
    pub server: Server,
    /// In the order of the file. TCP routes are in `tcp_routes`.
    pub http_routes: Vec<HttpRoute>,
    /// In the order of the file; empty unless `tcp_proxy.enabled` is true.
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
            .field("tls", &self.tls)
            .field("http2", &self.http2)
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
    /// Whether the headers in which `peer` names its client are believed. An IPv4 address that came
    /// as IPv6 counts as IPv4.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}

/// The `http2` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Offered in TLS.
    pub enabled: bool,
    /// Taken without TLS.
    pub h2c: bool,
    /// On one connection.
    pub max_concurrent_streams: u32,
    /// On all connections of the gateway.
    pub max_streams: usize,
    /// Without a stream (`idle_timeout_secs`).
    pub idle_timeout: Duration,
    /// Between two PINGs while streams run (`ping_interval_secs`).
    pub ping_interval: Duration,
    /// Until GOAWAY (`max_connection_age_secs`); `None`: never.
    pub max_connection_age: Option<Duration>,
}

/// The `tls` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Where HTTPS clients connect; `None`: nowhere.
    pub listen_addr: Option<ListenAddrs>,
    /// Never empty; the first serves clients that name no other.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// `None`: clients are not asked for a certificate.
    pub client_auth: Option<ClientAuth>,
    /// Requests without TLS are answered with 308.
    pub redirect_http: bool,
}

/// One entry of `tls.certificates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain in PEM, the server's own certificate first.
    pub cert: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
    /// An OCSP response in DER.
    pub ocsp: Option<PathBuf>,
    /// Where the entry stands in the file.
    pub at: Mark,
}

/// Which certificates clients must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// The authorities in PEM.
    pub ca: PathBuf,
    /// Certificates that they revoked, in PEM.
    pub crl: Option<PathBuf>,
    /// Of routes that do not say.
    pub policy: ClientCertPolicy,
    /// Where `client_ca` stands in the file.
    pub at: Mark,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientCertPolicy {
    /// It is not asked for one.
    None,
    /// It may, and one that is wrong does not get in.
    Optional,
    /// It must.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// The `tcp_proxy` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpProxy {
    /// TCP routes are served only when this is true.
    pub enabled: bool,
    /// For routes without `tcp_listen_port`, which bind its hosts. Default: `0.0.0.0:9090`.
    pub listen_addr: ListenAddrs,
    /// Connects ahead, one fresh server connection for one session. Default: true.
    pub connection_pooling: bool,
    /// `max_idle_time_secs` of a connection made ahead; Postgres: at most 2 s. Default: 60 s.
    pub max_idle_time: Duration,
    /// `sniff_timeout_ms` until the first bytes of a client are there. Default: 5 s.
    pub sniff_timeout: Duration,
}

/// The `admin` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where `/metrics`, `/status` and `/reload` are served. Default: `127.0.0.1:9901`.
    pub listen_addr: ListenAddrs,
    /// Bearer token for `POST /reload` and `/config`; `None`, the default: loopback only.
    pub token: Option<Secret>,
}

/// The `server` section: what takes a restart to change, `watch_config` excepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `None`: one for each core.
    pub threads: Option<usize>,
    /// `None`: no file; with `-d` the default of `server::process::paths`.
    pub pid_file: Option<PathBuf>,
    /// Where `-u` takes the sockets over; `None`: the default of `server::process::paths`.
    pub upgrade_sock: Option<PathBuf>,
    /// The account to run as once the sockets are bound; `None`: the one that started it.
    pub user: Option<String>,
    /// The group beside `user`; `None`: the primary group of that account.
    pub group: Option<String>,
    /// The process log; `None`: stderr, with `-d` the default of `server::process::paths`.
    pub log_file: Option<PathBuf>,
    /// `access_log`: one JSON line per request and connection. Default: off.
    pub access_log: AccessLog,
    /// `drain_timeout_secs`: how long a stop waits for what is in flight. Default: 30 s.
    pub drain_timeout: Duration,
    /// `drain_delay_secs`: `/readyz` fails for so long before accepting stops. Default: 0.
    pub drain_delay: Duration,
    /// Reloads when the file changes; a reload changes this key, too. Default: false.
    pub watch_config: bool,
}

/// Where `server.access_log` goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// `off`, the default: no line is written.
    Off,
    /// `stdout`: the standard output of the process.
    Stdout,
    /// Any other text: a path, from the folder of the configuration; USR1 reopens it.
    File(PathBuf),
}

/// How long and how often one route tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tries {
    /// `timeout_ms`, to the response header or server connection. Default: `global_timeout_ms`.
    pub timeout: Duration,
    /// Extra tries after the first: 0 to 20.
    pub retry_count: u32,
    /// `connect_timeout_ms`. Default: min(1 s, `timeout` / (`retry_count` + 1)).
    pub connect_timeout: Duration,
    /// `try_timeout_ms` of each try; `None`, the default: bounded by `timeout` only.
    pub try_timeout: Option<Duration>,
}

/// One HTTP route.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// The key under `routes`: which hosts and paths it takes.
    pub key: RouteKey,
    /// One `Arc` for all routes that name the same entry of `upstreams`.
    pub upstream: Arc<UpstreamSpec>,
    /// `timeout_ms`, `retry_count`, `connect_timeout_ms` and `try_timeout_ms`.
    pub tries: Tries,
    /// The endpoint sees the path without the prefix of `key`. Default: false.
    pub strip_prefix: bool,
    /// The endpoint sees the Host of the client, not its own. Default: true.
    pub preserve_host: bool,
    /// What a request may switch to (RFC 9110, section 7.8). Default: any one protocol.
    pub upgrade: Upgrades,
    /// The endpoint gets one slash where the client sent several.
    pub merge_slashes: bool,
    /// Whether its clients must show a certificate.
    pub client_auth: ClientCertPolicy,
    /// They run in this order, before the upstream. Default: none.
    pub filters: Vec<FilterSpec>,
    /// Where the route stands in the file: line and column, from 1.
    pub at: (usize, usize),
}

/// One TCP route.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpRoute {
    /// The key as written: the `route` label.
    pub name: String,
    /// One `Arc` for all routes that name the same entry of `upstreams`.
    pub upstream: Arc<UpstreamSpec>,
    /// As of an HTTP route; `timeout_ms` ends when a server connection stands.
    pub tries: Tries,
    /// `db_type`. Default: by scheme, then by port of the upstream.
    pub db_type: DbType,
    /// Routes with an equal address share that listener. Never empty, none twice.
    pub listen: Vec<SocketAddr>,
    /// Takes what no other route of a shared listener takes. Default: false.
    pub default: bool,
    /// `match`: which clients of a shared listener it takes. Default: empty.
    pub matches: TcpMatch,
    /// `target`. Default: any role.
    pub target: Target,
    /// `idle_timeout_secs` without bytes or an answer due. `None`, the default: no limit.
    pub idle_timeout: Option<Duration>,
    /// The PROXY header that the server receives; `None`, the default: none.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// They run in this order, before the upstream. Default: none.
    pub filters: Vec<FilterSpec>,
    /// Where the route stands in the file: line and column, from 1.
    pub at: (usize, usize),
}

/// A group of endpoints behind one or several routes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamSpec {
    /// Its name in `upstreams`, or the key of the one route that has it: the `upstream` label.
    pub name: String,
    /// Never empty.
    pub endpoints: Vec<EndpointSpec>,
    /// `balance`, with `hash_on` in it. Default: `round_robin`.
    pub balance: Balance,
    /// To all endpoints together; more waits in a queue. `None`, the default: no limit.
    pub max_connections: Option<usize>,
    /// `queue_timeout_ms`: longest wait in that queue, then 503. Default: 5 s.
    pub queue_timeout: Duration,
    /// How long an unused HTTP connection is kept; zero: none is.
    pub keepalive_idle: Duration,
    /// `None`: no active checks, the default of HTTP; TCP has the probe of its protocol.
    pub health_check: Option<HealthCheck>,
    /// `None`: `ejection: false`.
    pub ejection: Option<Ejection>,
}

/// One endpoint of an upstream as the file names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSpec {
    /// `url`, or the endpoint itself where it is written as a text.
    pub url: UpstreamUrl,
    /// Its share relative to the other endpoints, 1 to 1000. Default: 1.
    pub weight: Weight,
    /// Used only while no endpoint without this flag is healthy.
    pub backup: bool,
    /// To this endpoint alone; `None`, the default: no limit.
    pub max_connections: Option<usize>,
}

/// How an endpoint is picked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Balance {
    /// `round_robin`, the default: in turns, by weight.
    RoundRobin,
    /// `least_requests`: the less busy of two that are drawn by weight.
    LeastRequests,
    /// `random`: drawn by weight.
    Random,
    /// `hash`: equal values of `hash_on` go to one endpoint, by a ring.
    Hash(HashOn),
    /// One that the embedder of the gateway registered.
    Custom {
        /// The name it was registered under, not one of [`BALANCE_WORDS`].
        name: String,
        /// `hash_on`, where it is written; the balancer receives the hash.
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
    /// The word that `balance` holds.
    pub name: String,
    /// Where that key stands in the file.
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

    /// The problem that no balancer has this name; `known`: those registered by the embedder.
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
    /// `client_ip`, by `trusted_proxies`; TCP routes take no other.
    ClientIp,
    /// `path`: the path that goes on to the endpoint, without the query.
    Path,
    /// `header:NAME`: a field of the request; the name is in lower case.
    Header(String),
    /// `cookie:NAME`: case of the name matters (RFC 6265).
    Cookie(String),
}

/// An active check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// Which request or login is a check.
    pub probe: Probe,
    /// `interval_ms` between two checks of one endpoint. Default: 5 s.
    pub interval: Duration,
    /// `timeout_ms` of one check. Default: 1 s.
    pub timeout: Duration,
    /// Passed checks in a row until an endpoint is in again.
    pub healthy_after: usize,
    /// Failed checks in a row until an endpoint is out.
    pub unhealthy_after: usize,
}

impl HealthCheck {
    /// Whether it finds out which role an endpoint has: with a login for Postgres and MySQL,
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
    Http {
        /// `health_check.path` or `health_check_path`, with its query.
        path: String,
        /// `health_check.status`. Default: 200 to 399.
        status: StatusSet,
    },
    /// The protocol's own probe; a bare connect for [`DbType::Tcp`].
    Tcp {
        /// Whose probe it is.
        db_type: DbType,
        /// `health_check.user`; `None`: the check does not log in by name.
        user: Option<String>,
        /// `health_check.password`, with its variables of the environment filled in.
        password: Option<Secret>,
    },
}

/// Passive ejection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ejection {
    /// Failures in a row until an endpoint is out, 1 to 10000. Default: 5.
    pub consecutive_failures: u32,
    /// `base_ms` times the ejections not yet forgiven is the time out. Default: 30 s.
    pub base: Duration,
    /// Of the endpoints of one upstream, 0 to 100; at least one may always be ejected.
    pub max_percent: u32,
    /// The HTTP statuses that count as failures.
    pub statuses: StatusSet,
}

/// The protocol that a TCP route carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DbType {
    /// Port 5432, also `postgresql`.
    Postgres,
    /// Port 3306, also `mariadb`; the server sends first.
    Mysql,
    /// Ports 27017 to 27019, also `mongo`.
    Mongodb,
    /// Port 6379, also `valkey`.
    Redis,
    /// Port 1521: Oracle Net (TNS).
    Oracle,
    /// Port 1433, also `mssql`: TDS.
    Sqlserver,
    /// Port 9042, also `cql`.
    Cassandra,
    /// Port 5984: HTTP/1.1.
    Couchdb,
    /// Port 8086: HTTP/1.1.
    Influxdb,
    /// Port 9200: HTTP/1.1.
    Elasticsearch,
    /// Nothing is known: carried as it is.
    Tcp,
}

/// What a TCP route on a shared listener answers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpMatch {
    /// The server name of a TLS ClientHello (RFC 6066, section 3), lower case.
    pub sni: Option<String>,
    /// `database` of a Postgres StartupMessage; `None`: any.
    pub database: Option<String>,
    /// `user` of a Postgres StartupMessage; `None`: any.
    pub user: Option<String>,
}

/// The role an endpoint must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// `primary`: the endpoint takes writes, by its last health check.
    Primary,
    /// `replica`: the endpoint follows a primary, by its last health check.
    Replica,
    /// `any`, the default: roles are not looked at.
    Any,
    /// `prefer_replica`: a replica while one is usable, else any endpoint.
    PreferReplica,
}

/// The PROXY protocol header sent to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// `v1`: one line of text (PROXY protocol specification, section 2.1).
    V1,
    /// `v2`: binary (PROXY protocol specification, section 2.2).
    V2,
}
