//! What the log says of an endpoint that fails again and again: the first time, then little.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::elsewhere::ping_at;
use crate::support::binary::{Binary, program};
use crate::support::nginx::free_addr;
use crate::support::{Next, Origin, eventually, route};

/// The lines with `text`.
fn lines(gateway: &Binary, text: &str) -> Vec<String> {
    let said = gateway.said();
    let lines = said.lines().filter(|line| line.contains(text));
    lines.map(str::to_owned).collect()
}

/// As many lines as the time since `began` allows: one, and one more in every ten seconds.
fn few(lines: &[String], began: Instant) {
    let most = 1 + began.elapsed().as_secs() as usize / 10;
    assert!((1..=most).contains(&lines.len()), "{lines:#?}");
}

const BLIND: &str = "ejection: false\nhealth_check: false\n";

#[test]
fn a_dead_http_endpoint_is_told_with_its_reason_and_when_it_is_back() {
    let mut origin = Origin::ok("here");
    let at = origin.addr().to_string();
    origin.stop();
    let keys = route("/", &[origin.url()], BLIND);
    let gateway = Binary::start(&keys);
    let began = Instant::now();
    let fails = |times: usize| {
        for _ in 0..times {
            assert_eq!(gateway.client().get("/").status, 502);
        }
    };
    fails(200);
    gateway.says("cannot connect");
    // It is the same endpoint after a reload.
    gateway.rewrite(&format!("{keys}    timeout_ms: 5000\n"));
    gateway.signal(Signal::SIGHUP);
    gateway.says("reloaded: ");
    fails(200);
    let told = lines(&gateway, "cannot connect");
    few(&told, began);
    assert!(told[0].contains("WARN"), "{told:?}");
    assert!(told[0].contains("Connection refused"), "{told:?}");
    assert!(
        told[0].contains(&format!("upstream=/ endpoint={at}")),
        "{told:?}"
    );
    few(&lines(&gateway, "WARN"), began);

    origin.start();
    for _ in 0..20 {
        assert_eq!(gateway.client().get("/").text(), "here");
    }
    gateway.says("connects again, after 400 failures");
    assert_eq!(lines(&gateway, "again").len(), 1);
}

#[test]
fn a_dead_server_of_sessions_is_told_alike() {
    let mut server = Origin::raw(|conn| {
        conn.some_bytes()?;
        conn.send("+PONG\r\n")?;
        conn.until_closed()
    });
    server.stop();
    let listen = free_addr();
    let gateway = Binary::start(&format!(
        "tcp_proxy: {{enabled: true, listen_addr: \"{listen}\", connection_pooling: false}}\n{}",
        route("cache", &[format!("redis://{}", server.addr())], BLIND)
    ));
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(ping_at(listen), "-ERR connect_failed");
    }
    gateway.says("cannot connect");
    let told = lines(&gateway, "WARN");
    few(&told, began);
    assert!(told[0].contains("Connection refused"), "{told:?}");
    let place = format!("upstream=cache endpoint={}", server.addr());
    assert!(told[0].contains(&place), "{told:?}");
    server.start();
    assert_eq!(ping_at(listen), "+PONG");
    gateway.says("connects again, after 100 failures");
}

#[test]
fn a_connect_that_times_out_is_told_with_its_time() {
    let hanging = Origin::unreachable();
    let keys = format!("{BLIND}connect_timeout_ms: 100\ntimeout_ms: 5000\n");
    let gateway = Binary::start(&route("/", &[hanging.url()], &keys));
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(gateway.client().get("/").status, 504);
    }
    gateway.says("cannot connect, timed out after 100 ms: upstream=/");
    few(&lines(&gateway, "WARN"), began);
}

#[test]
fn what_breaks_every_second_time_is_told_no_more_often() {
    let origin = Origin::serve(|request, conn| {
        conn.body()?;
        match request.target.ends_with("bad") {
            true => Ok(Next::Close),
            false => conn.answer(200, &[], b"good"),
        }
    });
    let gateway = Binary::start(&route("/", &[origin.url()], BLIND));
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(gateway.client().call("POST", "/bad", &[], b"").status, 502);
        assert_eq!(gateway.client().get("/good").text(), "good");
    }
    gateway.says("answers again");
    few(&lines(&gateway, "WARN"), began);
    few(&lines(&gateway, "answers again"), began);
}

#[test]
fn that_no_endpoint_is_healthy_is_told_once_for_all_requests() {
    let mut origin = Origin::ok("here");
    let check = "health_check: {path: /, interval_ms: 50, unhealthy_after: 1}\n";
    let gateway = Binary::start(&route("/", &[origin.url()], check));
    assert_eq!(gateway.client().get("/").status, 200);
    origin.stop();
    gateway.says("it is out");
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(gateway.client().get("/").status, 503);
    }
    gateway.says("no_healthy_endpoint: every endpoint of the upstream is down");
    few(&lines(&gateway, "no_healthy_endpoint"), began);
    origin.start();
    eventually(Duration::from_secs(10), "it is served again", || {
        gateway.client().get("/").status == 200
    });
    gateway.says("endpoints can be picked again");
}

#[test]
fn a_gateway_out_of_descriptors_does_not_blame_the_endpoint() {
    let origin = Origin::serve(|_, conn| conn.answer(200, &[], b"ok").map(|_| Next::Close));
    let limited = || {
        let mut command = Command::new("prlimit");
        command.arg("--nofile=64:64").arg(program().get_program());
        command
    };
    let gateway = Binary::start_as(
        limited,
        &format!(
            "server: {{threads: 1}}\n{}",
            route("/", &[origin.url()], BLIND)
        ),
    );
    // Each client takes one, and one more for its request to the endpoint.
    let mut clients = Vec::new();
    loop {
        assert!(clients.len() < 64, "{}", gateway.said());
        let mut client = gateway.client();
        client.request("GET", "/", &[], b"");
        match client.response() {
            Ok(response) if response.status == 200 => clients.push(client),
            Ok(response) => {
                assert_eq!(response.json()["reason"], "too_many_connections");
                break;
            }
            Err(error) => panic!("{error:?}: {}", gateway.said()),
        }
    }
    gateway.says("Too many open files");
    let told = lines(&gateway, "no socket left to connect with");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("ERROR"), "{told:?}");
    let endpoint = origin.addr().to_string();
    assert!(lines(&gateway, &endpoint).is_empty(), "none is blamed");
}

#[test]
fn a_listener_out_of_descriptors_says_so_once_and_not_for_each_try() {
    let limited = || {
        let mut command = Command::new("prlimit");
        command.arg("--nofile=64:64").arg(program().get_program());
        command
    };
    let origin = Origin::ok("here");
    let gateway = Binary::start_as(
        limited,
        &format!(
            "server: {{threads: 1}}\n{}",
            route("/", &[origin.url()], BLIND)
        ),
    );
    let refused = format!("{}: cannot accept", gateway.addr());
    let began = Instant::now();
    let mut crowd = Vec::new();
    eventually(Duration::from_secs(10), "no descriptor is left", || {
        crowd.push(TcpStream::connect(gateway.addr()).unwrap());
        gateway.said().contains(&refused)
    });
    // Linux refuses a descriptor before it looks whether somebody waits: now somebody does.
    let mut waiting = gateway.client();
    // It tries again all the while.
    std::thread::sleep(Duration::from_secs(1));
    few(&lines(&gateway, &refused), began);
    drop(crowd);
    gateway.says(&format!("{}: accepts again, after", gateway.addr()));
    assert_eq!(waiting.get("/").status, 200);
    few(&lines(&gateway, &refused), began);
}
