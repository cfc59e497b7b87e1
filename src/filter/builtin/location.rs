//! Where a redirect leads: a path or a URL with `${…}` in it, read once at load.
//!
//! Text of a client becomes a place to which its browser goes. Invariants: a location is a path of
//! this host or a URL whose host the settings write, or the request's own (`${host}`); no path makes
//! it another host, no byte ends its line; an unknown word is an error at load.

use std::borrow::Cow;

use http::{HeaderValue, Uri, header};

use super::target::push_escaped;
use super::template::{Piece, foreign_word, pieces};
use crate::filter::{BadSetting, Context, Result};
use crate::wire::http1::is_authority;

/// Ready to be put together.
#[derive(Debug)]
pub(super) struct Location {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Scheme,
    /// Without its port.
    Host,
    Path,
    /// As a value of a parameter.
    PathInQuery,
    /// With its `?`; nothing where there is none.
    Query,
    /// Behind a `?`.
    MoreQuery,
}

impl Location {
    /// From the setting `redirect.to`. The request's query goes behind what has none of its own.
    pub(super) fn parse(to: &str) -> Result<Location> {
        let wrong = |message: String| BadSetting::new("redirect.to", message);
        let mut parts = Vec::new();
        let mut behind = false;
        for piece in pieces(to).map_err(|why| wrong(why.to_string()).hint(KNOWN))? {
            parts.push(match piece {
                Piece::Text(text) => {
                    behind |= text.contains(['?', '#']);
                    Part::Text(text)
                }
                Piece::Word("scheme") => Part::Scheme,
                Piece::Word("host") => Part::Host,
                Piece::Word("path") if behind => Part::PathInQuery,
                Piece::Word("path") => Part::Path,
                Piece::Word("query") if behind => Part::MoreQuery,
                Piece::Word("query") => {
                    behind = true;
                    Part::Query
                }
                Piece::Word(word) => {
                    let word = word.escape_debug();
                    return Err(wrong(format!("`${{{word}}}` is not known"))
                        .hint(KNOWN)
                        .into());
                }
            });
        }
        if !behind {
            parts.push(Part::Query);
        }
        let foreign = parts.iter().find_map(|part| match part {
            Part::Text(text) => foreign_word(text),
            _ => None,
        });
        if let Some(word) = foreign {
            let wrong = wrong(format!("`{word}` is a word of another server"));
            return Err(wrong.hint(KNOWN).into());
        }
        match is_place(&sample(&parts)) {
            true => Ok(Location { parts }),
            false => {
                let shown = to.escape_debug();
                let message = format!("`{shown}` is neither a path nor a URL of http or https");
                let hint = "for example `/new`, `https://example.org/new` or \
                            `https://${host}${path}${query}`";
                Err(wrong(message).hint(hint).into())
            }
        }
    }

    /// The location for one request; `None` where `${host}` is asked for and the request has none.
    pub(super) fn of(&self, cx: &Context<'_>) -> Option<HeaderValue> {
        let (path, query) = match cx.target().split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (cx.target(), None),
        };
        // `OPTIONS *` has no path.
        let path = if path.starts_with('/') { path } else { "/" };
        // A client knows the path with the prefix that its route takes away.
        let path = match cx.stripped {
            "" => Cow::Borrowed(path),
            prefix => Cow::Owned(format!("{prefix}{path}")),
        };
        let path = path.as_ref();
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Scheme => out.push_str(cx.scheme()),
                Part::Host => out.push_str(host(cx)?),
                Part::Path if out.is_empty() => {
                    // Two slashes first would be another host.
                    out.push('/');
                    push(&mut out, path.trim_start_matches('/'), b"");
                }
                // `https://a/${path}`, as other servers have it, means one slash.
                Part::Path if out.ends_with('/') => {
                    push(&mut out, path.trim_start_matches('/'), b"");
                }
                Part::Path => push(&mut out, path, b""),
                Part::PathInQuery => push(&mut out, path, b"&+;"),
                Part::Query => {
                    if let Some(query) = query {
                        out.push('?');
                        push(&mut out, query, b"");
                    }
                }
                Part::MoreQuery => push(&mut out, query.unwrap_or(""), b""),
            }
        }
        HeaderValue::from_str(&out).ok()
    }

    /// Whether `location` is `https` and where the client is: TLS ended in front of us, and what was
    /// to be enforced is so. Sending it there again would never end.
    pub(super) fn is_reached(&self, location: &HeaderValue, cx: &Context<'_>) -> bool {
        let https = |part: &Part| match part {
            Part::Text(text) => text.starts_with("https://"),
            _ => false,
        };
        if cx.scheme() != "https" || !self.parts.first().is_some_and(https) {
            return false;
        }
        let host = cx.request().headers.get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or("");
        let host = host.strip_suffix(":443").unwrap_or(host);
        let asked = Location {
            parts: vec![
                Part::Text(format!("https://{host}")),
                Part::Path,
                Part::Query,
            ],
        };
        asked.of(cx).as_ref() == Some(location)
    }
}

/// The host that the client asked for, without its port.
fn host<'c>(cx: &'c Context<'_>) -> Option<&'c str> {
    let host = cx.request().headers.get(header::HOST)?.to_str().ok()?;
    if !is_authority(host.as_bytes()) {
        return None;
    }
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => Some(name),
        _ => Some(host),
    }
}

/// Appends what a client wrote: nothing in it may end the location or its line.
fn push(out: &mut String, text: &str, escaped: &[u8]) {
    for byte in text.bytes() {
        let kept = byte.is_ascii_graphic() && !b"\"<>\\#".contains(&byte);
        match kept && !escaped.contains(&byte) {
            true => out.push(char::from(byte)),
            false => push_escaped(out, byte),
        }
    }
}

/// A location as it could be.
fn sample(parts: &[Part]) -> String {
    let text = parts.iter().map(|part| match part {
        Part::Text(text) => text.as_str(),
        Part::Scheme => "http",
        Part::Host => "a",
        Part::Path => "/a",
        Part::PathInQuery | Part::Query | Part::MoreQuery => "",
    });
    text.collect()
}

/// Whether a redirect may lead there: to a path of this host, or to a host that is named in full.
fn is_place(to: &str) -> bool {
    let plain = to
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"\"<>\\".contains(&b));
    let path = to.starts_with('/') && !to.starts_with("//");
    let url = || {
        let uri: Uri = to.parse().ok()?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority()?.as_str();
        (known && is_authority(authority.as_bytes()) && !authority.contains('$')).then_some(())
    };
    plain && (path || url().is_some())
}

const KNOWN: &str =
    "known are ${scheme}, ${host}, ${path} and ${query}, and `$${` stands for `${` itself";

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bed, wrong};
    use super::*;

    async fn location(to: &str, target: &str, host: &str) -> Option<String> {
        let mut bed = Bed::get(target, &[&format!("Host: {host}")]).await;
        let value = Location::parse(to).unwrap().of(&bed.context())?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn words_are_put_in() {
        let upgrade = "https://${host}${path}${query}";
        for (to, target, host, expected) in [
            (upgrade, "/", "a.example", "https://a.example/"),
            (upgrade, "/b/c", "a.example:8080", "https://a.example/b/c"),
            (
                upgrade,
                "/b?c=d&e",
                "a.example",
                "https://a.example/b?c=d&e",
            ),
            (upgrade, "/b?", "a.example", "https://a.example/b?"),
            (upgrade, "/b?c?d", "[::1]:80", "https://[::1]/b?c?d"),
            (upgrade, "/b", "[::1]", "https://[::1]/b"),
            (upgrade, "//evil/x", "a", "https://a//evil/x"),
            (upgrade, "*", "a", "https://a/"),
            ("https://${host}${path}", "/b?c", "a", "https://a/b?c"),
            (
                "https://${host}:8443${path}",
                "/b",
                "a:80",
                "https://a:8443/b",
            ),
            (
                "${scheme}://www.${host}${path}",
                "/b?c",
                "a",
                "http://www.a/b?c",
            ),
            (
                "https://x.example${path}?",
                "/b?c",
                "a",
                "https://x.example/b?",
            ),
            ("/new${path}", "/b?c", "a", "/new/b?c"),
            ("/new/${path}", "//b?c", "a", "/new/b?c"),
            ("https://${host}/${path}", "/b/c?d", "a", "https://a/b/c?d"),
            ("https://x.example/${path}", "/", "a", "https://x.example/"),
            ("/x?$filter=1&a=$1", "/b", "a", "/x?$filter=1&a=$1"),
            ("${path}", "//evil.example/x", "a", "/evil.example/x"),
            (
                "${path}${query}",
                "///evil.example?x",
                "a",
                "/evil.example?x",
            ),
            ("${path}", "/\\evil", "a", "/%5Cevil"),
            (
                "/login?from=${path}",
                "/a&b+c;d?e",
                "a",
                "/login?from=/a%26b%2Bc%3Bd",
            ),
            ("/x?a=1&${query}", "/b?c=2", "a", "/x?a=1&c=2"),
            ("/x?${query}", "/b", "a", "/x?"),
            ("/$${host}$1", "/b", "a", "/${host}$1"),
        ] {
            let made = location(to, target, host).await;
            assert_eq!(made.as_deref(), Some(expected), "{to} {target} {host}");
        }
        let hostile = "/a\r\nSet-Cookie: b?c\r\nd\u{e9}#\"<>";
        assert_eq!(
            location(upgrade, hostile, "a").await.as_deref(),
            Some("https://a/a%0D%0ASet-Cookie:%20b?c%0D%0Ad%C3%A9%23%22%3C%3E")
        );
    }

    #[tokio::test]
    async fn the_path_has_the_prefix_that_its_route_takes_away() {
        for (to, target, expected) in [
            (
                "https://${host}${path}${query}",
                "/v1?b=c",
                "https://a/api/v1?b=c",
            ),
            ("https://${host}${path}", "/", "https://a/api/"),
            (
                "https://x.example/${path}",
                "//v1",
                "https://x.example/api//v1",
            ),
            ("${path}", "//evil", "/api//evil"),
            ("/login?from=${path}", "/a&b", "/login?from=/api/a%26b"),
            ("/new", "/v1?b", "/new?b"),
        ] {
            let mut bed = Bed::get(target, &["Host: a"]).await;
            bed.stripped = "/api";
            let made = Location::parse(to).unwrap().of(&bed.context()).unwrap();
            assert_eq!(made, expected, "{to} {target}");
        }
    }

    #[tokio::test]
    async fn a_host_that_is_none_makes_no_location() {
        for host in ["", "a/b", "a b", "a\\b", "a?b"] {
            assert_eq!(
                location("https://${host}/", "/", host).await,
                None,
                "{host}"
            );
        }
        assert!(location("/new", "/", "a b").await.is_some(), "nobody asks");
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        for (to, part) in [
            (
                "https://${hots}/",
                "redirect.to: `${hots}` is not known (known are ${scheme}, ${host}",
            ),
            (
                "https://${host",
                "redirect.to: `${` has no `}` behind it (known are",
            ),
            ("${}", "`${}` is not known"),
            ("${client_ip}", "`${client_ip}` is not known"),
            ("", "is neither a path nor a URL"),
            ("//${host}/", "is neither"),
            ("/${path}", "is neither"),
            ("${host}${path}", "is neither"),
            ("${query}", "is neither"),
            ("${scheme}:${path}", "is neither"),
            ("https://${path}", "is neither"),
            ("https://me@${host}/", "is neither"),
            ("ftp://${host}/", "is neither"),
            ("https://a:99999/", "is neither"),
            ("https://$host$request_uri", "`$host` is a word of another"),
            ("https://${host}$uri", "`$uri` is a word of another server"),
            (
                "https://a/$path",
                "`$path` is a word of another server (known",
            ),
            ("/login?next=$request_uri", "`$request_uri` is a word of"),
            ("https://$ost/", "is neither"),
            ("https://a$1.example/", "is neither"),
            ("https://${host}/ x", "is neither"),
        ] {
            let error = wrong(Location::parse(to));
            assert!(error.contains(part), "{to}: {error}");
        }
    }
}
