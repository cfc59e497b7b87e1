//! Filters that fail, panic or never come to an end: their request ends, and nothing else.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use harbr_router::filter::{
    Context, End, Filter, Last, RequestHead, ResponseHead, Result, Verdict,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Named, Noting, Seen};
use crate::support::{Client, Gw, Next, Origin, echoed, route};

/// Fails in the phase that the request names in `X-Error` or `X-Panic`.
struct Troubled {
    waits: bool,
}

#[derive(Deserialize, JsonSchema)]
struct TroubledSettings {
    #[serde(default)]
    waits: bool,
}

fn trouble(cx: &Context<'_>, phase: &str) -> Result<()> {
    let named = |name: &str| cx.request().headers.get(name).is_some_and(|v| v == phase);
    if named("x-panic") {
        panic!("on purpose, with a secret");
    }
    match named("x-error") {
        true => Err("a secret text".into()),
        false => Ok(()),
    }
}

#[async_trait]
impl Filter for Troubled {
    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        if self.waits {
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        trouble(cx, "request").map(|()| Verdict::Continue)
    }

    fn request_body(
        &self,
        cx: &mut Context<'_>,
        body: &mut Option<Bytes>,
        _last: Last,
    ) -> Result<()> {
        let kept = body.take();
        trouble(cx, "request_body")?;
        *body = kept;
        Ok(())
    }

    fn upstream_request(&self, cx: &mut Context<'_>, _head: &mut RequestHead<'_>) -> Result<()> {
        trouble(cx, "upstream_request")
    }

    fn response(&self, cx: &mut Context<'_>, _head: &mut ResponseHead<'_>) -> Result<()> {
        trouble(cx, "response")
    }

    fn response_body(
        &self,
        cx: &mut Context<'_>,
        body: &mut Option<Bytes>,
        _last: Last,
    ) -> Result<()> {
        let kept = body.take();
        trouble(cx, "response_body")?;
        *body = kept;
        Ok(())
    }

    fn log(&self, cx: &mut Context<'_>, _end: &End) {
        if trouble(cx, "log").is_err() {
            panic!("on purpose: there is no other way to fail here");
        }
    }
}

/// One worker, so that the next request meets the one that had to survive.
fn troubled(origin: &Origin, filters: &str) -> (Gw, Seen) {
    let seen = Seen::default();
    let noted = seen.clone();
    let yaml = format!(
        "server:\n  threads: 1\n  drain_timeout_secs: 1\n{}",
        route("/", &[origin.url()], &format!("filters: [{filters}]\n"))
    );
    let gw = Gw::embed(yaml, move |gateway| {
        gateway
            .filter("troubled", |settings: TroubledSettings| {
                Ok(Troubled {
                    waits: settings.waits,
                })
            })
            .filter("noting", move |named: Named| {
                Ok(Noting {
                    name: named.name,
                    seen: noted.clone(),
                })
            })
    });
    (gw, seen)
}

const PHASES: [&str; 4] = ["request", "request_body", "upstream_request", "response"];

#[test]
fn an_error_or_a_panic_in_any_phase_is_a_500_and_the_worker_lives() {
    let origin = Origin::echo();
    let (gw, _) = troubled(&origin, "{type: troubled}");
    for phase in PHASES {
        for how in ["x-error", "x-panic"] {
            let failed = Client::connect(gw.addr()).call("PUT", "/", &[(how, phase)], b"body");
            assert_eq!(failed.status, 500, "{how} in {phase}");
            assert_eq!(failed.json()["reason"], "filter_error");
            assert!(!failed.text().contains("secret"), "{}", failed.text());
            let next = Client::connect(gw.addr()).call("PUT", "/", &[], b"body");
            assert_eq!((next.status, &next.json()["body"]), (200, &"body".into()));
        }
    }
    let reasons = gw.reasons(16);
    assert_eq!(reasons.iter().filter(|r| *r == "filter_error").count(), 8);
    assert_eq!(reasons.iter().filter(|r| *r == "ok").count(), 8);
    let failed = &gw.access_log(16)[0];
    assert_eq!(failed["status"], 500, "{failed}");
}

#[test]
fn an_error_or_a_panic_in_a_response_body_cuts_it_off() {
    let origin = Origin::serve(|_, conn| {
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        // The head is out before the body comes.
        conn.body()?;
        conn.send("3\r\nabc\r\n0\r\n\r\n")?;
        Ok(Next::Close)
    });
    let (gw, _) = troubled(&origin, "{type: troubled}");
    for how in ["x-error", "x-panic"] {
        let mut client = gw.client();
        client.send(format!(
            "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n{how}: response_body\r\n\r\n"
        ));
        let (head, framing) = client.head().unwrap();
        assert_eq!(head.status, 200);
        client.send("!");
        client.body(framing).expect_err("the body ends early");
    }
    assert_eq!(gw.reasons(2), ["filter_error", "filter_error"]);

    // Over an answer of our own nothing is sent before all of it is there.
    let refusing = Origin::refusing();
    let yaml = route("/", &[refusing.url()], "filters: [{type: troubled}]\n");
    let gw = Gw::embed(yaml, |gateway| {
        gateway.filter("troubled", |_: TroubledSettings| {
            Ok(Troubled { waits: false })
        })
    });
    let response =
        Client::connect(gw.addr()).call("GET", "/", &[("x-error", "response_body")], b"");
    assert_eq!(response.status, 500);
    assert_eq!(response.json()["reason"], "filter_error");
}

#[test]
fn a_panic_over_the_log_harms_nobody() {
    let origin = Origin::echo();
    let (gw, seen) = troubled(&origin, "{type: troubled}, {type: noting, name: n}");
    for how in ["x-error", "x-panic"] {
        let mut client = gw.client();
        assert_eq!(client.call("GET", "/", &[(how, "log")], b"").status, 200);
        assert_eq!(client.get("/").status, 200, "on the same connection");
    }
    let notes = seen.wait_for(24);
    let logs = notes.iter().filter(|note| *note == "n log 200 ok").count();
    assert_eq!(logs, 4, "{notes:?}");
    assert_eq!(gw.reasons(4), ["ok"; 4]);
}

#[test]
fn on_error_continue_passes_over_the_filter() {
    let origin = Origin::echo();
    let (gw, seen) = troubled(
        &origin,
        "{type: troubled, on_error: continue}, {type: noting, name: n}",
    );
    let mut client = gw.client();
    for phase in [
        "request",
        "request_body",
        "upstream_request",
        "response",
        "response_body",
    ] {
        for how in ["x-error", "x-panic"] {
            let response = client.call("PUT", "/", &[(how, phase)], b"whole");
            assert_eq!(response.status, 200, "{how} in {phase}");
            assert_eq!(response.json()["body"], "whole", "{how} in {phase}");
        }
    }
    assert_eq!(gw.reasons(10), ["ok"; 10]);
    assert_eq!(seen.wait_for(60).len(), 60, "the other filter saw all");
}

#[test]
fn the_filters_before_the_one_that_failed_see_the_500() {
    let origin = Origin::echo();
    let filters = "{type: noting, name: before}, {type: troubled}, {type: noting, name: behind}";
    for (phase, seen_by_behind) in [
        ("request", vec!["behind log 500 filter_error"]),
        (
            "response",
            vec![
                "behind request",
                "behind upstream_request",
                "behind request_body",
                "behind response 200",
                "behind log 500 filter_error",
            ],
        ),
    ] {
        let (gw, seen) = troubled(&origin, filters);
        let response = Client::connect(gw.addr()).call("GET", "/", &[("x-error", phase)], b"");
        assert_eq!(response.status, 500);
        gw.access_log(1);
        let all = seen.wait_for(if phase == "request" { 5 } else { 11 });
        let by = |name: &str| -> Vec<String> {
            let notes = all.iter().filter(|note| note.starts_with(name));
            notes.cloned().collect()
        };
        assert_eq!(by("behind"), seen_by_behind, "{phase}");
        let before = by("before");
        assert!(
            before.contains(&"before response 500".to_owned()),
            "{before:?}"
        );
        assert!(
            before.contains(&"before response_body".to_owned()),
            "{before:?}"
        );
        assert!(
            !before.contains(&"before response 200".to_owned()),
            "{before:?}"
        );
    }
}

#[test]
fn a_filter_that_never_ends_is_ended_by_the_timeout_of_its_request() {
    let origin = Origin::echo();
    let (gw, _) = troubled(&origin, "{type: troubled, waits: true}");
    gw.reload(format!(
        "server:\n  threads: 1\n  drain_timeout_secs: 1\n{}",
        route(
            "/",
            &[origin.url()],
            "timeout_ms: 200\nfilters: [{type: troubled, waits: true}]\n"
        )
    ));
    let started = std::time::Instant::now();
    let response = gw.get("/");
    assert_eq!(response.status, 504);
    assert_eq!(response.json()["reason"], "timeout");
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(origin.connections(), 0);
    assert!(echoed(&Client::connect(origin.addr()).get("/").json(), "host").len() == 1);
}
