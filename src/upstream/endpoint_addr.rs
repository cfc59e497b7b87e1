//! Where an endpoint is reached: at one address, or at one of each family.
//!
//! What a resolver's answer means, without sockets. A host with IPv4 and IPv6 addresses is one
//! host, so each of its endpoints has an address of both families where there are; which of them
//! serves is found out when connecting (`dial`). Invariant: what an endpoint is known by does not
//! depend on the order of an answer.

use std::net::SocketAddr;

/// One address, or two of different families in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointAddr {
    /// What the endpoint is known by, whichever family serves: no other server of the name has it.
    pub name: SocketAddr,
    /// Tried first: mostly of the family that the answer begins with, or that served last.
    pub first: SocketAddr,
    /// The other family's. `None`: the name, or the literal address, has one family only.
    pub second: Option<SocketAddr>,
}

impl EndpointAddr {
    pub(super) fn alone(addr: SocketAddr) -> EndpointAddr {
        EndpointAddr {
            name: addr,
            first: addr,
            second: None,
        }
    }

    /// The other way round.
    pub(super) fn reversed(self) -> EndpointAddr {
        match self.second {
            Some(second) => EndpointAddr {
                first: second,
                second: Some(self.first),
                ..self
            },
            None => self,
        }
    }
}

/// The servers of a name. The family that comes first in the answer is tried first (`getaddrinfo`
/// sorts by RFC 6724: a family without a route comes last); within a family the order is our own,
/// since resolvers rotate theirs. Where one family has more addresses, the other's serve again, so
/// that no endpoint depends on one family.
pub(super) fn by_server(answer: &[SocketAddr]) -> Vec<EndpointAddr> {
    let of = |keep: fn(&SocketAddr) -> bool| {
        let mut addresses: Vec<SocketAddr> = answer.iter().copied().filter(keep).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST);
        addresses
    };
    let (four, six) = (of(SocketAddr::is_ipv4), of(SocketAddr::is_ipv6));
    let six_first = answer.first().is_some_and(SocketAddr::is_ipv6);
    let paired = |n: usize| {
        let (v4, v6) = (four[n % four.len()], six[n % six.len()]);
        // One that is nobody else's comes before one that serves again.
        let begins_with_six = match (n < four.len(), n < six.len()) {
            (true, true) => six_first,
            (own_four, _) => !own_four,
        };
        let four_first = EndpointAddr {
            name: if n < four.len() { v4 } else { v6 },
            first: v4,
            second: Some(v6),
        };
        match begins_with_six {
            true => four_first.reversed(),
            false => four_first,
        }
    };
    match (four.is_empty(), six.is_empty()) {
        (false, false) => (0..four.len().max(six.len())).map(paired).collect(),
        _ => four
            .iter()
            .chain(&six)
            .copied()
            .map(EndpointAddr::alone)
            .collect(),
    }
}

/// Addresses of one family of one name that are used.
const MOST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn made(answer: &[&str]) -> Vec<EndpointAddr> {
        let answer: Vec<_> = answer.iter().map(|a| a.parse().unwrap()).collect();
        by_server(&answer)
    }

    fn names(answer: &[&str]) -> Vec<String> {
        made(answer)
            .iter()
            .map(|server| server.name.to_string())
            .collect()
    }

    fn shown(answer: &[&str]) -> Vec<String> {
        let shown = |server: &EndpointAddr| match server.second {
            None => server.first.to_string(),
            Some(second) => format!("{} {second}", server.first),
        };
        made(answer).iter().map(shown).collect()
    }

    #[test]
    fn both_families_of_a_host_are_one_server_in_the_order_of_the_answer() {
        let six_first = ["[::1]:80", "127.0.0.1:80"];
        assert_eq!(shown(&six_first), ["[::1]:80 127.0.0.1:80"]);
        let four_first = ["127.0.0.1:80", "[::1]:80", "127.0.0.1:80"];
        assert_eq!(shown(&four_first), ["127.0.0.1:80 [::1]:80"]);
        assert_eq!(names(&six_first), ["127.0.0.1:80"]);
        assert_eq!(names(&four_first), ["127.0.0.1:80"]);
        assert_eq!(names(&["[::1]:80"]), ["[::1]:80"]);
    }

    #[test]
    fn several_hosts_are_several_servers_however_the_answer_rotates() {
        let expected = ["[::1]:80 10.0.0.1:80", "[::2]:80 10.0.0.2:80"];
        for answer in [
            ["[::1]:80", "[::2]:80", "10.0.0.1:80", "10.0.0.2:80"],
            ["[::2]:80", "10.0.0.2:80", "[::1]:80", "10.0.0.1:80"],
        ] {
            assert_eq!(shown(&answer), expected);
        }
        assert_eq!(
            shown(&["10.0.0.2:80", "10.0.0.1:80"]),
            ["10.0.0.1:80", "10.0.0.2:80"]
        );
        assert!(shown(&[]).is_empty());
    }

    #[test]
    fn no_server_depends_on_one_family_where_there_are_two() {
        assert_eq!(
            shown(&["[::1]:80", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]),
            [
                "[::1]:80 10.0.0.1:80",
                "10.0.0.2:80 [::1]:80",
                "10.0.0.3:80 [::1]:80"
            ]
        );
        assert_eq!(
            shown(&["10.0.0.1:80", "[::1]:80", "[::2]:80"]),
            ["10.0.0.1:80 [::1]:80", "[::2]:80 10.0.0.1:80"]
        );
        assert_eq!(
            names(&["10.0.0.1:80", "[::1]:80", "[::2]:80"]),
            ["10.0.0.1:80", "[::2]:80"]
        );
    }
}
