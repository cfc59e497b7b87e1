//! What `balance: hash` hashes, as the number that an endpoint is picked by.
//!
//! The number is a promise: the same over restarts, versions and platforms, so that clients stay
//! where they are after an upgrade and several gateways agree. The standard library's hasher makes
//! none: it may change with the compiler. Invariant: only bytes go in, none of them in an order
//! that a platform decides.

use std::net::IpAddr;

/// FNV-1a with 64 bits (RFC 9923, section 2).
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET_BASIS, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
    })
}

/// Of the 4 or 16 bytes of an address. An IPv4 address that came as IPv6 counts as IPv4.
pub fn of_address(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => fnv1a(&ip.octets()),
        IpAddr::V6(ip) => fnv1a(&ip.octets()),
    }
}

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_is_the_published_one() {
        // The vectors that come with the reference code.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn an_address_is_its_bytes_and_mapped_ones_are_ipv4() {
        let of = |text: &str| of_address(text.parse().unwrap());
        assert_eq!(of("203.0.113.9"), 0xea09_c60b_4ee8_f27c);
        assert_eq!(of("203.0.113.9"), fnv1a(&[203, 0, 113, 9]));
        assert_eq!(of("::ffff:203.0.113.9"), of("203.0.113.9"));
        assert_eq!(of("2001:db8::1"), 0xf971_61b7_a3be_1c14);
    }
}
