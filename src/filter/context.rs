//! What a filter sees of its request, and what it may change.
//!
//! Invariants: headers that frame a message belong to the gateway and cannot be set here; what a
//! client sent is read as `http` types, never as Pingora's, but for one named way out.

use std::net::IpAddr;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::Result;
use crate::tls::ClientTls;

/// One request, as a filter sees it.
pub struct Context<'a> {
    pub(crate) session: &'a mut Session,
    pub(crate) client: Option<IpAddr>,
    /// The peer is in `trusted_proxies`.
    pub(crate) trusted: bool,
    pub(crate) tls: Option<&'a ClientTls>,
    pub(crate) route: &'a str,
    pub(crate) upstream: &'a str,
    pub(crate) endpoint: Option<&'a str>,
    pub(crate) tries: u32,
    /// Path and query as matched; sent behind the endpoint's own path.
    pub(crate) target: &'a mut String,
    /// The prefix of the route, where it was taken out of the target; else empty.
    pub(crate) stripped: &'a str,
    /// The target before this filter chose another.
    pub(crate) replaced: Option<String>,
    pub(crate) extensions: &'a mut Extensions,
    pub(crate) attempt: &'a mut Attempt,
    /// The filter that is called has said that it has nothing to do in this phase.
    pub(crate) idle: bool,
}

/// What belongs to one try of a request; empty again when the next one begins.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    /// Values by their type, which filters reach by [`Context::attempt`].
    pub extensions: Extensions,
}

impl Context<'_> {
    /// The client: the peer of the connection, or the address that a trusted proxy named. `None`
    /// where such a proxy names none that can be read: it must not get what a known client may.
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.client
    }

    /// What the client's TLS handshake settled, its certificate included; `None` without TLS.
    pub fn tls(&self) -> Option<&ClientTls> {
        self.tls
    }

    /// `http` or `https`: what the client speaks, to us or to the first of the trusted proxies.
    pub fn scheme(&self) -> &'static str {
        let sent = self.session.req_header().headers.get(&X_FORWARDED_PROTO);
        let sent = sent.filter(|_| self.trusted).map(HeaderValue::as_bytes);
        let first = sent.and_then(|sent| sent.split(|byte| *byte == b',').next());
        let is_https = match first {
            Some(first) => first.trim_ascii().eq_ignore_ascii_case(b"https"),
            None => self.tls.is_some(),
        };
        if is_https { "https" } else { "http" }
    }

    /// The route's key as written.
    pub fn route(&self) -> &str {
        self.route
    }

    /// The upstream's name, or the route's key.
    pub fn upstream(&self) -> &str {
        self.upstream
    }

    /// The endpoint of the last try as written, once there was one.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint
    }

    /// Tries so far, the current one included: 0 in the request phase.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// The request's head as it is now.
    pub fn request(&self) -> &http::request::Parts {
        self.session.req_header()
    }

    /// The request's head, to be changed. Takes effect for every try when changed in the request
    /// phase, and none later.
    pub fn request_mut(&mut self) -> RequestHead<'_> {
        RequestHead {
            head: self.session.req_header_mut(),
            of: Of::Client,
        }
    }

    /// Path and query as matched, normalised, and as they will be sent (behind a path of the
    /// endpoint's URL).
    pub fn target(&self) -> &str {
        self.target
    }

    /// Sends another path and query. Normalised again; one that cannot be is this filter's error.
    /// Only in the request phase.
    pub fn set_target(&mut self, target: impl Into<String>) {
        let before = std::mem::replace(self.target, target.into());
        self.replaced.get_or_insert(before);
    }

    /// Anything by its type, kept with the request: for this filter's later phases, and for others.
    pub fn extensions(&self) -> &Extensions {
        self.extensions
    }

    /// The same, to insert into or to remove from.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        self.extensions
    }

    /// The same for one try: empty when a request is sent once more.
    pub fn attempt(&mut self) -> &mut Extensions {
        &mut self.attempt.extensions
    }

    /// Says, in a phase that [`Filter::phases`](super::Filter::phases) leaves out, that this filter
    /// does nothing in it for any request: it is not called there again. Every method of `Filter`
    /// that is not written says so. Changes nothing in a phase that is not left out.
    pub fn take_no_part(&mut self) {
        self.idle = true;
    }

    /// The way out: Pingora's own session. Nothing about it is promised by this crate's version.
    pub fn pingora(&mut self) -> &mut Session {
        self.session
    }
}

/// The head of a request that may be changed, but for its framing.
pub struct RequestHead<'a> {
    head: &'a mut RequestHeader,
    of: Of,
}

/// Whose head it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// The client's, by which its body is read.
    Client,
    /// A try's own.
    Try,
}

impl<'a> RequestHead<'a> {
    /// The head of one try, a copy of the client's.
    pub(crate) fn of_try(head: &'a mut RequestHeader) -> RequestHead<'a> {
        RequestHead { head, of: Of::Try }
    }

    /// As the client sent it; filters cannot change it.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// The target as the client sent it; in `upstream_request`, the one that the endpoint gets.
    pub fn uri(&self) -> &Uri {
        &self.head.uri
    }

    /// The header fields with the changes of earlier filters.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Replaces all values of `name`. Texts and numbers will do as well as the types of `http`.
    ///
    /// # Errors
    /// A name or a value that cannot be one, or a name that is the gateway's.
    pub fn set<N, V>(&mut self, name: N, value: V) -> Result<()>
    where
        N: TryInto<HeaderName, Error: Into<http::Error>>,
        V: TryInto<HeaderValue, Error: Into<http::Error>>,
    {
        let (name, value) = (allowed(name)?, parsed(value)?);
        Ok(self.head.insert_header(name, value)?)
    }

    /// Adds one more value, as [`set`](Self::set).
    ///
    /// # Errors
    /// As `set`.
    pub fn add<N, V>(&mut self, name: N, value: V) -> Result<()>
    where
        N: TryInto<HeaderName, Error: Into<http::Error>>,
        V: TryInto<HeaderValue, Error: Into<http::Error>>,
    {
        let (name, value) = (allowed(name)?, parsed(value)?);
        self.head.append_header(name, value)?;
        Ok(())
    }

    /// Removes all values.
    ///
    /// # Errors
    /// A name that cannot be one, or is the gateway's.
    pub fn remove<N>(&mut self, name: N) -> Result<()>
    where
        N: TryInto<HeaderName, Error: Into<http::Error>>,
    {
        let name = allowed(name)?;
        self.head.remove_header(&name);
        Ok(())
    }

    /// The body's length is no longer what the client said: it is sent in chunks. For a filter that
    /// changes bodies. Changes nothing where there is no body.
    ///
    /// # Errors
    /// Outside of [`Filter::upstream_request`](super::Filter::upstream_request): there the head says
    /// how the client's own body is read.
    pub fn stream_body(&mut self) -> Result<()> {
        if self.of == Of::Client {
            return Err("stream_body is for the phase upstream_request".into());
        }
        let length = self.head.headers.get(header::CONTENT_LENGTH);
        if length.is_some_and(|length| length != "0") {
            self.head.remove_header(&header::CONTENT_LENGTH);
            self.head
                .insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        Ok(())
    }
}

/// The head of a response that may be changed, but for its framing.
pub struct ResponseHead<'a> {
    head: &'a mut ResponseHeader,
}

impl<'a> ResponseHead<'a> {
    pub(crate) fn new(head: &'a mut ResponseHeader) -> ResponseHead<'a> {
        ResponseHead { head }
    }

    /// Of the endpoint's response, or of the one that a filter or the gateway made.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The header fields with the changes of the filters that were called before this one.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Replaces all values of `name`. Texts and numbers will do as well as the types of `http`.
    ///
    /// # Errors
    /// A name or a value that cannot be one, or a name that is the gateway's.
    pub fn set<N, V>(&mut self, name: N, value: V) -> Result<()>
    where
        N: TryInto<HeaderName, Error: Into<http::Error>>,
        V: TryInto<HeaderValue, Error: Into<http::Error>>,
    {
        let (name, value) = (allowed(name)?, parsed(value)?);
        Ok(self.head.insert_header(name, value)?)
    }

    /// Adds one more value, as [`set`](Self::set).
    ///
    /// # Errors
    /// As `set`.
    pub fn add<N, V>(&mut self, name: N, value: V) -> Result<()>
    where
        N: TryInto<HeaderName, Error: Into<http::Error>>,
        V: TryInto<HeaderValue, Error: Into<http::Error>>,
    {
        let (name, value) = (allowed(name)?, parsed(value)?);
        self.head.append_header(name, value)?;
        Ok(())
    }

    /// Removes all values.
    ///
    /// # Errors
    /// A name that cannot be one, or is the gateway's.
    pub fn remove<N>(&mut self, name: N) -> Result<()>
    where
        N: TryInto<HeaderName, Error: Into<http::Error>>,
    {
        let name = allowed(name)?;
        self.head.remove_header(&name);
        Ok(())
    }

    /// The body's length is no longer what the endpoint said: it is sent in chunks. For a filter
    /// that changes bodies. Changes nothing for a status that has no body.
    pub fn stream_body(&mut self) -> Result<()> {
        let status = self.head.status;
        let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        if status.is_informational() || bodiless.contains(&status) {
            return Ok(());
        }
        self.head.remove_header(&header::CONTENT_LENGTH);
        Ok(self
            .head
            .insert_header(header::TRANSFER_ENCODING, "chunked")?)
    }
}

fn parsed<T, V>(text: V) -> Result<T>
where
    V: TryInto<T, Error: Into<http::Error>>,
{
    text.try_into().map_err(|wrong| wrong.into().into())
}

/// Two sides that disagree on where a message ends are how requests are smuggled (RFC 9112,
/// section 11.2).
fn allowed<N>(name: N) -> Result<HeaderName>
where
    N: TryInto<HeaderName, Error: Into<http::Error>>,
{
    let name: HeaderName = parsed(name)?;
    match FRAMING.contains(&name) {
        true => Err(format!("`{name}` belongs to the gateway and cannot be changed").into()),
        false => Ok(name),
    }
}

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What a filter cannot set, add or remove.
pub(crate) const FRAMING: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
];
