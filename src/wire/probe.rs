//! Health probes without credentials: what to send to a server, and whether its answer shows that
//! it is alive.
//!
//! One table over all protocols. Invariant: no probe logs in, leaves a line in a server's log that
//! is not asked for, or counts as a failed login.

use super::reader::Reader;
use super::{cql, http_db, mongodb, mysql, postgres, printable, redis, tds, tns};
use crate::config::DbType;

pub use super::verdict::Verdict;

/// Most bytes of an answer that [`judge`] waits for.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// What to send. `None`: a connect that succeeds is the whole probe. For MySQL the caller closes by
/// RST before the greeting: a polite close counts as an abandoned handshake, and enough of those
/// block our address.
pub fn probe(db: DbType) -> Option<Vec<u8>> {
    Some(match db {
        DbType::Postgres => postgres::SSL_REQUEST.to_vec(),
        DbType::Redis => redis::PROBE.to_vec(),
        DbType::Mongodb => mongodb::probe(),
        DbType::Cassandra => cql::PROBE.to_vec(),
        DbType::Sqlserver => tds::probe(),
        DbType::Oracle => tns::probe(),
        DbType::Couchdb | DbType::Influxdb | DbType::Elasticsearch => http_db::probe(db),
        DbType::Mysql | DbType::Tcp => return None,
    })
}

/// Judges all that a server answered so far.
pub fn judge(db: DbType, answer: &[u8]) -> Verdict {
    let verdict = match db {
        DbType::Postgres => judge_postgres(answer),
        DbType::Redis => redis::judge(answer),
        DbType::Mongodb => mongodb::judge(answer),
        DbType::Cassandra => cql::judge(answer),
        DbType::Sqlserver => tds::judge(answer),
        DbType::Oracle => tns::judge(answer),
        DbType::Couchdb | DbType::Influxdb | DbType::Elasticsearch => http_db::judge(answer),
        DbType::Mysql => mysql::judge(answer),
        DbType::Tcp => Verdict::Alive,
    };
    match verdict {
        Verdict::NeedMore if answer.len() >= MAX_ANSWER_BYTES => {
            Verdict::Refused("the answer to the probe has no end".into())
        }
        verdict => verdict,
    }
}

/// The begin of a Postgres session, for [`takes_clients`].
pub fn begin_session() -> Vec<u8> {
    postgres::startup_packet(&[
        ("user", "postgres"),
        ("database", "postgres"),
        ("application_name", "harbr-router"),
    ])
}

/// Whether a Postgres server serves a client that connected when this one did, by the start of its
/// answer to [`begin_session`]. Only 57P03 says no: it starts, recovers or ends. Any other refusal
/// is about the user.
pub fn takes_clients(answer: &[u8]) -> Verdict {
    let Some((kind, rest)) = answer.split_first() else {
        return Verdict::NeedMore;
    };
    if *kind != b'E' {
        return Verdict::Alive;
    }
    let mut reader = Reader::new(rest);
    let length = reader.u32().filter(|length| *length <= MAX_ERROR_BYTES);
    match length.map(|length| reader.take((length as usize).saturating_sub(4))) {
        Some(Some(body)) => match postgres::error_field(body, b'C') {
            Some(b"57P03") => judge_postgres(answer),
            _ => Verdict::Alive,
        },
        // Longer than any error: what a server says that cannot fork.
        None if rest.len() >= 4 => judge_postgres(answer),
        Some(None) | None => Verdict::NeedMore,
    }
}

/// `S` or `N` to SSLRequest; an ErrorResponse when the server cannot start a backend.
fn judge_postgres(answer: &[u8]) -> Verdict {
    match answer.first() {
        None => Verdict::NeedMore,
        Some(b'S' | b'N') => Verdict::Alive,
        Some(b'E') => postgres_error(&answer[1..]),
        Some(_) => Verdict::Refused(format!(
            "not PostgreSQL: {}",
            printable(&answer[..answer.len().min(16)])
        )),
    }
}

/// The text of an ErrorResponse, or of the bare string that a server sends when it cannot fork.
fn postgres_error(error: &[u8]) -> Verdict {
    let mut reader = Reader::new(error);
    let Some(length) = reader.u32() else {
        return Verdict::NeedMore;
    };
    if length <= MAX_ERROR_BYTES {
        return match reader.take((length as usize).saturating_sub(4)) {
            None => Verdict::NeedMore,
            Some(body) => {
                let text = postgres::error_field(body, b'M').unwrap_or(b"no message");
                Verdict::Refused(printable(text))
            }
        };
    }
    match Reader::new(error).c_string() {
        Some(text) => Verdict::Refused(printable(text)),
        None => Verdict::NeedMore,
    }
}

/// Longest ErrorResponse believed; the first four characters of a bare string are more.
const MAX_ERROR_BYTES: u32 = 30_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_postgres_that_starts_takes_no_clients_and_one_that_refuses_the_user_does() {
        let starting = postgres::error_response("57P03", "the database system is starting up");
        for end in 0..starting.len() {
            let answer = takes_clients(&starting[..end]);
            assert_eq!(answer, Verdict::NeedMore, "{end}");
        }
        let refused = Verdict::Refused("the database system is starting up".into());
        assert_eq!(takes_clients(&starting), refused);
        for code in ["28000", "28P01", "53300", "3D000"] {
            let error = postgres::error_response(code, "no");
            assert_eq!(takes_clients(&error), Verdict::Alive, "{code}");
        }
        assert_eq!(takes_clients(b"R"), Verdict::Alive);
        let fork = b"Ecould not fork new process for connection\0";
        assert!(matches!(takes_clients(fork), Verdict::Refused(_)));
    }

    #[test]
    fn postgres_lives_when_it_answers_ssl_request() {
        assert_eq!(
            probe(DbType::Postgres).unwrap(),
            b"\0\0\0\x08\x04\xd2\x16\x2f"
        );
        assert_eq!(judge(DbType::Postgres, b""), Verdict::NeedMore);
        assert_eq!(judge(DbType::Postgres, b"S"), Verdict::Alive);
        assert_eq!(judge(DbType::Postgres, b"N"), Verdict::Alive);
        let error = postgres::error_response("53300", "sorry, too many clients already");
        assert_eq!(
            judge(DbType::Postgres, &error),
            Verdict::Refused("sorry, too many clients already".into())
        );
        assert_eq!(
            judge(DbType::Postgres, b"Ecould not fork new process\0"),
            Verdict::Refused("could not fork new process".into())
        );
        assert!(matches!(
            judge(DbType::Postgres, b"\x0a"),
            Verdict::Refused(_)
        ));
    }

    #[test]
    fn a_bare_connect_is_the_probe_where_a_server_counts_visitors() {
        assert_eq!(probe(DbType::Mysql), None);
        assert_eq!(probe(DbType::Tcp), None);
        assert_eq!(judge(DbType::Tcp, b""), Verdict::Alive);
    }

    #[test]
    fn an_answer_without_end_is_no_life() {
        let endless = vec![b'+'; MAX_ANSWER_BYTES];
        for db in DbType::ALL {
            assert_ne!(judge(db, &endless), Verdict::NeedMore, "{db:?}");
        }
    }

    #[test]
    fn each_probe_looks_like_a_client_of_its_protocol() {
        use crate::wire::sniff;
        for db in DbType::ALL {
            if let Some(bytes) = probe(db) {
                let sniffed = sniff::classify(&bytes);
                assert!(sniff::can_be(db, &sniffed), "{db:?} {sniffed:?}");
                assert_ne!(sniffed, sniff::Sniffed::NeedMore);
            }
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_judged(
            db in prop::sample::select(DbType::ALL.to_vec()),
            answer in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Verdict::Refused(text) = judge(db, &answer) {
                prop_assert!(!text.contains(char::is_control) && text.len() <= 1000);
            }
        }
    }
}
