//! What the log says of a failure: in words, and whose fault it is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::support::binary::program;
use crate::support::nginx::free_addr;
use crate::support::{Binary, Next, Origin, eventually, route, route_entry};

const SOON: Duration = Duration::from_secs(15);

/// The line of the log that begins with this reason.
#[track_caller]
fn line(binary: &Binary, reason: &str) -> String {
    let mut found = String::new();
    eventually(SOON, reason, || {
        let said = binary.said();
        let line = said.lines().find(|l| l.contains(&format!("{reason}: ")));
        found = line.unwrap_or_default().to_owned();
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
    let said = line(&binary, "no_healthy_endpoint");
    assert!(
        said.contains("every endpoint of the upstream is down or has no address"),
        "{said}"
    );
    let mut first = binary.client();
    first.request("GET", "/full", &[], b"");
    eventually(SOON, "it is there", || silent.requests() == 1);
    assert_eq!(binary.client().get("/full").status, 503);
    let said = line(&binary, "queue_timeout");
    assert!(said.contains("became free in `queue_timeout_ms`"), "{said}");
    assert!(!binary.said().contains("HTTPStatus"), "{}", binary.said());
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

#[test]
fn our_own_limit_of_open_files_is_blamed_on_nobody_else() {
    let origin = Origin::ok("ok");
    let postgres = free_addr();
    let own = free_addr();
    let binary = Binary::start_as(
        poor,
        &format!(
            "tcp_proxy: {{enabled: true, listen_addr: \"{own}\", connection_pooling: false}}\n{}  \
             db: {{upstream: \"postgres://{postgres}\", health_check: false}}\n",
            route("/", &[origin.url()], "")
        ),
    );
    // Both are accepted already when nothing is left.
    let mut http = binary.client();
    assert_eq!(http.get("/").text(), "ok");
    let mut session = TcpStream::connect(own).unwrap();
    session.set_read_timeout(Some(SOON)).unwrap();
    // Ends the pooled connection to the origin, so that the next request needs a new one.
    drop(origin);
    let mut crowd = Vec::new();
    eventually(SOON, "no descriptor is left", || {
        crowd.push(TcpStream::connect(binary.addr()).unwrap());
        binary.said().contains("cannot accept")
    });

    let answer = http.get("/");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["reason"], "too_many_connections");
    let said = line(&binary, "too_many_connections");
    assert!(said.contains("this gateway has no socket left"), "{said}");
    assert!(said.contains("endpoint -"), "no endpoint is named: {said}");

    let startup = b"\0\0\0\x1a\0\x03\0\0user\0ann\0database\0";
    let mut startup = startup.to_vec();
    startup.extend(b"x\0\0");
    startup[3] = u8::try_from(startup.len()).unwrap();
    session.write_all(&startup).unwrap();
    let mut answer = Vec::new();
    let _ = session.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.starts_with('E') && answer.contains("C53300"),
        "{answer}"
    );
}
