//! When a request is tried again, and above all when it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::http1::Body;
use crate::support::{Failure, Gw, Load, Next, Origin, echoed, eventually, loaded, timed};

#[test]
fn one_dead_endpoint_of_two_costs_64_clients_nothing() {
    let _turn = loaded();
    let (dead, alive) = (Origin::refusing(), Origin::ok("alive"));
    // Without ejection the dead endpoint is picked for every second request to the very end.
    let gw = Gw::route(
        &[dead.url(), alive.url()],
        "retry_count: 2\nejection: false\n",
    );
    let outcome = Load::new(64, 10_000, "/").run(gw.addr());
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert_eq!(outcome.status(200), 10_000, "{outcome:?}");
    assert_eq!(alive.requests(), 10_000, "none was answered twice");
    let metrics = gw.metrics();
    let retried = metrics.sum("harbr_retries_total", &[("reason", "connect_failed")]);
    assert!(retried >= 1000.0, "the dead endpoint was tried: {retried}");
    // A request is counted when its client has the answer already.
    let counted = || {
        let metrics = gw.metrics();
        metrics.sum("harbr_http_requests_total", &[("code", "2xx")])
    };
    eventually(Duration::from_secs(5), "each is counted", || {
        counted() >= 10_000.0
    });
    assert_eq!(counted(), 10_000.0);
}

#[test]
fn one_dead_endpoint_costs_clients_with_new_connections_nothing() {
    let _turn = loaded();
    let (dead, alive) = (Origin::refusing(), Origin::ok("alive"));
    let gw = Gw::route(&[dead.url(), alive.url()], "retry_count: 2\n");
    let mut load = Load::new(16, 2000, "/");
    load.keep_alive = false;
    let outcome = load.run(gw.addr());
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert_eq!(outcome.status(200), 2000, "{outcome:?}");
}

#[test]
fn an_outage_is_not_multiplied_and_its_own_answer_reaches_the_client() {
    let _turn = loaded();
    let origins = ["a", "b"].map(|_| Origin::status(503, "down for maintenance"));
    let gw = Gw::route(&origins.each_ref().map(Origin::url), "retry_count: 2\n");
    let requests = 5000;
    let outcome = Load::new(64, requests, "/").run(gw.addr());
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert_eq!(outcome.status(503), requests, "{outcome:?}");
    assert_eq!(
        outcome.bodies.keys().collect::<Vec<_>>(),
        ["down for maintenance"]
    );
    let attempts: usize = origins.iter().map(Origin::requests).sum();
    assert!(attempts > requests, "some were retried: {attempts}");
    assert!(
        attempts <= requests * 5 / 4,
        "{attempts} attempts for {requests} requests"
    );
}

#[test]
fn a_retry_goes_to_the_other_endpoint() {
    let (bad, good) = (Origin::status(503, "bad"), Origin::ok("good"));
    let gw = Gw::route(
        &[bad.url(), good.url()],
        "retry_count: 1\nejection: false\n",
    );
    let mut client = gw.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "good");
    }
    assert_eq!(good.requests(), 20);
    assert!(bad.requests() >= 10, "{}", bad.requests());
    let records = gw.access_log(20);
    let twice = records.iter().filter(|r| r["tries"] == 2).count();
    assert_eq!(twice, bad.requests(), "{records:?}");
}

#[test]
fn only_502_503_and_504_are_retried_and_only_when_the_method_is_idempotent() {
    for (method, status, attempts) in [
        ("GET", 502, 3),
        ("GET", 503, 3),
        ("GET", 504, 3),
        ("HEAD", 503, 3),
        ("PUT", 503, 3),
        ("DELETE", 503, 3),
        ("OPTIONS", 503, 3),
        ("POST", 503, 1),
        ("PATCH", 503, 1),
        ("GET", 500, 1),
        ("GET", 429, 1),
        ("GET", 404, 1),
    ] {
        let origin = Origin::status(status, "its own words");
        let gw = Gw::route(&[origin.url()], "retry_count: 2\n");
        let body = if matches!(method, "PUT" | "POST" | "PATCH") {
            "x"
        } else {
            ""
        };
        let response = gw.client().call(method, "/", &[], body.as_bytes());
        assert_eq!(response.status, status, "{method}");
        if method != "HEAD" {
            assert_eq!(response.text(), "its own words", "{method} {status}");
        }
        assert_eq!(origin.requests(), attempts, "{method} {status}");
    }
}

#[test]
fn without_retry_count_nothing_is_tried_again() {
    let origin = Origin::status(503, "no");
    let dead = Origin::refusing();
    let gw = Gw::route(&[origin.url(), Origin::status(503, "no").url()], "");
    assert_eq!(gw.get("/").text(), "no");
    assert_eq!(origin.requests(), 1);
    let gw = Gw::route(&[dead.url()], "");
    let response = gw.get("/");
    assert_eq!(
        (response.status, &response.json()["reason"]),
        (502, &"connect_failed".into())
    );
    assert_eq!(gw.access_log(1)[0]["tries"], 1);
}

#[test]
fn twenty_retries_are_twenty_one_tries() {
    let dead = Origin::refusing();
    let gw = Gw::route(&[dead.url()], "retry_count: 20\nejection: false\n");
    let response = gw.get("/");
    assert_eq!(
        (response.status, &response.json()["reason"]),
        (502, &"connect_failed".into())
    );
    assert_eq!(gw.access_log(1)[0]["tries"], 21);
}

#[test]
fn a_refused_connect_is_retried_for_a_post_too() {
    let (dead, alive) = (Origin::refusing(), Origin::echo());
    let gw = Gw::route(
        &[dead.url(), alive.url()],
        "retry_count: 1\nejection: false\n",
    );
    let mut client = gw.client();
    for _ in 0..10 {
        let response = client.call("POST", "/", &[], b"once");
        assert_eq!(
            (response.status, &response.json()["body"]),
            (200, &"once".into())
        );
    }
    assert_eq!(alive.requests(), 10);
}

#[test]
fn a_refused_connect_is_retried_even_with_a_body_too_big_to_replay() {
    let (dead, alive) = (Origin::refusing(), Origin::echo());
    let gw = Gw::route(
        &[dead.url(), alive.url()],
        "retry_count: 1\nejection: false\n",
    );
    let body = vec![b'z'; 200_000];
    let mut client = gw.client();
    for _ in 0..4 {
        let response = client.call("PUT", "/", &[], &body);
        assert_eq!(
            (response.status, &response.json()["body_len"]),
            (200, &200_000.into())
        );
    }
}

#[test]
fn a_post_whose_connection_broke_after_the_body_is_not_sent_twice() {
    for ending in [Next::Close, Next::Reset] {
        let origin = Origin::serve(move |_, conn| conn.body().map(|_| ending));
        let gw = Gw::route(&[origin.url()], "retry_count: 2\n");
        let response = gw.client().call("POST", "/", &[], b"pay 10");
        assert_eq!(response.status, 502);
        assert_eq!(response.json()["reason"], "upstream_reset");
        assert_eq!(origin.requests(), 1, "{ending:?}");
        let reader = gw.client().call("GET", "/", &[], b"");
        assert_eq!(reader.status, 502);
        assert_eq!(
            origin.requests(),
            4,
            "a GET is tried three times: {ending:?}"
        );
    }
}

/// Serves one request on each connection and breaks on the second, as a server does that closes an
/// idle connection in the very moment it is used again.
fn breaking_when_reused() -> Origin {
    Origin::serve(|request, conn| {
        let body = conn.body()?;
        match conn.served {
            1 => conn.answer_json(request, &body),
            _ => Ok(Next::Close),
        }
    })
}

#[test]
fn a_get_on_a_stale_pooled_connection_is_sent_once_more_on_a_fresh_one() {
    let origin = breaking_when_reused();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    assert_eq!(client.get("/first").json()["connection"], 0);
    let second = client.get("/second");
    assert_eq!(second.status, 200);
    assert_eq!(second.json()["connection"], 1);
    assert_eq!(origin.requests(), 3);
}

#[test]
fn a_post_on_a_stale_pooled_connection_is_not_sent_again() {
    let origin = breaking_when_reused();
    let gw = Gw::route(&[origin.url()], "retry_count: 3\n");
    let mut client = gw.client();
    assert_eq!(client.get("/first").json()["connection"], 0);
    let post = client.call("POST", "/post", &[], b"x");
    assert_eq!(
        (post.status, &post.json()["reason"]),
        (502, &"upstream_reset".into())
    );
    assert_eq!(origin.requests_with("POST"), 1);
    assert_eq!(
        origin.connections(),
        1,
        "it went out on the used connection only"
    );
}

#[test]
fn connections_that_an_origin_closes_when_idle_fail_no_request() {
    let origin = Origin::serve(|_, conn| conn.answer(200, &[], b"ok").map(|_| Next::Close));
    let gw = Gw::route(&[origin.url()], "");
    let outcome = Load::new(4, 1000, "/").run(gw.addr());
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert_eq!(outcome.status(200), 1000, "{outcome:?}");
}

#[test]
fn once_response_bytes_went_out_there_is_no_second_try() {
    for chunked in [false, true] {
        let origin = Origin::serve(move |_, conn| {
            conn.send(match chunked {
                true => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
                false => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
            })?;
            Ok(Next::Close)
        });
        let gw = Gw::route(&[origin.url()], "retry_count: 2\n");
        let mut client = gw.client();
        client.request("GET", "/", &[], b"");
        let (head, framing) = client.head().unwrap();
        assert_eq!(head.status, 200);
        let cut = client.body(framing).unwrap_err();
        assert!(matches!(cut, Failure::Truncated | Failure::Reset), "{cut}");
        assert_eq!(origin.requests(), 1, "chunked: {chunked}");
        assert_eq!(gw.reasons(1), ["upstream_reset"]);
    }
}

#[test]
fn a_body_is_replayed_whole_or_not_at_all() {
    let seen = Arc::new(AtomicUsize::new(0));
    let origin = Origin::serve({
        let seen = Arc::clone(&seen);
        move |request, conn| {
            let body = conn.body()?;
            match seen.fetch_add(1, Ordering::SeqCst) {
                0 => conn.answer(503, &[], b"first"),
                _ => conn.answer_json(request, &body),
            }
        }
    });
    let gw = Gw::route(&[origin.url()], "retry_count: 2\n");
    let small: Vec<u8> = (0..40_000u32).map(|n| b'a' + (n % 23) as u8).collect();
    let echo = gw.client().call("PUT", "/", &[], &small).json();
    assert_eq!(echo["body_hash"], Body::of(&small).hash);
    assert_eq!(echo["body_len"], 40_000);
    assert_eq!(seen.swap(0, Ordering::SeqCst), 2);
    let mut chunked = gw.client();
    chunked.send("PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    chunked.send("2\r\nde\r\n0\r\n\r\n");
    assert_eq!(chunked.response().unwrap().json()["body"], "abcde");
    assert_eq!(seen.swap(0, Ordering::SeqCst), 2);
    let big = vec![b'b'; 200_000];
    let response = gw.client().call("PUT", "/", &[], &big);
    assert_eq!(
        (response.status, response.text()),
        (503, "first".to_owned())
    );
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[test]
fn a_silent_try_is_given_up_for_another_endpoint() {
    let _turn = timed();
    let silent = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let good = Origin::echo();
    let keys = "retry_count: 1\ntry_timeout_ms: 200\ntimeout_ms: 5000\nejection: false\n";
    let gw = Gw::route(&[silent.url(), good.url()], keys);
    let mut client = gw.client();
    let start = Instant::now();
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    let took = start.elapsed();
    let given_up = silent.requests();
    assert!((2..=4).contains(&given_up), "{given_up}");
    let least = 200 * given_up as u128;
    assert!(
        (least..least + 1000).contains(&took.as_millis()),
        "{took:?}"
    );
}

#[test]
fn a_post_whose_try_timed_out_is_a_504_and_was_sent_once() {
    let _turn = timed();
    let silent = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let keys = "retry_count: 2\ntry_timeout_ms: 200\ntimeout_ms: 5000\n";
    let gw = Gw::route(&[silent.url()], keys);
    let start = Instant::now();
    let response = gw.client().call("POST", "/", &[], b"x");
    let took = start.elapsed();
    assert_eq!(
        (response.status, &response.json()["reason"]),
        (504, &"timeout".into())
    );
    assert!((200..700).contains(&took.as_millis()), "{took:?}");
    assert_eq!(silent.requests(), 1);
}

#[test]
fn back_offs_and_tries_together_stay_within_the_deadline() {
    let _turn = timed();
    let origin = Origin::serve(|_, conn| {
        std::thread::sleep(Duration::from_millis(60));
        conn.answer(503, &[], b"slow no")
    });
    let gw = Gw::route(&[origin.url()], "retry_count: 20\ntimeout_ms: 600\n");
    let start = Instant::now();
    let response = gw.get("/");
    let took = start.elapsed();
    assert!(matches!(response.status, 503 | 504), "{}", response.status);
    assert!((300..900).contains(&took.as_millis()), "{took:?}");
    assert!(
        (3..=10).contains(&origin.requests()),
        "{}",
        origin.requests()
    );
}

#[test]
fn a_retried_request_carries_the_headers_of_one() {
    let tried = Arc::new(AtomicUsize::new(0));
    let origin = Origin::serve({
        let tried = Arc::clone(&tried);
        move |request, conn| match tried.fetch_add(1, Ordering::SeqCst) {
            0 => conn.answer(503, &[], b""),
            _ => conn.answer_json(request, &Body::empty()),
        }
    });
    let gw = Gw::route(&[origin.url()], "retry_count: 1\n");
    let echo = gw.get("/x").json();
    assert_eq!(tried.load(Ordering::SeqCst), 2);
    assert_eq!(echo["target"], "/x");
    for name in ["x-forwarded-for", "x-forwarded-host", "via", "host"] {
        assert_eq!(echoed(&echo, name).len(), 1, "{name}: {echo}");
    }
}
