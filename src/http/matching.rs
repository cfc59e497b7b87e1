//! From a request's head to its route: what is looked up, and what is sent of it.
//!
//! Pure functions, whose rules are RFC sections. Invariant: the target that is
//! sent is the one that was matched, or becomes it by merging slashes.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header;
use pingora_http::RequestHeader;

use crate::config::HashOn;
use crate::error::Reason;
use crate::http::end::End;
use crate::route::{Route, Table, normalise, strip_prefix, with_slashes};
use crate::upstream::key;

/// The route of a request and the target to send: path normalised, with its slashes and without its
/// prefix where asked.
pub(super) fn matched(
    request: &RequestHeader,
    routes: &Table<Arc<Route>>,
) -> Result<(Arc<Route>, String), End> {
    let raw = std::str::from_utf8(request.raw_path())
        .map_err(|_| End::bad_request("the target is not ASCII"))?;
    let host = request
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let raw = origin_form(raw);
    if raw == "*" {
        let route = routes.lookup(host, "/").ok_or(Reason::NoRoute)?;
        return Ok((route.clone(), raw.to_string()));
    }
    let target = normalise(&raw).map_err(|bad| End::bad_request(bad.as_str()))?;
    let route = routes
        .lookup(host, target.path())
        .ok_or(Reason::NoRoute)?
        .clone();
    let target = match route.merge_slashes || !target.is_changed() {
        true => target,
        false => with_slashes(&raw).map_err(|bad| End::bad_request(bad.as_str()))?,
    };
    let target = match (route.strip_prefix, target.query()) {
        (false, _) => target.into_target().into_owned(),
        (true, None) => strip_prefix(target.path(), &route.key.prefix).to_string(),
        (true, Some(query)) => {
            let path = strip_prefix(target.path(), &route.key.prefix);
            format!("{path}?{query}")
        }
    };
    Ok((route, target))
}

/// The path and query of a request target (RFC 9112, section 3.2.2: absolute form from a client
/// that takes us for its proxy).
fn origin_form(raw: &str) -> Cow<'_, str> {
    if raw.starts_with('/') {
        return Cow::Borrowed(raw);
    }
    let Some((_, after_scheme)) = raw.split_once("://") else {
        return Cow::Borrowed(raw);
    };
    match after_scheme.find(['/', '?']) {
        Some(at) if after_scheme.as_bytes()[at] == b'/' => Cow::Borrowed(&after_scheme[at..]),
        // A query behind an empty path.
        Some(at) => Cow::Owned(format!("/{}", &after_scheme[at..])),
        None => Cow::Borrowed("/"),
    }
}

/// The length that the request says its body has.
pub(super) fn content_length(request: &RequestHeader) -> Option<u64> {
    let length = request.headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// What `balance: hash` picks by; `None` when the request does not have it. Of a path that is what
/// goes on to the endpoint, without the query.
pub(super) fn hash_key(
    route: &Route,
    request: &RequestHeader,
    client: Option<IpAddr>,
    target: &str,
) -> Option<u64> {
    let on = route.upstream.spec().balance.hash_on()?;
    Some(match on {
        // Whom nobody can tell apart goes one way.
        HashOn::ClientIp => client.map_or_else(|| key::fnv1a(b""), key::of_address),
        HashOn::Path => key::fnv1a(target.split('?').next().unwrap_or(target).as_bytes()),
        HashOn::Header(name) => key::fnv1a(request.headers.get(name)?.as_bytes()),
        HashOn::Cookie(name) => key::fnv1a(cookie(request, name)?.as_bytes()),
    })
}

/// The value of one cookie (RFC 6265, section 5.4).
fn cookie<'r>(request: &'r RequestHeader, name: &str) -> Option<&'r str> {
    let lines = request.headers.get_all(header::COOKIE).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(this, _)| *this == name)
        .map(|(_, value)| value)
}
