//! HTTP through the gateway: what happens to one request between its head and its log line.
//!
//! [`proxy`] is Pingora's `ProxyHttp` and delegates each phase: `request` is what the client sent,
//! `dispatch` a try on its way to an endpoint, `failure` a try that failed, `response` the endpoint's
//! answer, `finish` the end. What they decide is decided in [`retry`] (whether to send again),
//! [`respond`] (which status), [`deadline`] (how long), [`forward`] (what changes on the way) and by
//! the route's own [`filters`]. [`exchange`] is the state of one request, and `client` who sent it.
//! [`outbound`] sends what filters ask of other upstreams.

pub mod arrival;
mod client;
pub mod deadline;
mod dispatch;
pub mod end;
pub mod exchange;
mod failure;
pub mod fields;
mod filtering;
pub mod filters;
mod finish;
pub mod forward;
mod keep_alive;
mod matching;
pub mod outbound;
mod phase;
pub mod proxy;
mod record;
mod request;
pub mod respond;
mod response;
pub mod retry;

pub use arrival::Arrival;
pub use proxy::Proxy;
