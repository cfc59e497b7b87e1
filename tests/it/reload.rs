//! A new configuration under running traffic.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::daemon::output;
use crate::support::nginx::free_addr;
use crate::support::{
    Binary, Gw, Load, Next, Origin, Postgres, client, eventually, loaded, route, route_entry,
};

fn generation(gw: &Gw) -> f64 {
    gw.metrics().sum("harbr_config_generation", &[])
}

#[test]
fn a_reload_changes_the_routes_and_says_what_changed() {
    let (old, new) = (Origin::ok("old"), Origin::ok("new"));
    let gw = Gw::start(format!(
        "routes:\n{}{}",
        route_entry("/same", &[old.url()], ""),
        route_entry("/gone", &[old.url()], ""),
    ));
    let mut kept = gw.client();
    assert_eq!(
        (kept.get("/same").text(), kept.get("/gone").text()),
        ("old".into(), "old".into())
    );
    let before = generation(&gw);
    let answer = gw.reload(format!(
        "routes:\n{}{}",
        route_entry("/same", &[new.url()], ""),
        route_entry("/added", &[new.url()], ""),
    ));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let routes = &answer.json()["routes"];
    assert_eq!(routes["added"], serde_json::json!(["/added"]), "{routes}");
    assert_eq!(routes["removed"], serde_json::json!(["/gone"]), "{routes}");
    assert_eq!(routes["changed"], serde_json::json!(["/same"]), "{routes}");
    assert_eq!(kept.get("/same").text(), "new", "on the same connection");
    assert_eq!(kept.get("/added").text(), "new");
    assert_eq!(kept.get("/gone").status, 404);
    assert_eq!(generation(&gw), before + 1.0);
    let metrics = gw.metrics();
    assert_eq!(
        metrics.sum("harbr_config_reloads_total", &[("result", "ok")]),
        1.0
    );
}

#[test]
fn a_reload_tells_of_tcp_routes_upstreams_listeners_and_every_other_key() {
    let server = Origin::ok("ok");
    let tcp = |routes: &str, keys: &str| {
        format!(
            "{keys}tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:0\"}}\nroutes:\n{}{routes}",
            route_entry("/", &[server.url()], ""),
        )
    };
    let to = |name: &str, keys: &str| {
        format!(
            "  {name}: {{upstream: \"redis://{}\"{keys}}}\n",
            server.addr()
        )
    };
    let report = |before: String, after: String| {
        let gw = Gw::start(before);
        let answer = gw.reload(after);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let nothing = json!({"added": [], "removed": [], "changed": []});
    let is_only = |report: &serde_json::Value, section: &str, expected: serde_json::Value| {
        for name in ["routes", "upstreams", "keys"] {
            let expected = if name == section { &expected } else { &nothing };
            assert_eq!(report[name], *expected, "{name} in {report}");
        }
    };
    // Routes: added and removed, changed, none of it, another kind under the same name.
    let one = tcp(&to("db", ""), "");
    let other = tcp(&to("cache", ""), "");
    let said = report(one.clone(), other);
    let moved = json!({"added": ["cache"], "removed": ["db"], "changed": []});
    is_only(&said, "routes", moved);
    for keys in [
        ", timeout_ms: 5",
        ", idle_timeout_secs: 5",
        ", default: true",
        ", target: primary",
        ", retry_count: 1",
        ", health_check: false",
    ] {
        let said = report(one.clone(), tcp(&to("db", keys), ""));
        let changed = json!({"added": [], "removed": [], "changed": ["db"]});
        is_only(&said, "routes", changed);
    }
    let said = report(one.clone(), format!("\n\n{one}"));
    is_only(&said, "", nothing.clone());

    // Upstreams by their names; the routes that use them change with them.
    let shared = |keys: &str| {
        let url = server.url();
        format!(
            "upstreams:\n  web: {{upstream: \"{url}\"{keys}}}\n\
             routes:\n  /: {{upstream: web}}\n  /own: {{upstream: \"{url}\"}}\n"
        )
    };
    let said = report(shared(""), shared(", balance: random"));
    let web = json!({"added": [], "removed": [], "changed": ["web"]});
    assert_eq!(said["upstreams"], web, "{said}");
    let route = json!({"added": [], "removed": [], "changed": ["/"]});
    assert_eq!(said["routes"], route, "{said}");

    // Every other key by its path, and whether it waits for a restart.
    let before = tcp("", "max_header_bytes: 4096\nheader_timeout_ms: 500\n");
    let keys =
        "header_timeout_ms: 600\ntrusted_proxies: [10.0.0.0/8]\nkeepalive_timeout_secs: 75\n";
    let said = report(before, tcp("", keys));
    let changed = json!({
        "added": ["trusted_proxies"],
        "removed": ["max_header_bytes"],
        "changed": ["header_timeout_ms"],
    });
    is_only(&said, "keys", changed);
    assert_eq!(said["needs_restart"], json!([]));
    let server_keys = |threads: u32| {
        let routes = route_entry("/", &[server.url()], "");
        format!("server:\n  threads: {threads}\n  drain_timeout_secs: 1\nroutes:\n{routes}")
    };
    let said = report(server_keys(2), server_keys(3));
    let changed = json!({"added": [], "removed": [], "changed": ["server.threads"]});
    is_only(&said, "keys", changed);
    assert_eq!(said["needs_restart"], json!(["server.threads"]));

    // A listener that goes, and what is in its stead.
    let at =
        |addr: SocketAddr| tcp("", "").replace("127.0.0.1:0", &addr.to_string()) + &to("db", "");
    let [old, new] = [free_addr(), free_addr()];
    let said = report(at(old), at(new));
    let moved = json!({"added": [new.to_string()], "removed": [old.to_string()]});
    assert_eq!(said["listeners"], moved);
    assert_eq!(said["keys"]["changed"], json!(["tcp_proxy.listen_addr"]));
    assert_eq!(said["routes"]["changed"], json!(["db"]));
}

#[test]
fn the_http_listener_moves_and_its_connections_stay() {
    let origin = Origin::ok("ok");
    let [old, new] = [free_addr(), free_addr()];
    let at = |addr: SocketAddr| {
        let routes = route("/", &[origin.url()], "");
        format!("listen_addr: \"{addr}\"\n{routes}")
    };
    let gw = Gw::start(at(old));
    let mut kept = gw.client();
    assert_eq!(kept.get("/").text(), "ok");
    for (from, to) in [(old, new), (new, old), (old, new)] {
        let answer = gw.reload(at(to));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let moved = json!({"added": [to.to_string()], "removed": [from.to_string()]});
        assert_eq!(answer.json()["listeners"], moved);
        assert_eq!(client::get(to, "/").text(), "ok");
        assert!(TcpStream::connect(from).is_err());
        assert_eq!(kept.get("/").text(), "ok");
    }
}

#[test]
fn a_listener_that_cannot_be_bound_changes_nothing() {
    let origin = Origin::ok("ok");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    let gw = Gw::start(route("/old", &[origin.url()], ""));
    let routes = route("/new", &[origin.url()], "");
    let answer = gw.reload(format!("listen_addr: \"{port}\"\n{routes}"));
    assert_eq!(answer.status, 422);
    let said = answer.text();
    assert!(
        said.contains("listen_addr") && said.contains(&port.to_string()),
        "{said}"
    );
    assert_eq!(gw.get("/old").text(), "ok");
    assert_eq!(gw.get("/new").status, 404);
    assert_eq!(generation(&gw), 1.0);
}

#[test]
fn a_refused_reload_changes_nothing_and_says_every_problem() {
    let origin = Origin::ok("ok");
    let gw = Gw::start(route("/", &[origin.url()], ""));
    let before = generation(&gw);
    let answer = gw.reload("max_conections: 1\nroutes: {}\n");
    assert_eq!(answer.status, 422);
    let said = answer.text();
    for part in ["config.yml:", "max_connections", "routes"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(gw.get("/").text(), "ok");
    assert_eq!(generation(&gw), before);
    let metrics = gw.metrics();
    assert_eq!(
        metrics.sum("harbr_config_reloads_total", &[("result", "failed")]),
        1.0
    );
}

#[test]
fn a_request_lives_wholly_in_the_configuration_it_started_with() {
    let old = Origin::serve(|_, conn| {
        std::thread::sleep(Duration::from_millis(600));
        conn.answer(200, &[], b"old")
    });
    let new = Origin::ok("new");
    let gw = Gw::start(route("/", &[old.url()], "timeout_ms: 5000\n"));
    let mut client = gw.client();
    client.request("GET", "/", &[], b"");
    eventually(Duration::from_secs(5), "it is there", || {
        old.requests() == 1
    });
    let answer = gw.reload(route("/", &[new.url()], "timeout_ms: 100\n"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(gw.get("/").text(), "new");
    assert_eq!(client.response().map(|r| r.text()), Ok("old".to_owned()));
}

#[test]
fn reloads_under_load_cost_nothing_and_keep_health_and_connections() {
    let _turn = loaded();
    let (dead, alive) = (Origin::refusing(), Origin::ok("alive"));
    let check = "health_check: {path: /, interval_ms: 50, unhealthy_after: 1}\n";
    let yaml = |timeout: u32| {
        route(
            "/",
            &[dead.url(), alive.url()],
            &format!("timeout_ms: {timeout}\n{check}"),
        )
    };
    let gw = Gw::start(yaml(5000));
    let healthy = |origin: String| {
        gw.metrics()
            .sum("harbr_endpoint_healthy", &[("endpoint", &origin)])
    };
    let gone = dead.addr().to_string();
    eventually(Duration::from_secs(5), "the dead one is out", || {
        healthy(gone.clone()) == 0.0
    });
    let connections = std::thread::scope(|scope| {
        let load = scope.spawn(|| Load::new(8, 2000, "/").run(gw.addr()));
        for nth in 0..20 {
            assert_eq!(gw.reload(yaml(5000 + nth)).status, 200);
            assert_eq!(healthy(gone.clone()), 0.0, "health is not forgotten");
        }
        let outcome = load.join().unwrap();
        assert!(outcome.failures.is_empty(), "{outcome:?}");
        assert_eq!(outcome.status(200), 2000, "{outcome:?}");
        alive.connections()
    });
    assert!(
        connections < 400,
        "pooled connections survive: {connections}"
    );
}

#[test]
fn hup_reloads_the_program() {
    let origin = Origin::serve(|request, conn| match request.target.as_str() {
        "/a" => conn.answer(200, &[], b"a").map(|_| Next::Keep),
        _ => conn.answer(200, &[], b"b"),
    });
    let binary = Binary::start(&route("/a", &[origin.url()], ""));
    assert_eq!(binary.client().get("/b").status, 404);
    binary.rewrite(&route("/b", &[origin.url()], ""));
    binary.signal(Signal::SIGHUP);
    eventually(Duration::from_secs(5), "the new route is served", || {
        binary.client().get("/b").status == 200
    });
    assert_eq!(binary.client().get("/a").status, 404);
    binary.rewrite("nonsense: true\n");
    binary.signal(Signal::SIGHUP);
    eventually(Duration::from_secs(5), "the bad one is reported", || {
        binary.said().contains("nonsense")
    });
    assert_eq!(binary.client().get("/b").status, 200, "and changes nothing");
}

/// The `warnings` of a reload's answer.
fn warnings(gw: &Gw, yaml: &str) -> Vec<String> {
    let answer = gw.reload(yaml);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let warnings = &answer.json()["warnings"];
    serde_json::from_value(warnings.clone()).unwrap_or_else(|_| panic!("{warnings}"))
}

#[test]
fn a_reload_tells_whose_clients_lose_tls_by_another_route() {
    let server = Postgres::with(&["ssl=on"]);
    let tcp = |routes: &[String]| {
        let proxy = "tcp_proxy: {enabled: true, listen_addr: \"127.0.0.1:0\"}";
        format!("{proxy}\nroutes:\n{}", routes.concat())
    };
    let route = |name: &str, keys: &str| route_entry(name, &[server.url()], keys);
    let alone = tcp(&[route("db", "default: true")]);
    let gw = Gw::start(&alone);
    let ask = || {
        let mut psql = Postgres::psql(gw.tcp_addr(0));
        psql.args(["-d", "sslmode=require", "-c", "SELECT 1"]);
        output(&mut psql)
    };
    assert_eq!(ask().unwrap(), "1\n");
    assert_eq!(warnings(&gw, &alone), Vec::<String>::new());
    let shared = tcp(&[
        route("db", "default: true"),
        route("orders", "match: {database: orders}"),
    ]);
    let told = warnings(&gw, &shared);
    assert!(
        told.iter()
            .any(|w| w.contains("do not get it from `db`, `orders`")),
        "{told:?}"
    );
    let lost = "routes.db: its clients had TLS before this reload";
    assert!(told.iter().any(|w| w.starts_with(lost)), "{told:?}");
    assert!(
        !told.iter().any(|w| w.starts_with("routes.orders: ")),
        "{told:?}"
    );
    assert!(ask().is_err());
    // What is so already is no news, but still so.
    let told = warnings(&gw, &shared);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("do not get it from"), "{told:?}");
    assert_eq!(warnings(&gw, &alone), Vec::<String>::new());
    assert_eq!(ask().unwrap(), "1\n");
}

#[test]
fn a_reload_tells_which_paths_lose_a_guard_by_another_route() {
    let origin = Origin::ok("ok");
    let entry = |key: &str, filters: &str| route_entry(key, &[origin.url()], filters);
    let guard = "filters: [{type: ip_access, deny: [192.0.2.0/24]}]";
    let admin = entry("/admin", guard);
    let yaml = |routes: &[&str]| format!("routes:\n{}", routes.concat());
    let root = entry("/", "");
    let before = yaml(&[&admin, &root]);
    let gw = Gw::start(&before);
    let text = |new: &str, key: &str| {
        format!(
            "routes.{new}: takes {key} now, which was behind the `ip_access` of `/admin` before this reload"
        )
    };
    // A longer key takes a part of it, a shorter one what is left of it.
    let metrics = entry("/admin/metrics", "");
    assert_eq!(
        warnings(&gw, &yaml(&[&admin, &metrics, &root])),
        [text("/admin/metrics", "/admin/metrics")]
    );
    assert_eq!(warnings(&gw, &before), Vec::<String>::new());
    assert_eq!(warnings(&gw, &yaml(&[&root])), [text("/", "/admin")]);
    assert_eq!(warnings(&gw, &before), Vec::<String>::new());
    // So does a host of its own.
    let host = entry("example.org/admin", "");
    assert_eq!(
        warnings(&gw, &yaml(&[&admin, &host, &root])),
        [text("example.org/admin", "example.org/admin")]
    );
    assert_eq!(warnings(&gw, &before), Vec::<String>::new());
    // Behind the same filter nothing is lost; what a route's own entry says is plain to see.
    let guarded = entry("/admin/metrics", guard);
    assert_eq!(
        warnings(&gw, &yaml(&[&admin, &guarded, &root])),
        Vec::<String>::new()
    );
    let open = entry("/admin", "");
    assert_eq!(
        warnings(&gw, &yaml(&[&open, &guarded, &root])),
        Vec::<String>::new()
    );
}

#[test]
fn the_warnings_of_a_new_configuration_are_in_the_answer() {
    let origin = Origin::ok("ok");
    let gw = Gw::start(route("/", &[origin.url()], ""));
    let unused = format!(
        "upstreams: {{spare: {{upstream: \"http://127.0.0.1:1\"}}}}\n{}",
        route("/", &[origin.url()], "")
    );
    let told = warnings(&gw, &unused);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].ends_with("upstreams.spare: no route uses this upstream"),
        "{told:?}"
    );
}
