//! A request head of HTTP/2 as the head that it is in HTTP/1.1, judged by the same scanner.
//!
//! Invariant: what leaves here is one unambiguous request: one host, a length that is known or chunks,
//! and no field that means something to one hop alone.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Version};
use pingora_http::RequestHeader;

use crate::error::Reason;
use crate::wire::http1::{HeadScanner, Refusal, Scan, escaped};

/// A request that may pass. `ended`: it has no body.
pub(super) fn checked(
    parts: Parts,
    ended: bool,
    max_bytes: usize,
) -> Result<RequestHeader, Box<RefusedStream>> {
    let method = parts.method.clone();
    let target = target(&parts);
    let refused = |refusal| {
        Box::new(RefusedStream {
            refusal,
            method: method.clone(),
            target: target.clone(),
        })
    };
    let fields = fields(parts, ended).map_err(refused)?;
    let head = written(&method, &target, &fields);
    let target = match HeadScanner::new(max_bytes).scan(&head) {
        Scan::Complete(_) => escaped(target.as_bytes()).into_owned(),
        Scan::Refused(refusal) => return Err(refused(refusal)),
        Scan::NeedMore if head.len() >= max_bytes => return Err(refused(TOO_LARGE)),
        Scan::NeedMore => return Err(refused(bad("no whole head"))),
    };
    let built = RequestHeader::build_no_case(method.clone(), &target, Some(fields.len()));
    let mut request = built.map_err(|_| refused(bad("the target cannot be read")))?;
    request.set_version(Version::HTTP_11);
    for (name, value) in &fields {
        let added = request.append_header(name.clone(), value.clone());
        added.map_err(|_| refused(bad("too many fields")))?;
    }
    Ok(request)
}

/// A request that must not pass.
pub(super) struct RefusedStream {
    pub(super) refusal: Refusal,
    pub(super) method: Method,
    pub(super) target: String,
}

/// The request target in origin form, or what CONNECT and OPTIONS have in its place.
fn target(parts: &Parts) -> String {
    if parts.method == Method::CONNECT {
        let authority = parts.uri.authority();
        return authority.map_or_else(String::new, ToString::to_string);
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    match path {
        "" => "/".to_owned(),
        path => path.to_owned(),
    }
}

/// The fields that the request has in HTTP/1.1.
fn fields(parts: Parts, ended: bool) -> Result<HeaderMap, Refusal> {
    // RFC 9113, section 8.3.1.
    if let Some(scheme) = parts.uri.scheme()
        && !matches!(scheme.as_str(), "http" | "https")
    {
        return Err(bad("a scheme other than http and https"));
    }
    let mut fields = parts.headers;
    for (name, value) in &fields {
        // RFC 9113, section 8.2.1.
        let value = value.as_bytes();
        if matches!(value.first(), Some(b' ' | b'\t')) || matches!(value.last(), Some(b' ' | b'\t'))
        {
            return Err(bad("a value that begins or ends with whitespace"));
        }
        // RFC 9113, section 8.2.2.
        if CONNECTION_SPECIFIC.contains(&name.as_str()) {
            return Err(bad("a connection-specific field"));
        }
        if name == header::TE && !value.eq_ignore_ascii_case(b"trailers") {
            return Err(bad("TE other than `trailers`"));
        }
    }
    if let Some(authority) = parts.uri.authority() {
        let authority = authority.as_str().as_bytes();
        // RFC 9113, section 8.3.1.
        let differs = |host: &HeaderValue| host.as_bytes() != authority;
        if fields.get_all(header::HOST).iter().any(differs) {
            return Err(bad("Host differs from :authority"));
        }
        let authority =
            HeaderValue::from_bytes(authority).map_err(|_| bad("the authority is malformed"))?;
        fields.insert(header::HOST, authority);
    }
    join_cookies(&mut fields);
    if !fields.contains_key(header::CONTENT_LENGTH) {
        if !ended {
            let chunked = HeaderValue::from_static("chunked");
            fields.insert(header::TRANSFER_ENCODING, chunked);
        } else if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
            // RFC 9110, section 8.6: servers of HTTP/1 answer 411 without one.
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    }
    Ok(fields)
}

/// One line of what compression has split (RFC 9113, section 8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let mut crumbs = fields.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        fields.insert(header::COOKIE, joined);
    }
}

/// The head as HTTP/1.1 writes it.
fn written(method: &Method, target: &str, fields: &HeaderMap) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    for (name, value) in fields {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn bad(why: &'static str) -> Refusal {
    Refusal {
        status: 400,
        reason: Reason::BadRequest,
        why,
    }
}

const TOO_LARGE: Refusal = Refusal {
    status: 431,
    reason: Reason::HeaderTooLarge,
    why: "the head is too large",
};

const CONNECTION_SPECIFIC: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// Fields of a response that mean nothing in HTTP/2 (RFC 9113, section 8.2.2).
pub(super) const NOT_IN_RESPONSES: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn why(method: &str, uri: &str, fields: &[(&str, &str)]) -> &'static str {
        match checked(parts(method, uri, fields), true, 65_536) {
            Ok(request) => panic!("{request:?}"),
            Err(refused) => refused.refusal.why,
        }
    }

    #[test]
    fn a_request_becomes_what_it_is_in_http_1() {
        let fields = [
            ("cookie", "a=1"),
            ("x", "y"),
            ("cookie", "b=2"),
            ("cookie", "c=3"),
        ];
        let request = parts("POST", "https://example.org:8443/a?b=c", &fields);
        let request = checked(request, false, 65_536).ok().unwrap();
        assert_eq!(request.raw_path(), b"/a?b=c");
        assert_eq!(request.version, Version::HTTP_11);
        let get = |name: &str| -> Vec<&str> {
            let values = request.headers.get_all(name).iter();
            values.map(|value| value.to_str().unwrap()).collect()
        };
        assert_eq!(get("host"), ["example.org:8443"]);
        assert_eq!(get("cookie"), ["a=1; b=2; c=3"]);
        assert_eq!(get("transfer-encoding"), ["chunked"]);
        assert_eq!(get("content-length"), Vec::<&str>::new());
        for (method, length) in [("POST", Some("0")), ("PATCH", Some("0")), ("GET", None)] {
            let request = checked(parts(method, "http://a/", &[]), true, 65_536)
                .ok()
                .unwrap();
            let given = request.headers.get("content-length");
            assert_eq!(
                given.map(|value| value.to_str().unwrap()),
                length,
                "{method}"
            );
            assert!(!request.headers.contains_key("transfer-encoding"));
        }
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for (uri, fields, expected) in [
            ("ftp://a/", &[][..], "a scheme other than http and https"),
            (
                "https://a/",
                &[("host", "b")],
                "Host differs from :authority",
            ),
            (
                "https://a/",
                &[("x", " y")],
                "a value that begins or ends with whitespace",
            ),
            (
                "https://a/",
                &[("x", "y\t")],
                "a value that begins or ends with whitespace",
            ),
            ("https://a/", &[("te", "gzip")], "TE other than `trailers`"),
            (
                "https://a/",
                &[("connection", "x")],
                "a connection-specific field",
            ),
            (
                "https://a/",
                &[("transfer-encoding", "chunked")],
                "a connection-specific field",
            ),
        ] {
            assert_eq!(why("GET", uri, fields), expected, "{uri} {fields:?}");
        }
        // The rules of HTTP/1.
        for (method, uri, fields) in [
            ("GET", "/", &[][..]),
            ("GET", "https://user@a/", &[]),
            ("GET", "/", &[("host", "a"), ("host", "a")]),
            ("GET", "https://a/", &[("content-length", "1, 2")]),
            ("GET", "https://a/", &[("content-length", "+1")]),
        ] {
            why(method, uri, fields);
        }
        let long = "x".repeat(70_000);
        let refused = checked(parts("GET", "https://a/", &[("x", &long)]), true, 65_536);
        assert_eq!(refused.err().unwrap().refusal.status, 431);
    }
}
