//! RFC 9113 and RFC 7541, section by section, over TLS and in clear: what is served, what ends a
//! stream, what ends a connection. A table, as long as its cases.

use crate::support::authority::Authority;
use crate::support::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, RawHttp2,
    SETTINGS, WINDOW_UPDATE, block, code, frame,
};
use crate::support::{Gw, Origin, route};

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const UNKNOWN: u8 = 0x42;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;
const WHOLE: u8 = END_STREAM | END_HEADERS;

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The request on stream 1 (or the last of them) is answered.
    Served,
    /// RST_STREAM, or what is stricter (section 5.4.2).
    StreamError,
    /// GOAWAY with an error, or the end of the connection.
    ConnectionError,
}

use Outcome::{ConnectionError, Served, StreamError};

/// Name, frames, outcome.
type Case = (&'static str, Vec<Vec<u8>>, Outcome);

fn get() -> Vec<(&'static str, &'static str)> {
    vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a.test"),
    ]
}

fn with(method: &'static str, more: &[(&'static str, &'static str)]) -> Vec<u8> {
    let mut fields = get();
    fields[0].1 = method;
    fields.extend_from_slice(more);
    block(&fields)
}

fn head() -> Vec<u8> {
    block(&get())
}

fn whole(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &head())
}

fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &with("POST", &[]))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A head with these bytes of HPACK behind it.
fn hpack(more: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &[&head()[..], more].concat())
}

fn connection() -> Vec<Case> {
    vec![
        (
            "4.1: an unknown type is ignored",
            vec![frame(UNKNOWN, 0, 0, b"x"), whole(1)],
            Served,
        ),
        (
            "4.1: unknown flags are ignored",
            vec![frame(PING, 0x16, 0, &[0; 8]), whole(1)],
            Served,
        ),
        (
            "4.1: the reserved bit is ignored",
            vec![frame(PING, 0, 0x8000_0000, &[0; 8]), whole(1)],
            Served,
        ),
        (
            "4.2: DATA over the frame size",
            vec![open(1), frame(DATA, END_STREAM, 1, &[0; 16_385])],
            ConnectionError,
        ),
        (
            "4.2: HEADERS over the frame size",
            vec![frame(HEADERS, WHOLE, 1, &[0; 16_385])],
            ConnectionError,
        ),
        (
            "4.2: SETTINGS over the frame size",
            vec![frame(SETTINGS, 0, 0, &[0; 16_386])],
            ConnectionError,
        ),
        (
            "4.2: a frame of the largest size",
            vec![open(1), frame(DATA, END_STREAM, 1, &[0; 16_384])],
            Served,
        ),
        (
            "4.3: a block that cannot be decoded",
            vec![frame(HEADERS, WHOLE, 1, &[0x40])],
            ConnectionError,
        ),
        (
            "4.3: another stream inside a block",
            vec![frame(HEADERS, END_STREAM, 1, &head()), whole(3)],
            ConnectionError,
        ),
        (
            "4.3: an unknown frame inside a block",
            vec![
                frame(HEADERS, END_STREAM, 1, &head()),
                frame(UNKNOWN, 0, 0, b""),
            ],
            ConnectionError,
        ),
        (
            "5.1: idle, DATA",
            vec![frame(DATA, END_STREAM, 1, b"x")],
            ConnectionError,
        ),
        (
            "5.1: idle, RST_STREAM",
            vec![frame(RST_STREAM, 0, 1, &[0; 4])],
            ConnectionError,
        ),
        (
            "5.1: idle, WINDOW_UPDATE",
            vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            ConnectionError,
        ),
        (
            "5.1: idle, CONTINUATION",
            vec![frame(CONTINUATION, END_HEADERS, 1, &head())],
            ConnectionError,
        ),
        (
            "5.1: half closed, DATA",
            vec![whole(1), frame(DATA, END_STREAM, 1, b"x")],
            StreamError,
        ),
        (
            "5.1: half closed, HEADERS",
            vec![whole(1), whole(1)],
            StreamError,
        ),
        (
            "5.1: half closed, CONTINUATION",
            vec![whole(1), frame(CONTINUATION, END_HEADERS, 1, &head())],
            ConnectionError,
        ),
        (
            "5.1: reset, HEADERS",
            vec![open(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), whole(1)],
            StreamError,
        ),
        (
            "5.1: reset, CONTINUATION",
            vec![
                open(1),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                frame(CONTINUATION, END_HEADERS, 1, &head()),
            ],
            ConnectionError,
        ),
        (
            "5.1: reset, WINDOW_UPDATE is ignored",
            vec![
                open(1),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
                whole(3),
            ],
            Served,
        ),
        (
            "5.1: reset, PRIORITY is ignored",
            vec![
                open(1),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
                whole(3),
            ],
            Served,
        ),
        ("5.1.1: an even stream", vec![whole(2)], ConnectionError),
        (
            "5.1.1: a lower stream",
            vec![whole(5), whole(3)],
            ConnectionError,
        ),
        (
            "5.1.1: a stream that skips others",
            vec![whole(101)],
            Served,
        ),
        (
            "5.5: an extension frame on a stream",
            vec![
                open(1),
                frame(UNKNOWN, 0, 1, b"x"),
                frame(DATA, END_STREAM, 1, b""),
            ],
            Served,
        ),
        (
            "6.1: DATA on stream 0",
            vec![frame(DATA, 0, 0, b"x")],
            ConnectionError,
        ),
        (
            "6.1: padding as long as the payload",
            vec![open(1), frame(DATA, END_STREAM | PADDED, 1, &[4, 0, 0, 0])],
            ConnectionError,
        ),
        (
            "6.1: padding is dropped",
            vec![
                open(1),
                frame(DATA, END_STREAM | PADDED, 1, &[2, b'x', 0, 0]),
            ],
            Served,
        ),
        (
            "6.2: HEADERS on stream 0",
            vec![frame(HEADERS, WHOLE, 0, &head())],
            ConnectionError,
        ),
        (
            "6.2: padding over the payload",
            vec![frame(HEADERS, WHOLE | PADDED, 1, &[200, 1])],
            ConnectionError,
        ),
        (
            "6.2: padding is dropped",
            vec![frame(
                HEADERS,
                WHOLE | PADDED,
                1,
                &[&[2][..], &head(), &[0, 0]].concat(),
            )],
            Served,
        ),
        (
            "6.2: priority is ignored",
            vec![frame(
                HEADERS,
                WHOLE | WITH_PRIORITY,
                1,
                &[&[0, 0, 0, 0, 15][..], &head()].concat(),
            )],
            Served,
        ),
        (
            "6.3: PRIORITY on stream 0",
            vec![frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1])],
            ConnectionError,
        ),
        (
            "6.3: PRIORITY of another length",
            vec![open(1), frame(PRIORITY, 0, 1, &[0; 4])],
            StreamError,
        ),
        (
            "6.3: PRIORITY of an idle stream",
            vec![frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 1]), whole(7)],
            Served,
        ),
        (
            "6.4: RST_STREAM on stream 0",
            vec![frame(RST_STREAM, 0, 0, &[0; 4])],
            ConnectionError,
        ),
        (
            "6.4: RST_STREAM of another length",
            vec![open(1), frame(RST_STREAM, 0, 1, &[0; 5])],
            ConnectionError,
        ),
        (
            "6.5: SETTINGS on a stream",
            vec![frame(SETTINGS, 0, 1, &setting(3, 1))],
            ConnectionError,
        ),
        (
            "6.5: an acknowledgement with settings",
            vec![frame(SETTINGS, 1, 0, &setting(3, 1))],
            ConnectionError,
        ),
        (
            "6.5: half a setting",
            vec![frame(SETTINGS, 0, 0, &[0, 3, 0])],
            ConnectionError,
        ),
        (
            "6.5.2: push neither on nor off",
            vec![frame(SETTINGS, 0, 0, &setting(2, 2))],
            ConnectionError,
        ),
        (
            "6.5.2: a window over 2^31-1",
            vec![frame(SETTINGS, 0, 0, &setting(4, 0x8000_0000))],
            ConnectionError,
        ),
        (
            "6.5.2: a frame size below 2^14",
            vec![frame(SETTINGS, 0, 0, &setting(5, 16_383))],
            ConnectionError,
        ),
        (
            "6.5.2: a frame size over 2^24-1",
            vec![frame(SETTINGS, 0, 0, &setting(5, 16_777_216))],
            ConnectionError,
        ),
        (
            "6.5.2: an unknown setting is ignored",
            vec![frame(SETTINGS, 0, 0, &setting(0xff, 1)), whole(1)],
            Served,
        ),
        (
            "6.5.2: no header table",
            vec![frame(SETTINGS, 0, 0, &setting(1, 0)), whole(1)],
            Served,
        ),
        (
            "6.5.3: settings twice",
            vec![
                frame(
                    SETTINGS,
                    0,
                    0,
                    &[setting(4, 100), setting(4, 65_535)].concat(),
                ),
                whole(1),
            ],
            Served,
        ),
        (
            "6.6: PUSH_PROMISE of a client",
            vec![frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                &[&[0, 0, 0, 2][..], &head()].concat(),
            )],
            ConnectionError,
        ),
        (
            "6.7: PING on a stream",
            vec![frame(PING, 0, 1, &[0; 8])],
            ConnectionError,
        ),
        (
            "6.7: PING of another length",
            vec![frame(PING, 0, 0, &[0; 9])],
            ConnectionError,
        ),
        (
            "6.7: an answer that nobody asked for",
            vec![frame(PING, 1, 0, &[7; 8]), whole(1)],
            Served,
        ),
        (
            "6.8: GOAWAY on a stream",
            vec![frame(GOAWAY, 0, 1, &[0; 8])],
            ConnectionError,
        ),
        (
            "6.8: GOAWAY of a client lets a stream end",
            vec![whole(1), frame(GOAWAY, 0, 0, &[0; 8])],
            Served,
        ),
        (
            "6.9: an increment of 0 for all",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
            ConnectionError,
        ),
        (
            "6.9: an increment of 0 for one",
            vec![open(1), frame(WINDOW_UPDATE, 0, 1, &[0; 4])],
            StreamError,
        ),
        (
            "6.9: WINDOW_UPDATE of another length",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 5])],
            ConnectionError,
        ),
        (
            "6.9.1: a window over 2^31-1 for all",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
            ConnectionError,
        ),
        (
            "6.9.1: a window over 2^31-1 for one",
            vec![
                open(1),
                frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]),
            ],
            StreamError,
        ),
        (
            "6.9.1: small steps",
            vec![
                frame(SETTINGS, 0, 0, &setting(4, 1)),
                whole(1),
                frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]),
            ],
            Served,
        ),
        (
            "6.9.2: a window that opens by a setting",
            vec![
                frame(SETTINGS, 0, 0, &setting(4, 0)),
                whole(1),
                frame(SETTINGS, 0, 0, &setting(4, 100)),
            ],
            Served,
        ),
        (
            "6.9.2: a setting that overflows a window",
            vec![
                open(1),
                frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0, 0]),
                frame(SETTINGS, 0, 0, &setting(4, 0x7fff_ffff)),
            ],
            ConnectionError,
        ),
        (
            "6.10: CONTINUATION twice",
            vec![
                frame(HEADERS, END_STREAM, 1, &head()[..9]),
                frame(CONTINUATION, 0, 1, &head()[9..20]),
                frame(CONTINUATION, END_HEADERS, 1, &head()[20..]),
            ],
            Served,
        ),
        (
            "6.10: an empty CONTINUATION",
            vec![
                frame(HEADERS, END_STREAM, 1, &head()),
                frame(CONTINUATION, END_HEADERS, 1, b""),
            ],
            Served,
        ),
        (
            "6.10: CONTINUATION on stream 0",
            vec![
                frame(HEADERS, END_STREAM, 1, &head()),
                frame(CONTINUATION, END_HEADERS, 0, b""),
            ],
            ConnectionError,
        ),
        (
            "6.10: CONTINUATION behind END_HEADERS",
            vec![open(1), frame(CONTINUATION, END_HEADERS, 1, &head())],
            ConnectionError,
        ),
        (
            "6.10: CONTINUATION behind DATA",
            vec![
                open(1),
                frame(DATA, 0, 1, b"x"),
                frame(CONTINUATION, END_HEADERS, 1, &head()),
            ],
            ConnectionError,
        ),
        (
            "6.10: DATA inside a block",
            vec![
                frame(HEADERS, 0, 1, &head()),
                frame(DATA, END_STREAM, 1, b"x"),
            ],
            ConnectionError,
        ),
        (
            "6.10: SETTINGS inside a block",
            vec![
                frame(HEADERS, END_STREAM, 1, &head()),
                frame(SETTINGS, 0, 0, b""),
            ],
            ConnectionError,
        ),
    ]
}

fn messages() -> Vec<Case> {
    let trailers = |fields: &[(&str, &str)], flags| frame(HEADERS, flags, 1, &block(fields));
    vec![
        (
            "8.1: trailers",
            vec![
                open(1),
                frame(DATA, 0, 1, b"x"),
                trailers(&[("x", "y")], WHOLE),
            ],
            Served,
        ),
        (
            "8.1: trailers without a body",
            vec![open(1), trailers(&[("x", "y")], WHOLE)],
            Served,
        ),
        (
            "8.1: trailers that do not end it",
            vec![open(1), trailers(&[("x", "y")], END_HEADERS)],
            StreamError,
        ),
        (
            // It should be an error (section 8.1), and h2 0.4 drops it; trailers reach nobody.
            "8.1: a pseudo-field in trailers",
            vec![open(1), trailers(&[(":path", "/")], WHOLE)],
            Served,
        ),
        (
            "8.1.1: a body below its length",
            vec![
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &with("POST", &[("content-length", "2")]),
                ),
                frame(DATA, END_STREAM, 1, b"x"),
            ],
            StreamError,
        ),
        (
            "8.1.1: a body over its length",
            vec![
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &with("POST", &[("content-length", "1")]),
                ),
                frame(DATA, END_STREAM, 1, b"xx"),
            ],
            StreamError,
        ),
        (
            "8.1.1: two parts over their length",
            vec![
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &with("POST", &[("content-length", "1")]),
                ),
                frame(DATA, 0, 1, b"x"),
                frame(DATA, END_STREAM, 1, b"x"),
            ],
            StreamError,
        ),
        (
            "8.1.1: two parts of a length",
            vec![
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &with("POST", &[("content-length", "2")]),
                ),
                frame(DATA, 0, 1, b"x"),
                frame(DATA, END_STREAM, 1, b"x"),
            ],
            Served,
        ),
        (
            "8.1.1: a length and no body",
            vec![frame(
                HEADERS,
                WHOLE,
                1,
                &with("POST", &[("content-length", "1")]),
            )],
            StreamError,
        ),
        (
            "8.1.1: length 0",
            vec![frame(
                HEADERS,
                WHOLE,
                1,
                &with("POST", &[("content-length", "0")]),
            )],
            Served,
        ),
        (
            "8.1: empty DATA",
            vec![
                open(1),
                frame(DATA, 0, 1, b""),
                frame(DATA, END_STREAM, 1, b""),
            ],
            Served,
        ),
        (
            "9.2: HEAD",
            vec![frame(HEADERS, WHOLE, 1, &with("HEAD", &[]))],
            Served,
        ),
        (
            "9.2: PUT without a body",
            vec![frame(HEADERS, WHOLE, 1, &with("PUT", &[]))],
            Served,
        ),
        (
            "9.2: DELETE",
            vec![frame(HEADERS, WHOLE, 1, &with("DELETE", &[]))],
            Served,
        ),
        (
            "9.2: a method of one's own",
            vec![frame(HEADERS, WHOLE, 1, &with("PURGE", &[]))],
            Served,
        ),
        (
            "8.2.3: cookies in crumbs",
            vec![frame(
                HEADERS,
                WHOLE,
                1,
                &with("GET", &[("cookie", "a=b"), ("cookie", "c=d")]),
            )],
            Served,
        ),
        (
            "8.2: an empty value",
            vec![frame(HEADERS, WHOLE, 1, &with("GET", &[("x", "")]))],
            Served,
        ),
        (
            "8.2: the same name twice",
            vec![frame(
                HEADERS,
                WHOLE,
                1,
                &with("GET", &[("x", "1"), ("x", "2")]),
            )],
            Served,
        ),
        (
            "8.2.2: te: trailers",
            vec![frame(
                HEADERS,
                WHOLE,
                1,
                &with("GET", &[("te", "trailers")]),
            )],
            Served,
        ),
        (
            "5.1.2: two streams at once",
            vec![
                open(1),
                open(3),
                frame(DATA, END_STREAM, 1, b""),
                frame(DATA, END_STREAM, 3, b""),
            ],
            Served,
        ),
    ]
}

fn compression() -> Vec<Case> {
    // `:method GET`, `:scheme http`, `:path /` of the static table, and `:authority` as a literal.
    let indexed = |authority: &[u8]| [&[0x82, 0x86, 0x84][..], authority].concat();
    let literal = indexed(&[&[0x01, 6][..], b"a.test"].concat());
    let incremental = indexed(&[&[0x41, 6][..], b"a.test"].concat());
    let never = indexed(&[&[0x11, 6][..], b"a.test"].concat());
    // "www.example.com" (RFC 7541, appendix C.4.1).
    let huffman = indexed(&[
        0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
    ]);
    let second = indexed(&[0xbe]);
    let one = |stream, block: &[u8]| frame(HEADERS, WHOLE, stream, block);
    vec![
        (
            "RFC 7541, 6.1: the static table",
            vec![one(1, &literal)],
            Served,
        ),
        (
            "RFC 7541, 6.2.1: with indexing",
            vec![one(1, &incremental)],
            Served,
        ),
        (
            "RFC 7541, 6.2.1: a dynamic entry, used again",
            vec![one(1, &incremental), one(3, &second)],
            Served,
        ),
        (
            "RFC 7541, 6.2.3: never indexed",
            vec![one(1, &never)],
            Served,
        ),
        ("RFC 7541, 5.2: Huffman", vec![one(1, &huffman)], Served),
        (
            "RFC 7541, 6.3: a smaller table",
            vec![one(1, &[&[0x20][..], &literal].concat())],
            Served,
        ),
        (
            "RFC 7541, 6.3: a smaller table, then a larger one",
            vec![one(1, &[&[0x20, 0x3f, 0xe1, 0x1f][..], &literal].concat())],
            Served,
        ),
        (
            "RFC 7541, 6.1: index 0",
            vec![hpack(&[0x80])],
            ConnectionError,
        ),
        (
            "RFC 7541, 2.3.3: an index out of the table",
            vec![hpack(&[0xfe])],
            ConnectionError,
        ),
        (
            "RFC 7541, 2.3.3: a name out of the table",
            vec![hpack(&[0x7e, 1, b'x'])],
            ConnectionError,
        ),
        (
            "RFC 7541, 5.1: a number that never ends",
            vec![hpack(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80])],
            ConnectionError,
        ),
        (
            "RFC 7541, 5.2: a string that is cut",
            vec![hpack(&[0, 5, b'x'])],
            ConnectionError,
        ),
        (
            "RFC 7541, 5.2: Huffman padding of ones is too long",
            vec![hpack(&[0, 1, b'x', 0x85, 0xf1, 0xff, 0xff, 0xff, 0xff])],
            ConnectionError,
        ),
        (
            "RFC 7541, 5.2: Huffman padding of zeros",
            vec![hpack(&[0, 1, b'x', 0x81, 0x00])],
            ConnectionError,
        ),
        (
            "RFC 7541, 5.2: the end of string inside",
            vec![hpack(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff])],
            ConnectionError,
        ),
        (
            "RFC 7541, 6.3: a table over its limit",
            vec![one(1, &[&[0x3f, 0xff, 0xff, 0x03][..], &literal].concat())],
            ConnectionError,
        ),
        (
            "RFC 7541, 4.2: a table size behind a field",
            vec![hpack(&[0x20])],
            ConnectionError,
        ),
    ]
}

/// The outcome as a client sees it. `wanted` streams must be answered for `Served`.
fn observed(raw: &mut RawHttp2, wanted: usize) -> Outcome {
    let mut answered = 0;
    let mut reset = false;
    // The answer to a PING ends what came before it.
    let mut ended = false;
    loop {
        match raw.next_of(&[HEADERS, DATA, RST_STREAM, GOAWAY, PING]) {
            Ok(Some(frame)) if frame.kind == GOAWAY && code(&frame) != 0 => return ConnectionError,
            Ok(Some(frame)) if frame.kind == RST_STREAM => reset = true,
            Ok(Some(frame)) if frame.kind == HEADERS && frame.flags & END_STREAM != 0 => {
                answered += 1
            }
            Ok(Some(frame)) if frame.kind == DATA && frame.flags & END_STREAM != 0 => answered += 1,
            Ok(Some(frame)) => ended |= frame.kind == PING && frame.payload == *LAST,
            Ok(None) => {
                return match (reset, answered >= wanted) {
                    (true, _) => StreamError,
                    (false, true) => Served,
                    (false, false) => ConnectionError,
                };
            }
            Err(error) => panic!("{error}"),
        }
        if reset {
            return StreamError;
        }
        if answered >= wanted && ended {
            return Served;
        }
    }
}

const LAST: &[u8; 8] = b"the last";

/// What is wrong, if anything is.
fn wrong(case: &Case, mut raw: RawHttp2) -> Option<String> {
    let (name, frames, expected) = case;
    let mut streams = std::collections::BTreeSet::new();
    for bytes in frames {
        if bytes[3] == HEADERS {
            streams.insert(u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]));
        }
        raw.write(bytes);
        if bytes[3] == RST_STREAM {
            streams.clear();
        }
    }
    raw.send(PING, 0, 0, LAST);
    let wanted = streams.len().max(1);
    let seen = observed(&mut raw, wanted);
    let fits = match expected {
        Served => seen == Served,
        StreamError => seen != Served,
        ConnectionError => seen == ConnectionError,
    };
    (!fits).then(|| format!("{name}: {seen:?}, not {expected:?}"))
}

fn all() -> Vec<Case> {
    let all = [connection(), messages(), compression()].concat();
    assert!(all.len() >= 100, "{}", all.len());
    all
}

#[test]
fn every_case_in_clear() {
    let origin = Origin::ok("x");
    let gw = super::in_clear(&origin, "", "");
    let wrong: Vec<String> = all()
        .iter()
        .filter_map(|case| wrong(case, RawHttp2::connect(gw.addr())))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(gw.get("/").status, 200);
}

#[test]
fn every_case_in_tls() {
    let authority = Authority::new();
    let cert = authority.server("a", &["a.test"]);
    let origin = Origin::ok("x");
    let gw = Gw::start(format!(
        "tls: {{listen_addr: \"127.0.0.1:0\", certificates: [{}]}}\n{}",
        cert.entry(),
        route("/", &[origin.url()], "")
    ));
    let setup = authority.trusting();
    let wrong: Vec<String> = all()
        .iter()
        .filter_map(|case| wrong(case, RawHttp2::in_tls(&setup, gw.https_addr(), "a.test")))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let response = setup.get(gw.https_addr(), "a.test", "/").unwrap();
    assert_eq!(response.status, 200);
}
