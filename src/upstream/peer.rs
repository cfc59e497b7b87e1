//! Pingora's `HttpPeer`, made from an endpoint.
//!
//! An `HttpPeer` has traps (Pingora 0.9.1): made from a name it resolves on the spot and panics
//! when that fails, its timeouts are all off by default, `connection_timeout` holds for TCP and TLS
//! separately, and its pool tells connections apart by neither CA nor ALPN. Invariant: the only
//! place that builds one, from a resolved address, with every timeout decided.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::{ALPN, TcpKeepalive};
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_core::{Error, ErrorType, Result};

use super::dial;
use super::endpoint::Endpoint;

/// How long one try may take, step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTimeouts {
    /// The TCP connect.
    pub connect: Duration,
    /// TCP and TLS together.
    pub total_connect: Duration,
    /// Silence while reading: starts anew with each read. `None` where the connection's own clock
    /// watches.
    pub read: Option<Duration>,
    /// Silence while writing: starts anew with each write. `None` as for `read`.
    pub write: Option<Duration>,
    /// How long the connection may stay in the pool afterwards.
    pub idle: Duration,
}

/// Whether a connection may come from the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// From whatever thread: where connections are counted, so are unused ones.
    Pooled,
    /// From this thread.
    PooledHere,
    /// A new connection, which is closed afterwards.
    Fresh,
}

/// Whether a request has fields that are for one hop alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopByHop {
    /// It has, or may have: Pingora removes them (RFC 9110, section 7.6.1).
    Present,
    /// Pingora need not look for each of them, which it does fourteen times.
    Absent,
}

/// The peer for one try against `endpoint`. `group_key`: see [`group_key`].
pub fn http_peer(
    endpoint: &Arc<Endpoint>,
    timeouts: &PeerTimeouts,
    group_key: u64,
    reuse: Reuse,
    hop_by_hop: HopByHop,
) -> Box<HttpPeer> {
    // A `SocketAddr` is taken as it is: nothing is resolved, nothing can fail.
    let mut peer = HttpPeer::new(endpoint.addrs().first, false, String::new());
    let options = &mut peer.options;
    options.custom_l4 = connector(endpoint, timeouts.connect);
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.total_connect);
    options.read_timeout = timeouts.read;
    options.write_timeout = timeouts.write;
    options.alpn = ALPN::H1;
    options.tcp_keepalive = Some(KEEPALIVE);
    options.http_upstream_request_policy = match hop_by_hop {
        HopByHop::Present => HttpUpstreamRequestPolicy::default(),
        HopByHop::Absent => HttpUpstreamRequestPolicy::preserve(),
    };
    match reuse {
        Reuse::Pooled | Reuse::PooledHere => {
            peer.group_key = match reuse {
                Reuse::PooledHere => group_key ^ this_thread(),
                _ => group_key,
            };
            options.idle_timeout = Some(timeouts.idle);
        }
        Reuse::Fresh => {
            // Pingora has no switch for this. The pool is asked with a key nothing was stored
            // under, and what is stored under it afterwards is closed at once.
            peer.group_key = rand::random();
            options.idle_timeout = Some(Duration::ZERO);
        }
    }
    Box::new(peer)
}

/// What connects in Pingora's place where an endpoint has two addresses, which a peer cannot have.
/// The peer has the one that served last: under that address connections are pooled, and Pingora
/// takes none from its pool that leads elsewhere.
pub(super) fn connector(endpoint: &Arc<Endpoint>, patience: Duration) -> Option<Connector> {
    endpoint.addrs().second?;
    Some(Arc::new(TwoWays {
        endpoint: Arc::clone(endpoint),
        patience,
    }))
}

/// As Pingora holds it.
pub(super) type Connector = Arc<dyn Connect + Send + Sync>;

#[derive(Debug)]
struct TwoWays {
    endpoint: Arc<Endpoint>,
    patience: Duration,
}

#[async_trait]
impl Connect for TwoWays {
    async fn connect(&self, _either: &SocketAddr) -> Result<Stream> {
        let connected = dial::connect(&self.endpoint, self.patience).await;
        connected.map(Stream::from).map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
                io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                _ => ErrorType::ConnectError,
            };
            Error::because(kind, "neither family of its name", error)
        })
    }
}

/// Keeps apart in Pingora's pool what must not share connections: two upstreams that name the same
/// address, or one address spoken to with different TLS settings (`tls`: empty for clear text).
pub fn group_key(upstream: &str, tls: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (upstream, tls).hash(&mut hasher);
    hasher.finish()
}

/// A number for each thread. Events of a connection come to the thread that made it, and whatever
/// another thread does with it costs a wake-up: each keeps to its own.
fn this_thread() -> u64 {
    thread_local! {
        static NUMBER: u64 = {
            let mut hasher = DefaultHasher::new();
            std::thread::current().id().hash(&mut hasher);
            hasher.finish()
        };
    }
    NUMBER.with(|number| *number)
}

/// Finds dead peers behind NAT and firewalls in about a minute and a half.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(10),
    count: 3,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::ZERO,
};

#[cfg(test)]
mod tests {
    use pingora_core::connectors::TransportConnector;
    use pingora_core::upstreams::peer::Peer;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::upstream::fixture::{endpoint, spec, upstream};

    const TIMEOUTS: PeerTimeouts = PeerTimeouts {
        connect: Duration::from_millis(1),
        total_connect: Duration::from_millis(2),
        read: Some(Duration::from_millis(3)),
        write: Some(Duration::from_millis(4)),
        idle: Duration::from_secs(5),
    };

    fn made() -> Arc<Endpoint> {
        let upstream = upstream(spec(vec![endpoint("10.0.0.1:8080")]));
        let set = upstream.endpoints();
        let first = set.iter().next();
        Arc::clone(first.expect("an address is an endpoint at once"))
    }

    #[test]
    fn every_timeout_is_set_and_the_address_is_taken_as_it_is() {
        let peer = http_peer(&made(), &TIMEOUTS, 7, Reuse::Pooled, HopByHop::Present);
        assert_eq!(peer.address().to_string(), "10.0.0.1:8080");
        assert_eq!(peer.connection_timeout(), Some(TIMEOUTS.connect));
        assert_eq!(
            peer.total_connection_timeout(),
            Some(TIMEOUTS.total_connect)
        );
        assert_eq!(peer.options.read_timeout, TIMEOUTS.read);
        assert_eq!(peer.options.write_timeout, TIMEOUTS.write);
        assert_eq!(peer.idle_timeout(), Some(TIMEOUTS.idle));
        assert_eq!(peer.get_alpn(), Some(&ALPN::H1));
        assert!(peer.options.tcp_keepalive.is_some());
        assert!(!peer.is_tls() && peer.sni().is_empty());
    }

    #[test]
    fn only_a_request_without_hop_by_hop_fields_is_left_as_it_is() {
        let policy = |hop_by_hop| {
            http_peer(&made(), &TIMEOUTS, 7, Reuse::Pooled, hop_by_hop)
                .options
                .http_upstream_request_policy
        };
        assert!(policy(HopByHop::Present).strip_hop_by_hop);
        assert!(policy(HopByHop::Present).strip_connection_nominated);
        assert!(!policy(HopByHop::Absent).strip_hop_by_hop);
    }

    #[test]
    fn a_name_has_no_endpoint_to_build_a_peer_from() {
        let upstream = upstream(spec(vec![endpoint("db.example:80")]));
        assert!(upstream.endpoints().is_empty());
        assert_eq!(upstream.endpoints().unresolved(), 1);
    }

    #[test]
    fn the_pool_shares_connections_within_a_group_only() {
        let key = |group, reuse| {
            http_peer(&made(), &TIMEOUTS, group, reuse, HopByHop::Present).reuse_hash()
        };
        assert_eq!(key(7, Reuse::Pooled), key(7, Reuse::Pooled));
        assert_ne!(key(7, Reuse::Pooled), key(8, Reuse::Pooled));
        assert_ne!(group_key("a", ""), group_key("b", ""));
        assert_ne!(group_key("a", ""), group_key("a", "ca.pem"));
    }

    #[test]
    fn a_fresh_peer_matches_nothing_in_the_pool_and_leaves_nothing_there() {
        let pooled = http_peer(&made(), &TIMEOUTS, 7, Reuse::Pooled, HopByHop::Present);
        let one = http_peer(&made(), &TIMEOUTS, 7, Reuse::Fresh, HopByHop::Present);
        let other = http_peer(&made(), &TIMEOUTS, 7, Reuse::Fresh, HopByHop::Present);
        assert_ne!(one.reuse_hash(), pooled.reuse_hash());
        assert_ne!(one.reuse_hash(), other.reuse_hash());
        assert_eq!(one.idle_timeout(), Some(Duration::ZERO));
    }

    #[test]
    fn a_thread_keeps_to_its_connections_unless_they_are_counted() {
        let key = |reuse| http_peer(&made(), &TIMEOUTS, 7, reuse, HopByHop::Present).reuse_hash();
        let elsewhere = |reuse| std::thread::spawn(move || key(reuse)).join().unwrap();
        assert_eq!(key(Reuse::PooledHere), key(Reuse::PooledHere));
        assert_ne!(key(Reuse::PooledHere), elsewhere(Reuse::PooledHere));
        assert_eq!(key(Reuse::Pooled), elsewhere(Reuse::Pooled));
    }

    #[tokio::test]
    async fn pingora_reuses_a_pooled_connection_and_never_a_fresh_one() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let label = server.local_addr().unwrap().to_string();
        let upstream = upstream(spec(vec![endpoint(&label)]));
        let set = upstream.endpoints();
        let timeouts = PeerTimeouts {
            connect: Duration::from_secs(5),
            total_connect: Duration::from_secs(5),
            ..TIMEOUTS
        };
        let peer = |reuse| {
            *http_peer(
                set.iter().next().unwrap(),
                &timeouts,
                7,
                reuse,
                HopByHop::Present,
            )
        };
        let connector = TransportConnector::new(None);
        let give_back = |stream, peer: &HttpPeer| {
            connector.release_stream(stream, peer.reuse_hash(), peer.idle_timeout());
        };

        let pooled = peer(Reuse::Pooled);
        let (stream, reused) = connector.get_stream(&pooled).await.unwrap();
        assert!(!reused);
        let (_first, _) = server.accept().await.unwrap();
        give_back(stream, &pooled);

        let fresh = peer(Reuse::Fresh);
        let (stream, reused) = connector.get_stream(&fresh).await.unwrap();
        assert!(!reused, "there was one in the pool");
        let (mut second, _) = server.accept().await.unwrap();
        give_back(stream, &fresh);
        // Not kept: the server sees it closed.
        let mut byte = [0];
        let end = tokio::time::timeout(Duration::from_secs(5), second.read(&mut byte)).await;
        assert_eq!(end.expect("it is closed at once").unwrap(), 0);

        let (_stream, reused) = connector.get_stream(&peer(Reuse::Pooled)).await.unwrap();
        assert!(reused);
    }

    #[tokio::test]
    async fn a_connect_that_hangs_ends_with_its_timeout() {
        // A full backlog: the system answers no further connects.
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any_port: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any_port.into()).unwrap();
        socket.listen(0).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        let mut filling = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(addr)).await
        {
            filling.push(stream);
        }
        let upstream = upstream(spec(vec![endpoint(&addr.to_string())]));
        let set = upstream.endpoints();
        let timeouts = PeerTimeouts {
            connect: Duration::from_secs(60),
            total_connect: Duration::from_millis(100),
            ..TIMEOUTS
        };
        let peer = *http_peer(
            set.iter().next().unwrap(),
            &timeouts,
            7,
            Reuse::Pooled,
            HopByHop::Present,
        );
        let connect = TransportConnector::new(None);
        let result = tokio::time::timeout(Duration::from_secs(5), connect.get_stream(&peer)).await;
        let error = result.expect("cut by its own timeout").unwrap_err();
        assert_eq!(error.etype(), &ErrorType::ConnectTimedout);
    }
}
