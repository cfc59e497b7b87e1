//! One listener, several Postgres routes: by database and user in clear, by server name under TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::raw::startup;
use super::{psql, tcp};
use crate::support::{Gw, Postgres, eventually, route_entry};

/// Three servers with the same databases and users.
fn servers(settings: &[&str]) -> [Postgres; 3] {
    [(); 3].map(|()| {
        let server = Postgres::with(settings);
        server.sql("CREATE DATABASE orders");
        server.sql("CREATE DATABASE reports");
        server.sql("CREATE ROLE reader LOGIN SUPERUSER PASSWORD 'sesame'");
        server
    })
}

/// Which of its servers a client comes to: all have a port of their own.
const WHO: &str = "SELECT current_setting('port')";

fn ports(servers: &[Postgres; 3]) -> [String; 3] {
    [0, 1, 2].map(|n: usize| servers[n].port().to_string())
}

#[test]
fn routes_are_chosen_by_database_and_user() {
    let servers = servers(&[]);
    let [one, two, three] = ports(&servers);
    let [a, b, c] = [0, 1, 2].map(|n: usize| [servers[n].url()]);
    let gw = Gw::start(tcp(&format!(
        "{}{}{}",
        route_entry("orders", &a, "match: {database: orders, user: postgres}"),
        route_entry(
            "orders-reader",
            &b,
            "match: {database: orders, user: reader}"
        ),
        route_entry("rest", &c, "default: true"),
    )));
    let who = |options: &str| psql(gw.tcp_addr(0), options, WHO).unwrap();
    assert_eq!(who("dbname=orders"), one);
    assert_eq!(who("dbname=orders user=reader"), two);
    assert_eq!(who("dbname=reports"), three);
    assert_eq!(who("dbname=reports user=reader"), three);
    // What these routes differ by is not seen under TLS: it is declined, which `prefer` takes.
    assert_eq!(who("dbname=orders sslmode=prefer"), one);
    let error = psql(gw.tcp_addr(0), "dbname=orders sslmode=require", WHO).unwrap_err();
    assert!(error.contains("server does not support SSL"), "{error}");
    let sessions = |route| {
        let labels = [("route", route), ("reason", "ok")];
        gw.metrics().sum("harbr_tcp_sessions_total", &labels)
    };
    eventually(Duration::from_secs(5), "each is counted", || {
        [
            sessions("orders"),
            sessions("orders-reader"),
            sessions("rest"),
        ] == [2.0, 1.0, 2.0]
    });
}

#[test]
fn who_matches_nothing_is_told_so() {
    let server = Postgres::new();
    let gw = Gw::start(tcp(&format!(
        "{}{}",
        route_entry("orders", &[server.url()], "match: {database: orders}"),
        route_entry("reports", &[server.url()], "match: {database: reports}"),
    )));
    for sslmode in ["disable", "prefer"] {
        let options = format!("dbname=other sslmode={sslmode}");
        let error = psql(gw.tcp_addr(0), &options, WHO).unwrap_err();
        assert!(
            error.contains("FATAL:  no route matches this connection (unmatched)"),
            "{error}"
        );
    }
    assert_eq!(gw.reasons(2), ["unmatched", "unmatched"]);
    let record = &gw.access_log(2)[0];
    assert_eq!(record["route"], "-");
    assert!(!record.to_string().contains("other"), "{record}");
    let metrics = gw.metrics();
    let of_orders = [("route", "orders")];
    assert_eq!(metrics.sum("tcp_proxy_connection_new", &of_orders), 0.0);
    let unmatched = [("route", "-"), ("reason", "unmatched")];
    assert_eq!(metrics.sum("harbr_tcp_sessions_total", &unmatched), 2.0);
}

#[test]
fn routes_are_chosen_by_the_name_that_tls_begins_with() {
    let servers = servers(&["ssl=on"]);
    let [one, two, three] = ports(&servers);
    let [a, b, c] = [0, 1, 2].map(|n: usize| [servers[n].url()]);
    let gw = Gw::start(tcp(&format!(
        "{}{}{}",
        route_entry("one", &a, "match: {sni: db1.test}"),
        route_entry("two", &b, "match: {sni: db2.test}"),
        route_entry("rest", &c, "default: true"),
    )));
    let addr = gw.tcp_addr(0);
    let who = |options: &str| {
        let options = format!("hostaddr=127.0.0.1 {options}");
        psql(addr, &options, WHO)
    };
    assert_eq!(who("host=db1.test sslmode=require").unwrap(), one);
    assert_eq!(who("host=db2.test sslmode=require").unwrap(), two);
    assert_eq!(who("host=DB2.test sslmode=prefer").unwrap(), two);
    assert_eq!(who("host=db9.test sslmode=require").unwrap(), three);
    assert_eq!(
        who("host=db1.test sslmode=require sslsni=0").unwrap(),
        three
    );
    // It is the server's own TLS from end to end.
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let options = "hostaddr=127.0.0.1 host=db1.test sslmode=require";
    assert_eq!(psql(addr, options, encrypted).unwrap(), "t");
    // In clear there is no name: the default route.
    assert_eq!(who("host=db1.test sslmode=disable").unwrap(), three);
}

#[test]
fn a_name_that_no_route_has_is_answered_in_tls() {
    let server = Postgres::with(&["ssl=on"]);
    let gw = Gw::start(tcp(&format!(
        "{}{}",
        route_entry("one", &[server.url()], "match: {sni: db1.test}"),
        route_entry("orders", &[server.url()], "match: {database: orders}"),
    )));
    for name in ["db2.test", "127.0.0.1"] {
        let options = format!("hostaddr=127.0.0.1 host={name} sslmode=require dbname=orders");
        let error = psql(gw.tcp_addr(0), &options, WHO).unwrap_err();
        assert!(error.contains("unrecognized name"), "{error}");
    }
    // Bytes in clear behind the request for TLS may be somebody else's.
    let mut client = TcpStream::connect(gw.tcp_addr(0)).unwrap();
    let mut both = b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec();
    both.extend(startup());
    client.write_all(&both).unwrap();
    let mut said = Vec::new();
    let _ = client.read_to_end(&mut said);
    assert_eq!(said, b"");
    assert_eq!(gw.reasons(3), ["unmatched", "unmatched", "bad_request"]);
}

#[test]
fn a_server_without_tls_behind_a_promise_of_it_ends_the_session() {
    let servers = [Postgres::new(), Postgres::new()];
    let gw = Gw::start(tcp(&format!(
        "{}{}",
        route_entry("one", &[servers[0].url()], "match: {sni: db1.test}"),
        route_entry("two", &[servers[1].url()], "match: {sni: db2.test}"),
    )));
    let options = "hostaddr=127.0.0.1 host=db1.test sslmode=require";
    let error = psql(gw.tcp_addr(0), options, WHO).unwrap_err();
    assert!(error.contains("alert internal error"), "{error}");
    // In clear text the routes look the same.
    let options = "hostaddr=127.0.0.1 host=db1.test sslmode=disable";
    let error = psql(gw.tcp_addr(0), options, WHO).unwrap_err();
    assert!(
        error.contains("no route matches this connection"),
        "{error}"
    );
    assert_eq!(gw.reasons(2), ["upstream_error", "unmatched"]);
}

#[test]
fn who_says_too_little_for_too_long_is_closed() {
    let server = Postgres::new();
    let gw = Gw::start(format!(
        "tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\", sniff_timeout_ms: 300}}\nroutes:\n{}",
        route_entry("db", &[server.url()], "")
    ));
    let start = Instant::now();
    let mut client = TcpStream::connect(gw.tcp_addr(0)).unwrap();
    // A StartupMessage that stays incomplete however long one waits.
    client.write_all(b"\0\0\0\x40\0\x03\0\0user\0").unwrap();
    let slow = client.try_clone().unwrap();
    let dripping = std::thread::spawn(move || {
        let mut slow = slow;
        while slow.write_all(b"a").is_ok() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let _ = client.read_to_end(&mut Vec::new());
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(290), "{took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    dripping.join().unwrap();
    assert_eq!(gw.reasons(1), ["sniff_timeout"]);
    eventually(Duration::from_secs(5), "it is a timeout", || {
        let metrics = gw.metrics();
        metrics.sum("tcp_proxy_timeout", &[("route", "db")]) == 1.0
    });
}
