//! From an accepted socket to a TLS session.
//!
//! Invariants: it ends within its time, whatever the client sends; a client that fails can read why
//! (an alert, or one line of HTTP where it does not speak TLS at all), because its socket is handed
//! back with what is unread in it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use rustls::{AlertDescription, Error as TlsError, PeerIncompatible, ProtocolVersion};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;

use super::client::{ClientCertificate, ClientTls};
use super::server_tls::ServerTls;
use super::session::RustlsSession;
use crate::transport::Transport;

/// A session after its handshake.
pub struct Handshaken {
    /// What the client sends and gets, in clear.
    pub transport: Transport,
    /// What was settled.
    pub client: Arc<ClientTls>,
}

/// A handshake that did not come to its end.
#[derive(Debug)]
pub struct HandshakeFailed {
    /// The word for the metrics.
    pub cause: FailureCause,
    /// What was wrong, for the log.
    pub detail: String,
    /// The socket, its alert written; `None` when the time was over or the client is gone.
    pub socket: Option<TcpStream>,
}

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureCause {
    /// It was not done in time (`header_timeout_ms`).
    Timeout,
    /// The client closed, reset, or never sent a byte.
    ClientClosed,
    /// The first bytes are no TLS record.
    NotTls,
    /// No version, cipher, group or signature is known to both.
    NothingInCommon,
    /// The client knows none of our application protocols (ALPN, RFC 7301).
    Alpn,
    /// A certificate is required and the client has none.
    NoCertificate,
    /// The client's certificate is not of `client_ca`, expired, revoked, or otherwise wrong.
    BadCertificate,
    /// The client did not like our certificate.
    RefusedByClient,
    /// It broke the protocol.
    Protocol,
}

impl FailureCause {
    /// Every cause.
    pub const ALL: [FailureCause; 9] = [
        FailureCause::Timeout,
        FailureCause::ClientClosed,
        FailureCause::NotTls,
        FailureCause::NothingInCommon,
        FailureCause::Alpn,
        FailureCause::NoCertificate,
        FailureCause::BadCertificate,
        FailureCause::RefusedByClient,
        FailureCause::Protocol,
    ];

    /// The `cause` label.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureCause::Timeout => "timeout",
            FailureCause::ClientClosed => "client_closed",
            FailureCause::NotTls => "not_tls",
            FailureCause::NothingInCommon => "nothing_in_common",
            FailureCause::Alpn => "alpn",
            FailureCause::NoCertificate => "no_certificate",
            FailureCause::BadCertificate => "bad_certificate",
            FailureCause::RefusedByClient => "refused_by_client",
            FailureCause::Protocol => "protocol",
        }
    }
}

/// Shakes hands with a client, for `within` at most.
pub async fn handshake(
    stream: TcpStream,
    tls: &ServerTls,
    within: Duration,
) -> Result<Handshaken, HandshakeFailed> {
    let deadline = Instant::now() + within;
    let mut first = [0];
    match timeout_at(deadline, stream.peek(&mut first)).await {
        Err(_) => return Err(timed_out()),
        Ok(Ok(1..)) if first[0] == HANDSHAKE_RECORD => {}
        Ok(Ok(1..)) => {
            return Err(HandshakeFailed {
                cause: FailureCause::NotTls,
                detail: format!("the first byte is {:#04x}, not a TLS record", first[0]),
                socket: Some(stream),
            });
        }
        Ok(gone) => {
            return Err(HandshakeFailed {
                cause: FailureCause::ClientClosed,
                detail: match gone {
                    Ok(_) => "closed before its first byte".to_owned(),
                    Err(error) => error.to_string(),
                },
                socket: None,
            });
        }
    }
    let mut hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let start = match timeout_at(deadline, &mut hello).await {
        Err(_) => return Err(timed_out()),
        Ok(Ok(start)) => start,
        Ok(Err(error)) => return Err(failed(&error, hello.take_io())),
    };
    let name = start.client_hello().server_name().map(str::to_owned);
    let (config, was_asked) = tls.config_for(name.as_deref());
    let accept = start.into_stream(config.clone()).into_fallible();
    match timeout_at(deadline, accept).await {
        Err(_) => Err(timed_out()),
        Ok(Err((error, socket))) => Err(failed(&error, Some(socket))),
        Ok(Ok(stream)) => {
            let connection = stream.get_ref().1;
            let certificate = connection.peer_certificates().and_then(<[_]>::first);
            let client = ClientTls {
                version: match connection.protocol_version() {
                    Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                    _ => "TLSv1.3",
                },
                is_http2: connection.alpn_protocol() == Some(b"h2"),
                server_name: name,
                was_asked,
                certificate: certificate.map(ClientCertificate::of),
            };
            Ok(Handshaken {
                transport: Transport::Tls(Box::new(RustlsSession::new(stream))),
                client: Arc::new(client),
            })
        }
    }
}

fn timed_out() -> HandshakeFailed {
    HandshakeFailed {
        cause: FailureCause::Timeout,
        detail: "not done in time".to_owned(),
        socket: None,
    }
}

fn failed(error: &io::Error, socket: Option<TcpStream>) -> HandshakeFailed {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(inner) = inner else {
        return HandshakeFailed {
            cause: FailureCause::ClientClosed,
            detail: error.to_string(),
            socket: None,
        };
    };
    HandshakeFailed {
        cause: cause(inner),
        detail: inner.to_string(),
        socket,
    }
}

fn cause(error: &TlsError) -> FailureCause {
    match error {
        TlsError::NoApplicationProtocol => FailureCause::Alpn,
        TlsError::NoCertificatesPresented => FailureCause::NoCertificate,
        TlsError::InvalidCertificate(_) | TlsError::InvalidCertRevocationList(_) => {
            FailureCause::BadCertificate
        }
        TlsError::PeerIncompatible(
            PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
        ) => FailureCause::BadCertificate,
        TlsError::PeerIncompatible(_) => FailureCause::NothingInCommon,
        TlsError::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => FailureCause::RefusedByClient,
        TlsError::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => {
            FailureCause::ClientClosed
        }
        TlsError::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion,
        ) => FailureCause::NothingInCommon,
        _ => FailureCause::Protocol,
    }
}

/// The first byte of every connection that begins with TLS (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 0x16;
