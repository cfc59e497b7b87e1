//! A group of endpoints behind a route: balancing, health, limits. HTTP and TCP routes share it; of
//! their protocols it knows what a health check asks, and who is primary of a database.
//!
//! [`Upstream::pick`] gives a [`Lease`] on one [`Endpoint`]; the lease, finished with an
//! [`Outcome`], feeds passive health. [`health`] and [`discovery`] work in the background and only
//! ever change what the next pick sees. Invariants: nothing here resolves a name or waits for the
//! network during a pick; no lock is held across an await; what an upstream knows about its
//! endpoints survives a reload, and making an upstream has no effect on the one it replaces.
//!
//! One file each: `group` (an [`Upstream`]), [`endpoint`] (one of them and its vitals),
//! `endpoint_addr` (where it is reached), `set` (all of them, with the hash rings), `view` (those
//! usable now), `pick` (from a wish to a lease), `balance` (who is next), `custom` (whom a balancer
//! of the embedder's wants), `limit` (how many at once, and the queue), `eject` (out after
//! failures), `last_error`, `encryption` (who speaks TLS), `primaries` (the one of several, by its
//! `term`), `lease`, [`budget`] (retries), [`dial`] (connects), [`key`] (what is hashed), `ring`
//! (Ketama), [`probe`] (what a health check does), [`warm`] (sockets connected ahead), `report`
//! (what goes into the log, no oftener than `failure_log` allows), [`peer`] (Pingora's peer).

mod balance;
pub mod budget;
mod connect_error;
mod custom;
pub mod dial;
pub mod discovery;
mod eject;
mod encryption;
pub mod endpoint;
mod endpoint_addr;
mod failure_log;
#[cfg(test)]
mod fixture;
mod group;
pub mod health;
pub mod key;
mod last_error;
mod lease;
mod limit;
mod lock;
pub mod peer;
mod pick;
mod primaries;
pub mod probe;
mod report;
mod resolver;
mod ring;
mod set;
mod source;
mod term;
mod tune;
mod view;
pub mod warm;
mod weights;

pub use self::custom::{Balancer, Balancers, Candidate, Wish};
pub use self::encryption::Encryption;
pub use self::endpoint::{Endpoint, EndpointId, Role};
pub use self::endpoint_addr::EndpointAddr;
pub(crate) use self::failure_log::FailureLog;
pub use self::group::Upstream;
pub use self::last_error::LastError;
pub use self::lease::{Lease, Outcome};
pub use self::limit::MAX_WAITERS;
pub use self::pick::{Pick, PickError};
pub use self::set::EndpointSet;
pub use self::source::UpstreamSource;
pub use self::term::Term;
pub use self::tune::{tune, tune_listener};
