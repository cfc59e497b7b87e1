//! What listeners, certificates and endpoints hold: the edges of the gateway.
//!
//! Handles are held by the server's listeners, by the certificates in force and by the endpoints of
//! upstreams; none of them knows of routes. Invariant: what a guard counted up, its Drop counts down.

use std::sync::{Arc, OnceLock};

use prometheus::IntGauge;

use crate::error::Reason;

use super::children::{Child, Counters, Held};
use super::families::Families;

/// The metrics of one listener.
#[derive(Clone)]
pub struct ListenerMetrics(pub(super) Arc<Held<ListenerChild>>);

impl ListenerMetrics {
    /// A client connection is open until the guard is dropped.
    pub fn active(&self) -> ActiveConnection {
        self.gauge().inc();
        ActiveConnection(self.clone())
    }

    /// How many client connections are open now.
    pub fn connections_active(&self) -> u64 {
        u64::try_from(self.gauge().get()).unwrap_or(0)
    }

    /// Counts a connection that was refused before a request or session began.
    pub fn rejected(&self, reason: Reason) {
        let Held {
            child, families, ..
        } = &*self.0;
        child.rejected.inc(reason, || {
            let labels = [&*child.listener, reason.as_str()];
            families.connections_rejected.with_label_values(&labels)
        });
    }

    /// Counts a handshake that a client finished in this version of TLS.
    pub fn handshaken(&self, version: &'static str) {
        let Held {
            child, families, ..
        } = &*self.0;
        child.handshakes.inc(version, || {
            let labels = [&*child.listener, version];
            families.tls_handshakes.with_label_values(&labels)
        });
    }

    /// Counts a handshake that failed, by a word from a fixed set.
    pub fn handshake_failed(&self, cause: &'static str) {
        let Held {
            child, families, ..
        } = &*self.0;
        child.handshake_failures.inc(cause, || {
            let labels = [&*child.listener, cause];
            families.tls_handshake_failures.with_label_values(&labels)
        });
    }

    fn gauge(&self) -> &IntGauge {
        let Held {
            child, families, ..
        } = &*self.0;
        let active = &families.connections_active;
        let make = || active.with_label_values(&[&*child.listener]);
        child.active.get_or_init(make)
    }
}

/// An open client connection.
pub struct ActiveConnection(ListenerMetrics);

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.0.gauge().dec();
    }
}

/// The health of one endpoint as metrics show it.
#[derive(Clone)]
pub struct EndpointHealthy(pub(super) Arc<Held<EndpointChild>>);

impl EndpointHealthy {
    /// Whether the endpoint may be picked.
    pub fn set(&self, healthy: bool) {
        self.0.child.gauge.set(i64::from(healthy));
    }
}

/// When the certificate of one file expires.
#[derive(Clone)]
pub struct CertificateExpiry(pub(super) Arc<Held<CertificateChild>>);

impl CertificateExpiry {
    /// `expires` is in seconds since 1970.
    pub fn set(&self, expires: u64) {
        let expires = i64::try_from(expires).unwrap_or(i64::MAX);
        let Held {
            child, families, ..
        } = &*self.0;
        let labels = [&*child.file];
        families
            .certificate_expiry
            .with_label_values(&labels)
            .set(expires);
    }
}

/// The gauge of one certificate.
pub(super) struct CertificateChild {
    file: String,
}

impl CertificateChild {
    pub(super) fn new(file: &str) -> CertificateChild {
        CertificateChild {
            file: file.to_owned(),
        }
    }
}

impl Child for CertificateChild {
    type Key = String;

    fn key(&self) -> &String {
        &self.file
    }

    fn remove(&self, families: &Families) {
        let _ = families
            .certificate_expiry
            .remove_label_values(&[&*self.file]);
    }
}

/// The children of one listener.
pub(super) struct ListenerChild {
    listener: String,
    active: OnceLock<IntGauge>,
    rejected: Counters<Reason>,
    handshakes: Counters<&'static str>,
    handshake_failures: Counters<&'static str>,
}

impl ListenerChild {
    pub(super) fn new(listener: &str) -> ListenerChild {
        ListenerChild {
            listener: listener.to_owned(),
            active: OnceLock::new(),
            rejected: Counters::default(),
            handshakes: Counters::default(),
            handshake_failures: Counters::default(),
        }
    }
}

/// The gauge of one endpoint.
pub(super) struct EndpointChild {
    key: (String, String),
    gauge: IntGauge,
}

impl EndpointChild {
    pub(super) fn new(families: &Families, upstream: &str, endpoint: &str) -> EndpointChild {
        let gauge = families.add_endpoint(upstream, endpoint);
        gauge.set(1);
        EndpointChild {
            key: (upstream.to_owned(), endpoint.to_owned()),
            gauge,
        }
    }
}

impl Child for ListenerChild {
    type Key = String;

    fn key(&self) -> &String {
        &self.listener
    }

    fn remove(&self, families: &Families) {
        let active = &families.connections_active;
        let _ = active.remove_label_values(&[&*self.listener]);
        for reason in self.rejected.made() {
            let labels = [&*self.listener, reason.as_str()];
            let _ = families.connections_rejected.remove_label_values(&labels);
        }
        for version in self.handshakes.made() {
            let labels = [&*self.listener, version];
            let _ = families.tls_handshakes.remove_label_values(&labels);
        }
        for cause in self.handshake_failures.made() {
            let labels = [&*self.listener, cause];
            let _ = families.tls_handshake_failures.remove_label_values(&labels);
        }
    }
}

impl Child for EndpointChild {
    type Key = (String, String);

    fn key(&self) -> &(String, String) {
        &self.key
    }

    fn remove(&self, families: &Families) {
        families.remove_endpoint(&self.gauge);
    }
}
