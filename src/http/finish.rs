//! The end of a request: the gateway's own response where there was none, then its log line and
//! its counts.

use http::StatusCode;
use log::{debug, warn};
use pingora_core::Error;
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, Session};

use crate::error::{Fault, Reason};
use crate::filter::{self, Failed};
use crate::http::end::brief;
use crate::http::exchange::Exchange;
use crate::http::filters;
use crate::http::record::record;
use crate::http::respond;
use crate::telemetry::{Reporter, RequestEnd};
use crate::upstream::Outcome;

/// Nothing more is tried: the client gets an error response, where it can still get one.
pub(super) async fn failed(session: &mut Session, e: &Error, ctx: &mut Exchange) -> FailToProxy {
    let end = ctx.end_with(Some(e));
    ctx.end = Some(end);
    match end.fault {
        Some(Fault::Client) => debug!("{}: {e}", end.reason),
        // The chain has said so.
        _ if e.root_cause().is::<Failed>() => {}
        // The log has failures of endpoints and upstreams, not of each request that they fail.
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
        match filters::refuse(session, ctx, end).await {
            Ok(status) => sent = status,
            Err(e) => debug!("the client left before its error response: {e}"),
        }
    }
    FailToProxy {
        error_code: sent,
        can_reuse_downstream: false,
    }
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
    ctx.attempt.finish(Outcome::Neutral);
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
        total: ctx.times.started.elapsed(),
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

/// The response that was sent, unless it was only an interim one (RFC 9110, section 15.2).
fn final_response(session: &Session) -> Option<&ResponseHeader> {
    session.response_written().filter(|response| {
        !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS
    })
}
