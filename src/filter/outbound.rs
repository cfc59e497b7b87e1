//! What a filter may reach beyond its own request: another upstream of the configuration.
//!
//! Only traits: a filter opens no sockets, and this layer knows no upstreams. The code that runs
//! the gateway implements [`Outbound`] and hands it to the [`Registry`](super::Registry).
//! Invariant: a call goes over that upstream's own limits, health and balancing, and ends at its
//! deadline.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};

use crate::error::Reason;

/// Makes clients of upstreams.
pub trait Outbound: Send + Sync {
    /// A client of the upstream of this name. It may be made before the upstream is in force.
    fn client(&self, upstream: &str) -> Arc<dyn UpstreamClient>;
}

/// Sends requests to one upstream of the configuration. It follows reloads: a call goes to the
/// endpoints that are in force when it begins.
#[async_trait]
pub trait UpstreamClient: Send + Sync {
    /// Sends one request and waits for the whole response: at most 1 MiB of body, and not past
    /// `deadline`. Of the URI, path and query count; a request without `Host` gets the endpoint's;
    /// framing headers are the gateway's. Whatever status comes back is `Ok`.
    ///
    /// A call that is dropped is cut off, and says nothing about the endpoint.
    ///
    /// # Errors
    /// There was no response, and why.
    async fn call(
        &self,
        request: Request<Bytes>,
        deadline: Instant,
    ) -> Result<Response<Bytes>, OutboundError>;
}

/// Why a call got no response.
#[derive(Debug)]
pub struct OutboundError {
    reason: Reason,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl OutboundError {
    /// `message` holds nothing secret and nothing that an endpoint said.
    pub fn new(reason: Reason, message: impl Into<String>) -> OutboundError {
        OutboundError {
            reason,
            message: message.into(),
            source: None,
        }
    }

    /// The same with what caused it.
    pub fn because(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> OutboundError {
        OutboundError {
            source: Some(source.into()),
            ..self
        }
    }

    /// The word for it, as in the access log: `timeout` for a deadline that passed,
    /// `no_healthy_endpoint` for an upstream that is down, `connect_failed`, …
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

impl fmt::Display for OutboundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for OutboundError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.source {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}

/// Where nothing is served: a configuration that is only checked.
pub(super) struct NotServing;

#[async_trait]
impl UpstreamClient for NotServing {
    async fn call(&self, _: Request<Bytes>, _: Instant) -> Result<Response<Bytes>, OutboundError> {
        let message = "this configuration is not being served";
        Err(OutboundError::new(Reason::NoHealthyEndpoint, message))
    }
}
