//! Every metric of the gateway: its name, its help and its labels.
//!
//! Its own file because dashboards rely on these names: whoever wants to know one looks here, and
//! nobody makes one elsewhere. Invariant: each gateway has a registry of its own, and every label
//! value comes from the configuration or from a fixed set of words. The snapshot takes its handles
//! ([`HttpRouteMetrics`] and so on) when it is built; the admin listener renders.

mod aliases;
mod edges;
mod routes;
mod shelf;

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub use edges::{ActiveConnection, EndpointHealthy, ListenerMetrics};
pub use routes::{Direction, HttpRouteMetrics, InFlight, TcpRouteMetrics, TcpSession, WarmSocket};

use edges::{EndpointChild, ListenerChild};
use routes::RouteChild;
use shelf::{Held, Shelf};

/// The metrics of one gateway. Clones are the same metrics.
///
/// Handles are made when a snapshot is built, so that requests look no name up. A label is in the
/// output from the first time that something is counted under it until its last handle is gone;
/// asking again while one is alive gives a handle of the same counters.
#[derive(Clone)]
pub struct Metrics {
    families: Arc<Families>,
}

impl Metrics {
    /// The `Content-Type` of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Metrics that count nothing yet.
    pub fn new() -> Metrics {
        Metrics {
            families: Arc::new(Families::new()),
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

    /// Handle for the sessions of a TCP route; `-` for those that matched none. Its `tcp_proxy_*` counters are shown from now on.
    pub fn tcp_route(&self, route: &str) -> TcpRouteMetrics {
        TcpRouteMetrics::new(self.route(route))
    }

    /// Handle for the connections of a listener, named as in the configuration.
    pub fn listener(&self, listener: &str) -> ListenerMetrics {
        let make = || ListenerChild::new(listener);
        ListenerMetrics(Held::take(&self.families, listener.to_owned(), make))
    }

    /// Handle for the health of an endpoint, shown as healthy until told otherwise.
    pub fn endpoint_healthy(&self, upstream: &str, endpoint: &str) -> EndpointHealthy {
        let key = (upstream.to_owned(), endpoint.to_owned());
        EndpointHealthy(Held::take(&self.families, key, || {
            EndpointChild::new(&self.families, upstream, endpoint)
        }))
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
        Held::take(&self.families, route.to_owned(), make)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// How a reload ended: the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// The new configuration serves.
    Ok,
    /// The configuration was refused; the old one serves on.
    Failed,
}

impl ReloadResult {
    const fn as_str(self) -> &'static str {
        match self {
            ReloadResult::Ok => "ok",
            ReloadResult::Failed => "failed",
        }
    }
}

/// The metric families, and the children of them that are in use.
struct Families {
    registry: Registry,

    http_requests: IntCounterVec,
    http_request_duration: HistogramVec,
    http_in_flight: IntGaugeVec,
    retries: IntCounterVec,
    queue_wait: HistogramVec,

    tcp_new: IntCounterVec,
    tcp_completed: IntCounterVec,
    tcp_timeout: IntCounterVec,
    tcp_duration: HistogramVec,
    tcp_bytes: IntCounterVec,
    tcp_sessions: IntCounterVec,
    warm_sockets: IntGaugeVec,
    warm_hits: IntCounterVec,
    warm_misses: IntCounterVec,

    connections_active: IntGaugeVec,
    connections_rejected: IntCounterVec,

    config_generation: IntGauge,
    config_reloads: IntCounterVec,
    access_log_dropped: IntCounter,

    routes: Shelf<RouteChild>,
    listeners: Shelf<ListenerChild>,
    endpoints: Shelf<EndpointChild>,
}

impl Families {
    fn new() -> Families {
        let registry = Registry::new();
        let r = &registry;
        let families = Families {
            http_requests: counter(
                r,
                "harbr_http_requests_total",
                "HTTP requests that ended, by class of status and reason.",
                &["route", "code", "reason"],
            ),
            http_request_duration: histogram(
                r,
                "harbr_http_request_duration_seconds",
                "Seconds from the head of an HTTP request to the end of its response.",
                &REQUEST_SECONDS,
            ),
            http_in_flight: gauge(
                r,
                "harbr_http_requests_in_flight",
                "HTTP requests that have begun and not ended.",
                &["route"],
            ),
            retries: counter(
                r,
                "harbr_retries_total",
                "Tries after the first, by the reason of the failure before.",
                &["route", "reason"],
            ),
            queue_wait: histogram(
                r,
                "harbr_queue_wait_seconds",
                "Seconds in the queue of an upstream, of those that had to wait.",
                &REQUEST_SECONDS,
            ),
            // promtool asks for `_total` here; dashboards have these three names already. What they
            // count is there under clean names, too: `aliases`.
            tcp_new: counter(
                r,
                "tcp_proxy_connection_new",
                "Client sessions that reached a TCP route.",
                &["route"],
            ),
            tcp_completed: counter(
                r,
                "tcp_proxy_connection_completed",
                "Client sessions of a TCP route that ended.",
                &["route"],
            ),
            tcp_timeout: counter(
                r,
                "tcp_proxy_timeout",
                "Client sessions of a TCP route that a timeout ended.",
                &["route"],
            ),
            tcp_duration: histogram(
                r,
                "tcp_proxy_connection_duration_seconds",
                "Seconds that client sessions of a TCP route lasted.",
                &SESSION_SECONDS,
            ),
            tcp_bytes: counter(
                r,
                "harbr_tcp_bytes_total",
                "Bytes relayed, by where they went.",
                &["route", "direction"],
            ),
            tcp_sessions: counter(
                r,
                "harbr_tcp_sessions_total",
                "Client sessions of a TCP route that ended, by reason.",
                &["route", "reason"],
            ),
            warm_sockets: gauge(
                r,
                "harbr_warm_sockets",
                "Sockets connected ahead and never used.",
                &["route"],
            ),
            warm_hits: counter(
                r,
                "harbr_warm_hits_total",
                "Sessions that got a socket connected ahead.",
                &["route"],
            ),
            warm_misses: counter(
                r,
                "harbr_warm_misses_total",
                "Sessions that found no socket connected ahead.",
                &["route"],
            ),
            connections_active: gauge(
                r,
                "harbr_connections_active",
                "Client connections that are open.",
                &["listener"],
            ),
            connections_rejected: counter(
                r,
                "harbr_connections_rejected_total",
                "Client connections refused before a request or session began.",
                &["listener", "reason"],
            ),
            config_generation: registered(
                r,
                IntGauge::new(
                    "harbr_config_generation",
                    "The generation of the configuration that serves.",
                ),
            ),
            config_reloads: counter(
                r,
                "harbr_config_reloads_total",
                "Reloads that were asked for.",
                &["result"],
            ),
            access_log_dropped: registered(
                r,
                IntCounter::new(
                    "harbr_access_log_dropped_total",
                    "Access log records that were not written.",
                ),
            ),
            routes: Shelf::default(),
            listeners: Shelf::default(),
            endpoints: Shelf::default(),
            registry,
        };
        for result in [ReloadResult::Ok, ReloadResult::Failed] {
            let results = &families.config_reloads;
            results.with_label_values(&[result.as_str()]);
        }
        gauge(
            &families.registry,
            "harbr_build_info",
            "Always 1; the version is in the label.",
            &["version"],
        )
        .with_label_values(&[env!("CARGO_PKG_VERSION")])
        .set(1);
        families
    }

    /// The gauge of one endpoint, shown from now on.
    ///
    /// Registered on its own: the vectors of this crate (prometheus 0.14) find a child by the hash
    /// of its label values written one after the other, so upstream `a` with endpoint `bc:80` and
    /// upstream `ab` with endpoint `c:80` would be one gauge.
    fn add_endpoint(&self, upstream: &str, endpoint: &str) -> IntGauge {
        let opts = Opts::new(
            "harbr_endpoint_healthy",
            "1 while an endpoint may be picked, 0 while it is out.",
        )
        .const_label("upstream", upstream)
        .const_label("endpoint", endpoint);
        registered(&self.registry, IntGauge::with_opts(opts))
    }

    fn remove_endpoint(&self, gauge: &IntGauge) {
        if let Err(error) = self.registry.unregister(Box::new(gauge.clone())) {
            log::error!("an endpoint's gauge was not registered: {error}");
        }
    }
}

fn counter(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

/// A histogram by route.
fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> HistogramVec {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(opts, &["route"]))
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    let collector = collector.expect("the name and the labels are constants and well-formed");
    registry
        .register(Box::new(collector.clone()))
        .expect("each name, and each endpoint on its shelf, is registered once");
    collector
}

/// Upper bounds for what a client waits for.
const REQUEST_SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// Upper bounds for sessions, which last from one query to a working day.
const SESSION_SECONDS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0,
];

#[cfg(test)]
mod tests;
