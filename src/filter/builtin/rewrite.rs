//! `rewrite`: another path to the endpoint, or a redirect of the client.
//!
//! `location` is where a redirect leads, `replacement` what becomes of a path. Invariants: what could
//! never work is refused at load; expressions match in linear time and bounded memory; no client can
//! put a dot segment or half an escape together out of what was captured.

use async_trait::async_trait;
use http::{StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::location::Location;
use super::replacement::{Replacement, TooLong};
use super::target::{behind, is_normal_path, is_unambiguous_path, merged};
use crate::error::Reason;
use crate::filter::{BadSetting, Context, Filter, Phases, Response, Result, Verdict};
use crate::wire::http1::escaped;

/// Settings of `rewrite`: one of the three. The path is the one that would be sent, without the
/// query, which is kept, and with escapes where RFC 3986 wants them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    /// Another beginning of the path.
    prefix: Option<Prefix>,
    /// Another path by a regular expression.
    regex: Option<Expression>,
    /// Every request is sent elsewhere.
    redirect: Option<Redirect>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Prefix {
    /// Whole segments: `/api` takes `/api` and `/api/x`, not `/apix`. Other paths stay.
    from: String,
    /// What takes its place: `/v2`, or `/` for nothing.
    to: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Expression {
    /// In the syntax of the crate `regex`. A path in which it finds nothing stays.
    r#match: String,
    /// What takes the place of all that it finds: `$1` to `$9` are its groups, `$0` the whole, `$$`
    /// is a dollar sign. May have a query, which comes before the request's own.
    to: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Redirect {
    /// A path, or a URL of `http` or `https`. `${scheme}`, `${host}` (without a port), `${path}` and
    /// `${query}` (with its `?`, or nothing) are the request's. Its query goes behind what has none.
    to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "permanent")]
    status: u16,
}

fn permanent() -> u16 {
    308
}

/// The filter.
#[derive(Debug)]
pub(super) enum Rewrite {
    Prefix { from: String, to: String },
    Regex(Box<Replacement>),
    Redirect { to: Location, status: StatusCode },
}

pub(super) fn make(settings: Settings) -> Result<Rewrite> {
    match (settings.prefix, settings.regex, settings.redirect) {
        (Some(prefix), None, None) => Ok(Rewrite::Prefix {
            from: prefix_of("from", &prefix.from)?,
            to: prefix_of("to", &prefix.to)?,
        }),
        (None, Some(Expression { r#match, to }), None) => {
            let replacement = Replacement::new(&r#match, &to)?;
            Ok(Rewrite::Regex(Box::new(replacement)))
        }
        (None, None, Some(Redirect { to, status })) => Ok(Rewrite::Redirect {
            to: Location::parse(&to)?,
            status: match status {
                301 | 302 | 303 | 307 | 308 => StatusCode::from_u16(status)?,
                _ => {
                    let message = format!("{status} is not a status of a redirect");
                    let wrong = BadSetting::new("redirect.status", message);
                    return Err(wrong.hint("301, 302, 303, 307 or 308").into());
                }
            },
        }),
        _ => Err("give exactly one of `prefix`, `regex` and `redirect`".into()),
    }
}

#[async_trait]
impl Filter for Rewrite {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        let target = cx.target();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let rewritten = match self {
            Rewrite::Redirect { to, status } => return Ok(redirect(to, *status, cx)),
            // `OPTIONS *` has no path.
            _ if !path.starts_with('/') => None,
            Rewrite::Prefix { from, to } => match behind(path, from) {
                Some("") if to.is_empty() => Some("/".to_owned()),
                Some(rest) => Some(format!("{to}{rest}")),
                None => None,
            },
            Rewrite::Regex(replacement) => match apply(replacement, path) {
                Ok(rewritten) => rewritten,
                Err(TooLong) => return Ok(bad_request("the rewritten path is too long")),
            },
        };
        let Some(mut rewritten) = rewritten else {
            return Ok(Verdict::Continue);
        };
        if !rewritten.starts_with('/') {
            rewritten.insert(0, '/');
        }
        let path = rewritten.split('?').next().unwrap_or("");
        if !is_unambiguous_path(path) {
            return Ok(bad_request("the rewritten path has more than one reading"));
        }
        if let Some(query) = query {
            rewritten.push(if rewritten.contains('?') { '&' } else { '?' });
            rewritten.push_str(query);
        }
        cx.set_target(rewritten);
        Ok(Verdict::Continue)
    }
}

/// The setting `prefix.from` or `prefix.to`, as paths have it.
fn prefix_of(key: &str, text: &str) -> Result<String> {
    let path = escaped(text.as_bytes());
    let path = String::from_utf8_lossy(&path);
    match is_normal_path(&path) && !text.contains('\\') {
        true => Ok(path.trim_end_matches('/').to_owned()),
        false => {
            let message = format!("`{}` is not a plain path", text.escape_debug());
            let wrong = BadSetting::new(format!("prefix.{key}"), message);
            Err(wrong.hint("for example `/api`").into())
        }
    }
}

/// Where slashes are kept, one too many must not keep an expression from finding its path.
fn apply(replacement: &Replacement, path: &str) -> std::result::Result<Option<String>, TooLong> {
    match replacement.apply(path)? {
        None if path.contains("//") => replacement.apply(&merged(path)),
        found => Ok(found),
    }
}

fn bad_request(detail: &'static str) -> Verdict {
    Verdict::Respond(Response::refusal(Reason::BadRequest).because(detail))
}

fn redirect(to: &Location, status: StatusCode, cx: &Context<'_>) -> Verdict {
    match to.of(cx) {
        Some(there) if to.is_reached(&there, cx) => Verdict::Continue,
        Some(to) => Verdict::Respond(Response::new(status).header(header::LOCATION, to)),
        None => bad_request("the request names no host to lead to"),
    }
}

#[cfg(test)]
mod tests;
