//! HTTP/1.0 on either side: each message has the version of its hop, and a framing that its reader
//! knows.

use std::time::Duration;

use crate::support::{Client, Gw, Next, Origin};

/// Answers each target as its name says, as an HTTP/1.0 server or a careless one would.
fn old_origin() -> Origin {
    Origin::serve(|request, conn| {
        let (next, answer) = match request.target.as_str() {
            "/chunked" => (
                Next::Keep,
                "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n\
                 3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            ),
            "/until-close" => (Next::Close, "HTTP/1.0 200 OK\r\n\r\nabcde"),
            "/length" => (
                Next::Keep,
                "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nabcde",
            ),
            "/coded" => (
                Next::Keep,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            ),
            "/1.1-chunked" => (
                Next::Keep,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
            ),
            "/204" => (Next::Close, "HTTP/1.0 204 No Content\r\n\r\n"),
            "/304" => (
                Next::Close,
                "HTTP/1.0 304 Not Modified\r\nTransfer-Encoding: chunked\r\nETag: \"x\"\r\n\r\n",
            ),
            "/102" => (
                Next::Close,
                "HTTP/1.0 102 Processing\r\n\r\nHTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
            ),
            "/101" => (
                Next::Close,
                "HTTP/1.0 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            ),
            other => panic!("{other}"),
        };
        let answer = match request.method.as_str() {
            "HEAD" => &answer[..answer.find("\r\n\r\n").expect("a head") + 4],
            _ => answer,
        };
        conn.send(answer)?;
        Ok(next)
    })
}

/// What stands before the body, and the body with its framing, as they come.
fn raw(client: &mut Client, until: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(until) {
        let some = client.read_some().expect("the response comes whole");
        assert!(!some.is_empty(), "{text:?} ends too early");
        text.push_str(std::str::from_utf8(&some).expect("text"));
    }
    text
}

fn field<'t>(head: &'t str, name: &str) -> Option<&'t str> {
    let mut lines = head
        .split("\r\n")
        .skip(1)
        .map_while(|line| line.split_once(": "));
    let found = lines.find(|(n, _)| n.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

#[test]
fn an_old_endpoint_is_no_matter_to_a_client_of_http_1_1() {
    let origin = old_origin();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    for (target, framing, end) in [
        ("/chunked", "transfer-encoding", "0\r\n\r\n"),
        ("/until-close", "transfer-encoding", "0\r\n\r\n"),
        ("/1.1-chunked", "transfer-encoding", "0\r\n\r\n"),
        ("/length", "content-length", "abcde"),
    ] {
        client.request("GET", target, &[], b"");
        let text = raw(&mut client, end);
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{target}: {head}");
        assert_eq!(field(head, "connection"), Some("keep-alive"), "{target}");
        assert!(field(head, framing).is_some(), "{target}: {head}");
        let both = ["transfer-encoding", "content-length"];
        let framings = both.iter().filter(|name| field(head, name).is_some());
        assert_eq!(framings.count(), 1, "{target}: {head}");
        let letters: String = body.chars().filter(|c| c.is_ascii_lowercase()).collect();
        assert_eq!(letters, "abcde", "{target}");
    }
    for target in ["/chunked", "/until-close", "/length"] {
        client.request("HEAD", target, &[], b"");
        let head = raw(&mut client, "\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{target}: {head}");
        assert_eq!(field(&head, "connection"), Some("keep-alive"), "{target}");
    }
    for (target, status) in [("/204", "204 No Content"), ("/304", "304 Not Modified")] {
        client.request("GET", target, &[], b"");
        let head = raw(&mut client, "\r\n\r\n");
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{head}"
        );
    }
    client.request("GET", "/102", &[], b"");
    let text = raw(&mut client, "abcde");
    assert!(text.starts_with("HTTP/1.1 102 "), "{text}");
    assert!(text.contains("\r\n\r\nHTTP/1.1 200 OK\r\n"), "{text}");
}

#[test]
fn an_old_client_gets_a_length_or_the_end_of_the_connection_and_no_chunks() {
    let origin = old_origin();
    let gw = Gw::route(&[origin.url()], "");
    for connection in ["keep-alive", "close", ""] {
        let asks = |method: &str, target: &str| {
            let connection = match connection {
                "" => String::new(),
                option => format!("Connection: {option}\r\n"),
            };
            format!("{method} {target} HTTP/1.0\r\nHost: x\r\n{connection}\r\n")
        };
        let kept = connection == "keep-alive";
        for target in ["/chunked", "/until-close", "/1.1-chunked"] {
            let mut client = gw.client();
            client.send(asks("GET", target));
            let text = String::from_utf8(client.rest().expect("an end")).expect("text");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{target}: {head}");
            assert_eq!(field(head, "connection"), Some("close"), "{target}");
            assert_eq!(field(head, "transfer-encoding"), None, "{target}");
            assert_eq!(field(head, "content-length"), None, "{target}");
            assert_eq!(body, "abcde", "{target}");
        }
        for (method, target, end) in [
            ("GET", "/length", "abcde"),
            ("HEAD", "/1.1-chunked", "\r\n\r\n"),
            ("HEAD", "/until-close", "\r\n\r\n"),
            ("GET", "/204", "\r\n\r\n"),
            ("GET", "/304", "\r\n\r\n"),
        ] {
            let mut client = gw.client();
            client.send(asks(method, target));
            let head = raw(&mut client, end);
            assert!(head.starts_with("HTTP/1.1 "), "{target}: {head}");
            assert_eq!(field(&head, "transfer-encoding"), None, "{target}");
            let said = field(&head, "connection");
            assert_eq!(
                said == Some("keep-alive"),
                kept,
                "{method} {target}: {head}"
            );
            if !kept {
                assert_eq!(said, Some("close"), "{method} {target}");
                assert!(client.is_closed_within(Duration::from_secs(5)), "{target}");
                continue;
            }
            client.send(asks("GET", "/length"));
            assert!(
                raw(&mut client, "abcde").starts_with("HTTP/1.1 200"),
                "{target}"
            );
        }
    }
}

#[test]
fn a_coding_that_an_old_client_cannot_read_is_no_response_for_it() {
    let origin = old_origin();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    client.send("GET /coded HTTP/1.0\r\nHost: x\r\n\r\n");
    let refused = client.response().expect("a response");
    assert_eq!(
        (refused.status, refused.version.as_str()),
        (502, "HTTP/1.1")
    );
    let mut client = gw.client();
    client.request("GET", "/coded", &[], b"");
    let (passed, _) = client.head().expect("a response");
    assert_eq!(passed.status, 200);
    let codings = passed.headers.first("transfer-encoding");
    assert_eq!(codings, Some("gzip, chunked"));
}

#[test]
fn an_endpoint_of_http_1_0_cannot_switch_protocols() {
    let origin = old_origin();
    let gw = Gw::route(&[origin.url()], "");
    let fields = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    let answer = gw.client().call("GET", "/101", &fields, b"");
    assert_eq!(answer.status, 502);
    assert_eq!(gw.reasons(1), ["upstream_error"]);
}

#[test]
fn what_the_gateway_says_itself_has_its_version_too() {
    let origin = old_origin();
    let gw = Gw::start(crate::support::route("/known", &[origin.url()], ""));
    let mut client = gw.client();
    client.send("GET /unknown HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.response().expect("a response");
    assert_eq!((answer.status, answer.version.as_str()), (404, "HTTP/1.1"));
    assert!(answer.headers.has("content-length"));
    assert_eq!(answer.headers.first("connection"), Some("keep-alive"));
}
