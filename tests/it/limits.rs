//! Bounds: connections, queues, header and body sizes, slow and idle clients.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, Failure, Gw, Load, Next, Origin, eventually, loaded, route, timed};

/// A door that requests wait at.
#[derive(Clone, Default)]
struct Door(Arc<(Mutex<usize>, Condvar)>);

impl Door {
    /// Lets `more` through.
    fn open(&self, more: usize) {
        *self.0.0.lock().unwrap() += more;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut left = self.0.0.lock().unwrap();
        while *left == 0 {
            left = self.0.1.wait(left).unwrap();
        }
        *left -= 1;
    }
}

/// Answers its target once the door lets it.
fn behind(door: &Door) -> Origin {
    let door = door.clone();
    Origin::serve(move |request, conn| {
        door.pass();
        conn.answer(200, &[], request.target.as_bytes())
    })
}

fn active(gw: &Gw) -> f64 {
    gw.metrics()
        .sum("harbr_connections_active", &[("listener", "127.0.0.1:0")])
}

#[test]
fn of_150_clients_100_are_served_and_50_are_told_to_come_again() {
    let _turn = loaded();
    let door = Door::default();
    let origin = behind(&door);
    let gw = Gw::start(format!(
        "max_connections: 100\n{}",
        route("/", &[origin.url()], "")
    ));
    let mut clients: Vec<Client> = (0..150).map(|_| gw.client()).collect();
    for client in &mut clients {
        client.request("GET", "/x", &[], b"");
    }
    eventually(Duration::from_secs(10), "100 are at the endpoint", || {
        origin.requests() == 100
    });
    let rejected = || {
        let labels = [("reason", "too_many_connections")];
        gw.metrics()
            .sum("harbr_connections_rejected_total", &labels)
    };
    eventually(Duration::from_secs(10), "50 are refused", || {
        rejected() == 50.0
    });
    assert_eq!(active(&gw), 100.0);
    door.open(100);
    let (mut served, mut refused) = (0, 0);
    for client in &mut clients {
        let response = client.response().unwrap();
        match response.status {
            200 => served += 1,
            503 => {
                let after = response.headers.first("retry-after");
                assert!(after.is_some_and(|s| s.parse::<u32>().is_ok()), "{after:?}");
                assert!(response.closes());
                assert!(client.is_closed_within(Duration::from_secs(3)));
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!((served, refused), (100, 50));
    drop(clients);
    eventually(Duration::from_secs(5), "the gauge is back", || {
        active(&gw) == 0.0
    });
    assert_eq!((origin.requests(), rejected()), (100, 50.0));
    door.open(1);
    assert_eq!(gw.get("/again").status, 200);
}

#[test]
fn slow_headers_from_500_clients_stop_nobody_else_and_end_at_the_deadline() {
    let _turn = loaded();
    let origin = Origin::ok("fast");
    let text = route("/", &[origin.url()], "");
    let gw = Gw::start(format!("header_timeout_ms: 2000\n{text}"));
    let mut slow: Vec<Client> = (0..500).map(|_| gw.client()).collect();
    for client in &mut slow {
        client.send("GET /slow HTTP/1.1\r\nHost: x\r\nX-Drip: ");
    }
    let start = Instant::now();
    let writers: Vec<_> = slow.iter().map(Client::writer).collect();
    let drip = thread::spawn(move || {
        use std::io::Write;
        while start.elapsed() < Duration::from_millis(2500) {
            for mut writer in &writers {
                // Closed by the gateway in the end: that is what the test is for.
                let _ = writer.write_all(b"x");
            }
            thread::sleep(Duration::from_millis(250));
        }
    });
    let outcome = Load::new(4, 400, "/").run(gw.addr());
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert_eq!(outcome.status(200), 400, "{outcome:?}");
    for client in &mut slow {
        match client.response() {
            Ok(response) => assert_eq!(response.status, 408),
            // The drip of a byte after the close may turn it into a reset.
            Err(failure) => assert!(
                matches!(failure, Failure::Reset | Failure::Closed),
                "{failure}"
            ),
        }
    }
    let took = start.elapsed();
    assert!((1500..6000).contains(&took.as_millis()), "{took:?}");
    drip.join().unwrap();
    drop(slow);
    eventually(Duration::from_secs(5), "all are gone", || {
        active(&gw) == 0.0
    });
    assert_eq!(origin.requests(), 400);
}

#[test]
fn a_head_that_does_not_end_is_a_408_on_every_request_of_a_connection() {
    let _turn = timed();
    let origin = Origin::ok("ok");
    let text = route("/", &[origin.url()], "");
    let gw = Gw::start(format!("header_timeout_ms: 400\n{text}"));
    for before in 0..3 {
        let mut client = gw.client();
        for _ in 0..before {
            assert_eq!(client.get("/").status, 200);
        }
        client.send("GET / HTTP/1.1\r\nHost: x\r\n");
        let start = Instant::now();
        let response = client.response().unwrap();
        let took = start.elapsed();
        assert_eq!(response.status, 408);
        assert!(
            (350..900).contains(&took.as_millis()),
            "{before} before: {took:?}"
        );
        assert!(client.is_closed_within(Duration::from_secs(3)));
    }
    assert_eq!(origin.requests(), 3);
    let reasons = gw.reasons(6);
    assert_eq!(
        reasons.iter().filter(|r| *r == "header_timeout").count(),
        3,
        "{reasons:?}"
    );
}

#[test]
fn idle_connections_are_closed_after_the_keep_alive_timeout_on_every_request() {
    let _turn = timed();
    let origin = Origin::ok("ok");
    let text = route("/", &[origin.url()], "");
    let gw = Gw::start(format!("keepalive_timeout_secs: 1\n{text}"));
    for requests in 1..=3 {
        let mut client = gw.client();
        for _ in 0..requests {
            assert_eq!(client.get("/").status, 200);
        }
        let start = Instant::now();
        assert!(
            client.is_closed_within(Duration::from_secs(5)),
            "after {requests}"
        );
        let took = start.elapsed();
        assert!(
            (900..2000).contains(&took.as_millis()),
            "after {requests}: {took:?}"
        );
    }
    assert_eq!(origin.requests(), 6);
}

#[test]
fn a_connection_that_never_says_anything_is_closed() {
    let origin = Origin::ok("ok");
    let text = route("/", &[origin.url()], "");
    let gw = Gw::start(format!(
        "keepalive_timeout_secs: 1\nheader_timeout_ms: 1000\n{text}"
    ));
    let mut client = gw.client();
    client.patience(Duration::from_secs(5));
    let said = client.rest().expect("an end, not silence");
    assert!(
        said.is_empty() || said.starts_with(b"HTTP/1.1 408 "),
        "{said:?}"
    );
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_head_over_the_limit_is_a_431_and_one_below_passes() {
    let origin = Origin::ok("ok");
    let text = route("/", &[origin.url()], "");
    let gw = Gw::start(format!("max_header_bytes: 4096\n{text}"));
    let filler = |len: usize| "f".repeat(len);
    for (len, status) in [(3500, 200), (4200, 431), (100_000, 431)] {
        let mut client = gw.client();
        client.request("GET", "/", &[("X-Filler", &filler(len))], b"");
        let response = client.response().unwrap();
        assert_eq!(response.status, status, "{len}");
        if status == 431 {
            assert!(client.is_closed_within(Duration::from_secs(3)));
        }
    }
    let mut client = gw.client();
    client.send(format!("GET /{} HTTP/1.1\r\n", filler(10_000)));
    assert_eq!(
        client.response().unwrap().status,
        431,
        "without waiting for the end"
    );
    let mut kept = gw.client();
    assert_eq!(kept.get("/").status, 200);
    kept.request("GET", "/", &[("X-Filler", &filler(4200))], b"");
    assert_eq!(
        kept.response().unwrap().status,
        431,
        "on the second request too"
    );
    assert_eq!(origin.requests(), 2);
    let reasons = gw.reasons(6);
    assert_eq!(
        reasons.iter().filter(|r| *r == "header_too_large").count(),
        4,
        "{reasons:?}"
    );
}

#[test]
fn a_body_that_announces_too_much_is_a_413_and_reaches_nobody() {
    let origin = Origin::echo();
    let text = route("/", &[origin.url()], "");
    let gw = Gw::start(format!("max_body_bytes: 1000\n{text}"));
    let echo = gw.client().call("POST", "/", &[], &[b'b'; 1000]).json();
    assert_eq!(echo["body_len"], 1000, "the limit itself is fine");
    let mark = origin.mark();
    for body in [1001, 500_000] {
        let response = gw.client().call("POST", "/", &[], &vec![b'b'; body]);
        assert_eq!(
            (response.status, &response.json()["reason"]),
            (413, &"body_too_large".into())
        );
    }
    let mut waiting = gw.client();
    waiting.send(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(waiting.response().unwrap().status, 413);
    assert_eq!(origin.since(&mark), Vec::<Vec<u8>>::new());
    let reasons = gw.reasons(4);
    assert_eq!(
        reasons.iter().filter(|r| *r == "body_too_large").count(),
        3,
        "{reasons:?}"
    );
}

#[test]
fn a_chunked_body_that_grows_too_big_is_a_413_and_no_more_than_the_limit_goes_on() {
    let origin = Origin::echo();
    let text = route("/", &[origin.url()], "retry_count: 2\n");
    let gw = Gw::start(format!("max_body_bytes: 1000\n{text}"));
    let mut client = gw.client();
    client.send("PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..50 {
        client.send(format!("64\r\n{}\r\n", "c".repeat(100)));
    }
    client.send("0\r\n\r\n");
    let response = client.response().unwrap();
    assert_eq!(
        (response.status, &response.json()["reason"]),
        (413, &"body_too_large".into())
    );
    eventually(Duration::from_secs(5), "the endpoint is let go", || {
        origin.open_connections() == 0
    });
    for bytes in origin.received() {
        let sent = bytes.iter().filter(|b| **b == b'c').count();
        assert!(sent <= 1000 + 20, "{sent} bytes went on");
        assert!(
            crate::support::http1::whole_requests(&bytes).is_err(),
            "it never was whole"
        );
    }
    let mut exact = gw.client();
    exact.send("PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    exact.send(format!("3e8\r\n{}\r\n0\r\n\r\n", "c".repeat(1000)));
    assert_eq!(exact.response().unwrap().json()["body_len"], 1000);
}

#[test]
fn over_the_limit_of_an_upstream_requests_wait_in_order() {
    let door = Door::default();
    let origin = behind(&door);
    let gw = Gw::route(&[origin.url()], "max_connections: 1\n");
    let in_flight = || {
        gw.metrics()
            .sum("harbr_http_requests_in_flight", &[("route", "/")])
    };
    let mut waiting = Vec::new();
    for nth in 0..6 {
        let mut client = gw.client();
        client.request("GET", &format!("/{nth}"), &[], b"");
        waiting.push(client);
        let all = f64::from(nth + 1);
        eventually(Duration::from_secs(5), "it is in the queue", || {
            in_flight() == all
        });
    }
    eventually(Duration::from_secs(5), "the first is there", || {
        origin.requests() == 1
    });
    door.open(6);
    for client in &mut waiting {
        assert_eq!(client.response().unwrap().status, 200);
    }
    let order: Vec<String> = origin.heads().into_iter().map(|r| r.target).collect();
    assert_eq!(order, ["/0", "/1", "/2", "/3", "/4", "/5"]);
    let metrics = gw.metrics();
    assert!(metrics.sum("harbr_queue_wait_seconds_count", &[("route", "/")]) >= 5.0);
    assert_eq!(in_flight(), 0.0);
}

#[test]
fn waiting_too_long_for_an_upstream_is_a_503() {
    let _turn = timed();
    let door = Door::default();
    let origin = behind(&door);
    let gw = Gw::route(
        &[origin.url()],
        "max_connections: 1\nqueue_timeout_ms: 300\n",
    );
    let mut first = gw.client();
    first.request("GET", "/first", &[], b"");
    eventually(Duration::from_secs(5), "it is there", || {
        origin.requests() == 1
    });
    let start = Instant::now();
    let response = gw.get("/second");
    let took = start.elapsed();
    assert_eq!(
        (response.status, &response.json()["reason"]),
        (503, &"queue_timeout".into())
    );
    assert!((300..800).contains(&took.as_millis()), "{took:?}");
    door.open(2);
    assert_eq!(first.response().unwrap().text(), "/first");
    assert_eq!(gw.get("/third").text(), "/third");
    assert_eq!(origin.requests(), 2);
}

#[test]
fn a_client_that_leaves_the_queue_gives_its_place_up() {
    let door = Door::default();
    let origin = behind(&door);
    let gw = Gw::route(&[origin.url()], "max_connections: 1\n");
    let mut first = gw.client();
    first.request("GET", "/first", &[], b"");
    eventually(Duration::from_secs(5), "it is there", || {
        origin.requests() == 1
    });
    let mut impatient = gw.client();
    impatient.request("GET", "/impatient", &[], b"");
    let in_flight = || gw.metrics().sum("harbr_http_requests_in_flight", &[]);
    eventually(Duration::from_secs(5), "it is in the queue", || {
        in_flight() == 2.0
    });
    impatient.reset();
    eventually(Duration::from_secs(5), "its place is given up", || {
        in_flight() == 1.0
    });
    door.open(2);
    assert_eq!(first.response().unwrap().text(), "/first");
    assert_eq!(gw.get("/last").text(), "/last");
    assert_eq!(origin.requests(), 2, "the impatient one was never sent");
    eventually(Duration::from_secs(5), "nobody is left", || {
        in_flight() == 0.0
    });
}

#[test]
fn the_limit_of_one_endpoint_sends_the_rest_to_the_others() {
    let door = Door::default();
    let (small, big) = (behind(&door), Origin::ok("big"));
    let gw = Gw::route(
        &[
            format!("{{url: \"{}\", max_connections: 1}}", small.url()),
            big.url(),
        ],
        "",
    );
    let mut clients: Vec<Client> = (0..2).map(|_| gw.client()).collect();
    for client in &mut clients {
        client.request("GET", "/held", &[], b"");
    }
    eventually(Duration::from_secs(5), "one is held", || {
        small.requests() == 1
    });
    for _ in 0..10 {
        assert_eq!(gw.get("/").text(), "big");
    }
    assert_eq!(small.requests(), 1);
    door.open(1);
    for client in &mut clients {
        assert_eq!(client.response().unwrap().status, 200);
    }
}

/// The one connection in a thousand that Pingora drops while it hands it over is made anew, so they
/// are not exactly three in all.
#[test]
fn requests_at_an_endpoint_never_exceed_its_limit_and_share_its_connections() {
    let _turn = loaded();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inside, highest) = (now.clone(), most.clone());
    let origin = Origin::serve(move |_, conn| {
        highest.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(2));
        inside.fetch_sub(1, Ordering::SeqCst);
        conn.answer(200, &[], b"ok").map(|_| Next::Keep)
    });
    let gw = Gw::route(&[origin.url()], "max_connections: 3\n");
    let outcome = Load::new(24, 600, "/").run(gw.addr());
    assert_eq!(outcome.status(200), 600, "{outcome:?}");
    assert_eq!(most.load(Ordering::SeqCst), 3);
    let connections = origin.connections();
    assert!(connections <= 10, "{connections}");
}
