//! A name with an IPv4 and an IPv6 address is one server: whichever serves is used.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use harbr_router::upstream::discovery::Resolver;

use super::elsewhere::{ping, sessions_with};
use crate::support::{Gw, Origin, eventually, route, timed};

const FOUR: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SIX: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// A name with both loopback addresses, in the order in which most systems give them.
struct Both;

#[async_trait]
impl Resolver for Both {
    async fn lookup(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok([SIX, FOUR].map(|ip| SocketAddr::new(ip, port)).into())
    }
}

fn http(port: u16, keys: &str) -> Gw {
    let named = format!("http://dual.test:{port}");
    Gw::embed(route("/", &[named], keys), |gateway| {
        gateway.discovery("dual.test", Both)
    })
}

fn redis(port: u16, keys: &str) -> Gw {
    let named = format!("redis://dual.test:{port}");
    sessions_with(&[named], keys, |gateway| {
        gateway.discovery("dual.test", Both)
    })
}

const QUIET: &str = "ejection: false\nhealth_check: false\n";
const CHECKED: &str = "health_check: {interval_ms: 50, timeout_ms: 1000, unhealthy_after: 1";

/// Whether the one endpoint there is passes its checks.
fn is_healthy(gw: &Gw) -> bool {
    let metrics = gw.metrics();
    let endpoints = metrics.samples().iter();
    let endpoints: Vec<_> = endpoints
        .filter(|sample| sample.name == "harbr_endpoint_healthy")
        .collect();
    assert_eq!(endpoints.len(), 1, "one endpoint, one gauge: {endpoints:?}");
    assert!(endpoints[0].labels["endpoint"].starts_with("dual.test:"));
    endpoints[0].value == 1.0
}

#[test]
fn an_origin_in_one_family_alone_is_served_over_http() {
    for ip in [SIX, FOUR] {
        let origin = Origin::ok_at(at(ip, 0), "here");
        let port = origin.addr().port();
        let gw = http(port, QUIET);
        let mut client = gw.client();
        for _ in 0..5 {
            assert_eq!(client.get("/").text(), "here", "{ip}");
        }
        assert_eq!(origin.requests(), 5);
        for record in gw.access_log(5) {
            assert_eq!(record["tries"], 1, "{record}");
            assert_eq!(record["endpoint"], format!("dual.test:{port}"));
        }
        assert_eq!(gw.metrics().sum("harbr_retries_total", &[]), 0.0);
        // The first of the other family is pooled where that was expected.
        let connections = origin.connections();
        assert!(connections <= 2, "they are used again: {connections}");
    }
}

#[test]
fn localhost_is_this_machine_in_both_families_whatever_the_hosts_file_names() {
    for ip in [SIX, FOUR] {
        for name in ["localhost", "app.localhost", "LOCALHOST"] {
            let origin = Origin::ok_at(at(ip, 0), "here");
            let url = format!("http://{name}:{}", origin.addr().port());
            for keys in [QUIET, "health_check_path: /up\n"] {
                let gw = Gw::route(std::slice::from_ref(&url), keys);
                for _ in 0..3 {
                    assert_eq!(gw.get("/").text(), "here", "{name} {ip} {keys}");
                }
            }
        }
        let server = redis_at(at(ip, 0));
        let url = format!("redis://localhost:{}", server.addr().port());
        let gw = sessions_with(&[url], QUIET, |gateway| gateway);
        assert_eq!(ping(&gw), "+PONG", "{ip}");
    }
}

#[test]
fn an_origin_in_one_family_alone_passes_its_checks() {
    for ip in [SIX, FOUR] {
        let origin = Origin::ok_at(at(ip, 0), "here");
        let gw = http(origin.addr().port(), &format!("{CHECKED}, path: /up}}\n"));
        eventually(Duration::from_secs(10), "it is checked", || {
            origin.requests_with("GET") >= 5
        });
        assert!(is_healthy(&gw), "{ip}");
        assert_eq!(gw.get("/").text(), "here", "{ip}");
    }
}

/// Answers what a session and a check of Redis ask.
fn redis_at(addr: SocketAddr) -> Origin {
    Origin::raw_at(addr, |conn| {
        loop {
            let asked = conn.some_bytes()?;
            match asked
                .windows(4)
                .any(|word| word.eq_ignore_ascii_case(b"PING"))
            {
                true => conn.send("+PONG\r\n")?,
                false => conn.send("-NOAUTH Authentication required.\r\n")?,
            }
        }
    })
}

#[test]
fn a_database_in_one_family_alone_is_served_with_and_without_checks() {
    for ip in [SIX, FOUR] {
        for keys in [QUIET.to_owned(), format!("{CHECKED}}}\n")] {
            let origin = redis_at(at(ip, 0));
            let gw = redis(origin.addr().port(), &keys);
            for _ in 0..5 {
                assert_eq!(ping(&gw), "+PONG", "{ip} {keys}");
            }
            if keys.starts_with(CHECKED) {
                let before = origin.connections();
                eventually(Duration::from_secs(10), "it is checked", || {
                    origin.connections() >= before + 5
                });
                assert!(is_healthy(&gw), "{ip}");
                assert_eq!(ping(&gw), "+PONG", "{ip}");
            }
        }
    }
}

#[test]
fn the_family_that_serves_may_change_while_it_runs() {
    let mut six = Origin::ok_at(at(SIX, 0), "six");
    let port = six.addr().port();
    let mut four = Origin::ok_at(at(FOUR, port), "four");
    let gw = http(port, QUIET);
    assert_eq!(gw.get("/").text(), "six", "the first of the resolver's");
    for _ in 0..2 {
        six.stop();
        assert_eq!(gw.get("/").text(), "four");
        six.start();
        assert_eq!(gw.get("/").text(), "four", "what serves is kept to");
        four.stop();
        assert_eq!(gw.get("/").text(), "six");
        four.start();
    }
    six.stop();
    four.stop();
    assert_eq!(gw.get("/").json()["reason"], "connect_failed");
}

#[test]
fn a_family_that_swallows_everything_costs_the_first_request_a_quarter_of_a_second() {
    let _turn = timed();
    let hole = Origin::unreachable_at(at(SIX, 0));
    let origin = Origin::ok_at(at(FOUR, hole.addr().port()), "here");
    let gw = http(origin.addr().port(), &format!("{QUIET}timeout_ms: 5000\n"));
    let started = Instant::now();
    assert_eq!(gw.get("/").text(), "here");
    let first = started.elapsed();
    assert!(
        (250..900).contains(&first.as_millis()),
        "within one connect: {first:?}"
    );
    let mut others: Vec<Duration> = (0..9)
        .map(|_| {
            let started = Instant::now();
            // On a connection of its own, and a new one to the origin.
            assert_eq!(gw.client().call("POST", "/", &[], b"").status, 200);
            started.elapsed()
        })
        .collect();
    others.sort_unstable();
    assert!(others[4] < Duration::from_millis(200), "{others:?}");
    // Where there is less time than that, the second family gets half of it.
    let gw = http(
        origin.addr().port(),
        &format!("{QUIET}timeout_ms: 5000\nconnect_timeout_ms: 240\n"),
    );
    assert_eq!(gw.get("/").text(), "here");
}

#[test]
fn a_hole_in_one_family_delays_no_session_and_fails_no_check() {
    let _turn = timed();
    let hole = Origin::unreachable_at(at(SIX, 0));
    let origin = redis_at(at(FOUR, hole.addr().port()));
    let gw = redis(
        origin.addr().port(),
        &format!("{CHECKED}}}\ntimeout_ms: 5000\n"),
    );
    let began = origin.connections();
    eventually(Duration::from_secs(10), "it is checked", || {
        origin.connections() >= began + 5
    });
    assert!(is_healthy(&gw));
    let started = Instant::now();
    for _ in 0..10 {
        assert_eq!(ping(&gw), "+PONG");
    }
    let took = started.elapsed();
    assert!(took < Duration::from_millis(250 * 10), "{took:?}");
}
