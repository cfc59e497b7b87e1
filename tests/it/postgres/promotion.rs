//! Two primaries: a standby was promoted while the old primary lives.

use std::time::Duration;

use serde_json::Value;

use super::{gateway, psql, tcp};
use crate::support::{Binary, Gw, Postgres, eventually, route_entry};

const CHECK: &str = "health_check: {user: postgres, password: sesame, interval_ms: 50}";

fn endpoint(gw: &Gw, server: &Postgres) -> Value {
    let status = gw.status();
    let endpoints = status["upstreams"][0]["endpoints"]
        .as_array()
        .expect("a list");
    let addr = server.addr().to_string();
    let found = endpoints.iter().find(|e| e["address"] == addr.as_str());
    found.expect("it is listed").clone()
}

fn await_role(gw: &Gw, server: &Postgres, role: &str, healthy: bool) {
    eventually(
        Duration::from_secs(30),
        &format!("{role}, {healthy}"),
        || {
            let endpoint = endpoint(gw, server);
            endpoint["role"] == role && endpoint["healthy"] == healthy
        },
    );
}

/// The ports of the servers that ten sessions reach.
fn reached(gw: &Gw) -> Vec<String> {
    let mut ports: Vec<String> = (0..10)
        .map(|_| psql(gw.tcp_addr(0), "", "SHOW port").expect("it is served"))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn port(server: &Postgres) -> String {
    server.port().to_string()
}

#[test]
fn after_a_promotion_all_sessions_go_to_the_new_primary_though_the_old_one_lives() {
    for target in ["primary", "any"] {
        let mut old = Postgres::new();
        let new = old.standby();
        let gw = gateway(&[&old, &new], &format!("target: {target}\n{CHECK}"));
        await_role(&gw, &old, "primary", true);
        await_role(&gw, &new, "replica", true);
        assert!(reached(&gw).contains(&port(&old)));
        new.promote();
        await_role(&gw, &old, "primary", false);
        await_role(&gw, &new, "primary", true);
        assert_eq!(old.sql("SELECT pg_is_in_recovery()"), "f", "it lives");
        assert_eq!(reached(&gw), [port(&new)], "{target}");
        let why = endpoint(&gw, &old)["last_error"]["text"].clone();
        let why = why.as_str().expect("it has one");
        let promoted = format!("has timeline or term 1, {} has 2", new.addr());
        assert!(why.contains(&promoted), "{why}");
        assert_eq!(endpoint(&gw, &new)["last_error"], Value::Null);

        // It is made a standby: no rival any more.
        old.stop();
        let signal = old.folder().join("data/standby.signal");
        std::fs::write(signal, "").expect("a file in its folder");
        old.start();
        await_role(&gw, &old, "replica", true);
        if target == "primary" {
            assert_eq!(reached(&gw), [port(&new)]);
        }
    }
}

#[test]
fn two_primaries_are_one_error_in_the_log_and_its_end_one_line() {
    let mut old = Postgres::new();
    let new = old.standby();
    let keys = tcp(&route_entry("db", &[old.url(), new.url()], CHECK));
    let gateway = Binary::start(&keys);
    gateway.says("another role");
    new.promote();
    gateway.says("two primaries: ");
    old.stop();
    std::fs::write(old.folder().join("data/standby.signal"), "").expect("a file in its folder");
    old.start();
    gateway.says("no rival of another primary any more");
    let said = gateway.said();
    let errors: Vec<&str> = said.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{said}");
    assert!(
        errors[0].contains(&format!("addr={}", old.addr())),
        "{said}"
    );
}

#[test]
fn primaries_of_different_clusters_both_serve() {
    let other = Postgres::new();
    // A promotion in the history of one of them only.
    let promoted = other.standby();
    promoted.promote();
    let stranger = Postgres::unrelated();
    let gw = gateway(
        &[&promoted, &stranger],
        &format!("target: primary\n{CHECK}"),
    );
    await_role(&gw, &promoted, "primary", true);
    await_role(&gw, &stranger, "primary", true);
    let mut both = [port(&promoted), port(&stranger)];
    both.sort_unstable();
    assert_eq!(reached(&gw), both);
}
