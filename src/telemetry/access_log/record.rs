//! One request or connection as one line of JSON.
//!
//! Invariant: whatever a client sends, the line is one line, parses as JSON, is bounded, and shows
//! in a viewer what was sent: control characters and those that reorder text are escaped. One
//! codec, and two fifths of the file its tests.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use super::timestamp::{Second, decimal, three_digits};
use crate::error::Reason;

/// What is logged of one request or connection. What is empty, `None` or 0 where 0 says nothing
/// (`status`, `tries`) is left out of the line.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// When it ended.
    pub time: SystemTime,
    /// The member `client`: address and port of the peer, or what a trusted proxy names.
    pub client: ClientAddress<'a>,
    /// Address and port of the trusted proxy that sent it for the client.
    pub proxy: &'a str,
    /// The address as written in the configuration.
    pub listener: &'a str,
    /// The route's key as written; `-` when none matched.
    pub route: &'a str,
    /// The upstream's name, or the route's key; empty when no route matched.
    pub upstream: &'a str,
    /// The endpoint of the last try.
    pub endpoint: &'a str,
    /// As received; shortened to 32 bytes. Empty for a TCP session.
    pub method: &'a str,
    /// As received; shortened to 256 bytes.
    pub host: &'a [u8],
    /// Path and query as received; shortened to 2048 bytes.
    pub path: &'a [u8],
    /// `HTTP/1.1`, `HTTP/2`, `postgres`, ...
    pub protocol: &'a str,
    /// `TLSv1.2`, `TLSv1.3`; empty without TLS.
    pub tls: &'a str,
    /// Subject of the client's certificate; shortened to 256 bytes.
    pub client_cert_subject: &'a str,
    /// SHA-256 of the client's certificate, in hexadecimal digits.
    pub client_cert_sha256: &'a str,
    /// What was sent to the client; 0 when nothing was.
    pub status: u16,
    /// Why it ended, as in the `reason` label of the metrics.
    pub reason: Reason,
    /// Bytes from the client: a request's body, or what the client of a session sent.
    pub bytes_in: u64,
    /// Bytes to the client: a response's body, or what the server of a session sent.
    pub bytes_out: u64,
    /// Times that it was sent or a connect was tried, uncounted resends included.
    pub tries: u32,
    /// In the queue of the upstream.
    pub queue: Option<Duration>,
    /// Connecting to the endpoint of the last try; `None` when a connection was reused.
    pub connect: Option<Duration>,
    /// From the start to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// From the start to the end, written as milliseconds.
    pub total: Duration,
    /// Shortened to 128 bytes.
    pub request_id: &'a [u8],
    /// Shortened to 512 bytes.
    pub user_agent: &'a [u8],
}

/// The client of a request or connection.
#[derive(Clone, Copy, Debug)]
pub enum ClientAddress<'a> {
    /// Address and port, as `SocketAddr` shows them: nothing in it is escaped.
    Text(&'a str),
    /// The other end of the connection.
    Peer(SocketAddr),
    /// The address that a trusted proxy names.
    Named(IpAddr),
    /// A trusted proxy names no address that can be read; written as `-`.
    Unknown,
}

impl ClientAddress<'_> {
    fn write(&self, line: &mut Vec<u8>) {
        const OPENING: &[u8] = b",\"client\":\"";
        let written = match self {
            ClientAddress::Text(text) => return plain(line, OPENING, text),
            ClientAddress::Unknown => return plain(line, OPENING, "-"),
            ClientAddress::Peer(peer) => {
                line.extend_from_slice(OPENING);
                write!(line, "{peer}\"")
            }
            ClientAddress::Named(ip) => {
                line.extend_from_slice(OPENING);
                write!(line, "{ip}\"")
            }
        };
        debug_assert!(written.is_ok(), "memory takes everything");
    }
}

impl<'a> Record<'a> {
    /// A record of something that ends now; everything else is empty.
    pub fn new(listener: &'a str, reason: Reason) -> Record<'a> {
        Record::at(SystemTime::now(), listener, reason)
    }

    /// A record of something that ended at `time`; everything else is empty.
    pub fn at(time: SystemTime, listener: &'a str, reason: Reason) -> Record<'a> {
        Record {
            time,
            client: ClientAddress::Text(""),
            proxy: "",
            listener,
            route: "",
            upstream: "",
            endpoint: "",
            method: "",
            host: b"",
            path: b"",
            protocol: "",
            tls: "",
            client_cert_subject: "",
            client_cert_sha256: "",
            status: 0,
            reason,
            bytes_in: 0,
            bytes_out: 0,
            tries: 0,
            queue: None,
            connect: None,
            first_byte: None,
            total: Duration::ZERO,
            request_id: b"",
            user_agent: b"",
        }
    }

    /// Appends the record as one line of JSON (RFC 8259), with its newline. `second` is kept from
    /// line to line.
    pub fn write(&self, line: &mut Vec<u8>, second: &mut Second) {
        line.extend_from_slice(b"{\"time\":\"");
        second.write(self.time, line);
        line.push(b'"');
        self.client.write(line);
        if !self.proxy.is_empty() {
            plain(line, b",\"proxy\":\"", self.proxy);
        }
        text(
            line,
            b",\"listener\":\"",
            self.listener.as_bytes(),
            usize::MAX,
        );
        text(line, b",\"route\":\"", self.route.as_bytes(), usize::MAX);
        text(
            line,
            b",\"upstream\":\"",
            self.upstream.as_bytes(),
            usize::MAX,
        );
        text(
            line,
            b",\"endpoint\":\"",
            self.endpoint.as_bytes(),
            usize::MAX,
        );
        text(line, b",\"method\":\"", self.method.as_bytes(), 32);
        text(line, b",\"host\":\"", self.host, 256);
        text(line, b",\"path\":\"", self.path, 2048);
        text(line, b",\"protocol\":\"", self.protocol.as_bytes(), 32);
        if !self.tls.is_empty() {
            plain(line, b",\"tls\":\"", self.tls);
            let subject = self.client_cert_subject.as_bytes();
            text(line, b",\"client_cert_subject\":\"", subject, 256);
            plain(line, b",\"client_cert_sha256\":\"", self.client_cert_sha256);
        }
        if self.status != 0 {
            number(line, b",\"status\":", self.status.into());
        }
        plain(line, b",\"reason\":\"", self.reason.as_str());
        number(line, b",\"bytes_in\":", self.bytes_in);
        number(line, b",\"bytes_out\":", self.bytes_out);
        if self.tries != 0 {
            number(line, b",\"tries\":", self.tries.into());
        }
        milliseconds(line, b",\"queue_ms\":", self.queue);
        milliseconds(line, b",\"connect_ms\":", self.connect);
        milliseconds(line, b",\"first_byte_ms\":", self.first_byte);
        milliseconds(line, b",\"total_ms\":", Some(self.total));
        text(line, b",\"request_id\":\"", self.request_id, 128);
        text(line, b",\"user_agent\":\"", self.user_agent, 512);
        line.extend_from_slice(b"}\n");
    }
}

// What is in every line is written byte by byte: `std::fmt` costs ten times as much.

fn write(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).expect("a Vec takes every byte");
}

/// Appends a member whose value is a number. `opening` is what stands before the value.
fn number(line: &mut Vec<u8>, opening: &[u8], value: u64) {
    line.extend_from_slice(opening);
    decimal(line, value);
}

/// Appends a member whose value is a time in milliseconds, down to the microsecond; nothing when
/// there is none.
fn milliseconds(line: &mut Vec<u8>, opening: &[u8], time: Option<Duration>) {
    let Some(time) = time else { return };
    // Half a billion years would not fit.
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    number(line, opening, millis);
    line.push(b'.');
    three_digits(line, time.subsec_micros().into());
}

/// Appends a member whose value is a string; nothing when it is empty. What is longer than `limit`
/// bytes ends with an ellipsis. `opening` is what stands before the value.
#[inline]
fn text(line: &mut Vec<u8>, opening: &[u8], value: &[u8], limit: usize) {
    if value.is_empty() {
        return;
    }
    line.extend_from_slice(opening);
    match value.get(..limit) {
        Some(head) if value.len() > limit => {
            // Back to a boundary, so that no half character is shown as an invalid one.
            let inside = |at: &usize| value[*at] & 0xc0 == 0x80;
            let cut = (limit.saturating_sub(3)..=limit)
                .rev()
                .find(|at| !inside(at));
            escape(line, &head[..cut.unwrap_or(limit)]);
            line.extend_from_slice("…".as_bytes());
        }
        _ => escape(line, value),
    }
    line.push(b'"');
}

/// Appends a member whose value is text of our own, which has nothing to escape; nothing when it is
/// empty.
fn plain(line: &mut Vec<u8>, opening: &[u8], value: &str) {
    debug_assert!(is_plain(value.as_bytes()), "{value:?}");
    if !value.is_empty() {
        line.extend_from_slice(opening);
        line.extend_from_slice(value.as_bytes());
        line.push(b'"');
    }
}

/// Appends the inside of a JSON string (RFC 8259 section 7). What is no UTF-8 becomes U+FFFD.
fn escape(line: &mut Vec<u8>, value: &[u8]) {
    if is_plain(value) {
        line.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        let valid = chunk.valid();
        let mut written = 0;
        for (at, character) in valid.char_indices() {
            if !misleads(character) {
                continue;
            }
            line.extend_from_slice(&valid.as_bytes()[written..at]);
            written = at + character.len_utf8();
            match character {
                '"' => line.extend_from_slice(b"\\\""),
                '\\' => line.extend_from_slice(b"\\\\"),
                '\n' => line.extend_from_slice(b"\\n"),
                '\r' => line.extend_from_slice(b"\\r"),
                '\t' => line.extend_from_slice(b"\\t"),
                other => write(line, format_args!("\\u{:04x}", u32::from(other))),
            }
        }
        line.extend_from_slice(&valid.as_bytes()[written..]);
        if !chunk.invalid().is_empty() {
            line.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Whether all bytes stand in a line as they are, whatever is around them.
fn is_plain(value: &[u8]) -> bool {
    // Nearly everything in a line is: eight bytes at a time.
    match value.last_chunk() {
        Some(last) => {
            let (words, _) = value.as_chunks();
            words.iter().fold(word_is_plain(last), |so_far, word| {
                so_far & word_is_plain(word)
            })
        }
        None => value.iter().all(|byte| byte_is_plain(*byte)),
    }
}

fn byte_is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

fn word_is_plain(word: &[u8; 8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let word = u64::from_ne_bytes(*word);
    // The high bit of a byte that is 0; a borrow may set it above such a byte, too, but not without.
    let zeroes = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = word.wrapping_sub(ONES << 5) & !word;
    let is = |byte: u8| zeroes(word ^ (ONES * u64::from(byte)));
    (word | control | is(0x7f) | is(b'"') | is(b'\\')) & HIGH == 0
}

/// Whether a character must or should not stand in a line as it is: the two that JSON needs, control
/// characters (C1 ones drive terminals, too), line separators, and all that reorder text (property
/// Bidi_Control, Unicode Standard Annex 9). All of them are below U+10000.
fn misleads(character: char) -> bool {
    matches!(
        character,
        '"' | '\\'
            | '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use std::time::UNIX_EPOCH;

    use super::super::timestamp::civil;
    use super::*;

    fn line(record: &Record<'_>) -> String {
        let mut line = Vec::new();
        record.write(&mut line, &mut Second::default());
        String::from_utf8(line).expect("a line is UTF-8")
    }

    fn path_in_line(path: &[u8]) -> String {
        let line = line(&Record {
            path,
            ..Record::new("", Reason::Ok)
        });
        let (_, rest) = line.split_once("\"path\":\"").unwrap();
        rest.split_once("\",\"reason\"").unwrap().0.to_owned()
    }

    #[test]
    fn tells_everything_in_one_line() {
        let record = Record {
            time: UNIX_EPOCH + Duration::from_millis(1_709_209_199_007),
            client: ClientAddress::Text("[2001:db8::1]:4711"),
            proxy: "10.0.0.1:80",
            listener: "0.0.0.0:80",
            route: "/api",
            upstream: "api",
            endpoint: "10.0.0.1:8080",
            method: "GET",
            host: b"example.org",
            path: b"/api?x=1",
            protocol: "HTTP/1.1",
            tls: "TLSv1.3",
            client_cert_subject: "CN=\"bob\"",
            client_cert_sha256: "00ff",
            status: 200,
            reason: Reason::Ok,
            bytes_in: 12,
            bytes_out: u64::MAX,
            tries: 2,
            queue: Some(Duration::from_micros(5)),
            connect: Some(Duration::from_micros(1_050)),
            first_byte: Some(Duration::from_nanos(2_999_999)),
            total: Duration::from_secs(3),
            request_id: b"r-1",
            user_agent: b"curl/8",
        };
        assert_eq!(
            line(&record),
            "{\"time\":\"2024-02-29T12:19:59.007Z\",\"client\":\"[2001:db8::1]:4711\",\
             \"proxy\":\"10.0.0.1:80\",\"listener\":\"0.0.0.0:80\",\"route\":\"/api\",\"upstream\":\"api\",\
             \"endpoint\":\"10.0.0.1:8080\",\"method\":\"GET\",\"host\":\"example.org\",\
             \"path\":\"/api?x=1\",\"protocol\":\"HTTP/1.1\",\"tls\":\"TLSv1.3\",\"client_cert_subject\":\"CN=\\\"bob\\\"\",\"client_cert_sha256\":\"00ff\",\"status\":200,\"reason\":\"ok\",\
             \"bytes_in\":12,\"bytes_out\":18446744073709551615,\"tries\":2,\"queue_ms\":0.005,\
             \"connect_ms\":1.050,\"first_byte_ms\":2.999,\"total_ms\":3000.000,\
             \"request_id\":\"r-1\",\"user_agent\":\"curl/8\"}\n"
        );
    }

    #[test]
    fn tells_each_time_whatever_was_told_before() {
        let mut second = Second::new();
        for (millis, expected) in [
            (5, "1970-01-01T00:00:00.005Z"),
            (999, "1970-01-01T00:00:00.999Z"),
            (1_000, "1970-01-01T00:00:01.000Z"),
            (86_400_000, "1970-01-02T00:00:00.000Z"),
            (1, "1970-01-01T00:00:00.001Z"),
        ] {
            let mut line = Vec::new();
            second.write(UNIX_EPOCH + Duration::from_millis(millis), &mut line);
            assert_eq!(String::from_utf8_lossy(&line), expected);
        }
    }

    #[test]
    fn leaves_out_what_there_is_not() {
        let record = Record {
            time: UNIX_EPOCH,
            ..Record::new("l", Reason::HeaderTimeout)
        };
        let value: Value = serde_json::from_str(&line(&record)).unwrap();
        let expected = json!({
            "time": "1970-01-01T00:00:00.000Z", "listener": "l", "reason": "header_timeout",
            "bytes_in": 0, "bytes_out": 0, "total_ms": 0.0,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn escapes_what_could_fool_a_reader() {
        for (raw, expected) in [
            (&b"/a b~"[..], "/a b~"),
            (b"\"\\", "\\\"\\\\"),
            (
                b"\r\n\t\0\x1b[31m\x7f",
                "\\r\\n\\t\\u0000\\u001b[31m\\u007f",
            ),
            ("caf\u{e9} \u{1f600}".as_bytes(), "caf\u{e9} \u{1f600}"),
            ("\u{9b}1m".as_bytes(), "\\u009b1m"),
            (
                "a\u{202e}b\u{2066}c\u{2069}".as_bytes(),
                "a\\u202eb\\u2066c\\u2069",
            ),
            (
                "\u{200f}\u{61c}\u{202a}".as_bytes(),
                "\\u200f\\u061c\\u202a",
            ),
            ("\u{2028}\u{2029}".as_bytes(), "\\u2028\\u2029"),
            (b"\xff\xfea\xc0\xae", "\u{fffd}\u{fffd}a\u{fffd}\u{fffd}"),
            (b"\xe2\x80", "\u{fffd}"),
        ] {
            assert_eq!(path_in_line(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn knows_plain_bytes_wherever_they_stand() {
        for byte in 0..=u8::MAX {
            for length in [1, 7, 8, 9, 15, 16, 21] {
                for at in 0..length {
                    for around in [b' ', b'~', b'!', b']'] {
                        let mut value = vec![around; length];
                        value[at] = byte;
                        assert_eq!(is_plain(&value), byte_is_plain(byte), "{value:?}");
                    }
                }
            }
        }
        assert!(is_plain(b""));
    }

    #[test]
    fn shortens_at_a_boundary() {
        let exact = "a".repeat(2048);
        assert_eq!(path_in_line(exact.as_bytes()), exact);
        assert_eq!(
            path_in_line(format!("{exact}b").as_bytes()),
            format!("{exact}…")
        );
        let wide = format!("{}\u{1f600}b", "a".repeat(2046));
        assert_eq!(
            path_in_line(wide.as_bytes()),
            format!("{}…", "a".repeat(2046))
        );
        assert!(path_in_line(&[0x80; 5000]).ends_with("…"));
        assert!(path_in_line(&[0; 1 << 20]).len() < 6 * 2048 + 4);
    }

    proptest! {
        #[test]
        fn numbers_and_times_are_written_as_std_writes_them(
            time in 0..400_000_000_000_000_u64,
            number in any::<u64>(),
            micros in any::<u64>(),
        ) {
            let total = Duration::from_micros(micros);
            let line = line(&Record {
                time: UNIX_EPOCH + Duration::from_millis(time),
                bytes_in: number,
                bytes_out: number % 1000,
                total,
                ..Record::new("", Reason::Ok)
            });
            let (year, month, day) = civil(time / 86_400_000);
            let (seconds, millis) = (time / 1000 % 86_400, time % 1000);
            let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            let expected = format!(
                "{{\"time\":\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z\",\
                 \"reason\":\"ok\",\"bytes_in\":{number},\
                 \"bytes_out\":{},\"total_ms\":{}.{:03}}}\n",
                number % 1000,
                micros / 1000,
                micros % 1000,
            );
            prop_assert_eq!(line, expected);
        }

        #[test]
        fn a_line_parses_to_what_was_received(
            path in prop::collection::vec(any::<u8>(), 1..300),
            host in ".{1,40}",
            agent in "[\\x00-\\x20\"\\\\\u{80}-\u{a0}\u{2000}-\u{2070}]{1,40}",
            micros in any::<u32>(),
        ) {
            let line = line(&Record {
                path: &path,
                host: host.as_bytes(),
                user_agent: agent.as_bytes(),
                total: Duration::from_micros(micros.into()),
                ..Record::new("l", Reason::Ok)
            });
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(!line.trim_end().chars().any(|c| c.is_control()));
            let value: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&value["path"], &json!(String::from_utf8_lossy(&path)));
            prop_assert_eq!(&value["host"], &json!(host));
            prop_assert_eq!(&value["user_agent"], &json!(agent));
            prop_assert_eq!(&value["total_ms"], &json!(f64::from(micros) / 1000.0));
        }
    }
}
