//! `host [":" port]`, as it stands in `Host` and in an absolute-form target.
//!
//! Both places must agree on one grammar (RFC 9112 3.2, RFC 3986 3.2.2). Invariant: nothing that
//! one parser could split elsewhere than another passes: no userinfo, no second colon, no stray
//! bracket.

use std::net::Ipv6Addr;

use super::set_of;

/// Whether `bytes` are a host with an optional port.
///
/// Narrower than RFC 3986 in two points: no percent-encoding (no resolver knows such a name, and
/// the `http` crate refuses it in an absolute-form target) and no IPvFuture.
pub fn is_authority(bytes: &[u8]) -> bool {
    let (host_is_fine, rest) = if let Some(literal) = bytes.strip_prefix(b"[") {
        let Some(end) = literal.iter().position(|byte| *byte == b']') else {
            return false;
        };
        (is_ipv6(&literal[..end]), &literal[end + 1..])
    } else {
        let end = bytes
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(bytes.len());
        (is_reg_name(&bytes[..end]), &bytes[end..])
    };
    host_is_fine
        && match rest.split_first() {
            None => true,
            Some((b':', port)) => is_port(port),
            Some(_) => false,
        }
}

/// Whether two of them name the same host and port: without case (RFC 3986 6.2.2.1), and no port,
/// an empty one and the scheme's own are one (6.2.3).
pub(super) fn is_same(one: &[u8], other: &[u8], default_port: u16) -> bool {
    let (host, port) = split(one, default_port);
    let (other_host, other_port) = split(other, default_port);
    let same_host = host.eq_ignore_ascii_case(other_host)
        || ipv6(host).is_some_and(|ip| Some(ip) == ipv6(other_host));
    same_host && port == other_port
}

fn split(authority: &[u8], default_port: u16) -> (&[u8], u32) {
    let colon = authority.iter().rposition(|byte| *byte == b':');
    match colon {
        Some(at) if !authority[at..].contains(&b']') => match &authority[at + 1..] {
            [] => (&authority[..at], default_port.into()),
            port => (&authority[..at], number(port)),
        },
        _ => (authority, default_port.into()),
    }
}

fn ipv6(host: &[u8]) -> Option<Ipv6Addr> {
    let literal = host.strip_prefix(b"[")?.strip_suffix(b"]")?;
    std::str::from_utf8(literal).ok()?.parse().ok()
}

/// Of digits, few enough to fit.
fn number(digits: &[u8]) -> u32 {
    let add = |sum: u32, digit: &u8| sum * 10 + u32::from(digit - b'0');
    digits.iter().fold(0, add)
}

/// reg-name without pct-encoded; covers dotted IPv4. RFC 3986 allows an empty one, RFC 9110 4.2.1
/// does not for `http`.
fn is_reg_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| REG_NAME[usize::from(*byte)])
}

/// unreserved and sub-delims.
const REG_NAME: [bool; 256] = set_of(b"-._~!$&'()*+,;=");

fn is_ipv6(literal: &[u8]) -> bool {
    std::str::from_utf8(literal).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// `*DIGIT` up to 65535. RFC 3986 3.2.3 allows the empty port.
fn is_port(port: &[u8]) -> bool {
    port.len() <= 5 && port.iter().all(u8::is_ascii_digit) && number(port) <= 65_535
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_addresses_and_ports() {
        for good in [
            "a",
            "example.com",
            "example.com:80",
            "example.com:",
            "a_b.example",
            "127.0.0.1:65535",
            "[::1]",
            "[2001:db8::1]:8080",
            "[::ffff:1.2.3.4]",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
    }

    #[test]
    fn case_and_default_port_make_no_difference() {
        for (one, other, same) in [
            ("a", "a", true),
            ("Example.COM", "example.com", true),
            ("a", "a:80", true),
            ("a:", "a:80", true),
            ("a:", "a", true),
            ("a:0080", "a", true),
            ("A:81", "a:81", true),
            ("[::1]", "[::1]:80", true),
            ("[::1]:", "[0:0::1]", true),
            ("[2001:DB8::1]:8", "[2001:db8:0::1]:8", true),
            ("a", "b", false),
            ("a", "a.", false),
            ("a:81", "a", false),
            ("a:443", "a", false),
            ("[::1]", "[::2]", false),
            ("[::1]", "[::1]:81", false),
            ("[::80]", "[::]", false),
            ("[::ffff:1.2.3.4]", "1.2.3.4", false),
        ] {
            assert_eq!(
                is_same(one.as_bytes(), other.as_bytes(), 80),
                same,
                "{one} {other}"
            );
            assert_eq!(
                is_same(other.as_bytes(), one.as_bytes(), 80),
                same,
                "{one} {other}"
            );
        }
        assert!(is_same(b"a:443", b"A", 443));
        assert!(!is_same(b"a:80", b"a", 443));
    }

    #[test]
    fn refuses_what_could_be_split_in_two_ways() {
        for bad in [
            "",
            ":80",
            "a:b",
            "a:65536",
            "a:000080",
            "a:1:2",
            "user@a",
            "user:pw@a",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a b",
            "a%41",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:x",
            "[]",
            "[v1.a]",
            "[fe80::1%25eth0]",
            "a[::1]",
            "a\"b",
            "a<b",
            "caf\u{e9}",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }
}
