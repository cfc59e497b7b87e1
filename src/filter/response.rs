//! What a filter answers a request with.
//!
//! Invariant: a refusal names a [`Reason`] and no status; statuses are chosen in `http/respond.rs`
//! only.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::error::Reason;

/// An answer instead of the upstream's.
#[derive(Clone, Debug)]
pub struct Response {
    /// `None`: the gateway's own problem document for `reason`, with its status.
    pub status: Option<StatusCode>,
    /// Framing headers among them (`Content-Length`, `Transfer-Encoding`, `Connection`) are ignored.
    pub headers: HeaderMap,
    /// Sent whole with its length; ignored where `status` is `None`.
    pub body: Bytes,
    /// The word for the access log and the metrics.
    pub reason: Reason,
    /// Where the gateway answers for `reason`: which rule the client broke, for the client to read.
    pub detail: Option<&'static str>,
    /// Why it cannot be sent.
    pub(crate) wrong: Option<String>,
}

impl Response {
    /// An answer of the filter's own, empty so far. Its reason is `ok`, from 400 on
    /// `filter_refused`.
    pub fn new(status: StatusCode) -> Response {
        Response {
            status: Some(status),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            reason: match status.as_u16() {
                ..400 => Reason::Ok,
                _ => Reason::FilterRefused,
            },
            detail: None,
            wrong: None,
        }
    }

    /// The gateway's own refusal for `reason`, as `application/problem+json`.
    pub fn refusal(reason: Reason) -> Response {
        Response {
            status: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            reason,
            detail: None,
            wrong: None,
        }
    }

    /// The same refusal, with why for the client to read.
    pub fn because(self, detail: &'static str) -> Response {
        Response {
            detail: Some(detail),
            ..self
        }
    }

    /// The same with a body.
    pub fn body(self, body: impl Into<Bytes>) -> Response {
        Response {
            body: body.into(),
            ..self
        }
    }

    /// The same with one header more. Texts and numbers will do as well as the types of `http`; one
    /// that cannot be a header makes the answer an error of the filter.
    pub fn header<N, V>(mut self, name: N, value: V) -> Response
    where
        N: TryInto<HeaderName, Error: Into<http::Error>>,
        V: TryInto<HeaderValue, Error: Into<http::Error>>,
    {
        let name = name.try_into().map_err(Into::into);
        let value = value.try_into().map_err(Into::into);
        match name.and_then(|name| Ok((name, value?))) {
            Ok((name, value)) => _ = self.headers.append(name, value),
            Err(wrong) => self.wrong = Some(wrong.to_string()),
        }
        self
    }
}
