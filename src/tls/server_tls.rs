//! The `tls` section with its files read: what a handshake needs, compiled.
//!
//! Invariants: it is made whole or not at all; equal contents make no new one, so that tickets stay
//! good; other rules for clients' certificates come with other ticket keys, because a resumed session
//! has the certificate of the first one and is not checked again. Long because reading, checking and
//! compiling are one pass that reports every problem at once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ProducesTickets, ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier,
};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use sha2::{Digest, Sha256};

use super::by_name::ByName;
use super::certificate::{self, Certificate, Contents};
use super::pem;
use super::policies::Policies;
use crate::config::problem::{Mark, Problem, Problems, Wrong};
use crate::config::{ClientAuth, ClientCertPolicy, Config, HostPattern, Tls, TlsVersion};
use crate::error::Error;

/// What TLS is served with. Immutable.
pub struct ServerTls {
    /// By what clients are asked for; only those that some host needs.
    configs: Vec<(ClientCertPolicy, Arc<ServerConfig>)>,
    policies: Policies,
    /// The certificates, in the order of the file.
    pub certificates: Vec<CertificateInfo>,
    /// What can be served but is probably wrong, each `file:line:column: key: text`.
    pub warnings: Vec<String>,
    /// Over everything that was read.
    fingerprint: [u8; 32],
    rules: Vec<Rules>,
}

/// One certificate, for metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Its file.
    pub file: PathBuf,
    /// Its DNS names.
    pub names: Vec<String>,
    /// The end of its validity.
    pub expires: SystemTime,
}

/// What decides whether a session may be resumed, with the keys that make it possible.
#[derive(Clone)]
struct Rules {
    fingerprint: [u8; 32],
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Rules {
    fn new(fingerprint: [u8; 32]) -> Result<Rules, Error> {
        let ticketer = ring::Ticketer::new()
            .map_err(|error| Error::io("cannot make keys for TLS tickets").because(error))?;
        Ok(Rules {
            fingerprint,
            ticketer,
            // For TLS 1.2 clients that know no tickets.
            sessions: ServerSessionMemoryCache::new(SESSIONS),
        })
    }
}

/// Everything that the section names, read and not looked at yet.
struct ReadFiles {
    certificates: Vec<Contents>,
    client_ca: Option<Vec<u8>>,
    client_crl: Option<Vec<u8>>,
}

impl ServerTls {
    /// Reads and checks the files of `tls`, the section of `config`. `None`: they are as they were
    /// in `before`.
    ///
    /// # Errors
    /// Every problem of every file.
    pub fn load(
        config: &Config,
        tls: &Tls,
        before: Option<&ServerTls>,
    ) -> Result<Option<ServerTls>, Error> {
        let mut problems = FoundProblems {
            file: &config.file,
            problems: Vec::new(),
        };
        let Some(read) = ReadFiles::all(tls, &mut problems) else {
            return Err(problems.into_error());
        };
        let rules_fingerprint = rules_fingerprint(tls, &read);
        let fingerprint = fingerprint(config, tls, &read, &rules_fingerprint);
        if before.is_some_and(|before| before.fingerprint == fingerprint) {
            return Ok(None);
        }
        let provider = Arc::new(ring::default_provider());
        let mut warnings = Vec::new();
        let policies = Policies::of(config, tls);
        let mut verifiers = Vec::new();
        for policy in policies.all() {
            let auth = tls.client_auth.as_ref().zip(read.client_ca.as_deref());
            let Some((auth, ca)) = auth.filter(|_| policy != ClientCertPolicy::None) else {
                verifiers.push((policy, None));
                continue;
            };
            match verifier(auth, policy, ca, read.client_crl.as_deref(), &provider) {
                Ok(verifier) => verifiers.push((policy, Some(verifier))),
                Err((key, wrong)) => {
                    problems.push(auth.at, format!("tls.{key}"), wrong);
                    break;
                }
            }
        }
        let mut certificates = Vec::with_capacity(tls.certificates.len());
        let now = SystemTime::now();
        for (nth, (files, contents)) in tls.certificates.iter().zip(read.certificates).enumerate() {
            let mut warn = |key: &'static str, text: String| {
                let path = match key {
                    "ocsp" => files.ocsp.as_deref().unwrap_or(&files.cert),
                    _ => &files.cert,
                };
                let text = format!("{}: {text}", path.display());
                warnings.push(line(&config.file, files.at, &key_of(nth, key), &text));
            };
            match certificate::check(files, contents, &provider, now, &mut warn) {
                Ok(certificate) => certificates.push(certificate),
                Err((key, wrong)) => problems.push(files.at, key_of(nth, key), wrong),
            }
        }
        if !problems.problems.is_empty() {
            return Err(problems.into_error());
        }
        let by_name = ByName::new(&certificates);
        warnings.extend(uncovered(config, tls, &by_name));
        let by_name = Arc::new(by_name);
        let (mut configs, mut all_rules) = (Vec::new(), Vec::new());
        for (policy, verifier) in verifiers {
            let fingerprint = rules_fingerprint.with(policy);
            let known = before.into_iter().flat_map(|before| &before.rules);
            let rules = match known.into_iter().find(|r| r.fingerprint == fingerprint) {
                Some(same) => same.clone(),
                None => Rules::new(fingerprint)?,
            };
            let made = server_config(
                config,
                tls,
                provider.clone(),
                verifier,
                by_name.clone(),
                &rules,
            )?;
            configs.push((policy, Arc::new(made)));
            all_rules.push(rules);
        }
        Ok(Some(ServerTls {
            configs,
            policies,
            certificates: certificates
                .into_iter()
                .map(CertificateInfo::from)
                .collect(),
            warnings,
            fingerprint,
            rules: all_rules,
        }))
    }

    /// The file of the certificate that a client gets which asks for `name`, and why.
    pub fn chosen(&self, name: &str) -> (PathBuf, &'static str) {
        let has = |wanted: &str| {
            let mut all = self.certificates.iter();
            all.find(|one| one.names.iter().any(|name| name == wanted))
        };
        let wildcard = name.split_once('.').map(|(_, below)| format!("*.{below}"));
        let found = match (has(name), wildcard.and_then(|wildcard| has(&wildcard))) {
            (Some(exact), _) => Some((exact, "it has this name")),
            (None, Some(wildcard)) => Some((wildcard, "its wildcard covers this name")),
            (None, None) => self
                .certificates
                .first()
                .map(|first| (first, "the first one, as none has this name")),
        };
        found.map_or((PathBuf::new(), ""), |(one, why)| (one.file.clone(), why))
    }

    /// What to shake hands with a client that asks for this name, and whether that asks for a
    /// certificate.
    pub(super) fn config_for(&self, name: Option<&str>) -> (&Arc<ServerConfig>, bool) {
        let wanted = self.policies.of_name(name);
        let mut all = self.configs.iter();
        // One was made for each policy that there is.
        let found = all.find(|(policy, _)| *policy == wanted);
        let (policy, config) = found.unwrap_or(&self.configs[0]);
        (config, *policy != ClientCertPolicy::None)
    }

    /// Every file that it was read from, so that a change of one can be seen.
    pub fn files(tls: &Tls) -> Vec<&Path> {
        let mut files: Vec<&Path> = Vec::new();
        for one in &tls.certificates {
            files.extend([one.cert.as_path(), one.key.as_path()]);
            files.extend(one.ocsp.as_deref());
        }
        if let Some(auth) = &tls.client_auth {
            files.push(&auth.ca);
            files.extend(auth.crl.as_deref());
        }
        files
    }
}

/// Without keys.
impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("certificates", &self.certificates)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

impl From<Certificate> for CertificateInfo {
    fn from(certificate: Certificate) -> CertificateInfo {
        CertificateInfo {
            file: certificate.file,
            names: certificate.names,
            expires: certificate.expires,
        }
    }
}

impl ReadFiles {
    /// All files, or every problem with one.
    fn all(tls: &Tls, problems: &mut FoundProblems<'_>) -> Option<ReadFiles> {
        let mut certificates = Vec::with_capacity(tls.certificates.len());
        for (nth, files) in tls.certificates.iter().enumerate() {
            match Contents::read(files) {
                Ok(contents) => certificates.push(contents),
                Err(wrong) => {
                    for (key, wrong) in wrong {
                        problems.push(files.at, key_of(nth, key), wrong);
                    }
                }
            }
        }
        let mut read = |auth: &ClientAuth, key: &str, path: &Path| match pem::read(path) {
            Ok(content) => Some(content),
            Err(wrong) => {
                problems.push(auth.at, format!("tls.{key}"), wrong);
                None
            }
        };
        let auth = tls.client_auth.as_ref();
        let client_ca = auth.and_then(|auth| read(auth, "client_ca", &auth.ca));
        let client_crl = auth.and_then(|auth| read(auth, "client_crl", auth.crl.as_deref()?));
        problems.problems.is_empty().then_some(ReadFiles {
            certificates,
            client_ca,
            client_crl,
        })
    }
}

/// Problems as they are found.
struct FoundProblems<'f> {
    file: &'f Path,
    problems: Vec<Problem>,
}

impl FoundProblems<'_> {
    fn push(&mut self, at: Mark, path: String, wrong: Wrong) {
        self.problems.push(Problem {
            file: self.file.to_path_buf(),
            line: at.line,
            column: at.column,
            path,
            message: wrong.message,
            hint: wrong.hint,
        });
    }

    fn into_error(self) -> Error {
        Error::config(Problems(self.problems).to_string())
    }
}

fn key_of(nth: usize, key: &str) -> String {
    format!("tls.certificates[{nth}].{key}")
}

fn line(file: &Path, at: Mark, key: &str, text: &str) -> String {
    format!("{}:{at}: {key}: {text}", file.display())
}

/// Hosts of routes that no certificate has: browsers refuse to show them.
fn uncovered(config: &Config, tls: &Tls, by_name: &ByName) -> Vec<String> {
    let mut lines = Vec::new();
    if tls.listen_addr.is_none() {
        return lines;
    }
    let mut seen = std::collections::HashSet::new();
    for route in &config.http_routes {
        let covered = match &route.key.host {
            HostPattern::Any => true,
            HostPattern::Exact(name) => by_name.covers(name),
            HostPattern::Wildcard(below) => by_name.covers(&format!("any.{below}")),
        };
        if covered || !seen.insert(&route.key.host) {
            continue;
        }
        let (line_number, column) = route.at;
        let at = Mark {
            line: line_number,
            column,
        };
        let key = format!("routes.{}", route.key.text);
        let text = "no certificate of `tls.certificates` has this name: clients that come by HTTPS get \
                    the first one, and most refuse it";
        lines.push(line(&config.file, at, &key, text));
    }
    lines
}

fn verifier(
    auth: &ClientAuth,
    policy: ClientCertPolicy,
    ca: &[u8],
    crl: Option<&[u8]>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, (&'static str, Wrong)> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(&auth.ca, ca).map_err(|w| ("client_ca", w))? {
        roots.add(certificate).map_err(|error| {
            let wrong = Wrong::new(
                format!("{}: holds what is no authority: {error}", auth.ca.display()),
                "`openssl x509 -in FILE -noout -text` shows what it is",
            );
            ("client_ca", wrong)
        })?;
    }
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if let (Some(path), Some(crl)) = (&auth.crl, crl) {
        let lists = pem::revocation_lists(path, crl).map_err(|w| ("client_crl", w))?;
        // A list says nothing of authorities that it is not of.
        builder = builder.with_crls(lists).allow_unknown_revocation_status();
    }
    if policy == ClientCertPolicy::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| {
        let path = auth.crl.as_ref().unwrap_or(&auth.ca);
        let wrong = Wrong::new(
            format!("{}: cannot be used: {error}", path.display()),
            "`openssl crl -in FILE -noout -text` shows what it is",
        );
        ("client_crl", wrong)
    })
}

fn server_config(
    gateway: &Config,
    tls: &Tls,
    provider: Arc<CryptoProvider>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    by_name: Arc<ByName>,
    rules: &Rules,
) -> Result<ServerConfig, Error> {
    let versions: &[&SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
        TlsVersion::Tls13 => &[&version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| Error::config("tls.min_version").because(error))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(by_name);
    config.alpn_protocols = match gateway.http2.enabled {
        true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        false => vec![b"http/1.1".to_vec()],
    };
    config.ticketer = rules.ticketer.clone();
    config.session_storage = rules.sessions.clone();
    Ok(config)
}

/// Of what decides who gets in.
struct RulesFingerprint([u8; 32]);

impl RulesFingerprint {
    /// Of those that are asked like this.
    fn with(&self, policy: ClientCertPolicy) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update([policy as u8]);
        hash.finalize().into()
    }
}

fn rules_fingerprint(tls: &Tls, read: &ReadFiles) -> RulesFingerprint {
    let mut hash = Sha256::new();
    hash.update([tls.min_version as u8]);
    for content in [&read.client_ca, &read.client_crl] {
        add(&mut hash, content.as_deref());
    }
    RulesFingerprint(hash.finalize().into())
}

fn fingerprint(config: &Config, tls: &Tls, read: &ReadFiles, rules: &RulesFingerprint) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(rules.0);
    hash.update([u8::from(config.http2.enabled)]);
    for (files, contents) in tls.certificates.iter().zip(&read.certificates) {
        add(&mut hash, Some(files.cert.as_os_str().as_encoded_bytes()));
        add(&mut hash, Some(&contents.cert));
        add(&mut hash, Some(&contents.key));
        add(&mut hash, contents.ocsp.as_deref());
    }
    // Its warnings name hosts of routes, and what clients are asked for hangs on them.
    for route in &config.http_routes {
        add(&mut hash, Some(route.key.text.as_bytes()));
        hash.update([route.client_auth as u8]);
    }
    hash.finalize().into()
}

fn add(hash: &mut Sha256, content: Option<&[u8]>) {
    let length = content.map_or(u64::MAX, |content| content.len() as u64);
    hash.update(length.to_be_bytes());
    hash.update(content.unwrap_or_default());
}

/// Sessions of TLS 1.2 clients without tickets: a few hundred bytes each.
const SESSIONS: usize = 1024;
