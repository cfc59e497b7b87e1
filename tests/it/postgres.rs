//! PostgreSQL through the gateway: real servers, and psql, pgbench and psycopg as clients.

mod cancel;
mod drain;
mod failures;
mod idle;
mod limits;
mod pool;
mod promotion;
mod raw;
mod selection;
mod sessions;
mod tls;

use std::net::SocketAddr;

use crate::support::daemon::output;
use crate::support::{Gw, Postgres, route_entry};

/// A gateway with one TCP route `db` to these endpoints; `keys` are further keys of the route.
#[track_caller]
fn gateway(servers: &[&Postgres], keys: &str) -> Gw {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    Gw::start(tcp(&route_entry("db", &urls, keys)))
}

/// The text of a configuration with these TCP routes on the shared listener.
fn tcp(routes: &str) -> String {
    format!("{TCP_PROXY}routes:\n{routes}")
}

const TCP_PROXY: &str = "tcp_proxy: {enabled: true, listen_addr: \"127.0.0.1:0\"}\n";

/// What psql prints for `text`, or how it complains. `options` are further words of the connection
/// string.
fn psql(addr: SocketAddr, options: &str, text: &str) -> Result<String, String> {
    let mut psql = Postgres::psql(addr);
    psql.args(["-d", options, "-c", text]);
    output(&mut psql).map(|rows| rows.trim_end().to_owned())
}
