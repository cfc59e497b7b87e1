//! What a client's first bytes cost, on a listener that several protocols share: telling them apart
//! and reading what routes are chosen by.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use harbr_router::wire::sniff::{Sniffed, classify};

/// What psql says where TLS is off, with PostgreSQL's four-byte length before it.
fn postgres() -> Vec<u8> {
    let words = b"\0\x03\0\0user\0orders_app\0database\0orders\0application_name\0psql\0\
                  client_encoding\0UTF8\0\0";
    let length = u32::try_from(words.len() + 4).expect("a short message");
    [&length.to_be_bytes()[..], words].concat()
}

fn sniff(c: &mut Criterion) {
    let mut group = c.benchmark_group("sniff");
    let http = b"GET /api/v1/users/42 HTTP/1.1\r\nHost: www.example.org\r\n\
                 User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
    type IsRight = fn(&Sniffed) -> bool;
    let cases: [(&str, Vec<u8>, IsRight); 4] = [
        ("postgres startup", postgres(), |sniffed| {
            matches!(sniffed, Sniffed::PostgresStartup(_))
        }),
        ("redis", b"*1\r\n$7\r\nCOMMAND\r\n".to_vec(), |sniffed| {
            matches!(sniffed, Sniffed::Redis)
        }),
        ("http", http.to_vec(), |sniffed| {
            matches!(sniffed, Sniffed::Http)
        }),
        (
            "tls with server name",
            CLIENT_HELLO.to_vec(),
            |sniffed| matches!(sniffed, Sniffed::Tls(hello) if hello.sni.as_deref() == Some("db.example.org")),
        ),
    ];
    for (name, bytes, is_right) in cases {
        assert!(is_right(&classify(&bytes)), "{name}");
        group.bench_function(name, |b| b.iter(|| classify(black_box(&bytes))));
    }
    group.finish();
}

/// What curl 7.88 with OpenSSL 3.0 sends to db.example.org, recorded.
const CLIENT_HELLO: &[u8] = include_bytes!("client_hello.bin");

criterion_group!(benches, sniff);
criterion_main!(benches);
