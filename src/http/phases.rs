//! The phases of a request that never wait, as functions; and their outcome as the future that
//! Pingora wants.
//!
//! Its own file because Pingora's trait has each phase return a boxed future, and an `async fn` in
//! it pays for a box that holds what the phase was given: a twentieth of a small request, all of
//! them together. A box of nothing takes no memory. Invariant: no function here waits.

use std::future::{Future, ready};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::error::Reason;
use crate::filter::{self, Last};
use crate::http::deadline::{Coarse, CutTarget};
use crate::http::exchange::{Exchange, Sendable};
use crate::http::fields::Fields;
use crate::http::filters;
use crate::http::forward::{self, Outgoing};
use crate::http::keep_alive::{self, KeepAliveTimes};
use crate::http::record::record;
use crate::http::respond;
use crate::http::retry::{self, Failure};
use crate::telemetry::{Reporter, RequestEnd};
use crate::upstream::Outcome;

/// A phase, as Pingora awaits it.
pub(super) type Phase<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// A phase that is over.
pub(super) fn over<'f>(result: Result<()>) -> Phase<'f, Result<()>> {
    match result {
        Ok(()) => Box::pin(Over),
        Err(error) => Box::pin(ready(Err(error))),
    }
}

/// A phase that lets the request go on to its endpoint.
pub(super) fn go_on<'f>() -> Phase<'f, Result<bool>> {
    Box::pin(GoOn)
}

/// The last phase.
pub(super) fn logged<'f>() -> Phase<'f, ()> {
    Box::pin(Logged)
}

// These hold nothing, so that their boxes are not allocated.
struct Over;
struct GoOn;
struct Logged;

impl Future for Over {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Future for GoOn {
    type Output = Result<bool>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<bool>> {
        Poll::Ready(Ok(true))
    }
}

impl Future for Logged {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// A connection to the endpoint is there.
///
/// # Errors
/// It lay in the pool for longer than the endpoint keeps it open. Nothing was sent.
pub(super) fn connected(
    fd: RawFd,
    reused: bool,
    ctx: &mut Exchange,
    keep_alive: &KeepAliveTimes,
) -> Result<()> {
    let until = keep_alive.take(fd);
    if reused && until.is_some_and(|until| until <= Coarse::now()) {
        ctx.keep_alive_over = true;
        return Err(Error::new_up(ErrorType::ConnectionClosed));
    }
    ctx.connect = (!reused).then(|| ctx.try_started.elapsed());
    ctx.socket = fd;
    ctx.keeps = None;
    ctx.body_bytes = 0;
    ctx.filters.begin_try();
    if let (Some(route), Some(arrival)) = (&ctx.route, &ctx.arrival) {
        // An endpoint is spoken to in HTTP/1: nothing else goes over this connection meanwhile.
        let target = CutTarget::Socket(fd);
        match ctx.uploading && !ctx.awaits_continue() {
            true => arrival.cutoff.hold(target),
            false => arrival.cutoff.arm(ctx.try_deadline(route), target),
        }
    }
    Ok(())
}

/// The head of a try, before it is sent.
pub(super) fn upstream_request(
    session: &mut Session,
    request: &mut RequestHeader,
    ctx: &mut Exchange,
    via: &HeaderValue,
) -> Result<()> {
    let (Some(route), Some(lease)) = (&ctx.route, &ctx.lease) else {
        return Ok(());
    };
    let endpoint = lease.endpoint();
    let joined;
    let target = match (endpoint.path(), ctx.target.as_str()) {
        ("", target) | (_, target @ "*") => target,
        (path, target) => {
            joined = format!("{path}{target}");
            &joined
        }
    };
    if session.req_header().version == Version::HTTP_10 {
        // RFC 9110, section 10.1.1.
        request.remove_header(&header::EXPECT);
    }
    let out = Outgoing {
        target,
        host: (!route.preserve_host).then(|| endpoint.label()),
        default_host: endpoint.label(),
        client: ctx
            .arrival
            .as_ref()
            .map_or(&UNKNOWN, |arrival| &arrival.connection.client_ip),
        trusted: ctx.trusted,
        upgrade: match ctx.upgrade {
            true => session.req_header().headers.get(header::UPGRADE),
            false => None,
        },
        has: ctx.fields,
        via,
    };
    forward::request(request, &out)?;
    filters::upstream_request(session, ctx, request)
}

/// A part of the client's body.
pub(super) fn request_body(
    session: &mut Session,
    body: &mut Option<Bytes>,
    end_of_stream: bool,
    ctx: &mut Exchange,
) -> Result<()> {
    let (Some(route), Some(snapshot)) = (ctx.route.clone(), &ctx.snapshot) else {
        return Ok(());
    };
    if session.was_upgraded() {
        return Ok(());
    }
    if ctx.awaits_continue()
        && body.as_ref().is_some_and(|body| !body.is_empty())
        && let Some(arrival) = &ctx.arrival
    {
        arrival.cutoff.pause();
    }
    ctx.body_bytes += body.as_ref().map_or(0, |body| body.len() as u64);
    if let Some(most) = snapshot.config.max_body_bytes
        && ctx.body_bytes > most
    {
        ctx.end = Some(Reason::BodyTooLarge.into());
        *body = None;
        return Err(Error::new_down(ErrorType::HTTPStatus(413)));
    }
    if end_of_stream && ctx.uploading {
        ctx.upload_ended(&route);
        if let Some(arrival) = &ctx.arrival {
            arrival.cutoff.start(ctx.try_deadline(&route));
        }
    }
    filters::request_body(session, ctx, body, last(end_of_stream))
}

/// A response header of the endpoint, whose try may not be the last.
pub(super) fn upstream_response(
    session: &mut Session,
    response: &mut ResponseHeader,
    ctx: &mut Exchange,
) -> Result<()> {
    let status = response.status.as_u16();
    if response.status.is_informational() && status != 101 {
        if status == 100 && ctx.awaits_continue() {
            ctx.expects_continue = false;
            if let Some(arrival) = &ctx.arrival {
                arrival.cutoff.pause();
            }
        }
        return Ok(());
    }
    if status == 101 && !(ctx.upgrade && response.version == Version::HTTP_11) {
        // RFC 9110, section 15.2.2: nobody asked for it, or HTTP/1.0, which does not know it.
        return Err(Error::new_up(ErrorType::InvalidHTTPHeader));
    }
    let now = Instant::now();
    if ctx.first_byte.is_none() {
        ctx.first_byte = Some(now.saturating_duration_since(ctx.started));
    }
    let silence = body_silence(session, response, ctx);
    let cut_off = ctx.arrival.as_ref().is_some_and(|arrival| {
        let cutoff = &arrival.cutoff;
        match silence {
            Some(silence) => cutoff.listen(now, silence),
            None => cutoff.disarm(),
        }
    });
    if cut_off {
        // The header arrived in the very moment of the cut; its body never will.
        return Err(Error::new_up(ErrorType::ReadTimedout));
    }
    if retry::is_retryable(status) && ctx.failed(Failure::Status(status), sendable(session)) {
        ctx.retry_decided = true;
        ctx.first_byte = None;
        let mut error = Error::new_up(ErrorType::HTTPStatus(status));
        error.set_retry(true);
        return Err(error);
    }
    if status == 101 {
        // No timeout of ours cuts an upgraded connection.
        session.set_read_timeout(None);
        session.set_write_timeout(None);
    }
    if let Some(lease) = &ctx.lease {
        lease.record(Outcome::Answered(status));
    }
    Ok(())
}

/// How long the body of a response may be silent, where Pingora does not watch that itself: `None`
/// where there is no body.
fn body_silence(session: &Session, response: &ResponseHeader, ctx: &Exchange) -> Option<Duration> {
    let route = ctx.route.as_ref()?;
    let has_body = !matches!(response.status.as_u16(), 101 | 204 | 304)
        && session.req_header().method != Method::HEAD;
    (has_body && !ctx.uploading).then_some(route.tries.timeout)
}

/// A part of the endpoint's body.
pub(super) fn heard(
    ctx: &Exchange,
    end_of_stream: bool,
    keep_alive: &KeepAliveTimes,
) -> Result<()> {
    if end_of_stream {
        keep(ctx, keep_alive);
    }
    let Some(arrival) = &ctx.arrival else {
        return Ok(());
    };
    let cutoff = &arrival.cutoff;
    if !end_of_stream {
        cutoff.heard();
    } else if cutoff.disarm() {
        // It ended because it was cut off; a body that ends with its connection would pass for
        // whole.
        return Err(Error::new_up(ErrorType::ReadTimedout));
    }
    Ok(())
}

/// Notes how long the endpoint keeps its connection open from now on, if it says so.
fn keep(ctx: &Exchange, keep_alive: &KeepAliveTimes) {
    if let Some(keeps) = ctx.keeps {
        keep_alive.until(ctx.socket, Coarse::now().after(keeps));
    }
}

/// The response header that the client gets. `closing` is true while draining.
pub(super) fn response(
    session: &mut Session,
    response: &mut ResponseHeader,
    ctx: &mut Exchange,
    closing: bool,
    keep_alive: &KeepAliveTimes,
) -> Result<()> {
    // RFC 9112, section 2.3: the version is this hop's own, whatever the endpoint speaks.
    response.set_version(Version::HTTP_11);
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        return filters::response(session, ctx, response);
    }
    // Pingora 0.9.1 takes any head that goes out before the body is in for the end of the upload,
    // and closes the connection behind it. Only a final one is (RFC 9110, sections 10.1.1 and 15.2).
    let interim = response.status.is_informational();
    let client = session.as_downstream_mut();
    client.set_close_on_response_before_downstream_finish(!interim);
    if interim {
        return Ok(());
    }
    let has = Fields::of(&response.headers);
    if has.has(Fields::KEEP_ALIVE) {
        ctx.keeps = keep_alive::named(&response.headers);
        // Again at the end of the body, if there is one.
        keep(ctx, keep_alive);
    }
    forward::response(response, has);
    filters::response(session, ctx, response)?;
    if closing {
        // The drain began after this request; Pingora looks only when one begins.
        session.set_keepalive(None);
    }
    if response.headers.contains_key(header::TRANSFER_ENCODING) {
        framed_for(session, response)?;
    }
    Ok(())
}

/// Makes a body that comes in chunks end in a way that the client knows.
fn framed_for(session: &mut Session, response: &mut ResponseHeader) -> Result<()> {
    let chunked = forward::is_chunked(&response.headers);
    if session.req_header().version != Version::HTTP_10 {
        if !chunked {
            // RFC 9112, section 6.3: its body ends with the connection.
            session.set_keepalive(None);
        }
        return Ok(());
    }
    // RFC 9112, section 6.1: such a client knows no transfer coding. Its body ends with the
    // connection, and is not of use to it in any other coding.
    if respond::has_body(session, response) {
        if !forward::is_only_chunked(&response.headers) {
            return Err(Error::new_up(ErrorType::InvalidHTTPHeader));
        }
        session.set_keepalive(None);
    }
    response.remove_header(&header::TRANSFER_ENCODING);
    Ok(())
}

/// Counts and records a request that has ended. `cut` is why, when requests are cut off.
pub(super) fn log(
    session: &mut Session,
    e: Option<&Error>,
    ctx: &mut Exchange,
    cut: Option<Reason>,
    reporter: &Reporter,
) {
    let mut end = ctx.end_with(e);
    let left = end.reason == Reason::ClientClosed || session.was_upgraded();
    if let Some(reason) = cut.filter(|_| left) {
        // It was not the client that left.
        end = reason.into();
    }
    ctx.finish_lease(Outcome::Neutral);
    if let Some(arrival) = &ctx.arrival {
        arrival.cutoff.disarm();
    }
    let status = final_response(session).map_or(0, |response| response.status.as_u16());
    let status = match (status, end.reason) {
        (0, Reason::ClientClosed) => respond::status(end.reason, end.fault),
        (status, _) => status,
    };
    let end = RequestEnd {
        status,
        reason: end.reason,
        total: ctx.started.elapsed(),
    };
    let metrics = match (&ctx.route, &ctx.snapshot) {
        (Some(route), _) => Some(&route.metrics),
        (None, Some(snapshot)) => Some(&snapshot.unrouted),
        (None, None) => None,
    };
    reporter.request(metrics, end, || record(session, ctx, end));
    let end = filter::End {
        status,
        reason: end.reason,
        duration: end.total,
    };
    filters::log(session, ctx, &end);
}

/// What the session says about sending its request again.
pub(super) fn sendable(session: &Session) -> Sendable {
    Sendable {
        idempotent: session.req_header().method.is_idempotent(),
        replayable: !session.as_ref().retry_buffer_truncated(),
        responded: session.response_written().is_some(),
    }
}

/// The response that was sent, unless it was only an interim one (RFC 9110, section 15.2).
pub(super) fn final_response(session: &Session) -> Option<&ResponseHeader> {
    session.response_written().filter(|response| {
        !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS
    })
}

pub(super) fn last(end_of_stream: bool) -> Last {
    match end_of_stream {
        true => Last::Yes,
        false => Last::No,
    }
}

static UNKNOWN: HeaderValue = HeaderValue::from_static("0.0.0.0");
