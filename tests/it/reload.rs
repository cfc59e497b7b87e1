//! A new configuration under running traffic.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::nginx::free_addr;
use crate::support::{
    Binary, Gw, Load, Next, Origin, client, eventually, loaded, route, route_entry,
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
