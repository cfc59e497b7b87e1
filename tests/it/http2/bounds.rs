//! Whatever a client opens, keeps back or resets is bounded.

use std::time::{Duration, Instant};

use super::{SOON, in_clear, in_clear_with};
use crate::support::http2::{
    END_STREAM, GOAWAY, HEADERS, Http2Client, PING, RST_STREAM, RawHttp2, SETTINGS, block, code,
    whole,
};
use crate::support::{Gw, Next, Origin, eventually, timed};

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a.test"),
];
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

fn nobody_is_left(gw: &Gw) {
    eventually(SOON, "no connection is left", || {
        let labels = [("listener", "127.0.0.1:0")];
        gw.metrics().sum("harbr_connections_active", &labels) == 0.0
    });
}

#[test]
fn who_shakes_no_hands_or_opens_no_stream_is_let_go() {
    let _timed = timed();
    let origin = Origin::ok("x");
    let top = "header_timeout_ms: 500\n";
    let gw = in_clear_with(&origin, top, "idle_timeout_secs: 1", "");
    let mut silent = RawHttp2::silent(gw.addr());
    let mut half = RawHttp2::silent(gw.addr());
    half.write(b"PRI * HTTP/2.0\r\n\r\nSM");
    let mut idle = RawHttp2::connect(gw.addr());
    let mut stuck = RawHttp2::connect(gw.addr());
    // A head that never ends.
    stuck.send(HEADERS, END_STREAM, 1, &block(&GET));
    // One that sends what costs nothing.
    let begun = Instant::now();
    let goaway = idle.next_of(&[GOAWAY]).unwrap().expect("it is told");
    assert_eq!(code(&goaway), 0);
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    for raw in [&mut idle, &mut stuck, &mut silent] {
        while raw.frame().is_ok_and(|frame| frame.is_some()) {}
    }
    drop(half);
    nobody_is_left(&gw);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn more_streams_than_there_may_be_are_refused_unseen() {
    let origin = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let gw = in_clear(&origin, "max_streams: 3, max_concurrent_streams: 2", "");
    let mut one = RawHttp2::connect(gw.addr());
    for stream in [1, 3, 5] {
        one.head(stream, END_STREAM, &GET);
    }
    // Over those of one connection: h2 itself refuses it.
    let refused = one
        .next_of(&[RST_STREAM, GOAWAY])
        .unwrap()
        .expect("an answer");
    assert_eq!((refused.kind, refused.stream), (RST_STREAM, 5));
    assert_eq!(code(&refused), REFUSED_STREAM);
    eventually(SOON, "both are on their way", || origin.requests() == 2);
    let mut two = RawHttp2::connect(gw.addr());
    two.head(1, END_STREAM, &GET);
    two.head(3, END_STREAM, &GET);
    // Over those of the gateway.
    let refused = two
        .next_of(&[RST_STREAM, GOAWAY])
        .unwrap()
        .expect("an answer");
    assert_eq!((refused.kind, refused.stream), (RST_STREAM, 3));
    assert_eq!(code(&refused), REFUSED_STREAM);
    eventually(SOON, "three are on their way", || origin.requests() == 3);
    let labels = [("reason", "too_many_connections")];
    assert_eq!(
        gw.metrics()
            .sum("harbr_connections_rejected_total", &labels),
        1.0
    );
    drop((one, two));
    nobody_is_left(&gw);
}

#[test]
fn a_client_that_opens_and_resets_without_end_is_calmed_down() {
    let origin = Origin::serve(|_, conn| conn.until_closed().map(|()| Next::Close));
    let gw = in_clear(&origin, "", "");
    // In one burst, and one after the other.
    for paced in [false, true] {
        let before = origin.requests();
        let mut raw = RawHttp2::connect(gw.addr());
        let mut sent = 0;
        for nth in 0..20_000_u32 {
            let stream = 2 * nth + 1;
            let alive = raw.head(stream, END_STREAM, &GET)
                && raw.send(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            if !alive {
                break;
            }
            sent = nth;
            if paced {
                // Each is seen before the next: the answer to a PING comes behind it.
                raw.send(PING, 0, 0, &[0; 8]);
                match raw.next_of(&[PING, GOAWAY]).unwrap() {
                    Some(frame) if frame.kind == PING => {}
                    _ => break,
                }
            }
        }
        while raw.frame().is_ok_and(|frame| frame.is_some()) {}
        assert!(sent < 19_999, "it was never stopped");
        let reached = origin.requests() - before;
        assert!(
            reached <= 400,
            "{reached} reached the endpoint, paced: {paced}"
        );
        assert!(!paced || sent <= 400, "{sent}");
    }
    let mut raw = RawHttp2::connect(gw.addr());
    raw.send(PING, 0, 0, b"pingpong");
    let pong = raw.next_of(&[PING]).unwrap().expect("an answer");
    assert_eq!((pong.flags, &pong.payload[..]), (1, &b"pingpong"[..]));
}

#[test]
fn malformed_requests_one_after_the_other_are_too_many_some_time() {
    let origin = Origin::ok("x");
    let gw = in_clear(&origin, "", "");
    let mut raw = RawHttp2::connect(gw.addr());
    let mut fields = GET.to_vec();
    fields.push(("x", " y"));
    let mut calmed = None;
    for nth in 0..1000_u32 {
        if !raw.head(2 * nth + 1, END_STREAM, &fields) {
            break;
        }
        match raw.next_of(&[HEADERS, RST_STREAM, GOAWAY]).unwrap() {
            Some(frame) if frame.kind == GOAWAY => {
                calmed = Some((nth, code(&frame)));
                break;
            }
            Some(_) => {}
            None => break,
        }
    }
    let (after, why) = calmed.expect("it is told");
    assert!((50..=1000).contains(&after), "{after}");
    assert_eq!(why, ENHANCE_YOUR_CALM);
    assert_eq!(origin.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_messages_do_not_pass_for_an_attack() {
    let origin = Origin::serve(|_, conn| {
        let body = conn.body()?;
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nX-Got: {}\r\nContent-Length: 0\r\n\r\n",
            body.len
        ))?;
        Ok(Next::Keep)
    });
    let gw = in_clear(&origin, "", "");
    let client = Http2Client::in_clear(gw.addr()).await;
    let (response, mut body) = client.begin("POST", "/", &[], false).await.unwrap();
    for _ in 0..10_000 {
        crate::support::http2::send_all(&mut body, bytes::Bytes::from_static(b"12345"), false)
            .await
            .unwrap();
    }
    body.send_data(bytes::Bytes::new(), true).unwrap();
    let response = whole(response.await.unwrap()).await.unwrap();
    assert_eq!(response.headers["x-got"], "50000");
}

#[test]
fn a_client_that_takes_nothing_holds_nobody_else_up() {
    let origin = Origin::serve(|request, conn| match request.target.as_str() {
        "/large" => conn.stream(50_000_000),
        _ => {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            Ok(Next::Keep)
        }
    });
    let gw = in_clear(&origin, "", "");
    let mut raw = RawHttp2::connect(gw.addr());
    // No window at all.
    raw.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut fields = GET.to_vec();
    fields[2].1 = "/large";
    for stream in 0..50_u32 {
        raw.head(2 * stream + 1, END_STREAM, &fields);
    }
    for _ in 0..50 {
        assert!(raw.next_of(&[HEADERS]).unwrap().is_some());
    }
    for _ in 0..50 {
        assert_eq!(gw.get("/").status, 200);
    }
    drop(raw);
    nobody_is_left(&gw);
}

#[test]
fn a_connection_grows_only_so_old_and_a_client_that_is_gone_is_noticed() {
    let _timed = timed();
    let origin = Origin::serve(|request, conn| match request.target.as_str() {
        "/silent" => conn.until_closed().map(|()| Next::Close),
        _ => {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            Ok(Next::Keep)
        }
    });
    let gw = in_clear(
        &origin,
        "max_connection_age_secs: 1, ping_interval_secs: 1",
        "",
    );
    let mut raw = RawHttp2::connect(gw.addr());
    let mut fields = GET.to_vec();
    fields[2].1 = "/silent";
    raw.head(1, END_STREAM, &fields);
    let (mut pinged, mut told) = (false, false);
    while !(pinged && told) {
        let frame = raw.next_of(&[PING, GOAWAY]).unwrap().expect("both come");
        pinged |= frame.kind == PING && frame.flags == 0;
        told |= frame.kind == GOAWAY && code(&frame) == 0;
    }
    // The stream that runs goes on.
    assert_eq!(origin.open_connections(), 1);
}
