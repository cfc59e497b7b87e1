//! Limits and what becomes of those above them: a place in the queue, or a refusal in the client's
//! own protocol.

use std::time::{Duration, Instant};

use super::raw::Raw;
use super::{gateway, psql, tcp};
use crate::support::daemon::output;
use crate::support::drivers::psycopg;
use crate::support::{Gw, Origin, Postgres, eventually, loaded, route_entry};

fn queued(gw: &Gw) -> u64 {
    let status = gw.status();
    let upstream = &status["upstreams"][0];
    upstream["queued"]
        .as_u64()
        .unwrap_or_else(|| panic!("no count in {status}"))
}

#[test]
fn twelve_benchmarks_share_four_connections_and_all_finish() {
    let _turn = loaded();
    let server = Postgres::new();
    // The server itself refuses a fifth.
    server.sql("CREATE ROLE bench LOGIN PASSWORD 'sesame' CONNECTION LIMIT 4");
    output(Postgres::pgbench(server.addr()).args(["-i", "-q"])).unwrap();
    server.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO bench");
    let gw = gateway(
        &[&server],
        "max_connections: 4\nqueue_timeout_ms: 60000\ntimeout_ms: 60000",
    );
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let mut pgbench = Postgres::pgbench(gw.tcp_addr(0));
            pgbench
                .env("PGUSER", "bench")
                .env("PGCONNECT_TIMEOUT", "60");
            pgbench.args(["-S", "-n", "-c", "1", "-t", "500"]);
            std::thread::spawn(move || output(&mut pgbench))
        })
        .collect();
    let mut most = 0;
    while !clients.iter().all(std::thread::JoinHandle::is_finished) {
        let status = gw.status();
        most = most.max(status["upstreams"][0]["in_flight"].as_u64().unwrap());
        std::thread::sleep(Duration::from_millis(10));
    }
    for client in clients {
        let said = client.join().unwrap().unwrap();
        assert!(said.contains("actually processed: 500/500"), "{said}");
    }
    assert_eq!(most, 4);
    let log = server.log();
    assert!(!log.contains("too many connections"), "{log}");
    let metrics = gw.metrics();
    assert!(metrics.sum("harbr_queue_wait_seconds_count", &[("route", "db")]) >= 8.0);
    assert_eq!(metrics.sum("tcp_proxy_timeout", &[("route", "db")]), 0.0);
}

#[test]
fn who_waits_is_served_in_the_order_of_arrival_and_who_leaves_frees_the_place() {
    let server = Postgres::new();
    let gw = gateway(
        &[&server],
        "max_connections: 1\nqueue_timeout_ms: 60000\ntimeout_ms: 60000",
    );
    let addr = gw.tcp_addr(0);
    let mut holder = Raw::login(addr);
    holder.expect(b'R');
    let mut waiting = Vec::new();
    for n in 1..=6 {
        waiting.push(Raw::login(addr));
        eventually(Duration::from_secs(5), "it waits", || queued(&gw) == n);
    }
    // The third has had enough.
    drop(waiting.remove(2));
    eventually(Duration::from_secs(5), "its place is free", || {
        queued(&gw) == 5
    });
    drop(holder);
    while !waiting.is_empty() {
        let mut first = waiting.remove(0);
        first.expect(b'R');
        let left = waiting.len() as u64;
        eventually(Duration::from_secs(5), "the others wait", || {
            queued(&gw) == left
        });
        for other in &mut waiting {
            assert!(other.is_silent(), "nobody overtakes");
        }
    }
    eventually(Duration::from_secs(5), "no place is lost", || {
        gw.status()["upstreams"][0]["in_flight"] == 0
    });
    assert_eq!(psql(addr, "", "SELECT 1").unwrap(), "1");
    let log = gw.access_log(8);
    let left: Vec<_> = log.iter().filter(|r| r["endpoint"].is_null()).collect();
    assert_eq!(left.len(), 1, "{log:?}");
    assert_eq!(left[0]["reason"], "client_closed");
}

#[test]
fn who_waits_too_long_reads_53300() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "max_connections: 1\nqueue_timeout_ms: 200");
    let addr = gw.tcp_addr(0);
    let said = psycopg(
        addr,
        r#"
held = connect()
start = time.monotonic()
try:
    connect()
except psycopg.OperationalError as error:
    print(str(error).strip())
    print(0.19 < time.monotonic() - start < 3)
held.close()
# As soon as there is room again, all is well.
print(connect().execute("SELECT 1").fetchone()[0])
"#,
    )
    .unwrap();
    let lines: Vec<&str> = said.lines().collect();
    let text = "FATAL:  sorry, too many clients already (queue_timeout)";
    assert!(lines[0].ends_with(text), "{said}");
    assert_eq!(lines[1..], ["True", "1"]);
    // The SQLSTATE, read off the wire; and after SSLRequest was declined, or libpq would hide it.
    eventually(Duration::from_secs(5), "the place is free", || {
        gw.status()["upstreams"][0]["in_flight"] == 0
    });
    let mut held = Raw::login(addr);
    held.expect(b'R');
    for ask in [false, true] {
        let mut client = Raw::connect(addr);
        if ask {
            client.send(b"\0\0\0\x08\x04\xd2\x16\x2f");
            assert_eq!(client.byte(), b'N');
        }
        client.startup();
        let error = client.refusal();
        assert_eq!(error, ("53300".into(), text["FATAL:  ".len()..].into()));
    }
    let queue_timeouts = [("route", "db"), ("reason", "queue_timeout")];
    eventually(Duration::from_secs(5), "it is counted", || {
        let metrics = gw.metrics();
        metrics.sum("harbr_tcp_sessions_total", &queue_timeouts) == 3.0
            && metrics.sum("tcp_proxy_timeout", &[("route", "db")]) == 3.0
            && metrics.sum("harbr_queue_wait_seconds_count", &[("route", "db")]) >= 3.0
    });
}

#[test]
fn who_comes_above_the_limit_of_the_gateway_reads_53300() {
    let server = Postgres::new();
    let gw = Gw::start(format!(
        "max_connections: 2\n{}",
        tcp(&route_entry("db", &[server.url()], ""))
    ));
    let addr = gw.tcp_addr(0);
    let mut held = [Raw::login(addr), Raw::login(addr)];
    for held in &mut held {
        held.expect(b'R');
    }
    for options in ["sslmode=disable", "sslmode=prefer"] {
        let error = psql(addr, options, "SELECT 1").unwrap_err();
        let text = "FATAL:  sorry, too many clients already (too_many_connections)";
        assert!(error.contains(text), "{error}");
    }
    let mut client = Raw::connect(addr);
    client.startup();
    assert_eq!(client.refusal().0, "53300");
    let rejected = [("reason", "too_many_connections")];
    assert_eq!(
        gw.metrics()
            .sum("harbr_connections_rejected_total", &rejected),
        3.0
    );
    drop(held);
    eventually(Duration::from_secs(5), "there is room again", || {
        psql(addr, "", "SELECT 1").is_ok()
    });
}

/// How a driver shows a refusal does not tell whether a server or the gateway said it. (libpq keeps
/// the SQLSTATE of a failed login to itself, so psycopg has none; it is read off the wire above.)
#[test]
fn to_psycopg_a_refusal_of_ours_is_one_of_the_servers() {
    let server = Postgres::with(&["max_connections=3", "superuser_reserved_connections=0"]);
    let gw = gateway(&[&server], "max_connections: 1\nqueue_timeout_ms: 200");
    let program = r#"
held = []
try:
    while True:
        held.append(connect(sslmode=MODE))
except psycopg.Error as error:
    text = str(error).strip().split("FATAL:  ")[1]
    print(type(error).__name__, error.sqlstate, text[:len("sorry, too many clients already")])
"#;
    for mode in ["'disable'", "'prefer'"] {
        let program = program.replace("MODE", mode);
        let direct = psycopg(server.addr(), &program).unwrap();
        let through = psycopg(gw.tcp_addr(0), &program).unwrap();
        assert_eq!(
            through,
            "OperationalError None sorry, too many clients already"
        );
        assert_eq!(through, direct);
    }
}

#[test]
fn without_an_endpoint_a_client_reads_57p03() {
    let dead = Origin::refusing();
    let gw = Gw::start(tcp(&route_entry(
        "db",
        &[dead.url().replace("http:", "postgres:")],
        "health_check: false\nejection: false",
    )));
    let addr = gw.tcp_addr(0);
    for options in ["sslmode=disable", "sslmode=prefer"] {
        let error = psql(addr, options, "SELECT 1").unwrap_err();
        let text = "FATAL:  the database system is not available (connect_failed)";
        assert!(error.contains(text), "{error}");
    }
    let mut client = Raw::connect(addr);
    client.startup();
    assert_eq!(client.refusal().0, "57P03");
    assert_eq!(gw.reasons(3), ["connect_failed"; 3]);
}

#[test]
fn an_endpoint_that_its_check_finds_down_is_not_tried_and_comes_back() {
    let mut server = Postgres::new();
    let gw = gateway(
        &[&server],
        "health_check: {interval_ms: 50, timeout_ms: 500, unhealthy_after: 1}",
    );
    let addr = gw.tcp_addr(0);
    assert_eq!(psql(addr, "", "SELECT 1").unwrap(), "1");
    server.stop();
    eventually(Duration::from_secs(10), "its check fails", || {
        gw.metrics().sum("harbr_endpoint_healthy", &[]) == 0.0
    });
    let error = psql(addr, "", "SELECT 1").unwrap_err();
    let text = "FATAL:  the database system is not available (no_healthy_endpoint)";
    assert!(error.contains(text), "{error}");
    server.start();
    eventually(Duration::from_secs(10), "its check passes", || {
        gw.metrics().sum("harbr_endpoint_healthy", &[]) == 1.0
    });
    assert_eq!(psql(addr, "", "SELECT 1").unwrap(), "1");
    let log = server.log();
    assert!(
        !log.contains("invalid length of startup packet"),
        "checks are silent: {log}"
    );
}

#[test]
fn a_connect_that_fails_or_hangs_is_tried_elsewhere_and_only_so_often() {
    let (server, dead, hanging) = (Postgres::new(), Origin::refusing(), Origin::unreachable());
    let urls = [
        hanging.url().replace("http:", "postgres:"),
        dead.url().replace("http:", "postgres:"),
        server.url(),
    ];
    let quiet = "health_check: false\nejection: false\nconnect_timeout_ms: 150\n";
    let gw = Gw::start(tcp(&route_entry(
        "db",
        &urls,
        &format!("{quiet}retry_count: 2"),
    )));
    for _ in 0..6 {
        assert_eq!(psql(gw.tcp_addr(0), "", "SELECT 1").unwrap(), "1");
    }
    let metrics = gw.metrics();
    let retries = |reason| {
        metrics.sum(
            "harbr_retries_total",
            &[("route", "db"), ("reason", reason)],
        )
    };
    assert!(retries("connect_failed") >= 2.0);
    assert!(retries("connect_timeout") >= 2.0);
    for record in gw.access_log(6) {
        assert!(record["tries"].as_u64().unwrap() <= 3, "{record}");
        assert_eq!(record["endpoint"], server.addr().to_string());
    }
    // Without retries it is tried on one endpoint more.
    let gw = Gw::start(tcp(&route_entry("db", &urls, quiet)));
    let served = (0..3).filter(|_| psql(gw.tcp_addr(0), "", "SELECT 1").is_ok());
    assert_eq!(served.count(), 1);
    let mut reasons = gw.reasons(3);
    reasons.sort();
    assert_eq!(reasons, ["connect_failed", "connect_failed", "ok"]);
}

#[test]
fn timeout_ms_bounds_connecting_with_all_its_tries() {
    let hanging = Origin::unreachable();
    let gw = Gw::start(tcp(&route_entry(
        "db",
        &[hanging.url().replace("http:", "postgres:")],
        "timeout_ms: 400\nconnect_timeout_ms: 150\nretry_count: 20\nhealth_check: false",
    )));
    let start = Instant::now();
    let error = psql(gw.tcp_addr(0), "", "SELECT 1").unwrap_err();
    let took = start.elapsed();
    let text = "FATAL:  the database system is not available (timeout)";
    assert!(error.contains(text), "{error}");
    assert!(took >= Duration::from_millis(390), "{took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(gw.reasons(1), ["timeout"]);
    assert_eq!(
        gw.metrics().sum("tcp_proxy_timeout", &[("route", "db")]),
        1.0
    );
}

#[test]
fn an_established_session_outlives_timeout_ms() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "timeout_ms: 300");
    let said = psql(gw.tcp_addr(0), "", "SELECT 'slow' FROM pg_sleep(1)");
    assert_eq!(said.unwrap(), "slow");
}
