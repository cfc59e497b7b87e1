//! The protocols that the requests of a route may switch to (`Upgrade`, RFC 9110, section 7.8).
//!
//! Invariant: protocols that carry further HTTP requests are never allowed, whatever a file says:
//! what is sent in them would pass by the routes, their filters and their limits.

/// What may be switched to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrades {
    /// Any one protocol that does not carry HTTP.
    Any,
    /// These, with or without a version; none of them: nothing.
    Only(Vec<String>),
}

/// Why a word is none of these protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoUpgrade {
    /// Not `name` or `name/version`.
    Malformed,
    /// It carries HTTP.
    CarriesHttp,
}

impl Upgrades {
    /// Whether a request may switch that has this one `Upgrade` field. Several protocols in it are
    /// not chosen from: which one is meant is known only when the endpoint has answered.
    pub fn allow(&self, asked: &str) -> bool {
        let Ok(name) = name(asked) else {
            return false;
        };
        match self {
            Upgrades::Any => true,
            Upgrades::Only(words) => words
                .iter()
                .any(|word| word.eq_ignore_ascii_case(asked) || word.eq_ignore_ascii_case(name)),
        }
    }
}

/// The name in `name` or `name/version`.
pub(super) fn name(protocol: &str) -> Result<&str, NoUpgrade> {
    let (name, version) = match protocol.split_once('/') {
        Some((name, version)) => (name, Some(version)),
        None => (protocol, None),
    };
    if !is_token(name) || version.is_some_and(|version| !is_token(version)) {
        return Err(NoUpgrade::Malformed);
    }
    let begins = |with: &str| {
        name.get(..with.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(with))
    };
    // `h2c`, `h2c-17`, `HTTP/2.0`, and `TLS/1.3` (RFC 2817), under which HTTP goes on.
    if begins("h2") || begins("http") || name.eq_ignore_ascii_case("tls") {
        return Err(NoUpgrade::CarriesHttp);
    }
    Ok(name)
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_is_one_protocol_that_carries_no_http() {
        for asked in ["websocket", "WebSocket", "tcp", "SPDY/3.1", "foo/2", "h3x"] {
            assert!(Upgrades::Any.allow(asked), "{asked}");
        }
        for asked in [
            "h2c",
            "H2C",
            "h2",
            "h2c-17",
            "HTTP/2.0",
            "http",
            "TLS/1.2",
            "tls",
            "websocket, h2c",
            "h2c, websocket",
            "websocket,",
            "a b",
            "foo/",
            "/2",
            "foo/2/3",
            "",
        ] {
            assert!(!Upgrades::Any.allow(asked), "{asked}");
            let named = Upgrades::Only(vec![asked.to_owned()]);
            assert!(!named.allow(asked), "{asked}");
        }
    }

    #[test]
    fn a_list_allows_what_it_names_in_any_case_and_version() {
        let two = Upgrades::Only(vec!["WebSocket".into(), "spdy/3.1".into()]);
        for asked in ["websocket", "WEBSOCKET/13", "SPDY/3.1"] {
            assert!(two.allow(asked), "{asked}");
        }
        for asked in ["spdy/2", "spdy", "tcp", "websockets"] {
            assert!(!two.allow(asked), "{asked}");
        }
        assert!(!Upgrades::Only(Vec::new()).allow("websocket"));
    }
}
