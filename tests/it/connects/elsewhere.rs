//! Another endpoint is tried once, uncounted, when nothing was sent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use harbr_router::server::Gateway;

use crate::support::{Gw, Origin, Redis, eventually, route, timed};

/// Nothing but a connect shows that an endpoint is dead.
const BLIND: &str = "ejection: false\nhealth_check: false\n";

fn retries(gw: &Gw, reason: &str) -> f64 {
    gw.metrics()
        .sum("harbr_retries_total", &[("reason", reason)])
}

fn sessions(endpoints: &[String], settings: &str, keys: &str) -> Gw {
    let tcp = format!("tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\"{settings}}}\n");
    let routes = route("cache", endpoints, &format!("{BLIND}{keys}"));
    Gw::start(tcp + &routes)
}

/// A route of sessions in a gateway to which something was added.
pub fn sessions_with(endpoints: &[String], keys: &str, add: impl FnOnce(Gateway) -> Gateway) -> Gw {
    let tcp = "tcp_proxy: {enabled: true, listen_addr: \"127.0.0.1:0\"}\n";
    Gw::embed(format!("{tcp}{}", route("cache", endpoints, keys)), add)
}

fn redis_url(addr: SocketAddr) -> String {
    format!("redis://{addr}")
}

/// What the first session of a client hears.
pub fn ping(gw: &Gw) -> String {
    ping_at(gw.tcp_addr(0))
}

pub fn ping_at(gateway: SocketAddr) -> String {
    let mut client = TcpStream::connect(gateway).expect("the gateway accepts");
    let patience = Some(Duration::from_secs(20));
    client.set_read_timeout(patience).expect("a positive time");
    client.write_all(b"PING\r\n").expect("it is connected");
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") && client.read(&mut byte).unwrap_or(0) == 1 {
        line.push(byte[0]);
    }
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

#[test]
fn one_dead_endpoint_of_two_fails_no_request_without_retries() {
    let (dead, alive) = (Origin::refusing(), Origin::ok("alive"));
    let gw = Gw::route(&[dead.url(), alive.url()], BLIND);
    let mut client = gw.client();
    for n in 0..20 {
        let method = if n % 2 == 0 { "GET" } else { "POST" };
        let response = client.call(method, "/", &[], b"");
        assert_eq!(
            (response.status, response.text()),
            (200, "alive".to_owned())
        );
    }
    assert_eq!(alive.requests(), 20, "none was sent twice");
    // In turns, and the second try is one: each meets the dead endpoint first.
    assert_eq!(retries(&gw, "connect_failed"), 20.0);
    let records = gw.access_log(20);
    assert!(records.iter().all(|record| record["tries"] == 2));
}

#[test]
fn one_dead_endpoint_of_two_fails_no_session_without_retries() {
    let (dead, alive) = (Origin::refusing(), Redis::new());
    let urls = [redis_url(dead.addr()), alive.url()];
    let gw = sessions(&urls, "", "");
    for _ in 0..10 {
        assert_eq!(ping(&gw), "+PONG");
    }
    assert_eq!(retries(&gw, "connect_failed"), 10.0);
    let records = gw.access_log(10);
    for record in &records {
        assert_eq!(record["endpoint"], alive.addr().to_string(), "{record}");
        assert_eq!(record["tries"], 2, "{record}");
    }
}

#[test]
fn it_is_one_endpoint_more_and_not_the_next_one_too() {
    let (one, other, alive) = (Origin::refusing(), Origin::refusing(), Origin::ok("alive"));
    let gw = Gw::route(&[one.url(), other.url(), alive.url()], BLIND);
    let mut statuses: Vec<u16> = (0..6).map(|_| gw.get("/").status).collect();
    statuses.sort_unstable();
    // In turns: both dead ones, then the third.
    assert_eq!(statuses, [200, 200, 200, 502, 502, 502]);
    for record in gw.access_log(6) {
        let tries = if record["status"] == 200 { 1 } else { 2 };
        assert_eq!(record["tries"], tries, "{record}");
    }
    // A retry that is counted comes on top.
    let keys = format!("{BLIND}retry_count: 1\n");
    let gw = Gw::route(&[one.url(), other.url(), alive.url()], &keys);
    for _ in 0..6 {
        assert_eq!(gw.get("/").status, 200);
    }
}

#[test]
fn the_same_endpoint_is_not_tried_again() {
    let dead = Origin::refusing();
    let gw = Gw::route(&[dead.url()], BLIND);
    assert_eq!(gw.get("/").json()["reason"], "connect_failed");
    assert_eq!(gw.access_log(1)[0]["tries"], 1);
    assert_eq!(retries(&gw, "connect_failed"), 0.0);
    let gw = sessions(&[redis_url(dead.addr())], "", "");
    assert_eq!(ping(&gw), "-ERR connect_failed");
    assert_eq!(gw.access_log(1)[0]["tries"], 1);
    assert_eq!(retries(&gw, "connect_failed"), 0.0);
}

#[test]
fn an_endpoint_that_is_full_is_not_waited_for() {
    let (dead, alive) = (Origin::refusing(), Origin::raw(|conn| conn.until_closed()));
    let full = format!(
        "{{url: \"{}\", max_connections: 1}}",
        redis_url(alive.addr())
    );
    let settings = ", connection_pooling: false";
    let gw = sessions(&[full, redis_url(dead.addr())], settings, "");
    let _occupying = TcpStream::connect(gw.tcp_addr(0)).expect("the gateway accepts");
    eventually(Duration::from_secs(10), "its place is taken", || {
        alive.open_connections() == 1
    });
    assert_eq!(ping(&gw), "-ERR connect_failed");
}

#[test]
fn a_connect_that_hangs_is_left_for_another_endpoint_within_the_deadline() {
    let _turn = timed();
    let (hanging, alive) = (Origin::unreachable(), Origin::ok("alive"));
    let urls = [hanging.url(), alive.url()];
    let keys = format!("{BLIND}timeout_ms: 5000\nconnect_timeout_ms: 200\n");
    let gw = Gw::route(&urls, &keys);
    for _ in 0..4 {
        assert_eq!(gw.get("/").status, 200);
    }
    assert_eq!(retries(&gw, "connect_failed"), 4.0);
    // All the time there is goes into one connect.
    let keys =
        format!("{BLIND}timeout_ms: 300\nconnect_timeout_ms: 300\nbalance: hash\nhash_on: path\n");
    let gw = Gw::route(&urls, &keys);
    let started = Instant::now();
    let late = (0..64)
        .map(|n| gw.get(&format!("/{n}")))
        .find(|response| response.status != 200);
    let late = late.expect("some path is the silent endpoint's");
    assert_eq!(
        (late.status, &late.json()["reason"]),
        (504, &"timeout".into())
    );
    assert!(started.elapsed() < Duration::from_secs(3));
}

/// A server that answers with PONG, until one of its connections that has been silent for long says
/// something: then it refuses everybody, and that one is closed.
struct Trap {
    addr: SocketAddr,
    sprung: Arc<AtomicBool>,
    /// When those who have said nothing yet came.
    silent: Arc<Mutex<Vec<(SocketAddr, Instant)>>>,
}

/// Longer than anybody who was not connected ahead takes for the first word.
const LONG: Duration = Duration::from_millis(800);

impl Trap {
    fn set() -> Trap {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let addr = listener.local_addr().expect("it is bound");
        let trap = Trap {
            addr,
            sprung: Arc::default(),
            silent: Arc::default(),
        };
        let (sprung, silent) = (trap.sprung.clone(), trap.silent.clone());
        let closed = Arc::new(AtomicBool::new(false));
        thread::spawn(move || {
            while !sprung.load(Ordering::SeqCst) {
                if let Ok((stream, peer)) = listener.accept() {
                    let (sprung, silent, closed) = (sprung.clone(), silent.clone(), closed.clone());
                    thread::spawn(move || serve(stream, peer, &sprung, &silent, &closed));
                } else {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            drop(listener);
            closed.store(true, Ordering::SeqCst);
        });
        trap
    }

    /// Somebody has been silent for long, and nobody for a while only.
    fn is_ready(&self) -> bool {
        let silent = self.silent.lock().expect("no panic");
        !silent.is_empty() && silent.iter().all(|(_, since)| since.elapsed() > LONG)
    }
}

fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    sprung: &AtomicBool,
    silent: &Mutex<Vec<(SocketAddr, Instant)>>,
    closed: &AtomicBool,
) {
    let came = Instant::now();
    stream.set_nonblocking(false).expect("a socket");
    silent.lock().expect("no panic").push((peer, came));
    let read = stream.read(&mut [0; 64]).unwrap_or(0);
    silent
        .lock()
        .expect("no panic")
        .retain(|(other, _)| *other != peer);
    if read > 0 && came.elapsed() > LONG {
        sprung.store(true, Ordering::SeqCst);
        while !closed.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    } else if read > 0 {
        let _client_may_be_gone = stream.write_all(b"+PONG\r\n");
        let _until_it_leaves = stream.read(&mut [0; 64]);
    }
}

#[test]
fn a_dead_warm_socket_is_replaced_elsewhere_when_its_endpoint_refuses() {
    let (trap, alive) = (Trap::set(), Redis::new());
    let gw = sessions(&[redis_url(trap.addr), alive.url()], "", "");
    let mut sessions = 0;
    eventually(Duration::from_secs(60), "a warm socket has died", || {
        let mut ping = || {
            assert_eq!(ping(&gw), "+PONG");
            sessions += 1;
        };
        (0..4).for_each(|_| ping());
        let until = Instant::now() + LONG * 3;
        while !trap.is_ready() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        // In turns: one of them is the trap's.
        (0..2).for_each(|_| ping());
        trap.sprung.load(Ordering::SeqCst)
    });
    let records = gw.access_log(sessions);
    let moved = records.iter().find(|record| record["tries"] == 2);
    let moved = moved.expect("one was sent elsewhere");
    assert_eq!(moved["endpoint"], alive.addr().to_string());
    assert_eq!(moved["reason"], "ok", "{moved}");
}
