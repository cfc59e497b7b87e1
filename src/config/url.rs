//! The URL of an endpoint: scheme, host, port, path.
//!
//! The grammar of RFC 3986, cut down to what an endpoint can be, with one rule for each thing that
//! would be dropped in silence elsewhere: credentials, query, TLS. Invariant: a parsed URL can be
//! connected to as it is, in clear.

use super::detect::{PROTOCOLS, TLS_SCHEMES, by_name, meant};
use super::host::parse_host;
use super::problem::{Wrong, shown};
use super::value::{Scheme, UpstreamUrl};

impl Scheme {
    /// The port of a URL that names none; `None` for `tcp`.
    pub const fn port(self) -> Option<u16> {
        match self {
            Scheme::Http => Some(80),
            Scheme::Tcp => None,
            Scheme::Postgres => Some(5432),
            Scheme::Mysql => Some(3306),
            Scheme::Mongodb => Some(27017),
            Scheme::Redis => Some(6379),
            Scheme::Oracle => Some(1521),
            Scheme::Sqlserver => Some(1433),
            Scheme::Cassandra => Some(9042),
            Scheme::Couchdb => Some(5984),
            Scheme::Influxdb => Some(8086),
            Scheme::Elasticsearch => Some(9200),
        }
    }

    /// The word for it in a URL.
    pub const fn as_str(self) -> &'static str {
        match self.db_type() {
            Some(kind) => kind.as_str(),
            None => match self {
                Scheme::Http => "http",
                _ => "tcp",
            },
        }
    }
}

impl UpstreamUrl {
    /// Reads `scheme://host[:port][/path]`. Schemes are compared without case; a path only means
    /// something for HTTP.
    ///
    /// # Errors
    /// What is wrong with the text, never showing credentials in it.
    pub fn parse(text: &str) -> Result<UpstreamUrl, Wrong> {
        let Some((scheme_text, rest)) = text.split_once("://") else {
            return Err(Wrong::new(
                format!("`{}` is not a URL", shown(text)),
                "for example `http://127.0.0.1:3000`",
            ));
        };
        let (rest, fragment) = split_off(rest, '#');
        let (rest, query) = split_off(rest, '?');
        let scheme = parse_scheme(scheme_text, query)?;
        if let Some(query) = query {
            return Err(refuse_query(query));
        }
        if fragment.is_some() {
            return Err(Wrong::new(
                "the URL of an upstream has no fragment",
                "remove what follows `#`",
            ));
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => (&rest[..slash], &rest[slash..]),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(Wrong::new(
                "the URL of an upstream holds no user and password",
                "clients log in themselves: write the host and port only",
            ));
        }
        let (host_text, port_text) = split_port(authority);
        let host = parse_host(host_text)?;
        let port = match port_text {
            Some(text) => Some(parse_port(text)?),
            None => scheme.port(),
        };
        let Some(port) = port else {
            return Err(Wrong::new(
                "a tcp:// URL needs a port",
                format!("for example `tcp://{}:5432`", shown(host_text)),
            ));
        };
        Ok(UpstreamUrl {
            scheme,
            host,
            port,
            path: parse_path(scheme, path)?,
            label: format!("{host_text}:{port}"),
        })
    }
}

fn split_off(text: &str, mark: char) -> (&str, Option<&str>) {
    match text.split_once(mark) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn parse_scheme(text: &str, query: Option<&str>) -> Result<Scheme, Wrong> {
    let lower = text.to_ascii_lowercase();
    if let Some(scheme) = by_name(text) {
        let asks_for_tls = query.is_some_and(|query| {
            let query = query.to_ascii_lowercase();
            query.split('&').any(|pair| {
                matches!(
                    pair,
                    "sslmode=require" | "sslmode=verify-ca" | "sslmode=verify-full" | "tls=true"
                )
            })
        });
        if asks_for_tls {
            return Err(refuse_tls(&lower, "remove what follows `?`"));
        }
        return Ok(scheme);
    }
    if let Some((_, plain)) = TLS_SCHEMES.iter().find(|(name, _)| *name == lower) {
        return Err(refuse_tls(
            &lower,
            &format!("write `{plain}://` if that is meant"),
        ));
    }
    let hint = match lower.as_str() {
        "ws" => Some("http"),
        "mongodb+srv" => {
            return Err(Wrong::new(
                "SRV lookups (`mongodb+srv://`) are not supported",
                "write the servers as a list of `mongodb://host:27017`",
            ));
        }
        _ => meant(&lower),
    };
    Err(Wrong::new(
        format!("`{}` is not a scheme of an upstream", shown(text)),
        match hint {
            Some(word) => format!("did you mean `{word}://`?"),
            None => {
                let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
                format!("one of {}://", names.join("://, "))
            }
        },
    ))
}

fn refuse_tls(scheme: &str, hint: &str) -> Wrong {
    Wrong::new(
        format!(
            "TLS to an upstream is not supported yet, and it would be sent in clear: `{scheme}://`"
        ),
        hint,
    )
}

fn refuse_query(_query: &str) -> Wrong {
    Wrong::new(
        "the URL of an upstream has no query",
        "remove what follows `?`",
    )
}

/// Splits `host:port` outside of brackets; without a colon there is no port.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let after_brackets = authority.rfind(']').map_or(0, |index| index + 1);
    // A bare IPv6 address has several colons; the host parser recognises it.
    if after_brackets == 0 && authority.matches(':').count() > 1 {
        return (authority, None);
    }
    match authority[after_brackets..].find(':') {
        Some(colon) => {
            let colon = after_brackets + colon;
            (&authority[..colon], Some(&authority[colon + 1..]))
        }
        None => (authority, None),
    }
}

fn parse_port(text: &str) -> Result<u16, Wrong> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(Wrong::new(
            format!("`{}` is not a port", shown(text)),
            "1 to 65535",
        )),
    }
}

fn parse_path(scheme: Scheme, path: &str) -> Result<String, Wrong> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Ok(String::new());
    }
    if scheme != Scheme::Http {
        let (path, name) = (shown(path), path.trim_start_matches('/'));
        let is_plain = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        let hint = match scheme {
            // No other clients say it early enough.
            Scheme::Postgres if is_plain && name.len() <= 63 => format!(
                "remove `{path}`; to choose clients by their database write \
                 `match: {{database: \"{name}\"}}`"
            ),
            Scheme::Tcp => format!("remove `{path}`"),
            _ => format!("remove `{path}`: clients choose the database themselves"),
        };
        return Err(Wrong::new("a path means nothing to a database", hint));
    }
    if !super::route_key::is_clean_path(path) {
        return Err(Wrong::new(
            "the path of the URL is not in its plain form",
            "ASCII, no empty, `.` or `..` segments, other characters as %XX",
        ));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Host;

    #[test]
    fn a_url_is_scheme_host_port_and_path() {
        let url = UpstreamUrl::parse("HTTP://Web.Example.org./a/b/").unwrap();
        assert_eq!(url.scheme, Scheme::Http);
        assert_eq!(url.host, Host::Name("web.example.org".into()));
        assert_eq!(url.port, 80);
        assert_eq!(url.path, "/a/b");
        assert_eq!(url.label, "Web.Example.org.:80");
        let url = UpstreamUrl::parse("postgresql://[::1]/").unwrap();
        assert_eq!((url.scheme, url.port), (Scheme::Postgres, 5432));
        assert_eq!(url.label, "[::1]:5432");
    }

    #[test]
    fn every_scheme_but_tcp_has_a_port() {
        for (name, scheme) in PROTOCOLS {
            let url = UpstreamUrl::parse(&format!("{name}://h"));
            match scheme.port() {
                Some(port) => assert_eq!(url.unwrap().port, port, "{name}"),
                None => assert!(url.unwrap_err().message.contains("needs a port")),
            }
            let url = UpstreamUrl::parse(&format!("{}://h:7", name.to_uppercase())).unwrap();
            assert_eq!((url.scheme, url.port), (*scheme, 7));
        }
    }

    #[test]
    fn only_postgres_clients_can_be_chosen_by_the_path_of_a_url() {
        for (text, hint) in [
            (
                "postgres://h/shop",
                "remove `/shop`; to choose clients by their database write \
                 `match: {database: \"shop\"}`",
            ),
            (
                "postgresql://h/0",
                "remove `/0`; to choose clients by their database write \
                 `match: {database: \"0\"}`",
            ),
            (
                "postgres://h/a%20b",
                "remove `/a%20b`: clients choose the database themselves",
            ),
            (
                "redis://h/0",
                "remove `/0`: clients choose the database themselves",
            ),
            (
                "mariadb://h/shop",
                "remove `/shop`: clients choose the database themselves",
            ),
            ("tcp://h:1/x", "remove `/x`"),
        ] {
            assert_eq!(
                UpstreamUrl::parse(text).unwrap_err().hint.as_deref(),
                Some(hint),
                "{text}"
            );
        }
    }

    #[test]
    fn what_would_be_dropped_or_sent_in_clear_is_refused() {
        for (text, part) in [
            ("h:80", "is not a URL"),
            ("https://h", "TLS to an upstream is not supported yet"),
            ("rediss://h", "in clear"),
            ("wss://h", "in clear"),
            ("postgres://h?sslmode=require", "in clear"),
            ("postgres://h?sslmode=disable", "has no query"),
            ("http://h#x", "has no fragment"),
            ("http://h/?a", "has no query"),
            ("postgres://me:secret@h", "no user and password"),
            ("postgres://h/db", "means nothing to a database"),
            ("tcp://h", "needs a port"),
            ("http://h:0", "is not a port"),
            ("http://h:65536", "is not a port"),
            ("http://h:", "is not a port"),
            ("http://h:+1", "is not a port"),
            ("http://", "host is missing"),
            ("http://::1", "needs brackets"),
            ("http://[::1", "not a valid name"),
            ("http://a b", "not a valid name"),
            ("http://1.2.3.400", "not a valid IPv4"),
            ("http://h/a//b", "plain form"),
            ("http://h/a/../b", "plain form"),
            ("http://h/ä", "plain form"),
            ("htp://h", "is not a scheme"),
            ("mongodb+srv://h", "SRV"),
            ("://h", "is not a scheme"),
        ] {
            let wrong = UpstreamUrl::parse(text).unwrap_err();
            assert!(wrong.message.contains(part), "{text}: {wrong}");
            assert!(!wrong.to_string().contains("secret"));
        }
        assert!(
            UpstreamUrl::parse("htp://h")
                .unwrap_err()
                .to_string()
                .contains("`http://`?")
        );
    }
}
