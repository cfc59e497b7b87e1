//! A try on its way to an endpoint: lease, peer, connection, head.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use http::{HeaderValue, Version, header};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::config::Target;
use crate::error::Reason;
use crate::http::deadline::{Coarse, CutTarget};
use crate::http::end::End;
use crate::http::exchange::{Exchange, Next};
use crate::http::filters;
use crate::http::forward::{self, Outgoing};
use crate::http::keep_alive::KeepAliveTimes;
use crate::http::respond;
use crate::route::Route;
use crate::upstream::peer::{PeerTimeouts, Reuse, http_peer};
use crate::upstream::{Lease, Pick};

/// The endpoint of the next try, once its turn comes.
pub(super) async fn peer(session: &mut Session, ctx: &mut Exchange) -> Result<Box<HttpPeer>> {
    let Some(route) = ctx.route.clone() else {
        return Err(ended(ctx, Reason::NoRoute));
    };
    let uploading = ctx.upload.pending;
    let lease = tokio::select! {
        biased;
        lease = lease(&route, ctx) => lease,
        error = departure(session, uploading) => {
            ctx.times.gave_up_waiting(&route);
            return Err(error);
        }
    };
    let lease = match lease {
        Ok(lease) => lease,
        Err(reason) => {
            if matches!(reason, Reason::QueueTimeout | Reason::Timeout) {
                ctx.times.gave_up_waiting(&route);
            }
            return Err(ended(ctx, reason));
        }
    };
    ctx.attempt.started = match ctx.times.asked {
        Some(asked) if lease.queued_for().is_zero() => asked,
        _ => Instant::now(),
    };
    if !lease.queued_for().is_zero() {
        ctx.times.waited(&route, lease.queued_for());
    }
    let snapshot = ctx.snapshot.as_ref();
    let counted = snapshot.is_some_and(|snapshot| snapshot.counts_http_connections);
    let reuse = match ctx.tries.next {
        Next::Resend => Reuse::Fresh,
        _ if route.keepalive_idle.is_zero() => Reuse::Fresh,
        _ if counted => Reuse::Pooled,
        _ => Reuse::PooledHere,
    };
    if matches!(ctx.tries.next, Next::First | Next::Retry { .. }) {
        ctx.tries.counted += 1;
    }
    let connect = route.tries.connect_timeout.min(
        ctx.times
            .try_deadline(&route)
            .saturating_duration_since(ctx.attempt.started),
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
    ctx.attempt.endpoint = Some(lease.endpoint().clone());
    ctx.attempt.lease = Some(lease);
    Ok(peer)
}

/// Pauses before a retry, then waits for its turn at an endpoint.
async fn lease(route: &Route, ctx: &mut Exchange) -> Result<Lease, Reason> {
    let asked = ctx.times.asked.take();
    if let Next::Retry { pause } = ctx.tries.next {
        tokio::time::sleep(pause).await;
    }
    let now = match (ctx.tries.next, asked) {
        // Nothing was waited for since the head was read.
        (Next::First, Some(begun)) => begun,
        _ => Instant::now(),
    };
    if ctx.times.deadline <= now {
        return Err(Reason::Timeout);
    }
    ctx.times.asked = Some(now);
    let pick = Pick {
        hash: ctx.hash,
        avoid: &ctx.tries.endpoints,
        target: Target::Any,
        deadline: tokio::time::Instant::from_std(ctx.times.deadline),
    };
    let lease = route.upstream.pick(pick).await;
    lease.map_err(|error| error.reason())
}

/// Done when the client leaves, so that it does not keep a place in a queue. While a body is still
/// to be read this cannot be known without reading it, and is not.
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
        ctx.attempt.keep_alive_over = true;
        return Err(Error::new_up(ErrorType::ConnectionClosed));
    }
    ctx.attempt.connect = (!reused).then(|| ctx.attempt.started.elapsed());
    ctx.attempt.socket = fd;
    ctx.attempt.keeps = None;
    ctx.begin_try();
    if let (Some(route), Some(arrival)) = (&ctx.route, &ctx.arrival) {
        // An endpoint is spoken to in HTTP/1: nothing else goes over this connection meanwhile.
        let target = CutTarget::Socket(fd);
        match ctx.upload.pending && !ctx.upload.awaits_continue() {
            true => arrival.cutoff.hold(target),
            false => arrival.cutoff.arm(ctx.times.try_deadline(route), target),
        }
    }
    Ok(())
}

/// The head of a try, before it is sent.
pub(super) fn head(
    session: &mut Session,
    request: &mut RequestHeader,
    ctx: &mut Exchange,
    via: &HeaderValue,
) -> Result<()> {
    let (Some(route), Some(lease)) = (&ctx.route, &ctx.attempt.lease) else {
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
        tls: ctx
            .arrival
            .as_ref()
            .is_some_and(|arrival| arrival.connection.tls.is_some()),
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

static UNKNOWN: HeaderValue = HeaderValue::from_static("0.0.0.0");

/// For writes, where a pause cannot be distinguished from slow progress of one chunk: at least this long.
pub(super) const WRITE_SILENCE: Duration = Duration::from_secs(60);
