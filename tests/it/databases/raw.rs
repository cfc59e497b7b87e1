//! Clients on the level of bytes, and what the gateway says of their sessions.
//!
//! Nothing waits longer than twenty seconds.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::{Gw, eventually};

pub fn connect(addr: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(addr).expect("the gateway accepts");
    client.set_nodelay(true).expect("it is connected");
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&client, Some(Duration::from_secs(20))).expect("a positive time");
    }
    client
}

pub fn reset(client: TcpStream) {
    let set = SockRef::from(&client).set_linger(Some(Duration::ZERO));
    set.expect("a socket takes SO_LINGER");
}

/// Reads to the end, however that comes; panics when none comes.
pub fn ends(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = client.read_to_end(&mut bytes);
    if let Err(error) = read {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    bytes
}

pub fn ping(addr: SocketAddr) {
    let mut client = connect(addr);
    client.write_all(b"PING\r\n").expect("it is connected");
    let mut pong = [0; 7];
    client.read_exact(&mut pong).expect("an answer");
    assert_eq!(&pong, b"+PONG\r\n");
}

/// How many sessions of `route` ended with `reason`.
pub fn ended(gw: &Gw, route: &str, reason: &str) -> f64 {
    let labels = [("route", route), ("reason", reason)];
    gw.metrics().sum("harbr_tcp_sessions_total", &labels)
}

#[track_caller]
pub fn ends_as(gw: &Gw, route: &str, reason: &str, count: f64) {
    let end = Instant::now() + Duration::from_secs(10);
    while ended(gw, route, reason) < count {
        let all = gw.metrics();
        let all = all
            .samples()
            .iter()
            .filter(|s| s.name == "harbr_tcp_sessions_total");
        let all: Vec<_> = all.collect();
        assert!(
            Instant::now() < end,
            "not {count} of {route} {reason}: {all:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(ended(gw, route, reason), count, "{route} {reason}");
}

/// Nothing of the sessions is left.
#[track_caller]
pub fn nothing_is_left(gw: &Gw) {
    eventually(
        Duration::from_secs(10),
        "all connections are given back",
        || {
            let metrics = gw.metrics();
            let new = metrics.sum("tcp_proxy_connection_new", &[]);
            // The configured address is the label.
            metrics.sum("harbr_connections_active", &[("listener", "127.0.0.1:0")]) == 0.0
                && metrics.sum("tcp_proxy_connection_completed", &[]) == new
                && metrics.sum("harbr_tcp_sessions_total", &[]) == new
        },
    );
}
