//! The PROXY protocol: who the client was, in front of what it sends.
//!
//! Spoken before every other protocol. Invariant: a header is read strictly and whole, or refused;
//! it never takes more than [`MAX_BYTES`].
//!
//! Source: HAProxy, `proxy-protocol.txt`, revision 2020/03/05, sections 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::reader::Reader;
use super::signature::SignatureMatch;
use crate::config::ProxyProtocol;

/// Longest header read: the address block and 4 KiB of extensions (version 2). Version 1 ends
/// within 107 bytes.
pub const MAX_BYTES: usize = 4096 + 16;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Fits a header so far, and is not whole.
    NeedMore,
    /// No PROXY header.
    Absent,
    /// Begins like one and is none.
    Malformed,
    /// A whole header; the client's own bytes follow it.
    Header(Header),
}

/// A PROXY header. Extensions of version 2 (TLVs) are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client and the address it connected to. `None`: the proxy speaks for itself (a health
    /// check), or for a client that has no TCP address.
    pub addresses: Option<Addresses>,
    /// Bytes of the header: what follows is the client's.
    pub length: usize,
}

/// Both ends of a proxied connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client's end.
    pub source: SocketAddr,
    /// The end that the client connected to: the proxy's own.
    pub destination: SocketAddr,
}

/// Reads a header of either version from all that a peer sent so far.
pub fn parse(bytes: &[u8]) -> Parsed {
    match (
        SignatureMatch::prefix(bytes, V1_START),
        SignatureMatch::prefix(bytes, V2_SIGNATURE),
    ) {
        (SignatureMatch::Yes, _) => parse_v1(bytes),
        (_, SignatureMatch::Yes) => parse_v2(bytes),
        (SignatureMatch::No, SignatureMatch::No) => Parsed::Absent,
        _ => Parsed::NeedMore,
    }
}

/// The header for a client's connection. Addresses of different families are both written as
/// IPv6.
pub fn write(version: ProxyProtocol, addresses: Addresses) -> Vec<u8> {
    let Addresses {
        source,
        destination,
    } = addresses;
    let (from, to) = (canonical(source.ip()), canonical(destination.ip()));
    let ports = (source.port(), destination.port());
    match (version, from, to) {
        (ProxyProtocol::V1, IpAddr::V4(from), IpAddr::V4(to)) => {
            format!("PROXY TCP4 {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
        }
        (ProxyProtocol::V1, from, to) => {
            let (from, to) = (as_v6(from), as_v6(to));
            format!("PROXY TCP6 {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
        }
        (ProxyProtocol::V2, IpAddr::V4(from), IpAddr::V4(to)) => {
            v2(TCP_OVER_IPV4, &from.octets(), &to.octets(), ports)
        }
        (ProxyProtocol::V2, from, to) => v2(
            TCP_OVER_IPV6,
            &as_v6(from).octets(),
            &as_v6(to).octets(),
            ports,
        ),
    }
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let window = &bytes[..bytes.len().min(MAX_V1_BYTES)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return match bytes.len() < MAX_V1_BYTES {
            true => Parsed::NeedMore,
            false => Parsed::Malformed,
        };
    };
    let length = end + 1;
    let line = window[..end]
        .strip_suffix(b"\r")
        .and_then(|line| line.strip_prefix(V1_START));
    let Some(line) = line.and_then(|line| std::str::from_utf8(line).ok()) else {
        return Parsed::Malformed;
    };
    let addresses = match line.split(' ').collect::<Vec<_>>()[..] {
        ["UNKNOWN", ..] => None,
        ["TCP4", from, to, from_port, to_port] => {
            match (
                v1_end::<Ipv4Addr>(from, from_port),
                v1_end::<Ipv4Addr>(to, to_port),
            ) {
                (Some(source), Some(destination)) => Some(Addresses {
                    source,
                    destination,
                }),
                _ => return Parsed::Malformed,
            }
        }
        ["TCP6", from, to, from_port, to_port] => {
            match (
                v1_end::<Ipv6Addr>(from, from_port),
                v1_end::<Ipv6Addr>(to, to_port),
            ) {
                (Some(source), Some(destination)) => Some(Addresses {
                    source,
                    destination,
                }),
                _ => return Parsed::Malformed,
            }
        }
        _ => return Parsed::Malformed,
    };
    Parsed::Header(Header { addresses, length })
}

/// An address and a port without leading zeros or signs.
fn v1_end<T: std::str::FromStr + Into<IpAddr>>(address: &str, port: &str) -> Option<SocketAddr> {
    let address: T = address.parse().ok()?;
    let is_plain =
        port.bytes().all(|byte| byte.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
    let port = port.parse().ok().filter(|_| is_plain)?;
    Some(SocketAddr::new(canonical(address.into()), port))
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let mut reader = Reader::new(&bytes[V2_SIGNATURE.len()..]);
    let Some(command) = reader.u8() else {
        return Parsed::NeedMore;
    };
    if !matches!(command, LOCAL | PROXY) {
        return Parsed::Malformed;
    }
    let (Some(family), Some(content_length)) = (reader.u8(), reader.u16()) else {
        return Parsed::NeedMore;
    };
    let length = V2_SIGNATURE.len() + 4 + usize::from(content_length);
    if length > MAX_BYTES {
        return Parsed::Malformed;
    }
    let Some(content) = reader.take(usize::from(content_length)) else {
        return Parsed::NeedMore;
    };
    let mut content = Reader::new(content);
    let addresses = match (command, family) {
        (LOCAL, _) => None,
        (_, TCP_OVER_IPV4) => v2_addresses::<4, Ipv4Addr>(&mut content),
        (_, TCP_OVER_IPV6) => v2_addresses::<16, Ipv6Addr>(&mut content),
        // Unspecified, datagrams, Unix sockets: the connection is taken, its client is not known.
        (_, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => None,
        _ => return Parsed::Malformed,
    };
    if addresses.is_none() && command == PROXY && matches!(family, TCP_OVER_IPV4 | TCP_OVER_IPV6) {
        return Parsed::Malformed;
    }
    Parsed::Header(Header { addresses, length })
}

fn v2_addresses<const N: usize, T: From<[u8; N]> + Into<IpAddr>>(
    content: &mut Reader,
) -> Option<Addresses> {
    let (from, to) = (content.array::<N>()?, content.array::<N>()?);
    let (from_port, to_port) = (content.u16()?, content.u16()?);
    let end = |address: [u8; N], port| SocketAddr::new(canonical(T::from(address).into()), port);
    Some(Addresses {
        source: end(from, from_port),
        destination: end(to, to_port),
    })
}

fn v2(family: u8, from: &[u8], to: &[u8], ports: (u16, u16)) -> Vec<u8> {
    let mut bytes = V2_SIGNATURE.to_vec();
    bytes.extend([PROXY, family]);
    bytes.extend(((from.len() + to.len() + 4) as u16).to_be_bytes());
    bytes.extend(from);
    bytes.extend(to);
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes
}

/// IPv4 that a dual-stack socket shows as IPv6 is IPv4.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

const V1_START: &[u8] = b"PROXY ";
const MAX_V1_BYTES: usize = 107;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    fn header(addresses: Option<Addresses>, length: usize) -> Parsed {
        Parsed::Header(Header { addresses, length })
    }

    #[test]
    fn both_versions_are_written_as_the_document_says() {
        let v4 = addresses("192.0.2.1:56324", "198.51.100.2:443");
        let v6 = addresses("[2001:db8::1]:1", "[2001:db8::2]:65535");
        assert_eq!(
            write(ProxyProtocol::V1, v4),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
        );
        assert_eq!(
            write(ProxyProtocol::V1, v6),
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n"
        );
        assert_eq!(
            write(ProxyProtocol::V2, v4),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb"
        );
        let bytes = write(ProxyProtocol::V2, v6);
        assert_eq!(bytes[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(bytes.len(), 16 + 36);
    }

    #[test]
    fn what_is_written_is_read_at_any_cut() {
        for pair in [
            addresses("192.0.2.1:0", "198.51.100.2:443"),
            addresses("[2001:db8::1]:1", "[2001:db8::2]:65535"),
            addresses("[::ffff:192.0.2.1]:7", "[2001:db8::2]:8"),
        ] {
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let mut bytes = write(version, pair);
                for end in 0..bytes.len() {
                    assert_eq!(parse(&bytes[..end]), Parsed::NeedMore);
                }
                let canonical = |end: SocketAddr| SocketAddr::new(canonical(end.ip()), end.port());
                let expected = Addresses {
                    source: canonical(pair.source),
                    destination: canonical(pair.destination),
                };
                let length = bytes.len();
                bytes.extend(b"\0\0\0\x08\x04\xd2\x16\x2f");
                assert_eq!(parse(&bytes), header(Some(expected), length));
            }
        }
    }

    #[test]
    fn a_mapped_address_is_ipv4_again() {
        let pair = addresses("[::ffff:192.0.2.1]:7", "[::ffff:192.0.2.2]:8");
        assert_eq!(
            write(ProxyProtocol::V1, pair),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 7 8\r\n"
        );
    }

    #[test]
    fn a_proxy_may_speak_for_itself_or_for_nobody() {
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        assert_eq!(parse(local), header(None, 16));
        let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[0; 216]].concat();
        assert_eq!(parse(&unix), header(None, 232));
        assert_eq!(parse(b"PROXY UNKNOWN\r\nx"), header(None, 15));
        assert_eq!(
            parse(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"),
            header(None, 35)
        );
    }

    #[test]
    fn extensions_are_skipped() {
        let mut bytes = write(ProxyProtocol::V2, addresses("192.0.2.1:1", "192.0.2.2:2"));
        bytes[15] += 5;
        bytes.extend(b"\x04\0\x02\0\0");
        assert!(matches!(
            parse(&bytes),
            Parsed::Header(Header { length: 33, .. })
        ));
    }

    #[test]
    fn what_is_nearly_a_header_is_refused() {
        for bytes in [
            &b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n"[..],
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
            b"PROXY TCP4 ::1 ::2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY \r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x11",
            b"\r\n\r\n\0\r\nQUIT\n\x22",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04aaaa",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x55\0\0",
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat(),
        ] {
            assert_eq!(parse(bytes), Parsed::Malformed, "{bytes:?}");
        }
        for bytes in [&b"GET / HTTP/1.1"[..], b"PROXIED", b"\r\n\r\nGET", b"\0"] {
            assert_eq!(parse(bytes), Parsed::Absent, "{bytes:?}");
        }
        assert_eq!(parse(b""), Parsed::NeedMore);
        assert_eq!(parse(b"PRO"), Parsed::NeedMore);
    }

    proptest! {
        #[test]
        fn a_decision_stays_when_more_bytes_come(
            start in prop::sample::select(vec![
                &b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"[..],
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
                b"PROXY UNKNOWN",
            ]),
            keep in 0_usize..40,
            tail in prop::collection::vec(any::<u8>(), 0..150),
        ) {
            let bytes = [&start[..keep.min(start.len())], &tail].concat();
            let mut decided = Parsed::NeedMore;
            for end in 0..=bytes.len() {
                let parsed = parse(&bytes[..end]);
                if decided != Parsed::NeedMore {
                    prop_assert_eq!(&parsed, &decided);
                }
                decided = parsed;
            }
        }
    }
}
