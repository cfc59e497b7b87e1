//! What a pick costs: by policy, and by the number of endpoints.

use std::future::Future;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use harbr_router::config::{
    Balance, Ejection, EndpointSpec, HashOn, Host, Scheme, StatusSet, Target, UpstreamSpec,
    UpstreamUrl, Weight,
};
use harbr_router::upstream::{Outcome, Pick, Upstream};
use tokio::time::Instant;

/// Endpoints with weights 1, 2, 3, 1, 2, 3 …
fn upstream(balance: Balance, endpoints: u16, max_connections: Option<usize>) -> Arc<Upstream> {
    let endpoints = (0..endpoints)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let ip = Ipv4Addr::new(10, 0, high, low);
            EndpointSpec {
                url: UpstreamUrl {
                    scheme: Scheme::Http,
                    host: Host::Ip(IpAddr::V4(ip)),
                    port: 80,
                    path: String::new(),
                    label: format!("{ip}:80"),
                },
                weight: Weight::new(1 + n % 3).expect("between 1 and 3"),
                backup: false,
                max_connections: None,
            }
        })
        .collect();
    let spec = UpstreamSpec {
        name: "bench".to_owned(),
        endpoints,
        balance,
        max_connections,
        queue_timeout: Duration::from_secs(5),
        keepalive_idle: Duration::from_secs(50),
        health_check: None,
        ejection: Some(Ejection {
            consecutive_failures: 5,
            base: Duration::from_secs(30),
            max_percent: 10,
            statuses: StatusSet::parse("502-504").expect("a range"),
        }),
    };
    Upstream::new(Arc::new(spec), None)
}

/// Pick, finish with success, give back.
fn pick(c: &mut Criterion) {
    let cases = [
        ("round_robin", Balance::RoundRobin, None),
        ("round_robin_limited", Balance::RoundRobin, Some(1000)),
        ("least_requests", Balance::LeastRequests, None),
        ("random", Balance::Random, None),
        ("hash", Balance::Hash(HashOn::ClientIp), None),
    ];
    // A pick that need not wait is ready at once: no runtime, only its own cost.
    let mut context = Context::from_waker(Waker::noop());
    let deadline = Instant::now() + Duration::from_secs(3600);
    let mut group = c.benchmark_group("pick");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    for (name, balance, limit) in cases {
        for endpoints in [2, 10, 1000] {
            let upstream = upstream(balance.clone(), endpoints, limit);
            let mut key = 0_u64;
            group.bench_function(BenchmarkId::new(name, endpoints), |b| {
                b.iter(|| {
                    key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let want = Pick {
                        hash: Some(key),
                        avoid: &[],
                        target: Target::Any,
                        deadline,
                    };
                    match pin!(upstream.pick(black_box(want))).poll(&mut context) {
                        Poll::Ready(Ok(lease)) => lease.finish(Outcome::Ok),
                        other => panic!("all are healthy and free: {other:?}"),
                    }
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, pick);
criterion_main!(benches);
