//! Any bytes: a decision stays, and an address that is read is the same when written and read
//! again.
#![no_main]

use harbr_router::config::ProxyProtocol;
use harbr_router::wire::proxy_protocol::{MAX_BYTES, Parsed, parse, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    for end in (0..bytes.len())
        .take(64)
        .chain(bytes.len().saturating_sub(64)..bytes.len())
    {
        let parsed = parse(&bytes[..end]);
        if parsed != Parsed::NeedMore {
            assert_eq!(parsed, whole, "decided after {end} bytes");
        }
    }
    match whole {
        Parsed::NeedMore => assert!(bytes.len() < MAX_BYTES),
        Parsed::Absent | Parsed::Malformed => (),
        Parsed::Header(header) => {
            assert!(header.length <= bytes.len() && header.length <= MAX_BYTES);
            let Some(addresses) = header.addresses else {
                return;
            };
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                match parse(&write(version, addresses)) {
                    Parsed::Header(again) => assert_eq!(again.addresses, Some(addresses)),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
});
