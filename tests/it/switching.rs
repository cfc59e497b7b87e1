//! Requests that ask to switch protocols (`Upgrade`).

use std::sync::mpsc;
use std::time::Duration;

use crate::support::{Client, Gw, Next, Origin, echoed};

/// Switches to whatever it is asked for and echoes; what asks for nothing is answered as JSON.
fn switching() -> Origin {
    Origin::raw(|conn| {
        while let Some(request) = conn.request()? {
            let Some(protocol) = request.headers.first("upgrade") else {
                let body = conn.body()?;
                conn.answer_json(&request, &body)?;
                continue;
            };
            assert_eq!(request.headers.first("connection"), Some("Upgrade"));
            conn.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
            ))?;
            return conn.echo_bytes();
        }
        Ok(())
    })
}

#[track_caller]
fn switches(client: &mut Client, method: &str, protocol: &str) {
    let fields = [("Connection", "keep-alive, Upgrade"), ("Upgrade", protocol)];
    let answer = client.call(method, "/x", &fields, b"");
    assert_eq!(answer.status, 101, "{protocol}: {}", answer.text());
    assert_eq!(answer.headers.first("upgrade"), Some(protocol));
    for bytes in ["GET / HTTP/1.1\r\n\r\n", "\0\x01second"] {
        client.send(bytes);
        let mut echo = Vec::new();
        while echo.len() < bytes.len() {
            echo.extend(client.read_some().expect("the echo comes"));
        }
        assert_eq!(echo, bytes.as_bytes(), "{protocol}");
    }
}

/// The request goes on as any other, and the endpoint hears nothing of a switch.
#[track_caller]
fn goes_on(client: &mut Client, fields: &[(&str, &str)]) {
    let answer = client.call("GET", "/x", fields, b"");
    assert_eq!(answer.status, 200, "{fields:?}");
    let echo = answer.json();
    for name in ["upgrade", "connection", "http2-settings"] {
        assert_eq!(echoed(&echo, name), Vec::<String>::new(), "{fields:?}");
    }
}

#[test]
fn a_request_switches_to_any_one_protocol() {
    let origin = switching();
    let gw = Gw::route(&[origin.url()], "timeout_ms: 2000\n");
    for (method, protocol) in [
        ("GET", "websocket"),
        ("POST", "tcp"),
        ("POST", "SPDY/3.1"),
        ("GET", "my-own/7"),
    ] {
        let mut client = gw.client();
        switches(&mut client, method, protocol);
        drop(client);
    }
    assert_eq!(origin.requests(), 4);
}

#[test]
fn what_carries_http_and_what_is_not_one_protocol_is_not_passed_on() {
    let origin = switching();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    let upgrade = ("Connection", "Upgrade, HTTP2-Settings");
    for protocol in [
        "h2c",
        "H2C",
        "HTTP/2.0",
        "TLS/1.2",
        "websocket, h2c",
        "h2c, websocket",
        "tcp,",
        "a b",
    ] {
        goes_on(
            &mut client,
            &[
                upgrade,
                ("Upgrade", protocol),
                ("HTTP2-Settings", "AAMAAABk"),
            ],
        );
    }
    goes_on(
        &mut client,
        &[upgrade, ("Upgrade", "tcp"), ("Upgrade", "h2c")],
    );
    goes_on(&mut client, &[("Upgrade", "tcp")]);
    goes_on(
        &mut client,
        &[("Upgrade", "websocket"), ("Connection", "keep-alive")],
    );
}

#[test]
fn an_endpoint_that_switches_unasked_is_an_error() {
    let origin = Origin::serve(|_, conn| {
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        )?;
        conn.echo_bytes().map(|()| Next::Close)
    });
    let gw = Gw::route(&[origin.url()], "");
    for fields in [
        &[("Connection", "Upgrade"), ("Upgrade", "h2c")][..],
        &[("Upgrade", "tcp")],
        &[],
    ] {
        let answer = gw.client().call("GET", "/", fields, b"");
        assert_eq!(answer.status, 502, "{fields:?}");
    }
}

#[test]
fn a_route_switches_only_to_what_its_list_names() {
    let origin = switching();
    let url = [origin.url()];
    let listed = Gw::route(&url, "upgrade: [websocket, SPDY]\n");
    switches(&mut listed.client(), "GET", "WebSocket");
    switches(&mut listed.client(), "POST", "SPDY/3.1");
    let asks = ("Connection", "Upgrade");
    let mut client = listed.client();
    goes_on(&mut client, &[asks, ("Upgrade", "tcp")]);
    goes_on(&mut client, &[asks, ("Upgrade", "websocket2")]);
    for off in ["upgrade: false\n", "upgrade: []\n"] {
        let gw = Gw::route(&url, off);
        let mut client = gw.client();
        for protocol in ["websocket", "tcp"] {
            goes_on(&mut client, &[asks, ("Upgrade", protocol)]);
        }
    }
}

#[test]
fn an_endpoint_may_decline_and_the_connection_goes_on() {
    let origin = Origin::serve(|request, conn| match request.target.as_str() {
        "/426" => conn.answer(
            426,
            &[("Upgrade", "foo/2"), ("Connection", "Upgrade")],
            b"no",
        ),
        _ => conn.answer(200, &[], b"no"),
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    let fields = [("Connection", "Upgrade"), ("Upgrade", "foo/1")];
    let answer = client.call("GET", "/", &fields, b"");
    assert_eq!((answer.status, answer.text().as_str()), (200, "no"));
    let answer = client.call("GET", "/426", &fields, b"");
    assert_eq!(answer.headers.first("upgrade"), Some("foo/2"));
    assert_eq!(client.get("/").text(), "no");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_switched_connection_ends_with_its_client() {
    let origin = switching();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    switches(&mut client, "POST", "tcp");
    drop(client);
    crate::support::eventually(Duration::from_secs(5), "the endpoint hears it", || {
        origin.open_connections() == 0
    });
    assert_eq!(gw.reasons(1), ["ok"]);
}

#[test]
fn a_request_with_a_body_switches_behind_it() {
    let origin = Origin::raw(|conn| {
        let request = conn.request()?.expect("a request comes");
        let body = conn.body()?;
        let protocol = request.headers.first("upgrade").expect("it asks");
        conn.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        ))?;
        conn.send(&body.bytes)?;
        conn.echo_bytes()
    });
    let gw = Gw::route(&[origin.url()], "timeout_ms: 2000\n");
    let mut client = gw.client();
    // As `docker exec` asks.
    let fields = [("Connection", "Upgrade"), ("Upgrade", "tcp")];
    let switched = client.call("POST", "/exec/1/start", &fields, b"{\"Tty\":true}");
    assert_eq!(switched.status, 101);
    client.send("ls\n");
    let expected = "{\"Tty\":true}ls\n";
    let mut echo = Vec::new();
    while echo.len() < expected.len() {
        echo.extend(client.read_some().expect("the echo comes"));
    }
    assert_eq!(String::from_utf8(echo).unwrap(), expected);
}

#[test]
fn what_a_client_sends_before_it_ends_its_side_reaches_the_endpoint() {
    const SENT: usize = 3 << 20;
    let (arrived, count) = mpsc::channel();
    let origin = Origin::raw(move |conn| {
        conn.request()?.expect("a request comes");
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
        )?;
        let mut read = 0;
        loop {
            match conn.next_bytes()?.len() {
                0 => break,
                more => read += more,
            }
        }
        let _ = arrived.send(read);
        // Lost: Pingora ends the connection for both.
        let _ = conn.send("last words");
        Ok(())
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    let fields = [("Connection", "Upgrade"), ("Upgrade", "tcp")];
    assert_eq!(client.call("POST", "/attach", &fields, b"").status, 101);
    client.send(vec![b'x'; SENT]);
    client.finish();
    assert_eq!(count.recv_timeout(Duration::from_secs(20)), Ok(SENT));
    assert_eq!(client.read_some().unwrap_or_default(), b"");
}
