//! Files in PEM (RFC 7468): certificates, a private key, revocation lists.
//!
//! Invariant: a problem says what the file holds instead, and never a byte of a key.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::config::problem::Wrong;

/// Reads a file whole.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Wrong> {
    let failed = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such file",
            std::io::ErrorKind::PermissionDenied => {
                "the account that starts the gateway must be able to read it"
            }
            _ => "it must be a readable file",
        };
        Wrong::new(format!("{}: {error}", path.display()), hint)
    };
    let mut content = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let most = MAX_FILE_BYTES + 1;
    file.take(most).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(Wrong::new(
            format!("{}: is over {MAX_FILE_BYTES} bytes", path.display()),
            "a chain, a key or a list is smaller",
        ));
    }
    Ok(content)
}

/// The certificates of a file, in their order; at least one.
pub(super) fn certificates(
    path: &Path,
    content: &[u8],
) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    let all = all.map_err(|error| broken(path, &error))?;
    if all.is_empty() {
        return Err(absent(path, content, "a certificate", "CERTIFICATE"));
    }
    Ok(all)
}

/// The private key of a file.
pub(super) fn private_key(path: &Path, content: &[u8]) -> Result<PrivateKeyDer<'static>, Wrong> {
    match PrivateKeyDer::from_pem_slice(content) {
        Ok(key) => Ok(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            if holds(content, b"ENCRYPTED") {
                return Err(Wrong::new(
                    format!("{}: the private key is encrypted", path.display()),
                    "store it without a passphrase: `openssl pkey -in key.pem -out plain.pem`",
                ));
            }
            Err(absent(path, content, "a private key", "PRIVATE KEY"))
        }
        Err(error) => Err(broken(path, &error)),
    }
}

/// The revocation lists of a file; at least one.
pub(super) fn revocation_lists(
    path: &Path,
    content: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, Wrong> {
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(content).collect();
    let all = all.map_err(|error| broken(path, &error))?;
    if all.is_empty() {
        return Err(absent(path, content, "a revocation list", "X509 CRL"));
    }
    Ok(all)
}

fn broken(path: &Path, error: &rustls::pki_types::pem::Error) -> Wrong {
    use rustls::pki_types::pem::Error::*;
    // Without the line itself, which may be part of a key.
    let what = match error {
        MissingSectionEnd { .. } => "a block has no END line",
        IllegalSectionStart { .. } => "a BEGIN line is malformed",
        Base64Decode(_) => "a block is not Base64",
        SectionTooLarge => "a block is too large",
        _ => "cannot be read as PEM",
    };
    Wrong::new(
        format!("{}: {what}", path.display()),
        "PEM is text: `-----BEGIN CERTIFICATE-----`, Base64, `-----END CERTIFICATE-----`",
    )
}

/// What is there instead of what was looked for.
fn absent(path: &Path, content: &[u8], wanted: &str, label: &str) -> Wrong {
    let found = match <(SectionKind, Vec<u8>)>::from_pem_slice(content) {
        Ok((SectionKind::Certificate, _)) => "it holds certificates",
        Ok((
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey,
            _,
        )) => "it holds a private key",
        Ok((SectionKind::Crl, _)) => "it holds a revocation list",
        Ok((SectionKind::Csr, _)) => "it holds a signing request",
        _ if content.is_empty() => "the file is empty",
        _ if content.starts_with(&[0x30]) => {
            "it is DER: `openssl x509 -inform der` or `openssl pkey -inform der` turns it into PEM"
        }
        _ => "it is no PEM",
    };
    Wrong::new(
        format!("{}: holds no `BEGIN {label}` block", path.display()),
        format!("{wanted} is needed here; {found}"),
    )
}

fn holds(content: &[u8], word: &[u8]) -> bool {
    content.windows(word.len()).any(|window| window == word)
}

/// Ten times a bundle of all public authorities.
const MAX_FILE_BYTES: u64 = 4 << 20;
