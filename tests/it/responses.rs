//! What endpoints answer: malformed, split, early and interim responses.
//!
//! After each one a plain request over the same pool must get its own answer.

use std::time::Duration;

use crate::support::{Failure, Gw, Next, Origin, echoed, eventually};

/// What the client must see of an answer.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// A 502 of the gateway with `upstream_error` or `upstream_reset`.
    BadGateway,
    /// 200 with this body, whole.
    Body(&'static str),
    /// A 200 whose body never comes to its end.
    Cut,
    /// A 502, or this body, whole.
    BadGatewayOr(&'static str),
}

use Expect::{BadGateway, BadGatewayOr, Body, Cut};

/// Name, section of RFC 9112 unless it says otherwise, bytes, what the client sees.
const ANSWERS: &[(&str, &str, &[u8], Expect)] = &[
    ("not HTTP", "4", b"220 mail ready\r\n\r\n", BadGateway),
    ("nothing at all", "9.6", b"", BadGateway),
    ("half a status line", "4", b"HTTP/1.1 2", BadGateway),
    ("half a head", "4", b"HTTP/1.1 200 OK\r\nX-A: b\r\n", BadGateway),
    ("status is not a number", "4", b"HTTP/1.1 2xx OK\r\n\r\n", BadGateway),
    ("no colon in a field", "5", b"HTTP/1.1 200 OK\r\nX-A\r\nContent-Length: 0\r\n\r\n", BadGateway),
    ("space in a name", "5.1", b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 0\r\n\r\n", BadGateway),
    ("NUL in a value", "RFC 9110 5.5", b"HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 0\r\n\r\n", BadGateway),
    ("two different lengths", "6.3", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nhello", BadGateway),
    ("length is not a number", "6.3", b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nhi", BadGateway),
    ("length below zero", "6.3", b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi", BadGateway),
    ("length and coding", "6.3", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", BadGatewayOr("hello")),
    ("body shorter than its length", "8", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", Cut),
    ("chunks without an end", "8", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Cut),
    ("chunk cut short", "8", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello", Cut),
    ("chunk size is not hex", "7.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", Cut),
    ("no length and a close", "6.3", b"HTTP/1.1 200 OK\r\n\r\nhello", Body("hello")),
    ("a second response behind the first", "9.2", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", Body("hello")),
    ("bytes behind the body", "9.2", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more", Body("hello")),
    ("early hints first", "RFC 8297", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Body("hello")),
    ("100 that nobody asked for", "RFC 9110 15.2.1", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Body("hello")),
    ("101 that nobody asked for", "RFC 9110 15.2.2", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello", BadGateway),
];

#[test]
fn malformed_responses_become_a_502_and_poison_nobody() {
    for ending in [Next::Close, Next::Keep] {
        let origin = Origin::serve(move |request, conn| {
            let case = request.target.strip_prefix("/case/");
            match case.and_then(|nth| nth.parse::<usize>().ok()) {
                Some(nth) => {
                    conn.send(ANSWERS[nth].2)?;
                    let ends_by_close =
                        !matches!(ANSWERS[nth].3, Body(_)) || !conn_is_framed(ANSWERS[nth].2);
                    Ok(if ends_by_close { Next::Close } else { ending })
                }
                None => {
                    let body = conn.body()?;
                    conn.answer_json(request, &body)
                }
            }
        });
        let gw = Gw::route(&[origin.url()], "timeout_ms: 2000\nejection: false\n");
        let mut wrong = Vec::new();
        for (nth, (name, rfc, _, expect)) in ANSWERS.iter().enumerate() {
            let seen = seen(&gw, nth);
            let good = match (expect, &seen) {
                (BadGateway | BadGatewayOr(_), Seen::Status(502)) => true,
                (Body(body) | BadGatewayOr(body), Seen::Body(got)) => body == got,
                (Cut, Seen::Cut | Seen::Status(502)) => true,
                _ => false,
            };
            if !good {
                wrong.push(format!("{name} ({rfc}): {expect:?}, but {seen:?}"));
            }
            let target = format!("/after/{nth}");
            let next = gw.get(&target);
            if next.status != 200 || next.json()["target"] != target.as_str() {
                wrong.push(format!("{name}: the next request got {}", next.text()));
            }
        }
        assert!(wrong.is_empty(), "{ending:?}:\n{}", wrong.join("\n"));
    }
}

#[derive(Debug)]
enum Seen {
    Status(u16),
    Body(String),
    Cut,
    Nothing(#[expect(dead_code, reason = "shown when the test fails")] Failure),
}

fn seen(gw: &Gw, nth: usize) -> Seen {
    let mut client = gw.client();
    client.patience(Duration::from_secs(6));
    client.request("GET", &format!("/case/{nth}"), &[], b"");
    loop {
        match client.head() {
            Ok((head, _)) if (100..200).contains(&head.status) && head.status != 101 => {}
            Ok((head, framing)) if head.status == 200 => match client.body(framing) {
                Ok(body) => return Seen::Body(String::from_utf8_lossy(&body.bytes).into_owned()),
                Err(_) => return Seen::Cut,
            },
            Ok((head, _)) => return Seen::Status(head.status),
            Err(failure) => return Seen::Nothing(failure),
        }
    }
}

fn conn_is_framed(answer: &[u8]) -> bool {
    String::from_utf8_lossy(answer).contains("Content-Length")
}

#[test]
fn a_head_of_many_headers_passes_and_an_endless_one_does_not() {
    let origin = Origin::serve(|request, conn| {
        if request.target == "/many" {
            let many: Vec<(String, String)> = (0..80)
                .map(|n| (format!("X-{n}"), "v".repeat(100)))
                .collect();
            let many: Vec<(&str, &str)> =
                many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            return conn.answer(200, &many, b"many");
        }
        conn.send("HTTP/1.1 200 OK\r\n")?;
        loop {
            conn.send(format!("X-Endless: {}\r\n", "v".repeat(8000)))?;
        }
    });
    let gw = Gw::route(&[origin.url()], "");
    let many = gw.get("/many");
    assert_eq!((many.status, many.text()), (200, "many".to_owned()));
    assert_eq!(many.headers.first("x-79").map(str::len), Some(100));
    let endless = gw.get("/endless");
    assert_eq!(
        (endless.status, &endless.json()["reason"]),
        (502, &"upstream_error".into())
    );
}

#[test]
fn an_answer_before_the_upload_is_in_reaches_the_client() {
    let origin = Origin::serve(|_, conn| {
        conn.answer(403, &[("Connection", "close")], b"not you")?;
        // Reads on, as servers do, so that the answer is not lost to a reset.
        conn.until_closed()?;
        Ok(Next::Close)
    });
    let gw = Gw::route(&[origin.url()], "timeout_ms: 3000\n");
    let mut client = gw.client();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nfirst bytes");
    let answer = client.response().unwrap();
    assert_eq!((answer.status, answer.text()), (403, "not you".to_owned()));
}

#[test]
fn two_routes_share_no_connection_unless_they_share_the_upstream() {
    let origin = Origin::echo();
    let url = origin.url();
    let gw = Gw::start(format!(
        "upstreams:\n  both: {{upstream: \"{url}\"}}\nroutes:\n  /a: {{upstream: \"{url}\"}}\n  /b: {{upstream: both}}\n  /c: {{upstream: both}}\n"
    ));
    let mut client = gw.client();
    let mut connection = |target: &str| client.get(target).json()["connection"].clone();
    let (a, b, c) = (connection("/a"), connection("/b"), connection("/c"));
    assert_ne!(a, b);
    assert_eq!(b, c);
    assert_eq!(connection("/a"), a);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn cookies_and_repeated_headers_pass_one_by_one() {
    let origin = Origin::serve(|request, conn| {
        if request.target == "/echo" {
            let body = conn.body()?;
            return conn.answer_json(request, &body);
        }
        let fields = [
            ("Set-Cookie", "a=1; Path=/"),
            ("Set-Cookie", "b=2, with comma"),
            ("X-Mixed-CASE", "Kept"),
        ];
        conn.answer(200, &fields, b"")
    });
    let gw = Gw::route(&[origin.url()], "");
    let response = gw.get("/");
    let cookies: Vec<&str> = response.headers.all("set-cookie").collect();
    assert_eq!(cookies, ["a=1; Path=/", "b=2, with comma"]);
    assert_eq!(response.headers.first("x-mixed-case"), Some("Kept"));
    let fields = [("X-Many", "1"), ("X-Many", "2"), ("Cookie", "c=3; d=4")];
    let echo = gw.client().call("GET", "/echo", &fields, b"").json();
    assert_eq!(echoed(&echo, "x-many").join(","), "1,2");
    assert_eq!(echoed(&echo, "cookie"), ["c=3; d=4"]);
}

#[test]
fn a_late_408_on_an_idle_connection_is_nobodys_answer() {
    let origin = Origin::serve(|_, conn| {
        conn.answer(200, &[], b"mine")?;
        std::thread::sleep(Duration::from_millis(20));
        conn.send(
            "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )?;
        Ok(Next::Close)
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    for nth in 1..=10 {
        assert_eq!(client.get("/").text(), "mine");
        eventually(Duration::from_secs(5), "the 408 went out", || {
            origin.connections() == nth && origin.open_connections() == 0
        });
    }
}

#[test]
fn a_close_of_the_origin_is_not_the_clients() {
    let origin = Origin::serve(|_, conn| {
        conn.answer(200, &[("Connection", "close")], b"ok")?;
        Ok(Next::Close)
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    for _ in 0..5 {
        let response = client.get("/");
        assert_eq!(response.text(), "ok");
        assert!(!response.closes(), "{:?}", response.headers);
    }
    assert_eq!(origin.connections(), 5);
}
