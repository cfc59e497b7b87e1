//! Bodies, connections and upgrades: what passes whole, what is reused, what ends with whom.

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::{Binary, Failure, Gw, Next, Origin, eventually, route};

#[test]
fn responses_without_a_body_leave_the_connection_usable() {
    let origin = Origin::serve(|request, conn| match request.target.as_str() {
        "/204" => conn
            .send("HTTP/1.1 204 No Content\r\n\r\n")
            .map(|()| Next::Keep),
        "/304" => conn
            .send("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"x\"\r\n\r\n")
            .map(|()| Next::Keep),
        _ => conn.answer(200, &[("X-Kept", "1")], b"hello"),
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    let head = client.call("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.body.len), (200, 0));
    assert_eq!(head.headers.first("content-length"), Some("5"));
    assert_eq!(client.get("/204").status, 204);
    assert_eq!(client.get("/304").headers.first("etag"), Some("\"x\""));
    assert_eq!(client.get("/").text(), "hello");
    assert_eq!(
        origin.connections(),
        1,
        "the endpoint's connection is kept too"
    );
}

#[test]
fn bodies_pass_whole_whatever_their_framing() {
    let origin = Origin::serve(|request, conn| {
        let body = conn.body()?;
        match request.target.as_str() {
            "/chunked" => {
                conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                conn.send("5\r\nhello\r\n")?;
                conn.send("1;x=y\r\n \r\n5\r\nworld\r\n0\r\n\r\n")?;
                Ok(Next::Keep)
            }
            "/until-close" => {
                conn.send("HTTP/1.1 200 OK\r\n\r\nhello world")?;
                Ok(Next::Close)
            }
            "/http-1.0" => {
                conn.send("HTTP/1.0 200 OK\r\n\r\nhello world")?;
                Ok(Next::Close)
            }
            _ => conn.answer_json(request, &body),
        }
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    for target in ["/chunked", "/until-close", "/http-1.0"] {
        assert_eq!(client.get(target).text(), "hello world", "{target}");
    }
    let mut client = gw.client();
    client.send("POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel");
    client.send("lo\r\nA;ext=\"v\"\r\n0123456789\r\n0\r\nX-Trailer: t\r\n\r\n");
    assert_eq!(client.response().unwrap().json()["body"], "hello0123456789");
    let big: Vec<u8> = (0..200_000u32).map(|n| b'a' + (n % 26) as u8).collect();
    let echo = client.call("PUT", "/up", &[], &big).json();
    assert_eq!(echo["body_len"], 200_000);
    assert_eq!(echo["body"], String::from_utf8(big).unwrap());
}

#[test]
fn a_client_that_expects_100_gets_it_from_the_endpoint_before_the_body() {
    let origin = Origin::serve(|request, conn| {
        if request.target == "/no" {
            conn.answer(403, &[], b"no")?;
            return Ok(Next::Close);
        }
        let body = conn.body()?;
        conn.answer_json(request, &body)
    });
    let gw = Gw::route(&[origin.url()], "");
    let head = |target: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    let mut client = gw.client();
    client.send(head("/yes"));
    assert_eq!(client.response().unwrap().status, 100);
    client.send("hello");
    let answer = client.response().unwrap();
    assert_eq!(
        (answer.status, &answer.json()["body"]),
        (200, &"hello".into())
    );
    let mut refused = gw.client();
    refused.send(head("/no"));
    let answer = refused.response().unwrap();
    assert_eq!((answer.status, answer.text()), (403, "no".to_owned()));
}

#[test]
fn a_websocket_stays_up_when_idle_far_longer_than_the_timeout() {
    let origin = Origin::raw(|conn| {
        let request = conn.request()?.expect("a request comes");
        assert_eq!(request.headers.first("upgrade"), Some("websocket"));
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
        )?;
        conn.echo_bytes()
    });
    let gw = Gw::route(&[origin.url()], "timeout_ms: 500\n");
    let mut client = gw.client();
    let fields = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "eA=="),
    ];
    let switched = client.call("GET", "/ws", &fields, b"");
    assert_eq!(switched.status, 101);
    assert_eq!(switched.headers.first("upgrade"), Some("websocket"));
    for message in ["\x01first", "\x02second"] {
        client.send(message);
        let mut echo = Vec::new();
        while echo.len() < message.len() {
            echo.extend(client.read_some().expect("the echo comes"));
        }
        assert_eq!(echo, message.as_bytes());
        client.patience(Duration::from_secs(2));
        assert_eq!(
            client.read_some(),
            Err(Failure::TimedOut),
            "silence, not an end"
        );
        client.patience(Duration::from_secs(10));
    }
    drop(client);
    eventually(Duration::from_secs(5), "the endpoint hears the end", || {
        origin.open_connections() == 0
    });
}

#[test]
fn an_http_1_0_client_gets_no_chunks_and_the_end_by_close() {
    let origin = Origin::serve(|_, conn| {
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")?;
        Ok(Next::Keep)
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    client.send("GET / HTTP/1.0\r\nHost: x\r\n\r\n");
    let response = client.response().unwrap();
    assert_eq!(response.text(), "hello");
    assert!(
        !response.headers.has("transfer-encoding"),
        "{:?}",
        response.headers
    );
    assert!(client.is_closed_within(Duration::from_secs(2)));
}

#[test]
fn pipelined_requests_are_answered_in_order_or_not_at_all() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    client.send("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.response().unwrap().json()["target"], "/1");
    match client.response() {
        Ok(second) => assert_eq!(second.json()["target"], "/2"),
        Err(failure) => {
            assert!(
                matches!(failure, Failure::Closed | Failure::Reset),
                "{failure}"
            );
            assert_eq!(origin.requests(), 1, "what is not answered is not sent");
        }
    }
    assert_eq!(gw.get("/3").json()["target"], "/3");
}

#[test]
fn keep_alive_connections_are_reused_on_both_sides() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    for nth in 0..20 {
        let target = format!("/{nth}");
        assert_eq!(client.get(&target).json()["target"], target);
    }
    assert_eq!((origin.connections(), origin.requests()), (1, 20));
    let last = client.call("GET", "/", &[("Connection", "close")], b"");
    assert!(last.closes());
    assert!(client.is_closed_within(Duration::from_secs(2)));
}

#[test]
fn a_client_that_leaves_takes_its_request_to_the_endpoint_with_it() {
    let origin = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    client.request("GET", "/", &[], b"");
    eventually(Duration::from_secs(5), "the endpoint has it", || {
        origin.requests() == 1
    });
    client.reset();
    eventually(Duration::from_secs(5), "the endpoint is let go", || {
        origin.open_connections() == 0
    });
    assert_eq!(gw.reasons(1), ["client_closed"]);
}

#[test]
fn a_gigabyte_goes_up_and_down_with_flat_memory() {
    const GIGABYTE: u64 = 1 << 30;
    let origin = Origin::serve(|request, conn| match request.target.as_str() {
        "/down" => conn.stream(GIGABYTE),
        _ => {
            let len = conn.body()?.len;
            conn.answer(200, &[], len.to_string().as_bytes())
        }
    });
    let binary = Binary::start(&route("/", &[origin.url()], ""));
    let mut client = binary.client();
    assert_eq!(client.get("/small").text(), "0");
    let before = binary.peak_memory_kib();
    client.request("GET", "/down", &[], b"");
    let (head, framing) = client.head().unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(client.body(framing).unwrap().len, GIGABYTE);
    client.send(format!(
        "PUT /up HTTP/1.1\r\nHost: x\r\nContent-Length: {GIGABYTE}\r\n\r\n"
    ));
    let block = vec![b'y'; 1 << 20];
    for _ in 0..GIGABYTE / (1 << 20) {
        assert!(client.send(&block), "the upload is taken");
    }
    assert_eq!(client.response().unwrap().text(), GIGABYTE.to_string());
    let grown = binary.peak_memory_kib() - before;
    assert!(grown < 16 * 1024, "grew by {grown} KiB");
}

#[test]
fn each_piece_of_a_stream_passes_as_it_comes() {
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let (seen, sees) = mpsc::channel::<Vec<u8>>();
    let seen = Mutex::new(seen);
    let origin = Origin::serve(move |request, conn| {
        if request.target == "/up" {
            let piece = conn.some_bytes()?;
            seen.lock().unwrap().send(piece).unwrap();
            conn.body()?;
            return conn.answer(200, &[], b"");
        }
        conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for _ in 0..3 {
            conn.send("7\r\ndata: x\r\n")?;
            // Also when the sender is gone: the test is over then.
            let _ = gone.lock().unwrap().recv();
        }
        conn.send("0\r\n\r\n")?;
        Ok(Next::Keep)
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    client.request("GET", "/events", &[], b"");
    let (head, _) = client.head().unwrap();
    assert_eq!(head.status, 200);
    for _ in 0..3 {
        let mut piece = Vec::new();
        while !piece.ends_with(b"data: x\r\n") {
            piece.extend(
                client
                    .read_some()
                    .expect("the piece comes before the next is sent"),
            );
        }
        go.send(()).unwrap();
    }
    let mut client = gw.client();
    client.send("POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nfirst");
    let piece = sees.recv_timeout(Duration::from_secs(5));
    assert_eq!(
        piece.as_deref(),
        Ok(&b"first"[..]),
        "before the rest was sent"
    );
    client.send("later");
    assert_eq!(client.response().unwrap().status, 200);
}

#[test]
fn a_slow_reader_gets_everything() {
    const LEN: u64 = 30_000_000;
    let origin = Origin::serve(|_, conn| conn.stream(LEN));
    let gw = Gw::route(&[origin.url()], "timeout_ms: 300\n");
    let mut client = gw.client();
    client.request("GET", "/", &[], b"");
    let (head, framing) = client.head().unwrap();
    assert_eq!(head.status, 200);
    // Not waiting for anything: this is the slow reader.
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(
        client.body(framing).unwrap().len,
        LEN,
        "the endpoint is not to blame"
    );
}

#[test]
fn a_refusal_can_be_read_while_the_upload_still_runs() {
    let origin = Origin::echo();
    let gw = Gw::start(format!(
        "max_body_bytes: 1000\n{}",
        route("/known", &[origin.url()], "")
    ));
    let body = vec![b'b'; 5_000_000];
    for (target, status) in [("/unknown", 404), ("/known", 413)] {
        let mut client = gw.client();
        client.request("POST", target, &[], &body);
        assert_eq!(client.response().map(|r| r.status), Ok(status), "{target}");
    }
    assert_eq!(origin.requests(), 0);
}

#[test]
fn empty_bodies_are_bodies() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    client.send("POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(client.response().unwrap().json()["body_len"], 0);
    client.send("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    let echo = client.response().unwrap().json();
    assert_eq!(
        (&echo["target"], &echo["body_len"]),
        (&"/b".into(), &0.into())
    );
}

#[test]
fn a_head_near_the_default_limit_passes_in_both_directions() {
    let origin = Origin::serve(|request, conn| {
        let len = request.headers.first("x-big").map_or(0, str::len);
        let big = "r".repeat(len);
        conn.answer(200, &[("X-Back", &big)], b"")
    });
    let gw = Gw::route(&[origin.url()], "");
    let big = "q".repeat(60_000);
    let response = gw.client().call("GET", "/", &[("X-Big", &big)], b"");
    assert_eq!(response.status, 200);
    assert_eq!(response.headers.first("x-back").map(str::len), Some(60_000));
}
