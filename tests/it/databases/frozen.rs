//! A server that does nothing any more, while the system goes on taking connections in its name. A
//! connect proves nothing here: only a probe that wants an answer finds out.

use std::time::Duration;

use super::gateway;
use crate::support::daemon::output;
use crate::support::server::Server;
use crate::support::{Gw, Mariadb, Postgres, Redis, eventually, route_entry};

fn health(gw: &Gw, nth: usize) -> bool {
    let status = gw.status();
    status["upstreams"][0]["endpoints"][nth]["healthy"] == true
}

/// With both servers in turn: the frozen one is taken out, the other serves everybody, and both do
/// when it goes on. `serve` is one session and returns who served it.
#[track_caller]
fn the_other_serves(servers: [&Server; 2], keys: &str, serve: impl Fn(&Gw) -> String) {
    let keys = format!(
        "health_check: {{interval_ms: 100, timeout_ms: 1000, unhealthy_after: 2{keys}}}\n\
         timeout_ms: 5000"
    );
    let gw = gateway(&[route_entry("db", &servers.map(Server::url), &keys)]);
    let names = servers.map(|server| server.port().to_string());
    let both = |gw: &Gw| {
        let served: Vec<String> = (0..4).map(|_| serve(gw)).collect();
        names.iter().all(|name| served.contains(name))
    };
    eventually(Duration::from_secs(20), "both serve", || both(&gw));
    for (frozen, name) in [(0, &names[1]), (1, &names[0])] {
        servers[frozen].freeze();
        eventually(Duration::from_secs(20), "it is out", || {
            !health(&gw, frozen)
        });
        assert!(health(&gw, 1 - frozen));
        for _ in 0..10 {
            assert_eq!(serve(&gw), *name);
        }
        servers[frozen].thaw();
        eventually(Duration::from_secs(20), "it is in again", || {
            health(&gw, frozen)
        });
        eventually(Duration::from_secs(20), "both serve again", || both(&gw));
    }
}

#[test]
fn a_frozen_redis_is_out_until_it_goes_on() {
    let (a, b) = (Redis::new(), Redis::new());
    the_other_serves([&a, &b], "", |gw| {
        let said = output(Redis::redis_cli(gw.tcp_addr(0)).args(["CONFIG", "GET", "port"]));
        said.unwrap().trim().trim_start_matches("port\n").to_owned()
    });
}

#[test]
fn a_frozen_postgres_is_out_until_it_goes_on() {
    let (a, b) = (Postgres::new(), Postgres::new());
    the_other_serves([&a, &b], "", |gw| {
        let mut psql = Postgres::psql(gw.tcp_addr(0));
        let said = output(psql.args(["-c", "SHOW port"]));
        said.unwrap().trim().to_owned()
    });
}

/// Without an account the probe must not wait for the greeting: it would be held against us.
#[test]
fn a_frozen_mariadb_is_out_where_its_check_logs_in() {
    let (a, b) = (Mariadb::new(), Mariadb::new());
    let account = format!(", user: {}, password: {}", Mariadb::USER, Mariadb::PASSWORD);
    the_other_serves([&a, &b], &account, |gw| {
        let mut mariadb = Mariadb::mariadb(gw.tcp_addr(0));
        let said = output(mariadb.args(["-e", "SELECT @@port"]));
        said.unwrap().trim().to_owned()
    });
}
