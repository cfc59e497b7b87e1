//! Clients that do what they should not.
//!
//! Whatever they do: the session ends with its reason, nobody else notices, nothing is kept. That no
//! worker panicked is asserted when a [`Gw`] goes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::raw::{connect, ended, ends, ends_as, nothing_is_left, ping, reset};
use super::{all_protocols, to, with_settings};
use crate::support::daemon::output;
use crate::support::nginx::free_addr;
use crate::support::{Binary, Gw, Origin, Postgres, Redis, eventually, timed};

/// Something that a client may send: noise, or a start that is cut, changed or continued.
fn nonsense(random: &mut StdRng) -> Vec<u8> {
    const STARTS: [&[u8]; 10] = [
        b"",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\x29\0\x03\0\0user\0bob\0database\0db\0\0",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"\x3a\x01\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0",
        b"\x04\0\0\0\x05\0\0\0\0",
        b"\x12\x01\0\x2f\0\0\x01\0\0\0\x1a\0\x06",
        b"\0\xf4\0\0\x01\0\0\0\x01\x3a",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
    ];
    let mut bytes = STARTS[random.random_range(0..STARTS.len())].to_vec();
    if random.random_bool(0.3) {
        bytes.truncate(random.random_range(0..=bytes.len()));
    }
    if !bytes.is_empty() && random.random_bool(0.4) {
        let at = random.random_range(0..bytes.len());
        bytes[at] = random.random();
    }
    let more = match random.random_range(0..4) {
        0 => 0,
        1 => random.random_range(0..40_000),
        _ => random.random_range(0..200),
    };
    bytes.extend((0..more).map(|_| random.random::<u8>()));
    bytes
}

/// Comes, sends nonsense and leaves in one of the ways there are.
fn misbehave(addr: SocketAddr, random: &mut StdRng) {
    let mut client = connect(addr);
    // Refused in the middle of it is as good.
    let _sent = client.write_all(&nonsense(random));
    match random.random_range(0..3) {
        0 => reset(client),
        1 => drop(client),
        _ => {
            let _gone = client.shutdown(Shutdown::Write);
            ends(&mut client);
        }
    }
}

#[test]
fn nonsense_ends_its_own_session_and_nothing_else() {
    let redis = Redis::new();
    let gw = all_protocols(&redis, 300);
    let addr = gw.tcp_addr(0);
    let served = std::thread::scope(|scope| {
        let noisy: Vec<_> = (0..4)
            .map(|seed| {
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed);
                    for _ in 0..150 {
                        misbehave(addr, &mut random);
                    }
                })
            })
            .collect();
        let mut served = 0;
        while noisy.iter().any(|thread| !thread.is_finished()) {
            ping(addr);
            served += 1;
        }
        served
    });
    assert!(served > 10, "{served} others were served");
    nothing_is_left(&gw);
    let metrics = gw.metrics();
    let all = metrics.sum("harbr_tcp_sessions_total", &[]);
    assert_eq!(all, f64::from(served) + 600.0, "each has a reason");
    for reason in [
        "unmatched",
        "bad_request",
        "sniff_timeout",
        "connect_failed",
    ] {
        let count = metrics.sum("harbr_tcp_sessions_total", &[("reason", reason)]);
        println!("{reason}: {count}");
    }
    assert!(metrics.sum("harbr_tcp_sessions_total", &[("reason", "unmatched")]) > 0.0);
}

/// Startup packets whose length is not theirs.
const LIES: [&[u8]; 6] = [
    b"\xff\xff\xff\xff\0\x03\0\0user\0bob\0\0",
    b"\x7f\xff\xff\xff\0\x03\0\0user\0bob\0\0",
    b"\0\0\x27\x11\0\x03\0\0user\0bob\0\0",
    b"\0\0\0\0\0\x03\0\0user\0bob\0\0",
    b"\0\0\0\x07\0\x03\0\0user\0bob\0\0",
    b"\0\0\0\x0b\0\x03\0\0user\0bob\0\0",
];

/// Longer than what comes, as nobody knows.
const HALF: &[u8] = b"\0\0\x01\0\0\x03\0\0user\0bob\0\0";

#[test]
fn a_startup_packet_with_a_lying_length_ends_its_own_session() {
    let (redis, postgres) = (Redis::new(), Postgres::new());
    // Nobody's on a listener that is shared, and nobody is connected to for it.
    let gw = all_protocols(&redis, 500);
    for lie in LIES {
        let mut client = connect(gw.tcp_addr(0));
        client.write_all(lie).expect("it is connected");
        ends(&mut client);
    }
    let mut client = connect(gw.tcp_addr(0));
    client.write_all(HALF).expect("it is connected");
    ends(&mut client);
    ends_as(&gw, "-", "unmatched", LIES.len() as f64);
    ends_as(&gw, "-", "sniff_timeout", 1.0);
    nothing_is_left(&gw);

    // A route alone on its listener takes everything: the server itself ends it.
    let route = to("orders", &postgres.url(), "");
    let gw = Gw::start(with_settings("sniff_timeout_ms: 500", &[route]));
    for lie in LIES {
        let mut client = connect(gw.tcp_addr(0));
        client.write_all(lie).expect("it is connected");
        // The server may have ended it already.
        let _ended = client.shutdown(Shutdown::Write);
        ends(&mut client);
    }
    let mut client = connect(gw.tcp_addr(0));
    client.write_all(HALF).expect("it is connected");
    ends(&mut client);
    ends_as(&gw, "orders", "sniff_timeout", 1.0);
    nothing_is_left(&gw);
    let mut psql = Postgres::psql(gw.tcp_addr(0));
    assert_eq!(
        output(psql.args(["-c", "SELECT 1"])).map(|one| one.trim() == "1"),
        Ok(true)
    );
}

#[test]
fn who_sends_a_byte_at_a_time_is_closed_after_the_sniff_timeout() {
    let redis = Redis::new();
    let gw = all_protocols(&redis, 600);
    let addr = gw.tcp_addr(0);
    let starts: [&[u8]; 3] = [
        b"\0\0\x01\0\0\x03\0\0user\0somebody-who-takes-his-time\0",
        b"*10000000000000000000000000000000000",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ];
    std::thread::scope(|scope| {
        for start in starts {
            scope.spawn(move || {
                let (mut client, started) = (connect(addr), Instant::now());
                let mut left = start.iter();
                client
                    .set_read_timeout(Some(Duration::from_millis(100)))
                    .expect("positive");
                let closed = loop {
                    if let Some(byte) = left.next() {
                        let _closed_meanwhile = client.write_all(&[*byte]);
                    }
                    match client.read(&mut [0]) {
                        Ok(0) => break started.elapsed(),
                        Err(e) if e.kind() == ErrorKind::ConnectionReset => {
                            break started.elapsed();
                        }
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                        other => panic!("{other:?}"),
                    }
                    assert!(started.elapsed() < Duration::from_secs(10), "never closed");
                };
                assert!(closed >= Duration::from_millis(550), "{closed:?}");
                assert!(closed < Duration::from_secs(5), "{closed:?}");
            });
        }
    });
    nothing_is_left(&gw);
    assert_eq!(ended(&gw, "-", "sniff_timeout"), 3.0);
    assert_eq!(
        gw.metrics().sum("tcp_proxy_timeout", &[("route", "-")]),
        3.0
    );
}

#[test]
fn two_hundred_silent_clients_keep_nobody_from_being_served() {
    let redis = Redis::new();
    let gw = all_protocols(&redis, 2000);
    let addr = gw.tcp_addr(0);
    let mut silent: Vec<TcpStream> = (0..200).map(|_| connect(addr)).collect();
    let turn = timed();
    for _ in 0..100 {
        ping(addr);
    }
    drop(turn);
    // Leaving early is a reason of its own.
    let early = silent.split_off(150);
    drop(early);
    for mut client in silent {
        assert_eq!(ends(&mut client), b"");
    }
    nothing_is_left(&gw);
    assert_eq!(ended(&gw, "cache", "ok"), 100.0);
    let (late, gone) = (
        ended(&gw, "-", "sniff_timeout"),
        ended(&gw, "-", "client_closed"),
    );
    assert_eq!(late + gone, 200.0);
    assert!(late >= 150.0, "{late}");
}

#[test]
fn clients_that_do_not_read_cost_no_memory_and_keep_nobody_waiting() {
    let (tcp, redis) = (free_addr(), Redis::new());
    let endless = Origin::raw(|conn| {
        conn.some_bytes()?;
        let block = vec![b'x'; 256 * 1024];
        loop {
            conn.send(&block)?;
        }
    });
    let routes = [
        to("cache", &redis.url(), ""),
        to(
            "documents",
            &format!("mongodb://{}", endless.addr()),
            "health_check: false",
        ),
    ];
    let keys = with_settings("connection_pooling: false", &routes);
    let gateway = Binary::start(&keys.replace("127.0.0.1:0", &tcp.to_string()));
    ping(tcp);
    let before = gateway.resident_kib();
    let slow: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut client = connect(tcp);
            let hello = b"\x15\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0";
            client.write_all(hello).expect("it is connected");
            client
        })
        .collect();
    // Each has begun to get its answer, and more is on the way than it takes.
    for client in &slow {
        client.peek(&mut [0]).expect("an answer");
    }
    for _ in 0..200 {
        ping(tcp);
    }
    let beside = gateway.resident_kib();
    println!("{before} KiB, with 60 slow readers {beside} KiB");
    // A buffer of 64 KiB for each, and what a pipe holds is the kernel's.
    assert!(
        beside < before + 60 * 128 + 4096,
        "{before} KiB, then {beside} KiB"
    );
    drop(slow);
    eventually(
        Duration::from_secs(10),
        "the servers are given back",
        || endless.open_connections() == 0,
    );
}

#[test]
fn the_memory_of_the_program_stays_flat_under_nonsense() {
    let (tcp, redis) = (free_addr(), Redis::new());
    let nobody = free_addr();
    let mut routes = vec![to("cache", &redis.url(), "")];
    for scheme in ["postgres", "mongodb", "sqlserver"] {
        routes.push(to(
            scheme,
            &format!("{scheme}://{nobody}"),
            "health_check: false",
        ));
    }
    let keys = with_settings("sniff_timeout_ms: 300", &routes);
    let gateway = Binary::start(&keys.replace("127.0.0.1:0", &tcp.to_string()));
    let round = |seed: u64| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed * 10 + thread);
                    for _ in 0..250 {
                        misbehave(tcp, &mut random);
                    }
                });
            }
        });
        ping(tcp);
        gateway.resident_kib()
    };
    let memory: Vec<u64> = (0..4).map(round).collect();
    println!("{memory:?} KiB");
    let grown = memory[3].saturating_sub(memory[0]);
    assert!(grown < 8 * 1024, "{memory:?} KiB after each thousand");
    let said = gateway.said();
    assert!(!said.contains("panicked"), "{said}");
}
