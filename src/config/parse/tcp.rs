//! The keys of a TCP route: its listener, its protocol, what it takes and how a session goes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::fields::Fields;
use super::report::Report;
use super::server::secs;
use super::upstream::ImpliedProtocol;
use crate::config::host::parse_name;
use crate::config::keys::Section;
use crate::config::model::{
    DbType, HealthCheck, ProxyProtocol, Target, TcpMatch, TcpProxy, TcpRoute, Tries, UpstreamSpec,
};
use crate::config::node::describe;
use crate::config::problem::{Mark, Wrong, shown};
use crate::config::settings::FilterSpec;
use crate::config::trail::Trail;
use crate::config::tree::{Entry, Value};

/// What both kinds of routes have.
pub(super) struct Common {
    pub(super) at: Mark,
    pub(super) tries: Tries,
    pub(super) filters: Vec<FilterSpec>,
}

/// What only TCP routes have.
pub(super) struct TcpOnly {
    listen: Vec<SocketAddr>,
    default: bool,
    matches: TcpMatch,
    target: Target,
    idle_timeout: Option<Duration>,
    proxy_protocol: Option<ProxyProtocol>,
}

impl TcpOnly {
    pub(super) fn read(report: &mut Report, fields: &Fields, tcp_proxy: &TcpProxy) -> TcpOnly {
        let shared = &tcp_proxy.listen_addr;
        let port = fields
            .int(report, "tcp_listen_port")
            .and_then(|port| u16::try_from(port).ok());
        let matches = fields.section(report, "match", Section::Match);
        TcpOnly {
            listen: match port {
                None => shared.iter().map(|listen| listen.addr).collect(),
                Some(port) => {
                    let hosts = shared.hosts().into_iter();
                    hosts.map(|ip| SocketAddr::new(ip, port)).collect()
                }
            },
            default: fields.bool_or_default(report, "default"),
            matches: TcpMatch {
                sni: matches.parsed(report, "sni", parse_name),
                database: matches.text(report, "database").map(str::to_owned),
                user: matches.text(report, "user").map(str::to_owned),
            },
            target: match fields.choice(report, "target") {
                Some("primary") => Target::Primary,
                Some("replica") => Target::Replica,
                Some("prefer_replica") => Target::PreferReplica,
                _ => Target::Any,
            },
            idle_timeout: fields.int(report, "idle_timeout_secs").map(secs),
            proxy_protocol: None,
        }
    }

    /// Rules between these keys and the protocol.
    pub(super) fn check(&mut self, report: &mut Report, fields: &Fields, db_type: DbType) {
        let in_match = |name: &str| {
            let field = fields.find("match")?;
            match &field.node.value {
                Value::Map(entries) => entries.iter().find(|e| e.key == name).map(|e| e.key_at),
                _ => None,
            }
        };
        let trail = fields.trail.key("match");
        for name in ["database", "user"] {
            if let (Some(at), false) = (in_match(name), db_type == DbType::Postgres) {
                let wrong = Wrong::new(
                    format!(
                        "`{}` clients do not say it in their first bytes",
                        db_type.as_str()
                    ),
                    match db_type.is_server_first() {
                        true => {
                            "remove it: only Postgres clients do; a `tcp_listen_port` tells these from others"
                        }
                        false => {
                            "remove it: only Postgres clients do; `sni` or a `tcp_listen_port` tells these from others"
                        }
                    },
                );
                report.problem(at, trail.key(name), wrong);
            }
        }
        let of_login = in_match("database").or_else(|| in_match("user"));
        if let (Some(at), Some(_)) = (in_match("sni"), of_login) {
            let wrong = Wrong::new(
                "the server name is said under TLS, where database and user are not seen",
                "remove one of them",
            );
            report.problem(at, trail.key("sni"), wrong);
        }
        if let (Some(at), true) = (in_match("sni"), db_type.is_server_first()) {
            let wrong = Wrong::new(
                "MySQL clients wait for the server before they start TLS",
                "remove it: a `tcp_listen_port` tells these clients from others",
            );
            report.problem(at, trail.key("sni"), wrong);
        }
        self.proxy_protocol = read_proxy_protocol(report, fields, db_type);
    }

    /// Whether the checks of `upstream` can tell the role that `target` asks for.
    pub(super) fn check_target(
        &self,
        report: &mut Report,
        fields: &Fields,
        db_type: DbType,
        upstream: &UpstreamSpec,
    ) {
        let reports_role = upstream
            .health_check
            .as_ref()
            .is_some_and(HealthCheck::tells_role);
        if self.target == Target::Any || reports_role {
            return;
        }
        let word = db_type.as_str();
        let wrong = match db_type {
            DbType::Tcp => Wrong::new(
                "plain TCP servers have no role",
                "say which database it is, for example `db_type: redis`",
            ),
            DbType::Postgres | DbType::Mysql => {
                let place = match fields.find("upstream").map(|field| &field.node.value) {
                    Some(Value::Text(text)) if !text.contains("://") => {
                        format!(" under `upstreams.{}`", shown(text))
                    }
                    _ => String::new(),
                };
                Wrong::new(
                    format!("`{word}` servers tell their role only to who logs in"),
                    format!("write `health_check: {{user: NAME, password: \"${{NAME}}\"}}`{place}"),
                )
            }
            DbType::Redis | DbType::Mongodb => Wrong::new(
                "needs the health check, which finds out the role",
                "remove `health_check: false`",
            ),
            _ => Wrong::new(
                format!("`{word}` servers are not asked for a role"),
                "remove it: postgres, mysql, redis and mongodb servers are",
            ),
        };
        fields.wrong(report, "target", wrong);
    }

    pub(super) fn route(
        self,
        name: &str,
        upstream: Arc<UpstreamSpec>,
        common: Common,
        db_type: DbType,
    ) -> TcpRoute {
        TcpRoute {
            name: name.to_owned(),
            upstream,
            tries: common.tries,
            db_type,
            listen: self.listen,
            default: self.default,
            matches: self.matches,
            target: self.target,
            idle_timeout: self.idle_timeout,
            proxy_protocol: self.proxy_protocol,
            filters: common.filters,
            at: (common.at.line, common.at.column),
        }
    }
}

/// `proxy_protocol`. Its words are listed only for protocols whose servers may take one.
fn read_proxy_protocol(
    report: &mut Report,
    fields: &Fields,
    db_type: DbType,
) -> Option<ProxyProtocol> {
    fields.find("proxy_protocol")?;
    if !may_take_proxy_header(db_type) {
        let wrong = Wrong::new(
            format!("`{}` servers do not take a PROXY header", db_type.as_str()),
            "remove it; `db_type: tcp` when something in front of the server takes it",
        );
        fields.wrong(report, "proxy_protocol", wrong);
        return None;
    }
    Some(match fields.choice(report, "proxy_protocol")? {
        "v1" => ProxyProtocol::V1,
        _ => ProxyProtocol::V2,
    })
}

/// Whether any server of this protocol can be set to take a PROXY header: MariaDB and Percona
/// (`proxy_protocol_networks`), mongos (`loadBalancerPort`), Oracle 23ai (`TCP.ALLOWED_PROXIES`),
/// ScyllaDB; of plain TCP nothing is known. Others take it for a broken client.
fn may_take_proxy_header(db_type: DbType) -> bool {
    match db_type {
        DbType::Mysql | DbType::Mongodb | DbType::Oracle | DbType::Cassandra | DbType::Tcp => true,
        DbType::Postgres
        | DbType::Redis
        | DbType::Sqlserver
        | DbType::Couchdb
        | DbType::Influxdb
        | DbType::Elasticsearch => false,
    }
}

/// The name of a TCP route is a metric label and a log field.
pub(super) fn check_name(report: &mut Report, trail: Trail, entry: &Entry) {
    let fits = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    if entry.key.len() > 255 || !entry.key.bytes().all(fits) {
        let wrong = Wrong::new(
            "is not the name of a TCP route",
            "at most 255 ASCII characters without spaces, quotes and backslashes",
        );
        report.problem(entry.key_at, trail, wrong);
    }
}

/// `db_type`, where it is written.
pub(super) fn read_db_type(report: &mut Report, fields: &Fields) -> Option<DbType> {
    let node = fields.find("db_type")?.node;
    let read = match &node.value {
        Value::Text(word) => DbType::parse(word),
        _ => Err(Wrong::new(
            format!("{} is not a value of `db_type`", describe(node)),
            "for example `db_type: postgres`",
        )),
    };
    read.map_err(|wrong| fields.wrong(report, "db_type", wrong))
        .ok()
}

pub(super) fn decide_db_type(
    report: &mut Report,
    fields: &Fields,
    written: Option<DbType>,
    implied: ImpliedProtocol,
) -> DbType {
    match (written, implied) {
        (Some(written), ImpliedProtocol::One(implied)) if written != implied => {
            let text = format!(
                "says {} while scheme or port of the upstream say {}; {0} is used",
                written.as_str(),
                implied.as_str()
            );
            report.warn(fields.at("db_type"), fields.trail.key("db_type"), text);
            written
        }
        (Some(written), _) => written,
        (None, ImpliedProtocol::One(implied)) => implied,
        (None, ImpliedProtocol::Nothing) => DbType::Tcp,
        (None, ImpliedProtocol::Several(a, b)) => {
            let wrong = Wrong::new(
                format!(
                    "the ports of the endpoints are those of {} and {}",
                    a.as_str(),
                    b.as_str()
                ),
                format!("say which it is, for example `db_type: {}`", a.as_str()),
            );
            fields.wrong(report, "upstream", wrong);
            a
        }
    }
}

/// Warns of what a `KILL` cannot do where several servers may have the thread.
pub(super) fn warn_of_kill(report: &mut Report, routes_trail: &Trail, tcp: &[TcpRoute]) {
    for route in tcp {
        let upstream = &route.upstream;
        let stays = upstream.balance.hash_on() == Some(&crate::config::HashOn::ClientIp);
        if route.db_type != DbType::Mysql || upstream.endpoints.len() < 2 || stays {
            continue;
        }
        let (line, column) = route.at;
        report.warn(
            Mark { line, column },
            routes_trail.key(&route.name).key("upstream"),
            "has several endpoints, and a `KILL` can be read only in a session in clear, and moved only \
             when it logged in by mysql_native_password: from other clients (TLS, compression, \
             caching_sha2_password) it is refused or stays at the server of its own connection, where \
             an equal id is another client's; `balance: hash` with `hash_on: client_ip` keeps a \
             client's sessions at one server",
        );
    }
}
