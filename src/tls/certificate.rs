//! One certificate of the configuration, read and checked.
//!
//! What clients would refuse at once (a broken file, a key that does not fit) is an error; what only
//! time or names make wrong (expired, a chain out of order) is a warning: a restart must not fail
//! because of a certificate that was served a minute ago.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{ocsp, pem};
use crate::config::CertificateFiles;
use crate::config::problem::Wrong;

/// A certificate with its key.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) certified: Arc<CertifiedKey>,
    /// DNS names, in lower case; `*.example.org` stands for one label.
    pub(super) names: Vec<String>,
    pub(super) expires: SystemTime,
    pub(super) file: PathBuf,
}

/// The files of one certificate, as they were read.
pub(super) struct Contents {
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) ocsp: Option<Vec<u8>>,
}

impl Contents {
    /// Reads all of them, or says what cannot be read, by key.
    pub(super) fn read(files: &CertificateFiles) -> Result<Contents, Vec<(&'static str, Wrong)>> {
        let mut wrong = Vec::new();
        let mut read = |key, path| match pem::read(path) {
            Ok(content) => content,
            Err(problem) => {
                wrong.push((key, problem));
                Vec::new()
            }
        };
        let contents = Contents {
            cert: read("cert", &files.cert),
            key: read("key", &files.key),
            ocsp: files.ocsp.as_ref().map(|path| read("ocsp", path)),
        };
        match wrong.is_empty() {
            true => Ok(contents),
            false => Err(wrong),
        }
    }
}

/// Checks what was read. `warn` gets what is wrong but can be served, by key.
pub(super) fn check(
    files: &CertificateFiles,
    contents: Contents,
    provider: &CryptoProvider,
    now: SystemTime,
    warn: &mut dyn FnMut(&'static str, String),
) -> Result<Certificate, (&'static str, Wrong)> {
    let chain = pem::certificates(&files.cert, &contents.cert).map_err(|w| ("cert", w))?;
    let key = pem::private_key(&files.key, &contents.key).map_err(|w| ("key", w))?;
    let (names, expires, serial) =
        leaf(&chain[0], now, warn).map_err(|what| ("cert", unreadable(files, what)))?;
    check_order(&chain, warn);
    let ocsp = contents.ocsp.and_then(|der| fresh(der, &serial, now, warn));
    let mut certified =
        CertifiedKey::from_der(chain, key, provider).map_err(|error| unfit(files, &error))?;
    certified.ocsp = ocsp;
    Ok(Certificate {
        certified: Arc::new(certified),
        names,
        expires,
        file: files.cert.clone(),
    })
}

/// Names, end and serial number of the server's own certificate.
fn leaf(
    der: &CertificateDer<'_>,
    now: SystemTime,
    warn: &mut dyn FnMut(&'static str, String),
) -> Result<(Vec<String>, SystemTime, Vec<u8>), &'static str> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| "is no certificate (X.509)")?;
    let time = |seconds: i64| {
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        SystemTime::UNIX_EPOCH + seconds
    };
    let validity = certificate.validity();
    let expires = time(validity.not_after.timestamp());
    if expires <= now {
        warn("cert", format!("expired on {}", validity.not_after));
    } else if time(validity.not_before.timestamp()) > now {
        let from = format!("is not valid before {}", validity.not_before);
        warn("cert", from);
    }
    let mut names = Vec::new();
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let mut has_address = false;
    for name in alternatives
        .iter()
        .flat_map(|names| &names.value.general_names)
    {
        match name {
            GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
            GeneralName::IPAddress(_) => has_address = true,
            _ => {}
        }
    }
    if names.is_empty() && !has_address {
        let text = "has no subjectAltName: clients of today accept it for no name";
        warn("cert", text.to_owned());
    }
    Ok((names, expires, certificate.raw_serial().to_vec()))
}

/// Each certificate is followed by the one of its issuer (RFC 8446, section 4.4.2).
fn check_order(chain: &[CertificateDer<'_>], warn: &mut dyn FnMut(&'static str, String)) {
    for (nth, pair) in chain.windows(2).enumerate() {
        let parsed = (
            X509Certificate::from_der(&pair[0]),
            X509Certificate::from_der(&pair[1]),
        );
        if let (Ok((_, one)), Ok((_, next))) = parsed
            && one.issuer().as_raw() != next.subject().as_raw()
        {
            let text = format!(
                "certificate {} of the file is not that of the issuer of certificate {}: the server's \
                 own comes first, then its issuer's, and so on",
                nth + 2,
                nth + 1
            );
            warn("cert", text);
            return;
        }
    }
}

/// The response, if it may be stapled.
fn fresh(
    der: Vec<u8>,
    serial: &[u8],
    now: SystemTime,
    warn: &mut dyn FnMut(&'static str, String),
) -> Option<Vec<u8>> {
    let ocsp = match ocsp::parse(&der) {
        Ok(ocsp) => ocsp,
        Err(wrong) => {
            warn("ocsp", format!("{wrong}; nothing is stapled"));
            return None;
        }
    };
    if ocsp.serial != serial {
        let text = "is about another certificate; nothing is stapled";
        warn("ocsp", text.to_owned());
        return None;
    }
    if ocsp.next_update.is_some_and(|end| end <= now) {
        let text = "is too old (its nextUpdate has passed); nothing is stapled";
        warn("ocsp", text.to_owned());
        return None;
    }
    Some(der)
}

fn unreadable(files: &CertificateFiles, what: &str) -> Wrong {
    Wrong::new(
        format!("{}: {what}", files.cert.display()),
        "`openssl x509 -in FILE -noout -text` shows what it is",
    )
}

fn unfit(files: &CertificateFiles, error: &TlsError) -> (&'static str, Wrong) {
    let (cert, key) = (files.cert.display(), files.key.display());
    match error {
        TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => (
            "key",
            Wrong::new(
                format!("{key} is not the key of {cert}"),
                "`openssl x509 -noout -pubkey -in CERT` and `openssl pkey -pubout -in KEY` print the \
                 same text for a pair",
            ),
        ),
        TlsError::InvalidCertificate(_) => ("cert", unreadable(files, "is no usable certificate")),
        _ => (
            "key",
            Wrong::new(
                format!("{key}: this kind of key cannot be used"),
                "RSA of 2048 to 8192 bits, ECDSA P-256 or P-384, or Ed25519",
            ),
        ),
    }
}
