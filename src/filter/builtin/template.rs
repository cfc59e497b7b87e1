//! Header values with `${…}` in them: read once at load, put together once per request.
//!
//! Text of a client may become part of a header. Invariants: what comes out is a valid field value
//! (RFC 9110, section 5.5) or nothing at all; an unknown word is an error at load.

use std::fmt::Write;

use http::HeaderValue;
use http::header::HOST;

use super::request_id::RequestId;
use crate::filter::{Context, Result};
use crate::tls::ClientCertificate;

/// A value, ready to be put together.
#[derive(Debug)]
pub(super) enum Template {
    Fixed(HeaderValue),
    Parts(Vec<Part>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    ClientIp,
    RequestId,
    Route,
    Host,
    ClientCertSubject,
    ClientCertSan,
    ClientCertSha256,
}

impl Template {
    /// Reads `text`. `$${` stands for `${` itself; a `$` before anything else is a `$`.
    pub(super) fn parse(text: &str) -> Result<Template> {
        if HeaderValue::from_bytes(text.as_bytes()).is_err() {
            return Err("holds a line end or another control character".into());
        }
        let parts = parts(text)?;
        match parts.as_slice() {
            [] => Ok(Template::Fixed(HeaderValue::from_static(""))),
            [Part::Text(text)] => Ok(Template::Fixed(HeaderValue::from_bytes(text.as_bytes())?)),
            _ => Ok(Template::Parts(parts)),
        }
    }

    /// A value as it could be, to find out at load what none of them can be.
    pub(super) fn sample(&self) -> Vec<u8> {
        let parts = match self {
            Template::Fixed(value) => return value.as_bytes().to_vec(),
            Template::Parts(parts) => parts,
        };
        let text = parts.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::ClientIp => "192.0.2.1",
            _ => "a",
        });
        text.collect::<String>().into_bytes()
    }

    /// The value for one request; `None` when the client sent something as its `Host` that belongs
    /// into no header.
    pub(super) fn value(&self, cx: &mut Context<'_>) -> Option<HeaderValue> {
        let parts = match self {
            Template::Fixed(value) => return Some(value.clone()),
            Template::Parts(parts) => parts,
        };
        let mut value = String::new();
        for part in parts {
            match part {
                Part::Text(text) => value.push_str(text),
                Part::ClientIp => match cx.client_ip() {
                    Some(ip) => write!(value, "{}", ip.to_canonical()).ok()?,
                    // RFC 7239, section 6.2.
                    None => value.push_str("unknown"),
                },
                Part::RequestId => value.push_str(RequestId::of(cx.extensions_mut()).as_str()),
                Part::Route => value.push_str(cx.route()),
                Part::Host => value.push_str(host(cx)?),
                Part::ClientCertSubject => value.push_str(certificate(cx, |one| &one.subject)),
                Part::ClientCertSan => {
                    value.push_str(certificate(cx, |one| &one.alternative_names));
                }
                Part::ClientCertSha256 => value.push_str(certificate(cx, |one| &one.sha256)),
            }
        }
        HeaderValue::from_bytes(value.as_bytes()).ok()
    }
}

/// A part of the client's certificate; empty where it showed none.
fn certificate<'c>(cx: &'c Context<'_>, part: fn(&ClientCertificate) -> &String) -> &'c str {
    let certificate = cx.tls().and_then(|tls| tls.certificate.as_ref());
    certificate.map_or("", |certificate| part(certificate))
}

/// The client's `Host` as it sent it, port included; empty when there is none.
fn host<'c>(cx: &'c Context<'_>) -> Option<&'c str> {
    let request = cx.request();
    let Some(host) = request.headers.get(HOST) else {
        return Some(request.uri.authority().map_or("", |host| host.as_str()));
    };
    host.to_str()
        .ok()
        .filter(|host| host.bytes().all(|byte| byte.is_ascii_graphic()))
}

fn parts(text: &str) -> Result<Vec<Part>> {
    let pieces = pieces(text).map_err(|why| format!("{why}; {KNOWN}"))?;
    let parts = pieces.into_iter().map(|piece| match piece {
        Piece::Text(text) => match foreign_word(&text) {
            Some(word) => Err(format!("`{word}` is a word of another server; {KNOWN}").into()),
            None => Ok(Part::Text(text)),
        },
        Piece::Word("client_ip") => Ok(Part::ClientIp),
        Piece::Word("request_id") => Ok(Part::RequestId),
        Piece::Word("route") => Ok(Part::Route),
        Piece::Word("host") => Ok(Part::Host),
        Piece::Word("client_cert_subject") => Ok(Part::ClientCertSubject),
        Piece::Word("client_cert_san") => Ok(Part::ClientCertSan),
        Piece::Word("client_cert_sha256") => Ok(Part::ClientCertSha256),
        Piece::Word(word) => Err(format!("`${{{word}}}` is not known; {KNOWN}").into()),
    });
    parts.collect()
}

/// Plain text, or the word of a `${…}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    Text(String),
    Word(&'t str),
}

/// Splits `text` at its words. `$${` stands for `${` itself.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, inner) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            literal.push_str(before);
            literal.push_str("${");
            rest = inner;
            continue;
        }
        literal.push_str(before);
        let Some((word, behind)) = inner.split_once('}') else {
            return Err("`${` has no `}` behind it".into());
        };
        if !literal.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Word(word));
        rest = behind;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Ok(pieces)
}

/// A word as nginx writes it, or one of ours without braces, which would be sent as it stands with
/// every request. Any other `$1` or `$filter` may be meant.
pub(super) fn foreign_word(text: &str) -> Option<&str> {
    let mut words = text.match_indices('$').map(|(at, _)| {
        let more = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let name = text.as_bytes()[at + 1..].iter().take_while(|b| more(b));
        &text[at..at + 1 + name.count()]
    });
    words.find(|word| FOREIGN.contains(&&word[1..]))
}

const FOREIGN: [&str; 22] = [
    "args",
    "client_cert_san",
    "client_cert_sha256",
    "client_cert_subject",
    "client_ip",
    "document_uri",
    "host",
    "hostname",
    "http_host",
    "is_args",
    "path",
    "proxy_add_x_forwarded_for",
    "query",
    "query_string",
    "remote_addr",
    "remote_user",
    "request_id",
    "request_uri",
    "route",
    "scheme",
    "server_name",
    "uri",
];

const KNOWN: &str = "known are ${client_ip}, ${request_id}, ${route}, ${host}, ${client_cert_subject}, ${client_cert_san} \
     and ${client_cert_sha256}, and `$${` stands for `${` itself";

#[cfg(test)]
mod tests {
    use super::super::fixture::Bed;
    use super::*;

    async fn value(text: &str, headers: &[&str]) -> Option<String> {
        let mut bed = Bed::get("/", headers).await;
        let value = Template::parse(text).unwrap().value(&mut bed.context())?;
        Some(String::from_utf8(value.as_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn words_are_put_in() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("${client_ip}", "192.0.2.7"),
            ("a ${route}, ${host}!", "a /api, example.org:81!"),
            (
                "$${host} $$${host} $ $x ${host}",
                "${host} $${host} $ $x example.org:81",
            ),
            ("{host}", "{host}"),
            ("$5 $hosts $$ $", "$5 $hosts $$ $"),
        ] {
            let value = value(text, &["Host: example.org:81"]).await;
            assert_eq!(value.as_deref(), Some(expected), "{text}");
        }
        let mut bed = Bed::get("/", &["Host: a"]).await;
        bed.client = None;
        let template = Template::parse("for=${client_ip}").unwrap();
        assert_eq!(template.value(&mut bed.context()).unwrap(), "for=unknown");
        let id = value("${request_id}", &["Host: a"]).await.unwrap();
        assert_eq!(id.len(), 32, "{id}");
    }

    #[test]
    fn unknown_words_are_refused_with_the_known_ones() {
        for (text, part) in [
            ("${hots}", "`${hots}` is not known; known are ${client_ip}"),
            ("${}", "`${}` is not known"),
            ("${HOME}", "`${HOME}` is not known"),
            ("${host", "has no `}`"),
            (
                "$remote_addr",
                "`$remote_addr` is a word of another server; known",
            ),
            (
                "for=${client_ip};host=$host",
                "`$host` is a word of another",
            ),
            ("$client_ip", "`$client_ip` is a word"),
            ("a\r\nX-Evil: 1", "line end"),
            ("a\0", "line end"),
        ] {
            let error = Template::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn nothing_of_a_hostile_host_gets_into_a_header() {
        for host in ["a b", "a\tb", "caf\u{e9}"] {
            let mut bed = Bed::get("/", &["Host: a"]).await;
            let hostile = HeaderValue::from_bytes(host.as_bytes()).unwrap();
            bed.context().request_mut().set(HOST, hostile).unwrap();
            let template = Template::parse("https://${host}/").unwrap();
            assert_eq!(template.value(&mut bed.context()), None, "{host:?}");
        }
        assert_eq!(value("${host}", &[]).await.as_deref(), Some(""));
    }

    #[tokio::test]
    async fn a_route_cannot_end_a_line() {
        let mut bed = Bed::get("/", &["Host: a"]).await;
        let mut cx = bed.context();
        cx.route = "a\r\nX-Evil: 1";
        assert_eq!(Template::parse("${route}").unwrap().value(&mut cx), None);
    }
}
