//! Pingora's `ProxyHttp`: the phases of one request, each a few lines.
//!
//! Its own file because it is the one place where Pingora's calls meet our words. It decides
//! nothing itself: matching is `route/`, picking `upstream/`, sending again `retry.rs`, statuses
//! `respond.rs`. Invariant: the snapshot is loaded once per request, and whatever way a request
//! ends, `logging` counts and records it with exactly one reason. Requests that the edge refuses
//! never come here; `server/` records those. It is over 400 lines because the trait has a dozen phases.

use std::any::Any;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderValue;
use log::{debug, warn};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use tokio::sync::watch;

use crate::config::Target;
use crate::error::{Fault, Reason};
use crate::filter::Failed;
use crate::http::arrival::Arrival;
use crate::http::blame;
use crate::http::client::{Client, is_trusted};
use crate::http::end::{End, brief, connect_failure};
use crate::http::exchange::{Exchange, Next, Silence};
use crate::http::fields::Fields;
use crate::http::filters::{self, Requested};
use crate::http::forward;
use crate::http::keep_alive::KeepAliveTimes;
use crate::http::matching::{content_length, hash_key, matched};
use crate::http::phases::{self, Phase, final_response, last, sendable};
use crate::http::respond;
use crate::http::retry::Failure;
use crate::route::Route;
use crate::snapshot::SnapshotHandle;
use crate::telemetry::Reporter;
use crate::upstream::peer::{HopByHop, PeerTimeouts, Reuse, http_peer};
use crate::upstream::{Lease, Outcome, Pick};

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
    keep_alive: KeepAliveTimes,
}

impl Proxy {
    pub fn new(
        snapshots: SnapshotHandle,
        reporter: Reporter,
        closing: watch::Receiver<bool>,
        cut: watch::Receiver<Option<Reason>>,
    ) -> Proxy {
        Proxy {
            made: Instant::now(),
            snapshots,
            reporter,
            closing,
            cut,
            via: forward::pseudonym(),
            keep_alive: KeepAliveTimes::new(),
        }
    }

    /// Matches the request and fills the exchange, or says why it cannot be carried.
    fn admit(&self, session: &mut Session, ctx: &mut Exchange) -> Result<(), End> {
        let snapshot = self.snapshots.load();
        if ctx.arrival.is_none() {
            // Not of our own connection loop.
            ctx.begin(Instant::now());
        }
        let peer = ctx.arrival.as_ref().map(|arrival| arrival.client.ip());
        let trusted_proxies = &snapshot.config.trusted_proxies;
        ctx.trusted = peer.is_some_and(|ip| is_trusted(ip, trusted_proxies));
        ctx.fields = Fields::of(&session.req_header().headers);
        if !ctx.trusted && ctx.fields.has(Fields::CLAIM) {
            forward::disclaim(session.req_header_mut());
        }
        let request = session.req_header();
        ctx.client = match peer {
            Some(ip) if ctx.trusted => Client::behind(ip, &request.headers, trusted_proxies),
            Some(ip) => Client::Peer(ip),
            None => Client::Unknown,
        };
        let looped =
            ctx.fields.has(Fields::VIA) && forward::has_passed(&request.headers, &self.via);
        let found = matched(request, &snapshot.routes);
        ctx.snapshot = Some(snapshot);
        let (route, target) = found?;
        ctx.in_flight = Some(route.metrics.in_flight());
        ctx.deadline = ctx.started + route.tries.timeout;
        let timeout = route.tries.timeout;
        ctx.target = target;
        ctx.route = Some(route);
        session.set_read_timeout(Some(timeout));
        session.set_write_timeout(Some(timeout.max(WRITE_SILENCE)));
        match looped {
            true => Err(Reason::Loop.into()),
            false => Ok(()),
        }
    }
}

/// What is known of the request once its filters have let it pass.
fn accept(session: &Session, ctx: &mut Exchange) -> Result<(), End> {
    let (Some(route), Some(snapshot)) = (&ctx.route, &ctx.snapshot) else {
        return Err(Reason::NoRoute.into());
    };
    let request = session.req_header();
    ctx.hash = hash_key(route, request, ctx.client.ip(), &ctx.target);
    let has = ctx.fields;
    if !has.has(Fields::HOP_BY_HOP) {
        ctx.hop_by_hop = HopByHop::Absent;
    }
    ctx.upgrade =
        has.has(Fields::UPGRADE) && forward::switches_to(request, &route.upgrade).is_some();
    let length = match has.has(Fields::CONTENT_LENGTH) {
        true => content_length(request),
        false => None,
    };
    ctx.uploading = length.is_some_and(|length| length > 0) || has.has(Fields::TRANSFER_ENCODING);
    ctx.expects_continue = ctx.uploading && forward::expects_continue(request);
    let max_body = snapshot.config.max_body_bytes;
    match max_body.is_some_and(|most| length.is_some_and(|length| length > most)) {
        true => Err(Reason::BodyTooLarge.into()),
        false => Ok(()),
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
        phases::over(Ok(()))
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
        phases::go_on()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        if session.req_header().version == http::Version::HTTP_10 {
            // RFC 9110, section 15.2: such a client does not know interim responses.
            session.as_downstream_mut().set_ignore_info_resp(true);
        }
        if ctx.arrival.as_ref().is_some_and(|arrival| arrival.last) {
            // Pingora reads the first `Connection` field only; the response must say the same.
            session.set_keepalive(None);
        }
        let ended = match self.admit(session, ctx) {
            Err(end) => Err(end),
            Ok(()) => match filters::request(session, ctx).await {
                Requested::Unfiltered => accept(session, ctx),
                Requested::Passed => {
                    ctx.fields = Fields::of(&session.req_header().headers);
                    ctx.asked = None;
                    accept(session, ctx)
                }
                Requested::Answered { answer, reason } => {
                    ctx.end = Some(reason.into());
                    filters::deliver(session, ctx, *answer).await?;
                    return Ok(true);
                }
                Requested::Ended(reason) => Err(reason.into()),
            },
        };
        let Err(end) = ended else {
            return Ok(false);
        };
        ctx.end = Some(end);
        if end.reason == Reason::BadRequest {
            // Who writes such a target may mean something else by the bytes behind it, too.
            session.set_keepalive(None);
        }
        refuse(session, ctx, end).await?;
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        let Some(route) = ctx.route.clone() else {
            return Err(ended(ctx, Reason::NoRoute));
        };
        let uploading = ctx.uploading;
        let lease = tokio::select! {
            biased;
            lease = lease(&route, ctx) => lease,
            error = departure(session, uploading) => {
                ctx.waited_in_vain(&route);
                return Err(error);
            }
        };
        let lease = match lease {
            Ok(lease) => lease,
            Err(reason) => {
                if matches!(reason, Reason::QueueTimeout | Reason::Timeout) {
                    ctx.waited_in_vain(&route);
                }
                return Err(ended(ctx, reason));
            }
        };
        ctx.try_started = match ctx.asked {
            Some(asked) if lease.queued_for().is_zero() => asked,
            _ => Instant::now(),
        };
        if !lease.queued_for().is_zero() {
            ctx.waited(&route, lease.queued_for());
        }
        let snapshot = ctx.snapshot.as_ref();
        let counted = snapshot.is_some_and(|snapshot| snapshot.counts_http_connections);
        let reuse = match ctx.next {
            Next::Resend => Reuse::Fresh,
            _ if route.keepalive_idle.is_zero() => Reuse::Fresh,
            _ if counted => Reuse::Pooled,
            _ => Reuse::PooledHere,
        };
        if matches!(ctx.next, Next::First | Next::Retry { .. }) {
            ctx.tries += 1;
        }
        let connect = route.tries.connect_timeout.min(
            ctx.try_deadline(&route)
                .saturating_duration_since(ctx.try_started),
        );
        // No timeout cuts an upgraded connection; without an upload, the cutoff watches.
        let timed = !ctx.upgrade && (uploading || ctx.arrival.is_none());
        let timeouts = PeerTimeouts {
            connect,
            total_connect: connect,
            read: timed.then_some(route.tries.timeout),
            write: timed.then_some(route.tries.timeout.max(WRITE_SILENCE)),
            idle: route.keepalive_idle,
        };
        let peer = http_peer(
            lease.endpoint(),
            &timeouts,
            route.group_key,
            reuse,
            ctx.hop_by_hop,
        );
        ctx.endpoint = Some(lease.endpoint().clone());
        ctx.lease = Some(lease);
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Self::CTX,
        mut e: Box<Error>,
    ) -> Box<Error> {
        let timed_out = matches!(e.etype(), ErrorType::ConnectTimedout);
        let failure = connect_failure(&e);
        blame::endpoint(ctx, failure, &e);
        let again = ctx.failed(failure, sendable(session));
        e.set_retry(again);
        if !again {
            let reason = match (timed_out, ctx.remaining().is_zero()) {
                (true, true) => Reason::Timeout,
                (true, false) => Reason::ConnectTimeout,
                (false, _) => failure.reason(),
            };
            ctx.end = Some(reason.into());
        }
        debug!("connect failed, again: {again}: {e}");
        e
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
        phases::over(phases::connected(fd, reused, ctx, &self.keep_alive))
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
        phases::over(phases::upstream_request(session, request, ctx, &self.via))
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
        phases::over(phases::request_body(session, body, end_of_stream, ctx))
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
        phases::over(phases::upstream_response(session, response, ctx))
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
        phases::over(phases::response(
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
        if !session.was_upgraded() {
            phases::heard(ctx, end_of_stream, &self.keep_alive)?;
            filters::response_body(session, ctx, body, last(end_of_stream))?;
        }
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
        let cut_off = ctx
            .arrival
            .as_ref()
            .is_some_and(|arrival| arrival.cutoff.disarm());
        if std::mem::take(&mut ctx.retry_decided) {
            return e;
        }
        let mut e = e.more_context(format!("Peer: {peer}"));
        match ctx.silence(&e) {
            // Both sides are read with the same timeout, and either clock may ring first.
            Some(Silence::OfClient) => e.as_down(),
            Some(Silence::OfEndpoint) => e.as_up(),
            None => {}
        }
        if *e.esource() != ErrorSource::Upstream {
            e.set_retry(false);
            ctx.finish_lease(Outcome::Neutral);
            return e;
        }
        let failure = match e.retry {
            _ if std::mem::take(&mut ctx.keep_alive_over) => Failure::KeepAliveOver,
            _ if cut_off || *e.etype() == ErrorType::ReadTimedout => Failure::TryTimeout,
            RetryType::ReusedOnly if client_reused => Failure::Stale,
            _ => Failure::Broken,
        };
        blame::endpoint(ctx, failure, &e);
        let again = ctx.failed(failure, sendable(session));
        e.set_retry(again);
        if !again && failure == Failure::Stale {
            blame::stale(ctx);
        }
        if !again && cut_off {
            ctx.end = Some(Reason::Timeout.into());
        }
        e
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        e: &Error,
        ctx: &mut Self::CTX,
    ) -> FailToProxy {
        let end = ctx.end_with(Some(e));
        ctx.end = Some(end);
        match end.fault {
            Some(Fault::Client) => debug!("{}: {e}", end.reason),
            // The chain has said so.
            _ if e.root_cause().is::<Failed>() => {}
            // The log is told of endpoints and upstreams, not of each request that they fail.
            Some(Fault::Upstream) => debug!("{}: {e}", end.reason),
            _ if matches!(
                end.reason,
                Reason::QueueTimeout | Reason::TooManyConnections
            ) =>
            {
                debug!("{}: {e}", end.reason);
            }
            _ => warn!(
                "{}: {} (route {})",
                end.reason,
                brief(e),
                ctx.route.as_ref().map_or("-", |route| &route.label),
            ),
        }
        let mut sent = 0;
        if end.reason != Reason::ClientClosed && final_response(session).is_none() {
            session.set_keepalive(None);
            match refuse(session, ctx, end).await {
                Ok(status) => sent = status,
                Err(e) => debug!("the client left before its error response: {e}"),
            }
        }
        FailToProxy {
            error_code: sent,
            can_reuse_downstream: false,
        }
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
        phases::log(session, e, ctx, *self.cut.borrow(), &self.reporter);
        phases::logged()
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

/// Pauses before a retry, then waits for its turn at an endpoint.
async fn lease(route: &Route, ctx: &mut Exchange) -> Result<Lease, Reason> {
    let asked = ctx.asked.take();
    if let Next::Retry { pause } = ctx.next {
        tokio::time::sleep(pause).await;
    }
    let now = match (ctx.next, asked) {
        // Nothing was waited for since the head was read.
        (Next::First, Some(begun)) => begun,
        _ => Instant::now(),
    };
    if ctx.deadline <= now {
        return Err(Reason::Timeout);
    }
    ctx.asked = Some(now);
    let pick = Pick {
        hash: ctx.hash,
        avoid: &ctx.tried,
        target: Target::Any,
        deadline: tokio::time::Instant::from_std(ctx.deadline),
    };
    let lease = route.upstream.pick(pick).await;
    lease.map_err(|error| error.reason())
}

/// Done when the client leaves, so that it does not keep a place in a queue. While a body is still
/// to be read this cannot be told without reading it, and is not.
async fn departure(session: &mut Session, uploading: bool) -> Box<Error> {
    if uploading {
        return std::future::pending().await;
    }
    match session.as_downstream_mut().read_body_or_idle(true).await {
        Err(mut error) => {
            error.as_down();
            error.set_retry(false);
            error
        }
        // A request without a body cannot have more of it.
        Ok(_) => std::future::pending().await,
    }
}

/// Ends the request with `reason`: Pingora gets an error that is not retried.
fn ended(ctx: &mut Exchange, reason: Reason) -> Box<Error> {
    let end = End::from(reason);
    ctx.end = Some(end);
    let mut error = Error::new(ErrorType::HTTPStatus(respond::status(reason, end.fault)));
    error.set_retry(false);
    error
}

/// Sends the gateway's own response, as the filters leave it.
async fn refuse(session: &mut Session, ctx: &mut Exchange, end: End) -> Result<u16> {
    let answer = respond::refusal(end)?;
    filters::deliver(session, ctx, answer).await
}

/// For writes, where a pause cannot be told from slow progress of one chunk: at least this long.
const WRITE_SILENCE: Duration = Duration::from_secs(60);
