//! The refusal of every protocol, in one piece. Drivers behave by its numbers.

use super::Refusal;
use crate::config::DbType;
use crate::wire::{cql, http_db, mongodb, mysql, postgres, printable, redis, tds, tns};

/// The refusal in one piece. `first` is what the client has sent so far; where the answer depends
/// on it (request ids) and it is not there, and for [`DbType::Tcp`], nothing can be said and the
/// result is empty. A [`Refuser`](super::Refuser) also leads a client that must be asked first to that point.
///
/// | database | answer |
/// |---|---|
/// | Postgres | FATAL 53300 (too many, queue), 57P03 (unavailable), 57P01 (shutting down), 08004 (no route), 28000 (not allowed) |
/// | MySQL | ERR 1040 (too many, queue), 1130 (not allowed), 1053, in place of the greeting |
/// | Redis | `-ERR <why>` |
/// | MongoDB | `ok: 0`, 91 ShutdownInProgress, 13 Unauthorized (not allowed) |
/// | Cassandra | ERROR 0x1001 Overloaded, 0x0100 Bad credentials (not allowed) |
/// | SQL Server | ERROR 17809 of class 20, 18456 (not allowed) |
/// | Oracle | REFUSE with ORA-12520 (too many, queue), 12541 (unavailable, shutting down), 12514 (no route), 12529 (not allowed) |
/// | HTTP | 503 with Retry-After, 404 (no route) or 403 (not allowed), and the product's JSON |
pub fn refuse(db: DbType, refusal: Refusal, why: &str, first: &[u8]) -> Vec<u8> {
    let why = &*printable(why.as_bytes());
    let text = text(refusal, why);
    match db {
        DbType::Postgres => {
            let state = match refusal {
                Refusal::TooManyConnections | Refusal::QueueTimeout => "53300",
                Refusal::Unavailable => "57P03",
                Refusal::ShuttingDown => "57P01",
                Refusal::NoRoute => "08004",
                Refusal::NotAllowed => "28000",
            };
            postgres::error_response(state, &postgres_text(refusal, why))
        }
        DbType::Mysql => match refusal {
            Refusal::TooManyConnections | Refusal::QueueTimeout => {
                mysql::error_before_handshake(1040, &format!("Too many connections ({why})"))
            }
            Refusal::NotAllowed => mysql::error_before_handshake(1130, &text),
            _ => {
                mysql::error_before_handshake(1053, &format!("Server shutdown in progress ({why})"))
            }
        },
        DbType::Redis => redis::error_reply(why),
        DbType::Mongodb => match refusal {
            Refusal::NotAllowed => mongodb::unauthorized(&text, first),
            _ => mongodb::shutdown_in_progress(&text, first),
        }
        .unwrap_or_default(),
        DbType::Cassandra => match refusal {
            Refusal::NotAllowed => cql::bad_credentials(&text, first),
            _ => cql::overloaded(&text, first),
        }
        .unwrap_or_default(),
        DbType::Sqlserver => tds::fatal_error(tds_number(refusal), &text, TDS_VERSION),
        DbType::Oracle => {
            let code = match refusal {
                Refusal::TooManyConnections | Refusal::QueueTimeout => 12520,
                Refusal::Unavailable | Refusal::ShuttingDown => 12541,
                Refusal::NoRoute => 12514,
                Refusal::NotAllowed => 12529,
            };
            tns::refuse(code, why)
        }
        DbType::Couchdb | DbType::Influxdb | DbType::Elasticsearch => {
            http_db::response(db, refusal, why, first)
        }
        DbType::Tcp => Vec::new(),
    }
}

/// Too many connections, or a login that failed.
pub(super) fn tds_number(refusal: Refusal) -> i32 {
    match refusal {
        Refusal::NotAllowed => 18456,
        _ => 17809,
    }
}

fn postgres_text(refusal: Refusal, why: &str) -> String {
    match refusal {
        Refusal::TooManyConnections | Refusal::QueueTimeout => {
            format!("sorry, too many clients already ({why})")
        }
        Refusal::Unavailable => format!("the database system is not available ({why})"),
        Refusal::ShuttingDown => {
            format!("terminating connection due to administrator command ({why})")
        }
        Refusal::NoRoute => format!("no route matches this connection ({why})"),
        Refusal::NotAllowed => format!("this connection is not allowed ({why})"),
    }
}

/// For the protocols that have no text of their own for it.
pub(super) fn text(refusal: Refusal, why: &str) -> String {
    match refusal {
        Refusal::TooManyConnections | Refusal::QueueTimeout => {
            format!("too many connections ({why})")
        }
        Refusal::Unavailable => format!("the server is not available ({why})"),
        Refusal::ShuttingDown => format!("the server is shutting down ({why})"),
        Refusal::NoRoute => format!("no route matches this connection ({why})"),
        Refusal::NotAllowed => format!("this connection is not allowed ({why})"),
    }
}

/// Spoken when a client has not said its own: 7.4.
pub(super) const TDS_VERSION: u32 = 0x7400_0004;
