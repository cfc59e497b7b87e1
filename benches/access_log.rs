//! What a line of the access log costs a worker: formatting it, and with that also queueing it.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use harbr_router::Reason;
use harbr_router::telemetry::{AccessLog, ClientAddress, Record, Second};

/// A GET, as a gateway in front of an API sees it.
fn request() -> Record<'static> {
    Record {
        client: ClientAddress::Text("203.0.113.9:51234"),
        route: "/api",
        upstream: "app",
        endpoint: "10.0.0.1:9000",
        method: "GET",
        host: b"www.example.org",
        path: b"/api/v1/users/42/orders?page=2&sort=date",
        protocol: "HTTP/1.1",
        status: 200,
        bytes_in: 312,
        bytes_out: 1290,
        tries: 1,
        connect: Some(Duration::from_micros(180)),
        first_byte: Some(Duration::from_micros(2350)),
        total: Duration::from_micros(2410),
        request_id: b"7c1f0b9e4d2a43f8a6b1c5d0e9f81234",
        user_agent: b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ..Record::new("0.0.0.0:8080", Reason::Ok)
    }
}

/// A database session, of which less is known.
fn session() -> Record<'static> {
    Record {
        client: ClientAddress::Text("203.0.113.9:51234"),
        route: "orders",
        upstream: "orders",
        endpoint: "10.0.0.3:5432",
        protocol: "postgres",
        bytes_in: 18_204,
        bytes_out: 912_331,
        tries: 1,
        connect: Some(Duration::from_micros(210)),
        total: Duration::from_secs(61),
        ..Record::new("0.0.0.0:5432", Reason::Ok)
    }
}

fn line(c: &mut Criterion) {
    let mut group = c.benchmark_group("access log line");
    // What is not plain ASCII is looked at character by character.
    let escaped = Record {
        path: "/caf\u{e9}/\"quoted\"\u{202e}?q=\u{1b}[31m".as_bytes(),
        ..request()
    };
    for (name, record) in [
        ("request", request()),
        ("escaped", escaped),
        ("session", session()),
    ] {
        // Kept from line to line, as the log keeps its own.
        let (mut line, mut second) = (Vec::new(), Second::default());
        group.bench_function(name, |b| {
            b.iter(|| {
                line.clear();
                black_box(&record).write(&mut line, &mut second);
                black_box(&line);
            });
        });
    }
    group.finish();
}

/// With a writer behind it that has the fastest of all disks.
fn log(c: &mut Criterion) {
    let dropped = prometheus::IntCounter::new("dropped", "Records.").expect("a valid name");
    let log = AccessLog::file(Path::new("/dev/null"), dropped.clone())
        .expect("everybody may write to it");
    log.start().expect("a thread can be started");
    let record = request();
    let mut group = c.benchmark_group("access log");
    group.bench_function("request", |b| b.iter(|| log.log(black_box(&record))));
    group.finish();
    if dropped.get() > 0 {
        println!("{} of these were dropped, which is cheaper", dropped.get());
    }
}

criterion_group!(benches, line, log);
criterion_main!(benches);
