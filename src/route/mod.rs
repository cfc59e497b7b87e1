//! Compiled matching: which route a request belongs to, and what that route has at hand.
//!
//! No I/O. A [`Route`] is what a request holds from the moment it matched to its last log line;
//! everything in it was resolved when the snapshot was built, so that nothing is looked up later.

mod path;
mod select;
mod table;

use std::sync::Arc;
use std::time::Duration;

use crate::config::{ClientCertPolicy, HttpRoute, RouteKey, Tries, Upgrades};
use crate::filter::Chain;
use crate::telemetry::{HttpRouteMetrics, Metrics};
use crate::upstream::Upstream;
use crate::upstream::peer::group_key;

pub use path::{BadPath, Normalised, normalise, strip_prefix, with_slashes};
pub use select::{SslRequest, TcpRoute, TcpTable};
pub use table::{Table, Tried, Why};

/// One HTTP route, ready to be used.
pub struct Route {
    /// The key as written: the `route` label.
    pub label: Arc<str>,
    /// Host pattern and path prefix, parsed.
    pub key: RouteKey,
    /// `timeout_ms`, `retry_count`, `connect_timeout_ms` and `try_timeout_ms`.
    pub tries: Tries,
    /// `strip_prefix`: the endpoint gets the path without the route's prefix; default `false`.
    pub strip_prefix: bool,
    /// `preserve_host`: the endpoint gets the client's `Host`, not its own name; default `true`.
    pub preserve_host: bool,
    /// `upgrade`: the protocols that a request may switch to (RFC 9110 7.8); default any one.
    pub upgrade: Upgrades,
    /// `merge_slashes`: the endpoint gets one slash where the client sent several.
    pub merge_slashes: bool,
    /// `client_auth`: whether its clients must show a certificate.
    pub client_auth: ClientCertPolicy,
    /// Where requests go; shared with every route that names the same upstream.
    pub upstream: Arc<Upstream>,
    /// How long an unused connection is kept; zero where none is.
    pub keepalive_idle: Duration,
    /// Separates Pingora's connection pool by upstream and TLS settings.
    pub group_key: u64,
    /// `filters`, in the order of the file, after those that the embedder adds to every route.
    pub filters: Chain,
    /// Where its requests are counted, under the label `route`.
    pub metrics: HttpRouteMetrics,
}

impl Route {
    /// Compiles one route onto its upstream.
    pub fn new(
        route: &HttpRoute,
        upstream: Arc<Upstream>,
        filters: Chain,
        metrics: &Metrics,
    ) -> Route {
        Route {
            label: Arc::from(route.key.text.as_str()),
            key: route.key.clone(),
            tries: route.tries.clone(),
            strip_prefix: route.strip_prefix,
            preserve_host: route.preserve_host,
            upgrade: route.upgrade.clone(),
            keepalive_idle: route.upstream.keepalive_idle,
            merge_slashes: route.merge_slashes,
            client_auth: route.client_auth,
            group_key: group_key(upstream.label(), ""),
            filters,
            metrics: metrics.http_route(&route.key.text),
            upstream,
        }
    }

    /// What is taken away from the front of a path before it is sent; empty for nothing.
    pub fn stripped(&self) -> &str {
        match self.strip_prefix {
            true => self.key.prefix.trim_end_matches('/'),
            false => "",
        }
    }
}
