//! Which of the fields that a gateway acts on a head has.
//!
//! Its own file because requests and responses ask alike. A lookup in a header map costs some
//! hundred instructions and a removal twice that, so asking for twenty names that are not there was
//! a tenth of a request; this walks once over the few that are. Invariant: a field that is there is
//! never called absent; one that was removed meanwhile may still be called present. Called by
//! `forward.rs` and `proxy.rs`.

use http::header::{self, HeaderMap, HeaderName};

/// The fields of one head that have a meaning here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields(u16);

impl Fields {
    pub const CONNECTION: Fields = Fields(1);
    pub const UPGRADE: Fields = Fields(1 << 1);
    pub const TRANSFER_ENCODING: Fields = Fields(1 << 2);
    pub const CONTENT_LENGTH: Fields = Fields(1 << 3);
    /// Any other that is for one hop alone (RFC 9110, section 7.6.1).
    pub const OTHER_HOP_BY_HOP: Fields = Fields(1 << 4);
    pub const VIA: Fields = Fields(1 << 5);
    pub const FORWARDED: Fields = Fields(1 << 6);
    pub const X_FORWARDED_PORT: Fields = Fields(1 << 7);
    /// All that Pingora 0.9.1 takes out of a request by itself, or decides that by.
    pub const HOP_BY_HOP: Fields = Fields::CONNECTION
        .or(Fields::UPGRADE)
        .or(Fields::TRANSFER_ENCODING)
        .or(Fields::OTHER_HOP_BY_HOP);

    /// What `headers` has.
    pub fn of(headers: &HeaderMap) -> Fields {
        Fields(headers.keys().fold(0, |bits, name| bits | bit(name)))
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

fn bit(name: &HeaderName) -> u16 {
    let field = match *name {
        header::CONNECTION => Fields::CONNECTION,
        header::UPGRADE => Fields::UPGRADE,
        header::TRANSFER_ENCODING => Fields::TRANSFER_ENCODING,
        header::CONTENT_LENGTH => Fields::CONTENT_LENGTH,
        header::PROXY_AUTHENTICATE | header::PROXY_AUTHORIZATION | header::TE | header::TRAILER => {
            Fields::OTHER_HOP_BY_HOP
        }
        header::VIA => Fields::VIA,
        header::FORWARDED => Fields::FORWARDED,
        _ => match name.as_str() {
            "keep-alive" | "proxy-connection" | "http2-settings" => Fields::OTHER_HOP_BY_HOP,
            "x-forwarded-port" => Fields::X_FORWARDED_PORT,
            _ => Fields(0),
        },
    };
    field.0
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(names: &[&'static str]) -> Fields {
        let headers = names
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x")));
        Fields::of(&headers.collect())
    }

    #[test]
    fn knows_each_field() {
        for (name, field) in [
            ("connection", Fields::CONNECTION),
            ("upgrade", Fields::UPGRADE),
            ("transfer-encoding", Fields::TRANSFER_ENCODING),
            ("content-length", Fields::CONTENT_LENGTH),
            ("keep-alive", Fields::OTHER_HOP_BY_HOP),
            ("proxy-connection", Fields::OTHER_HOP_BY_HOP),
            ("proxy-authenticate", Fields::OTHER_HOP_BY_HOP),
            ("proxy-authorization", Fields::OTHER_HOP_BY_HOP),
            ("te", Fields::OTHER_HOP_BY_HOP),
            ("trailer", Fields::OTHER_HOP_BY_HOP),
            ("http2-settings", Fields::OTHER_HOP_BY_HOP),
            ("via", Fields::VIA),
            ("forwarded", Fields::FORWARDED),
            ("x-forwarded-port", Fields::X_FORWARDED_PORT),
        ] {
            assert_eq!(of(&[name]), field, "{name}");
            assert!(of(&["host", name, "accept"]).has(field), "{name}");
        }
    }

    #[test]
    fn an_ordinary_request_has_none() {
        let request = of(&["host", "user-agent", "accept", "cookie", "x-forwarded-by"]);
        assert_eq!(request, Fields(0));
        assert!(!request.has(Fields::HOP_BY_HOP));
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
