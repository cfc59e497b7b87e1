//! Pingora services of the embedder's beside ours, and who says when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use harbr_router::pingora::server::ShutdownWatch;
use harbr_router::pingora::services::background::{BackgroundService, background_service};
use harbr_router::server::Gateway;
use tokio::sync::oneshot;

use crate::support::binary::{config, config_file};
use crate::support::{Client, Gw, Origin, eventually, route};

/// Counts while it runs, and says when it is gone.
struct Counting(Arc<Counts>);

#[derive(Default)]
struct Counts {
    turns: AtomicUsize,
    gone: AtomicUsize,
}

struct Gone(Arc<Counts>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.gone.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl BackgroundService for Counting {
    async fn start(&self, _: ShutdownWatch) {
        let _gone = Gone(self.0.clone());
        loop {
            self.0.turns.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

const WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_service_runs_beside_ours_over_a_reload_and_ends_with_them() {
    let origin = Origin::ok("ok");
    let counts = Arc::new(Counts::default());
    let service = background_service("counting", Counting(counts.clone()));
    let yaml = route("/", &[origin.url()], "");
    let gw = Gw::embed(&yaml, |gateway| gateway.service(service));
    let goes_on = || {
        let now = counts.turns.load(Ordering::SeqCst);
        eventually(WITHIN, "it runs", || {
            counts.turns.load(Ordering::SeqCst) > now
        });
    };
    goes_on();
    assert_eq!(gw.reload(&yaml).status, 200);
    goes_on();
    assert_eq!(gw.get("/").text(), "ok");
    assert_eq!(counts.gone.load(Ordering::SeqCst), 0);
    gw.stop();
    eventually(WITHIN, "it is gone", || {
        counts.gone.load(Ordering::SeqCst) == 1
    });
}

#[test]
fn run_until_ends_when_its_caller_says_so() {
    let origin = Origin::ok("ok");
    let addr = crate::support::nginx::free_addr();
    let text = config(&addr.to_string(), &route("/", &[origin.url()], ""));
    let (_folder, file) = config_file(&text);
    let (stop, stopped) = oneshot::channel::<()>();
    let running = std::thread::spawn(move || {
        let stop = Box::pin(async {
            let _ = stopped.await;
        });
        Gateway::from_file(&file)?.run_until(stop, Box::pin(std::future::pending()))
    });
    eventually(WITHIN, "it serves", || Client::try_connect(addr).is_ok());
    assert_eq!(Client::connect(addr).get("/").text(), "ok");
    assert!(!running.is_finished());
    stop.send(()).unwrap();
    running.join().unwrap().unwrap();
    assert!(Client::try_connect(addr).is_err());
}

#[test]
fn a_file_that_is_wrong_is_told_with_every_problem() {
    let (_folder, file) = config_file("listen_addr: 1\nroutes: {}\n");
    let Err(error) = Gateway::from_file(&file) else {
        panic!("it was taken");
    };
    assert!(error.is_config());
    let said = error.to_string();
    for part in ["config.yml:1:1: listen_addr", "max_connections", "routes"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}
