//! Names of hosts that the embedder's own discovery knows.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use harbr_router::upstream::discovery::Resolver;

use crate::support::{Gw, Origin, eventually, route, route_entry};

/// A catalogue of services that changes.
#[derive(Default)]
struct Catalogue {
    addresses: Mutex<Vec<SocketAddr>>,
    asked: AtomicUsize,
}

struct Consul(Arc<Catalogue>);

#[async_trait]
impl Resolver for Consul {
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        assert_eq!((host, port), ("orders.service.consul", 80));
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.0.addresses.lock().expect("no panic").clone())
    }

    fn refresh(&self, _host: &str) -> Duration {
        Duration::from_millis(1)
    }
}

struct Broken;

#[async_trait]
impl Resolver for Broken {
    async fn lookup(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        panic!("on purpose")
    }
}

const WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_discovery_is_asked_for_its_names_and_followed_also_over_a_reload() {
    let (one, other) = (Origin::ok("one"), Origin::ok("other"));
    let catalogue = Arc::new(Catalogue::default());
    *catalogue.addresses.lock().expect("no panic") = vec![one.addr()];
    let named = ["http://orders.service.consul".to_owned()];
    let gw = Gw::embed(route("/", &named, ""), |gateway| {
        gateway.discovery(".Consul", Consul(catalogue.clone()))
    });
    assert_eq!(gw.get("/").text(), "one", "known before it serves");
    *catalogue.addresses.lock().expect("no panic") = vec![other.addr()];
    eventually(WITHIN, "the new address is used", || {
        gw.get("/").text() == "other"
    });
    let answer = gw.reload(format!(
        "routes:\n{}{}",
        route_entry("/", &named, "timeout_ms: 5000\n"),
        route_entry("/more", &named, ""),
    ));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(gw.get("/").text(), "other", "without a gap");
    *catalogue.addresses.lock().expect("no panic") = vec![one.addr()];
    for path in ["/", "/more"] {
        eventually(WITHIN, "the discovery goes on", || {
            gw.get(path).text() == "one"
        });
    }
    // What it has forgotten stays as it was: an empty answer is no answer.
    catalogue.addresses.lock().expect("no panic").clear();
    let asked = catalogue.asked.load(Ordering::SeqCst);
    eventually(WITHIN, "it was asked again", || {
        catalogue.asked.load(Ordering::SeqCst) > asked
    });
    assert_eq!(gw.get("/").text(), "one");
}

#[test]
fn other_names_are_left_to_the_system_and_a_panic_is_an_endpoint_that_is_down() {
    let origin = Origin::ok("system");
    let port = origin.addr().port();
    let broken = ["http://anything.consul".to_owned()];
    let system = [format!("http://localhost:{port}")];
    let gw = Gw::embed(
        format!(
            "routes:\n{}{}",
            route_entry("/", &system, ""),
            route_entry("/broken", &broken, ""),
        ),
        |gateway| gateway.discovery(".consul", Broken),
    );
    assert_eq!(gw.get("/").text(), "system");
    let answer = gw.get("/broken");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reason"], "no_healthy_endpoint");
}
