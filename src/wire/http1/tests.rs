//! The table, cut into every kind of piece; limits; chunked bodies; and random bytes. Long because
//! it tests all files of this folder together, as a connection uses them.

use proptest::prelude::*;

use super::cases::{CASES, MAX_BYTES, Verdict, heads};
use super::*;
use crate::error::Reason;

fn verdict(scan: &Scan) -> Verdict {
    match scan {
        Scan::NeedMore => Verdict::More,
        Scan::Complete(summary) => Verdict::Pass(summary.body),
        Scan::Refused(refusal) => Verdict::Status(refusal.status),
    }
}

fn whole(bytes: &[u8]) -> Scan {
    HeadScanner::new(MAX_BYTES).scan(bytes)
}

/// The scan of `bytes` that arrive in pieces of `step` bytes.
fn in_pieces(bytes: &[u8], step: usize, max_bytes: usize) -> Scan {
    let mut scanner = HeadScanner::new(max_bytes);
    let mut end = 0;
    loop {
        let scan = scanner.scan(&bytes[..end]);
        if scan != Scan::NeedMore || end == bytes.len() {
            return scan;
        }
        end = (end + step).min(bytes.len());
    }
}

fn summary(bytes: &[u8]) -> HeadSummary {
    match whole(bytes) {
        Scan::Complete(summary) => summary,
        other => panic!("{other:?}"),
    }
}

#[test]
fn judges_every_case_of_the_table() {
    let wrong: Vec<_> = CASES
        .iter()
        .map(|(name, section, bytes, expected)| (name, section, whole(bytes), expected))
        .filter(|(_, _, scan, expected)| verdict(scan) != **expected)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(CASES.len() >= 60, "only {} cases", CASES.len());
}

#[test]
fn a_run_ends_at_the_first_byte_that_may_not_stand_in_it() {
    for byte in 0..=u8::MAX {
        for at in 0..16 {
            // Neighbours that the arithmetic could take for something else.
            for around in [b' ', b'~', 0x80, 0xff] {
                let mut bytes = [around; 20];
                bytes[at] = byte;
                let expected = match is_field_text(byte) && byte != b'\t' {
                    true => 16,
                    false => at,
                };
                assert_eq!(
                    plain_run(&bytes),
                    expected,
                    "{byte:#x} at {at} in {around:#x}"
                );
            }
        }
    }
    assert_eq!(plain_run(b"seven by"), 8);
    assert_eq!(plain_run(b"seven b"), 0);
}

#[test]
fn judges_the_same_however_the_bytes_are_cut() {
    for (name, _, bytes, _) in CASES {
        for step in [1, 2, 3, 7] {
            assert_eq!(in_pieces(bytes, step, MAX_BYTES), whole(bytes), "{name}");
        }
    }
}

#[test]
fn names_the_reason_of_each_refusal() {
    for (name, _, bytes, _) in CASES {
        if let Scan::Refused(refusal) = whole(bytes) {
            let expected = match refusal.status {
                431 => Reason::HeaderTooLarge,
                _ => Reason::BadRequest,
            };
            assert_eq!(refusal.reason, expected, "{name}");
            assert!(!refusal.why.is_empty(), "{name}");
        }
    }
}

#[test]
fn tells_where_head_method_and_target_are() {
    let bytes = b"\r\nPUT /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    let summary = summary(bytes);
    assert_eq!(&bytes[summary.method], b"PUT");
    assert_eq!(&bytes[summary.target], b"/a?b");
    assert_eq!(summary.head, 2..bytes.len() - 4);
    assert_eq!(summary.version, Version::Http11);
}

#[test]
fn an_absolute_target_goes_on_as_its_path() {
    for (head, on) in [
        (
            "GET http://A:80/b?c HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /b?c HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "GET http://a?{b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /?%7Bb HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "GET http://a/ HTTP/1.0\r\nX: y\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nX: y\r\n\r\n",
        ),
        (
            "\r\nGET http://a HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        ),
    ] {
        let rewritten = summary(head.as_bytes()).rewritten(head.as_bytes());
        let rewritten = String::from_utf8(rewritten.expect("another head")).unwrap();
        assert_eq!(rewritten, on);
    }
    let plain = b"GET /http://a HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(summary(plain).rewritten(plain), None);
}

#[test]
fn remembers_the_request_line_of_a_refused_head() {
    let bytes = b"TRACE /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut scanner = HeadScanner::new(MAX_BYTES);
    assert!(matches!(scanner.scan(bytes), Scan::Refused(_)));
    let (method, target) = scanner.request_line().expect("it was well formed");
    assert_eq!(
        (&bytes[method], &bytes[target]),
        (&b"TRACE"[..], &b"/a"[..])
    );

    let mut scanner = HeadScanner::new(MAX_BYTES);
    assert!(matches!(
        scanner.scan(b"GET  /a HTTP/1.1\r\n"),
        Scan::Refused(_)
    ));
    assert_eq!(scanner.request_line(), None);
}

#[test]
fn knows_when_a_head_has_begun() {
    for (bytes, begun) in [
        (&b""[..], false),
        (b"\r", false),
        (b"\r\n", false),
        (b"\r\nG", true),
        (b"G", true),
    ] {
        let mut scanner = HeadScanner::new(MAX_BYTES);
        assert_eq!(scanner.scan(bytes), Scan::NeedMore);
        assert_eq!(scanner.has_begun(), begun, "{bytes:?}");
    }
}

#[test]
fn follows_the_connection_field() {
    let close = |version: &str, fields: &str| {
        summary(format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n").as_bytes())
            .connection_close
    };
    assert!(!close("1.1", ""));
    assert!(!close("1.1", "Connection: keep-alive\r\n"));
    assert!(close("1.1", "Connection: close\r\n"));
    assert!(close("1.1", "Connection: x, Close\r\n"));
    assert!(close("1.1", "Connection: x\r\nConnection: close\r\n"));
    assert!(!close("1.1", "Connection: closed\r\n"));
    assert!(close("1.0", ""));
    assert!(!close("1.0", "Connection: Keep-Alive\r\n"));
    assert!(close("1.0", "Connection: keep-alive, close\r\n"));
}

#[test]
fn notices_expectations_and_upgrades_of_http_1_1_only() {
    let fields = "Host: a\r\nExpect: 100-continue\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\n";
    let new = summary(format!("PUT / HTTP/1.1\r\n{fields}").as_bytes());
    assert!(new.expect_continue && new.upgrade);
    let old = summary(format!("PUT / HTTP/1.0\r\n{fields}").as_bytes());
    assert!(!old.expect_continue && !old.upgrade);
}

#[test]
fn bounds_size_and_number_of_fields() {
    let head = |fields: usize, value: usize| {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        for _ in 1..fields {
            head.extend_from_slice(b"X: ");
            head.extend(std::iter::repeat_n(b'y', value));
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    };
    let judge = |head: &[u8], max| verdict(&HeadScanner::new(max).scan(head));
    assert_eq!(judge(&head(100, 1), 8192), Verdict::Pass(BodyFraming::None));
    assert_eq!(judge(&head(101, 1), 8192), Verdict::Status(431));

    let exact = head(10, 50);
    assert_eq!(judge(&exact, exact.len()), Verdict::Pass(BodyFraming::None));
    assert_eq!(judge(&exact, exact.len() - 1), Verdict::Status(431));
    for step in [1, 5, 4096] {
        assert_eq!(
            verdict(&in_pieces(&exact, step, exact.len() - 1)),
            Verdict::Status(431)
        );
    }
    // A line without end, too.
    let endless = vec![b'a'; 9000];
    assert_eq!(judge(&endless, 8192), Verdict::Status(431));

    let named = |length: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}: x\r\n\r\n",
            "n".repeat(length)
        )
    };
    assert_eq!(
        judge(named(256).as_bytes(), 8192),
        Verdict::Pass(BodyFraming::None)
    );
    assert_eq!(judge(named(257).as_bytes(), 8192), Verdict::Status(431));

    let target = |length: usize| {
        format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "t".repeat(length - 1)
        )
    };
    assert_eq!(
        judge(target(65_534).as_bytes(), 100_000),
        Verdict::Pass(BodyFraming::None)
    );
    assert_eq!(
        judge(target(65_535).as_bytes(), 100_000),
        Verdict::Status(431)
    );
    // What goes on must fit as well.
    let quoted = |length: usize| target(length).replacen("tttt", "\"\"\"\"", 1);
    assert_eq!(
        judge(quoted(65_526).as_bytes(), 100_000),
        Verdict::Pass(BodyFraming::None)
    );
    assert_eq!(
        judge(quoted(65_527).as_bytes(), 100_000),
        Verdict::Status(431)
    );
    let short = quoted(10);
    assert_eq!(
        judge(short.as_bytes(), short.len() + 8),
        Verdict::Pass(BodyFraming::None)
    );
    assert_eq!(
        judge(short.as_bytes(), short.len() + 7),
        Verdict::Status(431)
    );
}

/// How much of `bytes` is the body, and whether it ends there.
fn follow(framing: BodyFraming, bytes: &[u8], step: usize) -> Result<(usize, bool), Malformed> {
    let mut tracker = BodyTracker::new(framing, 200);
    let mut taken = 0;
    for piece in bytes.chunks(step) {
        let ours = tracker.advance(piece)?;
        taken += ours;
        if ours < piece.len() {
            break;
        }
    }
    Ok((taken, tracker.is_done()))
}

#[test]
fn finds_the_end_of_bodies_with_a_length() {
    for step in [1, 2, 100] {
        assert_eq!(follow(BodyFraming::None, b"next", step), Ok((0, true)));
        assert_eq!(
            follow(BodyFraming::Length(4), b"bodynext", step),
            Ok((4, true))
        );
        assert_eq!(
            follow(BodyFraming::Length(9), b"bodynext", step),
            Ok((8, false))
        );
    }
}

#[test]
fn finds_the_end_of_chunked_bodies() {
    for body in [
        &b"0\r\n\r\n"[..],
        b"3\r\nabc\r\n0\r\n\r\n",
        b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
        b"000000000000003\r\n\r\n\n\r\n0000000000000000\r\n\r\n",
        b"3;a\r\nabc\r\n0;b=c\r\n\r\n",
        b"3 \t;a=\"b c\"\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\nT: a b\r\nU:\r\n\r\n",
    ] {
        for step in [1, 2, 3, 100] {
            let mut bytes = body.to_vec();
            bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
            let text = String::from_utf8_lossy(body);
            assert_eq!(
                follow(BodyFraming::Chunked, &bytes, step),
                Ok((body.len(), true)),
                "{text}"
            );
            for cut in 0..body.len() {
                let part = follow(BodyFraming::Chunked, &body[..cut], step);
                assert_eq!(part, Ok((cut, false)), "{text} cut at {cut}");
            }
        }
    }
}

#[test]
fn refuses_chunked_bodies_that_could_be_read_in_two_ways() {
    let long_extension = format!("1;{}\r\na\r\n", "e".repeat(4096));
    let long_trailer = format!("0\r\nT: {}\r\n\r\n", "t".repeat(200));
    let many_extensions = "1;eeee\r\na\r\n".repeat(1000) + "0\r\n\r\n";
    let long_name = format!("0\r\n{}: x\r\n\r\n", "n".repeat(257));
    for body in [
        &b"\r\n"[..],
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"1 1\r\n",
        b"1\t\r\n",
        b";a\r\n",
        b"1\na\r\n",
        b"1\r\r\n",
        b"1\rX",
        b"1;a\nb\r\na\r\n",
        b"1;a\rb\r\na\r\n",
        b"1;a\0\r\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"1\r\na0\r\n\r\n",
        b"1\r\na\rX",
        b"00000000000000001\r\na\r\n",
        b"8000000000000000\r\n",
        b"fffffffffffffffff\r\n",
        b"0\r\n\n",
        b"0\r\n\rX",
        b"0\r\n: x\r\n\r\n",
        b"0\r\nT : x\r\n\r\n",
        b"0\r\n T: x\r\n\r\n",
        b"0\r\nT\r\n\r\n",
        b"0\r\nT: a\nb\r\n\r\n",
        b"0\r\nT: a\0\r\n\r\n",
        b"0\r\nT: a\r\n b\r\n\r\n",
        b"0\r\nGET / HTTP/1.1\r\n\r\n",
        long_extension.as_bytes(),
        many_extensions.as_bytes(),
        long_trailer.as_bytes(),
        long_name.as_bytes(),
    ] {
        let text = String::from_utf8_lossy(body);
        for step in [1, 100_000] {
            assert!(
                follow(BodyFraming::Chunked, body, step).is_err(),
                "{text} passed"
            );
        }
    }
}

#[test]
fn keeps_a_broken_body_broken() {
    let mut tracker = BodyTracker::new(BodyFraming::Chunked, 200);
    let first = tracker.advance(b"x");
    assert!(first.is_err());
    assert_eq!(tracker.advance(b"0\r\n\r\n"), first);
    assert_eq!(tracker.advance(b""), first);
    assert!(!tracker.is_done());
}

proptest! {
    #[test]
    fn judges_random_bytes_the_same_in_pieces(bytes in heads(), step in 1usize..9, max in 1usize..300) {
        let whole = HeadScanner::new(max).scan(&bytes);
        prop_assert_eq!(in_pieces(&bytes, step, max), whole.clone());
        if let Scan::Complete(summary) = whole {
            let head = &bytes[summary.head.clone()];
            prop_assert!(head.ends_with(b"\r\n\r\n"));
            prop_assert!(summary.head.end <= max);
            let on = summary.rewritten(&bytes);
            let on = on.as_deref().unwrap_or(head);
            prop_assert!(on.len() <= max);
            let Scan::Complete(again) = HeadScanner::new(max).scan(on) else {
                return Err(TestCaseError::fail("what goes on passes"));
            };
            prop_assert!(on[again.target.clone()].iter().all(u8::is_ascii_graphic));
            prop_assert!(matches!(on[again.target.start], b'/' | b'*'));
            prop_assert_eq!(again.rewritten(on), None);
            prop_assert_eq!(again.body, summary.body);
            prop_assert!(!head.contains(&0));
            // What passes passes again, alone.
            prop_assert!(matches!(HeadScanner::new(max).scan(head), Scan::Complete(_)));
        }
    }

    #[test]
    fn follows_random_bodies_the_same_in_pieces(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100),
        prop::collection::vec(prop::sample::select(b"019af;: \t\r\nx".to_vec()), 0..60),
    ], step in 1usize..9) {
        let whole = follow(BodyFraming::Chunked, &bytes, usize::MAX);
        let pieces = follow(BodyFraming::Chunked, &bytes, step);
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn finds_the_end_of_any_well_formed_body(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8), step in 1usize..60) {
        let mut body = Vec::new();
        for chunk in &chunks {
            body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
        let length = body.len();
        body.extend_from_slice(b"next");
        prop_assert_eq!(follow(BodyFraming::Chunked, &body, step), Ok((length, true)));
    }
}

#[test]
fn the_tables_of_bytes_are_those_of_the_rfcs() {
    for byte in 0..=u8::MAX {
        let tchar = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        assert_eq!(super::is_tchar(byte), tchar, "{byte:#x}");
        let text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        assert_eq!(super::is_field_text(byte), text, "{byte:#x}");
    }
}
