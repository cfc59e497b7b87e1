//! The first message of TLS, read but not answered: which host and which protocols a client asks
//! for.
//!
//! Routing by name needs nothing else of TLS. Invariant: bytes are only looked at, what goes to the
//! server is what came from the client. One parser, and a third of the file its tests.
//!
//! Sources: RFC 8446 4.1.2 and 5.1 (ClientHello, records), RFC 6066 3 (SNI), RFC 7301 3.1 (ALPN).

use super::reader::Reader;

/// What a client asks for in clear before TLS begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, lower case. `None`: not sent, or not a host name.
    pub sni: Option<String>,
    /// The protocols offered, best first; at most [`MAX_PROTOCOLS`].
    pub alpn: Vec<Vec<u8>>,
}

/// What the start of a connection is, as far as TLS is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// Everything so far fits a ClientHello.
    NeedMore,
    /// Not TLS, or a ClientHello that contradicts itself.
    NotTls,
    /// A whole ClientHello.
    Hello(ClientHello),
}

/// Most protocols kept of one ALPN list.
pub const MAX_PROTOCOLS: usize = 32;

/// Longest ClientHello read, in bytes with its own header. Those with post-quantum keys and
/// encrypted names have 2 KB.
pub const MAX_HELLO_BYTES: usize = 15 * 1024;

/// Whether a client speaks TLS: a handshake record with the first byte of a ClientHello in it.
pub fn begins(bytes: &[u8]) -> bool {
    matches!(bytes, [22, 3, 1..=4, 0..=0x40, _, 1, ..])
}

/// Whether a client that has sent these few bytes may still turn out to [speak TLS](begins).
pub fn may_begin(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [22] | [22, 3] | [22, 3, 1..=4] | [22, 3, 1..=4, 0..=0x40] | [22, 3, 1..=4, 0..=0x40, _]
    )
}

/// Why a handshake is ended (RFC 8446 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// `access_denied`: the client is not allowed to connect.
    AccessDenied = 49,
    /// `internal_error`: any other refusal, such as no healthy endpoint or too many connections.
    InternalError = 80,
    /// `unrecognized_name`: no route answers to the server name.
    UnrecognizedName = 112,
}

/// A fatal alert, as a server sends it in answer to a ClientHello.
pub fn alert(alert: Alert) -> [u8; 7] {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    [ALERT, 3, 3, 0, 2, FATAL, alert as u8]
}

/// Whether a server answered with an alert record (RFC 8446, section 6), as one does that speaks TLS
/// only.
pub fn is_alert(answer: &[u8]) -> bool {
    matches!(answer, [0x15, 3, 0..=4, 0, 2, ..])
}

/// Reads a ClientHello from all that a client sent so far. It may be spread over several records,
/// cut at any byte (RFC 8446 5.1); a record without content, or one of another kind among them, may
/// not be (same section). Allocates at most [`MAX_HELLO_BYTES`] and one record.
pub fn parse(bytes: &[u8]) -> Hello {
    let mut records = Reader::new(bytes);
    // What all records but the last hold; nothing where one holds all.
    let mut gathered = Vec::new();
    loop {
        let (piece, is_whole) = match record(&mut records) {
            Record::Whole(piece) => (piece, true),
            Record::Cut(piece) => (piece, false),
            Record::Wrong => return Hello::NotTls,
        };
        let message = match gathered.is_empty() {
            true => piece,
            false => {
                gathered.extend_from_slice(piece);
                gathered.as_slice()
            }
        };
        match message_length(message) {
            Length::Wrong => return Hello::NotTls,
            Length::Known(needed) if message.len() >= needed => {
                return read_message(&message[..needed]);
            }
            Length::Known(_) | Length::Unknown if !is_whole => return Hello::NeedMore,
            Length::Known(_) | Length::Unknown if gathered.is_empty() => {
                gathered = piece.to_vec();
            }
            Length::Known(_) | Length::Unknown => {}
        }
    }
}

/// Whether these bytes are a ClientHello, or the first part of one, and nothing after it: no early
/// data (RFC 8446 2.3), which a server may act on.
pub fn is_only_hello(bytes: &[u8]) -> bool {
    match parse(bytes) {
        Hello::NotTls => false,
        Hello::NeedMore => begins(bytes) || may_begin(bytes),
        Hello::Hello(_) => parse(&bytes[..bytes.len() - 1]) == Hello::NeedMore,
    }
}

enum Record<'a> {
    Whole(&'a [u8]),
    /// What is there of a record that goes on.
    Cut(&'a [u8]),
    Wrong,
}

/// The content of the next handshake record.
fn record<'a>(bytes: &mut Reader<'a>) -> Record<'a> {
    let header = bytes.rest();
    // SSL 3.0 (minor version 0) is left out: `16 03 00 00` is also the length of a MongoDB message.
    let fits = |at: usize, range: std::ops::RangeInclusive<u8>| {
        header.get(at).is_none_or(|byte| range.contains(byte))
    };
    if !(fits(0, 0x16..=0x16) && fits(1, 3..=3) && fits(2, 1..=4) && fits(3, 0..=0x40)) {
        return Record::Wrong;
    }
    if bytes.take(3).is_none() {
        return Record::Cut(&[]);
    }
    let Some(length) = bytes.u16() else {
        return Record::Cut(&[]);
    };
    let length = usize::from(length);
    if length == 0 || length > MAX_RECORD_BYTES {
        return Record::Wrong;
    }
    match bytes.take(length) {
        Some(content) => Record::Whole(content),
        None => Record::Cut(bytes.rest()),
    }
}

enum Length {
    Known(usize),
    Unknown,
    Wrong,
}

/// The length of the ClientHello with its header, from its first bytes.
fn message_length(start: &[u8]) -> Length {
    let mut reader = Reader::new(start);
    match reader.u8() {
        None => return Length::Unknown,
        Some(CLIENT_HELLO) => (),
        Some(_) => return Length::Wrong,
    }
    let Some(length) = reader.u24() else {
        return Length::Unknown;
    };
    let length = length as usize + 4;
    // Two bytes of version and 32 of random are the least that can follow.
    if (4 + 34..=MAX_HELLO_BYTES).contains(&length) {
        Length::Known(length)
    } else {
        Length::Wrong
    }
}

fn read_message(message: &[u8]) -> Hello {
    match client_hello(message) {
        Some(hello) => Hello::Hello(hello),
        None => Hello::NotTls,
    }
}

fn client_hello(message: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader::new(message);
    reader.take(4 + 2 + 32)?;
    reader.block8()?; // session id
    reader.block16()?; // cipher suites
    reader.block8()?; // compression methods
    let mut hello = ClientHello::default();
    if reader.is_empty() {
        return Some(hello);
    }
    let mut extensions = reader.block16()?;
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.block16()?;
        match kind {
            SERVER_NAME => hello.sni = server_name(content)?,
            ALPN => hello.alpn = protocols(content)?,
            _ => (),
        }
    }
    Some(hello)
}

fn server_name(mut content: Reader) -> Option<Option<String>> {
    let mut names = content.block16()?;
    while !names.is_empty() {
        let kind = names.u8()?;
        let name = names.block16()?.rest();
        if kind == HOST_NAME {
            let is_host = !name.is_empty() && name.len() <= 255 && name.iter().all(is_host_byte);
            return Some(is_host.then(|| String::from_utf8_lossy(name).to_ascii_lowercase()));
        }
    }
    Some(None)
}

fn protocols(mut content: Reader) -> Option<Vec<Vec<u8>>> {
    let mut list = content.block16()?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let name = list.block8()?.rest();
        if protocols.len() < MAX_PROTOCOLS {
            protocols.push(name.to_vec());
        }
    }
    Some(protocols)
}

fn is_host_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;

/// RFC 8446 5.1: no plaintext record is longer.
const MAX_RECORD_BYTES: usize = 16 * 1024;

/// A ClientHello in one record, for the tests of this floor.
#[cfg(test)]
pub(super) fn example(sni: Option<&str>, alpn: &[&str]) -> Vec<u8> {
    let mut extensions = vec![0xff, 0x01, 0, 1, 0];
    let mut extension = |kind: u16, content: Vec<u8>| {
        extensions.extend(kind.to_be_bytes());
        extensions.extend((content.len() as u16).to_be_bytes());
        extensions.extend(content);
    };
    if let Some(name) = sni {
        let mut list = vec![HOST_NAME];
        list.extend((name.len() as u16).to_be_bytes());
        list.extend(name.as_bytes());
        let mut content = (list.len() as u16).to_be_bytes().to_vec();
        content.extend(list);
        extension(SERVER_NAME, content);
    }
    if !alpn.is_empty() {
        let list: Vec<u8> = alpn
            .iter()
            .flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat())
            .collect();
        let mut content = (list.len() as u16).to_be_bytes().to_vec();
        content.extend(list);
        extension(ALPN, content);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([2, 9, 9]); // session id
    body.extend([0, 2, 0x13, 0x01]); // cipher suites
    body.extend([1, 0]); // compression methods
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![CLIENT_HELLO, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    in_records(&message, MAX_RECORD_BYTES)
}

/// `message` cut into handshake records of at most `size` bytes.
#[cfg(test)]
fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|piece| {
            [
                &[0x16, 3, 1],
                &(piece.len() as u16).to_be_bytes()[..],
                piece,
            ]
            .concat()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(sni: Option<&str>, alpn: &[&str]) -> Hello {
        Hello::Hello(ClientHello {
            sni: sni.map(String::from),
            alpn: alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
        })
    }

    #[test]
    fn reads_name_and_protocols() {
        let bytes = example(Some("Db.Example.ORG"), &["postgresql", "h2"]);
        assert_eq!(
            parse(&bytes),
            hello(Some("db.example.org"), &["postgresql", "h2"])
        );
        assert_eq!(parse(&example(None, &[])), hello(None, &[]));
    }

    #[test]
    fn every_cut_needs_more_and_later_bytes_change_nothing() {
        let mut bytes = example(Some("a.example"), &["h2"]);
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Hello::NeedMore, "{end} bytes");
        }
        bytes.extend(b"\x17\x03\x03 early data");
        assert_eq!(parse(&bytes), hello(Some("a.example"), &["h2"]));
    }

    #[test]
    fn a_hello_over_several_records_is_one() {
        let message = example(Some("a.example"), &["tds/8.0"]).split_off(5);
        for size in 1..=message.len() {
            let bytes = in_records(&message, size);
            assert_eq!(parse(&bytes), hello(Some("a.example"), &["tds/8.0"]));
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Hello::NeedMore);
            }
        }
    }

    /// Every cut into three records, each of them cut again by the network.
    #[test]
    fn a_hello_may_be_cut_at_any_byte() {
        let message = example(Some("a.example"), &["h2"]).split_off(5);
        let whole = hello(Some("a.example"), &["h2"]);
        for first in 1..message.len() - 1 {
            for second in first + 1..message.len() {
                let bytes = [
                    &message[..first],
                    &message[first..second],
                    &message[second..],
                ]
                .map(|piece| in_records(piece, piece.len()))
                .concat();
                assert_eq!(parse(&bytes), whole, "{first} {second}");
                // At the borders of records and inside their headers and the message's.
                let last = first + second + 15;
                for end in (0..30).chain(first..first + 12).chain(last..bytes.len()) {
                    let end = end.min(bytes.len() - 1);
                    assert_eq!(
                        parse(&bytes[..end]),
                        Hello::NeedMore,
                        "{first} {second} {end}"
                    );
                }
                assert!(is_only_hello(&bytes));
            }
        }
    }

    #[test]
    fn nothing_else_may_stand_between_the_records_of_a_hello() {
        let message = example(Some("a.example"), &[]).split_off(5);
        for cut in 1..message.len() {
            let [start, end] = [&message[..cut], &message[cut..]].map(|p| in_records(p, p.len()));
            let between = [
                &b"\x16\x03\x01\0\0"[..],      // no content
                b"\x15\x03\x01\0\x02\x01\x00", // a warning
                b"\x17\x03\x03\0\x01x",
                b"\x14\x03\x03\0\x01\x01",
                b"\x16\x03\x01\x40\x01", // longer than a record can be
                b"GET / HTTP/1.1",
            ];
            for other in between {
                let bytes = [&start[..], other, &end].concat();
                assert_eq!(parse(&bytes), Hello::NotTls, "{cut} {other:02x?}");
            }
        }
        // What is refused is refused however small its records are.
        let mut long = message.clone();
        long[1] = 1;
        for size in 1..8 {
            assert_eq!(parse(&in_records(&long, size)), Hello::NotTls, "{size}");
        }
    }

    #[test]
    fn what_may_be_tls_is_tls_or_not_when_the_next_bytes_come() {
        let bytes = in_records(&example(Some("a.example"), &[]).split_off(5), 1);
        for end in 1..bytes.len() {
            assert_eq!(may_begin(&bytes[..end]), end < 6, "{end}");
            assert_eq!(begins(&bytes[..end]), end >= 6, "{end}");
        }
        // The length of a MongoDB message, 790, and its request id.
        let message = b"\x16\x03\0\0\0\x01\0\0";
        assert!((3..8).all(|end| !may_begin(&message[..end]) && !begins(&message[..end])));
    }

    #[test]
    fn other_bytes_are_not_tls_as_soon_as_they_can_be_told() {
        for bytes in [
            &b"G"[..],
            b"\x15",
            b"\x16\x02",
            b"\x16\x03\x00",
            b"\x16\x03\x05",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x41",
            b"\x16\x03\x01\x00\x10\x02",
            b"\x16\x03\x01\x00\x10\x01\xff\xff\xff",
            b"\x16\x03\x01\x00\x10\x01\x00\x00\x10",
        ] {
            assert_eq!(parse(bytes), Hello::NotTls, "{bytes:02x?}");
        }
    }

    #[test]
    fn lengths_that_lie_make_it_no_hello() {
        let good = example(Some("a.example"), &["h2"]);
        for at in 9 + 34..good.len() {
            let mut bytes = good.clone();
            bytes[at] = 0xff;
            assert_ne!(parse(&bytes), Hello::NeedMore, "byte {at}");
        }
        let mut session = good.clone();
        session[9 + 34] = 0xff;
        assert_eq!(parse(&session), Hello::NotTls);
    }

    #[test]
    fn a_name_that_is_no_host_is_no_name() {
        assert_eq!(parse(&example(Some("a b\n"), &[])), hello(None, &[]));
        assert_eq!(parse(&example(Some(""), &[])), hello(None, &[]));
    }

    proptest! {
        #[test]
        fn any_bytes_after_a_hello_header_are_survived(tail in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut bytes = b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03".to_vec();
            bytes.extend(tail);
            if let Hello::Hello(hello) = parse(&bytes) {
                prop_assert!(hello.alpn.len() <= MAX_PROTOCOLS);
            }
        }
    }
}
