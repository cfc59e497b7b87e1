//! What `timeout_ms` and its relatives cut, when, and what they leave alone.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Failure, Gw, Next, Origin, Response, eventually, timed};

/// Answers `/drip` with one header byte every 100 ms, everything else at once.
fn dripping() -> Origin {
    Origin::serve(|request, conn| {
        conn.body()?;
        if request.target == "/drip" {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Slow: yes\r\n\r\n";
            conn.drip(head, Duration::from_millis(100))?;
        }
        conn.answer(200, &[], b"fast")
    })
}

#[track_caller]
fn assert_timed_out(response: &Response, took: Duration) {
    assert_eq!(response.status, 504, "{}", response.text());
    assert_eq!(response.json()["reason"], "timeout");
    assert!((300..500).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn a_header_that_drips_is_cut_at_the_deadline_on_a_fresh_connection() {
    let _turn = timed();
    let origin = dripping();
    let gw = Gw::route(&[origin.url()], "timeout_ms: 300\n");
    let mut client = gw.client();
    let start = Instant::now();
    let response = client.get("/drip");
    assert_timed_out(&response, start.elapsed());
    assert_eq!(origin.requests(), 1);
    assert_eq!(gw.get("/").text(), "fast");
}

#[test]
fn a_header_that_drips_is_cut_at_the_deadline_on_a_reused_connection() {
    let _turn = timed();
    let origin = dripping();
    let gw = Gw::route(&[origin.url()], "timeout_ms: 300\n");
    let mut client = gw.client();
    assert_eq!(client.get("/").text(), "fast");
    assert_eq!(client.get("/").text(), "fast");
    assert_eq!(origin.connections(), 1);
    let start = Instant::now();
    let response = client.get("/drip");
    assert_timed_out(&response, start.elapsed());
    assert_eq!(
        (origin.connections(), origin.requests()),
        (1, 3),
        "not sent again"
    );
}

#[test]
fn a_header_that_drips_is_cut_once_for_all_tries() {
    let _turn = timed();
    let origins = [dripping(), dripping()];
    let gw = Gw::route(
        &origins.each_ref().map(Origin::url),
        "timeout_ms: 300\nretry_count: 3\n",
    );
    let start = Instant::now();
    let response = gw.get("/drip");
    assert_timed_out(&response, start.elapsed());
    let post = Instant::now();
    let response = gw.client().call("POST", "/drip", &[], b"x");
    assert_timed_out(&response, post.elapsed());
}

#[test]
fn the_global_timeout_is_the_default_of_a_route() {
    let _turn = timed();
    let origin = dripping();
    let text = crate::support::route("/", &[origin.url()], "");
    let gw = Gw::start(format!("global_timeout_ms: 300\n{text}"));
    let start = Instant::now();
    let response = gw.get("/drip");
    assert_timed_out(&response, start.elapsed());
}

#[test]
fn a_body_that_keeps_moving_arrives_whole_however_long_it_takes() {
    let origin = Origin::serve(|_, conn| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")?;
        conn.drip(&[b'x'; 30], Duration::from_millis(100))?;
        Ok(Next::Keep)
    });
    let gw = Gw::route(&[origin.url()], "timeout_ms: 300\n");
    let start = Instant::now();
    let response = gw.get("/");
    assert_eq!((response.status, response.body.len), (200, 30));
    assert!(start.elapsed() >= Duration::from_millis(2900));
    assert_eq!(gw.reasons(1), ["ok"]);
}

#[test]
fn a_body_that_falls_silent_is_cut() {
    let _turn = timed();
    let origin = Origin::serve(|request, conn| {
        conn.send(match request.target.as_str() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\npart",
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
            // Its end is that of the connection: what is cut off must not pass for whole.
            _ => "HTTP/1.1 200 OK\r\n\r\npart",
        })?;
        conn.until_closed().map(|()| Next::Close)
    });
    let gw = Gw::route(&[origin.url()], "timeout_ms: 300\nretry_count: 2\n");
    for (requests, target) in (1..).zip(["/length", "/chunked", "/until-closed"]) {
        let mut client = gw.client();
        client.request("GET", target, &[], b"");
        let start = Instant::now();
        let (head, framing) = client.head().unwrap();
        assert_eq!(head.status, 200, "{target}");
        let cut = client.body(framing).unwrap_err();
        let took = start.elapsed();
        assert!(
            matches!(cut, Failure::Truncated | Failure::Reset),
            "{target}: {cut}"
        );
        assert!(
            (300..1000).contains(&took.as_millis()),
            "{target}: {took:?}"
        );
        assert_eq!(gw.reasons(requests)[requests - 1], "timeout", "{target}");
        assert_eq!(origin.requests(), requests, "{target}");
        eventually(Duration::from_secs(5), "the endpoint is let go", || {
            origin.open_connections() == 0
        });
    }
}

#[test]
fn a_client_that_pauses_is_not_the_endpoints_silence() {
    const LENGTH: usize = 32 << 20;
    let body = vec![b'x'; LENGTH];
    let origin = Origin::serve(move |_, conn| conn.answer(200, &[], &body));
    let gw = Gw::route(&[origin.url()], "timeout_ms: 1000\n");
    let mut client = gw.client();
    client.request("GET", "/", &[], b"");
    let (head, framing) = client.head().unwrap();
    assert_eq!(head.status, 200);
    // What is between endpoint and client is full, and nothing moves, for longer than the timeout.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(client.body(framing).unwrap().len, LENGTH as u64);
    assert_eq!(gw.reasons(1), ["ok"]);
}

#[test]
fn an_upload_may_take_longer_than_the_timeout_while_it_moves() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "timeout_ms: 300\n");
    let mut client = gw.client();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n");
    for _ in 0..15 {
        client.send("u");
        thread::sleep(Duration::from_millis(80));
    }
    let response = client.response().unwrap();
    assert_eq!(
        (response.status, &response.json()["body_len"]),
        (200, &15.into())
    );
}

#[test]
fn the_clock_starts_anew_when_the_upload_is_in() {
    let _turn = timed();
    let origin = Origin::serve(|request, conn| {
        conn.body()?;
        if request.target == "/drip" {
            conn.until_closed()?;
        }
        thread::sleep(Duration::from_millis(250));
        conn.answer(200, &[], b"thought about it")
    });
    let gw = Gw::route(&[origin.url()], "timeout_ms: 400\n");
    for (target, status) in [("/think", 200), ("/drip", 504)] {
        let mut client = gw.client();
        client.send(format!(
            "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
        ));
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(70));
            client.send("u");
        }
        let uploaded = Instant::now();
        assert_eq!(client.response().unwrap().status, status, "{target}");
        let took = uploaded.elapsed();
        assert!(took < Duration::from_millis(700), "{target}: {took:?}");
    }
}

#[test]
fn an_upload_that_stalls_is_ended() {
    let _turn = timed();
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "timeout_ms: 300\n");
    let mut client = gw.client();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\npart");
    let start = Instant::now();
    let answer = client.response();
    let took = start.elapsed();
    match answer {
        Ok(response) => assert!(matches!(response.status, 408 | 504), "{}", response.status),
        Err(failure) => assert!(
            matches!(failure, Failure::Closed | Failure::Reset),
            "{failure}"
        ),
    }
    assert!((300..1000).contains(&took.as_millis()), "{took:?}");
    eventually(Duration::from_secs(5), "the endpoint is let go", || {
        origin.open_connections() == 0
    });
}

#[test]
fn a_connect_that_hangs_is_a_504_of_its_own() {
    let _turn = timed();
    let hanging = Origin::unreachable();
    let gw = Gw::route(
        &[hanging.url()],
        "connect_timeout_ms: 200\ntimeout_ms: 5000\n",
    );
    let start = Instant::now();
    let response = gw.get("/");
    let took = start.elapsed();
    assert_eq!(response.status, 504, "{}", response.text());
    assert_eq!(response.json()["reason"], "connect_timeout");
    assert!((200..600).contains(&took.as_millis()), "{took:?}");
    assert_eq!(gw.reasons(1), ["connect_timeout"]);
}

#[test]
fn a_connect_that_hangs_leaves_time_for_another_endpoint() {
    let _turn = timed();
    let (hanging, good) = (Origin::unreachable(), Origin::ok("good"));
    // By default a connect may take timeout / (retry_count + 1): 400 ms here.
    let gw = Gw::route(
        &[hanging.url(), good.url()],
        "retry_count: 1\ntimeout_ms: 800\nejection: false\n",
    );
    let mut client = gw.client();
    for _ in 0..4 {
        let start = Instant::now();
        assert_eq!(client.get("/").text(), "good");
        assert!(start.elapsed() < Duration::from_millis(700));
    }
}

#[test]
fn the_deadline_of_one_request_does_not_touch_the_next_on_its_connection() {
    let origin = Origin::serve(|_, conn| conn.answer(200, &[], b"ok"));
    let gw = Gw::route(&[origin.url()], "timeout_ms: 300\n");
    let mut client = gw.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "ok");
        // Idle across what was the first one's deadline.
        thread::sleep(Duration::from_millis(120));
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn failures_say_what_happened_and_nothing_of_the_inside() {
    let _turn = timed();
    let (dead, silent) = (
        Origin::refusing(),
        Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close)),
    );
    let resetting = Origin::serve(|_, _| Ok(Next::Reset));
    let garbage = Origin::serve(|_, conn| conn.send("SSH-2.0-no\r\n\r\n").map(|()| Next::Close));
    for (url, status, reason) in [
        (dead.url(), 502, "connect_failed"),
        (silent.url(), 504, "timeout"),
        (resetting.url(), 502, "upstream_reset"),
        (garbage.url(), 502, "upstream_error"),
    ] {
        let gw = Gw::route(std::slice::from_ref(&url), "timeout_ms: 300\n");
        let response = gw.get("/");
        assert_eq!(response.status, status, "{reason}");
        let kind = response.headers.first("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{reason}");
        let problem = response.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["reason"], reason, "{problem}");
        assert!(
            problem["title"].as_str().is_some_and(|t| !t.is_empty()),
            "{problem}"
        );
        let said = format!("{:?}{}", response.headers, response.text()).to_lowercase();
        let port = url.rsplit(':').next().unwrap();
        for inside in [
            "127.0.0.1",
            port,
            "pingora",
            "os error",
            "refused (",
            "src/",
        ] {
            assert!(!said.contains(inside), "{inside} in {said}");
        }
        assert_eq!(gw.reasons(1), [reason]);
    }
}
