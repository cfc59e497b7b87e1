//! Ten thousand sessions that do nothing, through the built program.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

use super::{to, with_settings};
use crate::support::gateway::{Metrics, raise_open_files};
use crate::support::nginx::free_addr;
use crate::support::{Binary, Redis, client, eventually, loaded};

const SESSIONS: usize = 10_000;
/// The bound for them, gateway included.
const MEMORY_KIB: u64 = 150 * 1024;

/// How many sessions the limit of open files allows: each takes two descriptors of the gateway.
/// Systems have it above 20,000 nearly everywhere.
fn sessions() -> usize {
    raise_open_files();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be asked for");
    let hard = usize::try_from(hard).unwrap_or(usize::MAX);
    let fit = hard.saturating_sub(200) / 2;
    assert!(
        fit > 9_000,
        "the limit of open files is {hard}: raise it (`ulimit -Hn`)"
    );
    fit.min(SESSIONS)
}

fn ping(session: &mut TcpStream) -> Duration {
    let started = Instant::now();
    session.write_all(b"PING\r\n").expect("the session is open");
    let mut pong = [0; 7];
    session.read_exact(&mut pong).expect("the session is open");
    assert_eq!(&pong, b"+PONG\r\n");
    started.elapsed()
}

fn open(addr: SocketAddr) -> TcpStream {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(addr) {
            Ok(session) => {
                let patience = Some(Duration::from_secs(20));
                session.set_read_timeout(patience).expect("a positive time");
                session.set_nodelay(true).expect("it is connected");
                return session;
            }
            // The backlog is full for a moment.
            Err(e) if e.kind() == ErrorKind::TimedOut && Instant::now() < end => {}
            Err(e) => panic!("connect to {addr}: {e}"),
        }
    }
}

/// The middle one of many round trips.
fn usual(session: &mut TcpStream) -> Duration {
    let mut all: Vec<Duration> = (0..2000).map(|_| ping(session)).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

#[test]
fn ten_thousand_idle_sessions_are_cheap_and_disturb_nobody() {
    let _alone = loaded();
    let sessions = sessions();
    let server = Redis::with(&[
        "--maxclients",
        &(sessions + 100).to_string(),
        "--tcp-backlog",
        "4096",
    ]);
    let (tcp, admin) = (free_addr(), free_addr());
    let routes = [to("cache", &server.url(), "")];
    let keys = with_settings("", &routes).replace("127.0.0.1:0", &tcp.to_string());
    let gateway = Binary::start(&format!(
        "max_connections: {}\nadmin: {{listen_addr: \"{admin}\"}}\n{keys}",
        sessions + 100
    ));
    let metrics = || Metrics::parse(&client::get(admin, "/metrics").text());
    let active = || {
        let listener = tcp.to_string();
        metrics().sum("harbr_connections_active", &[("listener", &listener)])
    };

    let mut beside = open(tcp);
    ping(&mut beside);
    let before = usual(&mut beside);
    let mut idle: Vec<TcpStream> = Vec::with_capacity(sessions);
    while idle.len() < sessions {
        let mut session = open(tcp);
        // Each has a server of its own, and was used.
        ping(&mut session);
        idle.push(session);
    }
    assert_eq!(active(), (sessions + 1) as f64);
    let connected = || {
        let clients = server.run(&["INFO", "clients"]);
        let line = clients
            .lines()
            .find_map(|l| l.strip_prefix("connected_clients:"));
        line.and_then(|n| n.trim().parse::<usize>().ok())
            .expect("a number")
    };
    assert!(connected() > sessions);

    let memory = gateway.resident_kib();
    let bound = MEMORY_KIB * sessions as u64 / SESSIONS as u64;
    println!("{sessions} idle sessions: {memory} KiB; PING {before:?} before");
    assert!(memory < bound, "{memory} KiB with {sessions} idle sessions");

    let after = usual(&mut beside);
    println!("PING {after:?} beside them");
    let most = (before * 2).max(before + Duration::from_micros(500));
    assert!(
        after < most,
        "{before:?} alone, {after:?} beside {sessions} sessions"
    );
    // They were idle, not dead.
    for session in idle.iter_mut().step_by(97) {
        ping(session);
    }

    drop((idle, beside));
    eventually(
        Duration::from_secs(30),
        "all sessions are given back",
        || active() == 0.0,
    );
    let ended = metrics().sum(
        "harbr_tcp_sessions_total",
        &[("route", "cache"), ("reason", "ok")],
    );
    assert_eq!(ended, (sessions + 1) as f64);
    eventually(
        Duration::from_secs(10),
        "the server has them back, too",
        || {
            // Some are connected ahead, for who comes next.
            connected() < 10
        },
    );
}
