//! The leaf types of a configuration: each holds only a value that makes sense.
//!
//! Invariant: what a parser returns needs no further check; those of `UpstreamUrl` and `RouteKey`
//! are in `url` and `route_key`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::problem::{Wrong, shown};

/// An address to bind: an IP address and port, together with how it was written (the `listener`
/// label of metrics and logs).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddr {
    /// What is bound; port 0 takes any free one. Never IPv4 mapped to IPv6.
    pub addr: SocketAddr,
    /// The address as it is written in the file.
    pub text: String,
}

impl ListenAddr {
    /// Reads `ip:port` or `[ip]:port`. Port 0 takes any free port.
    ///
    /// # Errors
    /// What is wrong, with the address that was probably meant.
    pub fn parse(text: &str) -> Result<ListenAddr, Wrong> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            let canonical = SocketAddr::new(addr.ip().to_canonical(), addr.port());
            if canonical != addr {
                return Err(Wrong::new(
                    format!("`{}` is an IPv4 address in IPv6's clothes", shown(text)),
                    format!("write `{canonical}`"),
                ));
            }
            return Ok(ListenAddr {
                addr,
                text: text.to_owned(),
            });
        }
        let digits = |s: &str| s.parse::<u16>().ok().map(|port| port.to_string());
        let meant = match text.rsplit_once(':') {
            None => digits(text).map(|port| format!("0.0.0.0:{port}")),
            Some(("" | "*", port)) => digits(port).map(|port| format!("0.0.0.0:{port}")),
            Some(("localhost", port)) => digits(port).map(|port| format!("127.0.0.1:{port}")),
            Some((host, port)) => match (host.parse::<IpAddr>(), digits(port)) {
                (Ok(ip), Some(port)) => Some(format!("[{ip}]:{port}")),
                _ => None,
            },
        };
        let meant = meant.or_else(|| {
            let ip = text.trim_matches(['[', ']']).parse::<IpAddr>().ok()?;
            Some(SocketAddr::new(ip, 8080).to_string())
        });
        Err(Wrong::new(
            format!("`{}` is not an IP address and port", shown(text)),
            match meant {
                Some(meant) => format!("write `\"{meant}\"`"),
                None => "for example `0.0.0.0:8080` or `\"[::]:8080\"`".to_owned(),
            },
        ))
    }
}

/// Where clients of one kind connect: one address or several, none of them twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddrs {
    first: ListenAddr,
    rest: Vec<ListenAddr>,
}

impl ListenAddrs {
    /// `None` without an address.
    pub(super) fn new(addresses: Vec<ListenAddr>) -> Option<ListenAddrs> {
        let mut addresses = addresses.into_iter();
        Some(ListenAddrs {
            first: addresses.next()?,
            rest: addresses.collect(),
        })
    }

    /// The one that is written first.
    pub fn first(&self) -> &ListenAddr {
        &self.first
    }

    /// Each of them, as written.
    pub fn iter(&self) -> impl Iterator<Item = &ListenAddr> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Whether one of them is this address.
    pub fn contains(&self, addr: SocketAddr) -> bool {
        self.iter().any(|listen| listen.addr == addr)
    }

    /// Their hosts, to listen there on another port: each once, and none whose clients another one
    /// takes already.
    pub fn hosts(&self) -> Vec<IpAddr> {
        let all = || self.iter().map(|listen| listen.addr.ip());
        let mut hosts = Vec::new();
        for ip in all() {
            let is_taken = all().any(|other| takes_in(other, ip) && !makes_way(other, ip));
            if !is_taken && !hosts.contains(&ip) {
                hosts.push(ip);
            }
        }
        hosts
    }
}

impl From<ListenAddr> for ListenAddrs {
    fn from(first: ListenAddr) -> ListenAddrs {
        ListenAddrs {
            first,
            rest: Vec::new(),
        }
    }
}

/// Whether a socket on `all` takes the clients of `ip` as well: `0.0.0.0` takes IPv4, `[::]` takes
/// both families.
pub(super) fn takes_in(all: IpAddr, ip: IpAddr) -> bool {
    all != ip && all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4())
}

/// Whether `all`, written in one list with `ip`, leaves its clients to it: `[::]` does so for
/// `0.0.0.0` only.
pub(super) fn makes_way(all: IpAddr, ip: IpAddr) -> bool {
    all.is_unspecified() && all.is_ipv6() && ip.is_unspecified() && ip.is_ipv4()
}

/// The scheme of an upstream URL. `Tcp` says nothing about the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`, port 80.
    Http,
    /// `tcp`, which needs a port in the URL.
    Tcp,
    /// `postgres` or `postgresql`, port 5432.
    Postgres,
    /// `mysql` or `mariadb`, port 3306.
    Mysql,
    /// `mongodb` or `mongo`, port 27017.
    Mongodb,
    /// `redis` or `valkey`, port 6379.
    Redis,
    /// `oracle`, port 1521.
    Oracle,
    /// `sqlserver` or `mssql`, port 1433.
    Sqlserver,
    /// `cassandra` or `cql`, port 9042.
    Cassandra,
    /// `couchdb`, port 5984.
    Couchdb,
    /// `influxdb`, port 8086.
    Influxdb,
    /// `elasticsearch`, port 9200.
    Elasticsearch,
}

/// The host of an endpoint: an address, or a name that is resolved in the background.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// Connected to as it is; IPv6 is printed in brackets.
    Ip(IpAddr),
    /// Lower case ASCII, at most 253 bytes, without a trailing dot.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Host::Ip(ip) => write!(f, "{ip}"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// One endpoint as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// Decides the protocol and, where the URL names none, the port.
    pub scheme: Scheme,
    /// What is connected to; credentials before it are refused.
    pub host: Host,
    /// 1 to 65535: as written, or that of the scheme.
    pub port: u16,
    /// Put before the path of each request; empty, or starts with `/` and does not end with one.
    pub path: String,
    /// `host:port` as written (the port of the scheme when none was): the `endpoint` label.
    pub label: String,
}

/// A share of traffic relative to the other endpoints: 1 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(pub(super) u16);

impl Weight {
    /// The weight of an endpoint that names none.
    pub const ONE: Weight = Weight(1);

    /// `None` outside 1 to 1000.
    pub const fn new(weight: u16) -> Option<Weight> {
        match weight {
            1..=1000 => Some(Weight(weight)),
            _ => None,
        }
    }

    /// The number, 1 to 1000, for sums that a `u16` cannot hold.
    pub const fn as_u32(self) -> u32 {
        self.0 as u32
    }
}

/// The host part of a route key. Names are lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Any host, also none.
    Any,
    /// Exactly this host.
    Exact(String),
    /// `*.example.org`: holds `example.org`, matches one or more labels before it.
    Wildcard(String),
}

/// The key of an HTTP route: `/prefix`, `host/prefix` or `*.host/prefix`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// As written: the `route` label.
    pub text: String,
    /// What stands before the first `/`, without its port.
    pub host: HostPattern,
    /// Normalised; `/` or `/a/b` without a trailing slash. Matches whole segments.
    pub prefix: String,
}

/// Inclusive ranges of response statuses, as in `200-399` or `200,204,301-302`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StatusSet(pub(super) Vec<(u16, u16)>);

impl StatusSet {
    /// Reads `200-399` or `200,204,301-302`: statuses from 100 to 599.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<StatusSet, Wrong> {
        let one = |text: &str| {
            let text = text.trim();
            let fits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>()
                .ok()
                .filter(|status| fits && (100..=599).contains(status))
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            match (one(low), one(high)) {
                (Some(low), Some(high)) if low <= high => ranges.push((low, high)),
                _ => {
                    let wrong = format!("`{}` is not a status or range of statuses", shown(part));
                    let hint = match part.trim().as_bytes() {
                        [class @ b'1'..=b'5', b'x' | b'X', b'x' | b'X'] => {
                            let class = char::from(*class);
                            format!("write `{class}00-{class}99`")
                        }
                        _ => "100 to 599, for example `200-399` or `200,204`".into(),
                    };
                    return Err(Wrong::new(wrong, hint));
                }
            }
        }
        ranges.sort_unstable();
        Ok(StatusSet(ranges))
    }

    /// Whether one of the ranges holds this status.
    pub fn contains(&self, status: u16) -> bool {
        self.0
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&status))
    }

    /// The ranges, low and high inclusive.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(pub(super) String);

impl Secret {
    /// Keeps a text from being printed.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listen_address_is_an_ip_and_a_port() {
        for text in ["0.0.0.0:8080", "[::]:80", "127.0.0.1:0"] {
            assert_eq!(ListenAddr::parse(text).unwrap().text, text);
        }
        for (text, hint) in [
            ("localhost:8080", "write `\"127.0.0.1:8080\"`"),
            (":8080", "write `\"0.0.0.0:8080\"`"),
            ("8080", "write `\"0.0.0.0:8080\"`"),
            ("*:80", "write `\"0.0.0.0:80\"`"),
            ("::1:80", "write `\"[::1]:80\"`"),
            ("10.0.0.1", "write `\"10.0.0.1:8080\"`"),
            ("::", "write `\"[::]:8080\"`"),
            ("example.org:80", "for example"),
            ("0.0.0.0:99999", "for example"),
            ("0.0.0.0:", "for example"),
            ("", "for example"),
            ("[::ffff:10.0.0.1]:80", "write `10.0.0.1:80`"),
        ] {
            let wrong = ListenAddr::parse(text).unwrap_err();
            let got = wrong.hint.unwrap();
            assert!(got.starts_with(hint), "{text}: {got}");
        }
    }

    #[test]
    fn the_hosts_of_a_list_are_those_that_no_other_stands_for() {
        for (list, hosts) in [
            (&["127.0.0.1:1"][..], &["127.0.0.1"][..]),
            (&["127.0.0.1:1", "127.0.0.1:2"], &["127.0.0.1"]),
            (&["127.0.0.1:1", "0.0.0.0:2"], &["0.0.0.0"]),
            (&["0.0.0.0:1", "[::1]:1"], &["0.0.0.0", "::1"]),
            (&["[::]:1", "127.0.0.1:2", "[::1]:3"], &["::"]),
            (&["0.0.0.0:1", "[::]:1"], &["0.0.0.0", "::"]),
        ] {
            let list = list.iter().map(|text| ListenAddr::parse(text).unwrap());
            let list = ListenAddrs::new(list.collect()).unwrap();
            let hosts: Vec<IpAddr> = hosts.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(list.hosts(), hosts, "{list:?}");
        }
        assert_eq!(ListenAddrs::new(Vec::new()), None);
    }

    #[test]
    fn statuses_are_numbers_and_ranges() {
        let set = StatusSet::parse("301-302, 200,204").unwrap();
        assert_eq!(set.ranges(), [(200, 200), (204, 204), (301, 302)]);
        assert!(set.contains(204) && set.contains(302) && !set.contains(303));
        for text in [
            "",
            "2xx",
            "99",
            "600",
            "399-200",
            "200-",
            "200,,204",
            "+20",
            "200-300-400",
        ] {
            assert!(StatusSet::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_prints_as_stars() {
        assert_eq!(format!("{:?}", Secret::new("word")), "***");
        assert_eq!(Secret::new("word").reveal(), "word");
    }
}
