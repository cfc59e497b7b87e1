//! One listener for several databases: each client is known by what it says first, or by its
//! silence.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::{gateway, script, to};
use crate::support::daemon::{lasting_port, output};
use crate::support::{Mariadb, Origin, Postgres, Redis, eventually};

fn curl(addr: SocketAddr, path: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20"]);
    curl.arg(format!("http://{addr}{path}"));
    output(&mut curl).unwrap_or_else(|error| panic!("curl: {error}"))
}

fn psql(addr: SocketAddr, text: &str) -> String {
    let mut psql = Postgres::psql(addr);
    output(psql.args(["-c", text])).unwrap_or_else(|error| panic!("psql: {error}"))
}

fn redis_cli(addr: SocketAddr, words: &[&str]) -> String {
    output(Redis::redis_cli(addr).args(words)).unwrap_or_else(|error| panic!("redis-cli: {error}"))
}

fn mariadb(addr: SocketAddr, text: &str) -> String {
    let mut mariadb = Mariadb::mariadb(addr);
    output(mariadb.args(["-e", text])).unwrap_or_else(|error| panic!("mariadb: {error}"))
}

#[test]
fn psql_redis_cli_and_curl_share_a_listener_at_the_same_time() {
    let (postgres, redis) = (Postgres::new(), Redis::new());
    for kind in ["couchdb", "elasticsearch", "influxdb"] {
        let http = Origin::echo();
        let gw = gateway(&[
            to("orders", &postgres.url(), ""),
            to("cache", &redis.url(), ""),
            to("documents", &http.url(), &format!("db_type: {kind}")),
        ]);
        let addr = gw.tcp_addr(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..4 {
                    assert_eq!(
                        psql(addr, &format!("SELECT {n} + 1")).trim(),
                        (n + 1).to_string()
                    );
                }
            });
            scope.spawn(|| {
                for n in 0..12 {
                    let n = n.to_string();
                    assert_eq!(redis_cli(addr, &["SET", "n", &n]), "OK\n");
                    assert_eq!(redis_cli(addr, &["GET", "n"]).trim(), n);
                }
            });
            scope.spawn(|| {
                for n in 0..12 {
                    let answer = curl(addr, &format!("/db/{n}?x=1"));
                    assert!(answer.contains(&format!("\"/db/{n}?x=1\"")), "{answer}");
                }
            });
        });
        eventually(Duration::from_secs(5), "each counted where it went", || {
            let metrics = gw.metrics();
            let count = |route| {
                let labels = [("route", route), ("reason", "ok")];
                metrics.sum("harbr_tcp_sessions_total", &labels)
            };
            // psql and curl end one session each time; so does redis-cli.
            count("orders") >= 4.0 && count("cache") == 24.0 && count("documents") == 12.0
        });
    }
}

#[test]
fn mariadb_on_a_port_of_its_own_is_greeted_at_once() {
    let (server, redis) = (Mariadb::new(), Redis::new());
    let port = lasting_port();
    let own = format!("tcp_listen_port: {port}");
    let gw = gateway(&[
        to("cache", &redis.url(), ""),
        to("shop", &server.url(), &own),
    ]);
    let shop = gw.tcp_addr(1);
    assert_eq!(shop.port(), port);
    assert_eq!(mariadb(shop, "SELECT 1"), "1\n");
    assert_eq!(redis_cli(gw.tcp_addr(0), &["PING"]), "PONG\n");
    // Well below the silence that would have to be awaited on a shared one; the best of some, as
    // this machine may be busy.
    let best = (0..10).map(|_| greeted(shop)).min();
    assert!(best < Some(Duration::from_millis(150)), "{best:?}");
}

#[test]
fn mariadb_is_known_by_its_silence_beside_redis_and_postgres() {
    let (mysql, redis, postgres) = (Mariadb::new(), Redis::new(), Postgres::new());
    let gw = gateway(&[
        to("shop", &mysql.url(), ""),
        to("cache", &redis.url(), ""),
        to("orders", &postgres.url(), ""),
    ]);
    let addr = gw.tcp_addr(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..5 {
                assert_eq!(mariadb(addr, &format!("SELECT {n}")), format!("{n}\n"));
            }
            let login = "
import pymysql
c = pymysql.connect(host=sys.argv[1], port=int(sys.argv[2]), user='tester', password='sesame').cursor()
c.execute('SELECT 6 * 7')
print(c.fetchone()[0])
";
            assert_eq!(script(addr, login), "42\n");
        });
        scope.spawn(|| {
            for _ in 0..20 {
                assert_eq!(redis_cli(addr, &["PING"]), "PONG\n");
            }
        });
        scope.spawn(|| {
            for _ in 0..5 {
                assert_eq!(psql(addr, "SELECT 1").trim(), "1");
            }
        });
    });
    let waited = greeted(addr);
    assert!(waited >= Duration::from_millis(200), "{waited:?}");
}

/// How long a client waits that says nothing, until the server does.
fn greeted(addr: SocketAddr) -> Duration {
    use std::io::Read;
    let started = Instant::now();
    let mut client = std::net::TcpStream::connect(addr).expect("the gateway accepts");
    let patience = Some(Duration::from_secs(20));
    client.set_read_timeout(patience).expect("a positive time");
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).expect("the greeting");
    assert_eq!(greeting[4], 10, "protocol version");
    started.elapsed()
}
