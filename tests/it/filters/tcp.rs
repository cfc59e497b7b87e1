//! Filters of TCP routes, with real servers and the clients that people use.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use async_trait::async_trait;
use harbr_router::filter::{Result, TcpContext, TcpEnd, TcpFilter, TcpVerdict};
use harbr_router::server::Gateway;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Seen;
use crate::support::daemon::output;
use crate::support::drivers::psycopg;
use crate::support::{Gw, Postgres, Redis, eventually, route_entry};

/// What a [`Gate`] does.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// `allow`, `refuse`, `err`, `panic`, `wait`, or the name of a route.
    verdict: String,
    /// Of clients with this user only.
    user: Option<String>,
}

struct Gate {
    settings: Settings,
    seen: Seen,
    /// Of connects, for what is kept over a reload.
    count: std::sync::atomic::AtomicUsize,
}

#[async_trait]
impl TcpFilter for Gate {
    async fn connect(&self, session: &TcpContext<'_>) -> Result<TcpVerdict> {
        let nth = self.count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (sni, database, user) = (session.sni, session.database, session.user);
        let (route, protocol) = (session.route, session.protocol);
        assert!(session.client.ip().is_loopback());
        assert_eq!(session.listener, "127.0.0.1:0");
        assert_eq!(session.upstream, route);
        self.seen.note(format!(
            "{nth} {route} {protocol} {sni:?} {database:?} {user:?}"
        ));
        let settings = &self.settings;
        if settings.user.is_some() && settings.user.as_deref() != session.user {
            return Ok(TcpVerdict::Allow);
        }
        Ok(match settings.verdict.as_str() {
            "allow" => TcpVerdict::Allow,
            "refuse" => TcpVerdict::Refuse,
            "err" => return Err("no idea".into()),
            "panic" => panic!("on purpose"),
            "wait" => std::future::pending().await,
            route => TcpVerdict::Route(route.to_owned()),
        })
    }

    fn close(&self, session: &TcpContext<'_>, end: &TcpEnd) {
        let bytes = (end.bytes_up > 0, end.bytes_down > 0);
        assert!(end.duration < Duration::from_secs(60));
        let (route, reason) = (session.route, end.reason);
        self.seen.note(format!("close {route} {reason} {bytes:?}"));
        if self.settings.verdict == "panic" {
            panic!("on purpose, too");
        }
    }
}

/// With the filter type `gate`.
fn gated(seen: &Seen) -> impl FnOnce(Gateway) -> Gateway {
    let seen = seen.clone();
    move |gateway| {
        gateway.tcp_filter("gate", move |settings: Settings| {
            Ok(Gate {
                settings,
                seen: seen.clone(),
                count: Default::default(),
            })
        })
    }
}

/// The text of a configuration with these TCP routes on one listener.
fn tcp(routes: &[String]) -> String {
    format!(
        "tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\"}}\nroutes:\n{}",
        routes.concat()
    )
}

fn gate(verdict: &str) -> String {
    format!("filters: [{{type: gate, verdict: {verdict}}}]\n")
}

fn psql(addr: SocketAddr, options: &str, text: &str) -> std::result::Result<String, String> {
    let mut psql = Postgres::psql(addr);
    psql.args(["-d", options, "-c", text]);
    output(&mut psql).map(|rows| rows.trim_end().to_owned())
}

fn redis_cli(addr: SocketAddr, words: &[&str]) -> String {
    output(Redis::redis_cli(addr).args(words)).unwrap()
}

#[track_caller]
fn sessions(gw: &Gw, route: &str, reason: &str, count: f64) {
    let labels = [("route", route), ("reason", reason)];
    eventually(Duration::from_secs(10), "the sessions are counted", || {
        gw.metrics().sum("harbr_tcp_sessions_total", &labels) == count
    });
}

#[test]
fn a_filter_is_told_who_comes_to_which_database_and_how_it_ended() {
    let (server, seen) = (Postgres::new(), Seen::default());
    let routes = [route_entry("db", &[server.url()], &gate("allow"))];
    let gw = Gw::embed(tcp(&routes), gated(&seen));
    let clear = psql(gw.tcp_addr(0), "sslmode=disable", "SELECT 1");
    assert_eq!(clear.unwrap(), "1");
    assert_eq!(
        seen.wait_for(2),
        [
            r#"0 db postgres None Some("postgres") Some("postgres")"#,
            "close db ok (true, true)"
        ]
    );
    // What comes after a request for TLS is between the client and its server.
    let asking = psql(gw.tcp_addr(0), "sslmode=prefer", "SELECT 1");
    assert_eq!(asking.unwrap(), "1");
    assert_eq!(seen.wait_for(4)[2], "1 db postgres None None None");
}

#[test]
fn postgres_clients_read_that_they_are_not_allowed_and_no_endpoint_is_picked() {
    let (server, seen) = (Postgres::new(), Seen::default());
    let routes = [route_entry("db", &[server.url()], &gate("refuse"))];
    let gw = Gw::embed(tcp(&routes), gated(&seen));
    let why = "FATAL:  this connection is not allowed (filter_refused)";
    for options in ["sslmode=disable", "sslmode=prefer"] {
        let error = psql(gw.tcp_addr(0), options, "SELECT 1").unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let error = psycopg(gw.tcp_addr(0), "connect()").unwrap_err();
    assert!(error.contains(why), "{error}");
    sessions(&gw, "db", "filter_refused", 3.0);
    let seen = seen.wait_for(6);
    let closes = seen.iter().filter(|line| line.starts_with("close"));
    let closes: Vec<&String> = closes.collect();
    assert_eq!(closes, ["close db filter_refused (false, false)"; 3]);
    for record in gw.access_log(3) {
        assert_eq!(record["reason"], "filter_refused");
        let endpoint = record["endpoint"].as_str().unwrap_or("");
        assert_eq!(endpoint, "", "{record}");
    }
}

#[test]
fn a_filter_chooses_another_route_whose_limits_apply() {
    let (main, reports, cache) = (Postgres::new(), Postgres::new(), Redis::new());
    for server in [&main, &reports] {
        server.sql("CREATE ROLE reader LOGIN SUPERUSER PASSWORD 'sesame'");
    }
    let seen = Seen::default();
    let config = |to: &str| {
        let filters = format!(
            "match: {{database: postgres}}\n\
             filters: [{{type: gate, verdict: {to}, user: reader}}]\n"
        );
        // Past its own filters, which would refuse.
        let limited = format!(
            "match: {{database: reports}}\nmax_connections: 1\nqueue_timeout_ms: 1\n{}",
            gate("refuse")
        );
        tcp(&[
            route_entry("main", &[main.url()], &filters),
            route_entry("reports", &[reports.url()], &limited),
            route_entry("cache", &[cache.url()], ""),
        ])
    };
    let gw = Gw::embed(config("reports"), gated(&seen));
    let who = |options: &str| {
        let text = "SELECT current_setting('port')";
        psql(gw.tcp_addr(0), &format!("dbname=postgres {options}"), text)
    };
    assert_eq!(who("").unwrap(), main.port().to_string());
    assert_eq!(who("user=reader").unwrap(), reports.port().to_string());
    sessions(&gw, "main", "ok", 1.0);
    sessions(&gw, "reports", "ok", 1.0);
    let lines = seen.wait_for(4);
    assert!(
        lines.contains(&"close reports ok (true, true)".to_owned()),
        "{lines:?}"
    );
    // Its one place is taken.
    let mut holder = Postgres::psql(gw.tcp_addr(0));
    holder.args([
        "-d",
        "dbname=postgres user=reader",
        "-c",
        "SELECT pg_sleep(60)",
    ]);
    let mut holder = holder.spawn().unwrap();
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND pid <> pg_backend_pid()";
    eventually(Duration::from_secs(10), "the place is taken", || {
        reports.sql(busy).trim() == "1"
    });
    let error = who("user=reader").unwrap_err();
    assert!(
        error.contains("too many clients already (queue_timeout)"),
        "{error}"
    );
    assert_eq!(who("").unwrap(), main.port().to_string());
    holder.kill().unwrap();
    holder.wait().unwrap();
    // What is not there, or is for others, is the filter's mistake.
    for wrong in ["nowhere", "cache"] {
        assert_eq!(gw.reload(config(wrong)).status, 200);
        let error = who("user=reader").unwrap_err();
        let text = "the database system is not available (filter_error)";
        assert!(error.contains(text), "{error}");
        assert_eq!(who("").unwrap(), main.port().to_string());
    }
    sessions(&gw, "main", "filter_error", 2.0);
}

#[test]
fn a_filter_that_fails_costs_its_session_or_is_passed_over() {
    let (server, seen) = (Redis::new(), Seen::default());
    let url = server.url();
    let config = |verdict: &str, on_error: &str| {
        let filters =
            format!("filters: [{{type: gate, verdict: {verdict}, on_error: {on_error}}}]\n");
        tcp(&[route_entry("cache", std::slice::from_ref(&url), &filters)])
    };
    let gw = Gw::embed(config("allow", "refuse"), gated(&seen));
    let ping = || redis_cli(gw.tcp_addr(0), &["PING"]);
    assert_eq!(ping(), "PONG\n");
    let mut failed = 0.0;
    for verdict in ["err", "panic", "nowhere"] {
        assert_eq!(gw.reload(config(verdict, "refuse")).status, 200);
        assert!(ping().contains("ERR filter_error"), "{verdict}");
        failed += 1.0;
        sessions(&gw, "cache", "filter_error", failed);
        assert_eq!(gw.reload(config(verdict, "continue")).status, 200);
        assert_eq!(ping(), "PONG\n", "{verdict}");
    }
    sessions(&gw, "cache", "ok", 4.0);
    let closes = seen.wait_for(14);
    let closes = closes.iter().filter(|line| line.starts_with("close"));
    assert_eq!(closes.count(), 7, "each session is told its end once");
}

#[test]
fn redis_clients_are_refused_and_let_in_and_a_chain_is_told_in_order() {
    let (server, seen) = (Redis::new(), Seen::default());
    let url = server.url();
    let config = |verdicts: &[&str]| {
        let list: Vec<String> = verdicts
            .iter()
            .map(|verdict| format!("{{type: gate, verdict: {verdict}}}"))
            .collect();
        let filters = format!("filters: [{}]\n", list.join(", "));
        tcp(&[route_entry("cache", std::slice::from_ref(&url), &filters)])
    };
    let gw = Gw::embed(config(&["allow", "refuse", "allow"]), gated(&seen));
    let set = || redis_cli(gw.tcp_addr(0), &["SET", "key", "value"]);
    assert!(set().contains("ERR filter_refused"));
    // The third one was not asked.
    let asked = ["0 cache redis None None None"; 2];
    let told = ["close cache filter_refused (false, false)"; 2];
    assert_eq!(seen.wait_for(4), [asked, told].concat());
    assert_eq!(server.run(&["EXISTS", "key"]).trim(), "0");
    assert_eq!(gw.reload(config(&["allow", "allow"])).status, 200);
    assert_eq!(set(), "OK\n");
    // Of the first one the settings are the same: it counts on.
    let lines = seen.wait_for(8);
    assert_eq!(lines[4], "1 cache redis None None None");
    assert_eq!(lines[6..], ["close cache ok (true, true)"; 2]);
}

#[test]
fn a_filter_that_waits_too_long_ends_its_session_within_timeout_ms() {
    let (server, seen) = (Redis::new(), Seen::default());
    let keys = format!("timeout_ms: 100\n{}", gate("wait"));
    let routes = [route_entry("cache", &[server.url()], &keys)];
    let gw = Gw::embed(tcp(&routes), gated(&seen));
    let said = redis_cli(gw.tcp_addr(0), &["PING"]);
    assert!(said.contains("ERR timeout"), "{said}");
    sessions(&gw, "cache", "timeout", 1.0);
    assert_eq!(seen.wait_for(2)[1], "close cache timeout (false, false)");
}

#[test]
fn a_session_that_is_cut_off_is_told_as_such() {
    let (server, seen) = (Redis::new(), Seen::default());
    let routes = [route_entry("cache", &[server.url()], &gate("allow"))];
    let mut gw = Gw::embed(tcp(&routes), gated(&seen));
    let mut client = TcpStream::connect(gw.tcp_addr(0)).unwrap();
    client.write_all(b"PING\r\n").unwrap();
    let mut pong = [0; 7];
    client.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"+PONG\r\n");
    gw.halt();
    assert_eq!(seen.all()[1..], ["close cache drained (true, true)"]);
}

#[test]
fn a_filter_of_every_session_comes_first() {
    let (server, seen) = (Redis::new(), Seen::default());
    let routes = [route_entry("cache", &[server.url()], &gate("allow"))];
    let everywhere = Gate {
        settings: Settings {
            verdict: "refuse".to_owned(),
            user: None,
        },
        seen: seen.clone(),
        count: 100.into(),
    };
    let gated = gated(&seen);
    let gw = Gw::embed(tcp(&routes), |gateway| {
        gated(gateway).every_session("everywhere", everywhere)
    });
    assert!(redis_cli(gw.tcp_addr(0), &["PING"]).contains("ERR filter_refused"));
    assert_eq!(
        seen.wait_for(2),
        [
            "100 cache redis None None None",
            "close cache filter_refused (false, false)"
        ]
    );
}
