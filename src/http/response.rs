//! The endpoint's response on its way to the client: its head, its body as it comes, its framing.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::http::deadline::Coarse;
use crate::http::exchange::Exchange;
use crate::http::failure::sendable;
use crate::http::fields::Fields;
use crate::http::filters;
use crate::http::forward;
use crate::http::keep_alive::{self, KeepAliveTimes};
use crate::http::respond;
use crate::http::retry::{self, Failure};
use crate::upstream::Outcome;

/// A response header of the endpoint, whose try may not be the last.
pub(super) fn received(
    session: &mut Session,
    response: &mut ResponseHeader,
    ctx: &mut Exchange,
) -> Result<()> {
    let status = response.status.as_u16();
    if response.status.is_informational() && status != 101 {
        if status == 100 && ctx.upload.awaits_continue() {
            ctx.upload.expects_continue = false;
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
    if ctx.times.first_byte.is_none() {
        ctx.times.first_byte = Some(now.saturating_duration_since(ctx.times.started));
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
        ctx.tries.decided = true;
        ctx.times.first_byte = None;
        let mut error = Error::new_up(ErrorType::HTTPStatus(status));
        error.set_retry(true);
        return Err(error);
    }
    if status == 101 {
        // No timeout of ours cuts an upgraded connection.
        session.set_read_timeout(None);
        session.set_write_timeout(None);
    }
    if let Some(lease) = &ctx.attempt.lease {
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
    (has_body && !ctx.upload.pending).then_some(route.tries.timeout)
}

/// A part of the endpoint's body.
pub(super) fn body(
    session: &mut Session,
    body: &mut Option<Bytes>,
    end_of_stream: bool,
    ctx: &mut Exchange,
    keep_alive: &KeepAliveTimes,
) -> Result<()> {
    if session.was_upgraded() {
        return Ok(());
    }
    heard(ctx, end_of_stream, keep_alive)?;
    filters::response_body(session, ctx, body, end_of_stream)
}

/// The endpoint's silence is over, or its body is.
fn heard(ctx: &Exchange, end_of_stream: bool, keep_alive: &KeepAliveTimes) -> Result<()> {
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
    if let Some(keeps) = ctx.attempt.keeps {
        keep_alive.until(ctx.attempt.socket, Coarse::now().after(keeps));
    }
}

/// The response header that the client gets. `closing` is true while draining.
pub(super) fn head(
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
        ctx.attempt.keeps = keep_alive::named(&response.headers);
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
