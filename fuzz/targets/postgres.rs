//! Any bytes as the start of a client and as a server's stream: what is learnt does not depend on
//! how they are cut. The first byte says how.
#![no_main]

use harbr_router::wire::postgres::{
    IdleTracker, MAX_STARTUP_BYTES, Progress, Start, StartupTracker, parse_start,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((step, bytes)) = input.split_first() else {
        return;
    };
    let step = usize::from(*step).max(1);

    let whole = parse_start(bytes);
    for end in (0..bytes.len()).step_by(step) {
        let start = parse_start(&bytes[..end]);
        if start != Start::NeedMore {
            assert_eq!(start, whole, "decided after {end} bytes");
        }
    }
    match whole {
        Start::NeedMore => assert!(bytes.len() < MAX_STARTUP_BYTES),
        Start::Startup(message) => assert!(message.length <= bytes.len()),
        Start::Cancel(key) => assert!(bytes.starts_with(&key.to_request())),
        Start::Ssl | Start::Gssenc => assert!(bytes.len() >= 8),
        Start::Malformed => (),
    }

    let (mut tracker, mut cut) = (StartupTracker::new(), StartupTracker::new());
    let progress = tracker.advance(bytes);
    let mut last = Progress::Going;
    let mut idle = IdleTracker::new();
    for piece in bytes.chunks(step) {
        last = cut.advance(piece);
        idle.client_sent(piece);
        idle.server_sent(piece);
        let _ = idle.is_idle();
    }
    assert_eq!(progress, last);
    assert_eq!(tracker.cancel_key(), cut.cancel_key());
});
