//! The admin listener and the access log: what the gateway reports about itself.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::json;

use crate::support::gateway::Metrics;
use crate::support::{Client, Gw, Origin, Redis, client, eventually, route, route_entry};

fn admin(gw: &Gw, method: &str, target: &str) -> crate::support::Response {
    let host = gw.admin_addr().to_string();
    Client::connect(gw.admin_addr()).call(method, target, &[("Host", &host)], b"")
}

#[test]
fn metrics_have_the_names_on_the_dashboards() {
    let origin = Origin::ok("ok");
    let gw = Gw::start(format!(
        "routes:\n{}{}",
        route_entry("/ok", &[origin.url()], ""),
        route_entry(
            "/dead",
            &[Origin::refusing().url(), origin.url()],
            "retry_count: 1\n"
        ),
    ));
    let mut client = gw.client();
    for target in ["/ok", "/ok", "/none"] {
        client.get(target);
    }
    for _ in 0..2 {
        assert_eq!(gw.get("/dead").status, 200);
    }
    // A request is counted when its answer has left.
    eventually(Duration::from_secs(5), "all are counted", || {
        let metrics = Metrics::parse(&admin(&gw, "GET", "/metrics").text());
        let in_flight = metrics.sum("harbr_http_requests_in_flight", &[]);
        metrics.sum("harbr_http_requests_total", &[]) == 5.0 && in_flight == 0.0
    });
    let response = admin(&gw, "GET", "/metrics");
    let kind = response
        .headers
        .first("content-type")
        .unwrap_or_default()
        .to_owned();
    assert!(kind.starts_with("text/plain"), "{kind}");
    let text = response.text();
    let metrics = Metrics::parse(&text);
    let requests = |labels: &[(&str, &str)]| metrics.sum("harbr_http_requests_total", labels);
    assert_eq!(
        requests(&[("route", "/ok"), ("code", "2xx"), ("reason", "ok")]),
        2.0
    );
    assert_eq!(
        requests(&[("route", "-"), ("code", "4xx"), ("reason", "no_route")]),
        1.0
    );
    assert_eq!(requests(&[("route", "/dead"), ("code", "2xx")]), 2.0);
    let count = "harbr_http_request_duration_seconds_count";
    assert_eq!(metrics.sum(count, &[("route", "/ok")]), 2.0);
    let retries = [("route", "/dead"), ("reason", "connect_failed")];
    assert!(metrics.sum("harbr_retries_total", &retries) >= 1.0);
    assert_eq!(metrics.sum("harbr_http_requests_in_flight", &[]), 0.0);
    let endpoint = origin.addr().to_string();
    let healthy = [("upstream", "/ok"), ("endpoint", endpoint.as_str())];
    assert_eq!(metrics.sum("harbr_endpoint_healthy", &healthy), 1.0);
    assert!(metrics.has("harbr_connections_active", &[("listener", "127.0.0.1:0")]));
    assert_eq!(
        metrics.sum(
            "harbr_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))]
        ),
        1.0
    );
    assert!(metrics.sum("harbr_config_generation", &[]) >= 1.0);
    for name in [
        "harbr_http_requests_total",
        "harbr_http_request_duration_seconds",
        "harbr_http_requests_in_flight",
        "harbr_retries_total",
        "harbr_connections_active",
        "harbr_endpoint_healthy",
        "harbr_config_generation",
        "harbr_build_info",
    ] {
        assert!(
            text.contains(&format!("# TYPE {name} ")),
            "{name} has no type"
        );
        assert!(
            text.contains(&format!("# HELP {name} ")),
            "{name} has no help"
        );
    }
    let routes = |s: &crate::support::gateway::Sample| s.labels.get("route").cloned();
    let known = ["/ok", "/dead", "-"];
    for route in metrics.samples().iter().filter_map(routes) {
        assert!(
            known.contains(&route.as_str()),
            "label {route} is not from the config"
        );
    }
}

#[test]
fn the_gauges_follow_connections_and_requests() {
    let origin = Origin::serve(|_, conn| conn.until_closed().map(|()| crate::support::Next::Close));
    let gw = Gw::route(&[origin.url()], "");
    let listener = [("listener", "127.0.0.1:0")];
    let gauges = || {
        let metrics = gw.metrics();
        (
            metrics.sum("harbr_connections_active", &listener),
            metrics.sum("harbr_http_requests_in_flight", &[("route", "/")]),
        )
    };
    assert_eq!(gauges(), (0.0, 0.0));
    let idle = gw.client();
    eventually(Duration::from_secs(5), "one connection", || {
        gauges() == (1.0, 0.0)
    });
    let mut busy = gw.client();
    busy.request("GET", "/", &[], b"");
    eventually(Duration::from_secs(5), "one request", || {
        gauges() == (2.0, 1.0)
    });
    drop((idle, busy));
    eventually(Duration::from_secs(5), "back to nothing", || {
        gauges() == (0.0, 0.0)
    });
}

#[test]
fn it_says_that_it_lives_and_is_ready() {
    let origin = Origin::ok("ok");
    let gw = Gw::route(&[origin.url()], "");
    for target in ["/livez", "/readyz"] {
        assert_eq!(admin(&gw, "GET", target).status, 200, "{target}");
        assert_eq!(admin(&gw, "HEAD", target).body.len, 0, "{target}");
    }
}

#[test]
fn the_status_lists_routes_upstreams_and_endpoints() {
    let (origin, dead) = (Origin::ok("ok"), Origin::refusing());
    let gw = Gw::start(format!(
        "routes:\n{}{}",
        route_entry("/a", &[origin.url()], ""),
        route_entry(
            "b.test/c",
            &[dead.url()],
            "health_check: {path: /, interval_ms: 50, unhealthy_after: 1}\n"
        ),
    ));
    eventually(Duration::from_secs(5), "the dead one is down", || {
        let endpoint = &gw.status()["upstreams"][1]["endpoints"][0];
        endpoint["healthy"] == false
    });
    let status = gw.status();
    let text = status.to_string();
    let (alive, dead) = (origin.addr().to_string(), dead.addr().to_string());
    for part in ["/a", "b.test/c", alive.as_str(), dead.as_str()] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for key in ["routes", "upstreams", "generation", "hash"] {
        assert!(status.get(key).is_some(), "{key} in {text}");
    }
    for word in ["in_flight", "healthy"] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn the_status_lists_tcp_routes_listeners_and_the_keys_in_force() {
    let origin = Origin::ok("ok");
    let gw = Gw::start(format!(
        "max_header_bytes: 4096\n\
         admin: {{listen_addr: \"127.0.0.1:0\", token: s3cret-token}}\n\
         tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\"}}\nroutes:\n{}  \
         cache: {{upstream: \"redis://{1}\"}}\n",
        route_entry("/a", &[origin.url()], ""),
        origin.addr(),
    ));
    let status = admin(&gw, "GET", "/status").json();
    let http = json!({"route": "/a", "protocol": "http", "upstream": "/a"});
    let tcp = json!({
        "route": "cache",
        "protocol": "redis",
        "upstream": "cache",
        "listeners": ["127.0.0.1:0"],
    });
    assert_eq!(status["routes"], json!([http, tcp]));
    let listener =
        |kind: &str, key: &str| json!({"listener": "127.0.0.1:0", "kind": kind, "key": key});
    let listeners = json!([
        listener("http", "listen_addr"),
        listener("admin", "admin.listen_addr"),
        listener("tcp", "tcp_proxy.listen_addr"),
    ]);
    assert_eq!(status["listeners"], listeners);
    for (path, value) in [
        ("max_header_bytes", json!(4096)),
        ("header_timeout_ms", json!(10_000)),
        ("tcp_proxy.enabled", json!(true)),
        ("server.threads", json!(null)),
        ("admin.token", json!("***")),
    ] {
        assert_eq!(status["keys"][path], value, "{path}");
    }
}

#[test]
fn the_config_is_shown_without_its_secrets() {
    let origin = Origin::ok("ok");
    let text = route("/shown", &[origin.url()], "timeout_ms: 4321\n");
    let gw = Gw::start(format!(
        "admin: {{listen_addr: \"127.0.0.1:0\", token: \"s3cret-token\"}}\n{text}"
    ));
    let response = admin(&gw, "GET", "/config");
    assert_eq!(response.status, 200, "a loopback peer needs no token");
    let shown = response.text();
    assert!(
        shown.contains("/shown") && shown.contains("4321"),
        "{shown}"
    );
    assert!(!shown.contains("s3cret-token"), "{shown}");
    assert!(!gw.status().to_string().contains("s3cret-token"));
}

#[test]
fn what_tells_of_the_inside_answers_strangers_only_with_the_token() {
    // This machine's own address that is not loopback stands for a stranger's.
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    let outside = probe
        .connect("192.0.2.1:9")
        .and_then(|()| probe.local_addr());
    let Ok(outside) = outside else {
        panic!("no interface but loopback: a stranger cannot be played here");
    };
    let origin = Origin::ok("ok");
    let text = route("/", &[origin.url()], "");
    let gw = Gw::start(format!(
        "admin: {{listen_addr: \"0.0.0.0:0\", token: \"s3cret-token\"}}\n{text}"
    ));
    let stranger = (outside.ip(), gw.admin_addr().port()).into();
    let ask = |method: &str, target: &str, authorization: &str| {
        let fields = [("Authorization", authorization)];
        Client::connect(stranger).call(method, target, &fields, b"")
    };
    for authorization in [
        "",
        "Bearer wrong",
        "Bearer s3cret-toke",
        "Basic s3cret-token",
    ] {
        for (method, target) in [("GET", "/config"), ("POST", "/reload")] {
            let status = ask(method, target, authorization).status;
            assert!(
                matches!(status, 401 | 403),
                "{method} {target} {authorization}: {status}"
            );
        }
    }
    let config = ask("GET", "/config", "Bearer s3cret-token");
    assert_eq!(config.status, 200);
    assert!(!config.text().contains("s3cret"), "{}", config.text());
    for target in ["/metrics", "/livez", "/readyz", "/status"] {
        assert_eq!(ask("GET", target, "").status, 200, "{target}");
    }
    // The values of keys are what `/config` shows.
    let has_keys = |authorization| ask("GET", "/status", authorization).json()["keys"].is_object();
    assert!(!has_keys("") && has_keys("Bearer s3cret-token"));
}

#[test]
fn a_web_page_in_a_browser_of_this_machine_gets_nothing_without_the_token() {
    let origin = Origin::ok("ok");
    let text = route("/", &[origin.url()], "");
    let gw = Gw::start(format!(
        "admin: {{listen_addr: \"127.0.0.1:0\", token: \"s3cret-token\"}}\n{text}"
    ));
    let own = gw.admin_addr().to_string();
    let port = gw.admin_addr().port();
    let generation = || gw.metrics().sum("harbr_config_generation", &[]);
    let ask = |method: &str, target: &str, fields: &[(&str, &str)]| {
        Client::connect(gw.admin_addr()).call(method, target, fields, b"")
    };
    let before = generation();
    let named = format!("evil.test:{port}");
    let pages = [
        // Another page's request, and one of a page that is opaque.
        vec![("Host", own.as_str()), ("Origin", "http://evil.test")],
        vec![("Host", own.as_str()), ("Origin", "null")],
        // A page whose name leads here.
        vec![("Host", named.as_str())],
        vec![("Host", "localhost.evil.test")],
        vec![("Host", named.as_str()), ("Authorization", "Bearer wrong")],
    ];
    for page in &pages {
        for (method, target) in [("GET", "/config"), ("POST", "/reload")] {
            let answer = ask(method, target, page);
            assert_eq!(answer.status, 403, "{method} {target} {page:?}");
            assert!(!answer.text().contains("routes"), "{}", answer.text());
        }
    }
    assert_eq!(generation(), before, "nothing was reloaded");
    let local = format!("localhost:{port}");
    for host in [own.as_str(), "127.0.0.1", "[::1]", "localhost", &local] {
        assert_eq!(
            ask("GET", "/config", &[("Host", host)]).status,
            200,
            "{host}"
        );
    }
    for mut page in pages {
        page.retain(|(name, _)| *name != "Authorization");
        page.push(("Authorization", "Bearer s3cret-token"));
        assert_eq!(ask("POST", "/reload", &page).status, 200, "{page:?}");
    }
    assert_eq!(generation(), before + 5.0);
    // What reveals nothing is for everybody.
    for target in ["/metrics", "/livez", "/readyz", "/status"] {
        assert_eq!(
            ask("GET", target, &[("Host", &named)]).status,
            200,
            "{target}"
        );
    }
    // A client of HTTP/1.0 need not say whom it asks.
    let mut old = Client::connect(gw.admin_addr());
    old.send("GET /config HTTP/1.0\r\n\r\n");
    assert_eq!(old.response().unwrap().status, 200);
}

#[test]
fn unknown_paths_and_methods_are_refused_in_kind() {
    let origin = Origin::ok("ok");
    let gw = Gw::route(&[origin.url()], "");
    for target in ["/", "/metrics/x", "/nothing", "/metricsx"] {
        assert_eq!(admin(&gw, "GET", target).status, 404, "{target}");
    }
    for (method, target) in [
        ("POST", "/metrics"),
        ("DELETE", "/status"),
        ("POST", "/config"),
        ("PUT", "/livez"),
    ] {
        let response = admin(&gw, method, target);
        assert_eq!(response.status, 405, "{method} {target}");
        assert!(response.headers.has("allow"), "{method} {target}");
    }
    assert_eq!(admin(&gw, "GET", "/metrics?x=y").status, 200);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn the_admin_listener_counts_for_no_limit_and_survives_junk() {
    let origin = Origin::ok("ok");
    let gw = Gw::start(format!(
        "max_connections: 1\n{}",
        route("/", &[origin.url()], "")
    ));
    let admins: Vec<Client> = (0..10).map(|_| Client::connect(gw.admin_addr())).collect();
    assert_eq!(gw.get("/").text(), "ok");
    drop(admins);
    for junk in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"GET\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut client = Client::connect(gw.admin_addr());
        client.send(junk);
        client.finish();
        client.patience(Duration::from_secs(5));
        let answer = client.rest().unwrap_or_default();
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    }
    assert_eq!(client::get(gw.admin_addr(), "/livez").status, 200);
}

#[test]
fn every_request_leaves_one_record_with_its_times_and_its_end() {
    let origin = Origin::ok("hello");
    let gw = Gw::start(route("/app", &[origin.url()], ""));
    let mut client = gw.client();
    let fields = [("User-Agent", "tester \"quoted\"")];
    assert_eq!(
        client
            .call("POST", "/app/x?q=1", &fields, b"12345678")
            .status,
        200
    );
    assert_eq!(client.get("/elsewhere").status, 404);
    let mut bad = gw.client();
    bad.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(bad.response().unwrap().status, 400);
    let records = gw.access_log(3);
    assert_eq!(records.len(), 3, "{records:?}");
    let with = |reason: &str| {
        let found: Vec<_> = records.iter().filter(|r| r["reason"] == reason).collect();
        assert_eq!(found.len(), 1, "{reason} in {records:?}");
        found[0]
    };
    let ok = with("ok");
    let endpoint = origin.addr().to_string();
    for (key, value) in [
        ("route", "/app"),
        ("upstream", "/app"),
        ("endpoint", endpoint.as_str()),
        ("method", "POST"),
        ("host", "gateway.test"),
        ("listener", "127.0.0.1:0"),
        ("user_agent", "tester \"quoted\""),
    ] {
        assert_eq!(ok[key], value, "{key} in {ok}");
    }
    assert!(
        ok["path"].as_str().is_some_and(|p| p.starts_with("/app/x")),
        "{ok}"
    );
    for (key, value) in [
        ("status", 200),
        ("tries", 1),
        ("bytes_in", 8),
        ("bytes_out", 5),
    ] {
        assert_eq!(ok[key], value, "{key} in {ok}");
    }
    for key in ["connect_ms", "first_byte_ms", "total_ms"] {
        assert!(
            ok[key]
                .as_f64()
                .is_some_and(|ms| (0.0..20_000.0).contains(&ms)),
            "{key} in {ok}"
        );
    }
    assert!(
        ok["time"].as_str().is_some_and(|t| t.ends_with('Z')),
        "{ok}"
    );
    let unrouted = with("no_route");
    assert_eq!(
        (&unrouted["status"], &unrouted["route"]),
        (&404.into(), &"-".into())
    );
    let refused = with("bad_request");
    assert_eq!(refused["status"], 400, "{refused}");
    assert!(
        refused["client"]
            .as_str()
            .is_some_and(|c| c.starts_with("127.0.0.1")),
        "{refused}"
    );
    let metrics = gw.metrics();
    let bad = [("reason", "bad_request"), ("code", "4xx")];
    assert_eq!(metrics.sum("harbr_http_requests_total", &bad), 1.0);
}

#[test]
fn a_record_cannot_be_forged_from_a_request() {
    let origin = Origin::ok("ok");
    let gw = Gw::route(&[origin.url()], "");
    let fields = [("User-Agent", "x\",\"reason\":\"forged\u{202e}\u{7f}")];
    let mut client = gw.client();
    client.request("GET", "/%0a%22?\"x\"", &[], b"");
    let first = client.response().unwrap().status;
    let mut other = gw.client();
    other.request("GET", "/", &fields, b"");
    let second = other.response().unwrap().status;
    assert!(
        [200, 400].contains(&first) && [200, 400].contains(&second),
        "{first} {second}"
    );
    for record in gw.access_log(2) {
        let reason = record["reason"].as_str().unwrap();
        assert!(["ok", "bad_request"].contains(&reason), "{record}");
    }
}

#[test]
fn the_status_tells_the_role_of_an_endpoint_once_it_is_known() {
    let (server, origin) = (Redis::new(), Origin::ok("web"));
    let gw = Gw::start(format!(
        "tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\"}}\nroutes:\n  \
         cache: {{upstream: \"{}\", health_check: {{interval_ms: 20}}}}\n  \
         /: {{upstream: \"{}\"}}\n",
        server.url(),
        origin.url()
    ));
    let role = |upstream: &str| {
        let status = gw.status();
        let upstreams = status["upstreams"].as_array().expect("a list").clone();
        let found = upstreams.into_iter().find(|u| u["upstream"] == upstream);
        found.expect("it is listed")["endpoints"][0]["role"].clone()
    };
    eventually(Duration::from_secs(20), "a primary", || {
        role("cache") == "primary"
    });
    assert!(role("/").is_null(), "HTTP has none");
    server.run(&["REPLICAOF", "127.0.0.1", "1"]);
    eventually(Duration::from_secs(20), "a replica", || {
        role("cache") == "replica"
    });
}
