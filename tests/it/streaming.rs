//! Responses that come in pieces: each is sent on when the endpoint pauses, whatever their framing.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::support::{Client, Gw, Next, Origin};

/// Sends the pieces of the answer that the target names, each when the test says so.
fn in_pieces() -> (Origin, mpsc::Sender<()>) {
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let origin = Origin::serve(move |request, conn| {
        let (next, pieces): (Next, &[&str]) = match request.target.as_str() {
            "/length" => (
                Next::Keep,
                &[
                    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
                    "wor",
                    "ld",
                ],
            ),
            "/head-first" => (
                Next::Keep,
                &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "hello"],
            ),
            "/chunked" => (
                Next::Keep,
                &[
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
                    "5\r\nworld\r\n",
                    "0\r\n\r\n",
                ],
            ),
            "/until-close" => (Next::Close, &["HTTP/1.0 200 OK\r\n\r\nhello", "world"]),
            other => panic!("{other}"),
        };
        for (nth, piece) in pieces.iter().enumerate() {
            if nth > 0 {
                // Also when the test is over.
                let _ = gone.lock().unwrap().recv_timeout(Duration::from_secs(20));
            }
            conn.send(piece)?;
        }
        conn.body()?;
        Ok(next)
    });
    (origin, go)
}

/// Reads until all of `what` is there: not one byte more was sent by the endpoint.
fn until(client: &mut Client, what: &str) -> String {
    let mut text = String::new();
    while !text.contains(what) {
        let some = client.read_some();
        let some = some.unwrap_or_else(|e| panic!("{e} before {what:?}, after {text:?}"));
        assert!(!some.is_empty(), "an end before {what:?}, after {text:?}");
        text.push_str(std::str::from_utf8(&some).unwrap());
    }
    text
}

#[test]
fn what_came_of_a_small_response_is_sent_on_when_the_endpoint_pauses() {
    let (origin, go) = in_pieces();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    for (target, pieces) in [
        ("/length", &["\r\n\r\nhello", "wor", "ld"][..]),
        ("/head-first", &["Content-Length: 5", "hello"]),
        ("/chunked", &["hello\r\n", "world\r\n", "0\r\n\r\n"]),
        ("/until-close", &["hello\r\n", "world\r\n0\r\n\r\n"]),
        ("/length", &["\r\n\r\nhello", "wor", "ld"]),
    ] {
        client.request("GET", target, &[], b"");
        for (nth, piece) in pieces.iter().enumerate() {
            if nth > 0 {
                go.send(()).unwrap();
            }
            if (target, nth) == ("/until-close", 1) {
                until(&mut client, "0\r\n\r\n");
                continue;
            }
            until(&mut client, piece);
        }
    }
    assert_eq!(gw.reasons(5), ["ok"; 5]);
}

#[test]
fn a_client_of_http_1_0_gets_the_pieces_too() {
    let (origin, go) = in_pieces();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    client.send("GET /length HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n");
    until(&mut client, "\r\n\r\nhello");
    go.send(()).unwrap();
    until(&mut client, "wor");
    go.send(()).unwrap();
    until(&mut client, "ld");
}

#[test]
fn pieces_pass_while_the_upload_still_runs() {
    let (origin, go) = in_pieces();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    client.send("POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab");
    until(&mut client, "\r\n\r\nhello");
    go.send(()).unwrap();
    until(&mut client, "wor");
    client.send("cd");
    go.send(()).unwrap();
    until(&mut client, "ld");
}

#[test]
fn many_small_pieces_pass_one_by_one() {
    const PIECES: usize = 50;
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let origin = Origin::serve(move |_, conn| {
        let length = PIECES * 3;
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        ))?;
        for nth in 0..PIECES {
            let _ = gone.lock().unwrap().recv_timeout(Duration::from_secs(20));
            conn.send(format!("{nth:02};"))?;
        }
        Ok(Next::Keep)
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    client.request("GET", "/", &[], b"");
    let (head, _) = client.head().unwrap();
    assert_eq!(head.status, 200);
    for nth in 0..PIECES {
        go.send(()).unwrap();
        until(&mut client, &format!("{nth:02};"));
    }
}

#[test]
fn trailers_end_here_and_leave_both_connections_usable() {
    let origin = Origin::serve(|request, conn| {
        let body = conn.body()?;
        assert_eq!(body.bytes, b"hello");
        assert!(!request.headers.has("trailer") && !request.headers.has("te"));
        conn.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             5\r\nworld\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
        )?;
        Ok(Next::Keep)
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    for _ in 0..3 {
        client.send(
            "POST / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\n\
             Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        );
        let text = until(&mut client, "0\r\n\r\n");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(!head.to_ascii_lowercase().contains("trailer"), "{head}");
        assert_eq!(
            body, "5\r\nworld\r\n0\r\n\r\n",
            "whole, and without fields behind it"
        );
    }
    assert_eq!((origin.connections(), origin.requests()), (1, 3));
    let received = String::from_utf8(origin.received().concat()).unwrap();
    assert!(
        !received.to_ascii_lowercase().contains("x-sum"),
        "{received}"
    );
}
