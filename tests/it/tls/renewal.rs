//! Certificates that change while clients come, and listeners that gain and lose TLS.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::{SOON, gateway, section};
use crate::support::authority::{Authority, Issued};
use crate::support::http2::Http2Client;
use crate::support::load::Stopping;
use crate::support::{Binary, Client, Gw, Origin, eventually, route};

fn reloads(gw: &Gw, result: &str) -> f64 {
    let metrics = gw.metrics();
    metrics.sum("harbr_certificate_reloads_total", &[("result", result)])
}

fn expiry(gw: &Gw, issued: &Issued) -> f64 {
    let file = issued.cert.display().to_string();
    let labels = [("certificate", file.as_str())];
    gw.metrics()
        .sum("harbr_certificate_expiry_timestamp_seconds", &labels)
}

/// Handshakes and requests while `work` goes on, none of which may fail.
fn under_handshakes<T>(
    addr: SocketAddr,
    authority: &Authority,
    name: &str,
    work: impl FnOnce() -> T,
) -> T {
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|nth| {
                let (stop, done) = (&stop, &done);
                let mut setup = authority.trusting();
                setup.resumption = nth == 0;
                let config = setup.config();
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let mut client = crate::support::authority::connect(&config, addr, name)
                            .expect("a handshake");
                        for _ in 0..3 {
                            let response = client.get(name, "/").expect("a response");
                            assert_eq!(response.status, 200);
                            if response.closes() {
                                // A drain.
                                break;
                            }
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let stopping = Stopping(&stop);
        let some_more = || {
            let now = done.load(Ordering::Relaxed);
            eventually(SOON, "clients come", || {
                clients.iter().any(|client| client.is_finished())
                    || done.load(Ordering::Relaxed) > now + 10
            });
        };
        some_more();
        let result = work();
        some_more();
        drop(stopping);
        for client in clients {
            client.join().expect("no failure");
        }
        result
    })
}

#[test]
fn renewed_files_are_served_without_a_reload_and_without_a_failed_handshake() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let gw = gateway(&origin, &[&cert], "");
    let before = expiry(&gw, &cert);
    assert!(before > 0.0);
    let generation = gw.metrics().sum("harbr_config_generation", &[]);
    let served = || {
        let client = authority.trusting().connect(gw.https_addr(), "a.test");
        client.map(|client| client.certificate())
    };
    under_handshakes(gw.https_addr(), &authority, "a.test", || {
        for nth in 1..=20 {
            let renewed = authority.issue("a", &["a.test"], |params| {
                params.not_after = rcgen::date_time_ymd(2080 + nth, 1, 1);
            });
            eventually(SOON, "the new one", || {
                served().is_ok_and(|certificate| certificate == renewed.der())
            });
        }
    });
    assert_eq!(reloads(&gw, "ok"), 20.0);
    assert_eq!(reloads(&gw, "failed"), 0.0);
    assert_ne!(expiry(&gw, &cert), before);
    let shown = &gw.status()["certificates"][0];
    assert_eq!(shown["names"], serde_json::json!(["a.test"]));
    assert_eq!(shown["expires"], "2100-01-01T00:00:00.000Z");
    assert_eq!(gw.metrics().sum("harbr_config_generation", &[]), generation);
}

#[test]
fn broken_files_keep_the_old_certificate_and_are_counted() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let gw = gateway(&origin, &[&cert], "");
    let good = (
        cert.der(),
        std::fs::read(&cert.cert).unwrap(),
        std::fs::read(&cert.key).unwrap(),
    );
    let served = || {
        authority
            .trusting()
            .connect(gw.https_addr(), "a.test")
            .unwrap()
            .certificate()
    };
    std::fs::write(&cert.cert, "-----BEGIN CERTIFICATE-----\nhalf").unwrap();
    eventually(SOON, "it is seen", || reloads(&gw, "failed") == 1.0);
    assert_eq!(served(), good.0);
    std::fs::remove_file(&cert.key).unwrap();
    eventually(SOON, "that as well", || reloads(&gw, "failed") == 2.0);
    assert_eq!(served(), good.0);
    // A reload that is asked for is refused for the same reason.
    let text = section(&[&cert], "") + &route("/", &[origin.url()], "");
    let refused = gw.reload(text);
    assert_eq!(refused.status, 422);
    assert!(
        refused.text().contains("tls.certificates[0]."),
        "{}",
        refused.text()
    );
    assert_eq!(served(), good.0);
    // What was there before is no news.
    std::fs::write(&cert.key, &good.2).unwrap();
    std::fs::write(&cert.cert, &good.1).unwrap();
    let renewed = authority.server("a", &["a.test"]);
    eventually(SOON, "a good one", || served() == renewed.der());
}

#[test]
fn twenty_reloads_lose_no_handshake() {
    let authority = Authority::new();
    let (one, two) = (
        authority.server("one", &["a.test"]),
        authority.server("two", &["b.test"]),
    );
    let origin = Origin::ok("x");
    let gw = gateway(&origin, &[&one], "");
    let files = [vec![&one], vec![&one, &two], vec![&two, &one]];
    under_handshakes(gw.https_addr(), &authority, "a.test", || {
        for nth in 0..20 {
            let text = section(&files[nth % 3], "") + &route("/", &[origin.url()], "");
            let reloaded = gw.reload(text);
            assert_eq!(reloaded.status, 200, "{}", reloaded.text());
        }
    });
    let metrics = gw.metrics();
    assert_eq!(
        metrics.sum("harbr_config_reloads_total", &[("result", "ok")]),
        20.0
    );
}

#[test]
fn a_site_gains_and_loses_tls_by_reload_alone() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let plain = route("/", &[origin.url()], "");
    let gw = Gw::start(&plain);
    let port = crate::support::daemon::lasting_port();
    let tls = section(&[&cert], "").replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let addr = ([127, 0, 0, 1], port).into();
    for _ in 0..2 {
        assert_eq!(gw.reload(tls.clone() + &plain).status, 200);
        let response = authority.trusting().get(addr, "a.test", "/").unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(gw.reload(&plain).status, 200);
        eventually(SOON, "the listener is gone", || {
            Client::try_connect(addr).is_err()
        });
        assert_eq!(gw.get("/").status, 200);
    }
}

/// Requests over HTTP/2 until `stop`, on one connection after the other. None is lost: what a server
/// that leaves has not begun, it says so (RFC 9113, section 6.8).
async fn streams(authority: &Authority, addr: SocketAddr, stop: &AtomicBool) -> usize {
    let (setup, mut done) = (authority.trusting(), 0);
    while !stop.load(Ordering::Relaxed) {
        let client = Http2Client::in_tls(&setup, addr, "a.test").await;
        while !stop.load(Ordering::Relaxed) {
            match client.get("/").await {
                Ok(response) => assert_eq!(response.status, 200),
                Err(error) if error.is_go_away() && error.is_remote() => {
                    assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR), "{error}");
                    break;
                }
                // The connection was closed behind the last response.
                Err(error) => {
                    assert!(client.connection.is_finished(), "{error}");
                    break;
                }
            }
            done += 1;
        }
    }
    done
}

#[test]
fn upgrades_lose_no_handshake_and_no_stream() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let port = crate::support::daemon::lasting_port();
    let tls = section(&[&cert], "").replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let mut running = Binary::start(&(tls + &route("/", &[origin.url()], "")));
    let addr = ([127, 0, 0, 1], port).into();
    let stop = AtomicBool::new(false);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    thread::scope(|scope| {
        let streams = scope.spawn(|| runtime.block_on(streams(&authority, addr, &stop)));
        let stopping = Stopping(&stop);
        under_handshakes(addr, &authority, "a.test", || {
            for _ in 0..10 {
                let next = running.beside(&["-u"]).serving();
                let mut old = std::mem::replace(&mut running, next);
                let ended = old.ended_within(SOON).expect("it has handed over");
                assert!(ended.success(), "{ended}");
            }
        });
        drop(stopping);
        assert!(streams.join().expect("no failure") > 50);
    });
}
