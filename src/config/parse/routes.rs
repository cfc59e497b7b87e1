//! `routes` and `upstreams`: which route is HTTP and which TCP, and what each of them says.
//!
//! Its own file because routes and the upstreams they name are decided together: an upstream is
//! finished by the first route that uses it, all routes of one name share it. Called by `parse`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::fields::Fields;
use super::filters::read_filters;
use super::report::{Report, Trail};
use super::server::{millis, secs};
use super::upstream::{Carries, Draft, Told};
use crate::config::detect::{Side, side};
use crate::config::keys::{On, Section};
use crate::config::model::{
    DbType, HttpRoute, ProxyProtocol, Target, TcpMatch, TcpProxy, TcpRoute, Tries, UpstreamSpec,
};
use crate::config::problem::{Mark, Wrong, did_you_mean, shown};
use crate::config::tree::{Entry, Value};
use crate::config::value::{HostPattern, RouteKey, Scheme};

/// The routes of a file.
pub(super) struct Routes {
    pub(super) http: Vec<HttpRoute>,
    pub(super) tcp: Vec<TcpRoute>,
}

/// Reads `upstreams` and `routes`.
pub(super) fn read_routes(
    report: &mut Report,
    root: &Fields,
    global_timeout: Duration,
    tcp_proxy: &TcpProxy,
) -> Routes {
    let upstreams_trail = root.trail.key("upstreams");
    let mut named = Named::read(report, root, &upstreams_trail);
    let mut reader = Reader {
        named: &mut named,
        global_timeout,
        tcp_proxy,
        http_keys: HashMap::new(),
        routes: Routes {
            http: Vec::new(),
            tcp: Vec::new(),
        },
    };
    let trail = root.trail.key("routes");
    if let Some(field) = root.require(report, "routes") {
        match &field.node.value {
            Value::Map(entries) if !entries.is_empty() => {
                for entry in entries {
                    reader.route(report, &trail, entry);
                }
            }
            _ => {
                let what = match &field.node.value {
                    Value::Map(_) => "an empty map",
                    _ => field.node.kind(),
                };
                let wrong = Wrong::new(
                    format!("must be a map with at least one route, not {what}"),
                    "for example `/: {upstream: \"http://127.0.0.1:3000\"}`",
                );
                root.wrong(report, "routes", wrong);
            }
        }
    }
    let routes = reader.routes;
    named.warn_unused(report);
    routes
}

/// The entries of `upstreams`.
struct Named<'a> {
    list: Vec<NamedUpstream<'a>>,
    by_name: HashMap<&'a str, usize>,
}

struct NamedUpstream<'a> {
    name: &'a str,
    /// `None`: the entry is no map, a problem already.
    fields: Option<Fields<'a>>,
    draft: Option<Draft>,
    used: Option<Used>,
}

/// What the first route made of an upstream.
struct Used {
    carries: Carries,
    route: String,
    spec: Arc<UpstreamSpec>,
}

impl<'a> Named<'a> {
    fn read(report: &mut Report, root: &'a Fields<'a>, trail: &'a Trail<'a>) -> Named<'a> {
        let mut named = Named {
            list: Vec::new(),
            by_name: HashMap::new(),
        };
        let Some(field) = root.find("upstreams") else {
            return named;
        };
        let Value::Map(entries) = &field.node.value else {
            let wrong = Wrong::new(
                format!(
                    "must be a map from names to upstreams, not {}",
                    field.node.kind()
                ),
                "for example `web: {upstream: \"http://127.0.0.1:3000\"}`",
            );
            root.wrong(report, "upstreams", wrong);
            return named;
        };
        for entry in entries {
            let here = trail.key(&entry.key);
            if !is_upstream_name(&entry.key) {
                let wrong = Wrong::new(
                    "is not the name of an upstream",
                    "letters, digits, `_`, `-` and `.`, at most 128",
                );
                report.problem(entry.key_at, here, wrong);
            }
            let fields = Fields::open(report, &entry.value, entry.key_at, here, Section::Upstream);
            let draft = fields.as_ref().and_then(|fields| {
                let upstream = fields.require(report, "upstream")?;
                Draft::read(report, fields, upstream)
            });
            named.by_name.insert(&entry.key, named.list.len());
            named.list.push(NamedUpstream {
                name: &entry.key,
                fields,
                draft,
                used: None,
            });
        }
        named
    }

    fn find(&mut self, name: &str) -> Option<&mut NamedUpstream<'a>> {
        let index = *self.by_name.get(name)?;
        self.list.get_mut(index)
    }

    /// Usage is told by the drafts that no route finished; entries with problems are left out.
    fn warn_unused(&self, report: &mut Report) {
        for upstream in &self.list {
            if let (Some(fields), Some(_), None) =
                (&upstream.fields, &upstream.draft, &upstream.used)
            {
                report.warn(fields.at, fields.trail, "no route uses this upstream");
            }
        }
    }
}

fn is_upstream_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

/// Where a route goes.
enum Goes<'a> {
    /// Its own endpoints.
    Own(Draft),
    /// An entry of `upstreams`.
    To(&'a str),
    /// A problem already.
    Unknown,
}

struct Reader<'r, 'a> {
    named: &'r mut Named<'a>,
    global_timeout: Duration,
    tcp_proxy: &'r TcpProxy,
    /// HTTP keys as they are compared, to find the second of two equal ones.
    http_keys: HashMap<(HostPattern, String), (String, Mark)>,
    routes: Routes,
}

impl Reader<'_, '_> {
    fn route(&mut self, report: &mut Report, routes: &Trail, entry: &Entry) {
        let at = entry.key_at;
        let trail = routes.key(&entry.key);
        let Some(fields) = open_route(report, entry, trail) else {
            return;
        };
        let goes = self.goes(report, &fields);
        let is_tcp = fields.bool(report, "is_tcp");
        let written = fields.choice(report, "db_type").and_then(DbType::from_word);
        let known = match &goes {
            Goes::Own(draft) => Some((draft.scheme(), draft.told())),
            Goes::To(name) => self
                .named
                .find(name)
                .and_then(|n| n.draft.as_ref())
                .map(|draft| (draft.scheme(), draft.told())),
            Goes::Unknown => None,
        };
        let (scheme, told) = known.unwrap_or((Scheme::Http, Told::Nothing));
        let db_type = written.or(match told {
            Told::One(kind) => Some(kind),
            _ => None,
        });
        let side = match (known, side(is_tcp, scheme, &entry.key, db_type)) {
            (None, Side::Unclear) => Side::Tcp,
            (_, side) => side,
        };
        // Without its upstream a route is read for its other mistakes only; which side it is on
        // would be a guess.
        if known.is_some() || is_tcp.is_some() {
            refuse_other_side(report, &fields, side);
        }
        let common = Common {
            at,
            tries: self.tries(report, &fields),
            filters: read_filters(report, &fields),
        };
        let strip_prefix = fields.bool_or_default(report, "strip_prefix");
        let preserve_host = fields.bool_or_default(report, "preserve_host");
        let tcp_only = TcpOnly::read(report, &fields, self.tcp_proxy);
        match side {
            Side::Unclear => {
                let wrong = Wrong::new(
                    "is a name, its upstream is http:// and nothing tells a database",
                    format!(
                        "for HTTP write the key as `/{0}` or `{0}/`; for TCP add `db_type`",
                        shown(&entry.key)
                    ),
                );
                report.problem(at, trail, wrong);
            }
            Side::Http => {
                if known.is_some() && scheme != Scheme::Http {
                    fields.wrong(report, "upstream", not_http(scheme));
                    return;
                }
                let key = self.http_key(report, trail, entry);
                let upstream = self.finish(report, &fields, &entry.key, goes, Carries::Http);
                if let (Some(key), Some(upstream)) = (key, upstream) {
                    self.routes.http.push(HttpRoute {
                        key,
                        upstream,
                        tries: common.tries,
                        strip_prefix,
                        preserve_host,
                        filters: common.filters,
                        at: (at.line, at.column),
                    });
                }
            }
            Side::Tcp => {
                let db_type = decide_db_type(report, &fields, written, told);
                check_name(report, trail, entry);
                tcp_only.check(report, &fields, db_type);
                let carries = Carries::Tcp(db_type);
                if let Some(upstream) = self.finish(report, &fields, &entry.key, goes, carries) {
                    self.routes
                        .tcp
                        .push(tcp_only.route(&entry.key, upstream, common, db_type));
                }
            }
        }
    }

    fn goes<'f>(&mut self, report: &mut Report, fields: &Fields<'f>) -> Goes<'f> {
        let Some(field) = fields.require(report, "upstream") else {
            return Goes::Unknown;
        };
        let name = match &field.node.value {
            Value::Text(text) if !text.contains("://") => text.as_str(),
            _ => {
                return match Draft::read(report, fields, field) {
                    Some(draft) => Goes::Own(draft),
                    None => Goes::Unknown,
                };
            }
        };
        for key in Section::Route.keys().iter().filter(|k| k.is_upstream()) {
            if fields.find(key.name).is_some() {
                let wrong = Wrong::new(
                    format!(
                        "belongs to the upstream that the route names, `{}`",
                        shown(name)
                    ),
                    format!("write it under `upstreams.{}`", shown(name)),
                );
                fields.wrong(report, key.name, wrong);
            }
        }
        if self.named.find(name).is_some() {
            return Goes::To(name);
        }
        let guess = match report.may_guess() {
            true => did_you_mean(name, self.named.by_name.keys().copied()),
            false => None,
        };
        let host_and_port = name
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let hint = guess.unwrap_or_else(|| match host_and_port {
            true => format!("a URL has a scheme: `http://{}`", shown(name)),
            false => "write a URL such as `http://127.0.0.1:3000`, or add it to `upstreams`".into(),
        });
        let wrong = Wrong::new(
            format!(
                "`{}` is neither a URL nor an entry of `upstreams`",
                shown(name)
            ),
            hint,
        );
        fields.wrong(report, "upstream", wrong);
        Goes::Unknown
    }

    /// The upstream of a route, shared when it has a name.
    fn finish(
        &mut self,
        report: &mut Report,
        fields: &Fields,
        route: &str,
        goes: Goes,
        carries: Carries,
    ) -> Option<Arc<UpstreamSpec>> {
        let name = match goes {
            Goes::Unknown => return None,
            Goes::Own(draft) => {
                if self.named.find(route).is_some() {
                    let wrong = Wrong::new(
                        "has an upstream of its own, while `upstreams` has one of that name",
                        "metrics could not tell them apart: rename one of them",
                    );
                    report.problem(fields.at, fields.trail, wrong);
                }
                return Some(Arc::new(draft.finish(report, fields, route, carries)));
            }
            Goes::To(name) => name,
        };
        let named = self.named.find(name)?;
        let (Some(place), Some(draft)) = (&named.fields, &named.draft) else {
            return None;
        };
        match &named.used {
            None => {
                let spec = Arc::new(draft.finish(report, place, named.name, carries));
                named.used = Some(Used {
                    carries,
                    route: route.to_owned(),
                    spec: spec.clone(),
                });
                Some(spec)
            }
            Some(used) if used.carries == carries => Some(used.spec.clone()),
            Some(used) => {
                let words = |carries| match carries {
                    Carries::Http => "HTTP".to_owned(),
                    Carries::Tcp(kind) => format!("TCP ({})", kind.as_str()),
                };
                let wrong = Wrong::new(
                    format!(
                        "`{}` carries {} for `{}`, it cannot carry {} here",
                        shown(name),
                        words(used.carries),
                        shown(&used.route),
                        words(carries)
                    ),
                    "write a second entry under `upstreams`",
                );
                fields.wrong(report, "upstream", wrong);
                None
            }
        }
    }

    fn http_key(&mut self, report: &mut Report, trail: Trail, entry: &Entry) -> Option<RouteKey> {
        let key = match RouteKey::parse(&entry.key) {
            Ok(key) => key,
            Err(wrong) => {
                report.problem(entry.key_at, trail, wrong);
                return None;
            }
        };
        let compared = (key.host.clone(), key.prefix.clone());
        if let Some((first, at)) = self.http_keys.get(&compared) {
            let wrong = Wrong::new(
                format!("is the same route as `{}` at {at}", shown(first)),
                "remove one of the two",
            );
            report.problem(entry.key_at, trail, wrong);
            return None;
        }
        self.http_keys
            .insert(compared, (key.text.clone(), entry.key_at));
        Some(key)
    }

    fn tries(&self, report: &mut Report, fields: &Fields) -> Tries {
        let timeout = fields.int(report, "timeout_ms").map(millis);
        let own_timeout = timeout.is_some();
        let timeout = timeout.unwrap_or(self.global_timeout);
        let retry_count = fields.int_or_default(report, "retry_count") as u32;
        let connect_timeout = fields.int(report, "connect_timeout_ms").map(millis);
        let try_timeout = fields.int(report, "try_timeout_ms").map(millis);
        for (name, part) in [
            ("connect_timeout_ms", connect_timeout),
            ("try_timeout_ms", try_timeout),
        ] {
            if part.is_some_and(|part| part > timeout) {
                let whole = if own_timeout {
                    "timeout_ms"
                } else {
                    "global_timeout_ms"
                };
                let limit = timeout.as_millis();
                let wrong = Wrong::new(
                    format!("is longer than `{whole}`, {limit} ms for all tries together"),
                    format!("at most {limit}"),
                );
                fields.wrong(report, name, wrong);
            }
        }
        let share = timeout.as_millis() / u128::from(retry_count + 1);
        let default_connect = millis(share.clamp(1, 1000) as u64);
        Tries {
            timeout,
            retry_count,
            connect_timeout: connect_timeout.unwrap_or(default_connect),
            try_timeout,
        }
    }
}

fn open_route<'a>(report: &mut Report, entry: &'a Entry, trail: Trail<'a>) -> Option<Fields<'a>> {
    if let Value::Text(text) = &entry.value.value {
        let wrong = Wrong::new(
            format!("must be a map, not `{}`", shown(text)),
            format!("write `{{upstream: \"{}\"}}`", shown(text)),
        );
        report.problem(entry.key_at, trail, wrong);
        return None;
    }
    Fields::open(report, &entry.value, entry.key_at, trail, Section::Route)
}

/// What both kinds of routes have.
struct Common {
    at: Mark,
    tries: Tries,
    filters: Vec<crate::config::model::FilterSpec>,
}

/// What only TCP routes have.
struct TcpOnly {
    listen: SocketAddr,
    default: bool,
    matches: TcpMatch,
    target: Target,
    idle_timeout: Option<Duration>,
    proxy_protocol: Option<ProxyProtocol>,
}

impl TcpOnly {
    fn read(report: &mut Report, fields: &Fields, tcp_proxy: &TcpProxy) -> TcpOnly {
        let shared = tcp_proxy.listen_addr.addr;
        let port = fields
            .int(report, "tcp_listen_port")
            .and_then(|port| u16::try_from(port).ok());
        let matches = fields.section(report, "match", Section::Match);
        TcpOnly {
            listen: port.map_or(shared, |port| SocketAddr::new(shared.ip(), port)),
            default: fields.bool_or_default(report, "default"),
            matches: TcpMatch {
                sni: matches.parsed(report, "sni", parse_sni),
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
            proxy_protocol: fields
                .choice(report, "proxy_protocol")
                .map(|word| match word {
                    "v1" => ProxyProtocol::V1,
                    _ => ProxyProtocol::V2,
                }),
        }
    }

    /// Rules between these keys and the protocol.
    fn check(&self, report: &mut Report, fields: &Fields, db_type: DbType) {
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
                    "only Postgres does; use `sni` or a `tcp_listen_port`",
                );
                report.problem(at, trail.key(name), wrong);
            }
        }
        if let (Some(at), true) = (in_match("sni"), db_type.is_server_first()) {
            let wrong = Wrong::new(
                "MySQL clients wait for the server before they start TLS",
                "use a `tcp_listen_port`",
            );
            report.problem(at, trail.key("sni"), wrong);
        }
        if self.target != Target::Any && db_type == DbType::Tcp {
            let wrong = Wrong::new(
                "plain TCP servers have no role",
                "say which database it is: `db_type`",
            );
            fields.wrong(report, "target", wrong);
        }
    }

    fn route(
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

fn parse_sni(text: &str) -> Result<String, Wrong> {
    crate::config::host::parse_name(text)
}

/// The name of a TCP route is a metric label and a log field.
fn check_name(report: &mut Report, trail: Trail, entry: &Entry) {
    let fits = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    if entry.key.len() > 255 || !entry.key.bytes().all(fits) {
        let wrong = Wrong::new(
            "is not the name of a TCP route",
            "at most 255 ASCII characters without spaces, quotes and backslashes",
        );
        report.problem(entry.key_at, trail, wrong);
    }
}

/// Keys that belong to routes of the other kind.
fn refuse_other_side(report: &mut Report, fields: &Fields, side: Side) {
    let (other, wrong): (On, fn() -> Wrong) = match side {
        Side::Unclear => return,
        Side::Http => (On::Tcp, || {
            Wrong::new(
                "is a key of TCP routes, and this route is HTTP",
                "leave it away, or write `is_tcp: true`",
            )
        }),
        Side::Tcp => (On::Http, || {
            Wrong::new(
                "is a key of HTTP routes, and this route is TCP",
                "leave it away",
            )
        }),
    };
    for key in Section::Route.keys().iter().filter(|key| key.on == other) {
        if fields.find(key.name).is_some() {
            fields.wrong(report, key.name, wrong());
        }
    }
}

fn not_http(scheme: Scheme) -> Wrong {
    Wrong::new(
        format!("an HTTP route needs http://, not {}://", scheme.as_str()),
        match scheme {
            Scheme::Tcp => "write `http://`, or for TCP a key without `/` or `is_tcp: true`",
            _ => "remove `is_tcp: false`, the scheme of a database makes a TCP route",
        },
    )
}

fn decide_db_type(
    report: &mut Report,
    fields: &Fields,
    written: Option<DbType>,
    told: Told,
) -> DbType {
    match (written, told) {
        (Some(written), Told::One(told)) if written != told => {
            let text = format!(
                "says {} while scheme or port of the upstream say {}; {0} is used",
                written.as_str(),
                told.as_str()
            );
            report.warn(fields.at("db_type"), fields.trail.key("db_type"), text);
            written
        }
        (Some(written), _) => written,
        (None, Told::One(told)) => told,
        (None, Told::Nothing) => DbType::Tcp,
        (None, Told::Several(a, b)) => {
            let wrong = Wrong::new(
                format!(
                    "the ports of the endpoints are those of {} and {}",
                    a.as_str(),
                    b.as_str()
                ),
                "say which it is: `db_type`",
            );
            fields.wrong(report, "upstream", wrong);
            a
        }
    }
}
