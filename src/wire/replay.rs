//! Which first bytes of a client may be sent to a second server, because they have no effect on the
//! first.
//!
//! One question over all protocols; a wrong yes runs a command twice. Invariant: no unless every
//! byte is known to be without effect; what cannot be read is a no. Asked by TCP sessions whose
//! connection was gone before the server had answered.

use super::{mongodb, postgres, redis, tls};
use crate::config::DbType;

/// Whether `sent`, which is all that a client of `db` has sent, does nothing at a server but begin
/// a session, so that it may be sent again although a server may have read it.
///
/// | database | what |
/// |---|---|
/// | Postgres | SSLRequest, GSSENCRequest, StartupMessage, passwords |
/// | Redis | HELLO, AUTH, PING, SELECT, COMMAND, and CLIENT where it concerns no other connection |
/// | MongoDB | `hello`, `isMaster` |
/// | these three | a ClientHello of TLS, without early data |
pub fn is_harmless(db: DbType, sent: &[u8]) -> bool {
    let is_start = match db {
        DbType::Postgres => postgres::only_starts,
        DbType::Redis => redis::only_sets_up,
        DbType::Mongodb => mongodb::only_says_hello,
        DbType::Mysql
        | DbType::Oracle
        | DbType::Sqlserver
        | DbType::Cassandra
        | DbType::Couchdb
        | DbType::Influxdb
        | DbType::Elasticsearch
        | DbType::Tcp => return sent.is_empty(),
    };
    sent.is_empty() || is_start(sent) || tls::is_only_hello(sent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::redis::write_command;

    #[test]
    fn a_client_that_said_nothing_may_have_another_server() {
        for db in ALL {
            assert!(is_harmless(db, b""), "{db:?}");
        }
    }

    #[test]
    fn of_other_protocols_nothing_is_sent_again() {
        for db in [DbType::Tcp, DbType::Mysql, DbType::Elasticsearch] {
            for sent in [&b"PING\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"] {
                assert!(!is_harmless(db, sent), "{db:?}");
            }
        }
    }

    #[test]
    fn a_hello_of_tls_is_harmless_until_something_follows_it() {
        // Handshake, 3.1: a record with a ClientHello that has no extensions.
        let mut message = vec![1, 0, 0, 41, 3, 3];
        message.extend([7; 32]);
        message.extend(b"\0\0\x02\x13\x01\x01\0");
        let mut hello = vec![22, 3, 1, 0, message.len() as u8];
        hello.extend(&message);
        for db in [DbType::Postgres, DbType::Redis, DbType::Mongodb] {
            for end in 1..=hello.len() {
                assert!(is_harmless(db, &hello[..end]) || end < 6, "{db:?} {end}");
            }
            assert!(is_harmless(db, &hello), "{db:?}");
            let early_data = [&hello[..], b"\x17\x03\x03\0\x04INCR"].concat();
            assert!(!is_harmless(db, &early_data), "{db:?}");
        }
    }

    proptest! {
        /// Whatever harmless commands stand around it.
        #[test]
        fn one_command_with_an_effect_makes_all_of_it_harmful(
            before in prop::collection::vec(harmless(), 0..4),
            after in prop::collection::vec(harmless(), 0..4),
            effect in prop_oneof![
                Just(write_command(&["INCR", "n"])),
                Just(write_command(&["multi"])),
                Just(write_command(&["CLIENT", "KILL", "TYPE", "normal"])),
                Just(b"incr n\r\n".to_vec()),
                Just(b"  \tLPUSH l x\n".to_vec()),
                Just(b"\"INCR\" n\r\n".to_vec()),
            ],
        ) {
            let (before, after) = (before.concat(), after.concat());
            let harmless = [&before[..], &after].concat();
            prop_assert!(is_harmless(DbType::Redis, &harmless));
            let sent = [&before[..], &effect, &after].concat();
            prop_assert!(!is_harmless(DbType::Redis, &sent));
        }

        #[test]
        fn nothing_makes_it_panic(sent in prop::collection::vec(any::<u8>(), 0..80)) {
            for db in ALL {
                is_harmless(db, &sent);
            }
        }
    }

    const ALL: [DbType; 6] = [
        DbType::Postgres,
        DbType::Redis,
        DbType::Mongodb,
        DbType::Mysql,
        DbType::Cassandra,
        DbType::Tcp,
    ];

    fn harmless() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(write_command(&["HELLO", "3", "AUTH", "default", "INCR"])),
            Just(write_command(&[
                "client",
                "SetInfo",
                "LIB-NAME",
                "\r\nINCR n\r\n"
            ])),
            Just(write_command(&["SELECT", "2"])),
            Just(write_command(&["AUTH", "INCR n"])),
            Just(b"ping\r\n".to_vec()),
            Just(b"COMMAND DOCS\n".to_vec()),
        ]
    }
}
