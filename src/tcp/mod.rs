//! TCP through the gateway: database sessions from accept to their log line.
//!
//! [`session`] is the life of one session: [`opening`] (its first bytes and its route), `filtered`
//! (what the route's filters decide), then [`routed`]: [`connect`] (turn, endpoint, socket),
//! `negotiation` (of TLS, with Postgres), [`relay`] (both directions until the end). [`refuse`]
//! refuses a client in its own protocol, `login` watches a Postgres login for what a CancelRequest
//! needs, [`cancel`] finds its server, `mysql` and `threads` do so for a KILL.

pub mod cancel;
pub mod connect;
mod encryption;
mod filtered;
mod login;
mod mysql;
mod negotiation;
pub mod opening;
mod parameters;
mod postgres_idle;
pub mod refuse;
pub mod relay;
pub mod routed;
pub mod session;
mod shared;
mod stats;
mod threads;

pub use session::{Accepted, Sessions};
