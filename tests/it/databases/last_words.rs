//! Servers that say no on sight and close with what they were sent first unread, which the system
//! turns into a reset: the client hears the words, and an end in order.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use super::mariadb::pymysql;
use super::raw::{connect, ended, ends_as, nothing_is_left};
use super::{gateway, to};
use crate::support::{Conn, Mariadb, Origin, Redis, eventually};

/// Reads to an end that is none by reset.
fn hears(client: &mut impl Read) -> Vec<u8> {
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).expect("an end in order");
    heard
}

#[test]
fn a_full_mariadb_is_error_1040_though_it_leaves_a_proxy_header_unread() {
    let server = Mariadb::with(&["max-connections=10", "proxy-protocol-networks=127.0.0.1"]);
    for keys in ["proxy_protocol: v1", "proxy_protocol: v2", ""] {
        let keys = format!("health_check: false\n{keys}");
        let gw = gateway(&[to("shop", &server.url(), &keys)]);
        // The server keeps a place for who has SUPER, which its tester has: it is taken, too.
        let script = "
held = [connect() for _ in range(11)]
for _ in range(20):
    try:
        connect()
        raise SystemExit('served')
    except pymysql.err.OperationalError as e:
        print(e.args[0], e.args[1])
";
        let said = pymysql(script, gw.tcp_addr(0));
        assert_eq!(said, "1040 Too many connections\n".repeat(20), "{keys}");
        nothing_is_left(&gw);
        let places =
            "SELECT count(*) FROM information_schema.processlist WHERE host <> 'localhost'";
        eventually(Duration::from_secs(10), "its places are free", || {
            server.try_sql(places).is_ok_and(|count| count == "0")
        });
    }
}

#[test]
fn a_full_redis_is_heard_in_order() {
    let redis = Redis::with(&["--maxclients", "1"]);
    let mut only = connect(redis.addr());
    only.write_all(b"PING\r\n").unwrap();
    only.read_exact(&mut [0; 7]).unwrap();
    let full = b"-ERR max number of clients reached\r\n";
    let behind_a_header = |version| {
        let url = redis.url().replace("redis:", "tcp:");
        let keys = format!("is_tcp: true\nhealth_check: false\nproxy_protocol: {version}");
        vec![to("cache", &url, &keys)]
    };
    let alone = to("cache", &redis.url(), "health_check: false");
    // Beside another route the first bytes are awaited, and sent when the server is connected.
    let other = to("db", "postgres://127.0.0.1:1", "health_check: false");
    for routes in [
        behind_a_header("v1"),
        behind_a_header("v2"),
        vec![alone.clone()],
        vec![alone, other],
    ] {
        let gw = gateway(&routes);
        for _ in 0..20 {
            let mut client = connect(gw.tcp_addr(0));
            client.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
            let heard = hears(&mut client);
            assert_eq!(
                heard.escape_ascii().to_string(),
                full.escape_ascii().to_string()
            );
        }
        nothing_is_left(&gw);
    }
}

/// In the words of PostgreSQL, and of a server of nobody knows what.
#[test]
fn other_servers_are_heard_in_order_too() {
    let error = b"E\0\0\0\x5fSFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0Fproc.c\0L359\0RInitProcess\0\0";
    let headers = ["proxy_protocol: v1", "proxy_protocol: v2"];
    hears_all("postgres", error, &startup(), &["timeout_ms: 5000"]);
    hears_all("tcp", b"busy", b"hello", &headers);
}

fn hears_all(scheme: &str, words: &'static [u8], first: &[u8], keys: &[&str]) {
    for keys in keys {
        // Not before the client has spoken, else the client may do so between the words and the
        // close, which looks as if the server had closed on that.
        let awaited = first.to_vec();
        let server = Origin::raw(move |conn: &mut Conn| {
            conn.leave_unread(&awaited)?;
            conn.send(words)
        });
        let keys = format!("is_tcp: true\nhealth_check: false\nejection: false\n{keys}");
        let url = format!("{scheme}://{}", server.addr());
        let gw = gateway(&[to("db", &url, &keys)]);
        for _ in 0..20 {
            let mut client = connect(gw.tcp_addr(0));
            client.write_all(first).unwrap();
            assert_eq!(hears(&mut client), words, "{scheme} {keys}");
        }
        nothing_is_left(&gw);
        assert_eq!(ended(&gw, "db", "upstream_reset"), 0.0);
    }
}

/// The server closed in order; that it answers what comes later with a reset is no failure of its.
#[test]
fn what_a_client_says_to_a_server_that_has_closed_resets_nothing() {
    for keys in ["", "proxy_protocol: v1"] {
        let server = Origin::raw(|conn: &mut Conn| conn.send("busy"));
        let keys = format!("is_tcp: true\nhealth_check: false\nejection: false\n{keys}");
        let url = format!("tcp://{}", server.addr());
        let gw = gateway(&[to("db", &url, &keys)]);
        for _ in 0..20 {
            let mut client = connect(gw.tcp_addr(0));
            assert_eq!(hears(&mut client), b"busy", "{keys}");
            client.write_all(b"hello").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(hears(&mut client), b"", "{keys}");
        }
        nothing_is_left(&gw);
        assert_eq!(ended(&gw, "db", "upstream_reset"), 0.0, "{keys}");
    }
}

/// What a server says of the second word of a client is not changed: a reset in it stays one.
#[test]
fn a_reset_later_in_a_session_stays_a_reset() {
    let server = Origin::raw(|conn: &mut Conn| {
        // Behind the header, or after it.
        loop {
            let bytes = conn.next_bytes()?;
            if bytes.is_empty() {
                return Ok(());
            }
            if bytes.ends_with(b"SELECT 1\r\n") {
                break;
            }
        }
        conn.send("+OK\r\n")?;
        conn.next_bytes()?;
        conn.send("$100\r\nha")?;
        conn.reset()
    });
    let keys = "is_tcp: true\nproxy_protocol: v1\nhealth_check: false\nejection: false";
    let url = format!("tcp://{}", server.addr());
    let gw = gateway(&[to("cache", &url, keys)]);
    let mut client = connect(gw.tcp_addr(0));
    client.write_all(b"SELECT 1\r\n").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    client.write_all(b"GET a\r\n").unwrap();
    let end = client.read_to_end(&mut Vec::new()).expect_err("not an end");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    ends_as(&gw, "cache", "upstream_reset", 1.0);
}

/// A StartupMessage.
fn startup() -> Vec<u8> {
    let mut start = b"\0\0\0\0\0\x03\0\0user\0postgres\0database\0postgres\0\0".to_vec();
    start[3] = start.len() as u8;
    start
}
