//! The key of an HTTP route, and the one form in which its path is compared.
//!
//! Two spellings of one path are one key. Invariant: a prefix is `/` or `/a/b`, without empty, `.`
//! or `..` segments, unreserved characters plain and other escapes in upper case (RFC 3986, section
//! 6.2.2).

use super::host::{parse_host, parse_name, strip_port};
use super::problem::{Wrong, shown};
use super::suspicious_key::{PATTERNS, in_words, keys_for, literal};
use super::value::{Host, HostPattern, RouteKey};

impl RouteKey {
    /// Reads `/prefix`, `host/prefix` or `*.host/prefix`.
    ///
    /// # Errors
    /// What is wrong with the host or the path.
    pub fn parse(text: &str) -> Result<RouteKey, Wrong> {
        if let Some((_, rest)) = text.split_once("://") {
            return Err(Wrong::new(
                "the key of a route has no scheme",
                format!("write `{}`", shown(rest)),
            ));
        }
        // As nginx marks them.
        let bare = text.trim_start_matches(['^', '~', '=', '*', ' ']);
        if bare.starts_with('/') && text.starts_with(['^', '~', '=']) {
            return Err(Wrong::new(
                "the key of a route is no expression",
                format!(
                    "a path is literal and a prefix takes everything below it: write `{}`",
                    literal(bare)
                ),
            ));
        }
        let Some(slash) = text.find('/') else {
            return Err(Wrong::new(
                "the key of an HTTP route holds a `/`",
                format!("write {}", in_words(&keys_for(text))),
            ));
        };
        Ok(RouteKey {
            text: text.to_owned(),
            host: parse_pattern(&text[..slash])?,
            prefix: parse_prefix(&text[slash..])?,
        })
    }
}

impl RouteKey {
    /// What two keys are compared by: the prefix with everything decoded but `%2F` and `%25`,
    /// because `/@me` and `/%40me` take the same requests.
    pub(super) fn compared(&self) -> (HostPattern, Vec<u8>) {
        let mut out = Vec::with_capacity(self.prefix.len());
        let mut rest = self.prefix.as_str();
        while let Some(percent) = rest.find('%') {
            out.extend_from_slice(&rest.as_bytes()[..percent]);
            let escape = rest.get(percent..percent + 3).unwrap_or(&rest[percent..]);
            let byte = u8::from_str_radix(escape.get(1..).unwrap_or(""), 16);
            match byte {
                Ok(byte) if byte != b'/' && byte != b'%' => out.push(byte),
                _ => out.extend_from_slice(escape.as_bytes()),
            }
            rest = &rest[percent + escape.len()..];
        }
        out.extend_from_slice(rest.as_bytes());
        (self.host.clone(), out)
    }
}

fn parse_pattern(text: &str) -> Result<HostPattern, Wrong> {
    if text.is_empty() {
        return Ok(HostPattern::Any);
    }
    if text == "*" {
        return Err(Wrong::new(
            "`*` alone is not a host",
            "a key without a host takes every host: remove the `*`",
        ));
    }
    let host = strip_port(text)?;
    match host.strip_prefix("*.") {
        Some(name) => parse_name(name).map(HostPattern::Wildcard),
        None if host.starts_with('.') => Err(Wrong::new(
            "a host does not start with a dot",
            "write `*.` for all hosts below it, for example `*.example.org/`",
        )),
        None if host.contains('*') => Err(Wrong::new(
            "`*` stands for whole labels at the front only",
            "for example `*.example.org/`",
        )),
        None => Ok(HostPattern::Exact(match parse_host(host)? {
            Host::Name(name) => name,
            ip => ip.to_string(),
        })),
    }
}

fn parse_prefix(path: &str) -> Result<String, Wrong> {
    if let Some(wrong) = path.chars().find(|c| !is_path_char(*c)) {
        let hint = match wrong {
            '?' | '#' => {
                format!("remove what follows `{wrong}`: a route is chosen by host and path only")
            }
            c if c.is_control() => "remove it".to_owned(),
            c if PATTERNS.contains(c) => format!(
                "a path is literal and a prefix takes everything below it: write `{}`",
                literal(path)
            ),
            c => {
                let mut buffer = [0; 4];
                let escaped: String = c
                    .encode_utf8(&mut buffer)
                    .bytes()
                    .map(|b| format!("%{b:02X}"))
                    .collect();
                format!("write `{escaped}`")
            }
        };
        return Err(Wrong::new(
            format!("{wrong:?} cannot stand in a path"),
            hint,
        ));
    }
    let Some(plain) = normalize_escapes(path) else {
        return Err(Wrong::new(
            "`%` is not followed by two hexadecimal digits",
            "a percent sign itself is `%25`",
        ));
    };
    if plain.contains("%00") {
        return Err(Wrong::new("a path holds no NUL", "remove `%00`"));
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in plain.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                if segments.pop().is_none() {
                    return Err(Wrong::new(
                        "the path climbs above `/`",
                        "write the path as the endpoint sees it",
                    ));
                }
            }
            "*" | "**" => {
                return Err(Wrong::new(
                    "`*` does not stand for anything in a path",
                    format!(
                        "a prefix takes everything below it: write `{}`",
                        literal(path)
                    ),
                ));
            }
            segment if hides_dots(segment) => {
                return Err(Wrong::new(
                    "a segment hides a dot segment, requests with one are refused",
                    "write the path as the endpoint sees it",
                ));
            }
            segment => segments.push(segment),
        }
    }
    Ok(format!("/{}", segments.join("/")))
}

/// `pchar` of RFC 3986, `/`, and `%` of an escape.
fn is_path_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/%".contains(c)
}

/// Decodes escapes of unreserved characters, writes the others in upper case (RFC 3986, 6.2.2).
/// `None` when a `%` is not an escape.
fn normalize_escapes(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(percent) = rest.find('%') {
        out.push_str(&rest[..percent]);
        let digits = rest.get(percent + 1..percent + 3)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        rest = &rest[percent + 3..];
    }
    out.push_str(rest);
    Some(out)
}

/// Whether a server that splits a segment further would find a dot segment in it.
fn hides_dots(segment: &str) -> bool {
    segment
        .split("%2F")
        .flat_map(|part| part.split("%5C"))
        .map(|part| part.split(';').next().unwrap_or(part))
        .map(|part| part.split("%3B").next().unwrap_or(part))
        .any(|part| part == "." || part == "..")
}

/// Whether a path is already in the form in which paths are compared.
pub(super) fn is_clean_path(path: &str) -> bool {
    parse_prefix(path).is_ok_and(|prefix| prefix == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_key_are_one_key() {
        for (text, host, prefix) in [
            ("/", HostPattern::Any, "/"),
            ("/api/", HostPattern::Any, "/api"),
            ("//a///b/./c/../d", HostPattern::Any, "/a/b/d"),
            ("/%61%2fb/%2E%2e/x", HostPattern::Any, "/x"),
            ("/a%2fb", HostPattern::Any, "/a%2Fb"),
            (
                "Example.ORG.:8080/x",
                HostPattern::Exact("example.org".into()),
                "/x",
            ),
            (
                "*.Example.org/",
                HostPattern::Wildcard("example.org".into()),
                "/",
            ),
            ("[0:0::1]:80/", HostPattern::Exact("[::1]".into()), "/"),
            ("10.0.0.1/", HostPattern::Exact("10.0.0.1".into()), "/"),
        ] {
            let key = RouteKey::parse(text).unwrap();
            assert_eq!(
                (key.text.as_str(), &key.host, key.prefix.as_str()),
                (text, &host, prefix)
            );
        }
    }

    #[test]
    fn keys_that_take_the_same_requests_compare_equal() {
        let compared = |text| RouteKey::parse(text).unwrap().compared();
        assert_eq!(compared("/@me/"), compared("/%40m%65"));
        assert_eq!(compared("H/a"), compared("h.:80/a"));
        assert_ne!(compared("/a%2Fb"), compared("/a/b"));
        assert_ne!(compared("/%2540"), compared("/%40"));
    }

    #[test]
    fn keys_that_cannot_match_are_refused() {
        for (text, part) in [
            ("api", "holds a `/`"),
            ("http://h/x", "has no scheme"),
            ("/a b", "cannot stand in a path"),
            ("/a?b", "cannot stand in a path"),
            ("/ä", "write `%C3%A4`"),
            ("/%zz", "not followed by two"),
            ("/%", "not followed by two"),
            ("/%e", "not followed by two"),
            ("/a%00", "NUL"),
            ("/../x", "climbs above"),
            ("/a/..;x", "hides a dot segment"),
            ("/a/%2e%2e%2fb", "hides a dot segment"),
            ("/api/*", "everything below it: write `/api`"),
            ("/api/{id}", "everything below it: write `/api`"),
            ("/api/<id>/x", "everything below it: write `/api`"),
            ("/api/[0-9]+", "everything below it: write `/api`"),
            ("^/api/v[0-9]", "everything below it: write `/api`"),
            ("~* ^/api$", "everything below it: write `/api`"),
            ("= /health", "everything below it: write `/health`"),
            ("/a?b", "remove what follows `?`"),
            (".x.org/", "for example `*.example.org/`"),
            ("*/x", "is not a host"),
            ("*x.org/", "whole labels"),
            ("a.*.org/", "whole labels"),
            ("h:x/", "not a port"),
            ("h:+80/", "not a port"),
            ("a..b/", "not a valid name"),
        ] {
            let wrong = RouteKey::parse(text).unwrap_err().to_string();
            assert!(wrong.contains(part), "{text}: {wrong}");
        }
    }
}
