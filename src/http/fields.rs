//! Which of the fields that a gateway acts on a head has.
//!
//! Its own file because requests and responses ask alike. A lookup in a header map costs some
//! hundred instructions and a removal twice that, so asking for twenty names that are not there was
//! a tenth of a request; this walks once over the few that are. Invariant: a field that is there is
//! never called absent; one that was removed meanwhile may still be called present.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The fields of one head that have a meaning here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields(u16);

impl Fields {
    /// `Connection` (RFC 9110, section 7.6.1).
    pub const CONNECTION: Fields = Fields(1);
    /// `Upgrade` (RFC 9110, section 7.8).
    pub const UPGRADE: Fields = Fields(1 << 1);
    /// `Transfer-Encoding` (RFC 9112, section 6.1).
    pub const TRANSFER_ENCODING: Fields = Fields(1 << 2);
    /// `Content-Length` (RFC 9110, section 8.6).
    pub const CONTENT_LENGTH: Fields = Fields(1 << 3);
    /// Any other that is for one hop alone (RFC 9110, section 7.6.1).
    pub const OTHER_HOP_BY_HOP: Fields = Fields(1 << 4);
    /// `Via` (RFC 9110, section 7.6.3).
    pub const VIA: Fields = Fields(1 << 5);
    /// What only a proxy can say of its client, but for the three fields that every request gets
    /// from us (`X-Forwarded-For`, `-Proto`, `-Host`).
    pub const CLAIM: Fields = Fields(1 << 6);
    /// A `Connection` that says more than `keep-alive` or `close`, which nearly all responses say
    /// and which name no field that would not be taken out without it.
    pub const NOMINATES: Fields = Fields(1 << 7);
    /// More than one line of `Content-Length`, or a list in one.
    pub const REPEATED_LENGTH: Fields = Fields(1 << 8);
    /// How long the sender keeps the connection open; for one hop alone, too.
    pub const KEEP_ALIVE: Fields = Fields(1 << 9);
    /// All that Pingora 0.9.1 takes out of a request by itself, or decides that by.
    pub const HOP_BY_HOP: Fields = Fields::CONNECTION
        .or(Fields::UPGRADE)
        .or(Fields::TRANSFER_ENCODING)
        .or(Fields::KEEP_ALIVE)
        .or(Fields::OTHER_HOP_BY_HOP);

    /// What `headers` has.
    pub fn of(headers: &HeaderMap) -> Fields {
        headers.iter().fold(Fields(0), |seen, (name, value)| {
            let field = field(name);
            let said = match field {
                Fields::CONNECTION if !is_plain(value) => Fields::NOMINATES,
                Fields::CONTENT_LENGTH if seen.has(field) || value.as_bytes().contains(&b',') => {
                    Fields::REPEATED_LENGTH
                }
                _ => Fields(0),
            };
            seen.or(field).or(said)
        })
    }

    /// Both.
    pub const fn or(self, other: Fields) -> Fields {
        Fields(self.0 | other.0)
    }

    /// Whether any of `fields` is there.
    pub fn has(self, fields: Fields) -> bool {
        self.0 & fields.0 != 0
    }
}

/// The addresses that a request came through, as proxies write them.
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

fn is_plain(connection: &HeaderValue) -> bool {
    let options = connection.as_bytes();
    options.eq_ignore_ascii_case(b"keep-alive") || options.eq_ignore_ascii_case(b"close")
}

fn field(name: &HeaderName) -> Fields {
    let name = name.as_str();
    // By length first: most names are none of these.
    match name.len() {
        2 if name == "te" => Fields::OTHER_HOP_BY_HOP,
        3 if name == "via" => Fields::VIA,
        7 if name == "upgrade" => Fields::UPGRADE,
        7 if name == "trailer" => Fields::OTHER_HOP_BY_HOP,
        10 if name == "connection" => Fields::CONNECTION,
        10 if name == "keep-alive" => Fields::KEEP_ALIVE,
        14 if name == "content-length" => Fields::CONTENT_LENGTH,
        14 if name == "http2-settings" => Fields::OTHER_HOP_BY_HOP,
        16 if name == "proxy-connection" => Fields::OTHER_HOP_BY_HOP,
        17 if name == "transfer-encoding" => Fields::TRANSFER_ENCODING,
        18 if name == "proxy-authenticate" => Fields::OTHER_HOP_BY_HOP,
        19 if name == "proxy-authorization" => Fields::OTHER_HOP_BY_HOP,
        _ if is_claim(name) => Fields::CLAIM,
        _ => Fields(0),
    }
}

/// Whether a field of this name is [`Fields::CLAIM`]. Behind an endpoint that hands fields on as
/// variables (RFC 3875, section 4.1.18) `X_Real-IP` is `X-Real-IP`, and so is any other separator
/// with some.
pub fn is_claim(name: &str) -> bool {
    let separates = |byte: u8| !byte.is_ascii_alphanumeric();
    match name.as_bytes() {
        b"forwarded" => true,
        [b'x', a, b'r', b'e', b'a', b'l', b, b'i', b'p'] => separates(*a) && separates(*b),
        [b'x', a, rest @ ..] if separates(*a) => match rest.strip_prefix(b"forwarded") {
            Some([b'-', b'f', b'o', b'r'])
            | Some([b'-', b'p', b'r', b'o', b't', b'o'])
            | Some([b'-', b'h', b'o', b's', b't']) => *a != b'-',
            Some([b, ..]) => separates(*b),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    fn of(names: &[&'static str]) -> Fields {
        let headers = names.iter().map(|name| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static("close"),
            )
        });
        Fields::of(&headers.collect())
    }

    #[test]
    fn knows_each_field() {
        for (name, field) in [
            ("connection", Fields::CONNECTION),
            ("upgrade", Fields::UPGRADE),
            ("transfer-encoding", Fields::TRANSFER_ENCODING),
            ("content-length", Fields::CONTENT_LENGTH),
            ("keep-alive", Fields::KEEP_ALIVE),
            ("proxy-connection", Fields::OTHER_HOP_BY_HOP),
            ("proxy-authenticate", Fields::OTHER_HOP_BY_HOP),
            ("proxy-authorization", Fields::OTHER_HOP_BY_HOP),
            ("te", Fields::OTHER_HOP_BY_HOP),
            ("trailer", Fields::OTHER_HOP_BY_HOP),
            ("http2-settings", Fields::OTHER_HOP_BY_HOP),
            ("via", Fields::VIA),
            ("forwarded", Fields::CLAIM),
            ("x-forwarded-port", Fields::CLAIM),
            ("x-real-ip", Fields::CLAIM),
        ] {
            assert_eq!(of(&[name]), field, "{name}");
            assert!(of(&["host", name, "accept"]).has(field), "{name}");
        }
    }

    fn with(fields: &[(HeaderName, &'static str)]) -> Fields {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        Fields::of(&headers)
    }

    #[test]
    fn knows_a_connection_that_names_fields() {
        for (lines, nominates) in [
            (&["close"][..], false),
            (&["Keep-Alive"], false),
            (&["close", "keep-alive"], false),
            (&["keep-alive, close"], true),
            (&["x-internal"], true),
            (&["close", "x-internal"], true),
            (&[""], true),
        ] {
            let lines: Vec<_> = lines.iter().map(|l| (header::CONNECTION, *l)).collect();
            let has = with(&lines);
            assert!(has.has(Fields::CONNECTION));
            assert_eq!(has.has(Fields::NOMINATES), nominates, "{lines:?}");
        }
    }

    #[test]
    fn knows_a_length_that_is_told_twice() {
        for (lines, repeated) in [
            (&["3"][..], false),
            (&["3", "3"], true),
            (&["3, 3"], true),
            (&["3,"], true),
        ] {
            let mut lines: Vec<_> = lines.iter().map(|l| (header::CONTENT_LENGTH, *l)).collect();
            lines.insert(1, (header::SERVER, "x"));
            let has = with(&lines);
            assert!(has.has(Fields::CONTENT_LENGTH));
            assert_eq!(has.has(Fields::REPEATED_LENGTH), repeated, "{lines:?}");
        }
        assert!(!with(&[(header::SERVER, "a, b")]).has(Fields::REPEATED_LENGTH));
    }

    #[test]
    fn an_ordinary_request_has_none() {
        let request = of(&["host", "user-agent", "accept", "cookie", "x-forwarded-for"]);
        assert_eq!(request, Fields(0));
        assert!(!request.has(Fields::HOP_BY_HOP));
    }

    #[test]
    fn a_claim_is_known_by_any_separator() {
        for claim in [
            "forwarded",
            "x-real-ip",
            "x_real_ip",
            "x-real_ip",
            "x.real-ip",
            "x_forwarded_for",
            "x-forwarded_for",
            "x_forwarded-proto",
            "x_forwarded-host",
            "x-forwarded-prefix",
            "x-forwarded-port",
            "x_forwarded_port",
            "x-forwarded-server",
            "x-forwarded-user",
        ] {
            assert!(of(&["host", claim]).has(Fields::CLAIM), "{claim}");
        }
        for other in [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded",
            "x-forwardedly",
            "x-real-ips",
            "xxreal-ip",
            "x-request-id",
            "x",
        ] {
            assert!(!of(&["host", other]).has(Fields::CLAIM), "{other}");
        }
    }

    #[test]
    fn all_that_pingora_takes_out_is_hop_by_hop() {
        for name in [
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
            "transfer-encoding",
            "connection",
            "upgrade",
            "http2-settings",
        ] {
            assert!(of(&[name]).has(Fields::HOP_BY_HOP), "{name}");
        }
        assert!(!of(&["via", "content-length"]).has(Fields::HOP_BY_HOP));
    }
}
