//! The pointer to the certificates in force, and when they expire in the metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::server_tls::ServerTls;
use crate::telemetry::{CertificateExpiry, Metrics};

/// The pointer to the certificates in force: renewed files swap it, without a new snapshot.
pub struct TlsHandle {
    current: ArcSwap<ServerTls>,
    metrics: Metrics,
    expiries: Mutex<Vec<CertificateExpiry>>,
}

impl TlsHandle {
    /// Begins with these, and shows when they expire in `metrics`.
    pub fn new(tls: ServerTls, metrics: &Metrics) -> TlsHandle {
        let handle = TlsHandle {
            expiries: Mutex::default(),
            metrics: metrics.clone(),
            current: ArcSwap::from_pointee(tls),
        };
        handle.show_expiries();
        handle
    }

    /// Those in force, for one handshake.
    pub fn load(&self) -> Arc<ServerTls> {
        self.current.load_full()
    }

    /// Puts renewed ones in force for the handshakes from now on.
    pub fn renew(&self, tls: ServerTls) {
        self.current.store(Arc::new(tls));
        self.show_expiries();
    }

    fn show_expiries(&self) {
        let tls = self.load();
        let shown = tls.certificates.iter().map(|certificate| {
            let expiry = self
                .metrics
                .certificate_expiry(&certificate.file.display().to_string());
            let since = certificate.expires.duration_since(SystemTime::UNIX_EPOCH);
            expiry.set(since.map_or(0, |since| since.as_secs()));
            expiry
        });
        let shown = shown.collect();
        // The old handles go after the new ones are there: a file that stays is shown throughout.
        *self.expiries.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }
}
