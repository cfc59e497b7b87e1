//! HTTP through the gateway: what happens to one request between its head and its log line.
//!
//! [`proxy`] is Pingora's `ProxyHttp`, a few lines in each phase; what it decides is decided in
//! [`retry`] (whether to send again), [`respond`] (which status), [`deadline`] (how long),
//! [`forward`] (what changes on the way) and by the route's own [`filters`]. [`exchange`] is the state of one request,
//! and `client` says who sent it. [`outbound`] sends what filters ask of other upstreams.

pub mod arrival;
mod blame;
mod client;
pub mod deadline;
pub mod end;
pub mod exchange;
pub mod fields;
mod filtering;
pub mod filters;
pub mod forward;
mod keep_alive;
mod matching;
pub mod outbound;
mod phases;
pub mod proxy;
mod record;
pub mod respond;
pub mod retry;

pub use arrival::Arrival;
pub use proxy::Proxy;
