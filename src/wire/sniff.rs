//! Which protocol a connection speaks, from its first bytes.
//!
//! The one table where all protocols meet. Invariant: a decision does not change when more bytes
//! come, and after [`MAX_BYTES`] there is one.
//!
//! Each protocol says of the bytes so far: no, maybe, or yes; the first in [`classify`] that does
//! not say no decides. They are ordered so that one that needs few bytes comes first. What keeps
//! them apart: a first MongoDB message is shorter than 64 KiB, so its third and fourth byte are 0.

use super::postgres::{CancelKey, Start, StartupMessage, parse_start};
use super::signature::SignatureMatch;
use super::tls::{self, ClientHello, Hello};
use super::{cql, http_db, mongodb, redis, tds, tns};
use crate::config::DbType;

/// Most bytes looked at.
pub const MAX_BYTES: usize = 16 * 1024;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// Fits more than one protocol, or one that says more in the bytes to come.
    NeedMore,
    /// A whole ClientHello (RFC 8446 4.1.2).
    Tls(ClientHello),
    /// A Postgres client asks for TLS and waits for one byte.
    PostgresSsl,
    /// A Postgres client asks for GSSAPI encryption and waits for one byte.
    PostgresGssenc,
    /// A Postgres client cancels the query of the session with this key.
    PostgresCancel(CancelKey),
    /// A Postgres client logs in, in clear.
    PostgresStartup(StartupMessage),
    /// A RESP array, or a command typed by hand.
    Redis,
    /// A message of MongoDB that answers nothing: OP_MSG, or OP_QUERY of older drivers.
    Mongodb,
    /// Cassandra's OPTIONS or STARTUP, version 3 or later.
    Cql,
    /// A PRELOGIN of SQL Server, in clear.
    Tds,
    /// A CONNECT of Oracle.
    Tns,
    /// A method of HTTP/1, or the preface of HTTP/2: a database that speaks HTTP.
    Http,
    /// None of these.
    Unknown,
}

impl Sniffed {
    /// The database whose clients alone begin like this; `None` for TLS, HTTP and the undecided.
    pub fn db_type(&self) -> Option<DbType> {
        match self {
            Sniffed::PostgresSsl
            | Sniffed::PostgresGssenc
            | Sniffed::PostgresCancel(_)
            | Sniffed::PostgresStartup(_) => Some(DbType::Postgres),
            Sniffed::Redis => Some(DbType::Redis),
            Sniffed::Mongodb => Some(DbType::Mongodb),
            Sniffed::Cql => Some(DbType::Cassandra),
            Sniffed::Tds => Some(DbType::Sqlserver),
            Sniffed::Tns => Some(DbType::Oracle),
            Sniffed::NeedMore | Sniffed::Tls(_) | Sniffed::Http | Sniffed::Unknown => None,
        }
    }
}

/// Classifies all that a client sent so far; call again with more after [`Sniffed::NeedMore`].
/// Looks at no more than [`MAX_BYTES`] and allocates at most twice as much.
pub fn classify(bytes: &[u8]) -> Sniffed {
    let is_full = bytes.len() >= MAX_BYTES;
    let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
    match decide(bytes) {
        Sniffed::NeedMore if is_full => Sniffed::Unknown,
        sniffed => sniffed,
    }
}

/// Whether the server of this protocol speaks before its client does.
pub fn speaks_first(db: DbType) -> bool {
    db.is_server_first()
}

/// Whether a client of this database may begin like this. [`DbType::Tcp`] may be anything; a client
/// that waits for its server (MySQL) begins with nothing at all.
pub fn can_be(db: DbType, sniffed: &Sniffed) -> bool {
    match sniffed {
        _ if db == DbType::Tcp => true,
        _ if speaks_first(db) => false,
        Sniffed::NeedMore => true,
        Sniffed::Tls(hello) => may_begin_with_tls(db, hello),
        Sniffed::Http => db.speaks_http(),
        Sniffed::Unknown => false,
        sniffed => sniffed.db_type() == Some(db),
    }
}

/// The ALPN names that say which database it is: PostgreSQL 17 and TDS 8 require theirs, a client
/// of theirs that sends none asks for TLS inside the protocol instead.
fn may_begin_with_tls(db: DbType, hello: &ClientHello) -> bool {
    let offers = |name: &[u8]| hello.alpn.iter().any(|offer| offer == name);
    match db {
        DbType::Postgres => offers(b"postgresql"),
        DbType::Sqlserver => offers(b"tds/8.0"),
        _ if hello.alpn.is_empty() => true,
        _ if db.speaks_http() => offers(b"http/1.1") || offers(b"h2"),
        _ => !["postgresql", "tds/8.0", "http/1.1", "h2"]
            .iter()
            .any(|name| offers(name.as_bytes())),
    }
}

fn decide(bytes: &[u8]) -> Sniffed {
    if bytes.is_empty() {
        return Sniffed::NeedMore;
    }
    match parse_start(bytes) {
        Start::Malformed => (),
        // `00` alone also begins a short TNS packet; the answer is the same.
        Start::NeedMore => return Sniffed::NeedMore,
        Start::Ssl => return Sniffed::PostgresSsl,
        Start::Gssenc => return Sniffed::PostgresGssenc,
        Start::Cancel(key) => return Sniffed::PostgresCancel(key),
        Start::Startup(message) => return Sniffed::PostgresStartup(message),
    }
    match tls::parse(bytes) {
        Hello::NotTls => (),
        Hello::NeedMore => return Sniffed::NeedMore,
        Hello::Hello(hello) => return Sniffed::Tls(hello),
    }
    type Fits = fn(&[u8]) -> SignatureMatch;
    let rest: [(Fits, Sniffed); 6] = [
        (http_db::fits, Sniffed::Http),
        (redis::fits, Sniffed::Redis),
        (tds::fits, Sniffed::Tds),
        (cql::fits, Sniffed::Cql),
        (tns::fits, Sniffed::Tns),
        (mongodb::fits, Sniffed::Mongodb),
    ];
    for (fits, sniffed) in rest {
        match fits(bytes) {
            SignatureMatch::No => (),
            SignatureMatch::Maybe => return Sniffed::NeedMore,
            SignatureMatch::Yes => return sniffed,
        }
    }
    Sniffed::Unknown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::postgres::{GSSENC_REQUEST, SSL_REQUEST};

    fn startup() -> Vec<u8> {
        let mut bytes = b"\0\0\0\x1d\0\x03\0\0user\0bob\0database\0db\0\0".to_vec();
        bytes[3] = bytes.len() as u8;
        bytes
    }

    /// What the clients of each protocol send first, and how many bytes of it decide.
    fn starts() -> Vec<(Sniffed, Vec<u8>, usize)> {
        let hello = tls::example(Some("a.example"), &["h2"]);
        let Hello::Hello(read) = tls::parse(&hello) else {
            panic!("no hello")
        };
        let hello_length = hello.len();
        let message = startup();
        let Start::Startup(read_message) = parse_start(&message) else {
            panic!("no message")
        };
        let message_length = message.len();
        let cancel = CancelKey::from_bytes(&[7; 8]).unwrap();
        vec![
            (Sniffed::Tls(read), hello, hello_length),
            (Sniffed::PostgresSsl, SSL_REQUEST.to_vec(), 8),
            (Sniffed::PostgresGssenc, GSSENC_REQUEST.to_vec(), 8),
            (
                Sniffed::PostgresStartup(read_message),
                message,
                message_length,
            ),
            (
                Sniffed::PostgresCancel(cancel.clone()),
                cancel.to_request(),
                16,
            ),
            // redis-py, redis-cli, a person with netcat
            (Sniffed::Redis, b"*4\r\n$6\r\nCLIENT\r\n".to_vec(), 5),
            (Sniffed::Redis, b"*1\r\n$7\r\nCOMMAND\r\n".to_vec(), 5),
            (Sniffed::Redis, b"PING\r\n".to_vec(), 5),
            (Sniffed::Redis, b"info replication\n".to_vec(), 5),
            // pymongo: hello as OP_MSG; an older driver: isMaster as OP_QUERY
            (
                Sniffed::Mongodb,
                b"\x3a\x01\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0".to_vec(),
                16,
            ),
            (
                Sniffed::Mongodb,
                b"\x12\x01\0\0\x05\0\0\0\0\0\0\0\xd4\x07\0\0\0\0\0\0admin.$cmd\0".to_vec(),
                16,
            ),
            // OPTIONS of a driver for Cassandra 4, STARTUP of one for version 3
            (Sniffed::Cql, b"\x05\0\0\0\x05\0\0\0\0".to_vec(), 9),
            (
                Sniffed::Cql,
                b"\x03\0\0\x01\x01\0\0\0\x16\0\x01\0\x0bCQL_VERSION\0\x053.0.0".to_vec(),
                9,
            ),
            // PRELOGIN of the ODBC driver
            (
                Sniffed::Tds,
                b"\x12\x01\0\x2f\0\0\x01\0\0\0\x1a\0\x06\x01\0\x20\0\x01".to_vec(),
                9,
            ),
            // CONNECT of a thin client
            (
                Sniffed::Tns,
                b"\x00\xf4\0\0\x01\0\0\0\x01\x3a\x01\x2c\x0c\x41\x20\0".to_vec(),
                10,
            ),
            (Sniffed::Http, b"GET /_up HTTP/1.1\r\n".to_vec(), 4),
            (
                Sniffed::Http,
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                16,
            ),
            (Sniffed::Unknown, b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), 3),
            (Sniffed::Unknown, b"\x80\x2e\x01\0\x02".to_vec(), 3),
        ]
    }

    #[test]
    fn first_bytes_decide_as_early_as_they_can() {
        for (expected, bytes, deciding) in starts() {
            for end in 0..bytes.len() {
                let sniffed = classify(&bytes[..end]);
                if end < deciding {
                    assert_eq!(sniffed, Sniffed::NeedMore, "{end} of {bytes:02x?}");
                } else {
                    assert_eq!(sniffed, expected, "{end} of {bytes:02x?}");
                }
            }
            assert_eq!(classify(&bytes), expected);
        }
    }

    #[test]
    fn a_mongodb_length_that_begins_like_another_protocol_is_mongodb() {
        // 790 like TLS, 274 like TDS, 256 like TNS, 771 and 1027 like CQL, 12586 like Redis.
        for length in [
            0x0316_u32,
            0x0112,
            0x0100,
            0x0303,
            0x0003_u32 + 0x400,
            0x312a,
            0x3a00,
        ] {
            for request in [1_u32, 5, 0x0100, 0x0501] {
                let mut bytes = length.to_le_bytes().to_vec();
                bytes.extend(request.to_le_bytes());
                bytes.extend([0; 4]);
                bytes.extend(2013_u32.to_le_bytes());
                assert_eq!(
                    classify(&bytes),
                    Sniffed::Mongodb,
                    "{length:#x} {request:#x}"
                );
                for end in 0..16 {
                    assert_eq!(
                        classify(&bytes[..end]),
                        Sniffed::NeedMore,
                        "{length:#x} {end}"
                    );
                }
            }
        }
    }

    #[test]
    fn lengths_that_lie_are_unknown_at_once() {
        for bytes in [
            &b"\0\0\xff\xff"[..],
            b"\0\0\0\x04\0\x03",
            b"\x12\x01\xff\xff",
            b"\x05\0\0\0\x05\xff\xff\xff\xff",
            b"*999999999999\r\n$",
            b"\xff\xff\xff\xff",
            b"\0\x03\0\0\x01\0\0\0\x01",
        ] {
            assert_eq!(classify(bytes), Sniffed::Unknown, "{bytes:02x?}");
        }
    }

    #[test]
    fn a_full_window_is_decided() {
        let mut endless = b"\x16\x03\x01\x00\x05\x01\x00\x30\x00\x00".to_vec();
        while endless.len() < MAX_BYTES + 100 {
            assert_eq!(
                classify(&endless[..endless.len().min(MAX_BYTES - 1)]),
                Sniffed::NeedMore
            );
            endless.extend(b"\x16\x03\x01\x00\x01\x00");
        }
        assert_eq!(classify(&endless), Sniffed::Unknown);
    }

    #[test]
    fn each_database_knows_its_own_starts() {
        use DbType::*;
        let tls = |alpn: &[&str]| {
            Sniffed::Tls(ClientHello {
                sni: None,
                alpn: alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
            })
        };
        for (sniffed, expected) in [
            (Sniffed::PostgresSsl, vec![Postgres, Tcp]),
            (Sniffed::Redis, vec![Redis, Tcp]),
            (Sniffed::Mongodb, vec![Mongodb, Tcp]),
            (Sniffed::Cql, vec![Cassandra, Tcp]),
            (Sniffed::Tds, vec![Sqlserver, Tcp]),
            (Sniffed::Tns, vec![Oracle, Tcp]),
            (Sniffed::Http, vec![Couchdb, Influxdb, Elasticsearch, Tcp]),
            (Sniffed::Unknown, vec![Tcp]),
            (tls(&["postgresql"]), vec![Postgres, Tcp]),
            (tls(&["tds/8.0"]), vec![Sqlserver, Tcp]),
            (
                tls(&["h2", "http/1.1"]),
                vec![Couchdb, Influxdb, Elasticsearch, Tcp],
            ),
            (
                tls(&[]),
                vec![
                    Mongodb,
                    Redis,
                    Oracle,
                    Cassandra,
                    Couchdb,
                    Influxdb,
                    Elasticsearch,
                    Tcp,
                ],
            ),
        ] {
            for db in DbType::ALL {
                assert_eq!(
                    can_be(db, &sniffed),
                    expected.contains(&db),
                    "{db:?} {sniffed:?}"
                );
            }
        }
        assert!(speaks_first(Mysql) && !speaks_first(Postgres));
        assert!(!can_be(Mysql, &Sniffed::NeedMore) && can_be(Redis, &Sniffed::NeedMore));
    }

    proptest! {
        #[test]
        fn a_decision_never_changes(
            start in prop::sample::select(starts()),
            keep in 0_usize..24,
            tail in prop::collection::vec(prop::sample::select(b"\0\0\0\x01\x03\x05\x16\x12*1\r\n$ \x07\xdd".to_vec()), 0..40),
        ) {
            let mut bytes = start.1[..keep.min(start.1.len())].to_vec();
            bytes.extend(tail);
            let mut decided = Sniffed::NeedMore;
            for end in 0..=bytes.len() {
                let sniffed = classify(&bytes[..end]);
                if decided != Sniffed::NeedMore {
                    prop_assert_eq!(&sniffed, &decided);
                }
                decided = sniffed;
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = classify(&bytes);
        }
    }
}
