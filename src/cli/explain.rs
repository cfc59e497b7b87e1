//! `harbr-router explain`: which route a request would take, and why.
//!
//! Its own file because it says in words what `route/` and `http/` do; it uses the same matching,
//! so that it cannot tell something else. Resolves and binds nothing.

use std::fmt::Write;

use crate::config::{Balance, Config, EndpointSpec, HashOn, HostPattern, HttpRoute};
use crate::error::Error;
use crate::route::{Table, normalise, strip_prefix, with_slashes};

/// The explanation, a few lines of text.
pub fn explain(config: &Config, method: &str, url: &str) -> Result<String, Error> {
    let (host, raw) = split(url)?;
    let target = normalise(raw)
        .map_err(|bad| Error::io(format!("{url}: the gateway answers 400 bad_request: {bad}")))?;
    let routes = config
        .http_routes
        .iter()
        .map(|route| (route.key.clone(), route))
        .collect();
    let table = Table::build(routes)?;
    let why = table.lookup_why(host, target.path());
    let mut text = format!("{method} {url}\n");
    if target.is_changed() {
        line(&mut text, "path", format!("{} (normalised)", target.path()));
    }
    for tried in &why.tried {
        let keys: Vec<&str> = tried.matching.iter().map(|key| key.text.as_str()).collect();
        let found = match keys.is_empty() {
            true => "no prefix matches".to_string(),
            false => format!("{} (longest first)", keys.join(", ")),
        };
        line(
            &mut text,
            "looked at",
            format!("{}: {found}", class(&tried.host)),
        );
    }
    let Some((key, route)) = why.chosen else {
        line(&mut text, "route", "none: the gateway answers 404 no_route");
        return Ok(text);
    };
    let at = format!("{}:{}", config.file.display(), route.at.0);
    line(&mut text, "route", format!("{} ({at})", key.text));
    describe_upstream(&mut text, route);
    let target = match route.merge_slashes {
        true => target,
        false => with_slashes(raw).map_err(|bad| {
            Error::io(format!("{url}: the gateway answers 400 bad_request: {bad}"))
        })?,
    };
    let sent = match (route.strip_prefix, target.query()) {
        (false, _) => target.as_str().to_string(),
        (true, None) => strip_prefix(target.path(), &key.prefix).to_string(),
        (true, Some(query)) => format!("{}?{query}", strip_prefix(target.path(), &key.prefix)),
    };
    let prefix = &route.upstream.endpoints[0].url.path;
    let host = match (route.preserve_host, host) {
        (true, Some(host)) => host,
        _ => "the endpoint's",
    };
    line(
        &mut text,
        "sends",
        format!("{method} {prefix}{sent}, Host: {host}"),
    );
    describe_tries(&mut text, config, route, method);
    Ok(text)
}

fn describe_upstream(text: &mut String, route: &HttpRoute) {
    let spec = &route.upstream;
    let endpoints: Vec<String> = spec.endpoints.iter().map(endpoint).collect();
    let balance = match &spec.balance {
        Balance::RoundRobin => "round_robin".to_string(),
        Balance::LeastRequests => "least_requests".to_string(),
        Balance::Random => "random".to_string(),
        Balance::Hash(on) => format!("hash on {}", hashed(on)),
        Balance::Custom {
            name,
            hash_on: Some(on),
        } => format!("{name} on {}", hashed(on)),
        Balance::Custom { name, .. } => name.clone(),
    };
    line(
        text,
        "upstream",
        format!("{}: {balance} over {}", spec.name, endpoints.join(", ")),
    );
    if let Some(most) = spec.max_connections {
        let wait = spec.queue_timeout;
        line(
            text,
            "limit",
            format!("{most} at once, others wait up to {wait:?}, then 503"),
        );
    }
}

fn hashed(on: &HashOn) -> String {
    match on {
        HashOn::ClientIp => "client_ip".to_string(),
        HashOn::Path => "path".to_string(),
        HashOn::Header(name) => format!("header:{name}"),
        HashOn::Cookie(name) => format!("cookie:{name}"),
    }
}

fn describe_tries(text: &mut String, config: &Config, route: &HttpRoute, method: &str) {
    let tries = &route.tries;
    let from = match tries.timeout == config.global_timeout {
        true => "global_timeout_ms",
        false => "timeout_ms of the route",
    };
    line(
        text,
        "timeout",
        format!(
            "{:?} to the response header, all tries together ({from})",
            tries.timeout
        ),
    );
    let whole = tries.timeout.as_millis() / u128::from(tries.retry_count + 1);
    let from = match tries.connect_timeout.as_millis() == whole.clamp(1, 1000) {
        true => "min(1000, timeout_ms / (retry_count + 1))",
        false => "connect_timeout_ms of the route",
    };
    line(
        text,
        "connect",
        format!("{:?} each ({from})", tries.connect_timeout),
    );
    if let Some(one) = tries.try_timeout {
        line(
            text,
            "one try",
            format!("{one:?} (try_timeout_ms of the route)"),
        );
    }
    let idempotent = http_method_is_idempotent(method);
    let retries = match (tries.retry_count, idempotent) {
        (0, _) => "none (retry_count: 0)".to_string(),
        (n, true) => {
            format!("{n} more: connect failures, broken connections, try timeouts, 502/503/504")
        }
        (n, false) => format!("{n} more, for connect failures only: {method} is not idempotent"),
    };
    line(text, "retries", retries);
}

fn http_method_is_idempotent(method: &str) -> bool {
    method
        .parse::<http::Method>()
        .is_ok_and(|method| method.is_idempotent())
}

fn endpoint(spec: &EndpointSpec) -> String {
    let mut text = spec.url.label.clone();
    if spec.weight.as_u32() != 1 {
        let _ = write!(text, " (weight {})", spec.weight.as_u32());
    }
    if spec.backup {
        text.push_str(" (backup)");
    }
    text
}

fn class(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => format!("host {name}"),
        HostPattern::Wildcard(name) => format!("hosts *.{name}"),
        HostPattern::Any => "any host".to_string(),
    }
}

fn line(text: &mut String, name: &str, value: impl AsRef<str>) {
    let _ = writeln!(text, "  {name:<10} {}", value.as_ref());
}

/// Host and target of what the user typed.
fn split(url: &str) -> Result<(Option<&str>, &str), Error> {
    if url.starts_with('/') {
        return Ok((None, url));
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(Error::io(format!(
            "{url}: write a path like /api/x or a URL like http://example.org/api/x"
        )));
    };
    if scheme != "http" && scheme != "https" {
        return Err(Error::io(format!(
            "{url}: explain knows http routes only; a database route is chosen by its listener"
        )));
    }
    let path_at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, target) = rest.split_at(path_at);
    let target = target.split('#').next().unwrap_or("");
    match target.starts_with('/') {
        true => Ok((Some(host), target)),
        false => Ok((Some(host), "/")),
    }
}
