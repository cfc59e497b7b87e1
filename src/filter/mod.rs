//! User code in a route's path: filters for HTTP requests and for TCP sessions.
//!
//! A [`Filter`] sees one HTTP request in six phases; a [`TcpFilter`] sees one session begin and end.
//! Either is registered in a [`Registry`] under the name that `filters: [{type: …}]` uses. Protocol
//! work is not done here: `http/` and `tcp/` call a route's chain at the right moments. Invariants:
//! a filter that fails or panics costs its own request and nothing else; framing headers are the
//! gateway's. [`guide`] is the chapter on how to write one.

mod bad_setting;
mod build;
mod builtin;
mod catch_panic;
mod chain;
mod compile;
mod context;
mod dry_run;
mod files;
mod from_fn;
mod outbound;
mod phases;
mod registry;
mod response;
mod result;
mod schema;
mod skipped_phases;
mod tasks;
mod tcp;
mod tcp_chain;

#[doc = include_str!("guide.md")]
pub mod guide {}

pub use self::bad_setting::BadSetting;
pub use self::build::Build;
pub use self::builtin::{RequestId, User};
pub use self::chain::{Chain, Failed, Normalise};
pub use self::compile::Chains;
pub(crate) use self::context::FRAMING;
pub use self::context::{Attempt, Context, RequestHead, ResponseHead};
pub use self::dry_run::{DryRun, DryRunRequest};
pub use self::files::Files;
pub use self::from_fn::{
    FromAsyncFn, FromFn, FromResponseFn, from_async_fn, from_fn, from_response_fn,
};
pub use self::outbound::{Outbound, OutboundError, UpstreamClient};
pub use self::phases::{End, Filter, Last, Phases, Verdict};
pub use self::registry::Registry;
pub use self::response::Response;
pub use self::result::Result;
pub use self::tcp::{TcpContext, TcpEnd, TcpFilter, TcpVerdict};
pub use self::tcp_chain::{Passage, TcpChain};
