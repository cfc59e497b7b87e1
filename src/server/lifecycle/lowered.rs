//! What a reload silently makes less safe: where one route changes what clients of another get.
//!
//! It compares two configurations and changes nothing. What is taken from a route in its own entry
//! is plain to see and is not reported; what follows elsewhere is. Invariant: a line for each loss,
//! in keys of the configuration.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{
    ClientCertPolicy, Config, HostPattern, HttpRoute, RouteKey, out_of_reach_in_tls,
};
use crate::route::Route;
use crate::snapshot::Snapshot;

/// The losses from `before` to `after`, in the order of the routes.
pub(super) fn lowered(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut lines = lost_tls(&before.config, &after.config);
    lines.extend(lost_certificates(&before.config, &after.config));
    lines.extend(lost_guards(before, after));
    lines
}

/// Postgres routes that clients reached in TLS and reach in clear only.
fn lost_tls(before: &Config, after: &Config) -> Vec<String> {
    let unreached = |config: &Config| -> BTreeSet<String> {
        let listeners: BTreeSet<_> = config
            .tcp_routes
            .iter()
            .flat_map(|r| r.listen.iter().copied())
            .collect();
        let routes = listeners
            .into_iter()
            .flat_map(|listen| out_of_reach_in_tls(&config.tcp_routes, listen));
        routes.map(|route| route.name.clone()).collect()
    };
    let (old, new) = (unreached(before), unreached(after));
    let was_reached = |name: &String| {
        !old.contains(name) && before.tcp_routes.iter().any(|route| route.name == *name)
    };
    new.iter()
        .filter(|name| was_reached(name))
        .map(|name| {
            format!(
                "routes.{name}: its clients had TLS before this reload and get it no more, because \
                 another route shares its listener: `sslmode=prefer` goes on in clear, \
                 `sslmode=require` fails"
            )
        })
        .collect()
}

/// HTTP routes whose clients needed a certificate and need none, as `tls.client_auth` can decide for
/// all of them.
fn lost_certificates(before: &Config, after: &Config) -> Vec<String> {
    let required = |route: &&HttpRoute| route.client_auth == ClientCertPolicy::Required;
    let old: BTreeSet<&str> = before
        .http_routes
        .iter()
        .filter(required)
        .map(|route| route.key.text.as_str())
        .collect();
    after
        .http_routes
        .iter()
        .filter(|route| !required(route) && old.contains(route.key.text.as_str()))
        .map(|route| {
            format!(
                "routes.{}: its clients needed a certificate before this reload and need none now",
                route.key.text
            )
        })
        .collect()
}

/// Paths that were behind a filter of the route that took them, and now belong to another route
/// without it.
fn lost_guards(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    let mut seen = BTreeSet::new();
    let keys = before.routes.iter().chain(after.routes.iter());
    for (key, _) in keys {
        if !seen.insert(key.text.as_str()) {
            continue;
        }
        let (Some(old), Some(new)) = (taker(before, key), taker(after, key)) else {
            continue;
        };
        if old.key.text == new.key.text {
            continue;
        }
        let (guards, left) = (guards(&before.config, old), guards(&after.config, new));
        for guard in guards.difference(&left) {
            lines.push(format!(
                "routes.{}: takes {} now, which was behind the `{guard}` of `{}` before this reload",
                new.key.text, key.text, old.key.text
            ));
        }
    }
    lines
}

/// Which route takes the requests that `key` means.
fn taker<'s>(snapshot: &'s Snapshot, key: &RouteKey) -> Option<&'s Arc<Route>> {
    let host = match &key.host {
        HostPattern::Exact(name) => Some(name.clone()),
        // Any name below it.
        HostPattern::Wildcard(name) => Some(format!("any.{name}")),
        HostPattern::Any => None,
    };
    snapshot.routes.lookup(host.as_deref(), &key.prefix)
}

/// What of a route refuses clients.
fn guards<'c>(config: &'c Config, route: &Route) -> BTreeSet<&'c str> {
    let is_it = |candidate: &&HttpRoute| candidate.key.text == route.key.text;
    let found = config.http_routes.iter().find(is_it);
    let required = |route: &&HttpRoute| route.client_auth == ClientCertPolicy::Required;
    let certificate = found.filter(required).map(|_| "client_auth");
    found
        .into_iter()
        .flat_map(|route| &route.filters)
        .map(|filter| filter.kind.as_str())
        .filter(|kind| GUARDS.contains(kind))
        .chain(certificate)
        .collect()
}

const GUARDS: [&str; 3] = ["ip_access", "basic_auth", "rate_limit"];
