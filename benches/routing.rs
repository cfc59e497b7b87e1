//! What a request pays for being routed: normalising its path and looking up its route.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use harbr_router::config::{HostPattern, RouteKey};
use harbr_router::route::{Table, normalise};

fn key(host: Option<String>, prefix: String) -> RouteKey {
    RouteKey {
        text: format!("{}{prefix}", host.as_deref().unwrap_or_default()),
        host: host.map_or(HostPattern::Any, HostPattern::Exact),
        prefix,
    }
}

/// Half of the routes without a host, half with one, prefixes of one to four segments.
fn table(routes: usize) -> Table<usize> {
    let route = |number: usize| {
        let host = (number % 2 == 1).then(|| format!("host{}.example.org", number / 20));
        let depth = number % 4 + 1;
        (
            key(
                host,
                format!("/service{number}/v1/a/b")
                    .split('/')
                    .take(depth + 1)
                    .collect::<Vec<_>>()
                    .join("/"),
            ),
            number,
        )
    };
    Table::build((0..routes).map(route).collect()).expect("the keys differ")
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    for routes in [10, 10_000] {
        let table = table(routes);
        let requests = [
            ("any", "www.example.com:8080", "/service8/x/y/z".to_owned()),
            (
                "host",
                "host0.example.org",
                "/service5/v1/items/42".to_owned(),
            ),
            ("none", "www.example.com", "/nothing/here/at/all".to_owned()),
        ];
        for (name, host, path) in requests {
            let id = BenchmarkId::new(name, routes);
            group.bench_function(id, |b| {
                b.iter(|| table.lookup(black_box(Some(host)), black_box(&path)));
            });
        }
    }
    group.finish();
}

fn normalisation(c: &mut Criterion) {
    let mut group = c.benchmark_group("normalise");
    for (name, target) in [
        ("clean", "/api/v1/users/42/orders?page=2&sort=date"),
        ("escaped", "/files/a%20b/caf%C3%A9.txt"),
        ("dirty", "/api//v1/./users/%7euser/../42?page=2"),
    ] {
        group.bench_function(name, |b| b.iter(|| normalise(black_box(target)).is_ok()));
    }
    group.finish();
}

criterion_group!(benches, lookup, normalisation);
criterion_main!(benches);
