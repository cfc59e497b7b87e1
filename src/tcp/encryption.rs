//! How TLS stands with a Postgres client, and what its session is once that is settled.

use bytes::Bytes;

use crate::wire::postgres::CancelKey;

/// How TLS stands with a Postgres client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostgresTls {
    /// It did not ask.
    No,
    /// Its request goes to the server, which answers for itself.
    Asked,
    /// We answered `S` in the server's name; the server must answer the same.
    Promised,
    /// We answered `N`, as all servers of the route did of late; the server must answer the same.
    Denied,
}

/// How a session goes on after its client asked for TLS.
pub(super) enum Settled {
    /// In TLS: what follows cannot be read.
    Encrypted,
    /// In clear, with what the server has said already; its client has sent its next packet.
    InClear(Bytes),
    /// It is no session.
    Cancel(CancelKey),
}
