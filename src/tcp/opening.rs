//! The opening of a session: what a client's first bytes say, up to the point where its route is
//! known.
//!
//! Where the route needs none of them (one route on the listener that is not Postgres) nothing is
//! awaited. Invariants: at most [`sniff::MAX_BYTES`] are held, at most `sniff_timeout` is waited,
//! whatever the client sends and however slowly; what was read is passed on to the server
//! unchanged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::config::DbType;
use crate::error::Reason;
use crate::route::{SslRequest, TcpRoute, TcpTable};
use crate::tcp::encryption::PostgresTls;
use crate::tcp::parameters::ClientParameters;
use crate::transport::Transport;
use crate::wire::postgres::CancelKey;
use crate::wire::proxy_protocol::{self, Parsed};
use crate::wire::sniff::{self, Sniffed};
use crate::wire::tls::{self, Hello};

/// What a client wants.
pub enum Opening {
    /// A session on this route.
    Session {
        /// Chosen by what the client said first, or as the only one of its listener.
        route: Arc<TcpRoute>,
        /// Whether the client asked for TLS in Postgres, and what it was answered.
        tls: PostgresTls,
        /// For the filters of the route. `None` for a route without.
        parameters: Option<Box<ClientParameters>>,
    },
    /// To end a query of another session.
    Cancel(CancelKey),
    /// Nothing that a route of this listener could give.
    Unmatched,
}

/// Reads the PROXY header of a trusted peer, if it sends one. Returns the client it names.
pub async fn proxy_header(
    stream: &mut Transport,
    first: &mut BytesMut,
    until: Instant,
) -> Result<Option<SocketAddr>, Reason> {
    loop {
        match proxy_protocol::parse(first) {
            Parsed::Header(header) => {
                first.advance(header.length);
                return Ok(header.addresses.map(|addresses| addresses.source));
            }
            Parsed::Absent => return Ok(None),
            Parsed::Malformed => return Err(Reason::BadRequest),
            Parsed::NeedMore => {}
        }
        match read(stream, first, until).await {
            // Silence: a peer that sends no header, with a protocol in which the server begins.
            Err(Reason::SniffTimeout) if first.is_empty() => return Ok(None),
            other => other?,
        }
    }
}

/// Finds the route of a client.
pub async fn open(
    stream: &mut Transport,
    first: &mut BytesMut,
    table: &TcpTable,
    sniff_timeout: Duration,
) -> Result<Opening, Reason> {
    if let Some(route) = table.alone()
        && route.db_type != DbType::Postgres
    {
        return Ok(session(route, PostgresTls::No, ClientParameters::default));
    }
    let until = Instant::now() + sniff_timeout;
    if first.is_empty()
        && let Some(route) = table.server_first()
    {
        let patience = Instant::now() + SERVER_FIRST_DELAY.min(sniff_timeout);
        match read(stream, first, patience).await {
            Err(Reason::SniffTimeout) => {
                return Ok(session(route, PostgresTls::No, ClientParameters::default));
            }
            other => other?,
        }
    }
    let mut tls = PostgresTls::No;
    // A client may ask for GSS encryption and for TLS, each once.
    for _ in 0..=MAX_NEGOTIATIONS {
        let sniffed = classify(stream, first, until).await?;
        let answer = match (&sniffed, table.on_ssl_request()) {
            (Sniffed::PostgresCancel(key), Some(_)) => return Ok(Opening::Cancel(key.clone())),
            (Sniffed::PostgresGssenc, Some(_)) => b'N',
            (Sniffed::PostgresSsl, Some(SslRequest::PassOn(route))) => {
                // Known before a server is picked: a cancel that follows waits for none.
                if !route.upstream.declines_encryption() {
                    return Ok(session(
                        route,
                        PostgresTls::Asked,
                        ClientParameters::default,
                    ));
                }
                tls = PostgresTls::Denied;
                b'N'
            }
            (Sniffed::PostgresSsl, Some(SslRequest::AskForName)) => {
                return by_name(stream, first, table, until).await;
            }
            (Sniffed::PostgresSsl, Some(SslRequest::Decline)) => b'N',
            _ => {
                // Filters receive the same of a client whether its server's answer is known or not.
                let told = || match tls {
                    PostgresTls::Denied => ClientParameters::default(),
                    _ => ClientParameters::of(&sniffed),
                };
                return Ok(table
                    .select(&sniffed)
                    .map_or(Opening::Unmatched, |route| session(route, tls, told)));
            }
        };
        first.advance(NEGOTIATION_BYTES);
        reply(stream, answer).await?;
    }
    Err(Reason::BadRequest)
}

/// Says yes to TLS and chooses by the server name of the ClientHello, which the server gets as it
/// is: encryption stays between client and server.
async fn by_name(
    stream: &mut Transport,
    first: &mut BytesMut,
    table: &TcpTable,
    until: Instant,
) -> Result<Opening, Reason> {
    first.advance(NEGOTIATION_BYTES);
    if !first.is_empty() {
        // Sent in clear before TLS stood: a man in the middle may have (CVE-2021-23214).
        return Err(Reason::BadRequest);
    }
    reply(stream, b'S').await?;
    loop {
        match tls::parse(first) {
            Hello::Hello(hello) => {
                return Ok(table
                    .postgres_by_name(&hello)
                    .map_or(Opening::Unmatched, |route| {
                        session(route, PostgresTls::Promised, || {
                            ClientParameters::of_hello(&hello)
                        })
                    }));
            }
            Hello::NotTls => return Err(Reason::BadRequest),
            Hello::NeedMore => read(stream, first, until).await?,
        }
    }
}

async fn classify(
    stream: &mut Transport,
    first: &mut BytesMut,
    until: Instant,
) -> Result<Sniffed, Reason> {
    loop {
        match sniff::classify(first) {
            Sniffed::NeedMore => read(stream, first, until).await?,
            sniffed => return Ok(sniffed),
        }
    }
}

/// Reads more of the opening.
pub(super) async fn read(
    stream: &mut Transport,
    first: &mut BytesMut,
    until: Instant,
) -> Result<(), Reason> {
    if first.len() >= sniff::MAX_BYTES {
        return Err(Reason::BadRequest);
    }
    first.reserve(READ_BYTES);
    match timeout_at(until, stream.read_buf(first)).await {
        Err(_) => Err(Reason::SniffTimeout),
        Ok(Ok(0) | Err(_)) => Err(Reason::ClientClosed),
        Ok(Ok(_)) => Ok(()),
    }
}

/// Answers a request for encryption.
pub(super) async fn reply(stream: &mut Transport, answer: u8) -> Result<(), Reason> {
    // One byte into an empty send buffer cannot block.
    let written = async {
        stream.write_all(&[answer]).await?;
        stream.flush().await
    };
    written
        .await
        .map_err(|_: std::io::Error| Reason::ClientClosed)
}

fn session(
    route: &Arc<TcpRoute>,
    tls: PostgresTls,
    parameters: impl FnOnce() -> ClientParameters,
) -> Opening {
    Opening::Session {
        route: route.clone(),
        tls,
        parameters: (!route.filters.is_empty()).then(|| Box::new(parameters())),
    }
}

/// How long silence must last to mean that the client waits for the server's greeting.
pub const SERVER_FIRST_DELAY: Duration = Duration::from_millis(200);
/// SSLRequest and GSSENCRequest are eight bytes.
const NEGOTIATION_BYTES: usize = 8;
const MAX_NEGOTIATIONS: usize = 2;
const READ_BYTES: usize = 1024;
