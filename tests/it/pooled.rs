//! Connections to endpoints between two requests: how long they are kept, and who decides that.

use std::thread::sleep;
use std::time::Duration;

use crate::support::{Client, Gw, Next, Nginx, Origin, eventually};

/// Answers with the number of the connection; the target names the fields, as in `/timeout=5`.
fn naming() -> Origin {
    Origin::serve(|request, conn| {
        conn.body()?;
        let nth = conn.nth.to_string();
        match request.target.strip_prefix("/timeout=") {
            Some(seconds) => {
                let named = format!("timeout={seconds}, max=100");
                conn.answer(200, &[("Keep-Alive", &named)], nth.as_bytes())
            }
            None => conn.answer(200, &[], nth.as_bytes()),
        }
    })
}

/// On which of the endpoint's connections a POST came, which nobody may send twice.
fn post(client: &mut Client, target: &str) -> String {
    let answer = client.call("POST", target, &[], b"once");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.headers.has("keep-alive"), "that is for one hop");
    answer.text()
}

#[test]
fn a_connection_that_its_endpoint_may_be_closing_is_not_used() {
    let origin = naming();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    assert_eq!(post(&mut client, "/timeout=4"), "0");
    assert_eq!(post(&mut client, "/timeout=4"), "0", "the endpoint waits");
    // The time itself is what is tested.
    sleep(Duration::from_millis(3200));
    assert_eq!(
        post(&mut client, "/timeout=4"),
        "1",
        "it might not any more"
    );
    assert_eq!(origin.requests(), 3, "nothing was sent twice");
    let records = gw.access_log(3);
    assert!(records.iter().all(|r| r["tries"] == 1), "{records:?}");
    assert_eq!(gw.metrics().sum("harbr_retries_total", &[]), 0.0);
}

#[test]
fn each_response_says_it_anew() {
    let origin = naming();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    assert_eq!(post(&mut client, "/timeout=3"), "0");
    assert_eq!(
        post(&mut client, "/"),
        "0",
        "which takes the three seconds back"
    );
    sleep(Duration::from_millis(2300));
    assert_eq!(post(&mut client, "/timeout=60"), "0");
    sleep(Duration::from_millis(2300));
    assert_eq!(post(&mut client, "/"), "0");
}

#[test]
fn an_endpoint_that_waits_a_second_or_less_gets_a_connection_for_each_request() {
    let origin = naming();
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    for target in ["/timeout=1", "/timeout=0"] {
        let before = origin.connections();
        let used: Vec<_> = (0..3).map(|_| post(&mut client, target)).collect();
        let mut different = used.clone();
        different.dedup();
        assert_eq!(used, different, "{target}");
        assert!(origin.connections() >= before + 2, "{target}");
    }
}

#[test]
fn the_time_counts_from_the_end_of_the_response() {
    let origin = Origin::serve(|_, conn| {
        conn.body()?;
        let nth = conn.nth;
        conn.send("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=3\r\nContent-Length: 3\r\n\r\nab")?;
        sleep(Duration::from_millis(2300));
        conn.send(nth.to_string())?;
        Ok(Next::Keep)
    });
    let gw = Gw::route(&[origin.url()], "");
    let mut client = gw.client();
    assert_eq!(post(&mut client, "/"), "ab0");
    assert_eq!(post(&mut client, "/"), "ab0");
}

#[test]
fn an_unused_connection_is_kept_for_as_long_as_the_file_says() {
    let (short, long) = (naming(), naming());
    let kept = Gw::route(&[long.url()], "");
    let closed = Gw::route(&[short.url()], "keepalive_idle_secs: 1\n");
    let (mut to_long, mut to_short) = (kept.client(), closed.client());
    assert_eq!(post(&mut to_long, "/"), "0");
    assert_eq!(post(&mut to_short, "/"), "0");
    eventually(Duration::from_secs(10), "it is closed", || {
        short.open_connections() == 0
    });
    assert_eq!(long.open_connections(), 1, "the default is longer");
    assert_eq!(post(&mut to_short, "/"), "1");
    assert_eq!(post(&mut to_long, "/"), "0");
}

#[test]
fn with_zero_no_connection_is_kept() {
    let origin = naming();
    let gw = Gw::start(format!(
        "upstreams:\n  app:\n    upstream: {}\n    keepalive_idle_secs: 0\nroutes:\n  /: {{upstream: app}}\n",
        origin.url()
    ));
    let mut client = gw.client();
    for nth in 0..3 {
        assert_eq!(post(&mut client, "/"), nth.to_string());
    }
    eventually(Duration::from_secs(10), "all are closed", || {
        origin.open_connections() == 0
    });
}

#[test]
fn the_time_that_nginx_names_is_kept() {
    let nginx = Nginx::start("location / { keepalive_timeout 3s 3s; return 200 $connection; }");
    let gw = Gw::route(&[nginx.url()], "");
    let mut client = gw.client();
    let first = post(&mut client, "/");
    assert_eq!(post(&mut client, "/"), first);
    sleep(Duration::from_millis(2300));
    assert_ne!(post(&mut client, "/"), first);
}
