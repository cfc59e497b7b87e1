//! Which certificate a client gets: by the name that it asks for (SNI, RFC 6066, section 3).
//!
//! Exact names first, then a wildcard of one label (RFC 6125, section 6.4.3), then the first
//! certificate. Of several for one name, the first whose kind of key the client knows.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;

type Candidates = Vec<Arc<CertifiedKey>>;

/// All certificates of a gateway. Lookups cost the same for one as for thousands.
#[derive(Debug)]
pub(super) struct ByName {
    exact: HashMap<String, Candidates>,
    /// By the name below the star.
    wildcard: HashMap<String, Candidates>,
    /// The first one, and others for its names.
    default: Candidates,
}

impl ByName {
    pub(super) fn new(certificates: &[Certificate]) -> ByName {
        let mut by_name = ByName {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            default: Vec::new(),
        };
        for certificate in certificates {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(below) => (&mut by_name.wildcard, below),
                    None => (&mut by_name.exact, name.as_str()),
                };
                let candidates = map.entry(name.to_owned()).or_default();
                candidates.push(certificate.certified.clone());
            }
        }
        if let Some(first) = certificates.first() {
            let same = |other: &&Certificate| {
                std::ptr::eq(*other, first)
                    || (!first.names.is_empty() && other.names == first.names)
            };
            let default = certificates.iter().filter(same);
            by_name.default = default.map(|other| other.certified.clone()).collect();
        }
        by_name
    }

    /// Whether a client that asks for `name` gets a certificate with that name.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.named(name).is_some()
    }

    fn named(&self, name: &str) -> Option<&Candidates> {
        let below = || name.split_once('.').map(|(_, below)| below);
        self.exact.get(name).or_else(|| self.wildcard.get(below()?))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.named(name));
        let candidates = named.unwrap_or(&self.default);
        let fits = |one: &&Arc<CertifiedKey>| {
            let schemes = hello.signature_schemes();
            one.key.choose_scheme(schemes).is_some()
        };
        // Where none fits, the handshake says so by itself.
        candidates
            .iter()
            .find(fits)
            .or_else(|| candidates.first())
            .cloned()
    }
}
