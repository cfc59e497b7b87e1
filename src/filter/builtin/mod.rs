//! The filters that come with the gateway; each one a file, and a model to copy.
//!
//! A file here is `Settings` (with its documentation, defaults and schema), `make`, which checks
//! them, and the filter itself with the phases it takes part in. Invariant: what can be found wrong
//! is found by `make`, so that a request only meets what was prepared.

mod basic_auth;
mod buckets;
mod credentials;
mod field_names;
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

pub use self::basic_auth::User;
pub use self::request_id::RequestId;
use super::registry::{Author, Registry};

impl Registry {
    /// The filter types that come with this crate, and no others.
    pub fn built_in() -> Registry {
        let mut registry = Registry::default();
        registry.http("headers", headers::make);
        registry.http("request_id", request_id::make);
        registry.http("rewrite", rewrite::make);
        registry.http("respond", respond::make);
        registry.http("ip_access", ip_access::make);
        registry.http("rate_limit", rate_limit::make);
        registry.http_with_files("basic_auth", basic_auth::make);
        for kind in registry.kinds.values_mut() {
            kind.author = Author::BuiltIn;
        }
        registry
    }
}
