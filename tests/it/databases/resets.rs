//! Either side resets, at every point of a session, or leaves it half open.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::raw::{connect, ended, ends, ends_as, nothing_is_left, reset};
use super::{all_protocols, to, with_settings};
use crate::support::{Gw, Origin, Redis, eventually};

#[test]
fn a_client_may_reset_at_any_point() {
    let quiet = Origin::raw(|conn| conn.until_closed());
    let url = format!("redis://{}", quiet.addr());
    let keys = "health_check: false\nmax_connections: 1\nqueue_timeout_ms: 10000";
    let gw = Gw::start(with_settings(
        "connection_pooling: false",
        &[to("cache", &url, keys)],
    ));
    let addr = gw.tcp_addr(0);
    let turn = Duration::from_secs(10);

    let mut relayed = connect(addr);
    relayed.write_all(b"PING\r\n").expect("it is connected");
    eventually(turn, "it has a server", || quiet.open_connections() == 1);

    // In the queue, with and without a word.
    for word in [&b""[..], b"PING\r\n"] {
        let mut queued = connect(addr);
        queued.write_all(word).expect("it is connected");
        let before = ended(&gw, "cache", "client_closed");
        eventually(turn, "it is queued", || {
            gw.metrics()
                .sum("tcp_proxy_connection_new", &[("route", "cache")])
                == gw
                    .metrics()
                    .sum("tcp_proxy_connection_completed", &[("route", "cache")])
                    + 2.0
        });
        reset(queued);
        ends_as(&gw, "cache", "client_closed", before + 1.0);
    }
    // In the relay: the server hears a reset, too, and the place is free.
    reset(relayed);
    ends_as(&gw, "cache", "client_closed", 3.0);
    eventually(turn, "the server was told", || {
        quiet.open_connections() == 0
    });
    let next = connect(addr);
    eventually(turn, "the place is free", || quiet.open_connections() == 1);
    drop(next);
    nothing_is_left(&gw);

    // While a server is connected to.
    let nobody = Origin::unreachable();
    let url = nobody.url().replace("http:", "redis:");
    let keys = "health_check: false\nconnect_timeout_ms: 700";
    let gw = Gw::start(with_settings(
        "connection_pooling: false",
        &[to("cache", &url, keys)],
    ));
    let connecting = connect(gw.tcp_addr(0));
    eventually(turn, "it has its route", || {
        gw.metrics().sum("tcp_proxy_connection_new", &[]) == 1.0
    });
    reset(connecting);
    nothing_is_left(&gw);
    assert_eq!(gw.metrics().sum("harbr_tcp_sessions_total", &[]), 1.0);

    // While its first bytes are awaited.
    let redis = Redis::new();
    let gw = all_protocols(&redis, 10_000);
    for word in [&b""[..], b"\0\0", b"*1"] {
        let mut sniffed = connect(gw.tcp_addr(0));
        sniffed.write_all(word).expect("it is connected");
        reset(sniffed);
    }
    ends_as(&gw, "-", "client_closed", 3.0);
    nothing_is_left(&gw);
}

#[test]
fn a_server_may_reset_at_any_point() {
    type Server = fn(&mut crate::support::Conn) -> std::io::Result<()>;
    let after_a_request: Server = |conn| {
        conn.some_bytes()?;
        conn.reset()
    };
    let in_an_answer: Server = |conn| {
        conn.some_bytes()?;
        conn.send(b"$1000000\r\nhalf")?;
        conn.reset()
    };
    for (server, heard) in [
        (after_a_request, &b""[..]),
        (in_an_answer, b"$1000000\r\nhalf"),
    ] {
        let origin = Origin::raw(server);
        let url = format!("redis://{}", origin.addr());
        let keys = "health_check: false\nejection: false";
        let settings = "connection_pooling: false";
        let gw = Gw::start(with_settings(settings, &[to("cache", &url, keys)]));
        for _ in 0..20 {
            let mut client = connect(gw.tcp_addr(0));
            client.write_all(b"GET key\r\n").expect("it is connected");
            let mut got = Vec::new();
            let end = client.read_to_end(&mut got).expect_err("not an end");
            assert_eq!(end.kind(), ErrorKind::ConnectionReset);
            // A reset overtakes what was before it.
            assert!(heard.starts_with(&got), "{}", got.escape_ascii());
        }
        ends_as(&gw, "cache", "upstream_reset", 20.0);
        nothing_is_left(&gw);
        assert_eq!(origin.open_connections(), 0);
    }
}

#[test]
fn a_server_that_resets_at_once_is_a_failed_connect_or_a_reset() {
    let origin = Origin::raw(|conn| conn.reset());
    let url = format!("redis://{}", origin.addr());
    let keys = "health_check: false\nejection: false";
    let gw = Gw::start(with_settings("", &[to("cache", &url, keys)]));
    for _ in 0..50 {
        let mut client = connect(gw.tcp_addr(0));
        // The reset may be here already.
        let _sent = client.write_all(b"GET key\r\n");
        // It depends on whether the connect is known to have succeeded before the reset comes.
        let told = ends(&mut client);
        let words = [
            &b""[..],
            b"-ERR connect_failed\r\n",
            // It was connected ahead, and may have read the command.
            b"-ERR upstream_reset\r\n",
        ];
        assert!(words.contains(&&*told), "{}", told.escape_ascii());
    }
    nothing_is_left(&gw);
    let (reset, failed) = (
        ended(&gw, "cache", "upstream_reset"),
        ended(&gw, "cache", "connect_failed"),
    );
    assert_eq!(reset + failed, 50.0, "{reset} resets, {failed} failed");
}

#[test]
fn a_session_of_which_one_half_is_closed_does_not_stay_for_ever() {
    let quiet = Origin::raw(|conn| {
        conn.some_bytes()?;
        // Hears the end and keeps its half open.
        conn.until_closed()?;
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    });
    let url = format!("redis://{}", quiet.addr());
    let keys = "health_check: false\nidle_timeout_secs: 1";
    let gw = Gw::start(with_settings("", &[to("cache", &url, keys)]));
    let mut client = connect(gw.tcp_addr(0));
    client.write_all(b"GET key\r\n").expect("it is connected");
    client.shutdown(Shutdown::Write).expect("it is connected");
    let started = Instant::now();
    let end = client
        .read(&mut [0])
        .expect_err("a reset: it was not answered");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    ends_as(&gw, "cache", "half_open", 1.0);
    nothing_is_left(&gw);
}
