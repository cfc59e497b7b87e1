//! The filters that come with the gateway; each one a file, and a model to copy.
//!
//! A file here is `Settings` (with its documentation, defaults and schema), `make`, which checks
//! them, and the filter itself with the phases it takes part in. Invariant: what can be found wrong
//! is found by `make`, so that a request only meets what was prepared. Registered into every
//! registry by [`register`].

mod basic_auth;
mod buckets;
mod credentials;
mod headers;
mod ip_access;
mod location;
mod rate_limit;
mod replacement;
mod request_id;
mod respond;
mod rewrite;
mod target;
mod template;
mod users;

#[cfg(test)]
mod fixture;

use http::HeaderName;

pub use self::basic_auth::User;
pub use self::request_id::RequestId;
use super::context::FRAMING;
use super::{Registry, Result};

/// Adds all of them.
pub(super) fn register(registry: &mut Registry) {
    registry.http("headers", headers::make);
    registry.http("request_id", request_id::make);
    registry.http("rewrite", rewrite::make);
    registry.http("respond", respond::make);
    registry.http("ip_access", ip_access::make);
    registry.http("rate_limit", rate_limit::make);
    registry.http_with_files("basic_auth", basic_auth::make);
}

/// The name of a header that a filter may change.
fn header_name(text: &str) -> Result<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        let shown = text.escape_debug();
        return Err(format!("`{shown}` is not the name of a header").into());
    };
    match FRAMING.contains(&name) {
        true => Err(format!("`{name}` belongs to the gateway and cannot be changed").into()),
        false => Ok(name),
    }
}
