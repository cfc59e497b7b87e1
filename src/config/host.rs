//! Host names as text: what URLs, route keys and server names accept.
//!
//! Invariant: an accepted name is ASCII, at most 253 bytes, of labels of 1 to 63 (RFC 1123, section
//! 2.1; underscores as container networks use them).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::problem::{Wrong, shown};
use super::value::Host;

/// Reads an address, an address in brackets, or a name; names become lower case and lose a
/// trailing dot.
pub(super) fn parse_host(text: &str) -> Result<Host, Wrong> {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return inner
            .parse::<Ipv6Addr>()
            .map(|ip| Host::Ip(IpAddr::V6(ip)))
            .map_err(|_| {
                Wrong::new(
                    "what stands in brackets is not an IPv6 address",
                    "for example `[::1]`",
                )
            });
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(IpAddr::V4(ip)));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(Wrong::new(
            "an IPv6 address needs brackets",
            format!("write `[{text}]`"),
        ));
    }
    parse_name(text).map(Host::Name)
}

/// Reads a name; see [`parse_host`].
pub(super) fn parse_name(text: &str) -> Result<String, Wrong> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err(Wrong::new("the host is missing", "for example `127.0.0.1`"));
    }
    if !name.is_ascii() {
        return Err(Wrong::new(
            "a host name must be ASCII",
            "write its `xn--` form",
        ));
    }
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(fits) {
        return Err(Wrong::new(
            "the host is not a valid name",
            "labels of letters, digits, `-` and `_`, separated by dots",
        ));
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Wrong::new(
            "the host is not a valid IPv4 address",
            "four numbers from 0 to 255, for example `10.0.0.1`",
        ));
    }
    Ok(name.to_ascii_lowercase())
}

/// A port does not take part: the listener has only one.
pub(super) fn strip_port(text: &str) -> Result<&str, Wrong> {
    let after_brackets = text.rfind(']').map_or(0, |index| index + 1);
    match text[after_brackets..].find(':') {
        Some(colon) => {
            let (host, port) = text.split_at(after_brackets + colon);
            let digits = port[1..].bytes().all(|b| b.is_ascii_digit());
            match port[1..].parse::<u16>() {
                Ok(_) if digits => Ok(host),
                _ => Err(Wrong::new(
                    "what follows the host is not a port",
                    format!("remove `{}`", shown(port)),
                )),
            }
        }
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names() {
        for (text, host) in [
            ("127.0.0.1", Host::Ip("127.0.0.1".parse().unwrap())),
            ("[::1]", Host::Ip("::1".parse().unwrap())),
            ("Web_1.Example.org.", Host::Name("web_1.example.org".into())),
            ("a", Host::Name("a".into())),
        ] {
            assert_eq!(parse_host(text), Ok(host), "{text}");
        }
        for text in [
            "",
            ".",
            "256.1.1.1",
            "10.0.0",
            "1",
            "::1",
            "[1.2.3.4]",
            "a..b",
            "-a",
            "a-",
            "a b",
            "bücher.de",
            "a/b",
            "[::1",
            "a_.-b",
        ] {
            assert!(parse_host(text).is_err(), "{text}");
        }
        assert!(parse_host(&"a.".repeat(127)).is_ok());
        assert!(parse_host(&"a.".repeat(128)).is_err());
        assert!(parse_host(&"a".repeat(64)).is_err());
    }
}
