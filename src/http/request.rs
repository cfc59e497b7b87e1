//! The client's request: admitted, routed, filtered, measured, and its body as it comes.

use std::time::Instant;

use bytes::Bytes;
use http::HeaderValue;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;

use crate::config::ClientCertPolicy;
use crate::error::Reason;
use crate::http::arrival::Arrival;
use crate::http::client::{Client, is_trusted};
use crate::http::dispatch::WRITE_SILENCE;
use crate::http::end::End;
use crate::http::exchange::Exchange;
use crate::http::fields::Fields;
use crate::http::filters::{self, Requested};
use crate::http::forward;
use crate::http::matching::{content_length, hash_key, matched};
use crate::http::respond::{self, Answer};
use crate::snapshot::SnapshotHandle;
use crate::upstream::peer::HopByHop;

/// The request phase. Returns whether the request is answered.
pub(super) async fn request(
    session: &mut Session,
    ctx: &mut Exchange,
    snapshots: &SnapshotHandle,
    via: &HeaderValue,
) -> Result<bool> {
    if session.req_header().version == http::Version::HTTP_10 {
        // RFC 9110, section 15.2: such a client does not know interim responses.
        session.as_downstream_mut().set_ignore_info_resp(true);
    }
    if ctx.arrival.as_ref().is_some_and(|arrival| arrival.last) {
        // Pingora reads the first `Connection` field only; the response must say the same.
        session.set_keepalive(None);
    }
    identify(session, ctx, snapshots);
    if let Some(answer) = to_https(session, ctx)? {
        ctx.end = Some(Reason::Ok.into());
        filters::deliver(session, ctx, answer).await?;
        return Ok(true);
    }
    let ended = match route(session, ctx, via) {
        Err(end) => Err(end),
        Ok(()) => match filters::request(session, ctx).await {
            Requested::Unfiltered => measure(session, ctx),
            Requested::Passed => {
                ctx.fields = Fields::of(&session.req_header().headers);
                ctx.times.asked = None;
                measure(session, ctx)
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
    filters::refuse(session, ctx, end).await?;
    Ok(true)
}

/// Loads the snapshot that the request is served by, and finds out who sent it.
fn identify(session: &mut Session, ctx: &mut Exchange, snapshots: &SnapshotHandle) {
    let snapshot = snapshots.load();
    if ctx.arrival.is_none() {
        // A stream of HTTP/2 has it with its head; others are not of our own connection loops.
        ctx.arrival = session.req_header_mut().extensions_mut().remove();
        let begun = ctx.arrival.as_ref().map(|arrival| arrival.head_read);
        ctx.begin(begun.unwrap_or_else(Instant::now));
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
    ctx.snapshot = Some(snapshot);
}

/// The redirect that `tls.redirect_http` asks for. A trusted proxy that names https has had TLS.
fn to_https(session: &Session, ctx: &Exchange) -> Result<Option<Answer>> {
    let config = ctx.snapshot.as_ref().map(|snapshot| &snapshot.config);
    let tls = config.and_then(|config| config.tls.as_ref());
    let Some(tls) = tls.filter(|tls| tls.redirect_http) else {
        return Ok(None);
    };
    let is_plain = |arrival: &Arrival| arrival.connection.tls.is_none();
    if !ctx.arrival.as_ref().is_some_and(is_plain) {
        return Ok(None);
    }
    let request = session.req_header();
    if ctx.trusted && forward::names_https(&request.headers) {
        return Ok(None);
    }
    let port = tls
        .listen_addr
        .as_ref()
        .map(|listen| listen.first().addr.port());
    respond::redirect_to_https(request, port.unwrap_or(443)).map(Some)
}

/// Matches the request and fills the exchange, or says why it cannot be carried.
fn route(
    session: &mut Session,
    ctx: &mut Exchange,
    via: &HeaderValue,
) -> std::result::Result<(), End> {
    let Some(snapshot) = &ctx.snapshot else {
        return Err(Reason::NoRoute.into());
    };
    let request = session.req_header();
    let looped = ctx.fields.has(Fields::VIA) && forward::has_passed(&request.headers, via);
    let (route, target) = matched(request, &snapshot.routes)?;
    let timeout = route.tries.timeout;
    ctx.route_to(route, target);
    session.set_read_timeout(Some(timeout));
    session.set_write_timeout(Some(timeout.max(WRITE_SILENCE)));
    if looped {
        return Err(Reason::Loop.into());
    }
    match ctx.route() {
        Some(route) if route.client_auth == ClientCertPolicy::Required => certified(ctx),
        _ => Ok(()),
    }
}

/// Whether the client showed the certificate that its route needs. A connection may carry requests
/// for other hosts than the one that its handshake was for (RFC 9110, section 15.5.20).
fn certified(ctx: &Exchange) -> std::result::Result<(), End> {
    let arrival = ctx.arrival.as_ref();
    match arrival.and_then(|arrival| arrival.connection.tls.as_deref()) {
        Some(tls) if tls.certificate.is_some() => Ok(()),
        Some(tls) if !tls.was_asked => Err(Reason::Misdirected.into()),
        Some(_) | None => Err(Reason::CertificateRequired.into()),
    }
}

/// What is known of the request once its filters have let it pass.
fn measure(session: &Session, ctx: &mut Exchange) -> std::result::Result<(), End> {
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
    ctx.upload.pending =
        length.is_some_and(|length| length > 0) || has.has(Fields::TRANSFER_ENCODING);
    ctx.upload.expects_continue = ctx.upload.pending && forward::expects_continue(request);
    let max_body = snapshot.config.max_body_bytes;
    match max_body.is_some_and(|most| length.is_some_and(|length| length > most)) {
        true => Err(Reason::BodyTooLarge.into()),
        false => Ok(()),
    }
}

/// A part of the client's body.
pub(super) fn body(
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
    if ctx.upload.awaits_continue()
        && body.as_ref().is_some_and(|body| !body.is_empty())
        && let Some(arrival) = &ctx.arrival
    {
        arrival.cutoff.pause();
    }
    ctx.upload.bytes += body.as_ref().map_or(0, |body| body.len() as u64);
    if let Some(most) = snapshot.config.max_body_bytes
        && ctx.upload.bytes > most
    {
        ctx.end = Some(Reason::BodyTooLarge.into());
        *body = None;
        return Err(Error::new_down(ErrorType::HTTPStatus(413)));
    }
    if end_of_stream && ctx.upload.pending {
        ctx.upload_ended(&route);
        if let Some(arrival) = &ctx.arrival {
            arrival.cutoff.start(ctx.times.try_deadline(&route));
        }
    }
    filters::request_body(session, ctx, body, end_of_stream)
}
