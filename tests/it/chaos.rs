//! Everything at once, at random: afterwards nothing may be left over.
//!
//! Permits, leases and gauges leak where paths cross that the other topics walk one by one. Seeded;
//! what is asserted is only what must hold in any order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Conn, Gw, Next, Origin, eventually, loaded, route};

#[test]
fn nothing_is_left_over_after_clients_and_endpoints_did_their_worst() {
    let _turn = loaded();
    let origins = [wild(1), wild(2), wild(3)];
    let keys = "retry_count: 2\ntimeout_ms: 400\ntry_timeout_ms: 150\nmax_connections: 8\nqueue_timeout_ms: 200\nejection: {base_ms: 50}\n";
    let text = route("/", &origins.each_ref().map(Origin::url), keys);
    let gw = Gw::start(format!(
        "max_connections: 40\nheader_timeout_ms: 200\nmax_body_bytes: 100000\n{text}"
    ));
    thread::scope(|scope| {
        for seed in 0..24 {
            let gw = &gw;
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed);
                for _ in 0..60 {
                    behave(gw, &mut rng);
                }
            });
        }
    });
    eventually(
        Duration::from_secs(10),
        "no connection, request or place is left",
        || {
            let (metrics, status) = (gw.metrics(), gw.status());
            let listener = [("listener", "127.0.0.1:0")];
            let upstream = &status["upstreams"][0];
            metrics.sum("harbr_connections_active", &listener) == 0.0
                && metrics.sum("harbr_http_requests_in_flight", &[]) == 0.0
                && upstream["in_flight"] == 0
                && upstream["queued"] == 0
                && upstream["endpoints"].as_array().is_some_and(|all| {
                    all.len() == 3 && all.iter().all(|endpoint| endpoint["in_flight"] == 0)
                })
        },
    );
    let counted = gw.metrics().sum("harbr_http_requests_total", &[]);
    assert!(counted > 500.0, "most got as far as a request: {counted}");
    let rejected = gw.metrics().sum("harbr_connections_rejected_total", &[]);
    let records = gw.access_log(counted as usize);
    let extra = records.len() as f64 - counted;
    assert!(
        (0.0..=rejected).contains(&extra),
        "{} records, {counted} requests",
        records.len()
    );
    for record in &records {
        assert!(record["reason"].is_string(), "{record}");
    }
    // All eight places are free: as many slow requests as places are under way at once.
    let mut clients: Vec<_> = (0..8).map(|_| gw.client()).collect();
    for client in &mut clients {
        client.request("GET", "/calm/slow", &[], b"");
    }
    for client in &mut clients {
        assert_eq!(client.response().map(|r| r.status), Ok(200));
    }
}

/// Does something different with each request, all of it allowed to a broken server. `/calm` is
/// answered as it should be.
fn wild(seed: u64) -> Origin {
    let count = Arc::new(AtomicU64::new(0));
    Origin::serve(move |request, conn| {
        let nth = count.fetch_add(1, Ordering::SeqCst);
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1 << 32) + nth);
        if request.target.starts_with("/calm") {
            conn.body()?;
            thread::sleep(Duration::from_millis(50));
            return conn.answer(200, &[], b"calm");
        }
        misbehave(conn, rng.random_range(0..14))
    })
}

fn misbehave(conn: &mut Conn, how: u32) -> std::io::Result<Next> {
    match how {
        0 => Ok(Next::Close),
        1 => Ok(Next::Reset),
        2 => conn.body().map(|_| Next::Close),
        3 => conn.until_closed().map(|()| Next::Close),
        4 => conn.answer(503, &[], b"no"),
        5 => conn.answer(500, &[], b"broken").map(|_| Next::Reset),
        6 => conn
            .send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")
            .map(|()| Next::Reset),
        7 => conn
            .send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")
            .map(|()| Next::Close),
        8 => conn
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
            .map(|()| Next::Close),
        9 => conn
            .drip(
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                Duration::from_millis(15),
            )
            .map(|()| Next::Keep),
        10 => conn.stream(300_000),
        11 => conn
            .answer(200, &[("Connection", "close")], b"bye")
            .map(|_| Next::Close),
        _ => {
            conn.body()?;
            conn.answer(200, &[], b"fine")
        }
    }
}

/// One connection and what a client may do with it; outcomes do not matter here.
fn behave(gw: &Gw, rng: &mut StdRng) {
    let mut client = gw.client();
    client.patience(Duration::from_secs(2));
    match rng.random_range(0..12) {
        0 => client.reset(),
        1 => drop(client.send("GET / HT")),
        2 => {
            client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\nsome");
            client.reset();
        }
        3 => {
            client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n");
            let _ = client.response();
        }
        4 => {
            client.request("GET", "/", &[], b"");
            thread::sleep(Duration::from_millis(rng.random_range(0..30)));
            client.reset();
        }
        5 => {
            client.request("GET", "/", &[], b"");
            let _ = client.read_some();
            client.reset();
        }
        6 => {
            client.request("POST", "/", &[], &vec![b'p'; rng.random_range(1..120_000)]);
            let _ = client.response();
        }
        7 => {
            client.send("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n");
            let _ = client.response();
        }
        8 => {
            client.send("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ");
            let _ = client.response();
        }
        9 => {
            client.send("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n");
            let _ = client.response();
        }
        _ => {
            for _ in 0..4 {
                client.request("GET", "/", &[], b"");
                if !client.response().is_ok_and(|r| !r.closes()) {
                    break;
                }
            }
        }
    }
}
