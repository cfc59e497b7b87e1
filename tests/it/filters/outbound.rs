//! Filters that call another upstream of the configuration, and that work in the background.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use harbr_router::Reason;
use harbr_router::filter::{
    Build, Context, Filter, OutboundError, Phases, Response, Result, UpstreamClient, Verdict,
};
use harbr_router::server::Gateway;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::{Gw, Origin, eventually, route_entry};

/// Lets a request pass when another upstream says so.
struct ForwardAuth {
    auth: Arc<dyn UpstreamClient>,
    within: Duration,
    failures: Arc<Mutex<Vec<Reason>>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ForwardAuthSettings {
    upstream: String,
    within_ms: u64,
}

#[async_trait]
impl Filter for ForwardAuth {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        let ask = http::Request::post("/ask?user=1")
            .header("x-asked-for", cx.target())
            // Whoever writes this cannot break the framing.
            .header("transfer-encoding", "chunked")
            .body(Bytes::from_static(b"who?"))?;
        let answer = self.auth.call(ask, Instant::now() + self.within).await;
        let answer = answer.inspect_err(|error: &OutboundError| {
            self.failures.lock().unwrap().push(error.reason());
        })?;
        Ok(match answer.status() {
            StatusCode::OK => {
                cx.request_mut().set("x-asked", answer.body().as_ref())?;
                Verdict::Continue
            }
            _ => Verdict::Respond(Response::refusal(Reason::Unauthorized)),
        })
    }
}

fn forward_auth(gateway: Gateway, failures: &Arc<Mutex<Vec<Reason>>>) -> Gateway {
    let failures = failures.clone();
    gateway.register(move |registry| {
        registry.http_with(
            "ask",
            move |settings: ForwardAuthSettings, build: &mut Build<'_>| {
                Ok(ForwardAuth {
                    auth: build.upstream("upstream", &settings.upstream)?,
                    within: Duration::from_millis(settings.within_ms),
                    failures: failures.clone(),
                })
            },
        );
    })
}

/// `/` asks the upstream of the route `/auth`.
fn asking(origin: &str, auth: &str, keys: &str, named: &str, within_ms: u64) -> String {
    let ask = format!("filters:\n  - {{type: ask, upstream: {named}, within_ms: {within_ms}}}\n");
    format!(
        "routes:\n{}{}",
        route_entry("/", &[origin.to_owned()], &ask),
        route_entry("/auth", &[auth.to_owned()], keys)
    )
}

#[test]
fn a_filter_asks_another_upstream_about_each_request() {
    let (origin, auth) = (Origin::echo(), Origin::ok("yes"));
    let failures = Arc::default();
    let config = asking(
        &origin.url(),
        &format!("{}/v1", auth.url()),
        "",
        "/auth",
        5000,
    );
    let gw = Gw::embed(config, |gateway| forward_auth(gateway, &failures));
    let mut client = gw.client();
    for _ in 0..3 {
        assert_eq!(client.get("/a").status, 200);
    }
    let asked = auth.heads();
    assert_eq!(asked.len(), 3);
    assert_eq!(
        asked[0].target, "/v1/ask?user=1",
        "behind the endpoint's path"
    );
    assert_eq!(asked[0].headers.first("x-asked-for"), Some("/a"));
    assert_eq!(asked[0].headers.first("content-length"), Some("4"));
    assert_eq!(asked[0].headers.first("transfer-encoding"), None);
    assert_eq!(origin.heads()[0].headers.first("x-asked"), Some("yes"));
    assert!(auth.connections() < 3, "connections are used again");

    // Another server of this upstream: the filter stays, and follows.
    let no = Origin::status(403, "no");
    let config = asking(&origin.url(), &no.url(), "", "/auth", 5000);
    let reload = gw.reload(config);
    assert_eq!(reload.status, 200, "{}", reload.text());
    assert_eq!(client.get("/a").status, 401);
    assert_eq!(no.requests(), 1);
    assert_eq!(origin.requests(), 3, "it was not sent on");
    assert!(failures.lock().unwrap().is_empty());
}

#[test]
fn a_call_ends_at_its_deadline_and_a_dead_upstream_is_known_to_be() {
    let origin = Origin::echo();
    let silent = Origin::raw(|conn| conn.until_closed());
    let failures = Arc::default();
    let keys = "ejection: {consecutive_failures: 1}\n";
    let config = asking(&origin.url(), &silent.url(), keys, "/auth", 200);
    let gw = Gw::embed(config, |gateway| forward_auth(gateway, &failures));
    let begun = Instant::now();
    assert_eq!(gw.get("/").status, 500);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(*failures.lock().unwrap(), [Reason::Timeout]);

    let dead = Origin::refusing();
    let config = asking(&origin.url(), &dead.url(), keys, "/auth", 5000);
    assert_eq!(gw.reload(config).status, 200);
    assert_eq!(gw.get("/").status, 500);
    assert_eq!(
        *failures.lock().unwrap(),
        [Reason::Timeout, Reason::ConnectFailed]
    );
    let status = gw.status().to_string();
    let blamed = status.contains("connection refused");
    assert!(blamed, "its endpoint is blamed: {status}");
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_call_waits_for_its_place_where_connections_are_limited() {
    let (origin, auth) = (Origin::echo(), Origin::ok("yes"));
    let failures = Arc::default();
    let keys = "max_connections: 1\n";
    let config = asking(&origin.url(), &auth.url(), keys, "/auth", 10_000);
    let gw = Gw::embed(config, |gateway| forward_auth(gateway, &failures));
    std::thread::scope(|scope| {
        let asked = [(); 4].map(|()| scope.spawn(|| gw.get("/")));
        for response in asked {
            assert_eq!(response.join().unwrap().status, 200);
        }
    });
    assert_eq!(auth.requests(), 4);
    eventually(Duration::from_secs(5), "none is kept", || {
        auth.open_connections() == 0
    });
}

#[test]
fn an_upstream_that_is_not_there_is_a_problem_of_the_setting() {
    let origin = Origin::echo();
    let failures = Arc::default();
    let config = asking(&origin.url(), &origin.url(), "", "/auth", 5000);
    let gw = Gw::embed(config, |gateway| forward_auth(gateway, &failures));
    let refused = gw.reload(asking(&origin.url(), &origin.url(), "", "/auht", 5000));
    assert_eq!(refused.status, 422);
    let text = refused.text();
    assert!(text.contains("filters[0].upstream"), "{text}");
    assert!(text.contains("/auth"), "what was meant: {text}");
    // A filter that would be kept is not, when what it calls is gone.
    let ask = "filters:\n  - {type: ask, upstream: /auth, within_ms: 5000}\n";
    let without = format!("routes:\n{}", route_entry("/", &[origin.url()], ask));
    assert_eq!(gw.reload(without).status, 422);
    assert_eq!(gw.get("/").status, 200, "it goes on as before");
}

/// Answers with a value that is refreshed in the background.
struct Refreshed {
    keys: Arc<Mutex<String>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RefreshedSettings {
    from: String,
}

#[async_trait]
impl Filter for Refreshed {
    async fn request(&self, _: &mut Context<'_>) -> Result<Verdict> {
        let keys = self.keys.lock().unwrap().clone();
        Ok(Verdict::Respond(Response::new(StatusCode::OK).body(keys)))
    }
}

/// What became of background tasks.
#[derive(Clone, Default)]
struct Runs {
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

struct Run(Runs);

impl Run {
    fn begin(runs: &Runs) -> Run {
        runs.begun.fetch_add(1, Ordering::SeqCst);
        Run(runs.clone())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

fn refreshed(gateway: Gateway, runs: &Runs) -> Gateway {
    let runs = runs.clone();
    gateway.register(move |registry| {
        registry.http_with(
            "refreshed",
            move |settings: RefreshedSettings, build: &mut Build<'_>| {
                let source = build.upstream("from", &settings.from)?;
                let keys = Arc::new(Mutex::new("none".to_owned()));
                let (latest, runs) = (keys.clone(), runs.clone());
                build.background("refresh", async move {
                    let _run = Run::begin(&runs);
                    loop {
                        let get = http::Request::get("/keys").body(Bytes::new())?;
                        let deadline = Instant::now() + Duration::from_secs(5);
                        if let Ok(response) = source.call(get, deadline).await {
                            let text = String::from_utf8_lossy(response.body()).into_owned();
                            *latest.lock().unwrap() = text;
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                });
                Ok(Refreshed { keys })
            },
        );
    })
}

fn refreshing(source: &Origin, more: &str) -> String {
    let filter = format!("filters:\n  - {{type: refreshed, from: /keys{more}}}\n");
    format!(
        "routes:\n{}{}",
        route_entry("/", &[source.url()], &filter),
        route_entry("/keys", &[source.url()], "")
    )
}

#[test]
fn a_background_task_refreshes_a_value_until_its_filter_is_gone() {
    let source = Origin::ok("one");
    let runs = Runs::default();
    let gw = Gw::embed(refreshing(&source, ""), |gateway| refreshed(gateway, &runs));
    let within = Duration::from_secs(10);
    eventually(within, "the first value", || gw.get("/").text() == "one");
    let counts = || {
        let (begun, ended) = (&runs.begun, &runs.ended);
        (begun.load(Ordering::SeqCst), ended.load(Ordering::SeqCst))
    };
    // The same filter, the same task, another source.
    let second = Origin::ok("two");
    assert_eq!(gw.reload(refreshing(&second, "")).status, 200);
    eventually(within, "the second value", || gw.get("/").text() == "two");
    assert_eq!(counts(), (1, 0));
    // Of a configuration that is refused, none begins.
    let refused = refreshing(&source, "").replace("/keys}", "/keys}\n      - {type: nothing}");
    assert_eq!(gw.reload(refused).status, 422);
    let wrong = refreshing(&source, ", colour: red");
    assert_eq!(gw.reload(wrong).status, 422);
    // Two entries, two filters, two tasks.
    let twice =
        refreshing(&second, "").replace("/keys}", "/keys}\n      - {type: refreshed, from: /}");
    assert_eq!(gw.reload(twice).status, 200);
    eventually(within, "a second task", || counts() == (2, 0));
    let without = format!("routes:\n{}", route_entry("/", &[second.url()], ""));
    assert_eq!(gw.reload(without).status, 200);
    eventually(within, "both have ended", || counts() == (2, 2));
    assert_eq!(gw.reload(refreshing(&second, "")).status, 200);
    eventually(within, "a third task", || counts() == (3, 2));
    gw.stop();
    assert_eq!(counts(), (3, 3), "it ended with the gateway");
}

#[test]
fn a_background_task_that_panics_ends_alone() {
    let origin = Origin::ok("here");
    let begun = Arc::new(AtomicBool::new(false));
    let seen = begun.clone();
    let filter = "filters:\n  - {type: panics}\n";
    let config = format!("routes:\n{}", route_entry("/", &[origin.url()], filter));
    let gw = Gw::embed(config, move |gateway| {
        gateway.register(move |registry| {
            registry.http_with("panics", move |(): (), build: &mut Build<'_>| {
                let seen = seen.clone();
                build.background("panics", async move {
                    seen.store(true, Ordering::SeqCst);
                    panic!("on purpose");
                });
                build.background("waits", pending());
                Ok(harbr_router::filter::from_fn(|_| Ok(Verdict::Continue)))
            });
        })
    });
    eventually(Duration::from_secs(10), "it has begun", || {
        begun.load(Ordering::SeqCst)
    });
    assert_eq!(gw.get("/").text(), "here");
    gw.stop();
}
