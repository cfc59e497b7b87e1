//! Pingora's `ProxyHttp`: which phase of a request is whose.
//!
//! It is the one place where Pingora's calls meet our words, and decides nothing: the request is
//! `request`, a try `dispatch` and, when it fails,
//! `failure`, the endpoint's answer `response`, the end
//! `finish`. Invariant: the snapshot is loaded once per request, and whatever way a
//! request ends, `logging` counts and records it with exactly one reason. Requests that the edge
//! refuses never come here; `server/` records those.

use std::any::Any;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderValue;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use tokio::sync::watch;

use crate::error::Reason;
use crate::http::arrival::Arrival;
use crate::http::exchange::Exchange;
use crate::http::keep_alive::KeepAliveTimes;
use crate::http::phase::{self, Phase};
use crate::http::{dispatch, failure, finish, forward, request, response};
use crate::snapshot::SnapshotHandle;
use crate::telemetry::Reporter;

/// The HTTP side of a gateway.
pub struct Proxy {
    made: Instant,
    snapshots: SnapshotHandle,
    reporter: Reporter,
    /// True while draining: responses say `Connection: close`.
    closing: watch::Receiver<bool>,
    /// The reason once the drain is over and requests are cut off.
    cut: watch::Receiver<Option<Reason>>,
    /// Its name in `Via`, from its first to its last request.
    via: HeaderValue,
    /// The same for requests that came in HTTP/2.
    via_http2: HeaderValue,
    keep_alive: KeepAliveTimes,
}

impl Proxy {
    /// Serves by the snapshot in force, and reports each request to `reporter`.
    pub fn new(
        snapshots: SnapshotHandle,
        reporter: Reporter,
        closing: watch::Receiver<bool>,
        cut: watch::Receiver<Option<Reason>>,
    ) -> Proxy {
        let via = forward::pseudonym();
        Proxy {
            made: Instant::now(),
            snapshots,
            reporter,
            closing,
            cut,
            via_http2: forward::in_http2(&via),
            via,
            keep_alive: KeepAliveTimes::new(),
        }
    }

    /// What a request adds to `Via`: the version is that of the hop before (RFC 9110, section 7.6.3).
    fn via_of(&self, ctx: &Exchange) -> &HeaderValue {
        let arrival = ctx.arrival.as_ref();
        match arrival.is_some_and(|arrival| arrival.connection.is_http2) {
            true => &self.via_http2,
            false => &self.via,
        }
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    /// Boxed, because Pingora moves it from one future into the next.
    type CTX = Box<Exchange>;

    fn new_ctx(&self) -> Self::CTX {
        Box::new(Exchange::new(self.made))
    }

    /// No modules: compression and gRPC-Web are not offered, and an empty list costs nothing.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        ctx: &mut Self::CTX,
        arrival: Box<dyn Any + Send + Sync>,
    ) {
        ctx.arrival = arrival.downcast::<Arrival>().ok().map(|arrival| *arrival);
        if let Some(arrival) = &ctx.arrival {
            ctx.begin(arrival.head_read);
        }
    }

    fn early_request_filter<'s, 'a, 'b, 'f>(
        &'s self,
        _session: &'a mut Session,
        _ctx: &'b mut Self::CTX,
    ) -> Phase<'f, Result<()>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
    {
        phase::over(Ok(()))
    }

    fn proxy_upstream_filter<'s, 'a, 'b, 'f>(
        &'s self,
        _session: &'a mut Session,
        _ctx: &'b mut Self::CTX,
    ) -> Phase<'f, Result<bool>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
    {
        phase::go_on()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        request::request(session, ctx, &self.snapshots, &self.via).await
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        dispatch::peer(session, ctx).await
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Self::CTX,
        e: Box<Error>,
    ) -> Box<Error> {
        failure::in_connect(session, ctx, e)
    }

    fn connected_to_upstream<'s, 'a, 'b, 'c, 'd, 'f>(
        &'s self,
        _session: &'a mut Session,
        reused: bool,
        _peer: &'b HttpPeer,
        fd: RawFd,
        _digest: Option<&'c Digest>,
        ctx: &'d mut Self::CTX,
    ) -> Phase<'f, Result<()>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        'c: 'f,
        'd: 'f,
    {
        phase::over(dispatch::connected(fd, reused, ctx, &self.keep_alive))
    }

    fn upstream_request_filter<'s, 'a, 'b, 'c, 'f>(
        &'s self,
        session: &'a mut Session,
        request: &'b mut RequestHeader,
        ctx: &'c mut Self::CTX,
    ) -> Phase<'f, Result<()>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        'c: 'f,
    {
        phase::over(dispatch::head(session, request, ctx, self.via_of(ctx)))
    }

    fn request_body_filter<'s, 'a, 'b, 'c, 'f>(
        &'s self,
        session: &'a mut Session,
        body: &'b mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &'c mut Self::CTX,
    ) -> Phase<'f, Result<()>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        'c: 'f,
    {
        phase::over(request::body(session, body, end_of_stream, ctx))
    }

    fn upstream_response_filter<'s, 'a, 'b, 'c, 'f>(
        &'s self,
        session: &'a mut Session,
        response: &'b mut ResponseHeader,
        ctx: &'c mut Self::CTX,
    ) -> Phase<'f, Result<()>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        'c: 'f,
    {
        phase::over(response::received(session, response, ctx))
    }

    fn response_filter<'s, 'a, 'b, 'c, 'f>(
        &'s self,
        session: &'a mut Session,
        response: &'b mut ResponseHeader,
        ctx: &'c mut Self::CTX,
    ) -> Phase<'f, Result<()>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        'c: 'f,
    {
        phase::over(response::head(
            session,
            response,
            ctx,
            *self.closing.borrow(),
            &self.keep_alive,
        ))
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        response::body(session, body, end_of_stream, ctx, &self.keep_alive)?;
        Ok(None)
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        e: Box<Error>,
        ctx: &mut Self::CTX,
        client_reused: bool,
    ) -> Box<Error> {
        failure::while_carried(peer, session, e, ctx, client_reused)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        e: &Error,
        ctx: &mut Self::CTX,
    ) -> FailToProxy {
        finish::failed(session, e, ctx).await
    }

    fn logging<'s, 'a, 'b, 'c, 'f>(
        &'s self,
        session: &'a mut Session,
        e: Option<&'b Error>,
        ctx: &'c mut Self::CTX,
    ) -> Phase<'f, ()>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        'c: 'f,
    {
        finish::log(session, e, ctx, *self.cut.borrow(), &self.reporter);
        phase::logged()
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Self::CTX, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Self::CTX,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
