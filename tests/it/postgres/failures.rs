//! Servers that fail, and what the gateway reports of sessions: metrics and the access log.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use super::raw::{Raw, startup};
use super::{gateway, psql, tcp};
use crate::support::drivers::{psycopg, psycopg_running};
use crate::support::{Gw, Postgres, eventually, route_entry, timed};

#[test]
fn a_server_killed_mid_query_is_an_error_at_once_and_the_next_session_goes_elsewhere() {
    let _turn = timed();
    let mut servers = [Postgres::new(), Postgres::new()];
    let [a, b] = &servers;
    let gw = gateway(&[a, b], "retry_count: 1");
    let addr = gw.tcp_addr(0);
    let mut client = psycopg_running(
        addr,
        r#"
db = connect()
print(db.execute("SHOW port").fetchone()[0], flush=True)
try:
    db.execute("SELECT pg_sleep(60)")
except psycopg.OperationalError as error:
    print("lost", flush=True)
"#,
    );
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    let port = line();
    let nth = usize::from(servers[1].port().to_string() == port);
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
    eventually(Duration::from_secs(5), "it runs", || {
        servers[nth].sql(running) == "1"
    });
    let start = Instant::now();
    servers[nth].kill();
    assert_eq!(line(), "lost");
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert!(client.wait().unwrap().success());
    // Now that it is gone: while it goes, it says itself that it is shutting down.
    let other = servers[1 - nth].port();
    let next = r#"
for n in range(4):
    with connect() as db:
        print(db.execute("SHOW port").fetchone()[0])
"#;
    let said = psycopg(addr, next).unwrap();
    assert_eq!(said, vec![other.to_string(); 4].join("\n"));
}

#[test]
fn a_session_is_one_line_of_the_access_log_and_in_every_metric() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "");
    let addr = gw.tcp_addr(0);
    let before = gw.metrics();
    let of_route = [("route", "db")];
    for name in [
        "tcp_proxy_connection_new",
        "tcp_proxy_connection_completed",
        "tcp_proxy_timeout",
    ] {
        assert!(
            before.has(name, &of_route),
            "{name} is there from the start"
        );
        assert_eq!(before.sum(name, &of_route), 0.0);
    }
    let secret = "SELECT repeat('private', 1000)";
    psql(addr, "", secret).unwrap();
    let record = gw.access_log(1).remove(0);
    assert_eq!(record["listener"], "127.0.0.1:0");
    assert_eq!(record["route"], "db");
    assert_eq!(record["upstream"], "db");
    assert_eq!(record["endpoint"], server.addr().to_string());
    assert_eq!(record["protocol"], "postgres");
    assert_eq!(record["reason"], "ok");
    assert_eq!(record["tries"], 1);
    assert!(
        record["client"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{record}"
    );
    assert!(record["bytes_in"].as_u64().unwrap() > 100, "{record}");
    assert!(record["bytes_out"].as_u64().unwrap() > 7000, "{record}");
    assert!(
        record["connect_ms"].is_number() && record["total_ms"].is_number(),
        "{record}"
    );
    assert!(!record.to_string().contains("private"), "{record}");
    let in_progress = Raw::login(addr);
    eventually(Duration::from_secs(5), "a second one is counted", || {
        gw.metrics().sum("tcp_proxy_connection_new", &of_route) == 2.0
    });
    let metrics = gw.metrics();
    let sum = |name, labels: &[(&str, &str)]| metrics.sum(name, labels);
    assert_eq!(sum("tcp_proxy_connection_completed", &of_route), 1.0);
    assert_eq!(
        sum("tcp_proxy_connection_duration_seconds_count", &of_route),
        1.0
    );
    let ok = [("route", "db"), ("reason", "ok")];
    assert_eq!(sum("harbr_tcp_sessions_total", &ok), 1.0);
    let bytes = |direction| {
        sum(
            "harbr_tcp_bytes_total",
            &[("route", "db"), ("direction", direction)],
        )
    };
    assert!(bytes("upstream") > 100.0 && bytes("downstream") > 7000.0);
    assert_eq!(
        sum("harbr_connections_active", &[("listener", "127.0.0.1:0")]),
        1.0
    );
    assert_eq!(
        sum("harbr_warm_hits_total", &of_route) + sum("harbr_warm_misses_total", &of_route),
        2.0
    );
    assert_eq!(gw.status()["upstreams"][0]["in_flight"], 1);
    drop(in_progress);
    eventually(Duration::from_secs(5), "all are over", || {
        let metrics = gw.metrics();
        metrics.sum("tcp_proxy_connection_completed", &of_route) == 2.0
            && gw.status()["upstreams"][0]["in_flight"] == 0
    });
}

#[test]
fn a_session_that_says_nothing_for_too_long_is_told_and_closed() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "idle_timeout_secs: 1");
    let mut client = psycopg_running(
        gw.tcp_addr(0),
        r#"
db = connect()
print(db.execute("SELECT 1").fetchone()[0], flush=True)
sys.stdin.readline()
try:
    db.execute("SELECT 1")
except psycopg.Error as error:
    print(error.sqlstate)
"#,
    );
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "1");
    assert_eq!(gw.reasons(1), ["idle_timeout"]);
    drop(client.stdin.take());
    assert_eq!(lines.next().unwrap().unwrap(), "57P01");
    client.wait().unwrap();
    assert_eq!(
        gw.metrics().sum("tcp_proxy_timeout", &[("route", "db")]),
        1.0
    );
}

const V1: &[u8] = b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 5432\r\n";

fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([203, 0, 113, 9, 198, 51, 100, 1, 0x12, 0x67, 0x15, 0x38]);
    header
}

#[test]
fn who_a_client_is_is_believed_of_trusted_proxies_only() {
    let server = Postgres::new();
    let route = tcp(&route_entry("db", &[server.url()], ""));
    let trusting = Gw::start(format!("trusted_proxies: [127.0.0.0/8]\n{route}"));
    for (nth, header) in [V1.to_vec(), v2(), Vec::new()].iter().enumerate() {
        let mut client = Raw::connect(trusting.tcp_addr(0));
        // In pieces that end anywhere.
        let (start, end) = header.split_at(header.len() / 2);
        client.send(start);
        client.send(&[end, &startup()].concat());
        client.expect(b'R');
        drop(client);
        let named = &trusting.access_log(nth + 1)[nth]["client"];
        match header.is_empty() {
            false => assert_eq!(*named, "203.0.113.9:4711"),
            true => assert!(named.as_str().unwrap().starts_with("127.0.0.1:")),
        }
    }
    let wary = Gw::start(format!("trusted_proxies: [192.0.2.0/24]\n{route}"));
    for (nth, header) in [V1.to_vec(), v2()].iter().enumerate() {
        let mut client = Raw::connect(wary.tcp_addr(0));
        client.send(&[header, &startup()[..]].concat());
        let said = client.rest();
        drop(client);
        assert!(!said.contains(&b'R'), "{said:?}");
        let record = &wary.access_log(nth + 1)[nth];
        assert!(
            record["client"].as_str().unwrap().starts_with("127.0.0.1:"),
            "{record}"
        );
        assert_ne!(record["reason"], "ok");
    }
    assert_eq!(psql(wary.tcp_addr(0), "", "SELECT 1").unwrap(), "1");
}
