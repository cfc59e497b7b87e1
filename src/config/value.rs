//! The leaf types of a configuration: each can only hold a value that makes sense.
//!
//! Its own file because the model is about shape and these are about content. Invariant: the only
//! way to one of these is a parser that refused everything else. Used by every floor above.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// An address to bind: an IP address and port, together with how it was written (the `listener`
/// label of metrics and logs).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddr {
    pub addr: SocketAddr,
    pub text: String,
}

/// The scheme of an upstream URL. `Tcp` says nothing about the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Tcp,
    Postgres,
    Mysql,
    Mongodb,
    Redis,
    Oracle,
    Sqlserver,
    Cassandra,
    Couchdb,
    Influxdb,
    Elasticsearch,
}

/// The host of an endpoint: an address, or a name that is resolved in the background.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    Ip(IpAddr),
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
    pub scheme: Scheme,
    pub host: Host,
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
    pub host: HostPattern,
    /// Normalised; `/` or `/a/b` without a trailing slash. Matches whole segments.
    pub prefix: String,
}

/// Inclusive ranges of response statuses, as in `200-399` or `200,204,301-302`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StatusSet(pub(super) Vec<(u16, u16)>);

impl StatusSet {
    /// The statuses from `low` to `high`, both included; `None` when there are none.
    pub fn range(low: u16, high: u16) -> Option<StatusSet> {
        (low <= high).then(|| StatusSet(vec![(low, high)]))
    }

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
