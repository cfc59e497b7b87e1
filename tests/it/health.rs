//! Endpoints that go and come back: active checks, passive ejection, fail-open, nobody left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{Gw, Load, Next, Origin, eventually, loaded, route_entry};

/// Answers its name; while `sick` it fails its check at `/health`, and all else when `all_sick`.
fn patient(name: &'static str, sick: &Arc<AtomicBool>) -> Origin {
    let sick = Arc::clone(sick);
    Origin::serve(move |request, conn| {
        let failing = sick.load(Ordering::SeqCst);
        let status = if failing && request.target == "/health" {
            500
        } else {
            200
        };
        conn.answer(status, &[], name.as_bytes())
    })
}

fn healthy(gw: &Gw, origin: &Origin) -> f64 {
    let endpoint = origin.addr().to_string();
    gw.metrics()
        .sum("harbr_endpoint_healthy", &[("endpoint", &endpoint)])
}

fn traffic(origin: &Origin) -> usize {
    origin.heads().iter().filter(|r| r.target == "/").count()
}

#[test]
fn an_origin_killed_under_load_costs_no_request_and_gets_traffic_again() {
    let _turn = loaded();
    let (mut mortal, other) = (Origin::ok("mortal"), Origin::ok("other"));
    let gw = Gw::route(
        &[mortal.url(), other.url()],
        "retry_count: 2\nhealth_check: {path: /health, interval_ms: 100, timeout_ms: 200}\n",
    );
    let addr = gw.addr();
    let load = thread::spawn(move || {
        let mut load = Load::new(16, 1000, "/");
        load.rate = Some(200);
        load.run(addr)
    });
    let served = |origin: &Origin, more: usize| {
        let before = origin.requests();
        eventually(Duration::from_secs(5), "traffic", || {
            origin.requests() > before + more
        });
    };
    served(&mortal, 50);
    mortal.stop();
    eventually(Duration::from_secs(5), "it is out", || {
        healthy(&gw, &mortal) == 0.0
    });
    served(&other, 100);
    mortal.start();
    eventually(Duration::from_secs(5), "it is in", || {
        healthy(&gw, &mortal) == 1.0
    });
    // Ten checks in a second: what is above that is traffic.
    served(&mortal, 60);
    let outcome = load.join().unwrap();
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert_eq!(outcome.status(200), 1000, "{outcome:?}");
    assert!(outcome.bodies["mortal"] > 80, "{outcome:?}");
}

#[test]
fn an_endpoint_that_fails_its_check_gets_nothing_until_it_passes() {
    let sick = Arc::new(AtomicBool::new(false));
    let (a, b) = (patient("a", &sick), Origin::ok("b"));
    let gw = Gw::route(
        &[a.url(), b.url()],
        "health_check: {path: /health, interval_ms: 50, unhealthy_after: 2, healthy_after: 2}\n",
    );
    eventually(Duration::from_secs(5), "both are in", || {
        healthy(&gw, &a) == 1.0 && healthy(&gw, &b) == 1.0
    });
    let mut client = gw.client();
    let bodies: Vec<String> = (0..4).map(|_| client.get("/").text()).collect();
    assert_eq!(bodies.iter().filter(|b| *b == "a").count(), 2, "{bodies:?}");
    sick.store(true, Ordering::SeqCst);
    eventually(Duration::from_secs(5), "a is out", || {
        healthy(&gw, &a) == 0.0
    });
    let before = traffic(&a);
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "b");
    }
    assert_eq!(traffic(&a), before);
    sick.store(false, Ordering::SeqCst);
    eventually(Duration::from_secs(5), "a is in", || {
        healthy(&gw, &a) == 1.0
    });
    let bodies: Vec<String> = (0..4).map(|_| client.get("/").text()).collect();
    assert!(bodies.iter().any(|b| b == "a"), "{bodies:?}");
}

#[test]
fn health_check_path_is_short_for_a_check_of_that_path() {
    let origin = Origin::ok("x");
    let gw = Gw::route(&[origin.url()], "health_check_path: /are-you-there\n");
    eventually(Duration::from_secs(10), "it is asked", || {
        origin.heads().iter().any(|r| r.target == "/are-you-there")
    });
    assert_eq!(gw.get("/").text(), "x");
}

#[test]
fn without_a_check_an_endpoint_is_never_asked() {
    let origin = Origin::ok("x");
    let gw = Gw::route(&[origin.url()], "");
    assert_eq!(gw.get("/").text(), "x");
    assert_eq!((origin.connections(), origin.requests()), (1, 1));
}

#[test]
fn the_status_set_decides_what_is_healthy() {
    let (teapot, ok) = (Origin::status(418, "teapot"), Origin::ok("ok"));
    let check = "health_check: {path: /, interval_ms: 50, unhealthy_after: 1, status: \"418\"}\n";
    let gw = Gw::route(&[teapot.url(), ok.url()], check);
    eventually(Duration::from_secs(5), "only the teapot is in", || {
        healthy(&gw, &teapot) == 1.0 && healthy(&gw, &ok) == 0.0
    });
    assert_eq!(gw.get("/").status, 418);
}

#[test]
fn a_check_that_is_never_answered_has_failed() {
    let silent = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let gw = Gw::route(
        &[silent.url()],
        "health_check: {path: /, interval_ms: 50, timeout_ms: 100, unhealthy_after: 1}\n",
    );
    eventually(Duration::from_secs(5), "it is out", || {
        healthy(&gw, &silent) == 0.0
    });
    let response = gw.get("/");
    assert_eq!(
        (response.status, &response.json()["reason"]),
        (503, &"no_healthy_endpoint".into())
    );
    assert_eq!(gw.reasons(1), ["no_healthy_endpoint"]);
}

#[test]
fn nobody_left_is_a_503_until_one_is_back() {
    let sick = Arc::new(AtomicBool::new(true));
    let origins = [patient("a", &sick), patient("b", &sick)];
    let check = "health_check: {path: /health, interval_ms: 50, unhealthy_after: 1}\n";
    let gw = Gw::route(&origins.each_ref().map(Origin::url), check);
    eventually(Duration::from_secs(5), "both are out", || {
        origins.iter().all(|o| healthy(&gw, o) == 0.0)
    });
    let response = gw.get("/");
    assert_eq!(
        (response.status, &response.json()["reason"]),
        (503, &"no_healthy_endpoint".into())
    );
    assert_eq!(origins.iter().map(traffic).sum::<usize>(), 0);
    sick.store(false, Ordering::SeqCst);
    eventually(Duration::from_secs(5), "served again", || {
        gw.get("/").status == 200
    });
}

#[test]
fn five_failures_in_a_row_eject_an_endpoint_for_a_while() {
    let (bad, good) = (Origin::status(503, "bad"), Origin::ok("good"));
    let gw = Gw::route(
        &[bad.url(), good.url()],
        "ejection: {consecutive_failures: 5, base_ms: 700, max_percent: 10}\n",
    );
    let mut client = gw.client();
    let mut texts: Vec<String> = (0..10).map(|_| client.get("/").text()).collect();
    assert_eq!(texts.iter().filter(|t| *t == "bad").count(), 5, "{texts:?}");
    texts = (0..10).map(|_| client.get("/").text()).collect();
    assert!(texts.iter().all(|t| t == "good"), "{texts:?}");
    assert_eq!(bad.requests(), 5);
    eventually(Duration::from_secs(5), "it is tried again", || {
        client.get("/");
        bad.requests() > 5
    });
}

/// Answers its name, with `status` at `/broken`.
fn broken_at(name: &'static str, status: u16) -> Origin {
    Origin::serve(move |request, conn| match request.target.as_str() {
        "/broken" => conn.answer(status, &[], name.as_bytes()),
        _ => conn.answer(200, &[], name.as_bytes()),
    })
}

fn ejected(gw: &Gw) -> usize {
    let status = gw.status();
    let endpoints = status["upstreams"][0]["endpoints"].as_array().unwrap();
    endpoints.iter().filter(|e| e["ejected"] == true).count()
}

#[test]
fn a_page_that_fails_everywhere_moves_no_sticky_client() {
    let origins = ["a", "b", "c"].map(|name| broken_at(name, 500));
    let gw = Gw::route(
        &origins.each_ref().map(Origin::url),
        "balance: hash\nhash_on: header:X-User\nejection: {max_percent: 100}\n",
    );
    let mut client = gw.client();
    let mut homes = || -> Vec<String> {
        let users = (0..30).map(|n| n.to_string());
        users
            .map(|user| client.call("GET", "/", &[("X-User", &user)], b"").text())
            .collect()
    };
    let before = homes();
    let mut asking = gw.client();
    for user in ["0", "1", "2", "3", "4", "5"] {
        for _ in 0..6 {
            let answer = asking.call("GET", "/broken", &[("X-User", user)], b"");
            assert_eq!(answer.status, 500);
        }
    }
    assert_eq!(ejected(&gw), 0);
    assert_eq!(homes(), before);
}

#[test]
fn statuses_decides_which_answers_eject() {
    for (keys, status, out) in [
        ("", 500, 0),
        ("", 501, 0),
        ("", 505, 0),
        ("", 507, 0),
        ("", 429, 0),
        ("", 502, 1),
        ("", 504, 1),
        ("statuses: 500-599", 500, 1),
        ("statuses: 500-599", 507, 1),
        ("statuses: \"429,503\"", 429, 1),
        ("statuses: 500", 502, 0),
    ] {
        // Retried or passed on: the answer counts alike.
        for retry_count in [0, 1] {
            let (bad, good) = (broken_at("bad", status), Origin::ok("good"));
            let gw = Gw::route(
                &[bad.url(), good.url()],
                &format!("retry_count: {retry_count}\nejection: {{{keys}}}\n"),
            );
            let mut client = gw.client();
            for _ in 0..12 {
                client.get("/broken");
            }
            assert_eq!(bad.requests() == 5, out == 1, "{keys} {status}");
            assert_eq!(ejected(&gw), out, "{keys} {status}, {retry_count} retries");
        }
    }
}

#[test]
fn an_answer_that_does_not_count_ends_the_row() {
    let (bad, good) = (broken_at("bad", 503), Origin::ok("good"));
    let gw = Gw::route(&[bad.url(), good.url()], "ejection: {}\n");
    let mut client = gw.client();
    for _ in 0..3 {
        for target in ["/broken", "/broken", "/broken", "/broken", "/"] {
            // Both have a turn.
            client.get(target);
            client.get(target);
        }
    }
    assert_eq!((bad.requests(), ejected(&gw)), (15, 0));
    for _ in 0..10 {
        client.get("/broken");
    }
    assert_eq!((bad.requests(), ejected(&gw)), (20, 1));
}

#[test]
fn connect_failures_eject_too_and_false_turns_it_off() {
    for (keys, ejected) in [
        ("retry_count: 1\n", true),
        ("retry_count: 1\nejection: false\n", false),
    ] {
        let (dead, good) = (Origin::refusing(), Origin::ok("good"));
        let gw = Gw::route(&[dead.url(), good.url()], keys);
        let mut client = gw.client();
        for _ in 0..40 {
            assert_eq!(client.get("/").text(), "good");
        }
        let retried = gw.metrics().sum("harbr_retries_total", &[]);
        match ejected {
            true => assert_eq!(retried, 5.0),
            false => assert!(retried >= 20.0, "{retried}"),
        }
    }
}

#[test]
fn the_only_endpoint_is_never_ejected() {
    let dead = Origin::refusing();
    let gw = Gw::route(&[dead.url()], "");
    for _ in 0..20 {
        let response = gw.get("/");
        assert_eq!(
            (response.status, &response.json()["reason"]),
            (502, &"connect_failed".into())
        );
    }
}

#[test]
fn ejection_stops_where_fewer_than_half_would_be_left() {
    let origins = ["a", "b", "c"].map(|name| Origin::status(502, name));
    let gw = Gw::route(
        &origins.each_ref().map(Origin::url),
        "ejection: {consecutive_failures: 2, base_ms: 60000, max_percent: 100}\n",
    );
    let mut client = gw.client();
    for _ in 0..60 {
        assert_eq!(client.get("/").status, 502, "never a 503 of the gateway");
    }
    for origin in &origins {
        assert!(
            origin.requests() >= 10,
            "all share the load: {}",
            origin.requests()
        );
    }
}

#[test]
fn a_name_that_does_not_resolve_leaves_the_others_served() {
    let origin = Origin::ok("here");
    let gw = Gw::start(format!(
        "routes:\n{}{}",
        route_entry("/", &[origin.url()], ""),
        route_entry("/gone", &["http://nobody.invalid:80".to_owned()], ""),
    ));
    assert_eq!(gw.get("/").text(), "here");
    let response = gw.get("/gone");
    assert_eq!(
        (response.status, &response.json()["reason"]),
        (503, &"no_healthy_endpoint".into())
    );
    let metrics = gw.metrics();
    let gone = [("endpoint", "nobody.invalid:80")];
    assert!(metrics.has("harbr_endpoint_healthy", &gone));
    assert_eq!(metrics.sum("harbr_endpoint_healthy", &gone), 0.0);
}

#[test]
fn a_name_is_resolved_and_served() {
    let origin = Origin::echo();
    let url = format!("http://localhost:{}", origin.addr().port());
    let gw = Gw::route(&[url], "preserve_host: false\n");
    let mut status = 0;
    eventually(Duration::from_secs(5), "localhost is served", || {
        status = gw.get("/").status;
        status == 200
    });
    assert!(origin.requests() >= 1);
}
