//! What becomes of one stream while others go on.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{SOON, in_clear};
use crate::support::http2::{Http2Client, whole};
use crate::support::{Next, Origin, eventually, timed};

/// Answers at once but for `/silent`, and `/stalls` after its head.
fn origin() -> Origin {
    Origin::serve(|request, conn| match request.target.as_str() {
        "/silent" => conn.until_closed().map(|()| Next::Close),
        "/stalls" => {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
            conn.until_closed().map(|()| Next::Close)
        }
        "/breaks" => {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
            Ok(Next::Close)
        }
        "/early" => {
            conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?;
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            Ok(Next::Keep)
        }
        _ => {
            let body = conn.body()?;
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nX-Got: {}\r\nContent-Length: 2\r\n\r\nok",
                body.len
            ))?;
            Ok(Next::Keep)
        }
    })
}

#[test]
fn a_deadline_ends_its_stream_and_no_other() {
    let _timed = timed();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let origin = origin();
        let gw = in_clear(&origin, "", "timeout_ms: 1000\n");
        let client = Http2Client::in_clear(gw.addr()).await;
        let begun = Instant::now();
        let (late, _) = client.begin("GET", "/silent", &[], true).await.unwrap();
        while begun.elapsed() < Duration::from_millis(700) {
            assert_eq!(client.get("/").await.unwrap().body, b"ok");
        }
        let late = whole(late.await.unwrap()).await.unwrap();
        assert_eq!(late.status, 504);
        assert_eq!(late.json()["reason"], "timeout");
        let took = begun.elapsed();
        assert!(
            (Duration::from_millis(900)..Duration::from_secs(5)).contains(&took),
            "{took:?}"
        );
        assert_eq!(client.get("/").await.unwrap().body, b"ok");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_is_not_whole_ends_with_a_reset() {
    let origin = origin();
    let gw = in_clear(&origin, "", "timeout_ms: 1000\n");
    let client = Http2Client::in_clear(gw.addr()).await;
    for (nth, (target, reason)) in [("/breaks", "upstream_reset"), ("/stalls", "timeout")]
        .into_iter()
        .enumerate()
    {
        let error = client.get(target).await.unwrap_err();
        assert_eq!(
            error.reason(),
            Some(h2::Reason::INTERNAL_ERROR),
            "{target}: {error}"
        );
        let records = gw.access_log(2 * nth + 1);
        assert_eq!(records[2 * nth]["reason"], reason);
        assert_eq!(client.get("/").await.unwrap().body, b"ok");
        gw.access_log(2 * nth + 2);
    }
}

#[test]
fn a_client_that_is_silent_in_its_body_is_at_fault_itself() {
    let _timed = timed();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let origin = origin();
        let gw = in_clear(&origin, "", "timeout_ms: 1000\n");
        let client = Http2Client::in_clear(gw.addr()).await;
        let (late, mut body) = client.begin("POST", "/", &[], false).await.unwrap();
        body.send_data(Bytes::from_static(b"half"), false).unwrap();
        let late = whole(late.await.unwrap()).await.unwrap();
        assert_eq!(late.status, 408);
        assert_eq!(client.get("/").await.unwrap().body, b"ok");
        assert!(gw.reasons(2).contains(&"timeout".to_owned()));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_the_client_gives_up_frees_its_endpoint() {
    let origin = origin();
    let gw = in_clear(&origin, "", "max_connections: 1\n");
    let client = Http2Client::in_clear(gw.addr()).await;
    for target in ["/silent", "/stalls"] {
        let requests = origin.requests();
        let (response, mut body) = client.begin("GET", target, &[], true).await.unwrap();
        eventually(SOON, "it has arrived", || origin.requests() > requests);
        body.send_reset(h2::Reason::CANCEL);
        drop(response);
        // There is one place, and it is free again.
        assert_eq!(client.get("/").await.unwrap().body, b"ok");
    }
    let mut reasons = gw.reasons(4);
    reasons.sort();
    assert_eq!(reasons, ["client_closed", "client_closed", "ok", "ok"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_responses_pass() {
    let origin = origin();
    let gw = in_clear(&origin, "", "");
    let client = Http2Client::in_clear(gw.addr()).await;
    assert_eq!(client.get("/early").await.unwrap().body, b"ok");
    let port = gw.addr().port();
    let output = std::process::Command::new("curl")
        .args(["-sSi", "--http2-prior-knowledge"])
        .arg(format!("http://127.0.0.1:{port}/early"))
        .output()
        .expect("curl is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("HTTP/2 103 "), "{said}");
    assert!(said.contains("link: </a>"), "{said}");
    assert!(said.contains("HTTP/2 200 "), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_try_is_repeated_with_its_body() {
    let broken = std::sync::atomic::AtomicBool::new(true);
    let origin = Origin::serve(move |_, conn| {
        let body = conn.body()?;
        if broken.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return Ok(Next::Close);
        }
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nX-Got: {}\r\nContent-Length: 0\r\n\r\n",
            body.len
        ))?;
        Ok(Next::Keep)
    });
    let gw = in_clear(&origin, "", "retry_count: 1\n");
    let client = Http2Client::in_clear(gw.addr()).await;
    let response = client.call("PUT", "/", &[], b"again").await.unwrap();
    assert_eq!(response.headers["x-got"], "5");
    assert_eq!(gw.access_log(1)[0]["tries"], 2);
}
