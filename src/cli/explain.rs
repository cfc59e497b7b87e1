//! `harbr-router explain`: which route a request would take, and why.
//!
//! It uses the same matching as `route/` and `http/`, so that it cannot say something else.
//! Resolves and binds nothing.

mod lines;
mod tcp;

use std::fmt::Write;
use std::net::IpAddr;

use self::lines::{Explained, MOVE, describe_upstream, line};
use crate::config::{ClientCertPolicy, Config, HostPattern, HttpRoute};
use crate::error::Error;
use crate::filter::{DryRun, DryRunRequest, Response};
use crate::http::{filters::normaliser, respond};
use crate::route::{Table, normalise, strip_prefix, with_slashes};
use crate::snapshot::Snapshot;

/// What is asked about.
pub(super) struct Question<'q> {
    pub method: &'q str,
    /// A path, a URL, or the name of a TCP route.
    pub url: &'q str,
    pub client: Option<IpAddr>,
}

/// Explains what the gateway would do.
pub(super) fn explain(snapshot: &Snapshot, question: &Question<'_>) -> Result<Explained, Error> {
    match is_http(question.url) {
        true => explain_http(snapshot, question),
        false => tcp::explain(snapshot, question.url),
    }
}

fn is_http(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    let is = |known: &str| scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(known));
    url.starts_with('/') || is("http") || is("https")
}

fn explain_http(snapshot: &Snapshot, question: &Question<'_>) -> Result<Explained, Error> {
    let (config, Question { method, url, .. }) = (&*snapshot.config, question);
    let (host, raw) = split(url);
    let mut text = format!("{method} {url}\n");
    if let Some(explained) = describe_tls(&mut text, snapshot, url, host, raw)? {
        return Ok(explained);
    }
    let target = normalise(raw)
        .map_err(|bad| Error::io(format!("{url}: the gateway answers 400 bad_request: {bad}")))?;
    let routes = config
        .http_routes
        .iter()
        .map(|route| (route.key.clone(), route))
        .collect();
    let table = Table::build(routes)?;
    let why = table.lookup_why(host, target.path());
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
        let found = false;
        return Ok(Explained { text, found });
    };
    let at = format!("{}:{}", config.file.display(), route.at.0);
    line(&mut text, "route", format!("{} ({at})", key.text));
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
    let found = true;
    let Some(run) = dry_run(snapshot, question, &key.text, host, &sent) else {
        return Err(Error::io(format!("{method} {url} is no request")));
    };
    for (name, does) in &run.steps {
        line(&mut text, "filter", format!("{name}: {does}"));
    }
    if run.failed {
        line(&mut text, "answers", "500 filter_error");
        return Ok(Explained { text, found });
    }
    if let Some(answer) = run.answer {
        line(&mut text, "answers", describe_answer(answer));
        return Ok(Explained { text, found });
    }
    match route.client_auth {
        ClientCertPolicy::None => {}
        ClientCertPolicy::Optional => {
            line(
                &mut text,
                "client",
                "may show a certificate of `tls.client_ca`",
            );
        }
        ClientCertPolicy::Required => {
            line(
                &mut text,
                "client",
                "must show a certificate of `tls.client_ca`",
            );
        }
    }
    describe_upstream(&mut text, &route.upstream);
    let prefix = &route.upstream.endpoints[0].url.path;
    let host = match (&run.host, route.preserve_host, host) {
        (Some(host), ..) => host,
        (None, true, Some(host)) => host,
        _ => "the endpoint's",
    };
    let sent = &run.target;
    line(
        &mut text,
        "sends",
        format!("{method} {prefix}{sent}, Host: {host}"),
    );
    describe_tries(&mut text, config, route, method);
    Ok(Explained { text, found })
}

/// What TLS means for the request; the whole explanation, where that is the end of it.
fn describe_tls(
    text: &mut String,
    snapshot: &Snapshot,
    url: &str,
    host: Option<&str>,
    raw: &str,
) -> Result<Option<Explained>, Error> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    let is = |known: &str| scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(known));
    let tls = snapshot.config.tls.as_ref();
    let https = tls.and_then(|tls| Some((tls, tls.listen_addr.as_ref()?)));
    if is("https") {
        let Some((_, listen)) = https else {
            let none = "none serves https: there is no `tls.listen_addr`";
            line(text, "listener", none);
            return Ok(None);
        };
        line(text, "listener", format!("{} (tls)", listen.first().text));
        let name = host.map_or("", |host| host.split(':').next().unwrap_or(host));
        if let Some(handle) = &snapshot.tls {
            let (certificate, why) = handle.load().chosen(&name.to_ascii_lowercase());
            line(
                text,
                "certificate",
                format!("{}: {why}", certificate.display()),
            );
        }
        return Ok(None);
    }
    let Some((_, listen)) = https.filter(|(tls, _)| is("http") && tls.redirect_http) else {
        return Ok(None);
    };
    let port = listen.first().addr.port();
    let location = respond::https_location(host.unwrap_or("localhost"), raw, port);
    line(
        text,
        "answers",
        format!("308 to {location} (`tls.redirect_http`)"),
    );
    Ok(Some(Explained {
        text: std::mem::take(text),
        found: true,
    }))
}

/// Sends the request through the filters of its route, and nowhere else.
fn dry_run(
    snapshot: &Snapshot,
    question: &Question<'_>,
    key: &str,
    host: Option<&str>,
    target: &str,
) -> Option<DryRun> {
    let mut all = snapshot.routes.iter().map(|(_, route)| route);
    let route = all.find(|route| *route.label == *key)?;
    let host = host.unwrap_or("localhost");
    let https = |scheme: &str| scheme.eq_ignore_ascii_case("https");
    let scheme = match question.url.split_once("://") {
        Some((scheme, _)) if https(scheme) => "https",
        _ => "http",
    };
    let written = DryRunRequest {
        head: format!(
            "{} {target} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: {scheme}\r\n\r\n",
            question.method
        ),
        client: question.client,
        route: &route.label,
        upstream: route.upstream.label(),
        target: target.to_owned(),
        stripped: route.stripped(),
        normalise: normaliser(route),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(route.filters.dry_run(written))
}

/// Status, and what a client needs to understand it.
fn describe_answer(answer: Response) -> String {
    let reason = answer.reason;
    let Ok(answer) = respond::of_filter(answer) else {
        return "500 filter_error".to_owned();
    };
    let mut text = format!("{} {reason}", answer.head.status.as_u16());
    let location = answer.head.headers.get(http::header::LOCATION);
    if let Some(location) = location.and_then(|location| location.to_str().ok()) {
        let _ = write!(text, ", Location: {location}");
    }
    text
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
        (0, _) => format!("none (retry_count: 0), {MOVE}"),
        (n, true) => {
            format!(
                "{n} more: connect failures, broken connections, try timeouts, 502/503/504; {MOVE}"
            )
        }
        (n, false) => {
            format!("{n} more, for connect failures only: {method} is not idempotent; {MOVE}")
        }
    };
    line(text, "retries", retries);
}

fn http_method_is_idempotent(method: &str) -> bool {
    method
        .parse::<http::Method>()
        .is_ok_and(|method| method.is_idempotent())
}

fn class(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => format!("host {name}"),
        HostPattern::Wildcard(name) => format!("hosts *.{name}"),
        HostPattern::Any => "any host".to_string(),
    }
}

/// Host and target of what the user typed.
fn split(url: &str) -> (Option<&str>, &str) {
    let Some((_, rest)) = url.split_once("://").filter(|_| !url.starts_with('/')) else {
        return (None, url);
    };
    let path_at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, target) = rest.split_at(path_at);
    let target = target.split('#').next().unwrap_or("");
    match target.starts_with('/') {
        true => (Some(host), target),
        false => (Some(host), "/"),
    }
}
