//! What changes in a message on its way through: path, `Host`, `X-Forwarded-*`, `Via`, and headers
//! that are only for one hop.
//!
//! Its own file because each line answers to a section of an RFC and none of them needs a session.
//! Invariant: what a client says about itself is passed on only when its address is trusted;
//! [`disclaim`] is called before anyone sees the request, what is replaced is by [`request`].
//! Pingora has already removed hop-by-hop headers from the request (its `standard` policy) when
//! [`request`] is called; for responses it does not, so [`response`] does.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora_core::{ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::config::Upgrades;
use crate::http::fields::{self, Fields, X_FORWARDED_FOR};

/// What a request becomes for one endpoint.
pub struct Outgoing<'a> {
    /// The path and query to send, with the endpoint's own path before it.
    pub target: &'a str,
    /// `host:port` of the endpoint, where the client's `Host` is not kept.
    pub host: Option<&'a str>,
    /// Used when the client sent no `Host` (HTTP/1.0).
    pub default_host: &'a str,
    /// The client's address.
    pub client: &'a HeaderValue,
    /// The client's address is in `trusted_proxies`.
    pub trusted: bool,
    /// The client came by TLS.
    pub tls: bool,
    /// The protocol that it asks for: see [`switches_to`].
    pub upgrade: Option<&'a HeaderValue>,
    /// What the client's request has, its filters included.
    pub has: Fields,
    /// Who this gateway is in `Via`: see [`pseudonym`].
    pub via: &'a HeaderValue,
}

/// Turns the client's request, already a copy, into the one an endpoint gets.
///
/// Its field names go on in lower case but for some that Pingora writes in capitals, as with Envoy
/// and HAProxy (a name means the same in any case, RFC 9110, section 5.1): Pingora keeps the case in
/// a second map, and four more fields in both were a twentieth of a small request.
pub fn request(request: &mut RequestHeader, out: &Outgoing<'_>) -> Result<()> {
    let nobody = RequestHeader::from(http::Request::new(()).into_parts().0);
    let mut parts = http::request::Parts::from(std::mem::replace(request, nobody));
    let fields = outgoing(&mut parts.headers, out);
    // It knows its target by the URI alone from here on: what else was kept of it is gone.
    *request = RequestHeader::from(parts);
    fields?;
    if request.raw_path() != out.target.as_bytes() {
        request.set_raw_path(out.target.as_bytes())?;
    }
    Ok(())
}

/// Removes what a client that nobody trusts says as if it were a proxy, but for the three fields
/// that [`request`] replaces.
pub fn disclaim(request: &mut RequestHeader) {
    let claims: Vec<HeaderName> = request
        .headers
        .keys()
        .filter(|name| fields::is_claim(name.as_str()))
        .cloned()
        .collect();
    for name in claims {
        request.remove_header(&name);
    }
}

/// Whether the proxy before us was reached by https.
pub fn names_https(headers: &HeaderMap) -> bool {
    let named = headers.get(X_FORWARDED_PROTO);
    named.is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

fn outgoing(headers: &mut HeaderMap, out: &Outgoing<'_>) -> Result<()> {
    let has = out.has;
    // Pingora 0.9.1 lets `Upgrade: websocket` pass, also where `Connection` does not name it, and
    // takes all others away.
    if let Some(protocol) = out.upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    } else if has.has(Fields::CONNECTION.or(Fields::UPGRADE)) {
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
    }
    let original_host = headers.get(header::HOST).cloned();
    headers
        .try_reserve(MOST_ADDED)
        .or_err(ErrorType::InvalidHTTPHeader, "too many fields")?;
    let client = match out.trusted {
        true => after(lines(headers, &X_FORWARDED_FOR), out.client)?,
        false => out.client.clone(),
    };
    headers.insert(X_FORWARDED_FOR, client);
    if !out.trusted || !headers.contains_key(X_FORWARDED_PROTO) {
        let proto = if out.tls { "https" } else { "http" };
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    match &original_host {
        Some(host) if !out.trusted || !headers.contains_key(X_FORWARDED_HOST) => {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
        None if !out.trusted => {
            headers.remove(X_FORWARDED_HOST);
        }
        _ => {}
    }
    let host = match (out.host, original_host) {
        (Some(host), _) => Some(host),
        (None, None) => Some(out.default_host),
        (None, Some(_)) => None,
    };
    if let Some(host) = host {
        let host = HeaderValue::from_str(host).or_err(ErrorType::InvalidHTTPHeader, "host")?;
        headers.insert(header::HOST, host);
    }
    // RFC 9110, section 7.6.3: a gateway says so in each request it forwards.
    let via = match has.has(Fields::VIA) {
        true => after(lines(headers, &header::VIA), out.via)?,
        false => out.via.clone(),
    };
    headers.insert(header::VIA, via);
    Ok(())
}

/// Removes what was meant for this hop alone (RFC 9110, section 7.6.1). `Transfer-Encoding` stays:
/// Pingora frames the body by it. `Connection` is written anew by Pingora, `Upgrade` belongs to 101.
/// `has` is what it has.
pub fn response(response: &mut ResponseHeader, has: Fields) {
    if has.has(Fields::NOMINATES)
        && let Some(nominated) = joined(&response.headers, &header::CONNECTION)
    {
        let nominated = nominated.into_owned();
        for name in nominated.split(',') {
            let name = name.trim();
            let keep = KEPT_WHEN_NOMINATED
                .iter()
                .any(|kept| kept.as_str().eq_ignore_ascii_case(name));
            if !keep && !name.is_empty() {
                response.remove_header(name);
            }
        }
    }
    if has.has(Fields::OTHER_HOP_BY_HOP.or(Fields::KEEP_ALIVE)) {
        for name in &HOP_BY_HOP {
            response.remove_header(name);
        }
    }
    framed_once(response, has);
    if has.has(Fields::UPGRADE)
        && response.status != http::StatusCode::SWITCHING_PROTOCOLS
        && response.status != http::StatusCode::UPGRADE_REQUIRED
    {
        response.remove_header(&header::UPGRADE);
    }
}

/// Leaves one field that says where the body ends, or none where there is no body. Pingora has
/// refused lengths that contradict each other.
fn framed_once(response: &mut ResponseHeader, has: Fields) {
    if response.status == http::StatusCode::NO_CONTENT {
        // RFC 9110, section 8.6, and RFC 9112, section 6.1.
        response.remove_header(&header::CONTENT_LENGTH);
        response.remove_header(&header::TRANSFER_ENCODING);
    }
    // RFC 9110, section 8.6: a length that is repeated must not go on like that.
    if has.has(Fields::REPEATED_LENGTH) {
        let lengths = joined(&response.headers, &header::CONTENT_LENGTH);
        let repeated = lengths.and_then(|lengths| {
            let (first, _) = lengths.split_once(',')?;
            first.trim().parse::<u64>().ok()
        });
        if let Some(length) = repeated {
            // A number is a valid value.
            let _ = response.insert_header(header::CONTENT_LENGTH, length);
        }
    }
    // RFC 9112, section 6.1: chunked is applied once. Pingora read it once and writes it once.
    if has.has(Fields::TRANSFER_ENCODING)
        && let Some(codings) = joined(&response.headers, &header::TRANSFER_ENCODING)
        && codings.contains(',')
        && codings.split(',').all(is_chunked_coding)
    {
        let chunked = HeaderValue::from_static("chunked");
        let _ = response.insert_header(header::TRANSFER_ENCODING, chunked);
    }
}

/// Whether the last transfer coding is `chunked`, so that the body tells its own end.
pub fn is_chunked(headers: &HeaderMap) -> bool {
    joined(headers, &header::TRANSFER_ENCODING)
        .is_some_and(|codings| codings.rsplit(',').next().is_some_and(is_chunked_coding))
}

/// Whether no transfer coding but `chunked` was applied, however often it is said.
pub fn is_only_chunked(headers: &HeaderMap) -> bool {
    joined(headers, &header::TRANSFER_ENCODING)
        .is_some_and(|codings| codings.split(',').all(is_chunked_coding))
}

fn is_chunked_coding(coding: &str) -> bool {
    coding.trim().eq_ignore_ascii_case("chunked")
}

/// What the request asks to switch to (RFC 9110, section 7.8), if that is one protocol and `allowed`.
pub fn switches_to<'r>(request: &'r RequestHeader, allowed: &Upgrades) -> Option<&'r HeaderValue> {
    let mut fields = request.headers.get_all(header::UPGRADE).iter();
    let (Some(protocol), None) = (fields.next(), fields.next()) else {
        return None;
    };
    let asks = request.version == http::Version::HTTP_11
        && protocol.to_str().is_ok_and(|asked| allowed.allow(asked))
        && joined(&request.headers, &header::CONNECTION).is_some_and(|options| {
            let mut options = options.split(',');
            options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
        });
    asks.then_some(protocol)
}

/// Whether the client may wait for `100 Continue` (RFC 9110, section 10.1.1).
pub fn expects_continue(request: &RequestHeader) -> bool {
    request.version == http::Version::HTTP_11 && request.headers.contains_key(header::EXPECT)
}

/// A new name for a gateway: what it adds to `Via`. No two have the same, so that one that meets its
/// own knows that the request has been here, while gateways of one configuration may follow each
/// other.
pub fn pseudonym() -> HeaderValue {
    let name = format!("1.1 harbr-router-{:016x}", rand::random::<u64>());
    HeaderValue::from_maybe_shared(Bytes::from(name))
        .unwrap_or_else(|_| HeaderValue::from_static("1.1 harbr-router"))
}

/// The same [`pseudonym`] for requests that came in HTTP/2.
pub fn in_http2(via: &HeaderValue) -> HeaderValue {
    let name = String::from_utf8_lossy(received_by(via.as_bytes()).unwrap_or_default());
    HeaderValue::try_from(format!("2 {name}")).unwrap_or_else(|_| via.clone())
}

/// Whether a request with these fields has passed the gateway of this [`pseudonym`] (RFC 9110,
/// section 7.6.3). The comment behind a name may have been taken away, the name not.
pub fn has_passed(headers: &HeaderMap, via: &HeaderValue) -> bool {
    let own = received_by(via.as_bytes());
    let lines = headers.get_all(header::VIA).iter();
    let mut hops = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    own.is_some() && hops.any(|hop| received_by(hop) == own)
}

/// Whose hop a member of `Via` is: its second word.
fn received_by(hop: &[u8]) -> Option<&[u8]> {
    let words = hop.split(u8::is_ascii_whitespace);
    words.filter(|word| !word.is_empty()).nth(1)
}

/// All lines of one header as one list; lines that are not text are left out.
fn joined<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, str>> {
    let mut lines = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut list = Cow::Borrowed(lines.next()?);
    for line in lines {
        let list = list.to_mut();
        list.push_str(", ");
        list.push_str(line);
    }
    Some(list)
}

/// All lines of one header, byte for byte: what is not text was said, too.
fn lines<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes)
}

/// A list with one more member.
fn after<'h>(lines: impl Iterator<Item = &'h [u8]>, last: &HeaderValue) -> Result<HeaderValue> {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return Ok(last.clone());
    }
    let mut longer = Vec::new();
    for line in lines {
        longer.extend_from_slice(line);
        longer.extend_from_slice(b", ");
    }
    longer.extend_from_slice(last.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(longer))
        .or_err(ErrorType::InvalidHTTPHeader, "a list of addresses or hops")
}

/// `X-Forwarded-For`, `-Proto`, `-Host`, `Host` and `Via`.
const MOST_ADDED: usize = 5;
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const HOP_BY_HOP: [HeaderName; 5] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
];
/// Framing and switching are Pingora's; a nomination must not take them away.
const KEPT_WHEN_NOMINATED: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::UPGRADE,
    HeaderName::from_static("close"),
];

#[cfg(test)]
mod tests {
    use super::*;

    static CLIENT: HeaderValue = HeaderValue::from_static("203.0.113.9");
    static VIA: HeaderValue = HeaderValue::from_static("1.1 harbr-router-7");

    fn incoming(headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/api/x?q=1", None).unwrap();
        for (name, value) in headers {
            request
                .append_header(name.to_string(), value.to_string())
                .unwrap();
        }
        request
    }

    fn to_endpoint<'a>(trusted: bool) -> Outgoing<'a> {
        Outgoing {
            target: "/v1/x?q=1",
            host: None,
            default_host: "10.0.0.1:80",
            client: &CLIENT,
            trusted,
            tls: false,
            upgrade: None,
            has: Fields::default(),
            via: &VIA,
        }
    }

    fn sent(request: &mut RequestHeader, out: Outgoing<'_>) {
        let has = Fields::of(&request.headers);
        super::request(request, &Outgoing { has, ..out }).unwrap();
    }

    fn text(request: &RequestHeader, name: &str) -> Option<String> {
        joined(&request.headers, &name.parse().unwrap()).map(Cow::into_owned)
    }

    #[test]
    fn an_untrusted_client_cannot_speak_for_others() {
        let mut request = incoming(&[
            ("Host", "example.org"),
            ("X-Forwarded-For", "10.9.9.9"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil"),
            ("X-Forwarded-Port", "1"),
            ("Forwarded", "for=10.9.9.9"),
            ("X-Real-IP", "10.9.9.9"),
            ("X_Forwarded_For", "10.9.9.9"),
        ]);
        disclaim(&mut request);
        sent(&mut request, to_endpoint(false));
        assert_eq!(request.raw_path(), b"/v1/x?q=1");
        assert_eq!(text(&request, "x-forwarded-for").unwrap(), "203.0.113.9");
        assert_eq!(text(&request, "x-forwarded-proto").unwrap(), "http");
        assert_eq!(text(&request, "x-forwarded-host").unwrap(), "example.org");
        assert_eq!(text(&request, "host").unwrap(), "example.org");
        assert_eq!(text(&request, "via").unwrap(), "1.1 harbr-router-7");
        assert_eq!(text(&request, "forwarded"), None);
        for gone in ["x-forwarded-port", "x-real-ip", "x_forwarded_for"] {
            assert_eq!(text(&request, gone), None, "{gone}");
        }
    }

    #[test]
    fn what_is_not_text_stays_in_a_list() {
        let mut request = incoming(&[]);
        let strange = HeaderValue::from_bytes(b"caf\xe9").unwrap();
        request.append_header("X-Forwarded-For", "1.1.1.1").unwrap();
        request.append_header("X-Forwarded-For", strange).unwrap();
        sent(&mut request, to_endpoint(true));
        let list = request.headers[X_FORWARDED_FOR].as_bytes();
        assert_eq!(list, b"1.1.1.1, caf\xe9, 203.0.113.9");
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_appended_to() {
        let mut request = incoming(&[
            ("Host", "inner"),
            ("X-Forwarded-For", "198.51.100.1"),
            ("X-Forwarded-For", "198.51.100.2"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "example.org"),
            ("Via", "1.1 edge"),
        ]);
        sent(&mut request, to_endpoint(true));
        assert_eq!(
            text(&request, "x-forwarded-for").unwrap(),
            "198.51.100.1, 198.51.100.2, 203.0.113.9"
        );
        assert_eq!(text(&request, "x-forwarded-proto").unwrap(), "https");
        assert_eq!(text(&request, "x-forwarded-host").unwrap(), "example.org");
        assert_eq!(
            text(&request, "via").unwrap(),
            "1.1 edge, 1.1 harbr-router-7"
        );
    }

    #[test]
    fn a_gateway_knows_its_own_hop_and_no_other() {
        let own = pseudonym();
        assert_ne!(own, pseudonym(), "another gateway");
        let name = own.to_str().unwrap().strip_prefix("1.1 ").unwrap();
        let passed = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::VIA, line.parse().unwrap());
            }
            has_passed(&headers, &own)
        };
        for line in [
            format!("1.1 {name}"),
            format!("1.0 edge,1.1 {name}, 1.1 inner"),
            format!("HTTP/1.1  {name} (Apache/2.4)"),
            format!("2 edge (a, b),\t1.1 {name}"),
        ] {
            assert!(passed(&[&line]), "{line}");
            assert!(passed(&["1.1 edge", &line]), "{line}");
        }
        for line in [
            "1.1 harbr-router",
            "1.1 edge",
            &format!("1.1 {name}0"),
            name,
            ",",
            "",
        ] {
            assert!(!passed(&[line]), "{line}");
        }
        assert!(!passed(&[]));
    }

    #[test]
    fn only_a_request_that_switches_keeps_its_connection_fields() {
        for (protocol, kept) in [
            ("websocket", true),
            ("SPDY/3.1", true),
            ("websocket", false),
        ] {
            let mut request = incoming(&[("Connection", "X, Upgrade"), ("Upgrade", protocol)]);
            let protocol = HeaderValue::from_static(protocol);
            let out = Outgoing {
                upgrade: kept.then_some(&protocol),
                ..to_endpoint(false)
            };
            sent(&mut request, out);
            let expected = |value: &str| kept.then(|| value.to_owned());
            assert_eq!(text(&request, "connection"), expected("Upgrade"));
            assert_eq!(
                text(&request, "upgrade"),
                expected(protocol.to_str().unwrap())
            );
        }
    }

    #[test]
    fn a_request_switches_to_one_protocol_that_its_connection_names() {
        let asks = |fields: &[(&str, &str)]| {
            let request = incoming(fields);
            switches_to(&request, &Upgrades::Any).map(|p| p.to_str().unwrap().to_owned())
        };
        let connection = ("Connection", "keep-alive, Upgrade");
        let tcp = ("Upgrade", "tcp");
        assert_eq!(asks(&[connection, tcp]).as_deref(), Some("tcp"));
        assert_eq!(asks(&[tcp]), None);
        assert_eq!(asks(&[("Connection", "keep-alive"), tcp]), None);
        assert_eq!(asks(&[connection, tcp, ("Upgrade", "websocket")]), None);
        assert_eq!(asks(&[connection, ("Upgrade", "h2c")]), None);
        let request = incoming(&[connection, tcp]);
        assert_eq!(switches_to(&request, &Upgrades::Only(Vec::new())), None);
    }

    #[test]
    fn host_is_replaced_or_filled_in() {
        let mut request = incoming(&[("Host", "example.org")]);
        let out = Outgoing {
            host: Some("origin:8080"),
            ..to_endpoint(false)
        };
        sent(&mut request, out);
        assert_eq!(text(&request, "host").unwrap(), "origin:8080");
        assert_eq!(text(&request, "x-forwarded-host").unwrap(), "example.org");

        let mut request = incoming(&[]);
        sent(&mut request, to_endpoint(false));
        assert_eq!(text(&request, "host").unwrap(), "10.0.0.1:80");
        assert_eq!(text(&request, "x-forwarded-host"), None);
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("Connection", "keep-alive, X-Internal, Content-Length"),
            ("X-Internal", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authenticate", "Basic"),
            ("Upgrade", "h2c"),
            ("Content-Length", "3"),
            ("X-Kept", "1"),
        ] {
            response.append_header(name, value).unwrap();
        }
        let has = Fields::of(&response.headers);
        super::response(&mut response, has);
        for gone in ["x-internal", "keep-alive", "proxy-authenticate", "upgrade"] {
            assert!(!response.headers.contains_key(gone), "{gone}");
        }
        assert!(response.headers.contains_key("content-length"));
        assert!(response.headers.contains_key("x-kept"));
    }
}
