//! The first message of TLS, read but not answered: which host and which protocols a client asks
//! for.
//!
//! Its own file because routing by name needs nothing else of TLS. Invariant: bytes are only
//! looked at, what goes to the server is what came from the client. Called by [`super::sniff`],
//! and by a TCP session after a database's own request for TLS.
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
    Hello(ClientHello),
}

/// Most protocols kept of one ALPN list.
pub const MAX_PROTOCOLS: usize = 32;

/// Longest ClientHello read, in bytes with its own header. Those with post-quantum keys and
/// encrypted names have 2 KB.
pub const MAX_HELLO_BYTES: usize = 15 * 1024;

/// Whether a client speaks TLS: a handshake record of any version, with a ClientHello in it.
pub fn begins(bytes: &[u8]) -> bool {
    matches!(bytes, [22, 3, _, _, _, 1, ..])
}

/// Whether a client that has sent these few bytes may still turn out to [speak TLS](begins).
pub fn may_begin(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [22] | [22, 3] | [22, 3, _] | [22, 3, _, _] | [22, 3, _, _, _]
    )
}

/// Why a handshake is ended (RFC 8446 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    AccessDenied = 49,
    InternalError = 80,
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

/// Reads a ClientHello from all that a client sent so far. It may be spread over several records
/// (RFC 8446 5.1). Allocates at most [`MAX_HELLO_BYTES`].
pub fn parse(bytes: &[u8]) -> Hello {
    let mut records = Reader::new(bytes);
    let first = match record(&mut records) {
        Record::Whole(first) => first,
        Record::Cut(first) => {
            // The header is not one of TLS, or its first byte is not that of a ClientHello.
            return match message_length(first) {
                Length::Wrong => Hello::NotTls,
                _ => Hello::NeedMore,
            };
        }
        Record::Wrong => return Hello::NotTls,
    };

    let needed = match message_length(first) {
        Length::Known(needed) => needed,
        Length::Wrong => return Hello::NotTls,
        // A record that ends inside the four bytes of the header: nobody sends this in good faith.
        Length::Unknown => return Hello::NotTls,
    };
    if first.len() >= needed {
        return read_message(&first[..needed]);
    }
    let mut message = first.to_vec();
    loop {
        match record(&mut records) {
            Record::Whole(piece) => message.extend_from_slice(piece),
            Record::Cut(_) => return Hello::NeedMore,
            Record::Wrong => return Hello::NotTls,
        }
        if message.len() >= needed {
            return read_message(&message[..needed]);
        }
    }
}

/// Whether these bytes are a ClientHello, or the first part of one, and nothing after it: no early
/// data (RFC 8446 2.3), which a server may act on.
pub fn is_only_hello(bytes: &[u8]) -> bool {
    match parse(bytes) {
        Hello::NotTls => false,
        Hello::NeedMore => begins(bytes),
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
        for size in [4, 5, 11, 64] {
            let bytes = in_records(&message, size);
            assert_eq!(parse(&bytes), hello(Some("a.example"), &["tds/8.0"]));
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Hello::NeedMore);
            }
        }
        assert_eq!(parse(&in_records(&message, 3)), Hello::NotTls);
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
