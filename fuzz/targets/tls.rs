//! Any bytes after the header of a TLS record (when the first one is odd) or in its place: a
//! decision stays, and what is read is bounded.
#![no_main]

use harbr_router::wire::tls::{Hello, MAX_PROTOCOLS, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    let mut bytes = Vec::new();
    if kind % 2 == 1 {
        let length = (rest.len() + 4) as u16;
        bytes.extend([0x16, 3, 1]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([1, 0]);
        bytes.extend((rest.len() as u16).to_be_bytes());
    }
    bytes.extend(rest);

    let whole = parse(&bytes);
    for end in (0..bytes.len())
        .take(64)
        .chain(bytes.len().saturating_sub(64)..bytes.len())
    {
        let hello = parse(&bytes[..end]);
        if hello != Hello::NeedMore {
            assert_eq!(hello, whole, "decided after {end} bytes");
        }
    }
    if let Hello::Hello(hello) = whole {
        assert!(hello.alpn.len() <= MAX_PROTOCOLS);
        let is_lower = |name: &str| name.is_ascii() && name == name.to_ascii_lowercase();
        assert!(
            hello
                .sni
                .is_none_or(|name| is_lower(&name) && name.len() <= 255)
        );
    }
});
