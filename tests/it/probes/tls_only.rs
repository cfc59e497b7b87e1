//! Servers that admit a check over TLS only: out, in words that say so and what to do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harbr_router::upstream::Role;
use socket2::SockRef;
use tempfile::TempDir;

use super::refusing::why;
use super::{Checks, LOGIN, fake};
use crate::support::daemon::{lasting_port, output};
use crate::support::{Mariadb, Postgres, Redis, eventually};

fn rules(server: &Postgres, lines: &str) {
    let file = server.folder().join("data/pg_hba.conf");
    std::fs::write(file, format!("local all all trust\n{lines}")).expect("a file of ours");
    let before = server.log().matches("reloading configuration").count();
    assert_eq!(server.sql("SELECT pg_reload_conf()"), "t");
    eventually(Duration::from_secs(10), "the rules are read", || {
        server.log().matches("reloading configuration").count() > before
    });
}

#[test]
fn a_postgres_that_admits_over_tls_only_says_so_until_a_rule_lets_checks_in() {
    let server = Postgres::with(&["ssl=on"]);
    let [checks, blind] = [LOGIN, ""].map(|login| Checks::of(&[&server.url()], login));
    checks.await_roles(&[Role::Primary]);
    let over_tls = "hostssl all all 127.0.0.1/32 scram-sha-256\n";
    for lines in [
        over_tls.to_owned(),
        format!("{over_tls}hostnossl all all all reject\n"),
    ] {
        rules(&server, &lines);
        checks.await_health(false);
        let why = why(&checks);
        for part in [
            "check: 28000 ",
            "no encryption",
            "over TLS",
            "hostnossl",
            "clear text",
        ] {
            assert!(why.contains(part), "{part} in {why}");
        }
        blind.after(3);
        assert!(blind.healthy());
        rules(
            &server,
            &format!("{over_tls}hostnossl all all 127.0.0.1/32 scram-sha-256\n"),
        );
        checks.await_health(true);
        checks.await_roles(&[Role::Primary]);
    }
}

#[test]
fn a_wrong_password_of_postgres_is_not_blamed_on_tls() {
    let server = Postgres::with(&["ssl=on"]);
    let checks = Checks::of(&[&server.url()], ", user: postgres, password: wrong");
    checks.await_health(false);
    let why = why(&checks);
    assert!(
        why.starts_with("check: 28P01 ") && !why.contains("TLS"),
        "{why}"
    );
}

#[test]
fn a_mariadb_account_that_requires_tls_is_named_as_one_cause() {
    let server = Mariadb::new();
    server.sql("CREATE USER careful@'%' IDENTIFIED BY 'sesame' REQUIRE SSL");
    let checks = Checks::of(&[&server.url()], ", user: careful, password: sesame");
    checks.await_health(false);
    let why = why(&checks);
    for part in ["1045 ", "REQUIRE SSL", "clear text"] {
        assert!(why.contains(part), "{part} in {why}");
    }
}

fn certificate(folder: &Path) {
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-keyout",
            "key.pem",
            "-out",
            "crt.pem",
        ])
        .current_dir(folder);
    output(&mut openssl).unwrap_or_else(|error| panic!("openssl: {error}"));
}

#[test]
fn a_redis_that_speaks_tls_only_is_suspected_of_it() {
    let folder = TempDir::new().expect("a temporary folder");
    certificate(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let port = lasting_port();
    let _server = Redis::with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("crt.pem"),
        "--tls-key-file",
        &file("key.pem"),
        "--tls-ca-cert-file",
        &file("crt.pem"),
    ]);
    for login in ["", ", password: sesame"] {
        let checks = Checks::of(&[&format!("redis://127.0.0.1:{port}")], login);
        checks.await_health(false);
        assert!(why(&checks).contains("speaks TLS only"), "{}", why(&checks));
    }
}

/// Reads what it is asked, and ends with this.
fn ending(end: fn(TcpStream)) -> SocketAddr {
    fake(move |_, mut stream| {
        let _asked = stream.read(&mut [0; 1024]);
        end(stream);
    })
}

#[test]
fn an_alert_a_close_and_a_reset_instead_of_an_answer_are_told_apart() {
    let alert = ending(|mut stream| {
        // Fatal, protocol_version.
        let _gone = stream.write_all(&[0x15, 3, 1, 0, 2, 2, 70]);
    });
    let close = ending(drop);
    let reset = ending(|stream| {
        let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        linger.expect("a socket option");
    });
    for (scheme, login) in [
        ("mongodb", ""),
        ("redis", ", password: x"),
        ("cassandra", ""),
    ] {
        for (addr, said) in [
            (alert, "answers with a TLS alert: it speaks TLS only"),
            (close, "without an answer (perhaps it speaks TLS only"),
            (
                reset,
                "Connection reset by peer (os error 104) (perhaps it speaks TLS only",
            ),
        ] {
            let checks = Checks::of(&[&format!("{scheme}://{addr}")], login);
            checks.await_health(false);
            assert!(why(&checks).contains(said), "{scheme}: {}", why(&checks));
        }
    }
    // Where TLS is asked for in clear text, a close says nothing about it.
    let checks = Checks::of(&[&format!("postgres://{close}")], LOGIN);
    checks.await_health(false);
    assert!(!why(&checks).contains("TLS"), "{}", why(&checks));
}
