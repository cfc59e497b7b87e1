//! The first packet of a PostgreSQL client: a request for TLS or GSSAPI, a cancel request, or the
//! StartupMessage with user and database.
//!
//! Read before the client is known. Invariant: a length that lies is refused before a byte is
//! waited for because of it.

use crate::wire::reader::Reader;

/// Longest packet before a session is authenticated, in bytes: as PostgreSQL's
/// `MAX_STARTUP_PACKET_LENGTH`.
pub const MAX_STARTUP_BYTES: usize = 10_000;

/// "May we use TLS?" The server answers with one byte, `S` or `N`.
pub const SSL_REQUEST: [u8; 8] = *b"\x00\x00\x00\x08\x04\xd2\x16\x2f";

/// "May we use GSSAPI encryption?" The server answers with one byte, `G` or `N`.
pub const GSSENC_REQUEST: [u8; 8] = *b"\x00\x00\x00\x08\x04\xd2\x16\x30";

const CANCEL_CODE: u32 = 80_877_102;
const SSL_CODE: u32 = 80_877_103;
const GSSENC_CODE: u32 = 80_877_104;

/// Longest secret key in bytes: protocol 3.2 made it variable (4 until PostgreSQL 17).
const MAX_KEY_BYTES: usize = 256;

/// What a client's first packet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Fits so far, and is not whole.
    NeedMore,
    /// [`SSL_REQUEST`].
    Ssl,
    /// [`GSSENC_REQUEST`].
    Gssenc,
    /// A CancelRequest, with the session whose query it ends.
    Cancel(CancelKey),
    /// A StartupMessage of protocol 3, any minor version.
    Startup(StartupMessage),
    /// Not PostgreSQL, or a packet that contradicts itself.
    Malformed,
}

/// What a StartupMessage says of the session. Bytes that are not UTF-8 read as U+FFFD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupMessage {
    /// Empty when the client sent none; servers refuse that.
    pub user: String,
    /// The user's name when the client named no database, as servers read it.
    pub database: String,
    /// The parameter `application_name`. `None`: not sent.
    pub application_name: Option<String>,
    /// The length of the packet in bytes.
    pub length: usize,
}

/// What identifies a session for a CancelRequest: process id and secret key, kept as they came.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey(Box<[u8]>);

impl CancelKey {
    /// From the body of BackendKeyData or what follows the code of a CancelRequest. `None` when it
    /// is no process id with a key of 4 to 256 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<CancelKey> {
        (4 + 4..=4 + MAX_KEY_BYTES)
            .contains(&bytes.len())
            .then(|| CancelKey(bytes.into()))
    }

    /// The packet that cancels the session's query, sent on a connection of its own.
    pub fn to_request(&self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() + 8).expect("a key has at most 260 bytes");
        let mut packet = Vec::with_capacity(self.0.len() + 8);
        packet.extend(length.to_be_bytes());
        packet.extend(CANCEL_CODE.to_be_bytes());
        packet.extend(&self.0);
        packet
    }
}

// The key is a secret: whoever has it can cancel the session's queries.
impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CancelKey(***)")
    }
}

/// Reads the first packet from all that a client sent so far; bytes after it are not looked at.
pub fn parse_start(bytes: &[u8]) -> Start {
    let mut reader = Reader::new(bytes);
    let fits = |at: usize, byte: u8| bytes.get(at).is_none_or(|found| *found == byte);
    if !(fits(0, 0) && fits(1, 0)) {
        return Start::Malformed;
    }
    let Some(length) = reader.u32() else {
        return Start::NeedMore;
    };
    let length = length as usize;
    if !(8..=MAX_STARTUP_BYTES).contains(&length) {
        return Start::Malformed;
    }
    let Some(code) = reader.u32() else {
        let special = fits(4, 0x04) && fits(5, 0xd2) && fits(6, 0x16);
        return if special || (fits(4, 0) && fits(5, 3)) {
            Start::NeedMore
        } else {
            Start::Malformed
        };
    };
    match (code, length) {
        (SSL_CODE, 8) => return Start::Ssl,
        (GSSENC_CODE, 8) => return Start::Gssenc,
        (CANCEL_CODE, 16..=MAX_CANCEL_BYTES) => (),
        // Any minor version: a server that knows less answers NegotiateProtocolVersion.
        _ if code >> 16 == 3 && length > 8 => (),
        _ => return Start::Malformed,
    }
    let Some(content) = reader.take(length - 8) else {
        return Start::NeedMore;
    };
    if code == CANCEL_CODE {
        return CancelKey::from_bytes(content).map_or(Start::Malformed, Start::Cancel);
    }
    match parameters(content) {
        Some(message) => Start::Startup(StartupMessage { length, ..message }),
        None => Start::Malformed,
    }
}

/// Whether these are whole packets with which a client begins and logs in, and nothing else:
/// requests for encryption, one StartupMessage, then messages of type `p`, which carry passwords.
pub(in crate::wire) fn only_starts(mut bytes: &[u8]) -> bool {
    loop {
        match parse_start(bytes) {
            Start::Ssl | Start::Gssenc => bytes = &bytes[SSL_REQUEST.len()..],
            Start::Startup(message) => {
                bytes = &bytes[message.length..];
                break;
            }
            Start::NeedMore => return bytes.is_empty(),
            Start::Cancel(_) | Start::Malformed => return false,
        }
    }
    while let Some((b'p', rest)) = bytes.split_first() {
        let length = Reader::new(rest).u32().unwrap_or_default() as usize;
        match rest.get(length..) {
            Some(rest) if length >= 4 => bytes = rest,
            _ => return false,
        }
    }
    bytes.is_empty()
}

/// Pairs of names and values, each ended by NUL, then one NUL more.
fn parameters(content: &[u8]) -> Option<StartupMessage> {
    let mut reader = Reader::new(content);
    let (mut user, mut database, mut application_name) = (None, None, None);
    loop {
        let name = reader.c_string()?;
        if name.is_empty() {
            break;
        }
        let value = reader.c_string()?;
        // The last one counts, as in PostgreSQL.
        match name {
            b"user" => user = Some(value),
            b"database" => database = Some(value),
            b"application_name" => application_name = Some(value),
            _ => (),
        }
    }
    if !reader.is_empty() {
        return None;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let user = user.map(text).unwrap_or_default();
    Some(StartupMessage {
        database: match database.map(text) {
            Some(name) if !name.is_empty() => name,
            _ => user.clone(),
        },
        user,
        application_name: application_name.map(text),
        length: 0,
    })
}

const MAX_CANCEL_BYTES: usize = 8 + 4 + MAX_KEY_BYTES;

/// A StartupMessage of protocol 3.0 with these parameters.
pub(in crate::wire) fn startup_packet(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut content = 0x0003_0000_u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        for text in [name, value] {
            content.extend(text.bytes().filter(|byte| *byte != 0));
            content.push(0);
        }
    }
    content.push(0);
    let length = u32::try_from(content.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &content].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // What psql 15 sends for `psql "host=h user=alice dbname=shop"`.
    const PSQL: &[u8] = b"\x00\x00\x00\x54\x00\x03\x00\x00user\0alice\0database\0shop\0\
        application_name\0psql\0client_encoding\0UTF8\0\0";

    fn started(bytes: &[u8]) -> StartupMessage {
        match parse_start(bytes) {
            Start::Startup(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_packet_of_psql_names_user_and_database() {
        let mut packet = PSQL.to_vec();
        packet[3] = packet.len() as u8;
        for end in 0..packet.len() {
            assert_eq!(parse_start(&packet[..end]), Start::NeedMore, "{end} bytes");
        }
        let message = StartupMessage {
            user: "alice".into(),
            database: "shop".into(),
            application_name: Some("psql".into()),
            length: packet.len(),
        };
        assert_eq!(started(&packet), message);
        packet.extend(b"Qnext");
        assert_eq!(started(&packet), message);
    }

    #[test]
    fn the_database_is_the_user_when_none_is_named() {
        let message = started(&startup_packet(&[("user", "bob")]));
        assert_eq!((&*message.user, &*message.database), ("bob", "bob"));
        let message = started(&startup_packet(&[("database", ""), ("user", "bob")]));
        assert_eq!(message.database, "bob");
        assert_eq!(message.application_name, None);
        assert_eq!(started(b"\0\0\0\x09\0\x03\0\0\0").user, "");
    }

    #[test]
    fn a_start_is_told_from_what_follows_it() {
        let startup = startup_packet(&[("user", "bob")]);
        let password = b"p\0\0\0\x07pw\0";
        let asked = [&GSSENC_REQUEST[..], &SSL_REQUEST, &startup].concat();
        for start in [&startup, &asked] {
            assert!(only_starts(start));
            assert!(only_starts(&[&start[..], password].concat()));
            for more in [
                &b"Q\0\0\0\x06;\0"[..],
                b"S\0\0\0\x04",
                b"p\0\0\0\x03",
                b"p\0",
                b"\0",
            ] {
                assert!(!only_starts(&[&start[..], more].concat()), "{more:02x?}");
                assert!(!only_starts(&[&start[..], password, more].concat()));
            }
        }
        assert!(only_starts(&SSL_REQUEST) && only_starts(b""));
        assert!(!only_starts(&startup[..startup.len() - 1]));
        assert!(!only_starts(password));
        let cancel = CancelKey::from_bytes(&[1; 8]).unwrap();
        assert!(!only_starts(&cancel.to_request()));
    }

    #[test]
    fn a_newer_minor_version_is_still_a_start() {
        for minor in [[0, 2], [0x27, 0x0f]] {
            let mut packet = startup_packet(&[("user", "bob")]);
            packet[6..8].copy_from_slice(&minor);
            assert_eq!(started(&packet).user, "bob");
        }
    }

    #[test]
    fn requests_for_encryption_are_eight_bytes() {
        assert_eq!(parse_start(&SSL_REQUEST), Start::Ssl);
        assert_eq!(parse_start(&GSSENC_REQUEST), Start::Gssenc);
        for end in 0..8 {
            assert_eq!(parse_start(&SSL_REQUEST[..end]), Start::NeedMore);
            assert_eq!(parse_start(&GSSENC_REQUEST[..end]), Start::NeedMore);
        }
        assert_eq!(
            parse_start(b"\0\0\0\x09\x04\xd2\x16\x2f."),
            Start::Malformed
        );
    }

    #[test]
    fn a_cancel_request_keeps_its_key_of_any_length() {
        for key in [4, 32, 256] {
            let key = CancelKey::from_bytes(&vec![9; 4 + key]).unwrap();
            let packet = key.to_request();
            for end in 0..packet.len() {
                assert_eq!(parse_start(&packet[..end]), Start::NeedMore);
            }
            assert_eq!(parse_start(&packet), Start::Cancel(key));
        }
        let classic = CancelKey::from_bytes(b"\0\0\x01\x02\xaa\xbb\xcc\xdd").unwrap();
        assert_eq!(
            classic.to_request(),
            b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\x01\x02\xaa\xbb\xcc\xdd"
        );
        assert_eq!(format!("{classic:?}"), "CancelKey(***)");
        assert_eq!(CancelKey::from_bytes(&[0; 7]), None);
        assert_eq!(CancelKey::from_bytes(&[0; 261]), None);
        assert_eq!(parse_start(b"\0\0\0\x0c\x04\xd2\x16\x2e"), Start::Malformed);
        assert_eq!(
            parse_start(b"\0\0\x01\x0d\x04\xd2\x16\x2e"),
            Start::Malformed
        );
    }

    #[test]
    fn a_length_that_lies_is_refused_at_once() {
        for bytes in [
            &b"\x01"[..],
            b"\0\x01",
            b"\0\0\xff\xff",
            b"\0\0\x27\x11",
            b"\0\0\0\x07",
            b"\0\0\0\x08\0\x03\0\0",
            b"\0\0\0\x10\0\x02",
            b"\0\0\0\x10\0\x02\0\0",
            b"\0\0\0\x0d\0\x03\0\0user\0",
            b"\0\0\0\x0e\0\x03\0\0user\0\0",
            b"\0\0\0\x0a\0\x03\0\0\0\0",
        ] {
            assert_eq!(parse_start(bytes), Start::Malformed, "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn a_decision_stays_when_more_bytes_come(
            length in 8_u16..300,
            code in prop::sample::select(vec![0x0003_0000, CANCEL_CODE, SSL_CODE, 0x0003_0002]),
            tail in prop::collection::vec(prop::sample::select(b"\0\0usera".to_vec()), 0..300),
        ) {
            let mut bytes = vec![0, 0];
            bytes.extend(length.to_be_bytes());
            bytes.extend(code.to_be_bytes());
            bytes.extend(tail);
            let mut decided = Start::NeedMore;
            for end in 0..=bytes.len() {
                let start = parse_start(&bytes[..end]);
                if decided != Start::NeedMore {
                    prop_assert_eq!(&start, &decided);
                }
                decided = start;
            }
        }
    }
}
