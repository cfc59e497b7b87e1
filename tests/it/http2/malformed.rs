//! Requests that break RFC 9113, as raw frames: what the endpoint receives is nothing, or one
//! unambiguous request.

use super::{SOON, in_clear};
use crate::support::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM,
    RawHttp2, SETTINGS, WINDOW_UPDATE, block,
};
use crate::support::{Gw, Origin, eventually};

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a.test"),
];

/// Kind, flags, stream, payload.
type Sent = (u8, u8, u32, Vec<u8>);

/// What a client is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// A response with this status class, by what the log says.
    Response,
    /// RST_STREAM.
    Reset,
    /// GOAWAY, or the end of the connection.
    Goaway,
}

fn answer(raw: &mut RawHttp2) -> Answer {
    match raw.next_of(&[HEADERS, RST_STREAM, GOAWAY]).unwrap() {
        Some(Frame { kind: HEADERS, .. }) => Answer::Response,
        Some(Frame {
            kind: RST_STREAM, ..
        }) => Answer::Reset,
        _ => Answer::Goaway,
    }
}

fn still_serves(gw: &Gw) {
    let mut raw = RawHttp2::connect(gw.addr());
    raw.head(1, END_STREAM, &GET);
    assert_eq!(answer(&mut raw), Answer::Response);
}

#[test]
fn heads_that_are_malformed_reach_no_endpoint() {
    let origin = Origin::ok("x");
    let gw = in_clear(&origin, "", "");
    let long = "v".repeat(70_000);
    // Each with the fields behind the method; RFC 9113, section by section.
    let cases: &[(&str, &[(&str, &str)])] = &[
        (
            "8.2.1: upper case",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("X-Y", "z"),
            ],
        ),
        (
            "8.2.1: CR LF",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("x", "a\r\nb: c"),
            ],
        ),
        (
            "8.2.1: LF",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("x", "a\nb"),
            ],
        ),
        (
            "8.2.1: NUL",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("x", "a\0b"),
            ],
        ),
        (
            "8.2.1: leading space",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("x", " a"),
            ],
        ),
        (
            "8.2.1: trailing tab",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("x", "a\t"),
            ],
        ),
        (
            "8.2.1: colon in a name",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("x:y", "a"),
            ],
        ),
        (
            "8.2.1: space in a name",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("x y", "a"),
            ],
        ),
        (
            "8.2.1: empty name",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("", "a"),
            ],
        ),
        (
            "8.2.2: connection",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("connection", "x"),
            ],
        ),
        (
            "8.2.2: keep-alive",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("keep-alive", "5"),
            ],
        ),
        (
            "8.2.2: proxy-connection",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("proxy-connection", "x"),
            ],
        ),
        (
            "8.2.2: transfer-encoding",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("transfer-encoding", "chunked"),
            ],
        ),
        (
            "8.2.2: upgrade",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("upgrade", "h2c"),
            ],
        ),
        (
            "8.2.2: te",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("te", "gzip"),
            ],
        ),
        (
            "8.3: pseudo-field behind a field",
            &[
                (":scheme", "http"),
                ("x", "y"),
                (":path", "/"),
                (":authority", "a"),
            ],
        ),
        (
            "8.3: unknown pseudo-field",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                (":foo", "a"),
            ],
        ),
        (
            "8.3: of a response",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                (":status", "200"),
            ],
        ),
        (
            "8.3.1: no path",
            &[(":scheme", "http"), (":authority", "a")],
        ),
        (
            "8.3.1: empty path",
            &[(":scheme", "http"), (":path", ""), (":authority", "a")],
        ),
        (
            "8.3.1: two paths",
            &[
                (":scheme", "http"),
                (":path", "/a"),
                (":path", "/b"),
                (":authority", "a"),
            ],
        ),
        ("8.3.1: no scheme", &[(":path", "/"), (":authority", "a")]),
        (
            "8.3.1: two schemes",
            &[
                (":scheme", "http"),
                (":scheme", "https"),
                (":path", "/"),
                (":authority", "a"),
            ],
        ),
        (
            "8.3.1: a scheme that is none of ours",
            &[(":scheme", "ftp"), (":path", "/"), (":authority", "a")],
        ),
        (
            "8.3.1: a scheme with a path",
            &[
                (":scheme", "http://b/c?"),
                (":path", "/"),
                (":authority", "a"),
            ],
        ),
        (
            "8.3.1: no authority",
            &[(":scheme", "http"), (":path", "/")],
        ),
        (
            "8.3.1: two authorities",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                (":authority", "b"),
            ],
        ),
        (
            "8.3.1: userinfo",
            &[(":scheme", "http"), (":path", "/"), (":authority", "u@a")],
        ),
        (
            "8.3.1: a path in the authority",
            &[(":scheme", "http"), (":path", "/"), (":authority", "a/b")],
        ),
        (
            "8.3.1: Host differs",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("host", "b"),
            ],
        ),
        (
            "8.3.1: two hosts",
            &[
                (":scheme", "http"),
                (":path", "/"),
                ("host", "a"),
                ("host", "b"),
            ],
        ),
        (
            "8.3.1: space in the path",
            &[
                (":scheme", "http"),
                (":path", "/a HTTP/1.1"),
                (":authority", "a"),
            ],
        ),
        (
            "8.3.1: CR LF in the path",
            &[
                (":scheme", "http"),
                (":path", "/a\r\nx: y"),
                (":authority", "a"),
            ],
        ),
        (
            "8.3.1: a relative path",
            &[(":scheme", "http"), (":path", "a"), (":authority", "a")],
        ),
        (
            "8.3.1: a URL for a path",
            &[
                (":scheme", "http"),
                (":path", "http://b/"),
                (":authority", "a"),
            ],
        ),
        (
            "8.1.1: two lengths",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("content-length", "1"),
                ("content-length", "2"),
            ],
        ),
        (
            "8.1.1: a list of lengths",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("content-length", "0, 0"),
            ],
        ),
        (
            "8.1.1: a signed length",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("content-length", "+0"),
            ],
        ),
        (
            "8.1.1: a length and no body",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("content-length", "5"),
            ],
        ),
        ("8.5: CONNECT", &[(":authority", "a:443")]),
        (
            "8441: extended CONNECT that was not offered",
            &[
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
            ],
        ),
        (
            "10.5.1: too large",
            &[
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
                ("x", &long),
            ],
        ),
    ];
    for (name, fields) in cases {
        let method = match *name {
            "8.5: CONNECT" | "8441: extended CONNECT that was not offered" => "CONNECT",
            _ => "GET",
        };
        let mut all = vec![(":method", method)];
        all.extend_from_slice(fields);
        let mut raw = RawHttp2::connect(gw.addr());
        let block = block(&all);
        let mut pieces = block.chunks(16_000);
        let first = pieces.next().unwrap_or_default();
        let whole = block.len() <= 16_000;
        raw.send(
            HEADERS,
            END_STREAM | if whole { END_HEADERS } else { 0 },
            1,
            first,
        );
        let rest: Vec<&[u8]> = pieces.collect();
        for (nth, piece) in rest.iter().enumerate() {
            let last = nth + 1 == rest.len();
            raw.send(CONTINUATION, if last { END_HEADERS } else { 0 }, 1, piece);
        }
        let answered = answer(&mut raw);
        assert_eq!(origin.requests(), 0, "{name}: {answered:?}");
    }
    // No method at all.
    let mut raw = RawHttp2::connect(gw.addr());
    raw.head(1, END_STREAM, &GET[1..]);
    answer(&mut raw);
    assert_eq!(origin.requests(), 0);
    let said: Vec<_> = gw.access_log(1);
    for record in &said {
        let status = record["status"].as_u64().unwrap();
        assert!((400..600).contains(&status), "{record}");
    }
    still_serves(&gw);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn what_is_allowed_reaches_the_endpoint_once() {
    let origin = Origin::ok("x");
    let gw = in_clear(&origin, "", "");
    let cases: &[&[(&str, &str)]] = &[
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/"),
            (":authority", "a:8443"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            ("host", "a"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
            ("host", "a"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/?a=b&c=%20"),
            (":authority", "[::1]:80"),
        ],
        &[
            (":method", "OPTIONS"),
            (":scheme", "http"),
            (":path", "*"),
            (":authority", "a"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
            ("te", "trailers"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
            ("content-length", "0"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
            ("x", "a b\tc"),
        ],
    ];
    for (nth, fields) in cases.iter().enumerate() {
        let mut raw = RawHttp2::connect(gw.addr());
        raw.head(1, END_STREAM, fields);
        assert_eq!(answer(&mut raw), Answer::Response, "{fields:?}");
        assert_eq!(origin.requests(), nth + 1, "{fields:?}");
    }
    // A fragment (RFC 3986, section 3.5) is never sent on.
    let mut raw = RawHttp2::connect(gw.addr());
    let mut fields = GET;
    fields[2].1 = "/a#b";
    raw.head(1, END_STREAM, &fields);
    assert_eq!(answer(&mut raw), Answer::Response);
    assert_eq!(origin.heads().last().unwrap().target, "/a");
    let count = cases.len() + 1;
    assert_eq!(gw.reasons(count), vec!["ok"; count]);
}

#[test]
fn a_body_that_does_not_have_its_length_is_no_request() {
    let origin = Origin::echo();
    let gw = in_clear(&origin, "", "");
    for (body, end) in [(&b"toolong"[..], END_STREAM), (b"x", END_STREAM)] {
        let mut raw = RawHttp2::connect(gw.addr());
        let mut fields = GET.to_vec();
        fields[0].1 = "POST";
        fields.push(("content-length", "4"));
        raw.head(1, 0, &fields);
        raw.send(DATA, end, 1, body);
        assert_ne!(answer(&mut raw), Answer::Response, "{body:?}");
    }
    eventually(SOON, "both have ended", || gw.access_log(2).len() == 2);
    assert!(gw.reasons(2).iter().all(|reason| reason != "ok"));
    still_serves(&gw);
}

#[test]
fn frames_that_break_the_protocol_end_the_connection_and_no_other() {
    let origin = Origin::ok("x");
    let gw = in_clear(&origin, "", "");
    let head = block(&GET);
    // Kind, flags, stream, payload; RFC 9113, section by section.
    let cases: Vec<(&str, Vec<Sent>)> = vec![
        ("4.1: DATA on stream 0", vec![(DATA, 0, 0, b"x".to_vec())]),
        (
            "5.1: DATA on an idle stream",
            vec![(DATA, 0, 5, b"x".to_vec())],
        ),
        ("5.1.1: an even stream", vec![(HEADERS, 5, 2, head.clone())]),
        (
            "5.1.1: a stream below another",
            vec![(HEADERS, 5, 5, head.clone()), (HEADERS, 5, 3, head.clone())],
        ),
        (
            "6.2: HEADERS on stream 0",
            vec![(HEADERS, 5, 0, head.clone())],
        ),
        (
            "6.2: padding over its length",
            vec![(HEADERS, 0xd, 1, vec![255, 1])],
        ),
        (
            "6.4: RST_STREAM on an idle stream",
            vec![(RST_STREAM, 0, 9, vec![0; 4])],
        ),
        (
            "6.4: RST_STREAM of another length",
            vec![(RST_STREAM, 0, 1, vec![0; 3])],
        ),
        ("6.5: SETTINGS on a stream", vec![(SETTINGS, 0, 1, vec![])]),
        (
            "6.5: SETTINGS of another length",
            vec![(SETTINGS, 0, 0, vec![0; 5])],
        ),
        (
            "6.5: an acknowledgement with a payload",
            vec![(SETTINGS, 1, 0, vec![0; 6])],
        ),
        (
            "6.5.2: a window over its limit",
            vec![(SETTINGS, 0, 0, vec![0, 4, 0xff, 0xff, 0xff, 0xff])],
        ),
        (
            "6.5.2: a frame size below its limit",
            vec![(SETTINGS, 0, 0, vec![0, 5, 0, 0, 0, 1])],
        ),
        (
            "6.5.2: push that is neither on nor off",
            vec![(SETTINGS, 0, 0, vec![0, 2, 0, 0, 0, 2])],
        ),
        (
            "6.6: PUSH_PROMISE of a client",
            vec![(5, 4, 1, vec![0, 0, 0, 2])],
        ),
        ("6.7: PING on a stream", vec![(PING, 0, 1, vec![0; 8])]),
        (
            "6.7: PING of another length",
            vec![(PING, 0, 0, vec![0; 7])],
        ),
        (
            "6.9: WINDOW_UPDATE of nothing",
            vec![(WINDOW_UPDATE, 0, 0, vec![0; 4])],
        ),
        (
            "6.9: WINDOW_UPDATE of another length",
            vec![(WINDOW_UPDATE, 0, 0, vec![0; 3])],
        ),
        (
            "6.9.1: a window over its limit",
            vec![(WINDOW_UPDATE, 0, 0, vec![0x7f, 0xff, 0xff, 0xff])],
        ),
        (
            "6.10: CONTINUATION without HEADERS",
            vec![(CONTINUATION, 4, 1, head.clone())],
        ),
        (
            "6.10: another frame before CONTINUATION",
            vec![(HEADERS, 1, 1, head.clone()), (PING, 0, 0, vec![0; 8])],
        ),
        (
            "RFC 7541, 6.1: an index out of the table",
            vec![(HEADERS, 5, 1, vec![0xff, 0x80, 0x01])],
        ),
        (
            "RFC 7541, 5.2: a string that is cut",
            vec![(HEADERS, 5, 1, vec![0, 0x7f, 0xff])],
        ),
    ];
    for (name, frames) in cases {
        let mut raw = RawHttp2::connect(gw.addr());
        for (kind, flags, stream, payload) in frames {
            raw.send(kind, flags, stream, &payload);
        }
        match raw
            .next_of(&[GOAWAY, RST_STREAM])
            .unwrap_or_else(|e| panic!("{name}: {e}"))
        {
            Some(frame) if frame.kind == GOAWAY => {
                assert_ne!(crate::support::http2::code(&frame), 0, "{name}");
            }
            Some(_) | None => {}
        }
    }
    // A frame longer than it may be, and no preface at all.
    let mut raw = RawHttp2::connect(gw.addr());
    raw.write(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
    assert!(raw.next_of(&[GOAWAY]).unwrap().is_some());
    still_serves(&gw);
}
