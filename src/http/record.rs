//! The access log's record of one request.

use http::header;
use pingora_proxy::Session;

use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::telemetry::{ClientAddress, Record, RequestEnd, wall_clock};

/// The record of a request that has ended.
pub(super) fn record<'a>(session: &'a Session, ctx: &'a Exchange, end: RequestEnd) -> Record<'a> {
    let request = session.req_header();
    let text = |name| {
        request
            .headers
            .get(name)
            .map_or(&b""[..], |value| value.as_bytes())
    };
    let arrival = ctx.arrival.as_ref();
    let tls = arrival.and_then(|arrival| arrival.connection.tls.as_deref());
    let certificate = tls.and_then(|tls| tls.certificate.as_ref());
    let peer = arrival.map_or("", |arrival| &arrival.connection.client);
    // Its client is not the connection's own where a proxy sent it.
    let (client, proxy) = match (ctx.client, ctx.client.ip()) {
        (Client::Peer(_), _) => (ClientAddress::Text(peer), ""),
        (_, Some(ip)) => (ClientAddress::Named(ip), peer),
        (_, None) => (ClientAddress::Unknown, peer),
    };
    Record {
        client,
        proxy,
        route: ctx.route.as_ref().map_or("-", |route| &route.label),
        upstream: ctx
            .route
            .as_ref()
            .map_or("", |route| route.upstream.label()),
        endpoint: ctx
            .attempt
            .endpoint
            .as_ref()
            .map_or("", |endpoint| endpoint.label()),
        method: request.method.as_str(),
        host: text(header::HOST),
        path: request.raw_path(),
        protocol: match request.version {
            http::Version::HTTP_10 => "HTTP/1.0",
            _ if arrival.is_some_and(|arrival| arrival.connection.is_http2) => "HTTP/2",
            _ => "HTTP/1.1",
        },
        tls: tls.map_or("", |tls| tls.version),
        client_cert_subject: certificate.map_or("", |one| &one.subject),
        client_cert_sha256: certificate.map_or("", |one| &one.sha256),
        status: end.status,
        bytes_in: session.body_bytes_read() as u64,
        bytes_out: session.body_bytes_sent() as u64,
        tries: ctx.tries.total(),
        queue: ctx.times.queued,
        connect: ctx.attempt.connect,
        first_byte: ctx.times.first_byte,
        total: end.total,
        request_id: match ctx.filters.request_id() {
            Some(id) => id.as_str().as_bytes(),
            None => text(header::HeaderName::from_static("x-request-id")),
        },
        user_agent: text(header::USER_AGENT),
        ..Record::at(
            wall_clock(ctx.times.started + end.total),
            arrival.map_or("", |arrival| &arrival.listener),
            end.reason,
        )
    }
}
