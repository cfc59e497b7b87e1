//! What a client reads when it cannot be served: its own protocol's refusal, never a bare reset.
//!
//! [`refuse`] is the table over all protocols, [`Refuser`] the state machine that reads up to it.
//! Invariant: at most [`MAX_HELD_BYTES`] of a client are held, and every refusal ends: in
//! [`Step::Done`], after a bounded number of bytes.

mod kind;
mod refuser;
mod table;
#[cfg(test)]
mod tests;

pub use kind::Refusal;
pub use refuser::{MAX_HELD_BYTES, OnTls, Refuser, Step};
pub use table::refuse;

/// Whether what a Redis server said may end like this: with a whole line.
pub fn ends_redis(last: [u8; 6]) -> bool {
    last.ends_with(b"\r\n")
}

/// Whether what a PostgreSQL server said instead of an answer may end like this: the last field of an
/// ErrorResponse, and the end of its fields.
pub fn ends_postgres(last: [u8; 6]) -> bool {
    last.ends_with(b"\0\0")
}
