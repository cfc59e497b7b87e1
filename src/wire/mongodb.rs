//! MongoDB's wire protocol as far as a gateway needs it: first bytes, `hello`, refusal.
//!
//! Invariant: of a document only the top level is read, everything else is skipped by its length.
//! `hello` needs no credentials, so the probe learns the role as well. One message format, and two
//! fifths of the file its tests.
//!
//! Sources: MongoDB manual, "MongoDB Wire Protocol"; bsonspec.org; the driver specification
//! "Server Discovery and Monitoring".

mod bson;

use self::bson::{Document, Value};
use super::printable;
use super::reader::Reader;
use super::signature::SignatureMatch;
use super::verdict::Verdict;

/// Bytes of a message header: length, request id, the id it answers, opcode; all little endian.
pub(super) const HEADER_BYTES: usize = 16;

/// Whether a client begins like this: a message shorter than 64 KiB that answers nothing.
pub(super) fn fits(bytes: &[u8]) -> SignatureMatch {
    let known = |from: usize, expected: &[u8]| {
        let there = bytes.get(from..).unwrap_or_default();
        SignatureMatch::prefix(there, expected) != SignatureMatch::No
    };
    let opcode = [OP_MSG, OP_QUERY, OP_COMPRESSED]
        .iter()
        .any(|opcode| known(12, &opcode.to_le_bytes()));
    if !(known(2, &[0, 0]) && known(8, &[0; 4]) && opcode) {
        return SignatureMatch::No;
    }
    match Reader::new(bytes).u16_le() {
        Some(length) if usize::from(length) < HEADER_BYTES => SignatureMatch::No,
        Some(_) if bytes.len() >= HEADER_BYTES => SignatureMatch::Yes,
        _ => SignatureMatch::Maybe,
    }
}

/// Whether these are whole messages of a client that say `hello` (`isMaster` in its older words)
/// and nothing else.
pub(super) fn only_says_hello(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let length = Reader::new(bytes).u32_le().unwrap_or_default() as usize;
        let Some((message, rest)) = bytes.split_at_checked(length) else {
            return false;
        };
        if !is_hello(message) {
            return false;
        }
        bytes = rest;
    }
    true
}

fn is_hello(message: &[u8]) -> bool {
    let command = || {
        let mut reader = Reader::new(message);
        reader.take(12)?;
        let (opcode, flags) = (reader.u32_le()?, reader.u32_le()?);
        match opcode {
            // One section, of kind 0: the document, and perhaps a checksum.
            OP_MSG if reader.u8()? == 0 => (),
            // The collection is that of commands; skip and return.
            OP_QUERY if reader.c_string()?.ends_with(b".$cmd") => {
                reader.take(8)?;
            }
            _ => return None,
        }
        let checksum = if opcode == OP_MSG && flags & 1 == 1 {
            4
        } else {
            0
        };
        let document = reader.rest();
        let document = document.get(..document.len().checked_sub(checksum)?)?;
        let declared = Reader::new(document).u32_le()? as usize;
        // What follows it may be another section.
        (declared == document.len()).then_some(())?;
        let (name, _) = Document::read(document)?.next()??;
        Some(name)
    };
    matches!(command(), Some(b"hello" | b"isMaster" | b"ismaster"))
}

/// The answer `ok: 0`, code 91 (drivers look for another server and retry) to the request that
/// begins with `first`. `None` until its header is there.
pub(super) fn shutdown_in_progress(text: &str, first: &[u8]) -> Option<Vec<u8>> {
    error(91, "ShutdownInProgress", text, first)
}

/// Error 13, as [`shutdown_in_progress`]: drivers do not try again.
pub(super) fn unauthorized(text: &str, first: &[u8]) -> Option<Vec<u8>> {
    error(13, "Unauthorized", text, first)
}

fn error(code: i32, name: &str, text: &str, first: &[u8]) -> Option<Vec<u8>> {
    let mut header = Reader::new(first);
    header.u32_le()?;
    let request = header.u32_le()?;
    header.u32_le()?;
    let opcode = header.u32_le()?;
    let document = bson::write(&[
        ("ok", Value::Double(0.0)),
        ("errmsg", Value::String(text.as_bytes())),
        ("code", Value::Int32(code)),
        ("codeName", Value::String(name.as_bytes())),
    ]);
    Some(if opcode == OP_QUERY {
        // Response flags, cursor, starting from, number returned.
        let mut body = vec![0; 16];
        body.extend(1_u32.to_le_bytes());
        body.extend(document);
        message(request, OP_REPLY, &body)
    } else {
        message(request, OP_MSG, &op_msg(document))
    })
}

/// `hello`, which a server answers before authentication.
pub(super) fn probe() -> Vec<u8> {
    let document = bson::write(&[("hello", Value::Int32(1)), ("$db", Value::String(b"admin"))]);
    message(0, OP_MSG, &op_msg(document))
}

/// Judges the answer to [`probe`].
pub(super) fn judge(answer: &[u8]) -> Verdict {
    match read_hello(answer) {
        Hello::NeedMore => Verdict::NeedMore,
        Hello::Malformed => Verdict::Refused("not MongoDB: no answer to hello".into()),
        Hello::Member { .. } => Verdict::Alive,
        // Servers before 4.4.2 know the command by its older name.
        Hello::Error { code: 59, .. } => Verdict::Alive,
        Hello::Error { code, text } => Verdict::Refused(format!("{code} {text}")),
    }
}

/// The election of a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    /// Of the name of the replica set.
    pub(super) set: u64,
    pub(super) number: u64,
}

/// What a server says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hello {
    NeedMore,
    Malformed,
    Error {
        code: i64,
        text: String,
    },
    /// Neither: starting, recovering, an arbiter.
    Member {
        writable: bool,
        secondary: bool,
        /// Of a primary: the term in which it was elected.
        term: Option<Term>,
    },
}

/// Reads the answer to `hello`.
pub(super) fn read_hello(answer: &[u8]) -> Hello {
    let Some(header) = answer.get(..HEADER_BYTES) else {
        return Hello::NeedMore;
    };
    let field = |at: usize| Reader::new(&header[at..]).u32_le().unwrap_or_default();
    let length = field(0) as usize;
    let before_document = match field(12) {
        OP_MSG => 5,
        OP_REPLY => 20,
        _ => return Hello::Malformed,
    };
    if !(HEADER_BYTES + before_document..=MAX_REPLY_BYTES).contains(&length) {
        return Hello::Malformed;
    }
    let Some(message) = answer.get(..length) else {
        return Hello::NeedMore;
    };
    // A checksum may follow the document, whose own length excludes it.
    let Some(document) = Document::read(&message[HEADER_BYTES + before_document..]) else {
        return Hello::Malformed;
    };
    let (mut ok, mut writable, mut secondary, mut code) = (false, false, false, 0);
    let mut text = String::new();
    let (mut set, mut election) = (None, None);
    for element in document {
        let Some((name, value)) = element else {
            return Hello::Malformed;
        };
        match (name, value) {
            (b"ok", value) => ok = value.is_true(),
            (b"isWritablePrimary" | b"ismaster", value) => writable |= value.is_true(),
            (b"secondary", value) => secondary = value.is_true(),
            (b"setName", Value::String(name)) => set = Some(fingerprint(name)),
            (b"electionId", Value::ObjectId(id)) => election = election_term(id),
            (b"code", Value::Int32(number)) => code = i64::from(number),
            (b"errmsg", Value::String(message)) => text = printable(message),
            _ => (),
        }
    }
    if ok {
        Hello::Member {
            writable,
            secondary,
            term: set
                .zip(election)
                .filter(|_| writable)
                .map(|(set, number)| Term { set, number }),
        }
    } else {
        Hello::Error { code, text }
    }
}

/// The term in an `electionId`, which is no id of an object: 7fffffff, then the term, big endian.
fn election_term(id: [u8; 12]) -> Option<u64> {
    let mut reader = Reader::new(&id);
    (reader.u32()? == 0x7fff_ffff).then_some(())?;
    reader.array().map(u64::from_be_bytes)
}

/// FNV-1a, so that names are compared without being kept.
fn fingerprint(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// No flags, one section of kind 0.
fn op_msg(document: Vec<u8>) -> Vec<u8> {
    [&[0; 5][..], &document].concat()
}

fn message(answers: u32, opcode: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((body.len() + HEADER_BYTES) as u32).to_le_bytes().to_vec();
    for field in [1, answers, opcode] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(body);
    bytes
}

const OP_REPLY: u32 = 1;
const OP_QUERY: u32 = 2004;
const OP_COMPRESSED: u32 = 2012;
const OP_MSG: u32 = 2013;

/// Longest answer to `hello` believed, in bytes: it lists at most 50 members.
const MAX_REPLY_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of a server to request 1 with these fields.
    fn answer(fields: &[(&str, Value)]) -> Vec<u8> {
        message(1, OP_MSG, &op_msg(bson::write(fields)))
    }

    #[test]
    fn a_refusal_answers_the_request_in_its_own_kind() {
        let msg = b"\x3a\x01\0\0\x07\x06\x05\x04\0\0\0\0\xdd\x07\0\0";
        assert_eq!(shutdown_in_progress("no", &msg[..15]), None);
        let reply = shutdown_in_progress("no", msg).unwrap();
        let expected: &[u8] = b"\x60\0\0\0\x01\0\0\0\x07\x06\x05\x04\xdd\x07\0\0\
            \0\0\0\0\0\
            \x4b\0\0\0\
            \x01ok\0\0\0\0\0\0\0\0\0\
            \x02errmsg\0\x03\0\0\0no\0\
            \x10code\0\x5b\0\0\0\
            \x02codeName\0\x13\0\0\0ShutdownInProgress\0\0";
        assert_eq!(reply, expected);

        let query = b"\x12\x01\0\0\x05\0\0\0\0\0\0\0\xd4\x07\0\0";
        let reply = shutdown_in_progress("no", query).unwrap();
        assert_eq!(reply[..16], *b"\x6f\0\0\0\x01\0\0\0\x05\0\0\0\x01\0\0\0");
        assert_eq!(reply[16..36], [&[0; 16][..], &[1, 0, 0, 0]].concat());
        let error = Hello::Error {
            code: 91,
            text: "no".into(),
        };
        assert_eq!(read_hello(&reply), error);
    }

    #[test]
    fn hello_is_told_from_other_commands() {
        let msg = |name| message(0, OP_MSG, &op_msg(bson::write(&[(name, Value::Int32(1))])));
        let query = |collection: &[u8], name| {
            let document = bson::write(&[(name, Value::Int32(1)), ("helloOk", Value::Bool(true))]);
            let body = [&[0; 4], collection, &[0; 5], &[0xff; 4], &document].concat();
            message(0, OP_QUERY, &body)
        };
        let hellos = [
            probe(),
            msg("isMaster"),
            query(b"admin.$cmd", "ismaster"),
            query(b"admin.$cmd", "hello"),
        ];
        let mut with_checksum = msg("hello");
        with_checksum.extend([1, 2, 3, 4]);
        with_checksum[0] += 4;
        assert!(
            !only_says_hello(&with_checksum),
            "bytes that belong to nothing"
        );
        with_checksum[16] = 1;
        assert!(only_says_hello(&with_checksum));
        for hello in &hellos {
            assert!(only_says_hello(hello));
            for end in 1..hello.len() {
                assert!(!only_says_hello(&hello[..end]), "{end}");
            }
            assert!(only_says_hello(&[&hello[..], &hellos[0]].concat()));
        }
        let mut compressed = probe();
        compressed[12..16].copy_from_slice(&OP_COMPRESSED.to_le_bytes());
        let mut sections = probe();
        sections.extend(&op_msg(bson::write(&[("documents", Value::Other)]))[4..]);
        sections[0] = sections.len() as u8;
        for other in [
            msg("insert"),
            msg("Hello"),
            query(b"admin.$cmd", "insert"),
            query(b"shop.items", "hello"),
            compressed,
            sections,
        ] {
            assert!(!only_says_hello(&other));
            assert!(!only_says_hello(&[&hellos[0], &other[..]].concat()));
        }
    }

    #[test]
    fn hello_tells_the_role() {
        assert_eq!(
            probe(),
            b"\x34\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\
              \x1f\0\0\0\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0"
        );
        for (field, writable, secondary) in [
            ("isWritablePrimary", true, false),
            ("ismaster", true, false),
            ("secondary", false, true),
            ("arbiterOnly", false, false),
        ] {
            let bytes = answer(&[
                ("topologyVersion", Value::Other),
                (field, Value::Bool(true)),
                ("ok", Value::Double(1.0)),
            ]);
            for end in 0..bytes.len() {
                assert_eq!(read_hello(&bytes[..end]), Hello::NeedMore);
            }
            assert_eq!(
                read_hello(&bytes),
                Hello::Member {
                    writable,
                    secondary,
                    term: None
                }
            );
            assert_eq!(judge(&bytes), Verdict::Alive);
        }
    }

    #[test]
    fn a_primary_says_in_which_term_it_was_elected() {
        let id = |term: u64| {
            let mut id = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
            id[4..].copy_from_slice(&term.to_be_bytes());
            id
        };
        let term = |set: &str, role, election: Value| {
            let hello = read_hello(&answer(&[
                ("setName", Value::String(set.as_bytes())),
                ("electionId", election),
                (role, Value::Bool(true)),
                ("ok", Value::Double(1.0)),
            ]));
            match hello {
                Hello::Member { term, .. } => term,
                other => panic!("{other:?}"),
            }
        };
        let primary = "isWritablePrimary";
        let [first, later] = [7, 300].map(|n| term("rs0", primary, Value::ObjectId(id(n))));
        assert_eq!(first.map(|term| term.number), Some(7));
        assert_eq!(later.map(|term| term.number), Some(300));
        assert_eq!(first.map(|term| term.set), later.map(|term| term.set));
        let other = term("rs1", primary, Value::ObjectId(id(7)));
        assert_ne!(first.map(|term| term.set), other.map(|term| term.set));
        assert_eq!(term("rs0", "secondary", Value::ObjectId(id(7))), None);
        // One of before replication protocol 1.
        assert_eq!(term("rs0", primary, Value::ObjectId([1; 12])), None);
        assert_eq!(term("rs0", primary, Value::Other), None);
    }

    #[test]
    fn a_server_that_says_no_is_not_alive_but_an_old_one_is() {
        let error = |code| {
            answer(&[
                ("ok", Value::Double(0.0)),
                ("errmsg", Value::String(b"bad\nday")),
                ("code", Value::Int32(code)),
            ])
        };
        assert_eq!(judge(&error(91)), Verdict::Refused("91 bad day".into()));
        assert_eq!(judge(&error(59)), Verdict::Alive);
        assert!(matches!(judge(b"HTTP/1.1 400 Bad"), Verdict::Refused(_)));
        let mut lying = error(91);
        lying[..4].copy_from_slice(&[0xff; 4]);
        assert_eq!(read_hello(&lying), Hello::Malformed);
        let mut inner = error(91);
        inner[21..25].copy_from_slice(&[0xff; 4]);
        assert_eq!(read_hello(&inner), Hello::Malformed);
    }
}
