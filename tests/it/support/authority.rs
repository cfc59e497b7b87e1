//! A certificate authority, what it signs, and clients in TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

use super::http1::{self, Response};

/// An authority with a folder for what it signs.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// The files of one certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Issued {
    /// As an entry of `tls.certificates`.
    pub fn entry(&self) -> String {
        format!("{{cert: {:?}, key: {:?}}}", self.cert, self.key)
    }

    /// The certificate itself.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.cert).expect("one was written")
    }
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let folder = TempDir::new().expect("a temporary folder");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("a file in it");
        Authority { issuer, folder }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// A certificate for a server with these names, in `FILE.pem` and `FILE.key`.
    pub fn server(&self, file: &str, names: &[&str]) -> Issued {
        self.issue(file, names, |_| {})
    }

    /// A certificate for a client.
    pub fn client(&self, file: &str) -> Issued {
        self.issue(file, &[&format!("{file}.clients.test")], |params| {
            params.distinguished_name.push(DnType::CommonName, file);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    /// One that expired long ago.
    pub fn expired(&self, file: &str, names: &[&str]) -> Issued {
        self.issue(file, names, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    pub fn issue(
        &self,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let issued = Issued {
            cert: self.file(&format!("{file}.pem")),
            key: self.file(&format!("{file}.key")),
        };
        // As who renews certificates does: never half a file.
        for (path, text) in [
            (&issued.cert, certificate.pem()),
            (&issued.key, key.serialize_pem()),
        ] {
            let new = path.with_extension("new");
            std::fs::write(&new, text).expect("a file in the folder");
            std::fs::rename(&new, path).expect("the same folder");
        }
        issued
    }

    /// A list that revokes one certificate.
    pub fn revoke(&self, file: &str, revoked: &Issued) -> PathBuf {
        let der = revoked.der();
        let (_, certificate) = x509(&der);
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from_slice(certificate.raw_serial()),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list");
        let path = self.file(file);
        std::fs::write(&path, list.pem().expect("PEM")).expect("a file in the folder");
        path
    }

    /// What an OCSP responder of this authority says of a certificate, in a file.
    pub fn ocsp(&self, file: &str, issued: &Issued) -> PathBuf {
        let der = issued.der();
        let (_, certificate) = x509(&der);
        let serial: String = certificate
            .raw_serial()
            .iter()
            .skip_while(|byte| **byte == 0)
            .map(|byte| format!("{byte:02X}"))
            .collect();
        let key = self.issuer.key().serialize_pem();
        std::fs::write(self.file("ca.key"), key).expect("a file in the folder");
        let index = format!("V\t490101000000Z\t\t{serial}\tunknown\t/CN=x\n");
        std::fs::write(self.file("index.txt"), index).expect("a file in the folder");
        let (request, response) = (self.file("ocsp.request"), self.file(file));
        let openssl = |args: &[&std::ffi::OsStr]| {
            let output = std::process::Command::new("openssl")
                .arg("ocsp")
                .args(args)
                .output()
                .expect("openssl is installed");
            assert!(output.status.success(), "{output:?}");
        };
        let (ca, key, index) = (self.ca(), self.file("ca.key"), self.file("index.txt"));
        openssl(&[
            "-issuer".as_ref(),
            ca.as_ref(),
            "-cert".as_ref(),
            issued.cert.as_ref(),
            "-no_nonce".as_ref(),
            "-reqout".as_ref(),
            request.as_ref(),
        ]);
        openssl(&[
            "-index".as_ref(),
            index.as_ref(),
            "-rsigner".as_ref(),
            ca.as_ref(),
            "-rkey".as_ref(),
            key.as_ref(),
            "-CA".as_ref(),
            ca.as_ref(),
            "-ndays".as_ref(),
            "1".as_ref(),
            "-reqin".as_ref(),
            request.as_ref(),
            "-respout".as_ref(),
            response.as_ref(),
        ]);
        response
    }

    /// A client that trusts this authority.
    pub fn trusting(&self) -> TlsSetup {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        TlsSetup {
            roots: Arc::new(roots),
            versions: rustls::ALL_VERSIONS.to_vec(),
            alpn: Vec::new(),
            certificate: None,
            resumption: false,
        }
    }
}

fn x509<'d>(
    der: &'d CertificateDer<'_>,
) -> (&'d [u8], x509_parser::certificate::X509Certificate<'d>) {
    use x509_parser::prelude::FromDer;
    x509_parser::certificate::X509Certificate::from_der(der).expect("a certificate")
}

/// How a client shakes hands.
#[derive(Clone)]
pub struct TlsSetup {
    roots: Arc<RootCertStore>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    pub alpn: Vec<&'static [u8]>,
    pub certificate: Option<Issued>,
    /// Tickets are used by clients made of one configuration.
    pub resumption: bool,
}

impl TlsSetup {
    pub fn with(&self, certificate: &Issued) -> TlsSetup {
        TlsSetup {
            certificate: Some(certificate.clone()),
            ..self.clone()
        }
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider.clone());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions)
            .expect("versions")
            .with_webpki_verifier(verifier.build().expect("roots"));
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let key = PrivateKeyDer::from_pem_file(&issued.key).expect("a key");
                let chain = vec![issued.der()];
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        if !self.resumption {
            config.resumption = Resumption::disabled();
        }
        Arc::new(config)
    }

    /// Connects and shakes hands.
    pub fn connect(&self, addr: SocketAddr, name: &str) -> io::Result<TlsClient> {
        connect(&self.config(), addr, name)
    }

    /// The reply to one GET on a connection of its own.
    pub fn get(&self, addr: SocketAddr, name: &str, target: &str) -> io::Result<Response> {
        self.connect(addr, name)?.get(name, target)
    }
}

/// As [`TlsSetup::connect`], with a configuration that keeps tickets.
pub fn connect(config: &Arc<ClientConfig>, addr: SocketAddr, name: &str) -> io::Result<TlsClient> {
    let socket = TcpStream::connect(addr)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(config.clone(), name).expect("a configuration");
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(TlsClient {
        stream,
        buffer: Vec::new(),
    })
}

/// A connection in TLS.
pub struct TlsClient {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl TlsClient {
    /// The certificate that the server showed.
    pub fn certificate(&self) -> CertificateDer<'static> {
        let chain = self.stream.conn.peer_certificates().expect("a certificate");
        chain[0].clone().into_owned()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    pub fn get(&mut self, host: &str, target: &str) -> io::Result<Response> {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))?;
        self.response()
    }

    pub fn response(&mut self) -> io::Result<Response> {
        let head = http1::read_head(&mut self.stream, &mut self.buffer)?;
        let head = head.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (mut response, framing) =
            http1::parse_response(&head, "GET").map_err(io::Error::other)?;
        response.body = http1::read_body(&mut self.stream, &mut self.buffer, framing)?;
        Ok(response)
    }

    /// Everything up to `close_notify`; an end without it is an error.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.buffer);
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
