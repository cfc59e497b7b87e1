//! Redis: pipelines, pushes without end, and connections that were never anybody else's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{gateway, script, to};
use crate::support::daemon::output;
use crate::support::{Gw, Origin, Redis, eventually};

/// Opens `r` with redis-py, host and port from the command line.
const CONNECT: &str = "
import redis
def connect(**more):
    return redis.Redis(host=sys.argv[1], port=int(sys.argv[2]), socket_timeout=20, **more)
";

fn redis_py(text: &str, addr: SocketAddr) -> String {
    script(addr, &format!("{CONNECT}{text}"))
}

#[test]
fn redis_cli_and_redis_py_work() {
    let server = Redis::new();
    let gw = gateway(&[to("cache", &server.url(), "")]);
    let cli = |words: &[&str]| output(Redis::redis_cli(gw.tcp_addr(0)).args(words)).unwrap();
    assert_eq!(cli(&["SET", "key", "value"]), "OK\n");
    assert_eq!(cli(&["GET", "key"]), "value\n");
    assert!(cli(&["NOSUCH"]).starts_with("ERR unknown command"));
    let script = "
r = connect()
assert r.get('key') == b'value'
# Every byte there is, larger than any buffer on the way.
big = bytes(range(256)) * 80000
assert r.set('big', big) and r.get('big') == big
p = r.pipeline(transaction=False)
for n in range(20000):
    p.set('n%d' % n, n)
    p.get('n%d' % n)
answers = p.execute()
assert answers[0::2] == [True] * 20000
assert answers[1::2] == [b'%d' % n for n in range(20000)]
assert r.transaction(lambda p: (p.multi(), p.incr('sum')), 'sum') == [1]
assert len(list(r.scan_iter(match='n*', count=1000))) == 20000
three = connect(protocol=3)
assert three.hset('h', mapping={'a': 1}) == 1 and three.hgetall('h') == {b'a': b'1'}
print('done')
";
    assert_eq!(redis_py(script, gw.tcp_addr(0)), "done\n");
}

#[test]
fn a_subscription_goes_on_for_as_long_as_it_lasts() {
    let server = Redis::new();
    let gw = gateway(&[to("cache", &server.url(), "")]);
    let script = "
import time
r = connect()
s = r.pubsub()
s.subscribe('news')
assert s.get_message(timeout=10)['type'] == 'subscribe'
# One by one, then with pauses between, then all at once.
for n in range(500):
    r.publish('news', n)
    assert s.get_message(timeout=10)['data'] == b'%d' % n
for n in range(5):
    time.sleep(0.1)
    r.publish('news', n)
    assert s.get_message(timeout=10)['data'] == b'%d' % n
for n in range(2000):
    r.publish('news', b'x' * n)
for n in range(2000):
    assert s.get_message(timeout=10)['data'] == b'x' * n
s.ping()
assert s.get_message(timeout=10)['type'] == 'pong'
s.unsubscribe('news')
assert s.get_message(timeout=10)['type'] == 'unsubscribe'
print('done')
";
    assert_eq!(redis_py(script, gw.tcp_addr(0)), "done\n");
}

#[test]
fn monitor_shows_what_others_do() {
    let server = Redis::new();
    let gw = gateway(&[to("cache", &server.url(), "")]);
    let mut monitor = Redis::redis_cli(gw.tcp_addr(0));
    let monitor = monitor
        .arg("MONITOR")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut monitor = monitor.spawn().expect("redis-cli starts");
    let mut lines = BufReader::new(monitor.stdout.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("one more line").expect("text");
    assert_eq!(line(), "OK");
    for n in 0..200 {
        server.run(&["SET", "n", &n.to_string()]);
        let mut seen = line();
        // redis-cli asks for the commands first when it wants to.
        while !seen.contains("\"SET\"") {
            seen = line();
        }
        assert!(seen.ends_with(&format!("\"SET\" \"n\" \"{n}\"")), "{seen}");
    }
    monitor.kill().expect("the child is ours");
    monitor.wait().expect("the child is ours");
}

/// A session that speaks Redis' inline commands.
struct Session {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Session {
    fn open(addr: SocketAddr) -> Session {
        let stream = TcpStream::connect(addr).expect("the gateway accepts");
        stream.set_nodelay(true).expect("a connected socket");
        let patience = Some(Duration::from_secs(20));
        stream
            .set_read_timeout(patience)
            .expect("a positive timeout");
        let lines = BufReader::new(stream.try_clone().expect("one more descriptor"));
        Session { stream, lines }
    }

    /// The first line of the answer, and for a bulk string its text.
    fn ask(&mut self, command: &str) -> String {
        write!(self.stream, "{command}\r\n").expect("the session is open");
        let line = self.line();
        match line.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()) {
            Some(length) => {
                let mut text = vec![0; length + 2];
                self.lines.read_exact(&mut text).expect("the whole answer");
                String::from_utf8_lossy(&text[..length]).into_owned()
            }
            None => line,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }
}

#[test]
fn nobody_gets_a_connection_that_somebody_used() {
    let server = Redis::with(&["--requirepass", "sesame"]);
    let gw = gateway(&[to("cache", &server.url(), "")]);
    let mut ids = std::collections::HashSet::new();
    let started = Instant::now();
    for round in 0..500 {
        let mut one = Session::open(gw.tcp_addr(0));
        assert!(one.ask("PING").starts_with("-NOAUTH"), "round {round}");
        assert_eq!(one.ask("AUTH sesame"), "+OK");
        assert!(
            ids.insert(one.ask("CLIENT ID")),
            "used before: round {round}"
        );
        assert_eq!(one.ask("CLIENT GETNAME"), "$-1");
        assert_eq!(one.ask("SELECT 7"), "+OK");
        assert_eq!(one.ask("CLIENT SETNAME one"), "+OK");
        assert_eq!(one.ask("SET secret 1"), "+OK");
        assert_eq!(one.ask("MULTI"), "+OK");
        drop(one);
        let mut other = Session::open(gw.tcp_addr(0));
        assert!(other.ask("GET secret").starts_with("-NOAUTH"));
        assert_eq!(other.ask("AUTH sesame"), "+OK");
        assert!(
            ids.insert(other.ask("CLIENT ID")),
            "used before: round {round}"
        );
        assert_eq!(other.ask("GET secret"), "$-1", "another database");
        assert_eq!(other.ask("CLIENT GETNAME"), "$-1");
    }
    let hits = gw
        .metrics()
        .sum("harbr_warm_hits_total", &[("route", "cache")]);
    assert!(hits > 100.0, "only {hits} sockets were connected ahead");
    // A socket that gathers small writes holds each command back for 40 ms: a minute in all.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[test]
fn nothing_is_connected_ahead_where_pooling_is_off() {
    let server = Redis::new();
    let settings = "connection_pooling: false";
    let gw = Gw::start(super::with_settings(
        settings,
        &[to("cache", &server.url(), "")],
    ));
    for _ in 0..100 {
        assert_eq!(Session::open(gw.tcp_addr(0)).ask("PING"), "+PONG");
    }
    let metrics = gw.metrics();
    assert_eq!(metrics.sum("harbr_warm_hits_total", &[]), 0.0);
    assert_eq!(metrics.sum("harbr_warm_sockets", &[]), 0.0);
}

#[test]
fn a_dead_server_is_an_error_reply() {
    let dead = Origin::refusing();
    let gw = gateway(&[to(
        "cache",
        &format!("redis://{}", dead.addr()),
        "health_check: false",
    )]);
    let answer = output(Redis::redis_cli(gw.tcp_addr(0)).args(["GET", "key"])).unwrap();
    assert_eq!(answer.trim_end(), "ERR connect_failed");
    let script = "
for more in ({}, {'protocol': 3}, {'client_name': 'x', 'db': 2}, {'password': 'y'}):
    try:
        connect(**more).get('key')
        raise SystemExit('served')
    except redis.exceptions.RedisError as e:
        print(type(e).__name__, e)
";
    let said = redis_py(script, gw.tcp_addr(0));
    for line in said.lines() {
        let (class, text) = line.split_once(' ').expect("class and text");
        assert!(
            ["ResponseError", "ConnectionError", "AuthenticationError"].contains(&class),
            "{said}"
        );
        assert!(text.contains("connect_failed"), "{said}");
    }
    assert_eq!(said.lines().count(), 4);
}

#[test]
fn a_full_route_is_an_error_reply() {
    let server = Redis::new();
    let keys = "max_connections: 1\nqueue_timeout_ms: 100";
    let gw = gateway(&[to("cache", &server.url(), keys)]);
    let mut first = Session::open(gw.tcp_addr(0));
    assert_eq!(first.ask("PING"), "+PONG");
    let script = "
try:
    connect().get('key')
    raise SystemExit('served')
except (redis.exceptions.ResponseError, redis.exceptions.ConnectionError) as e:
    print(e)
";
    assert_eq!(redis_py(script, gw.tcp_addr(0)), "queue_timeout\n");
    assert_eq!(first.ask("PING"), "+PONG");
}

#[test]
fn a_client_outlives_the_restart_of_its_server() {
    let mut server = Redis::new();
    let gw = gateway(&[to("cache", &server.url(), "timeout_ms: 2000")]);
    let mut old = Session::open(gw.tcp_addr(0));
    assert_eq!(old.ask("PING"), "+PONG");
    // Some are connected ahead when it goes.
    for _ in 0..50 {
        assert_eq!(Session::open(gw.tcp_addr(0)).ask("PING"), "+PONG");
    }
    server.kill();
    let mut end = Vec::new();
    let ended = old.lines.read_to_end(&mut end);
    assert!(ended.is_err() || end.is_empty(), "{end:02x?}");
    server.start();
    for _ in 0..20 {
        assert_eq!(Session::open(gw.tcp_addr(0)).ask("PING"), "+PONG");
    }
    let script = "
r = connect()
r.set('key', 'value')
print(r.get('key').decode())
";
    assert_eq!(redis_py(script, gw.tcp_addr(0)), "value\n");
    drop(old);
    eventually(Duration::from_secs(5), "no session is left", || {
        gw.metrics().sum("harbr_connections_active", &[]) == 0.0
    });
}
