//! A try that failed: whose fault it was, how the endpoint is reported, whether there is another.
//!
//! Pingora's errors are not made to be read by operators, and may quote a whole response head: here
//! only their kind and the system's own cause are taken.

use std::io;

use log::debug;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, RetryType};
use pingora_proxy::Session;

use crate::error::Reason;
use crate::http::end::{brief, cause, connect_failure};
use crate::http::exchange::{Exchange, Sendable, Silence};
use crate::http::retry::Failure;
use crate::upstream::Outcome;

/// No connection to the endpoint.
pub(super) fn in_connect(session: &Session, ctx: &mut Exchange, mut e: Box<Error>) -> Box<Error> {
    let timed_out = matches!(e.etype(), ErrorType::ConnectTimedout);
    let failure = connect_failure(&e);
    report(ctx, failure, &e);
    let again = ctx.failed(failure, sendable(session));
    e.set_retry(again);
    if !again {
        let reason = match (timed_out, ctx.times.remaining().is_zero()) {
            (true, true) => Reason::Timeout,
            (true, false) => Reason::ConnectTimeout,
            (false, _) => failure.reason(),
        };
        ctx.end = Some(reason.into());
    }
    debug!("connect failed, again: {again}: {e}");
    e
}

/// An error of either side while a request is carried. `client_reused`: over a connection that was
/// used before.
pub(super) fn while_carried(
    peer: &HttpPeer,
    session: &Session,
    e: Box<Error>,
    ctx: &mut Exchange,
    client_reused: bool,
) -> Box<Error> {
    let cut_off = ctx
        .arrival
        .as_ref()
        .is_some_and(|arrival| arrival.cutoff.disarm());
    if std::mem::take(&mut ctx.tries.decided) {
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
        ctx.attempt.finish(Outcome::Neutral);
        return e;
    }
    let failure = match e.retry {
        _ if std::mem::take(&mut ctx.attempt.keep_alive_over) => Failure::KeepAliveOver,
        _ if cut_off || *e.etype() == ErrorType::ReadTimedout => Failure::TryTimeout,
        RetryType::ReusedOnly if client_reused => Failure::Stale,
        _ => Failure::Broken,
    };
    report(ctx, failure, &e);
    let again = ctx.failed(failure, sendable(session));
    e.set_retry(again);
    if !again && failure == Failure::Stale {
        report_stale(ctx);
    }
    if !again && cut_off {
        ctx.end = Some(Reason::Timeout.into());
    }
    e
}

/// What the session says about sending its request again.
pub(super) fn sendable(session: &Session) -> Sendable {
    Sendable {
        idempotent: session.req_header().method.is_idempotent(),
        replayable: !session.as_ref().retry_buffer_truncated(),
        responded: session.response_written().is_some(),
    }
}

/// Reports the failure to the endpoint of the current try, and to the log.
fn report(ctx: &Exchange, failure: Failure, error: &Error) {
    let Some(lease) = &ctx.attempt.lease else {
        return;
    };
    match failure {
        // An idle connection may be closed. Which statuses are errors is the upstream's to say.
        Failure::Stale | Failure::KeepAliveOver | Failure::Status(_) => {}
        Failure::Connect | Failure::NoSocket => {
            let waited = ctx.attempt.started.elapsed();
            let timeout = ctx.route.as_ref().map(|route| route.tries.connect_timeout);
            let waited = timeout.map_or(waited, |timeout| waited.min(timeout));
            match (error.etype(), cause(error)) {
                (ErrorType::ConnectTimedout, _) => {
                    lease.connect_failed(&io::ErrorKind::TimedOut.into(), waited);
                }
                (_, Some(cause)) => lease.connect_failed(cause, waited),
                (_, None) => lease.connect_failed(&io::Error::other(words(error)), waited),
            }
        }
        Failure::TryTimeout => lease.failed(match ctx.times.first_byte {
            None => "no response in time",
            Some(_) => "silent in its response for too long",
        }),
        Failure::Broken => {
            let when = match ctx.times.first_byte {
                None => "before a response",
                Some(_) => "in its response",
            };
            match cause(error) {
                Some(cause) => lease.failed(format_args!("{when}: {cause}")),
                None => lease.failed(format_args!("{when}: {}", words(error))),
            }
        }
    }
}

/// A request could not be sent again although the endpoint had only closed an idle connection.
fn report_stale(ctx: &Exchange) {
    if let (Some(route), Some(endpoint)) = (&ctx.route, &ctx.attempt.endpoint) {
        let why = "before a response: closed a connection that was used again";
        route.upstream.failed(endpoint, why);
    }
}

fn words(error: &Error) -> String {
    match error.etype() {
        ErrorType::ConnectTimedout => "timed out".into(),
        ErrorType::ConnectionClosed => "closed the connection".into(),
        _ => brief(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_do_not_quote_what_an_endpoint_said() {
        let head = "buf: HTTP/1.1 200 OK\r\nSet-Cookie: secret";
        for (kind, text) in [
            (ErrorType::ConnectTimedout, "timed out"),
            (ErrorType::ConnectionClosed, "closed the connection"),
            (ErrorType::InvalidHTTPHeader, "InvalidHTTPHeader"),
        ] {
            let error = Error::explain(kind, head).more_context("Peer: somebody");
            assert_eq!(words(&error), text);
        }
    }
}
