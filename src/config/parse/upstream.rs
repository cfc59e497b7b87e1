//! An upstream as the file has it, in a route or under `upstreams`.
//!
//! Both places hold the same keys, and what they mean depends on whether the routes that use it are
//! HTTP or TCP: a [`Draft`] is read once and finished per use.

use std::collections::HashMap;
use std::time::Duration;

use super::carries::Carries;
use super::fields::{Field, Fields};
use super::health::HealthDraft;
use super::leaf::default_statuses;
use super::report::Report;
use super::server::{millis, secs};
use crate::config::detect::by_url;
use crate::config::keys::Section;
use crate::config::model::{
    Balance, BalancerRef, DbType, Ejection, EndpointSpec, HashOn, UpstreamSpec,
};
use crate::config::node::describe;
use crate::config::problem::{Mark, Wrong, shown};
use crate::config::trail::Trail;
use crate::config::tree::{Node, Value};
use crate::config::value::{Host, Scheme, UpstreamUrl, Weight};

/// The protocol that the URLs of an upstream imply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImpliedProtocol {
    Nothing,
    One(DbType),
    /// Ports of different databases.
    Several(DbType, DbType),
}

/// An upstream of which it is not known yet what it carries.
pub(super) struct Draft {
    endpoints: Vec<EndpointSpec>,
    balance: Balance,
    max_connections: Option<usize>,
    queue_timeout: Duration,
    keepalive_idle: Duration,
    health: HealthDraft,
    ejection: Option<Ejection>,
}

impl Draft {
    /// Reads the keys of an upstream. `None` when there is no usable endpoint; that is a problem
    /// already.
    pub(super) fn read(report: &mut Report, fields: &Fields, upstream: Field) -> Option<Draft> {
        let endpoints = read_endpoints(report, fields, upstream);
        let balance = read_balance(report, fields);
        let max_connections = fields.int(report, "max_connections").map(|n| n as usize);
        let queue_timeout = millis(fields.int_or_default(report, "queue_timeout_ms"));
        let keepalive_idle = secs(fields.int_or_default(report, "keepalive_idle_secs"));
        let health = HealthDraft::read(report, fields);
        let ejection = read_ejection(report, fields);
        Some(Draft {
            endpoints: endpoints?,
            balance,
            max_connections,
            queue_timeout,
            keepalive_idle,
            health,
            ejection,
        })
    }

    /// The scheme that all endpoints have.
    pub(super) fn scheme(&self) -> Scheme {
        self.endpoints
            .first()
            .map_or(Scheme::Http, |e| e.url.scheme)
    }

    /// What schemes and ports imply about the protocol.
    pub(super) fn implied_protocol(&self) -> ImpliedProtocol {
        let mut implied = ImpliedProtocol::Nothing;
        for kind in self.endpoints.iter().filter_map(|e| by_url(&e.url)) {
            match implied {
                ImpliedProtocol::Nothing => implied = ImpliedProtocol::One(kind),
                ImpliedProtocol::One(first) if first != kind => {
                    return ImpliedProtocol::Several(first, kind);
                }
                _ => {}
            }
        }
        implied
    }

    /// The upstream, once it is known what it carries. `fields` is where it stands.
    pub(super) fn finish(
        &self,
        report: &mut Report,
        fields: &Fields,
        name: &str,
        carries: Carries,
    ) -> UpstreamSpec {
        if let Carries::Tcp(_) = carries {
            self.refuse_http_only(report, fields);
        }
        UpstreamSpec {
            name: name.to_owned(),
            endpoints: self.endpoints.clone(),
            balance: self.balance.clone(),
            max_connections: self.max_connections,
            queue_timeout: self.queue_timeout,
            keepalive_idle: self.keepalive_idle,
            health_check: self.health.finish(report, fields, carries),
            ejection: self.ejection.clone(),
        }
    }

    fn refuse_http_only(&self, report: &mut Report, fields: &Fields) {
        if let Some(on) = self.balance.hash_on()
            && *on != HashOn::ClientIp
        {
            let wrong = Wrong::new(
                "a TCP route knows no paths, headers and cookies",
                "write `hash_on: client_ip`",
            );
            fields.wrong(report, "hash_on", wrong);
        }
        if fields.find("keepalive_idle_secs").is_some() {
            let wrong = Wrong::new(
                "a TCP route keeps no connection that was used",
                "remove it; `tcp_proxy.max_idle_time_secs` is for those made ahead",
            );
            fields.wrong(report, "keepalive_idle_secs", wrong);
        }
        let mut paths = self.endpoints.iter().map(|e| e.url.path.as_str());
        if let Some(path) = paths.find(|path| !path.is_empty()) {
            let wrong = Wrong::new(
                "a path in the URL means nothing to a TCP route",
                format!("remove `{path}`"),
            );
            fields.wrong(report, "upstream", wrong);
        }
        if let Some(field) = fields.find("ejection")
            && let Value::Map(entries) = &field.node.value
            && let Some(statuses) = entries.iter().find(|entry| entry.key == "statuses")
        {
            let wrong = Wrong::new(
                "a TCP route sees no statuses",
                "remove it: failed connects and resets count",
            );
            let trail = fields.trail.key("ejection");
            report.problem(statuses.key_at, trail.key("statuses"), wrong);
        }
    }
}

fn read_endpoints(report: &mut Report, fields: &Fields, field: Field) -> Option<Vec<EndpointSpec>> {
    let trail = fields.trail.key("upstream");
    let Value::List(items) = &field.node.value else {
        let one = read_endpoint(report, field.node, field.at, trail)?;
        refuse_all_backups(report, fields, std::slice::from_ref(&one));
        return Some(vec![one]);
    };
    if items.is_empty() {
        let wrong = Wrong::new(
            "has no endpoint",
            "for example `[\"http://127.0.0.1:3000\"]`",
        );
        fields.wrong(report, "upstream", wrong);
        return None;
    }
    let mut endpoints: Vec<EndpointSpec> = Vec::with_capacity(items.len());
    let mut seen: HashMap<(Host, u16), Mark> = HashMap::with_capacity(items.len());
    let mut complete = true;
    for (index, item) in items.iter().enumerate() {
        let trail = trail.item(index);
        let Some(endpoint) = read_endpoint(report, item, item.at, trail) else {
            complete = false;
            continue;
        };
        let url = &endpoint.url;
        if let Some(first) = seen.insert((url.host.clone(), url.port), item.at) {
            let wrong = Wrong::new(
                format!("`{}` is there already, at {first}", shown(&url.label)),
                "remove one of the two; `weight` gives an endpoint more",
            );
            report.problem(item.at, trail, wrong);
        }
        if let Some(first) = endpoints.first().map(|e| e.url.scheme)
            && first != url.scheme
        {
            let wrong = Wrong::new(
                format!(
                    "is {}:// while the first endpoint is {}://",
                    url.scheme.as_str(),
                    first.as_str()
                ),
                "the endpoints of one upstream have one scheme",
            );
            report.problem(item.at, trail, wrong);
        }
        endpoints.push(endpoint);
    }
    if complete {
        refuse_all_backups(report, fields, &endpoints);
    }
    (!endpoints.is_empty()).then_some(endpoints)
}

fn refuse_all_backups(report: &mut Report, fields: &Fields, endpoints: &[EndpointSpec]) {
    if endpoints.iter().all(|endpoint| endpoint.backup) {
        let wrong = Wrong::new(
            "every endpoint is a backup",
            "at least one endpoint must stand without `backup: true`",
        );
        fields.wrong(report, "upstream", wrong);
    }
}

fn read_endpoint(report: &mut Report, node: &Node, at: Mark, trail: Trail) -> Option<EndpointSpec> {
    match &node.value {
        Value::Text(text) => {
            let url = read_url(report, text, at, trail)?;
            Some(EndpointSpec {
                url,
                weight: Weight::ONE,
                backup: false,
                max_connections: None,
            })
        }
        Value::Map(_) => {
            let fields = Fields::open(report, node, at, trail, Section::Endpoint)?;
            let url = match fields.require(report, "url") {
                Some(_) => fields.parsed(report, "url", UpstreamUrl::parse),
                None => None,
            };
            let weight = fields.int_or_default(report, "weight");
            let backup = fields.bool_or_default(report, "backup");
            let max_connections = fields.int(report, "max_connections").map(|n| n as usize);
            Some(EndpointSpec {
                url: url?,
                weight: u16::try_from(weight).ok().and_then(Weight::new)?,
                backup,
                max_connections,
            })
        }
        _ => {
            let wrong = Wrong::new(
                format!("must be a URL, not {}", describe(node)),
                "for example `http://127.0.0.1:3000`",
            );
            report.problem(at, trail, wrong);
            None
        }
    }
}

fn read_url(report: &mut Report, text: &str, at: Mark, trail: Trail) -> Option<UpstreamUrl> {
    match UpstreamUrl::parse(text) {
        Ok(url) => Some(url),
        Err(wrong) => {
            report.problem(at, trail, wrong);
            None
        }
    }
}

fn read_balance(report: &mut Report, fields: &Fields) -> Balance {
    if let Some(name) = other_balancer(report, fields) {
        let hash_on = fields.parsed(report, "hash_on", parse_hash_on);
        return Balance::Custom { name, hash_on };
    }
    let word = fields.choice(report, "balance");
    let hash_on = fields.parsed(report, "hash_on", parse_hash_on);
    let has_hash_on = fields.find("hash_on").is_some();
    if word == Some("hash") && !has_hash_on {
        let wrong = Wrong::new("`hash` needs `hash_on`", "for example `hash_on: client_ip`");
        fields.wrong(report, "balance", wrong);
    }
    let other_balance = fields.find("balance").is_none() || word.is_some_and(|w| w != "hash");
    if has_hash_on && other_balance {
        let wrong = Wrong::new(
            "means something with `balance: hash` only",
            "write `balance: hash`, or remove it",
        );
        fields.wrong(report, "hash_on", wrong);
    }
    match (word, hash_on) {
        (Some("hash"), Some(on)) => Balance::Hash(on),
        (Some("least_requests"), _) => Balance::LeastRequests,
        (Some("random"), _) => Balance::Random,
        _ => Balance::RoundRobin,
    }
}

/// A word that is not built in may be one that the embedder of the gateway registered: noted, and
/// looked up when a snapshot is built.
fn other_balancer(report: &mut Report, fields: &Fields) -> Option<String> {
    let field = fields.find("balance")?;
    let Value::Text(name) = &field.node.value else {
        return None;
    };
    if !BalancerRef::can_be(name) {
        return None;
    }
    report.balancers.push(BalancerRef {
        name: name.clone(),
        at: field.at,
        path: fields.trail.key("balance").to_string(),
    });
    Some(name.clone())
}

fn parse_hash_on(text: &str) -> Result<HashOn, Wrong> {
    match text.split_once(':') {
        None if text == "client_ip" => Ok(HashOn::ClientIp),
        None if text == "path" => Ok(HashOn::Path),
        Some(("header", name)) if is_token(name) => Ok(HashOn::Header(name.to_ascii_lowercase())),
        Some(("cookie", name)) if is_token(name) => Ok(HashOn::Cookie(name.to_owned())),
        _ => Err(Wrong::new(
            format!("`{}` is nothing to hash on", shown(text)),
            "`client_ip`, `path`, `header:NAME` or `cookie:NAME`",
        )),
    }
}

/// `token` of RFC 9110, section 5.6.2: the names of headers and cookies.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn read_ejection(report: &mut Report, fields: &Fields) -> Option<Ejection> {
    if let Some(field) = fields.find("ejection") {
        match field.node.value {
            Value::Bool(false) => return None,
            Value::Map(_) => {}
            _ => {
                let wrong = Wrong::new(
                    format!("must be a map or false, not {}", describe(field.node)),
                    "for example `ejection: {consecutive_failures: 5}`",
                );
                fields.wrong(report, "ejection", wrong);
                return None;
            }
        }
    }
    let section = fields.section(report, "ejection", Section::Ejection);
    let statuses = section.statuses(report, "statuses");
    if let Some(statuses) = &statuses
        && statuses.ranges().iter().any(|(low, _)| *low < 400)
    {
        let wrong = Wrong::new(
            "holds statuses that are no failures",
            "400 to 599, for example `statuses: 500-599`",
        );
        section.wrong(report, "statuses", wrong);
    }
    Some(Ejection {
        consecutive_failures: section.int_or_default(report, "consecutive_failures") as u32,
        base: millis(section.int_or_default(report, "base_ms")),
        max_percent: section.int_or_default(report, "max_percent") as u32,
        statuses: statuses.or_else(|| default_statuses(Section::Ejection, "statuses"))?,
    })
}
