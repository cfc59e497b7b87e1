//! What an upstream carries: HTTP, or the protocol of TCP routes.

use crate::config::model::DbType;

/// What an upstream carries for the routes that use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    Http,
    Tcp(DbType),
}
