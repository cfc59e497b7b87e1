//! Logging in to a server to learn its role, without a socket.
//!
//! A check with a password is a conversation, where a probe is one question. Invariant: a login
//! reads bounded messages, runs only queries that change nothing, and closes as its protocol
//! prescribes; no secret gets into an error text.
//!
//! Passwords go over the connection as the server asks: PostgreSQL's `password` method and Redis
//! send them in clear.

mod conversation;
#[cfg(test)]
mod fixture;
mod mongodb;
mod mysql;
mod postgres;
mod redis;
mod scram;

use crate::config::DbType;

pub use conversation::{Login, LoginStep, Role, Term};

/// The login for this database. `None` where there is no role to learn (Cassandra, SQL Server,
/// Oracle, the HTTP ones, plain TCP).
///
/// MongoDB says its role without a login, Redis without a password does too: `user` and `password`
/// are left out there. PostgreSQL is asked in its database `postgres`.
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
