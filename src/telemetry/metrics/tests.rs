//! The metrics as a scrape sees them: names, labels, values, and labels that come and go.

use std::time::Instant;

use super::*;
use crate::error::Reason;

/// The value of one sample, by its name and labels as rendered.
fn sample(metrics: &Metrics, name: &str) -> Option<f64> {
    let text = metrics.render();
    let line = text.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn counts_http_requests() {
    let metrics = Metrics::new();
    let route = metrics.http_route("/api");
    let first = route.in_flight();
    let second = route.in_flight();
    assert_eq!(route.requests_in_flight(), 2);
    let in_flight = r#"harbr_http_requests_in_flight{route="/api"}"#;
    assert_eq!(sample(&metrics, in_flight), Some(2.0));
    drop((first, second));
    assert_eq!(sample(&metrics, in_flight), Some(0.0));

    route.finished(200, Reason::Ok, 0.02);
    route.finished(204, Reason::Ok, 0.0001);
    route.finished(504, Reason::Timeout, 3.0);
    route.finished(504, Reason::Timeout, 300.0);
    route.finished(0, Reason::ClientClosed, 1.0);
    route.retried(Reason::ConnectFailed);
    route.queue_waited(0.2);
    for (name, expected) in [
        (
            r#"harbr_http_requests_total{code="2xx",reason="ok",route="/api"}"#,
            2.0,
        ),
        (
            r#"harbr_http_requests_total{code="5xx",reason="timeout",route="/api"}"#,
            2.0,
        ),
        (
            r#"harbr_http_requests_total{code="-",reason="client_closed",route="/api"}"#,
            1.0,
        ),
        (
            r#"harbr_http_request_duration_seconds_bucket{route="/api",le="0.0005"}"#,
            1.0,
        ),
        (
            r#"harbr_http_request_duration_seconds_bucket{route="/api",le="60"}"#,
            4.0,
        ),
        (
            r#"harbr_http_request_duration_seconds_count{route="/api"}"#,
            5.0,
        ),
        (
            r#"harbr_retries_total{reason="connect_failed",route="/api"}"#,
            1.0,
        ),
        (r#"harbr_queue_wait_seconds_sum{route="/api"}"#, 0.2),
    ] {
        assert_eq!(sample(&metrics, name), Some(expected), "{name}");
    }
    assert!(!metrics.render().contains("tcp_proxy"));
}

#[test]
fn counts_tcp_sessions_under_the_fixed_names() {
    let metrics = Metrics::new();
    let route = metrics.tcp_route("postgres");
    assert_eq!(
        sample(&metrics, r#"tcp_proxy_timeout{route="postgres"}"#),
        Some(0.0)
    );
    let ended_well = route.session(Instant::now());
    let timed_out = route.session(Instant::now());
    let cut = route.session(Instant::now());
    let _alive = route.session(Instant::now());
    ended_well.finished(Reason::Ok);
    timed_out.finished(Reason::IdleTimeout);
    drop(cut);
    route.bytes(Direction::Upstream, 7);
    route.bytes(Direction::Downstream, 9);
    let warm = route.warm_socket();
    let _other = route.warm_socket();
    drop(warm);
    route.warm_hit();
    route.warm_miss();
    for (name, expected) in [
        (r#"tcp_proxy_connection_new{route="postgres"}"#, 4.0),
        (r#"tcp_proxy_connection_completed{route="postgres"}"#, 3.0),
        (r#"tcp_proxy_timeout{route="postgres"}"#, 1.0),
        (
            r#"tcp_proxy_connection_duration_seconds_count{route="postgres"}"#,
            3.0,
        ),
        (
            r#"harbr_tcp_sessions_total{reason="ok",route="postgres"}"#,
            1.0,
        ),
        (
            r#"harbr_tcp_sessions_total{reason="idle_timeout",route="postgres"}"#,
            1.0,
        ),
        (
            r#"harbr_tcp_sessions_total{reason="drained",route="postgres"}"#,
            1.0,
        ),
        (
            r#"harbr_tcp_bytes_total{direction="upstream",route="postgres"}"#,
            7.0,
        ),
        (
            r#"harbr_tcp_bytes_total{direction="downstream",route="postgres"}"#,
            9.0,
        ),
        (r#"harbr_warm_sockets{route="postgres"}"#, 1.0),
        (r#"harbr_warm_hits_total{route="postgres"}"#, 1.0),
        (r#"harbr_warm_misses_total{route="postgres"}"#, 1.0),
    ] {
        assert_eq!(sample(&metrics, name), Some(expected), "{name}");
    }
    assert!(!metrics.render().contains("harbr_http_requests"));
}

#[test]
fn the_fixed_names_have_clean_ones_beside_them_with_the_same_values() {
    let metrics = Metrics::new();
    assert!(!metrics.render().contains("harbr_tcp_sessions"));
    let (a, b) = (metrics.tcp_route("a"), metrics.tcp_route("b"));
    a.session(Instant::now()).finished(Reason::Ok);
    a.session(Instant::now()).finished(Reason::QueueTimeout);
    let _open = b.session(Instant::now());
    for (clean, fixed, values) in [
        (
            "harbr_tcp_sessions_opened_total",
            "tcp_proxy_connection_new",
            [2.0, 1.0],
        ),
        (
            "harbr_tcp_sessions_closed_total",
            "tcp_proxy_connection_completed",
            [2.0, 0.0],
        ),
        (
            "harbr_tcp_sessions_timeouts_total",
            "tcp_proxy_timeout",
            [1.0, 0.0],
        ),
    ] {
        for (route, value) in ["a", "b"].into_iter().zip(values) {
            for name in [clean, fixed] {
                let name = format!("{name}{{route=\"{route}\"}}");
                assert_eq!(sample(&metrics, &name), Some(value), "{name}");
            }
        }
    }
    let text = metrics.render();
    let names = text.lines().filter_map(|l| l.strip_prefix("# TYPE "));
    assert!(names.is_sorted(), "{text}");
    drop((a, b, _open));
    assert!(!metrics.render().contains("harbr_tcp_sessions"));
}

#[test]
fn counts_listeners_endpoints_and_reloads() {
    let metrics = Metrics::new();
    let listener = metrics.listener("0.0.0.0:80");
    let open = listener.active();
    assert_eq!(listener.connections_active(), 1);
    drop(open);
    listener.rejected(Reason::TooManyConnections);
    let up = metrics.endpoint_healthy("a", "bc:80");
    let down = metrics.endpoint_healthy("ab", "c:80");
    up.set(true);
    down.set(false);
    metrics.config_generation(7);
    metrics.config_reloaded(ReloadResult::Failed);
    metrics.access_log_dropped().inc();
    let version = env!("CARGO_PKG_VERSION");
    let build = format!(r#"harbr_build_info{{version="{version}"}}"#);
    for (name, expected) in [
        (r#"harbr_connections_active{listener="0.0.0.0:80"}"#, 0.0),
        (
            r#"harbr_connections_rejected_total{listener="0.0.0.0:80",reason="too_many_connections"}"#,
            1.0,
        ),
        (
            r#"harbr_endpoint_healthy{endpoint="bc:80",upstream="a"}"#,
            1.0,
        ),
        (
            r#"harbr_endpoint_healthy{endpoint="c:80",upstream="ab"}"#,
            0.0,
        ),
        ("harbr_config_generation", 7.0),
        (r#"harbr_config_reloads_total{result="failed"}"#, 1.0),
        (r#"harbr_config_reloads_total{result="ok"}"#, 0.0),
        ("harbr_access_log_dropped_total", 1.0),
        (&build, 1.0),
    ] {
        assert_eq!(sample(&metrics, name), Some(expected), "{name}");
    }
}

/// One generation of handles, each used once.
fn generation(metrics: &Metrics, number: usize) -> impl Sized {
    let route = metrics.http_route(&format!("/r{number}"));
    route.finished(200, Reason::Ok, 0.1);
    route.finished(404, Reason::FilterRefused, 0.1);
    route.finished(503, Reason::QueueTimeout, 0.1);
    route.retried(Reason::Timeout);
    route.queue_waited(0.1);
    drop(route.in_flight());
    let tcp = metrics.tcp_route(&format!("db{number}"));
    tcp.session(Instant::now()).finished(Reason::ClientClosed);
    tcp.retried(Reason::ConnectTimeout);
    tcp.queue_waited(1.0);
    let listener = metrics.listener(&format!("127.0.0.1:{number}"));
    listener.rejected(Reason::TooManyConnections);
    drop(listener.active());
    let endpoint = metrics.endpoint_healthy("pool", &format!("10.0.0.1:{number}"));
    (route, tcp, listener, endpoint)
}

#[test]
fn forgets_what_a_reload_removed() {
    let metrics = Metrics::new();
    let _stays = metrics.http_route("/").in_flight();
    let before = metrics.render();
    let mut serving = None;
    for number in 0..1000 {
        serving.replace(generation(&metrics, number));
    }
    assert!(metrics.render().contains("/r999"));
    assert!(!metrics.render().contains("/r998"));
    drop(serving);
    assert_eq!(metrics.render(), before);
}

#[test]
fn a_label_outlives_a_reload_that_keeps_it() {
    let metrics = Metrics::new();
    let name = r#"harbr_http_requests_total{code="2xx",reason="ok",route="/a"}"#;
    let old = metrics.http_route("/a");
    old.finished(200, Reason::Ok, 0.1);
    let new = metrics.http_route("/a");
    let in_flight = old.in_flight();
    drop(old);
    new.finished(200, Reason::Ok, 0.1);
    assert_eq!(sample(&metrics, name), Some(2.0));
    drop(new);
    assert_eq!(
        sample(&metrics, name),
        Some(2.0),
        "a request is still in flight"
    );
    drop(in_flight);
    assert_eq!(sample(&metrics, name), None);
    // A route that comes back, now as another kind of route, starts anew.
    let back = metrics.tcp_route("/a");
    back.retried(Reason::ConnectFailed);
    assert_eq!(sample(&metrics, name), None);
    assert!(
        metrics
            .render()
            .contains(r#"harbr_retries_total{reason="connect_failed",route="/a"} 1"#)
    );
}

#[test]
fn gateways_in_one_process_count_apart() {
    let (one, other) = (Metrics::new(), Metrics::new());
    let _route = one.http_route("/").in_flight();
    assert!(
        one.clone()
            .render()
            .contains("harbr_http_requests_in_flight")
    );
    assert!(!other.render().contains("harbr_http_requests_in_flight"));
}

#[test]
fn labels_that_come_and_go_at_once_stay_whole() {
    let metrics = Metrics::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let route = metrics.http_route("/a");
                    let _guard = route.in_flight();
                    route.finished(500, Reason::UpstreamError, 0.1);
                    metrics.endpoint_healthy("a", "b:1").set(false);
                }
            });
        }
    });
    assert!(!metrics.render().contains("/a"));
    assert!(!metrics.render().contains("b:1"));
}

#[test]
fn label_values_cannot_break_the_format() {
    let metrics = Metrics::new();
    let _route = metrics.http_route("/a\"\n\\b").in_flight();
    let text = metrics.render();
    assert!(text.contains(r#"{route="/a\"\n\\b"} 1"#), "{text}");
    assert!(text.ends_with('\n'));
}
