//! How one HTTP/1 request arrived.
//!
//! Its own file because it is the only thing that the connection loop (`server::edge::http1::connection`) and
//! the proxy phases share: the loop puts it into the session, Pingora hands it to
//! `ProxyHttp::on_connection_reuse`. Invariant: every request of a connection gets its own, the
//! first one too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;

use super::deadline::Cutoff;
use crate::tls::ClientTls;

/// Where a request came from and since when.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The other end of the connection (or who a PROXY header said it is).
    pub client: SocketAddr,
    /// Our end of the connection.
    pub local: SocketAddr,
    /// The listener's address as it is written in the configuration.
    pub listener: Arc<str>,
    /// When the head was whole: the start of the request's time.
    pub head_read: Instant,
    /// How many requests this connection carried before.
    pub requests_before: u64,
    /// The client will not send another request on this connection.
    pub last: bool,
    /// The deadline of its try in flight; whoever serves the request carries it out.
    pub cutoff: Arc<Cutoff>,
    /// What it shares with the connection's other requests.
    pub connection: Arc<Connection>,
}

/// What all requests of one connection share.
#[derive(Debug)]
pub struct Connection {
    /// The address of the other end, as endpoints receive it.
    pub client_ip: HeaderValue,
    /// Address and port of the other end, as the access log has them.
    pub client: String,
    /// What the TLS handshake settled; `None` on a plain connection.
    pub tls: Option<Arc<ClientTls>>,
    /// Its requests are streams of HTTP/2.
    pub is_http2: bool,
}

impl Connection {
    /// An IPv4 address that came as IPv6 is written as IPv4.
    pub fn new(client: SocketAddr, tls: Option<Arc<ClientTls>>) -> Connection {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        let client_ip = HeaderValue::try_from(client.ip().to_string());
        Connection {
            client_ip: client_ip.expect("an address is visible ASCII"),
            client: client.to_string(),
            tls,
            is_http2: false,
        }
    }

    /// The same for a client that speaks HTTP/2.
    pub fn http2(client: SocketAddr, tls: Option<Arc<ClientTls>>) -> Connection {
        Connection {
            is_http2: true,
            ..Connection::new(client, tls)
        }
    }
}
