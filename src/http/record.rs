//! The access log's record of one request.
//!
//! Its own file because it is a long list that decides nothing. Called by `proxy.rs` when a request
//! has ended; requests that the edge refuses are recorded by `server/`.

use std::net::IpAddr;
use std::time::Duration;

use http::header;
use pingora_proxy::Session;

use crate::error::Reason;
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::telemetry::{Record, wall_clock};

/// The client's address where it is not its connection's own.
pub fn behind(client: Client) -> Option<String> {
    match client {
        Client::Peer(_) => None,
        Client::Named(_) => client.ip().as_ref().map(IpAddr::to_string),
        Client::Unknown => Some("-".to_string()),
    }
}

/// The record of a request that has ended, of a client [`behind`] a proxy or none.
pub fn record<'a>(
    session: &'a Session,
    ctx: &'a Exchange,
    behind: Option<&'a str>,
    status: u16,
    reason: Reason,
    total: Duration,
) -> Record<'a> {
    let request = session.req_header();
    let text = |name| {
        request
            .headers
            .get(name)
            .map_or(&b""[..], |value| value.as_bytes())
    };
    let arrival = ctx.arrival.as_ref();
    let peer = arrival.map_or("", |arrival| &arrival.connection.client);
    Record {
        client: behind.unwrap_or(peer),
        proxy: behind.map_or("", |_| peer),
        route: ctx.route.as_ref().map_or("-", |route| &route.label),
        upstream: ctx
            .route
            .as_ref()
            .map_or("", |route| route.upstream.label()),
        endpoint: ctx
            .endpoint
            .as_ref()
            .map_or("", |endpoint| endpoint.label()),
        method: request.method.as_str(),
        host: text(header::HOST),
        path: request.raw_path(),
        protocol: match request.version {
            http::Version::HTTP_10 => "HTTP/1.0",
            http::Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        },
        status,
        bytes_in: session.body_bytes_read() as u64,
        bytes_out: session.body_bytes_sent() as u64,
        tries: ctx.tries + u32::from(ctx.resent) + u32::from(ctx.moved),
        queue: ctx.queued,
        connect: ctx.connect,
        first_byte: ctx.first_byte,
        total,
        request_id: match ctx.filters.request_id() {
            Some(id) => id.as_str().as_bytes(),
            None => text(header::HeaderName::from_static("x-request-id")),
        },
        user_agent: text(header::USER_AGENT),
        ..Record::at(
            wall_clock(ctx.started + total),
            arrival.map_or("", |arrival| &arrival.listener),
            reason,
        )
    }
}
