//! Every key of the configuration: what it takes, its default, what it means.
//!
//! What the columns mean is in `keys`; read through `Section::keys`. It is over 400 lines because
//! it is one table, as long as the configuration has keys.

use super::keys::Kind::*;
use super::keys::{Default, Key, Kind, On, Pattern, Section};
use super::model::BALANCE_WORDS;

impl Section {
    /// Its keys, in the order of the documentation.
    pub fn keys(self) -> &'static [Key] {
        match self {
            Section::Root => ROOT,
            Section::TcpProxy => TCP_PROXY,
            Section::Admin => ADMIN,
            Section::Server => SERVER,
            Section::Tls => TLS,
            Section::Certificate => CERTIFICATE,
            Section::Http2 => HTTP2,
            Section::Upstream => UPSTREAM,
            Section::Route => ROUTE,
            Section::Endpoint => ENDPOINT,
            Section::HealthCheck => HEALTH_CHECK,
            Section::Ejection => EJECTION,
            Section::Match => MATCH,
        }
    }

    /// The key of that name.
    pub fn key(self, name: &str) -> Option<&'static Key> {
        self.keys().iter().find(|key| key.name == name)
    }
}

const DAY_MS: u64 = 86_400_000;
const DAY_SECS: u64 = 86_400;
/// Connections of one gateway or to one upstream: more than one machine has descriptors.
const CONNECTIONS: Kind = Int {
    min: 1,
    max: 10_000_000,
};
const MS: Kind = Int {
    min: 1,
    max: DAY_MS,
};
const SECS: Kind = Int {
    min: 1,
    max: DAY_SECS,
};
const SECS_OR_NONE: Kind = Int {
    min: 0,
    max: DAY_SECS,
};

const fn file(example: &'static str) -> Pattern {
    Pattern {
        what: "a path, from the folder of this file",
        regex: "^[^\\u0000-\\u001f]+$",
        example,
        secret: false,
    }
}

static PID_FILE: Pattern = file("/run/harbr-router.pid");
static UPGRADE_SOCK: Pattern = file("/run/harbr-router.sock");
static LOG_FILE: Pattern = file("/var/log/harbr-router.log");
static CERT_FILE: Pattern = file("/etc/harbr-router/example.org.pem");
static KEY_FILE: Pattern = file("/etc/harbr-router/example.org.key");
static OCSP_FILE: Pattern = file("/etc/harbr-router/example.org.ocsp");
static CA_FILE: Pattern = file("/etc/harbr-router/clients.pem");
static CRL_FILE: Pattern = file("/etc/harbr-router/clients.crl");
static ACCOUNT: Pattern = Pattern {
    what: "the name of an account",
    regex: "^[A-Za-z_][A-Za-z0-9_.-]{0,31}$",
    example: "nobody",
    secret: false,
};
static GROUP: Pattern = Pattern {
    what: "the name of a group",
    example: "daemon",
    ..ACCOUNT
};
static ACCESS_LOG: Pattern = Pattern {
    what: "`off`, `stdout` or a path, from the folder of this file",
    regex: "^[^\\u0000-\\u001f]+$",
    example: "stdout",
    secret: false,
};
static TOKEN: Pattern = Pattern {
    what: "a text or `${NAME}` from the environment",
    regex: "^[^\\u0000-\\u001f]+$",
    example: "${ADMIN_TOKEN}",
    secret: true,
};
static PASSWORD: Pattern = Pattern {
    what: "a text or `${NAME}` from the environment",
    regex: "^[^\\u0000-\\u001f]+$",
    example: "${DB_PASSWORD}",
    secret: true,
};
static DB_USER: Pattern = Pattern {
    what: "a user of the database",
    regex: "^[^\\u0000-\\u001f]+$",
    example: "probe",
    secret: false,
};
static DB_NAME: Pattern = Pattern {
    what: "a name that clients say at login",
    regex: "^[^\\u0000-\\u001f]{1,63}$",
    example: "analytics",
    secret: false,
};
static SERVER_NAME: Pattern = Pattern {
    what: "a server name without port",
    regex: "^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})$",
    example: "db.example.org",
    secret: false,
};
static HASH_ON: Pattern = Pattern {
    what: "`client_ip`, `path`, `header:NAME` or `cookie:NAME`",
    regex: "^(client_ip|path|(header|cookie):[A-Za-z0-9!#$%&'*+.^_`|~-]+)$",
    example: "header:X-User",
    secret: false,
};
static HTTP_PATH: Pattern = Pattern {
    what: "a path",
    regex: "^/[!$-;=?-Z_a-z~]*$",
    example: "/health",
    secret: false,
};

pub(super) static ROOT: &[Key] = &[
    key(
        "listen_addr",
        Addresses,
        Default::Required,
        "where HTTP clients connect; `[::]` takes IPv4, too",
    ),
    key(
        "global_timeout_ms",
        MS,
        Default::Required,
        "`timeout_ms` of every route that names none",
    ),
    key(
        "max_connections",
        CONNECTIONS,
        Default::Required,
        "client connections, HTTP and TCP together, admin not counted",
    ),
    key(
        "routes",
        Named(Section::Route),
        Default::Required,
        "a key with `/` is `/prefix`, `host/prefix` or `*.host/prefix`; one without is the name of a TCP route",
    ),
    key(
        "upstreams",
        Named(Section::Upstream),
        Default::Json("{}"),
        "upstreams that several routes share, by name",
    ),
    key(
        "trusted_proxies",
        Networks,
        Default::Json("[]"),
        "whose X-Forwarded-* and PROXY headers are believed",
    ),
    key(
        "merge_slashes",
        Bool,
        Default::Bool(true),
        "`merge_slashes` of every HTTP route that has none",
    ),
    key(
        "max_header_bytes",
        Int {
            min: 256,
            max: 1_048_575,
        },
        Default::Int(65_536),
        "of one request head; more is 431",
    ),
    key(
        "max_body_bytes",
        Int {
            min: 1,
            max: 1 << 50,
        },
        Default::None,
        "of one request body; more is 413",
    ),
    key(
        "header_timeout_ms",
        MS,
        Default::Int(10_000),
        "from the first byte of a request head to its last; longer is 408",
    ),
    key(
        "keepalive_timeout_secs",
        SECS,
        Default::Int(75),
        "how long a client connection may idle between requests",
    ),
    key(
        "tls",
        Map(Section::Tls),
        Default::None,
        "certificates, and where HTTPS clients connect",
    ),
    key(
        "http2",
        Map(Section::Http2),
        Default::Json("{}"),
        "HTTP/2 from clients",
    ),
    key(
        "tcp_proxy",
        Map(Section::TcpProxy),
        Default::Json("{}"),
        "what all TCP routes share",
    ),
    key(
        "admin",
        MapOrFalse(Section::Admin),
        Default::Json("{\"listen_addr\": \"127.0.0.1:9901\"}"),
        "metrics, health, status and reload; `false` turns it off",
    ),
    key(
        "server",
        Map(Section::Server),
        Default::Json("{}"),
        "the process; needs a restart to change",
    ),
];

pub(super) static TLS: &[Key] = &[
    key(
        "listen_addr",
        Addresses,
        Default::None,
        "where HTTPS clients connect",
    ),
    key(
        "certificates",
        List(Section::Certificate),
        Default::Required,
        "picked by the name that a client asks for: exact, then wildcard, then the first",
    ),
    key(
        "min_version",
        Choice(&["1.2", "1.3"]),
        Default::Text("1.2"),
        "the oldest TLS version that is spoken",
    ),
    key(
        "client_ca",
        Text(&CA_FILE),
        Default::None,
        "authorities whose certificates clients must have, in PEM",
    ),
    key(
        "client_auth",
        Choice(&["required", "optional", "none"]),
        Default::Described("`required` with `client_ca`"),
        "whether a client without a certificate is let in, on routes that do not say; one with a wrong certificate never is",
    ),
    key(
        "client_crl",
        Text(&CRL_FILE),
        Default::None,
        "revoked certificates of clients, in PEM",
    ),
    key(
        "redirect_http",
        Bool,
        Default::Bool(false),
        "answer requests without TLS with 308 to https",
    ),
];

pub(super) static HTTP2: &[Key] = &[
    key(
        "enabled",
        Bool,
        Default::Bool(true),
        "offer HTTP/2 to clients in TLS (ALPN)",
    ),
    key(
        "h2c",
        Bool,
        Default::Bool(false),
        "take HTTP/2 without TLS from clients that begin with it (prior knowledge)",
    ),
    key(
        "max_concurrent_streams",
        Int {
            min: 1,
            max: 100_000,
        },
        Default::Int(100),
        "requests at once on one connection",
    ),
    key(
        "max_streams",
        CONNECTIONS,
        Default::Int(20_000),
        "requests at once on all HTTP/2 connections together; more are refused unseen, and may be sent again",
    ),
    key(
        "idle_timeout_secs",
        SECS,
        Default::Int(75),
        "how long a connection may be without a request",
    ),
    key(
        "ping_interval_secs",
        SECS,
        Default::Int(60),
        "how often a client that has requests under way is asked whether it is there",
    ),
    key(
        "max_connection_age_secs",
        SECS,
        Default::None,
        "how old a connection grows before the client is asked for another, a tenth more or less",
    ),
];

pub(super) static CERTIFICATE: &[Key] = &[
    key(
        "cert",
        Text(&CERT_FILE),
        Default::Required,
        "the certificate, then those of the authorities between it and the root, in PEM",
    ),
    key(
        "key",
        Text(&KEY_FILE),
        Default::Required,
        "its private key, in PEM, not encrypted",
    ),
    key(
        "ocsp",
        Text(&OCSP_FILE),
        Default::None,
        "an OCSP response (RFC 6960) in DER, stapled as long as it is fresh",
    ),
];

pub(super) static TCP_PROXY: &[Key] = &[
    key(
        "enabled",
        Bool,
        Default::Bool(false),
        "TCP routes need `true`; with a written `false` they are checked, not served",
    ),
    key(
        "listen_addr",
        Addresses,
        Default::Text("0.0.0.0:9090"),
        "where clients of TCP routes without `tcp_listen_port` connect",
    ),
    key(
        "connection_pooling",
        Bool,
        Default::Bool(true),
        "connect ahead, so that a session finds a fresh server connection ready; none is ever shared",
    ),
    key(
        "max_idle_time_secs",
        SECS,
        Default::Int(60),
        "how long an unused connection made ahead is kept (Postgres: 2 at most)",
    ),
    key(
        "sniff_timeout_ms",
        MS,
        Default::Int(5_000),
        "how long the first bytes of a client are awaited",
    ),
];

pub(super) static ADMIN: &[Key] = &[
    key(
        "listen_addr",
        Addresses,
        Default::Text("127.0.0.1:9901"),
        "where the admin listener is",
    ),
    key(
        "token",
        Text(&TOKEN),
        Default::None,
        "lets peers other than loopback use `POST /reload` and `/config`",
    ),
];

pub(super) static SERVER: &[Key] = &[
    key(
        "threads",
        Int { min: 1, max: 1024 },
        Default::Described("one per core"),
        "worker threads",
    ),
    key(
        "pid_file",
        Text(&PID_FILE),
        Default::Described(
            "none; with `-d` `harbr-router-<config stem>.pid` in the runtime folder",
        ),
        "holds the process id while the gateway runs",
    ),
    key(
        "upgrade_sock",
        Text(&UPGRADE_SOCK),
        Default::Described("`harbr-router-<config stem>.sock` in the runtime folder"),
        "where `-u` takes the sockets over",
    ),
    key(
        "user",
        Text(&ACCOUNT),
        Default::None,
        "the account to run as after binding",
    ),
    key(
        "group",
        Text(&GROUP),
        Default::None,
        "the group to run as after binding",
    ),
    key(
        "log_file",
        Text(&LOG_FILE),
        Default::Described("stderr; with `-d` `harbr-router-<config stem>.log`"),
        "the process log",
    ),
    key(
        "access_log",
        Text(&ACCESS_LOG),
        Default::Text("off"),
        "one JSON line per request and connection",
    ),
    key(
        "drain_timeout_secs",
        SECS_OR_NONE,
        Default::Int(30),
        "how long a stopping gateway waits for what is in flight",
    ),
    key(
        "drain_delay_secs",
        SECS_OR_NONE,
        Default::Int(0),
        "how long `/readyz` fails before a stopping gateway stops accepting",
    ),
    key(
        "watch_config",
        Bool,
        Default::Bool(false),
        "reload when the file changes",
    ),
];

/// The keys of an upstream that stands in a route or under `upstreams`.
const BALANCE: Key = shared(
    "balance",
    Choice(BALANCE_WORDS),
    Default::Text("round_robin"),
    "how an endpoint is picked",
);
const HASH_KEY: Key = shared(
    "hash_on",
    Text(&HASH_ON),
    Default::None,
    "what `balance: hash` hashes; TCP routes take `client_ip` only",
);
const LIMIT: Key = shared(
    "max_connections",
    CONNECTIONS,
    Default::None,
    "connections to the whole upstream; what is above waits in a queue",
);
const QUEUE_TIMEOUT: Key = shared(
    "queue_timeout_ms",
    Int {
        min: 0,
        max: DAY_MS,
    },
    Default::Int(5_000),
    "how long a request or session may wait for one",
);
const KEEPALIVE_IDLE: Key = shared(
    "keepalive_idle_secs",
    SECS_OR_NONE,
    Default::Int(50),
    "HTTP: how long an unused connection to an endpoint is kept, `0` for not at all; less where the endpoint says so (`Keep-Alive: timeout=…`)",
);
const HEALTH_PATH: Key = shared(
    "health_check_path",
    Text(&HTTP_PATH),
    Default::None,
    "short for `health_check: {path: …}`",
);
const HEALTH: Key = shared(
    "health_check",
    MapOrFalse(Section::HealthCheck),
    Default::Described("HTTP: none; TCP: the probe of the protocol"),
    "active checks; `false` turns them off",
);
const EJECT: Key = shared(
    "ejection",
    MapOrFalse(Section::Ejection),
    Default::Json(
        "{\"consecutive_failures\": 5, \"base_ms\": 30000, \"max_percent\": 10, \"statuses\": \"502-504\"}",
    ),
    "takes endpoints out that fail requests; `false` turns it off",
);

pub(super) static UPSTREAM: &[Key] = &[
    shared(
        "upstream",
        Endpoints,
        Default::Required,
        "the endpoints; the port is that of the scheme where it has one",
    ),
    BALANCE,
    HASH_KEY,
    LIMIT,
    QUEUE_TIMEOUT,
    KEEPALIVE_IDLE,
    HEALTH_PATH,
    HEALTH,
    EJECT,
];

pub(super) static ROUTE: &[Key] = &[
    key(
        "upstream",
        Upstream,
        Default::Required,
        "where requests or sessions go; the port is that of the scheme where it has one",
    ),
    key(
        "timeout_ms",
        MS,
        Default::Described("`global_timeout_ms`"),
        "HTTP: from the request to the response header, all tries together, then the longest silence of the body; TCP: until a server connection stands",
    ),
    key(
        "retry_count",
        Int { min: 0, max: 20 },
        Default::Int(0),
        "extra tries; the first failed connect is tried on one endpoint more without counting",
    ),
    key(
        "connect_timeout_ms",
        MS,
        Default::Described("min(1000, timeout_ms / (retry_count + 1))"),
        "one connect",
    ),
    key("try_timeout_ms", MS, Default::None, "one try"),
    BALANCE,
    HASH_KEY,
    LIMIT,
    QUEUE_TIMEOUT,
    KEEPALIVE_IDLE,
    HEALTH_PATH,
    HEALTH,
    EJECT,
    key(
        "filters",
        Filters,
        Default::Json("[]"),
        "what runs before the upstream, in this order",
    ),
    on(
        On::Http,
        "strip_prefix",
        Bool,
        Default::Bool(false),
        "the endpoint sees the path without the prefix of the route",
    ),
    on(
        On::Http,
        "preserve_host",
        Bool,
        Default::Bool(true),
        "the endpoint sees the Host of the client, not its own",
    ),
    on(
        On::Http,
        "upgrade",
        Protocols,
        Default::Described("any one"),
        "what a request may switch to; `false` or `[]`: nothing. Never to what carries HTTP (`h2c`, `HTTP/2.0`, `TLS/1.3`)",
    ),
    on(
        On::Http,
        "client_auth",
        Choice(&["required", "optional", "none"]),
        Default::Described("`tls.client_auth`"),
        "whether its clients must show a certificate of `tls.client_ca`; told apart by the name that they ask for",
    ),
    on(
        On::Http,
        "merge_slashes",
        Bool,
        Default::Described("`merge_slashes` of the file"),
        "`//` in a path becomes `/` before it is sent; routes are chosen as if it always did",
    ),
    key(
        "is_tcp",
        Bool,
        Default::Described("by scheme, key and port of the upstream"),
        "says that a route is TCP, or that it is not",
    ),
    on(
        On::Tcp,
        "db_type",
        Protocol,
        Default::Described("by scheme and port of the upstream"),
        "the protocol of the route: any scheme of a database, or `tcp`",
    ),
    on(
        On::Tcp,
        "tcp_listen_port",
        Int {
            min: 1,
            max: 65_535,
        },
        Default::Described("that of `tcp_proxy.listen_addr`"),
        "routes with equal ports share a listener",
    ),
    on(
        On::Tcp,
        "default",
        Bool,
        Default::Bool(false),
        "takes what no other route of a shared listener takes",
    ),
    on(
        On::Tcp,
        "match",
        Map(Section::Match),
        Default::None,
        "what the route takes on a shared listener",
    ),
    on(
        On::Tcp,
        "target",
        Choice(&["primary", "replica", "any", "prefer_replica"]),
        Default::Text("any"),
        "the role that an endpoint must have",
    ),
    on(
        On::Tcp,
        "idle_timeout_secs",
        Int {
            min: 1,
            max: 31 * DAY_SECS,
        },
        Default::None,
        "ends sessions on which nothing moves and no answer is due",
    ),
    on(
        On::Tcp,
        "proxy_protocol",
        Choice(&["v1", "v2"]),
        Default::None,
        "the PROXY header that the server is sent",
    ),
];

pub(super) static ENDPOINT: &[Key] = &[
    key("url", Url, Default::Required, "the endpoint"),
    key(
        "weight",
        Int { min: 1, max: 1000 },
        Default::Int(1),
        "its share relative to the others",
    ),
    key(
        "backup",
        Bool,
        Default::Bool(false),
        "used only while no other endpoint is healthy",
    ),
    key(
        "max_connections",
        CONNECTIONS,
        Default::None,
        "connections to this endpoint",
    ),
];

pub(super) static HEALTH_CHECK: &[Key] = &[
    key(
        "path",
        Text(&HTTP_PATH),
        Default::None,
        "what is asked for with GET; required for HTTP routes",
    ),
    key("interval_ms", MS, Default::Int(5_000), "between two checks"),
    key("timeout_ms", MS, Default::Int(1_000), "of one check"),
    key(
        "healthy_after",
        Int { min: 1, max: 1000 },
        Default::Int(1),
        "checks in a row that bring an endpoint back",
    ),
    key(
        "unhealthy_after",
        Int { min: 1, max: 1000 },
        Default::Int(3),
        "checks in a row that take an endpoint out",
    ),
    key(
        "status",
        Statuses,
        Default::Text("200-399"),
        "statuses that pass, with `path` only",
    ),
    key(
        "user",
        Text(&DB_USER),
        Default::None,
        "who logs in to check a database",
    ),
    key(
        "password",
        Text(&PASSWORD),
        Default::None,
        "and with what password",
    ),
];

pub(super) static EJECTION: &[Key] = &[
    key(
        "consecutive_failures",
        Int {
            min: 1,
            max: 10_000,
        },
        Default::Int(5),
        "failures in a row that take an endpoint out",
    ),
    key(
        "base_ms",
        MS,
        Default::Int(30_000),
        "how long the first time",
    ),
    key(
        "max_percent",
        Int { min: 0, max: 100 },
        Default::Int(10),
        "of the endpoints may be out; one always may",
    ),
    on(
        On::Http,
        "statuses",
        Statuses,
        Default::Text("502-504"),
        "answers that count, as failed connects, resets and timeouts always do; any other ends the row",
    ),
];

pub(super) static MATCH: &[Key] = &[
    key(
        "sni",
        Text(&SERVER_NAME),
        Default::None,
        "the server name in a TLS ClientHello",
    ),
    key(
        "database",
        Text(&DB_NAME),
        Default::None,
        "the database in a Postgres login",
    ),
    key(
        "user",
        Text(&DB_NAME),
        Default::None,
        "the user in a Postgres login",
    ),
];

const fn key(name: &'static str, kind: Kind, default: Default, meaning: &'static str) -> Key {
    on(On::All, name, kind, default, meaning)
}

const fn shared(name: &'static str, kind: Kind, default: Default, meaning: &'static str) -> Key {
    on(On::Upstream, name, kind, default, meaning)
}

const fn on(
    on: On,
    name: &'static str,
    kind: Kind,
    default: Default,
    meaning: &'static str,
) -> Key {
    Key {
        name,
        kind,
        default,
        on,
        meaning,
    }
}
