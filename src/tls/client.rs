//! What a handshake settled: version, name, and who the client is.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What is known of a client's side of TLS.
#[derive(Debug)]
pub struct ClientTls {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The name that the client asked for (SNI), in lower case.
    pub server_name: Option<String>,
    /// Client and server agreed on HTTP/2 (ALPN).
    pub is_http2: bool,
    /// The handshake asked for a certificate.
    pub was_asked: bool,
    /// The certificate that it showed, checked against `client_ca`.
    pub certificate: Option<ClientCertificate>,
}

/// A client's certificate.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The distinguished name, as in `CN=alice, O=Example`.
    pub subject: String,
    /// Its alternative names, as in `DNS:a.example.org, email:a@example.org`.
    pub alternative_names: String,
    /// SHA-256 over its DER, 64 hexadecimal digits.
    pub sha256: String,
}

impl ClientCertificate {
    /// Reads what concerns people; the handshake has checked the rest.
    pub(super) fn of(der: &CertificateDer<'_>) -> ClientCertificate {
        let digest = Sha256::digest(der);
        let sha256 = digest.iter().map(|b| format!("{b:02x}")).collect();
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            // webpki reads less of it.
            return ClientCertificate {
                subject: String::new(),
                alternative_names: String::new(),
                sha256,
            };
        };
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
            GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
            GeneralName::URI(uri) => Some(format!("URI:{uri}")),
            GeneralName::IPAddress(bytes) => address(bytes).map(|ip| format!("IP:{ip}")),
            _ => None,
        });
        ClientCertificate {
            subject: visible(&certificate.subject().to_string()),
            alternative_names: visible(&names.collect::<Vec<_>>().join(", ")),
            sha256,
        }
    }
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

/// Fit for a header field and a log line: printable ASCII, the rest as `?`, bounded.
fn visible(text: &str) -> String {
    let printable = |c: char| match c {
        ' '..='~' => c,
        _ => '?',
    };
    text.chars().map(printable).take(MAX_TEXT).collect()
}

const MAX_TEXT: usize = 1024;
