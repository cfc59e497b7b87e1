//! Every metric family: its name, its help and its labels.
//!
//! Dashboards rely on these names, and none is made elsewhere. Invariant: every label value comes
//! from the configuration or from a fixed set of words.

use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// How a reload ended: the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// The new configuration serves.
    Ok,
    /// The configuration was refused; the old one serves on.
    Failed,
}

impl ReloadResult {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            ReloadResult::Ok => "ok",
            ReloadResult::Failed => "failed",
        }
    }
}

/// The metric families of one gateway.
pub(super) struct Families {
    pub(super) registry: Registry,

    pub(super) http_requests: IntCounterVec,
    pub(super) http_request_duration: HistogramVec,
    pub(super) http_in_flight: IntGaugeVec,
    pub(super) retries: IntCounterVec,
    pub(super) queue_wait: HistogramVec,

    pub(super) tcp_new: IntCounterVec,
    pub(super) tcp_completed: IntCounterVec,
    pub(super) tcp_timeout: IntCounterVec,
    pub(super) tcp_duration: HistogramVec,
    pub(super) tcp_bytes: IntCounterVec,
    pub(super) tcp_sessions: IntCounterVec,
    pub(super) warm_sockets: IntGaugeVec,
    pub(super) warm_hits: IntCounterVec,
    pub(super) warm_misses: IntCounterVec,

    pub(super) connections_active: IntGaugeVec,
    pub(super) connections_rejected: IntCounterVec,
    pub(super) tls_handshakes: IntCounterVec,
    pub(super) tls_handshake_failures: IntCounterVec,
    pub(super) certificate_expiry: IntGaugeVec,
    pub(super) certificate_reloads: IntCounterVec,

    pub(super) config_generation: IntGauge,
    pub(super) config_reloads: IntCounterVec,
    pub(super) access_log_dropped: IntCounter,
}

impl Families {
    pub(super) fn new() -> Families {
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
            tls_handshakes: counter(
                r,
                "harbr_tls_handshakes_total",
                "TLS handshakes that clients finished, by version.",
                &["listener", "version"],
            ),
            tls_handshake_failures: counter(
                r,
                "harbr_tls_handshake_failures_total",
                "TLS handshakes that failed, by cause.",
                &["listener", "cause"],
            ),
            certificate_expiry: gauge(
                r,
                "harbr_certificate_expiry_timestamp_seconds",
                "When a certificate expires, in seconds since 1970, by its file.",
                &["certificate"],
            ),
            certificate_reloads: counter(
                r,
                "harbr_certificate_reloads_total",
                "Times that changed certificate files were read again.",
                &["result"],
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
    pub(super) fn add_endpoint(&self, upstream: &str, endpoint: &str) -> IntGauge {
        let opts = Opts::new(
            "harbr_endpoint_healthy",
            "1 while an endpoint may be picked, 0 while it is out.",
        )
        .const_label("upstream", upstream)
        .const_label("endpoint", endpoint);
        registered(&self.registry, IntGauge::with_opts(opts))
    }

    pub(super) fn remove_endpoint(&self, gauge: &IntGauge) {
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
        .expect("each name, and each endpoint that is in use, is registered once");
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
