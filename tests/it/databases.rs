//! Databases through the gateway: real MariaDB and Redis with the clients that people use, fakes
//! from recorded bytes for those that cannot be had.
//!
//! Its own folder because what is asked is the same for each: its clients work unchanged, and what
//! goes wrong is reported in its own words.

use std::net::SocketAddr;

use crate::support::daemon::output;
use crate::support::drivers::python;
use crate::support::nginx::free_addr;
use crate::support::{Gw, Redis};

mod blocking;
mod frozen;
mod hostile;
mod idle;
mod kill;
mod last_words;
mod mariadb;
mod others;
mod patience;
mod raw;
mod redis;
mod replay;
mod resets;
mod shared;

/// A gateway with these TCP routes; those without a port share one listener.
#[track_caller]
fn gateway(routes: &[String]) -> Gw {
    Gw::start(with_settings("", routes))
}

/// The configuration of [`gateway`], with further keys of `tcp_proxy`, one a line.
fn with_settings(settings: &str, routes: &[String]) -> String {
    let mut text = "tcp_proxy:\n  enabled: true\n  listen_addr: 127.0.0.1:0\n".to_owned();
    for line in settings.lines() {
        text.push_str(&format!("  {}\n", line.trim()));
    }
    text.push_str("routes:\n");
    text.push_str(&routes.concat());
    text
}

/// A TCP route to one endpoint, with further keys, one a line.
fn to(name: &str, upstream: &str, keys: &str) -> String {
    let mut text = format!("  {name}:\n    upstream: \"{upstream}\"\n");
    for line in keys.lines() {
        text.push_str(&format!("    {}\n", line.trim()));
    }
    text
}

/// What a Python program prints that finds host and port of `addr` in `sys.argv`; it can have a
/// database driver.
#[track_caller]
fn script(addr: SocketAddr, text: &str) -> String {
    let mut command = python();
    // No wait without an end.
    let text = format!("import socket, sys\nsocket.setdefaulttimeout(30)\n{text}");
    command.args([
        "-c",
        &text,
        &addr.ip().to_string(),
        &addr.port().to_string(),
    ]);
    output(&mut command).unwrap_or_else(|error| panic!("{error}"))
}

/// One listener for all protocols that can share one, in front of `redis` and of nothing.
fn all_protocols(redis: &Redis, sniff_timeout_ms: u32) -> Gw {
    let nobody = free_addr();
    let mut routes = vec![to("cache", &redis.url(), "")];
    for (scheme, keys) in [
        ("postgres", ""),
        ("mongodb", ""),
        ("cassandra", ""),
        ("sqlserver", ""),
        ("oracle", ""),
        ("http", "db_type: couchdb"),
    ] {
        let keys = format!("{keys}\nhealth_check: false\nejection: false");
        routes.push(to(scheme, &format!("{scheme}://{nobody}"), &keys));
    }
    let settings = format!("sniff_timeout_ms: {sniff_timeout_ms}");
    Gw::start(with_settings(&settings, &routes))
}
