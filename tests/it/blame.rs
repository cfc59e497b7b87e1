//! What the log says of a failure: in words, and whose fault it is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::binary::program;
use crate::support::nginx::free_addr;
use crate::support::{Binary, Next, Origin, eventually, route, route_entry};

const SOON: Duration = Duration::from_secs(15);

/// The line of the log that holds this text.
#[track_caller]
fn line(binary: &Binary, text: &str) -> String {
    let mut found = String::new();
    eventually(SOON, text, || {
        let said = binary.said();
        found = said
            .lines()
            .find(|l| l.contains(text))
            .unwrap_or_default()
            .to_owned();
        !found.is_empty()
    });
    found
}

#[test]
fn an_end_that_no_endpoint_told_of_is_logged_in_words() {
    let silent = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let full = "max_connections: 1\nqueue_timeout_ms: 1\n";
    let binary = Binary::start(&format!(
        "routes:\n{}{}",
        route_entry("/", &["http://nobody.invalid".to_owned()], ""),
        route_entry("/full", &[silent.url()], full),
    ));
    assert_eq!(binary.client().get("/").status, 503);
    line(
        &binary,
        "no_healthy_endpoint: every endpoint of the upstream is down or has no address: upstream=/",
    );
    let mut first = binary.client();
    first.request("GET", "/full", &[], b"");
    eventually(SOON, "it is there", || silent.requests() == 1);
    assert_eq!(binary.client().get("/full").status, 503);
    line(&binary, "became free in `queue_timeout_ms`: upstream=/full");
    assert!(!binary.said().contains("HTTPStatus"), "{}", binary.said());
}

#[test]
fn what_an_endpoint_does_wrong_each_time_is_no_line_each_time() {
    let origin = Origin::raw(|conn| {
        let Some(request) = conn.request()? else {
            return Ok(());
        };
        match request.target.as_str() {
            // As servers do that tire of waiting.
            "/late" => {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
                thread::sleep(Duration::from_millis(20));
                conn.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
            }
            "/more" => conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore"),
            "/empty" => conn.send("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nno"),
            _ => conn.send("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nno"),
        }
    });
    let binary = Binary::start(&route("/", &[origin.url()], "ejection: false\n"));
    for (target, status) in [
        ("/late", 200),
        ("/more", 200),
        ("/empty", 204),
        ("/less", 502),
    ] {
        for _ in 0..10 {
            assert_eq!(binary.client().get(target).status, status);
            eventually(SOON, "the gateway has left", || {
                origin.open_connections() == 0
            });
        }
    }
    line(&binary, "failed, before a response");
    let said = binary.said();
    assert!(!said.contains("pingora"), "{said}");
    let failed = said.lines().filter(|line| line.contains("failed,"));
    assert_eq!(failed.count(), 1, "{said}");
}

/// The program, with so few descriptors that some clients take them all.
fn poor() -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 80 && exec \"$0\" \"$@\""])
        .arg(program().get_program())
        .env_remove("CONFIG_FILE");
    command
}

/// Connects until the gateway has no descriptor left; what is accepted by then stays so.
fn take_all(binary: &Binary) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    eventually(SOON, "no descriptor is left", || {
        crowd.push(TcpStream::connect(binary.addr()).unwrap());
        binary.said().contains("cannot accept")
    });
    crowd
}

#[test]
fn a_request_that_no_descriptor_is_left_for_is_blamed_on_no_endpoint() {
    let origin = Origin::ok("ok");
    let binary = Binary::start_as(poor, &route("/only", &[origin.url()], ""));
    let mut client = binary.client();
    assert_eq!(client.get("/").status, 404, "it is accepted");
    let _crowd = take_all(&binary);
    let answer = client.get("/only");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["reason"], "too_many_connections");
    let said = line(&binary, "too_many_connections");
    assert!(said.contains("this gateway has no socket left"), "{said}");
    assert!(said.contains("Too many open files"), "{said}");
    assert!(!said.contains("endpoint="), "no endpoint is named: {said}");
    assert!(!binary.said().contains("connect_failed"));
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_session_that_no_descriptor_is_left_for_hears_that_there_are_too_many_clients() {
    let (listen, server) = (free_addr(), Origin::ok("never asked"));
    let binary = Binary::start_as(
        poor,
        &format!(
            "tcp_proxy: {{enabled: true, listen_addr: \"{listen}\", connection_pooling: false}}\n{}  \
             db: {{upstream: \"postgres://{}\", health_check: false}}\n",
            route("/", &[server.url()], ""),
            server.addr(),
        ),
    );
    let mut session = TcpStream::connect(listen).unwrap();
    session.set_read_timeout(Some(SOON)).unwrap();
    let _crowd = take_all(&binary);
    session.write_all(STARTUP).unwrap();
    let mut answer = Vec::new();
    let _ = session.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.starts_with('E') && answer.contains("C53300"),
        "{answer}"
    );
    assert_eq!(server.connections(), 0);
}

/// A StartupMessage of `ann` (PostgreSQL, "Message Formats").
const STARTUP: &[u8] = b"\0\0\0\x12\0\x03\0\0user\0ann\0\0";
