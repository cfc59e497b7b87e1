//! Logging in to a server to learn its role, without a socket.
//!
//! Its own module because a check with a password is a conversation, where a probe is one question.
//! Invariant: a login reads bounded messages, runs one query that changes nothing, and leaves
//! politely; no secret gets into an error text. Called by the health checks of TCP upstreams, which
//! own the socket and the time.
//!
//! Passwords go over the connection as the server asks: PostgreSQL's `password` method and Redis
//! send them in clear.

mod mongodb;
mod mysql;
mod postgres;
mod redis;
mod scram;

use crate::config::DbType;

/// What a server is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows a primary, or was set to be read only.
    Replica,
}

/// How many promotions a primary's history has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// Which history: terms of others mean nothing beside it.
    pub group: u64,
    pub number: u64,
}

/// What to do next in a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginStep {
    /// Read more of the server.
    NeedMore,
    /// Write this, then read more.
    Send(Vec<u8>),
    /// Logged in and answered. Write the farewell (it may be empty) and close.
    Done { role: Role, farewell: Vec<u8> },
    /// Close. The text is fit for a log: what the server said, or what it lacks.
    Failed(String),
}

/// One login, from the connect to the farewell. After [`LoginStep::Done`] or
/// [`LoginStep::Failed`] it is over.
pub trait Login: Send {
    /// What to write at once; empty where the server speaks first.
    fn start(&mut self) -> Vec<u8>;

    /// Takes the server's next bytes, cut anywhere.
    fn advance(&mut self, bytes: &[u8]) -> LoginStep;

    /// Of a primary, once done: its term, where it has one and says it.
    fn term(&self) -> Option<Term> {
        None
    }

    /// Leaves the term out: for servers that were asked for it before and do not know it.
    fn spare_term(&mut self) {}
}

/// The login for this database. `None` where there is no role to learn (Cassandra, SQL Server,
/// Oracle, the HTTP ones, plain TCP).
///
/// MongoDB says its role to everybody, Redis without a password does too: `user` and `password` are
/// left out there. PostgreSQL is asked in its database `postgres`.
pub fn login(db: DbType, user: Option<&str>, password: Option<&str>) -> Option<Box<dyn Login>> {
    let word = password.unwrap_or_default();
    match db {
        DbType::Postgres => Some(Box::new(postgres::PostgresLogin::new(user?, word))),
        DbType::Mysql => Some(Box::new(mysql::MysqlLogin::new(user?, word))),
        DbType::Redis => Some(Box::new(redis::RedisLogin::new(user, password))),
        DbType::Mongodb => Some(Box::new(mongodb::MongodbLogin::new())),
        _ => None,
    }
}

/// Most bytes of a server held at once.
const MAX_HELD_BYTES: usize = 64 * 1024;

/// Most bytes read in one login.
const MAX_READ_BYTES: usize = 1024 * 1024;

/// What a server sent and the login has not consumed; bounded.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    read: usize,
}

impl Held {
    /// Adds to what is held; an error when the server sends more than any login takes.
    fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.read = self.read.saturating_add(bytes.len());
        if self.read > MAX_READ_BYTES || self.bytes.len() + bytes.len() > MAX_HELD_BYTES {
            return Err("the server sent more than a login needs".into());
        }
        self.bytes.extend(bytes);
        Ok(())
    }

    fn consume(&mut self, count: usize) {
        self.bytes.drain(..count);
    }
}

#[cfg(test)]
mod fixture {
    use super::*;

    /// Feeds `bytes` in pieces of `step`: everything written, and how it ended.
    pub(super) fn feed(login: &mut dyn Login, bytes: &[u8], step: usize) -> (Vec<u8>, LoginStep) {
        let mut written = Vec::new();
        let mut last = LoginStep::NeedMore;
        'pieces: for piece in bytes.chunks(step.max(1)) {
            // What a server says too early is looked at once it is its turn, however it was cut.
            let mut fresh = piece;
            loop {
                last = login.advance(fresh);
                match &last {
                    LoginStep::NeedMore => break,
                    LoginStep::Send(bytes) => written.extend(bytes),
                    LoginStep::Done { farewell, .. } => {
                        written.extend(farewell);
                        break 'pieces;
                    }
                    LoginStep::Failed(_) => break 'pieces,
                }
                fresh = &[];
            }
        }
        (written, last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn there_is_a_login_where_there_is_a_role() {
        for db in DbType::ALL {
            let has_role = matches!(
                db,
                DbType::Postgres | DbType::Mysql | DbType::Redis | DbType::Mongodb
            );
            assert_eq!(
                login(db, Some("u"), Some("p")).is_some(),
                has_role,
                "{db:?}"
            );
        }
        assert!(login(DbType::Postgres, None, Some("p")).is_none());
        assert!(login(DbType::Redis, None, None).is_some());
    }

    #[test]
    fn a_server_without_end_fails_the_login() {
        for (db, noise) in [
            (DbType::Postgres, &b"N\0\0\0\x08abcd"[..]),
            (DbType::Mysql, b"\x01\x00\x00\x00\x0a"),
            (DbType::Redis, b"$60000\r\nx"),
            (DbType::Mongodb, b"\xff\xff\x00\x00"),
        ] {
            let mut login = login(db, Some("u"), Some("p")).unwrap();
            login.start();
            let mut steps = 0;
            while !matches!(login.advance(noise), LoginStep::Failed(_)) {
                steps += 1;
                assert!(steps < MAX_READ_BYTES, "{db:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_server_is_survived_at_any_cut(
            db in prop::sample::select(vec![DbType::Postgres, DbType::Mysql, DbType::Redis, DbType::Mongodb]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            step in 1_usize..40,
        ) {
            let mut whole = login(db, Some("u"), Some("p")).unwrap();
            let mut cut = login(db, Some("u"), Some("p")).unwrap();
            whole.start();
            cut.start();
            let (_, whole) = fixture::feed(whole.as_mut(), &bytes, bytes.len());
            let (_, cut) = fixture::feed(cut.as_mut(), &bytes, step);
            prop_assert_eq!(
                matches!(whole, LoginStep::Failed(_)),
                matches!(cut, LoginStep::Failed(_))
            );
        }
    }
}
