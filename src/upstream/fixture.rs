//! Specs and picks for the tests of this floor.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{EndpointId, Lease, Pick, PickError, Upstream};
use crate::config::{
    Balance, Ejection, EndpointSpec, Host, Scheme, StatusSet, Target, UpstreamSpec, UpstreamUrl,
    Weight,
};

/// `host:port`, where host may be an IPv4 address or a name.
pub(super) fn endpoint(label: &str) -> EndpointSpec {
    let (host, port) = label.rsplit_once(':').expect("a label has a port");
    EndpointSpec {
        url: UpstreamUrl {
            scheme: Scheme::Http,
            host: host
                .parse::<IpAddr>()
                .map_or_else(|_| Host::Name(host.to_owned()), Host::Ip),
            port: port.parse().expect("a port is a number"),
            path: String::new(),
            label: label.to_owned(),
        },
        weight: Weight::ONE,
        backup: false,
        max_connections: None,
    }
}

/// Endpoints 10.0.0.1:80, 10.0.0.2:80 … with these weights.
pub(super) fn weighted(weights: &[u16]) -> Vec<EndpointSpec> {
    weights
        .iter()
        .enumerate()
        .map(|(n, weight)| EndpointSpec {
            weight: Weight::new(*weight).expect("weights of tests are in range"),
            ..endpoint(&format!("10.0.{}.{}:80", (n + 1) / 256, (n + 1) % 256))
        })
        .collect()
}

/// An upstream without limits, checks or ejection.
pub(super) fn spec(endpoints: Vec<EndpointSpec>) -> UpstreamSpec {
    UpstreamSpec {
        name: "orders".to_owned(),
        endpoints,
        balance: Balance::RoundRobin,
        max_connections: None,
        queue_timeout: Duration::from_secs(5),
        keepalive_idle: Duration::from_secs(50),
        health_check: None,
        ejection: None,
    }
}

pub(super) fn upstream(spec: UpstreamSpec) -> Arc<Upstream> {
    Upstream::new(Arc::new(spec), None)
}

/// Ejection after `failures`, for one second times the number of times, of all endpoints if need
/// be.
pub(super) fn ejecting(failures: u32, endpoints: Vec<EndpointSpec>) -> UpstreamSpec {
    UpstreamSpec {
        ejection: Some(Ejection {
            consecutive_failures: failures,
            base: Duration::from_secs(1),
            max_percent: 100,
            statuses: StatusSet::parse("502-504").expect("statuses of tests are in range"),
        }),
        ..spec(endpoints)
    }
}

/// A pick with a minute of time, keyless, that has tried nothing yet.
pub(super) fn any() -> Pick<'static> {
    avoiding(&[])
}

pub(super) fn avoiding(avoid: &[EndpointId]) -> Pick<'_> {
    Pick {
        hash: None,
        avoid,
        target: Target::Any,
        deadline: Instant::now() + Duration::from_secs(60),
    }
}

pub(super) async fn pick(upstream: &Arc<Upstream>) -> Result<Lease, PickError> {
    upstream.pick(any()).await
}

/// The last part of the address of the next pick of an upstream made with [`weighted`].
pub(super) async fn next(upstream: &Arc<Upstream>) -> u8 {
    number(&pick(upstream).await.expect("an endpoint is healthy"))
}

/// The last part of the leased address.
pub(super) fn number(lease: &Lease) -> u8 {
    match lease.endpoint().addr().ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}

/// Waits for something that happens on its own.
pub(super) async fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !happened() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
