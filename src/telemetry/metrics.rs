//! The metrics of a gateway, and the handles that count in them.
//!
//! Invariant: each gateway has a registry of its own. The snapshot takes its handles
//! ([`HttpRouteMetrics`] and so on) when it is built; the admin listener renders. The names are in
//! `metrics/families.rs`.

mod aliases;
mod children;
mod edges;
mod families;
mod routes;

use std::sync::Arc;

use prometheus::{IntCounter, TextEncoder};

pub use edges::{ActiveConnection, CertificateExpiry, EndpointHealthy, ListenerMetrics};
pub use families::ReloadResult;
pub use routes::{Direction, HttpRouteMetrics, InFlight, TcpRouteMetrics, TcpSession, WarmSocket};

use children::{Children, Held};
use edges::{CertificateChild, EndpointChild, ListenerChild};
use families::Families;
use routes::RouteChild;

/// The metrics of one gateway. Clones are the same metrics.
///
/// Handles are made when a snapshot is built, so that requests look no name up. A label is in the
/// output from the first time that something is counted under it until its last handle is gone;
/// asking again while one is alive gives a handle of the same counters.
#[derive(Clone)]
pub struct Metrics {
    families: Arc<Families>,
    routes: Arc<Children<RouteChild>>,
    listeners: Arc<Children<ListenerChild>>,
    endpoints: Arc<Children<EndpointChild>>,
    certificates: Arc<Children<CertificateChild>>,
}

impl Metrics {
    /// The `Content-Type` of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Metrics that count nothing yet.
    pub fn new() -> Metrics {
        Metrics {
            families: Arc::new(Families::new()),
            routes: Arc::default(),
            listeners: Arc::default(),
            endpoints: Arc::default(),
            certificates: Arc::default(),
        }
    }

    /// All metrics in the Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut families = self.families.registry.gather();
        aliases::add(&mut families);
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            log::error!("metrics cannot be rendered: {error}");
        }
        text
    }

    /// Handle for the requests of an HTTP route; `-` for those that matched none.
    pub fn http_route(&self, route: &str) -> HttpRouteMetrics {
        HttpRouteMetrics(self.route(route))
    }

    /// Handle for the sessions of a TCP route; `-` for those that matched none. Its `tcp_proxy_*`
    /// counters are shown from now on.
    pub fn tcp_route(&self, route: &str) -> TcpRouteMetrics {
        TcpRouteMetrics::new(self.route(route))
    }

    /// Handle for the connections of a listener, named as in the configuration.
    pub fn listener(&self, listener: &str) -> ListenerMetrics {
        let make = || ListenerChild::new(listener);
        ListenerMetrics(Held::take(
            &self.listeners,
            &self.families,
            listener.to_owned(),
            make,
        ))
    }

    /// Handle for the health of an endpoint, shown as healthy until it is reported otherwise.
    pub fn endpoint_healthy(&self, upstream: &str, endpoint: &str) -> EndpointHealthy {
        let key = (upstream.to_owned(), endpoint.to_owned());
        EndpointHealthy(Held::take(&self.endpoints, &self.families, key, || {
            EndpointChild::new(&self.families, upstream, endpoint)
        }))
    }

    /// Handle for the expiry of a certificate, named by its file.
    pub fn certificate_expiry(&self, file: &str) -> CertificateExpiry {
        let make = || CertificateChild::new(file);
        CertificateExpiry(Held::take(
            &self.certificates,
            &self.families,
            file.to_owned(),
            make,
        ))
    }

    /// Counts a look at certificate files that had changed.
    pub fn certificates_reloaded(&self, result: ReloadResult) {
        let results = &self.families.certificate_reloads;
        results.with_label_values(&[result.as_str()]).inc();
    }

    /// The number of the generation that is serving.
    pub fn config_generation(&self, generation: u64) {
        let generation = i64::try_from(generation).unwrap_or(i64::MAX);
        self.families.config_generation.set(generation);
    }

    /// Counts a reload that was asked for.
    pub fn config_reloaded(&self, result: ReloadResult) {
        let results = &self.families.config_reloads;
        results.with_label_values(&[result.as_str()]).inc();
    }

    /// The counter of access log records that were not written.
    pub fn access_log_dropped(&self) -> IntCounter {
        self.families.access_log_dropped.clone()
    }

    fn route(&self, route: &str) -> Arc<Held<RouteChild>> {
        let make = || RouteChild::new(route);
        Held::take(&self.routes, &self.families, route.to_owned(), make)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

#[cfg(test)]
mod tests;
