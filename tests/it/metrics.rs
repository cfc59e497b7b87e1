//! `/metrics` as Prometheus's own tool reads it, with traffic of every kind behind it.

use std::io::Seek;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::client::{self, Client};
use crate::support::conn::Next;
use crate::support::daemon::program;
use crate::support::{Gw, Origin, Redis, eventually, route_entry};

/// Every family that there is.
const FAMILIES: [&str; 23] = [
    "harbr_access_log_dropped_total",
    "harbr_build_info",
    "harbr_config_generation",
    "harbr_config_reloads_total",
    "harbr_connections_active",
    "harbr_connections_rejected_total",
    "harbr_endpoint_healthy",
    "harbr_http_request_duration_seconds",
    "harbr_http_requests_in_flight",
    "harbr_http_requests_total",
    "harbr_queue_wait_seconds",
    "harbr_retries_total",
    "harbr_tcp_bytes_total",
    "harbr_tcp_sessions_closed_total",
    "harbr_tcp_sessions_opened_total",
    "harbr_tcp_sessions_timeouts_total",
    "harbr_tcp_sessions_total",
    "harbr_warm_hits_total",
    "harbr_warm_misses_total",
    "harbr_warm_sockets",
    "tcp_proxy_connection_completed",
    "tcp_proxy_connection_duration_seconds",
    "tcp_proxy_connection_new",
];

const WITHIN: Duration = Duration::from_secs(10);

#[test]
fn promtool_complains_of_the_three_fixed_names_and_of_nothing_else() {
    let (ok, redis) = (Origin::ok("ok"), Redis::new());
    let is_open = Arc::new(AtomicBool::new(false));
    let held = {
        let is_open = is_open.clone();
        Origin::serve(move |_, conn| {
            while !is_open.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            conn.answer(200, &[], b"held")?;
            Ok(Next::Keep)
        })
    };
    let dead = Origin::refusing();
    let yaml = format!(
        "max_connections: 8\ntcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\"}}\nroutes:\n{}{}\
         \x20 cache: {{upstream: \"{}\", idle_timeout_secs: 1}}\n",
        route_entry(
            "/",
            &[dead.url(), ok.url()],
            "retry_count: 1\nejection: false"
        ),
        route_entry("/held", &[held.url()], "max_connections: 1"),
        redis.url(),
    );
    let gw = Gw::start(&yaml);

    // Answers, tries, no route.
    for (path, status) in [("/", 200), ("/a", 200), ("/b", 200)] {
        assert_eq!(gw.get(path).status, status);
    }
    // One in the queue.
    let mut waiting = [gw.client(), gw.client()];
    for client in &mut waiting {
        client.request("GET", "/held", &[], b"");
    }
    let in_flight = [("route", "/held")];
    eventually(WITHIN, "both are here", || {
        gw.metrics()
            .sum("harbr_http_requests_in_flight", &in_flight)
            == 2.0
    });
    is_open.store(true, Ordering::SeqCst);
    for client in &mut waiting {
        assert_eq!(client.response().expect("an answer").status, 200);
    }
    drop(waiting);
    // A session that ends well, and one that a timeout ends.
    let mut pong = Client::connect(gw.tcp_addr(0));
    pong.send("PING\r\nQUIT\r\n");
    assert_eq!(pong.rest().expect("an answer"), b"+PONG\r\n+OK\r\n");
    let mut idle = Client::connect(gw.tcp_addr(0));
    idle.send("PING\r\n");
    assert!(idle.rest().is_ok_and(|said| said.starts_with(b"+PONG")));
    // Too many.
    let mut crowd = Vec::new();
    eventually(WITHIN, "one is turned away", || {
        crowd.push(Client::connect(gw.addr()));
        gw.metrics().has("harbr_connections_rejected_total", &[])
    });
    drop(crowd);
    assert_eq!(gw.reload("routes: {}").status, 422);
    assert_eq!(gw.reload(&yaml).status, 200);

    let text = client::get(gw.admin_addr(), "/metrics").text();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<&str> = types.filter_map(|line| line.split(' ').next()).collect();
    let all: Vec<&str> = FAMILIES.into_iter().chain(["tcp_proxy_timeout"]).collect();
    assert_eq!(names, all, "{text}");
    let complaint = |name| format!("{name} counter metrics should have \"_total\" suffix");
    let fixed = [
        "tcp_proxy_connection_completed",
        "tcp_proxy_connection_new",
        "tcp_proxy_timeout",
    ];
    assert_eq!(promtool(&text), fixed.map(complaint));

    // The clean names say the same.
    let metrics = gw.metrics();
    for (fixed, clean, least) in [
        (
            "tcp_proxy_connection_new",
            "harbr_tcp_sessions_opened_total",
            2.0,
        ),
        (
            "tcp_proxy_connection_completed",
            "harbr_tcp_sessions_closed_total",
            2.0,
        ),
        (
            "tcp_proxy_timeout",
            "harbr_tcp_sessions_timeouts_total",
            1.0,
        ),
    ] {
        let of_route = [("route", "cache")];
        assert_eq!(metrics.sum(clean, &of_route), least, "{clean}");
        assert_eq!(metrics.sum(fixed, &of_route), least, "{fixed}");
    }
}

/// What it complains of, in order.
fn promtool(text: &str) -> Vec<String> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("it takes text");
    file.rewind().expect("it is a file");
    let output = Command::new(program("promtool", &[], "prometheus"))
        .args(["check", "metrics"])
        .stdin(Stdio::from(file))
        .output()
        .expect("promtool starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).expect("it says text");
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}
