//! HTTP/2 from clients, in TLS and in clear: the same routes, deadlines, records and limits.

mod bounds;
mod conformance;
mod malformed;
mod streams;

use std::time::Duration;

use crate::support::authority::Authority;
use crate::support::http2::Http2Client;
use crate::support::{Client, Gw, Next, Origin, client, echoed, eventually, route};

const SOON: Duration = Duration::from_secs(15);

/// A gateway that takes HTTP/2 in clear, with these further keys of the file and of its route.
fn in_clear(origin: &Origin, http2: &str, keys: &str) -> Gw {
    in_clear_with(origin, "", http2, keys)
}

fn in_clear_with(origin: &Origin, top: &str, http2: &str, keys: &str) -> Gw {
    Gw::start(format!(
        "{top}http2: {{h2c: true, {http2}}}\n{}",
        route("/", &[origin.url()], keys)
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_http_2_is_the_same_request() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::echo();
    let gw = Gw::start(format!(
        "tls: {{listen_addr: \"127.0.0.1:0\", certificates: [{}]}}\nhttp2: {{h2c: true}}\n{}",
        cert.entry(),
        route("/", &[origin.url()], "")
    ));
    let in_tls = Http2Client::in_tls(&authority.trusting(), gw.https_addr(), "a.test").await;
    let in_clear = Http2Client::in_clear(gw.addr()).await;
    for (client, proto) in [(&in_tls, "https"), (&in_clear, "http")] {
        let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")];
        let response = client
            .call("POST", "/x?y=z", &fields, b"body")
            .await
            .unwrap();
        assert_eq!(response.status, 200);
        let echo = response.json();
        assert_eq!(echo["target"], "/x?y=z");
        for (name, values) in [
            ("host", &["a.test"][..]),
            ("x-forwarded-proto", &[proto]),
            ("cookie", &["a=1; b=2"]),
            ("transfer-encoding", &["chunked"]),
            ("te", &[]),
        ] {
            assert_eq!(echoed(&echo, name), values, "{name}");
        }
        assert!(echoed(&echo, "via")[0].starts_with("2 harbr-router-"));
        for name in ["connection", "keep-alive", "transfer-encoding"] {
            assert!(!response.headers.contains_key(name), "{name}");
        }
        let empty = client.call("POST", "/", &[], b"").await.unwrap();
        assert_eq!(echoed(&empty.json(), "content-length"), ["0"]);
        assert_eq!(client.call("HEAD", "/", &[], b"").await.unwrap().body, b"");
        let lost = client
            .call("GET", "/", &[("x-y", &"z".repeat(66_000))], b"")
            .await;
        assert_eq!(lost.unwrap().status, 431);
    }
    let records = gw.access_log(8);
    for record in &records {
        assert_eq!(
            record["protocol"].as_str().unwrap_or("HTTP/2"),
            "HTTP/2",
            "{record}"
        );
    }
    let with_body = |record: &&serde_json::Value| record["bytes_in"] == 4;
    let with_body: Vec<_> = records.iter().filter(with_body).collect();
    assert_eq!(with_body.len(), 2);
    assert!(with_body.iter().any(|record| record["tls"] == "TLSv1.3"));
    assert_eq!(records.iter().filter(|r| r["status"] == 431).count(), 2);
}

#[test]
fn curl_speaks_it_both_ways_and_http_1_stays_beside_it() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("hello");
    let gw = Gw::start(format!(
        "tls: {{listen_addr: \"127.0.0.1:0\", certificates: [{}]}}\nhttp2: {{h2c: true}}\n{}",
        cert.entry(),
        route("/", &[origin.url()], "")
    ));
    let (https, http) = (gw.https_addr().port(), gw.addr().port());
    for (args, url, version) in [
        (&["--http2"][..], format!("https://a.test:{https}/"), "2"),
        (&["--http1.1"], format!("https://a.test:{https}/"), "1.1"),
        (
            &["--http2-prior-knowledge"],
            format!("http://a.test:{http}/"),
            "2",
        ),
        (&["--http1.1"], format!("http://a.test:{http}/"), "1.1"),
        // An upgrade from HTTP/1 (RFC 9113 has it no more) is not taken.
        (&["--http2"], format!("http://a.test:{http}/"), "1.1"),
    ] {
        let output = std::process::Command::new("curl")
            .args(["-sS", "-w", " %{http_version} %{http_code}", "--cacert"])
            .arg(authority.ca())
            .args(["--resolve", &format!("a.test:{https}:127.0.0.1")])
            .args(["--resolve", &format!("a.test:{http}:127.0.0.1")])
            .args(args)
            .arg(&url)
            .output()
            .expect("curl is installed");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said, format!("hello {version} 200"), "{args:?} {url}");
    }
    let mut client = gw.client();
    // Split where it could be the other version.
    client.send("P");
    client.send("RI");
    client.send("CE / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 200);
}

#[test]
fn where_it_is_off_nobody_gets_it() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let gw = Gw::start(format!(
        "tls: {{listen_addr: \"127.0.0.1:0\", certificates: [{}]}}\nhttp2: {{enabled: false}}\n{}",
        cert.entry(),
        route("/", &[origin.url()], "")
    ));
    let mut setup = authority.trusting();
    setup.alpn = vec![b"h2", b"http/1.1"];
    let client = setup.connect(gw.https_addr(), "a.test").unwrap();
    assert_eq!(client.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    setup.alpn = vec![b"h2"];
    assert!(setup.connect(gw.https_addr(), "a.test").is_err());
    let mut plain = gw.client();
    plain.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let answer = plain.response().unwrap();
    assert!(answer.status >= 400, "{answer:?}");
    assert_eq!(client::get(gw.addr(), "/").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_a_connection_and_large_bodies_arrive_whole() {
    let origin = Origin::serve(|_, conn| {
        let body = conn.body()?;
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nX-Got: {}\r\nContent-Length: 1000000\r\n\r\n",
            body.len
        ))?;
        conn.send(vec![b'x'; 1_000_000])?;
        Ok(Next::Keep)
    });
    let gw = in_clear(&origin, "", "");
    let client = std::sync::Arc::new(Http2Client::in_clear(gw.addr()).await);
    let calls: Vec<_> = (0..50_usize)
        .map(|nth| {
            let client = client.clone();
            tokio::spawn(async move {
                let length = nth * 20_000;
                let response = client
                    .call("PUT", "/", &[], &vec![b'y'; length])
                    .await
                    .unwrap();
                assert_eq!(response.headers["x-got"], length.to_string().as_str());
                assert_eq!(response.body.len(), 1_000_000);
                assert!(response.body.iter().all(|byte| *byte == b'x'));
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let labels = [("listener", "127.0.0.1:0")];
    assert_eq!(gw.metrics().sum("harbr_connections_active", &labels), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_finishes_what_runs_and_takes_no_more() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::serve(move |request, conn| {
        if request.target == "/slow" {
            let _ = wait.lock().unwrap().recv();
        }
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        Ok(Next::Keep)
    });
    let mut gw = in_clear_with(&origin, "server: {drain_timeout_secs: 20}\n", "", "");
    let client = Http2Client::in_clear(gw.addr()).await;
    let idle = Http2Client::in_clear(gw.addr()).await;
    assert_eq!(idle.get("/").await.unwrap().body, b"ok");
    let (slow, _) = client.begin("GET", "/slow", &[], true).await.unwrap();
    eventually(SOON, "it is on its way", || origin.requests() == 2);
    let stopping = std::thread::spawn(move || gw.halt());
    // Told by GOAWAY, an idle client closes.
    idle.connection.await.unwrap().unwrap();
    go.send(()).unwrap();
    let response = crate::support::http2::whole(slow.await.unwrap())
        .await
        .unwrap();
    assert_eq!(response.body, b"ok");
    client.connection.await.unwrap().unwrap();
    stopping.join().unwrap();
}

#[test]
fn the_client_of_http_1_is_not_slowed_down_by_one_that_only_connects() {
    let origin = Origin::ok("x");
    let gw = in_clear(&origin, "", "");
    let _silent: Vec<Client> = (0..20).map(|_| gw.client()).collect();
    assert_eq!(gw.get("/").status, 200);
}
