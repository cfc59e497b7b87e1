//! The end of the gateway and changes of its configuration, with sessions in progress.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::time::{Duration, Instant};

use super::raw::Raw;
use super::{TCP_PROXY, gateway, psql, tcp};
use crate::support::drivers::psycopg_running;
use crate::support::nginx::free_addr;
use crate::support::{Gw, Postgres, eventually, route_entry};

/// A psycopg program that has said `ready` and waits for a line before it goes on.
struct Program(Child);

impl Program {
    fn start(gw: &Gw, before: &str, after: &str) -> Program {
        let text = format!(
            "db = connect()\n{before}\nprint('ready', flush=True)\nsys.stdin.readline()\n\
             try:\n{}\nexcept psycopg.Error as error:\n    \
             print(type(error).__name__, error.sqlstate, str(error).splitlines()[0])\n",
            after
                .lines()
                .map(|l| format!("    {l}\n"))
                .collect::<String>()
        );
        let mut program = Program(psycopg_running(gw.tcp_addr(0), &text));
        let out = program.0.stdout.as_mut().unwrap();
        let mut line = [0; 6];
        out.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ready\n");
        program
    }

    fn go_on(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// What it prints until its end.
    fn says(mut self) -> String {
        let mut said = String::new();
        let out = self.0.stdout.take().unwrap();
        BufReader::new(out).read_to_string(&mut said).unwrap();
        self.0.wait().unwrap();
        said.trim_end().to_owned()
    }
}

/// How many sessions run `pg_sleep` now.
fn sleeping(server: &Postgres) -> String {
    server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'")
}

#[test]
fn at_the_deadline_of_a_drain_sessions_read_57p01_and_queries_are_cancelled() {
    let server = Postgres::new();
    let gw = gateway(&[&server], "");
    let mut idle = Program::start(&gw, "db.execute('SELECT 1')", "db.execute('SELECT 2')");
    let mut fresh = Program::start(&gw, "", "db.execute('SELECT 2')");
    let mut open = Program::start(&gw, "db.execute('BEGIN')", "db.execute('SELECT 2')");
    let mut busy = Program::start(&gw, "", "db.execute('SELECT pg_sleep(60)')");
    busy.go_on();
    eventually(Duration::from_secs(10), "it runs", || {
        sleeping(&server) == "1"
    });
    let addr = gw.tcp_addr(0);
    let start = Instant::now();
    gw.stop();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(990), "{took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(TcpStream::connect(addr).is_err());
    for program in [&mut idle, &mut fresh, &mut open] {
        program.go_on();
    }
    let shutdown =
        "AdminShutdown 57P01 terminating connection due to administrator command (drained)";
    assert_eq!(idle.says(), shutdown);
    assert_eq!(fresh.says(), shutdown);
    assert_eq!(open.says(), shutdown);
    let cancelled = "QueryCanceled 57014 canceling statement due to user request";
    assert_eq!(busy.says(), cancelled);
    eventually(Duration::from_secs(5), "the server is rid of them", || {
        server.sql("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle%'") == "0"
    });
}

#[test]
fn who_waits_for_a_place_when_a_drain_is_over_reads_57p01() {
    let server = Postgres::new();
    let gw = gateway(
        &[&server],
        "max_connections: 1\nqueue_timeout_ms: 60000\ntimeout_ms: 60000",
    );
    let mut held = Raw::login(gw.tcp_addr(0));
    held.expect(b'R');
    let mut waiting = Raw::login(gw.tcp_addr(0));
    eventually(Duration::from_secs(5), "it waits", || {
        gw.status()["upstreams"][0]["queued"] == 1
    });
    gw.stop();
    let text = "terminating connection due to administrator command (drained)";
    assert_eq!(waiting.refusal(), ("57P01".into(), text.into()));
}

#[test]
fn a_drain_waits_for_sessions_and_ends_with_the_last() {
    let server = Postgres::new();
    let gw = Gw::start(format!(
        "server:\n  drain_timeout_secs: 30\n{}",
        tcp(&route_entry("db", &[server.url()], ""))
    ));
    let query = "print(db.execute(\"SELECT pg_sleep(1.5), 'whole'\").fetchone()[1])";
    let mut busy = Program::start(&gw, "", query);
    busy.go_on();
    eventually(Duration::from_secs(10), "it runs", || {
        sleeping(&server) == "1"
    });
    let start = Instant::now();
    gw.stop();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(busy.says(), "whole");
}

#[test]
fn sessions_outlive_reloads_and_listeners_come_and_go() {
    let servers = [Postgres::new(), Postgres::new()];
    let urls = [0, 1].map(|n: usize| [servers[n].url()]);
    let [old, new] = [free_addr(), free_addr()];
    let on = |listen: std::net::SocketAddr, url: &[String]| {
        let keys = format!("tcp_listen_port: {}", listen.port());
        format!("{TCP_PROXY}routes:\n{}", route_entry("db", url, &keys))
    };
    let gw = Gw::start(on(old, &urls[0]));
    let port = |options: &str, addr| psql(addr, options, "SELECT current_setting('port')");
    let mine = [0, 1].map(|n: usize| servers[n].port().to_string());
    assert_eq!(port("", old).unwrap(), mine[0]);
    let mut before = Program::start(&gw, "", "print(db.execute('SHOW port').fetchone()[0])");
    let response = gw.reload(on(new, &urls[1]));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(port("", new).unwrap(), mine[1]);
    eventually(Duration::from_secs(5), "the old listener is gone", || {
        TcpStream::connect(old).is_err()
    });
    // What began before goes on where it was.
    before.go_on();
    assert_eq!(before.says(), mine[0]);
    // A configuration that is refused changes nothing.
    assert_eq!(
        gw.reload("routes: {db: {upstream: \"postgres://\"}}")
            .status,
        422
    );
    assert_eq!(port("", new).unwrap(), mine[1]);
    // Both at once, on the same upstream.
    let both = format!("{}{}", on(new, &urls[1]), {
        let keys = format!("tcp_listen_port: {}", old.port());
        route_entry("again", &urls[0], &keys)
    });
    assert_eq!(gw.reload(both).status, 200);
    assert_eq!(port("", old).unwrap(), mine[0]);
    assert_eq!(port("", new).unwrap(), mine[1]);
}

#[test]
fn limits_and_places_in_the_queue_outlive_a_reload() {
    let server = Postgres::new();
    let text = |max: usize| {
        let keys = format!("max_connections: {max}\nqueue_timeout_ms: 20000\ntimeout_ms: 20000");
        tcp(&route_entry("db", &[server.url()], &keys))
    };
    let gw = Gw::start(text(1));
    let mut held = Raw::login(gw.tcp_addr(0));
    held.expect(b'R');
    assert_eq!(gw.reload(text(2)).status, 200);
    // The one from before counts.
    let mut second = Raw::login(gw.tcp_addr(0));
    second.expect(b'R');
    let mut third = Raw::login(gw.tcp_addr(0));
    eventually(Duration::from_secs(5), "it waits", || {
        gw.status()["upstreams"][0]["queued"] == 1
    });
    assert!(third.is_silent());
    drop(held);
    third.expect(b'R');
}
