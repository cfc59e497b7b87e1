//! Handshakes that do not come to their end: bounded, counted, and nobody else's business.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{SOON, failures, section};
use crate::support::authority::Authority;
use crate::support::{Gw, Origin, eventually, route, timed};

/// The start of a ClientHello record that promises 512 bytes.
const HALF: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[test]
fn half_a_handshake_ends_in_its_time_while_others_are_served() {
    let _timed = timed();
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let keys = "header_timeout_ms: 1000\n".to_owned();
    let gw = Gw::start(keys + &section(&[&cert], "") + &route("/", &[origin.url()], ""));
    let begun = Instant::now();
    let mut held: Vec<TcpStream> = (0..200)
        .map(|nth| {
            let mut stream = TcpStream::connect(gw.https_addr()).unwrap();
            let sent = [&b""[..], &HALF[..1], HALF][nth % 3];
            stream.write_all(sent).unwrap();
            stream
        })
        .collect();
    let trusting = authority.trusting();
    while begun.elapsed() < Duration::from_millis(800) {
        let response = trusting.get(gw.https_addr(), "a.test", "/").unwrap();
        assert_eq!(response.status, 200);
    }
    for stream in &mut held {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut rest = Vec::new();
        // An end or a reset.
        let _ = stream.read_to_end(&mut rest);
    }
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(10)).contains(&took),
        "{took:?}"
    );
    eventually(SOON, "each is counted", || {
        failures(&gw, "timeout") == 200.0
    });
    eventually(SOON, "none is left", || {
        gw.metrics()
            .sum("harbr_connections_active", &[("listener", "127.0.0.1:0")])
            == 0.0
    });
}

#[test]
fn each_cause_has_its_word() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let gw =
        Gw::start(section(&[&cert], "min_version: \"1.3\"") + &route("/", &[origin.url()], ""));
    let trusting = authority.trusting();
    let mut old = trusting.clone();
    old.versions = vec![&rustls::version::TLS12];
    let mut foreign = trusting.clone();
    foreign.alpn = vec![b"imap"];
    for (setup, cause, alert) in [
        (&old, "nothing_in_common", "ProtocolVersion"),
        (&foreign, "alpn", "NoApplicationProtocol"),
    ] {
        let refused = setup.get(gw.https_addr(), "a.test", "/").unwrap_err();
        assert!(refused.to_string().contains(alert), "{cause}: {refused}");
        assert_eq!(failures(&gw, cause), 1.0);
    }
    for (bytes, cause) in [
        (&b"\x16\x03\x01\x00\x05hello"[..], "protocol"),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "not_tls"),
        (b"GET / HTTP/1.0\r\n\r\n", "not_tls"),
        (b"", "client_closed"),
        (HALF, "client_closed"),
    ] {
        let before = failures(&gw, cause);
        let mut stream = TcpStream::connect(gw.https_addr()).unwrap();
        stream.write_all(bytes).unwrap();
        if cause == "client_closed" {
            drop(stream);
        } else {
            let mut heard = Vec::new();
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.read_to_end(&mut heard).unwrap();
        }
        eventually(SOON, cause, || failures(&gw, cause) > before);
    }
    let mut http1 = trusting.clone();
    http1.alpn = vec![b"h2", b"http/1.1"];
    let client = http1.connect(gw.https_addr(), "a.test").unwrap();
    assert_eq!(client.stream.conn.alpn_protocol(), Some(&b"h2"[..]));
}

#[test]
fn over_the_limit_there_is_an_alert_and_no_handshake() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let keys = "max_connections: 1\n".to_owned();
    let gw = Gw::start(keys + &section(&[&cert], "") + &route("/", &[origin.url()], ""));
    let trusting = authority.trusting();
    let mut first = trusting.connect(gw.https_addr(), "a.test").unwrap();
    assert_eq!(first.get("a.test", "/").unwrap().status, 200);
    let refused = trusting
        .connect(gw.https_addr(), "a.test")
        .err()
        .expect("one at once");
    assert!(refused.to_string().contains("InternalError"), "{refused}");
    // A response may be read before its record is written.
    assert!(gw.reasons(2).contains(&"too_many_connections".to_owned()));
    drop(first);
    eventually(SOON, "there is room again", || {
        trusting
            .get(gw.https_addr(), "a.test", "/")
            .is_ok_and(|r| r.status == 200)
    });
}
