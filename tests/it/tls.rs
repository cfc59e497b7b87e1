//! HTTPS: certificates by name, what handshakes refuse, and HTTP/1.1 inside of TLS.

mod clients;
mod files;
mod handshakes;
mod renewal;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::support::authority::{Authority, Issued};
use crate::support::{Client, Gw, Next, Origin, client, echoed, eventually, route};

const SOON: Duration = Duration::from_secs(15);

/// The `tls` section on a free port, with these certificates and further keys.
fn section(certificates: &[&Issued], keys: &str) -> String {
    let entries: Vec<String> = certificates.iter().map(|one| one.entry()).collect();
    format!(
        "tls:\n  listen_addr: 127.0.0.1:0\n  certificates: [{}]\n{}",
        entries.join(", "),
        keys.lines()
            .map(|line| format!("  {line}\n"))
            .collect::<String>()
    )
}

fn gateway(origin: &Origin, certificates: &[&Issued], keys: &str) -> Gw {
    Gw::start(section(certificates, keys) + &route("/", &[origin.url()], ""))
}

fn failures(gw: &Gw, cause: &str) -> f64 {
    let metrics = gw.metrics();
    metrics.sum("harbr_tls_handshake_failures_total", &[("cause", cause)])
}

#[test]
fn a_request_in_tls_reaches_the_endpoint_that_is_told_of_https() {
    let authority = Authority::new();
    let cert = authority.server("a", &["example.org"]);
    let origin = Origin::echo();
    let gw = gateway(&origin, &[&cert], "");
    let mut client = authority
        .trusting()
        .connect(gw.https_addr(), "example.org")
        .unwrap();
    for _ in 0..3 {
        let response = client.get("example.org", "/a?b=c").unwrap();
        assert_eq!(response.status, 200);
        let echo = response.json();
        assert_eq!(echoed(&echo, "x-forwarded-proto"), ["https"]);
    }
    assert_eq!(origin.connections(), 1);
    let record = &gw.access_log(1)[0];
    assert_eq!(record["tls"], "TLSv1.3");
    assert_eq!(record["listener"], "127.0.0.1:0");
    let metrics = gw.metrics();
    assert_eq!(
        metrics.sum("harbr_tls_handshakes_total", &[("version", "TLSv1.3")]),
        1.0
    );
    let plain = gw.get("/");
    assert_eq!(echoed(&plain.json(), "x-forwarded-proto"), ["http"]);
    let records = gw.access_log(4);
    let plain = records.iter().filter(|record| record.get("tls").is_none());
    assert_eq!(plain.count(), 1);
}

#[test]
fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let authority = Authority::new();
    let first = authority.server("first", &["first.test"]);
    let wild = authority.server("wild", &["*.example.org"]);
    let exact = authority.server("exact", &["www.example.org", "example.net"]);
    let origin = Origin::ok("x");
    let gw = gateway(&origin, &[&first, &wild, &exact], "");
    let trusting = authority.trusting();
    for (name, expected) in [
        ("first.test", &first),
        ("www.example.org", &exact),
        ("WWW.Example.ORG", &exact),
        ("example.net", &exact),
        ("other.example.org", &wild),
    ] {
        let client = trusting.connect(gw.https_addr(), name).unwrap();
        assert_eq!(client.certificate(), expected.der(), "{name}");
    }
    // None has these names: the client itself refuses the first one.
    for name in [
        "a.b.example.org",
        "example.org",
        "unknown.test",
        "127.0.0.1",
    ] {
        let refused = trusting.connect(gw.https_addr(), name).err().expect(name);
        assert!(
            refused.to_string().contains("certificate"),
            "{name}: {refused}"
        );
    }
    eventually(SOON, "the alerts", || {
        failures(&gw, "refused_by_client") == 4.0
    });
}

#[test]
fn curl_and_openssl_speak_every_version_that_is_offered() {
    let authority = Authority::new();
    let cert = authority.server("a", &["localhost"]);
    let origin = Origin::ok("hello");
    let gw = gateway(&origin, &[&cert], "");
    let port = gw.https_addr().port();
    for (version, logged) in [("--tlsv1.3", "TLSv1.3"), ("--tls-max 1.2", "TLSv1.2")] {
        let output = Command::new("curl")
            .args(["-sS", "--http1.1", "--cacert"])
            .arg(authority.ca())
            .args(version.split(' '))
            .args(["--resolve", &format!("localhost:{port}:127.0.0.1")])
            .arg(format!("https://localhost:{port}/"))
            .output()
            .expect("curl is installed");
        assert_eq!(output.stdout, b"hello", "{output:?}");
        let metrics = gw.metrics();
        assert_eq!(
            metrics.sum("harbr_tls_handshakes_total", &[("version", logged)]),
            1.0
        );
    }
    for old in ["-tls1", "-tls1_1"] {
        let output = openssl_client(port, &[old, "-cipher", "ALL:@SECLEVEL=0"], b"");
        assert!(
            output.contains("alert") || output.contains("no protocols"),
            "{output}"
        );
    }
    eventually(SOON, "both are counted", || {
        failures(&gw, "nothing_in_common") == 2.0
    });
}

#[test]
fn a_session_is_resumed_and_renegotiation_is_refused() {
    let authority = Authority::new();
    let cert = authority.server("a", &["localhost"]);
    let origin = Origin::ok("hello");
    let gw = gateway(&origin, &[&cert], "");
    let port = gw.https_addr().port();
    let output = openssl_client(port, &["-tls1_2", "-reconnect"], b"");
    assert_eq!(output.matches("Reused, TLSv1.2").count(), 5, "{output}");
    let output = openssl_client(port, &["-tls1_2"], b"R\n");
    assert!(
        output.contains("no renegotiation") || output.contains("RENEGOTIATING"),
        "{output}"
    );
    let get = authority
        .trusting()
        .get(gw.https_addr(), "localhost", "/")
        .unwrap();
    assert_eq!(get.text(), "hello");
}

/// What `openssl s_client` prints.
fn openssl_client(port: u16, args: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{port}"),
            "-servername",
            "localhost",
        ])
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut stdin = child.stdin.take().expect("piped");
    // It may be gone already.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn bodies_pass_in_both_directions_and_the_end_is_said() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::serve(|request, conn| {
        let body = conn.body()?;
        let length = 3_000_000;
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nX-Got: {}\r\nContent-Length: {length}\r\n\r\n",
            body.len
        ))?;
        conn.send(vec![b'x'; length])?;
        let _ = request;
        Ok(Next::Keep)
    });
    let gw = gateway(&origin, &[&cert], "");
    let mut client = authority
        .trusting()
        .connect(gw.https_addr(), "a.test")
        .unwrap();
    for length in [0, 1, 16_384, 2_000_000] {
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"
            ))
            .unwrap();
        client.send(vec![b'y'; length]).unwrap();
        let response = client.response().unwrap();
        assert_eq!(
            response.headers.first("x-got"),
            Some(length.to_string().as_str())
        );
        assert_eq!(response.body.len, 3_000_000);
    }
    client
        .send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .unwrap();
    // An end without close_notify would be an error (RFC 8446, section 6.1).
    let rest = client.rest().unwrap();
    assert!(rest.ends_with(b"xxx"), "{}", rest.len());
}

#[test]
fn every_end_of_a_connection_says_close_notify() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let keys = "keepalive_timeout_secs: 1\nheader_timeout_ms: 500\n".to_owned();
    let gw = Gw::start(keys + &section(&[&cert], "") + &route("/", &[origin.url()], ""));
    let connect = || {
        authority
            .trusting()
            .connect(gw.https_addr(), "a.test")
            .unwrap()
    };
    let mut idle = connect();
    assert_eq!(idle.get("a.test", "/").unwrap().status, 200);
    assert_eq!(idle.rest().unwrap(), b"");
    let mut silent = connect();
    assert_eq!(silent.rest().unwrap(), b"");
    let mut slow = connect();
    slow.send("GET / HT").unwrap();
    let late = slow.rest().unwrap();
    assert!(
        late.starts_with(b"HTTP/1.1 408 "),
        "{}",
        String::from_utf8_lossy(&late)
    );
    let mut wrong = connect();
    wrong
        .send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        .unwrap();
    let refused = wrong.rest().unwrap();
    assert!(
        refused.starts_with(b"HTTP/1.1 400 "),
        "{}",
        String::from_utf8_lossy(&refused)
    );
}

#[test]
fn a_websocket_passes_in_tls() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::raw(|conn| {
        let request = conn.request()?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        assert_eq!(request.headers.first("upgrade"), Some("websocket"));
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )?;
        conn.echo_bytes()
    });
    let gw = gateway(&origin, &[&cert], "");
    let mut client = authority
        .trusting()
        .connect(gw.https_addr(), "a.test")
        .unwrap();
    client
        .send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .unwrap();
    assert_eq!(client.response().unwrap().status, 101);
    for length in [1, 100, 100_000] {
        let sent: Vec<u8> = (0..length).map(|n| n as u8).collect();
        client.send(&sent).unwrap();
        let mut heard = vec![0; length];
        client.stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, sent);
    }
}

#[test]
fn plain_requests_are_sent_to_https_where_that_is_asked_for() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::echo();
    let keys = section(&[&cert], "redirect_http: true") + &route("/", &[origin.url()], "");
    let gw = Gw::start(&keys);
    for (host, target, location) in [
        ("a.test", "/x?y=%20z", "https://a.test/x?y=%20z".to_owned()),
        ("a.test:80", "/", "https://a.test:0/".to_owned()),
    ] {
        // Its body is not read, so the connection ends with the answer.
        let response = gw.client().call("POST", target, &[("Host", host)], b"body");
        assert_eq!(response.status, 308);
        // The configured port is 0 here, as no test has a fixed one.
        assert_eq!(response.headers.first("location"), Some(location.as_str()));
    }
    assert_eq!(origin.requests(), 0);
    assert_eq!(gw.reasons(2), ["ok", "ok"]);
    assert_eq!(
        authority
            .trusting()
            .get(gw.https_addr(), "a.test", "/")
            .unwrap()
            .status,
        200
    );
    // TLS ended at a proxy that is trusted.
    let gw = Gw::start(format!("trusted_proxies: [127.0.0.1]\n{keys}"));
    let mut client = gw.client();
    let through = |client: &mut Client, proto| {
        client
            .call(
                "GET",
                "/",
                &[("Host", "a.test"), ("X-Forwarded-Proto", proto)],
                b"",
            )
            .status
    };
    assert_eq!(through(&mut client, "https"), 200);
    assert_eq!(through(&mut client, "http"), 308);
}

#[test]
fn who_speaks_the_wrong_protocol_reads_why() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let gw = gateway(&origin, &[&cert], "");
    let response = client::get(gw.https_addr(), "/");
    assert_eq!(response.status, 400);
    assert_eq!(response.json()["detail"], "this port speaks TLS: use https");
    assert_eq!(failures(&gw, "not_tls"), 1.0);
    assert_eq!(gw.access_log(1)[0]["reason"], "bad_request");
    // And TLS where HTTP is spoken: an answer in HTTP, at once.
    let refused = authority
        .trusting()
        .connect(gw.addr(), "a.test")
        .err()
        .expect("no TLS there");
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidData, "{refused}");
    assert_eq!(gw.get("/").status, 200);
}

#[test]
fn a_drain_does_not_wait_for_clients_that_have_said_nothing() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let top = "header_timeout_ms: 60000\nserver: {drain_timeout_secs: 60}\nhttp2: {h2c: true}\n";
    let gw = Gw::start(top.to_owned() + &section(&[&cert], "") + &route("/", &[origin.url()], ""));
    let silent = [gw.https_addr(), gw.addr()].map(|addr| TcpStream::connect(addr).unwrap());
    eventually(SOON, "both are open", || {
        gw.metrics().sum("harbr_connections_active", &[]) == 2.0
    });
    let begun = std::time::Instant::now();
    gw.stop();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    drop(silent);
}

#[test]
fn a_drain_ends_connections_in_tls_as_it_does_plain_ones() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let gw = gateway(&origin, &[&cert], "");
    let mut idle = authority
        .trusting()
        .connect(gw.https_addr(), "a.test")
        .unwrap();
    assert_eq!(idle.get("a.test", "/").unwrap().status, 200);
    let half = TcpStream::connect(gw.https_addr()).unwrap();
    gw.stop();
    assert_eq!(idle.rest().unwrap(), b"");
    drop(half);
}

#[test]
fn an_ocsp_response_is_stapled_and_one_that_does_not_fit_is_not() {
    let authority = Authority::new();
    let cert = authority.server("a", &["localhost"]);
    let other = authority.server("b", &["b.test"]);
    let origin = Origin::ok("x");
    let garbage = authority.file("garbage.ocsp");
    std::fs::write(&garbage, b"\x30\x03\x0a\x01\x06").unwrap();
    for (response, stapled, warning) in [
        (authority.ocsp("a.ocsp", &cert), true, ""),
        (
            authority.ocsp("b.ocsp", &other),
            false,
            "is about another certificate",
        ),
        (garbage, false, "answered with status 6"),
    ] {
        let entry = cert
            .entry()
            .replace('}', &format!(", ocsp: {response:?}}}"));
        let tls = format!("tls: {{listen_addr: \"127.0.0.1:0\", certificates: [{entry}]}}\n");
        let text = tls + &route("/", &[origin.url()], "");
        let gw = Gw::start(&text);
        let said = openssl_client(gw.https_addr().port(), &["-status"], b"");
        let is_stapled = said.contains("OCSP Response Status: successful");
        assert_eq!(is_stapled, stapled, "{said}");
        let warnings = gw.reload(text).json()["warnings"].to_string();
        assert_eq!(
            warnings.contains("tls.certificates[0].ocsp"),
            !warning.is_empty(),
            "{warnings}"
        );
        assert!(warnings.contains(warning), "{warnings}");
    }
}
