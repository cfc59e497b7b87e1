//! What once went wrong: each test failed before it was mended.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Binary, Gw, Load, Next, Origin, eventually, route_entry, timed};

/// Answers with an interim response and then does not go on.
fn interim(then: impl Fn(&mut crate::support::Conn) -> Next + Send + Sync + 'static) -> Origin {
    Origin::serve(move |_, conn| {
        conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?;
        Ok(then(conn))
    })
}

#[test]
fn an_interim_response_is_no_answer_when_the_endpoint_fails_behind_it() {
    let _turn = timed();
    let closing = interim(|_| Next::Close);
    let silent = interim(|conn| {
        // An error means that the gateway has gone.
        let _ = conn.until_closed();
        Next::Close
    });
    for (origin, status, reason) in [(closing, 502, "upstream_reset"), (silent, 504, "timeout")] {
        let gw = Gw::route(&[origin.url()], "timeout_ms: 300\nretry_count: 2\n");
        let mut client = gw.client();
        client.request("GET", "/", &[], b"");
        assert_eq!(client.response().unwrap().status, 103);
        let response = client.response().unwrap();
        assert_eq!(response.status, status);
        assert_eq!(response.json()["reason"], reason);
        assert_eq!(gw.access_log(1)[0]["status"], status);
        assert_eq!(origin.requests(), 1, "no second try behind response bytes");
    }
}

#[test]
fn a_client_of_http_1_0_hears_no_interim_response() {
    let origin = Origin::serve(|request, conn| {
        assert!(!request.headers.has("expect"), "{request:?}");
        conn.send("HTTP/1.1 103 Early Hints\r\n\r\n")?;
        conn.body()?;
        conn.answer(200, &[], b"ok")
    });
    let gw = Gw::route(&[origin.url()], "");
    for request in [
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    ] {
        let mut client = gw.client();
        client.send(request);
        let response = client.response().unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    }
}

#[test]
fn asking_for_an_upgrade_lifts_no_limit() {
    let origin = Origin::echo();
    let text = crate::support::route("/", &[origin.url()], "timeout_ms: 2000\n");
    let gw = Gw::start(format!("max_body_bytes: 1000\n{text}"));
    for asking in [
        "Upgrade: anything\r\n",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
    ] {
        let mut client = gw.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: x\r\n{asking}Transfer-Encoding: chunked\r\n\r\n\
             400\r\n{}\r\n400\r\n{}\r\n0\r\n\r\n",
            "x".repeat(1024),
            "y".repeat(1024)
        ));
        let response = client.response().unwrap();
        assert_eq!(response.status, 413, "{asking}: {}", response.text());
    }
}

#[test]
fn only_who_names_the_upgrade_in_connection_becomes_a_websocket() {
    let origin = Origin::serve(|request, conn| match request.headers.has("upgrade") {
        true => {
            conn.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")?;
            conn.until_closed().map(|()| Next::Close)
        }
        false => conn.answer(200, &[], b"plain"),
    });
    let gw = Gw::route(&[origin.url()], "");
    for (fields, status) in [
        (&[("Upgrade", "websocket")][..], 200),
        (
            &[("Connection", "keep-alive"), ("Upgrade", "websocket")],
            200,
        ),
        (&[("Connection", "upgrade"), ("Upgrade", "h2c")], 200),
        (
            &[("Connection", "x, Upgrade"), ("Upgrade", "WebSocket")],
            101,
        ),
    ] {
        let mut client = gw.client();
        client.request("GET", "/", fields, b"");
        assert_eq!(client.head().unwrap().0.status, status, "{fields:?}");
    }
}

#[test]
fn clients_that_stall_in_an_upload_are_never_the_endpoints_fault() {
    let _turn = timed();
    let origins = [Origin::echo(), Origin::echo()];
    // One failure would be enough to eject an endpoint.
    let gw = Gw::route(
        &origins.each_ref().map(Origin::url),
        "timeout_ms: 200\nejection: {consecutive_failures: 1, max_percent: 100}\n",
    );
    let stalling: Vec<_> = (0..40)
        .map(|n| {
            let mut client = gw.client();
            let part = "x".repeat(n % 3);
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{part}"
            ));
            // Both sides' clocks tick in steps: spread the starts over one.
            thread::sleep(Duration::from_millis(3));
            client
        })
        .collect();
    for mut client in stalling {
        let response = client.response().unwrap();
        assert_eq!(response.status, 408, "{}", response.text());
    }
    for upstream in gw.status()["upstreams"].as_array().unwrap() {
        for endpoint in upstream["endpoints"].as_array().unwrap() {
            assert_eq!(endpoint["ejected"], false, "{endpoint}");
        }
    }
}

#[test]
fn an_endpoint_that_does_not_ask_for_an_expected_body_is_the_one_that_is_late() {
    let _turn = timed();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Slow: yes\r\n\r\n";
    let origin = Origin::raw(move |conn| {
        let request = conn.request()?;
        match request.is_some_and(|request| request.target == "/drip") {
            true => conn.drip(head, Duration::from_millis(50)),
            false => conn.until_closed(),
        }
    });
    let gw = Gw::route(&[origin.url()], "timeout_ms: 300\nejection: false\n");
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let mut client = gw.client();
            let target = if n % 2 == 0 { "/drip" } else { "/silent" };
            client.send(format!(
                "POST {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
                 Content-Length: 9\r\n\r\n"
            ));
            thread::sleep(Duration::from_millis(3));
            client
        })
        .collect();
    for mut client in waiting {
        let response = client.response().unwrap();
        assert_eq!(response.status, 504, "{}", response.text());
    }
}

#[test]
fn a_slow_upload_that_was_asked_for_is_not_cut_by_the_clock_of_the_asking() {
    let _turn = timed();
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "timeout_ms: 300\n");
    let mut client = gw.client();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 100);
    for _ in 0..6 {
        thread::sleep(Duration::from_millis(120));
        client.send("u");
    }
    let response = client.response().unwrap();
    assert_eq!(
        (response.status, &response.json()["body_len"]),
        (200, &6.into())
    );
}

#[test]
fn the_query_of_an_absolute_target_without_a_path_is_kept() {
    let origin = Origin::echo();
    let gw = Gw::route(&[origin.url()], "");
    for (target, sent) in [
        ("http://x.test?a=1", "/?a=1"),
        ("http://x.test?a=/b", "/?a=/b"),
        ("http://x.test", "/"),
        ("http://x.test/y?a=http://z/", "/y?a=http://z/"),
    ] {
        let mut client = gw.client();
        client.request("GET", target, &[("Host", "x.test")], b"");
        let seen = client.response().unwrap().json();
        assert_eq!(seen["target"], sent, "{target}");
    }
}

#[test]
fn who_closes_says_so() {
    let origin = Origin::ok("ok");
    let gw = Gw::route(&[origin.url()], "");
    for target in ["/", "/%zz"] {
        let mut client = gw.client();
        client.send(format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n"
        ));
        assert!(client.response().unwrap().closes(), "{target}");
        assert!(client.is_closed_within(Duration::from_secs(2)), "{target}");
    }
}

#[test]
fn framing_that_an_endpoint_repeats_goes_on_once() {
    let origin = Origin::serve(|request, conn| {
        conn.send(match request.target.as_str() {
            "/lengths" => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "/list" => "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
            "/codings" => {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nok\r\n0\r\n\r\n"
            }
            _ => "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        })?;
        Ok(Next::Keep)
    });
    let gw = Gw::route(&[origin.url()], "");
    for (target, name, value) in [
        ("/lengths", "content-length", "2"),
        ("/list", "content-length", "2"),
        ("/codings", "transfer-encoding", "chunked"),
    ] {
        let response = gw.get(target);
        assert_eq!(response.text(), "ok", "{target}");
        let values: Vec<_> = response.headers.all(name).collect();
        assert_eq!(values, [value], "{target}");
    }
    let empty = gw.get("/204");
    assert_eq!(empty.status, 204);
    assert!(!empty.headers.has("transfer-encoding"), "{empty:?}");
    assert!(!empty.headers.has("content-length"), "{empty:?}");
}

#[test]
fn requests_that_a_drain_cuts_off_leave_their_records_too() {
    let _turn = timed();
    let origin = Origin::raw(|conn| {
        match conn.request()?.map(|request| request.target).as_deref() {
            Some("/websocket") => {
                conn.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")?;
            }
            Some("/endless") => {
                conn.send("HTTP/1.1 200 OK\r\n\r\n")?;
                while conn.send([b'x'; 4096]).is_ok() {}
            }
            _ => {}
        }
        conn.until_closed()
    });
    let mut gw = Gw::route(&[origin.url()], "");
    let upgrade = [("Connection", "upgrade"), ("Upgrade", "websocket")];
    let _clients: Vec<_> = [
        ("GET", "/silent", &[][..]),
        ("POST", "/stalled", &[("Content-Length", "9")]),
        ("GET", "/endless", &[]),
        ("GET", "/websocket", &upgrade),
    ]
    .map(|(method, target, fields)| {
        let mut client = gw.client();
        client.request(method, target, fields, b"");
        client
    })
    .into();
    eventually(Duration::from_secs(5), "they are there", || {
        origin.requests() == 4
    });
    let start = Instant::now();
    gw.halt();
    let took = start.elapsed();
    assert!((900..2500).contains(&took.as_millis()), "{took:?}");
    assert_eq!(gw.reasons(4), ["drained"; 4]);
    assert_eq!(gw.access_log(4).len(), 4);
}

#[test]
fn a_log_that_nobody_reads_stops_no_request() {
    let (origin, dead) = (Origin::ok("ok"), Origin::refusing());
    let routes = [("/", origin.url()), ("/dead", dead.url())]
        .map(|(key, url)| route_entry(key, &[url], "ejection: false\n"))
        .concat();
    let program = Binary::start_unread(&format!("routes:\n{routes}"));
    // Each failure is a line of the log, and a pipe holds 64 KiB.
    let outcome = Load::new(8, 2000, "/dead").run(program.addr());
    assert_eq!(outcome.status(502), 2000, "{outcome:?}");
    assert_eq!(program.client().get("/").text(), "ok");
}

#[test]
fn a_wait_in_the_queue_that_ends_without_a_place_is_told_too() {
    let _turn = timed();
    let origin = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let keys = "max_connections: 1\nqueue_timeout_ms: 200\ntimeout_ms: 5000\n";
    let gw = Gw::route(&[origin.url()], keys);
    let in_flight = || gw.metrics().sum("harbr_http_requests_in_flight", &[]);
    for reason in ["queue_timeout", "client_closed"] {
        let before = gw.access_log(0).len();
        let mut first = gw.client();
        first.request("GET", "/", &[], b"");
        eventually(Duration::from_secs(5), "the place is taken", || {
            in_flight() == 1.0
        });
        let mut second = gw.client();
        second.request("GET", "/", &[], b"");
        match reason {
            "client_closed" => {
                eventually(Duration::from_secs(5), "it waits", || in_flight() == 2.0);
                // What is to be measured.
                thread::sleep(Duration::from_millis(50));
                drop(second);
            }
            _ => assert_eq!(second.response().unwrap().status, 503),
        }
        let record = &gw.access_log(before + 1)[before];
        assert_eq!(record["reason"], reason, "{record}");
        assert!(record["queue_ms"].as_f64().unwrap() >= 40.0, "{record}");
        drop(first);
        gw.access_log(before + 2);
    }
    let waits = gw.metrics().sum("harbr_queue_wait_seconds_count", &[]);
    assert_eq!(waits, 2.0);
}
