//! Any first bytes: a decision is never taken back when more come, and a full window has one.
#![no_main]

use harbr_router::config::DbType;
use harbr_router::wire::sniff::{MAX_BYTES, Sniffed, can_be, classify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = classify(bytes);
    for end in (0..bytes.len())
        .take(64)
        .chain(bytes.len().saturating_sub(64)..bytes.len())
    {
        let sniffed = classify(&bytes[..end]);
        if sniffed != Sniffed::NeedMore {
            assert_eq!(sniffed, whole, "decided after {end} bytes");
        }
    }
    if bytes.len() >= MAX_BYTES {
        assert_ne!(whole, Sniffed::NeedMore);
    }
    if let Some(db) = whole.db_type() {
        assert!(can_be(db, &whole));
    }
    assert!(can_be(DbType::Tcp, &whole));
});
