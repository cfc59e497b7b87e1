//! `host [":" port]`, as it stands in `Host` and in an absolute-form target.
//!
//! Its own file because both places must agree on one grammar (RFC 9112 3.2, RFC 3986 3.2.2).
//! Invariant: nothing that one parser could split elsewhere than another passes: no userinfo, no
//! second colon, no stray bracket. Called by `head`.

use std::net::Ipv6Addr;

use super::set_of;

/// Whether `bytes` are a host with an optional port.
///
/// Narrower than RFC 3986 in two points: no percent-encoding (no resolver knows such a name, and
/// the `http` crate refuses it in an absolute-form target) and no IPvFuture.
pub(super) fn is_authority(bytes: &[u8]) -> bool {
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
    port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
        && port
            .iter()
            .fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'))
            <= 65_535
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
