//! Who sent a request: the peer of its connection, or whom a trusted proxy names.
//!
//! Its own file because rights hang on it and all of it is text that others wrote. Invariant: what
//! cannot be read makes the client unknown, and never the proxy that passed it on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::{self, HeaderMap};
use ipnet::IpNet;

use crate::http::fields::X_FORWARDED_FOR;

/// Who sent a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Client {
    /// The other end of the connection.
    Peer(IpAddr),
    /// Whom a trusted proxy names.
    Named(IpAddr),
    /// Somebody whom a trusted proxy does not name, or in no way that can be read.
    #[default]
    Unknown,
}

impl Client {
    /// Whom a trusted `peer` sent this request for: the last in `X-Forwarded-For`, or without one
    /// in `Forwarded` (RFC 7239), that is no trusted proxy; where all of them are, the first.
    /// Without either field it is the peer's own request.
    pub(super) fn behind(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> Client {
        let named = headers.get_all(X_FORWARDED_FOR);
        if named.iter().next().is_some() {
            // RFC 9110, section 5.3: several lines are one list.
            let lines = named.iter().rev();
            let nodes = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
            return last_stranger(nodes, trusted_proxies);
        }
        match headers.contains_key(header::FORWARDED) {
            true => last_stranger(forwarded_for(headers).into_iter().rev(), trusted_proxies),
            false => Client::Peer(peer),
        }
    }

    /// The address; an IPv4 one that came as IPv6 is IPv4.
    pub(super) fn ip(self) -> Option<IpAddr> {
        match self {
            Client::Peer(ip) | Client::Named(ip) => Some(ip.to_canonical()),
            Client::Unknown => None,
        }
    }
}

/// Whether `ip` is in `trusted_proxies`. An IPv4 address that came as IPv6 counts as IPv4.
pub(super) fn is_trusted(ip: IpAddr, trusted_proxies: &[IpNet]) -> bool {
    let ip = ip.to_canonical();
    trusted_proxies.iter().any(|net| net.contains(&ip))
}

/// The first of `nodes`, nearest first, that is no trusted proxy. A proxy that writes what cannot
/// be read knows the client better than whoever wrote what stands before it.
fn last_stranger<'h>(nodes: impl Iterator<Item = &'h [u8]>, trusted_proxies: &[IpNet]) -> Client {
    let mut client = Client::Unknown;
    for node in nodes {
        let Some(ip) = address(node) else {
            return Client::Unknown;
        };
        client = Client::Named(ip);
        if !is_trusted(ip, trusted_proxies) {
            break;
        }
    }
    client
}

/// The address of a node (RFC 7239, section 6, and what else is written): with or without a port,
/// quotes, and brackets around IPv6; a zone (RFC 4007, section 11) is left out. `None` for
/// `unknown`, a name, and all else.
fn address(node: &[u8]) -> Option<IpAddr> {
    let node = match node.trim_ascii() {
        [b'"', inner @ .., b'"'] => inner,
        node => node,
    };
    let node = std::str::from_utf8(node).ok()?;
    let ip = match (node.strip_prefix('['), node.split_once(':')) {
        (Some(bracketed), _) => {
            let (ip, port) = bracketed.split_once(']')?;
            if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
                return None;
            }
            ipv6(ip)?
        }
        (None, None) => node.parse::<Ipv4Addr>().ok()?.into(),
        (None, Some((ip, port))) => match ip.parse::<Ipv4Addr>() {
            Ok(ip) if is_port(port) => ip.into(),
            Ok(_) => return None,
            Err(_) => ipv6(node)?,
        },
    };
    Some(ip.to_canonical())
}

fn ipv6(text: &str) -> Option<IpAddr> {
    let address = text.split('%').next()?;
    Some(address.parse::<Ipv6Addr>().ok()?.into())
}

/// Digits, or a word that hides them (RFC 7239, section 6.3).
fn is_port(text: &str) -> bool {
    let hidden = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.strip_prefix('_') {
        Some(word) => word.bytes().all(hidden),
        None => text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// The `for` of each element of `Forwarded` (RFC 7239, section 4); nothing for one without.
fn forwarded_for(headers: &HeaderMap) -> Vec<&[u8]> {
    let mut nodes = Vec::new();
    for line in headers.get_all(header::FORWARDED) {
        let line = line.as_bytes();
        nodes.extend(split(line, b',').map(|element| {
            let node = split(element, b';').find_map(|pair| {
                let (name, node) = pair.trim_ascii().split_at_checked(4)?;
                name.eq_ignore_ascii_case(b"for=").then_some(node)
            });
            node.unwrap_or_default()
        }));
        // A client that opens a quote takes what its proxy adds into it.
        if line.iter().filter(|byte| **byte == b'"').count() % 2 == 1 || line.contains(&b'\\') {
            nodes.push(b"");
        }
    }
    nodes
}

/// Splits where `separator` stands outside of quotes.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    text.split(move |byte| {
        quoted ^= *byte == b'"';
        *byte == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn client(lines: &[(HeaderName, &str)]) -> Client {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(name, value);
        }
        let proxies = ["10.0.0.0/8", "2001:db8:ffff::/48"].map(|net| net.parse().unwrap());
        Client::behind("10.0.0.1".parse().unwrap(), &headers, &proxies)
    }

    fn named(ip: &str) -> Client {
        Client::Named(ip.parse().unwrap())
    }

    #[test]
    fn every_form_of_an_address_is_read() {
        for (node, ip) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7:4711", "203.0.113.7"),
            ("203.0.113.7:", "203.0.113.7"),
            ("203.0.113.7:_port-1", "203.0.113.7"),
            ("\"203.0.113.7\"", "203.0.113.7"),
            ("\"203.0.113.7:4711\"", "203.0.113.7"),
            (" \t203.0.113.7 ", "203.0.113.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%25eth0]:80", "fe80::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("[::ffff:203.0.113.7]:80", "203.0.113.7"),
        ] {
            assert_eq!(client(&[(X_FORWARDED_FOR, node)]), named(ip), "{node}");
            let forwarded = format!("proto=http; For={node};by=_x");
            assert_eq!(
                client(&[(header::FORWARDED, &forwarded)]),
                named(ip),
                "{node}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_nobody() {
        for node in [
            "",
            " ",
            "unknown",
            "\"unknown\"",
            "_hidden",
            "localhost",
            "203.0.113",
            "203.0.113.07",
            "203.0.113.7:http",
            "203.0.113.7:123456",
            "203.0.113.7 10.0.0.1",
            "203.0.113.7/32",
            "[203.0.113.7]",
            "[2001:db8::1",
            "[2001:db8::1]4711",
            "[2001:db8::1]:x",
            "1:2:3:4:5:6:7:8:9",
            "\"203.0.113.7",
            "caf\u{e9}",
            "unix:",
        ] {
            assert_eq!(
                client(&[(X_FORWARDED_FOR, node)]),
                Client::Unknown,
                "{node}"
            );
            for list in [
                format!("198.51.100.1, {node}"),
                format!("198.51.100.1,{node}, 10.0.0.2:80"),
            ] {
                assert_eq!(
                    client(&[(X_FORWARDED_FOR, &list)]),
                    Client::Unknown,
                    "{list}"
                );
            }
        }
    }

    #[test]
    fn the_last_that_is_no_trusted_proxy_is_the_client() {
        for (lines, expected) in [
            (&[][..], Client::Peer([10, 0, 0, 1].into())),
            (&["1.1.1.1, 203.0.113.7,10.1.1.1"], named("203.0.113.7")),
            (&["unknown, 203.0.113.7, 10.1.1.1:5"], named("203.0.113.7")),
            (
                &["1.1.1.1", "203.0.113.7", "10.1.1.1"],
                named("203.0.113.7"),
            ),
            (
                &["caf\u{e9}, 203.0.113.7", "10.1.1.1"],
                named("203.0.113.7"),
            ),
            (&["1.1.1.1", "caf\u{e9}", "10.1.1.1"], Client::Unknown),
            (&["1.1.1.1", ""], Client::Unknown),
            (&["1.1.1.1, [2001:db8:ffff::1]:1"], named("1.1.1.1")),
            (&["10.2.2.2, ::ffff:10.1.1.1"], named("10.2.2.2")),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| (X_FORWARDED_FOR, *line)).collect();
            assert_eq!(client(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_where_there_is_no_x_forwarded_for() {
        let named_by = |line: &str| client(&[(header::FORWARDED, line)]);
        for (line, expected) in [
            (
                "for=1.1.1.1, for=203.0.113.7;proto=https, for=10.1.1.1",
                named("203.0.113.7"),
            ),
            (
                "for=1.1.1.1;a=\",;\", for=\"[2001:db8::1]:47\"",
                named("2001:db8::1"),
            ),
            ("for=203.0.113.7, proto=https", Client::Unknown),
            ("for=_hidden", Client::Unknown),
            ("proto=https", Client::Unknown),
            // The quote is a client's, which the proxy's own element must not end up in.
            ("for=1.1.1.1;a=\", for=203.0.113.7", Client::Unknown),
            (
                "for=1.1.1.1;a=\"\\\", for=203.0.113.7;b=\"c\"",
                Client::Unknown,
            ),
        ] {
            assert_eq!(named_by(line), expected, "{line}");
        }
        let both = [
            (header::FORWARDED, "for=1.1.1.1"),
            (X_FORWARDED_FOR, "203.0.113.7"),
        ];
        assert_eq!(client(&both), named("203.0.113.7"));
        let both = [
            (header::FORWARDED, "for=1.1.1.1"),
            (X_FORWARDED_FOR, "unknown"),
        ];
        assert_eq!(client(&both), Client::Unknown);
    }
}
