//! `routes` and `upstreams`: which route is HTTP and which TCP, and what each of them holds.
//!
//! Routes and the upstreams they name are decided together: an upstream is finished by the first
//! route that uses it, all routes of one name share it. It is over 400 lines because that is one
//! pass, much of it the texts of problems.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::carries::Carries;
use super::fields::Fields;
use super::filters::read_filters;
use super::named::{Named, Used};
use super::report::Report;
use super::server::millis;
use super::tcp::{Common, TcpOnly, check_name, decide_db_type, read_db_type};
use super::tls;
use super::upgrade::read_upgrade;
use super::upstream::{Draft, ImpliedProtocol};
use crate::config::detect::{Side, side};
use crate::config::keys::{On, Section};
use crate::config::model::{HttpRoute, TcpProxy, TcpRoute, Tls, Tries, UpstreamSpec};
use crate::config::problem::{Mark, Wrong, did_you_mean, shown};
use crate::config::suspicious_key::{doubts, in_words, keys_for};
use crate::config::trail::Trail;
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
    tls: Option<&Tls>,
) -> Routes {
    let upstreams_trail = root.trail.key("upstreams");
    let mut named = Named::read(report, root, &upstreams_trail);
    let mut reader = Reader {
        named: &mut named,
        global_timeout,
        merge_slashes: root.bool_or_default(report, "merge_slashes"),
        tcp_proxy,
        tls,
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
    merge_slashes: bool,
    tcp_proxy: &'r TcpProxy,
    tls: Option<&'r Tls>,
    /// HTTP keys as they are compared, to find the second of two equal ones.
    http_keys: HashMap<(HostPattern, Vec<u8>), (String, Mark)>,
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
        let written = read_db_type(report, &fields);
        let known = match &goes {
            Goes::Own(draft) => Some((draft.scheme(), draft.implied_protocol())),
            Goes::To(name) => self
                .named
                .find(name)
                .and_then(|n| n.draft.as_ref())
                .map(|draft| (draft.scheme(), draft.implied_protocol())),
            Goes::Unknown => None,
        };
        let (scheme, implied) = known.unwrap_or((Scheme::Http, ImpliedProtocol::Nothing));
        let db_type = written.or(match implied {
            ImpliedProtocol::One(kind) => Some(kind),
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
        let upgrade = read_upgrade(report, &fields);
        let merge_slashes = fields.bool(report, "merge_slashes");
        let client_auth = tls::of_route(report, &fields, self.tls);
        let mut tcp_only = TcpOnly::read(report, &fields, self.tcp_proxy);
        match side {
            Side::Unclear => {
                let wrong = Wrong::new(
                    "is a name, its upstream is http:// and nothing tells a database",
                    format!(
                        "for HTTP write the key as {}; for TCP say the protocol: `db_type: tcp`",
                        in_words(&keys_for(&entry.key))
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
                        upgrade,
                        merge_slashes: merge_slashes.unwrap_or(self.merge_slashes),
                        client_auth,
                        filters: common.filters,
                        at: (at.line, at.column),
                    });
                }
            }
            Side::Tcp => {
                let db_type = decide_db_type(report, &fields, written, implied);
                check_name(report, trail, entry);
                tcp_only.check(report, &fields, db_type);
                let carries = Carries::Tcp(db_type);
                if let Some(upstream) = self.finish(report, &fields, &entry.key, goes, carries) {
                    tcp_only.check_target(report, &fields, db_type, &upstream);
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
        if name.is_empty() {
            let wrong = Wrong::new(
                "must be a URL or a name, not empty",
                "for example `http://127.0.0.1:3000`",
            );
            fields.wrong(report, "upstream", wrong);
            return Goes::Unknown;
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
            false => {
                "write a URL such as `http://127.0.0.1:3000`, or add an entry of that name".into()
            }
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
        let compared = key.compared();
        if let Some((first, at)) = self.http_keys.get(&compared) {
            let wrong = Wrong::new(
                format!("is the same route as `{}` at {at}", shown(first)),
                "remove one of the two",
            );
            report.problem(entry.key_at, trail, wrong);
            return None;
        }
        for doubt in doubts(&key) {
            report.warn(entry.key_at, trail, doubt);
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
                    format!("write `{name}: {limit}` at most"),
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

/// Keys that belong to routes of the other kind.
fn refuse_other_side(report: &mut Report, fields: &Fields, side: Side) {
    let (other, wrong): (On, fn() -> Wrong) = match side {
        Side::Unclear => return,
        Side::Http => (On::Tcp, || {
            Wrong::new(
                "is a key of TCP routes, and this route is HTTP",
                "remove it, or write `is_tcp: true`",
            )
        }),
        Side::Tcp => (On::Http, || {
            Wrong::new(
                "is a key of HTTP routes, and this route is TCP",
                "remove it",
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
            Scheme::Tcp => "write `http://`, or for TCP `is_tcp: true`",
            _ => "remove `is_tcp: false`, the scheme of a database makes a TCP route",
        },
    )
}
