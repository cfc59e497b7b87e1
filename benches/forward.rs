//! What the headers of a message cost on their way through: those of a request, for the endpoint
//! that gets it, and those of a response, for the client.

use std::hint::black_box;

use ::http::HeaderValue;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use harbr_router::http::fields::Fields;
use harbr_router::http::forward::{self, Outgoing};
use harbr_router::pingora::http::{RequestHeader, ResponseHeader};

/// A browser's GET; `more` are headers of a proxy in front of us.
fn incoming(more: &[(&'static str, &str)]) -> RequestHeader {
    let mut request = RequestHeader::build("GET", b"/api/v1/users/42?full=1", None)
        .expect("a valid request line");
    let own = [
        ("Host", "www.example.org"),
        (
            "User-Agent",
            "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
        ),
        ("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
        ("Accept-Language", "en-GB,en;q=0.5"),
        ("Accept-Encoding", "gzip, deflate, br"),
        ("Cookie", "session=7c1f0b9e4d2a43f8a6b1c5d0e9f81234"),
    ];
    for (name, value) in own.iter().chain(more) {
        let added = request.append_header(*name, *value);
        added.expect("a valid header");
    }
    request
}

static CLIENT: HeaderValue = HeaderValue::from_static("203.0.113.9");
static VIA: HeaderValue = HeaderValue::from_static("1.1 harbr-router-9c0e51f2a7b3d846");

fn to_endpoint<'a>(target: &'a str, trusted: bool, of: &RequestHeader) -> Outgoing<'a> {
    Outgoing {
        has: Fields::of(&of.headers),
        target,
        host: None,
        default_host: "10.0.0.1:9000",
        client: &CLIENT,
        trusted,
        tls: false,
        upgrade: None,
        via: &VIA,
    }
}

/// What every request pays; the copy that it starts from is not counted.
fn request(c: &mut Criterion) {
    let chain = [
        ("X-Forwarded-For", "198.51.100.1, 198.51.100.2"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "www.example.org"),
        ("Via", "1.1 edge"),
    ];
    let whole = "/api/v1/users/42?full=1";
    let cases = [
        (
            "client",
            incoming(&[]),
            to_endpoint(whole, false, &incoming(&[])),
        ),
        (
            "client, prefix stripped",
            incoming(&[]),
            to_endpoint("/v1/users/42?full=1", false, &incoming(&[])),
        ),
        (
            "client that forges",
            incoming(&chain),
            to_endpoint(whole, false, &incoming(&chain)),
        ),
        (
            "trusted proxy",
            incoming(&chain),
            to_endpoint(whole, true, &incoming(&chain)),
        ),
    ];
    let mut group = c.benchmark_group("forward request");
    for (name, original, out) in cases {
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || original.clone(),
                |request| forward::request(request, black_box(&out)).is_ok(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn response(c: &mut Criterion) {
    let response = |headers: &[(&'static str, &str)]| {
        let mut response = ResponseHeader::build(200, None).expect("a valid status");
        let own = [
            ("Content-Type", "application/json"),
            ("Content-Length", "1290"),
            ("Date", "Mon, 23 Nov 2026 12:00:00 GMT"),
            ("Cache-Control", "private, max-age=0"),
            ("ETag", "\"5f3c-9d1\""),
        ];
        for (name, value) in own.iter().chain(headers) {
            let added = response.append_header(*name, *value);
            added.expect("a valid header");
        }
        response
    };
    let for_one_hop = [
        ("Connection", "keep-alive, X-Internal"),
        ("Keep-Alive", "timeout=5"),
        ("X-Internal", "1"),
    ];
    let mut group = c.benchmark_group("forward response");
    for (name, original) in [
        ("plain", response(&[])),
        ("headers for one hop", response(&for_one_hop)),
    ] {
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || original.clone(),
                |response| {
                    let has = Fields::of(&response.headers);
                    forward::response(response, has);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, request, response);
criterion_main!(benches);
